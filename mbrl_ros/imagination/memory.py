# Copyright 2026 The mbrl_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Steps that a policy learns from, real or imagined, and a memory that minibatches come from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

# states (N, D), actions (N, A), next states (N, D) -> rewards (N,)
Reward = Callable[[Tensor, Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Batch:
    """N steps of D state and A action dimensions in one float32 tensor, rows (N, 2 D + A + 2).

    A row is state, action, reward, next state, and 1 where the episode ended there for good (its
    value beyond is 0), else 0; actions are in the robot's units.
    """

    rows: Tensor
    state_dimensions: int
    action_dimensions: int

    @staticmethod
    def of(
        states: Tensor, actions: Tensor, rewards: Tensor, next_states: Tensor, terminated: Tensor
    ) -> Batch:
        """Join states (N, D), actions (N, A), rewards (N,), next states and terminated (N,)."""
        columns = (states, actions, rewards[:, None], next_states, terminated[:, None])
        rows = torch.cat([column.to(torch.float32) for column in columns], 1)
        return Batch(rows, states.shape[1], actions.shape[1])

    @property
    def sizes(self) -> tuple[int, int]:
        """Return D and A."""
        return self.state_dimensions, self.action_dimensions

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: slice | Tensor) -> Batch:
        return Batch(self.rows[index], *self.sizes)

    def __add__(self, other: Batch) -> Batch:
        return Batch(torch.cat([self.rows, other.rows]), *self.sizes)

    def columns(self) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """Return states (N, D), actions (N, A), rewards (N,), next states, terminated (N,)."""
        size, actions = self.state_dimensions, self.action_dimensions
        parts = self.rows.split((size, actions, 1, size, 1), 1)
        return parts[0], parts[1], parts[2][:, 0], parts[3], parts[4][:, 0]

    @property
    def states(self) -> Tensor:
        """Return the states (N, D)."""
        return self.rows[:, : self.state_dimensions]


class Memory:
    """The newest `capacity` steps, to draw from with equal chances (Lin 1992)."""

    def __init__(self, state_dimensions: int, action_dimensions: int, capacity: int) -> None:
        if capacity < 1:
            raise ValueError(f"capacity is {capacity}, expected at least 1")
        self._sizes = (state_dimensions, action_dimensions)
        # Untouched pages cost nothing, so a large capacity is free until it is used.
        self._rows = torch.empty(capacity, 2 * state_dimensions + action_dimensions + 2)
        self._size = 0
        self._head = 0  # where the next row goes

    def __len__(self) -> int:
        return self._size

    def append(self, batch: Batch) -> None:
        """Take in steps, oldest first; too many push out the oldest."""
        capacity = len(self._rows)
        rows = batch.rows[-capacity:]
        before = min(len(rows), capacity - self._head)
        self._rows[self._head : self._head + before] = rows[:before]
        self._rows[: len(rows) - before] = rows[before:]
        self._head = (self._head + len(rows)) % capacity
        self._size = min(capacity, self._size + len(rows))

    def reward_again(self, reward: Reward) -> None:
        """Replace the rewards of all steps."""
        steps = Batch(self._rows[: self._size], *self._sizes)
        states, actions, rewards, after, _ = steps.columns()
        rewards.copy_(reward(states, actions, after))

    def draw(self, count: int, generator: torch.Generator | None = None) -> Batch:
        """Draw steps with replacement; raises ValueError if there is none to draw from."""
        if not self._size:
            raise ValueError("the memory is empty; append steps before drawing")
        chosen = torch.randint(self._size, (count,), generator=generator)
        return Batch(self._rows.index_select(0, chosen), *self._sizes)


def draw_mixed(
    real: Memory,
    imagined: Memory,
    count: int,
    real_share: float,
    generator: torch.Generator | None = None,
) -> Batch:
    """Draw a minibatch of real and imagined steps; only real ones where none is imagined yet."""
    number = round(real_share * count) if len(imagined) else count
    parts = [
        memory.draw(part, generator)
        for memory, part in ((real, number), (imagined, count - number))
        if part
    ]
    return parts[0] if len(parts) == 1 else parts[0] + parts[1]
