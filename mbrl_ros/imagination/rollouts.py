# Copyright 2026 The mbrl_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Rollouts of a policy through a learned model: what a policy imagines and learns from.

Short ones that branch off from states really visited (Janner et al., "When to Trust Your Model:
Model-Based Policy Optimization", NeurIPS 2019), or whole episodes in which a member of an
ensemble, drawn anew, predicts each step (Kurutach et al., "Model-Ensemble Trust-Region Policy
Optimization", ICLR 2018): the same rollouts from other starts, over more steps.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from mbrl_ros.dynamics.features import wrap_angle
from mbrl_ros.dynamics.model import PROPAGATIONS, DynamicsModel, Transitions
from mbrl_ros.imagination.memory import Batch, Reward

Act = Callable[[Tensor], Tensor]  # states (N, D) -> actions (N, A) in the robot's units
# What a Reward takes -> whether the episode ends there for good, bool (N,)
Termination = Callable[[Tensor, Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Horizon:
    """How many steps are imagined: `first` until `begin` real steps, `last` from `end` on.

    In between it rises (or falls) linearly, as the model has seen more. Raises ValueError,
    naming the value, if one cannot be used.
    """

    first: int = 1
    last: int = 1
    begin: int = 0
    end: int = 0

    def __post_init__(self) -> None:
        for name, value, least in (
            ("first", self.first, 1),
            ("last", self.last, 1),
            ("begin", self.begin, 0),
            ("end", self.end, self.begin),
        ):
            if value < least:
                raise ValueError(f"horizon's {name} is {value}, expected at least {least}")

    def at(self, real_steps: int) -> int:
        """Return how many steps are imagined after so many real ones."""
        if real_steps >= self.end:
            return self.last
        share = max(real_steps - self.begin, 0) / (self.end - self.begin)
        return round(self.first + share * (self.last - self.first))


class Imagination:
    """Rolls a policy out through a model, all rollouts in one batch.

    reward: known as a function, or None: the model's own, learned one. termination: None: no
    imagined episode ends. propagation: one of dynamics.model.PROPAGATIONS; by `ts1` a member
    drawn anew predicts each step. max_novelty: a rollout is cut off, and the step left out, where
    `DynamicsModel.novelty` is more than this. seed: of all random numbers of the rollouts.
    Raises ValueError if a value cannot be used, or if there is neither a reward function nor a
    learned reward.
    """

    def __init__(
        self,
        model: DynamicsModel,
        reward: Reward | None = None,
        termination: Termination | None = None,
        propagation: str = "ts1",
        max_novelty: float = math.inf,
        seed: int = 0,
    ) -> None:
        if propagation not in PROPAGATIONS:
            known = ", ".join(PROPAGATIONS)
            raise ValueError(f"unknown propagation '{propagation}'; expected one of {known}")
        if not max_novelty > 0.0:
            raise ValueError(f"max_novelty is {max_novelty}, expected more than 0")
        if reward is None and not model.features.rewards:
            raise ValueError(
                "there is nothing to maximise: give a reward function, or a model that learns "
                "the reward"
            )
        self.model = model
        self.propagation, self.max_novelty = propagation, max_novelty
        self._reward, self._termination = reward, termination
        self._generator = torch.Generator().manual_seed(seed)

    def teach(self, steps: Sequence[Batch], slices: int) -> None:
        """Let the model learn from real steps, at least one, by so many slices of training."""
        rows = Batch(torch.cat([step.rows for step in steps]), *steps[0].sizes)
        states, actions, rewards, after, _ = (column.double() for column in rows.columns())
        learned = rewards[:, None][:, : self.model.features.rewards]
        self.model.update(Transitions(states, actions, after, learned))
        for _ in range(slices):
            if not self.model.improve():
                break

    @torch.no_grad()
    def rollouts(self, act: Act, starts: Tensor, steps: int) -> Batch:
        """Imagine up to `steps` steps from each of starts (N, D); return all, step by step.

        A rollout is shorter where its episode ends, where the model is too unsure (see
        max_novelty) and where a prediction is not finite.
        """
        model = self.model
        # The batch keeps its size, so that the model's buffers serve every step; rollouts that
        # are over go on from their starts and are left out.
        step = model.stepper(self.propagation, len(starts), self._generator)
        states = starts = starts.float()
        going = torch.ones(len(starts), dtype=torch.bool)
        taken: list[Batch] = []
        for _ in range(steps):
            actions = act(states)
            after = step(states, actions)
            for angle in model.features.angles:
                after[:, angle] = wrap_angle(after[:, angle])
            rewards = self.reward(states, actions, after)
            going &= after.isfinite().all(1) & rewards.isfinite()
            if math.isfinite(self.max_novelty):
                going &= model.novelty(states, actions) <= self.max_novelty
            if not going.any():
                break
            ended = torch.zeros_like(going)
            if self._termination is not None:
                ended = self._termination(states, actions, after)
            taken.append(Batch.of(states, actions, rewards, after, ended)[going])
            going &= ~ended
            states = torch.where(going[:, None], after, starts)
        if not taken:
            size, moves = starts.shape[1], model.features.action_dimensions
            return Batch(starts.new_empty(0, 2 * size + moves + 2), size, moves)
        return Batch(torch.cat([batch.rows for batch in taken]), *taken[0].sizes)

    def reward(self, states: Tensor, actions: Tensor, next_states: Tensor) -> Tensor:
        """Return the reward (N,) of steps, known or learned."""
        if self._reward is not None:
            return self._reward(states, actions, next_states)
        return self.model.reward(states, actions)
