# Copyright 2026 The mbrl_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Tabular Dyna-Q for discrete robots: the policy that a table is, and what teaches it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from mbrl_ros.dynamics.model import DynamicsModel, Transitions
from mbrl_ros.dynamics.snapshot import SnapshotError
from mbrl_ros.imagination.dyna_q import MODELS, DynaQ, Numbering, Settings
from mbrl_ros.imagination.online import PolicyLearner
from mbrl_ros.imagination.snapshot import PolicyInfo, decode, describe
from mbrl_ros.planning.planner import Setting
from mbrl_ros.robots.spec import Bounds, RobotSpec

_NONE = -1.0  # in place of no threshold


class TablePolicy:
    """Chooses by the action values of a table, one row a state.

    It knows nothing at first, and chooses at random. Raises ValueError unless the robot is
    discrete and a table of its states and actions is small enough.
    """

    def __init__(self, robot: RobotSpec) -> None:
        if not robot.discrete:
            raise ValueError(
                f"robot '{robot.name}' has continuous actions; a table needs discrete: true in "
                "its file"
            )
        self._states = _numbering(d.safe_range or (0.0, 0.0) for d in robot.state)
        self._actions = _numbering(d.bounds for d in robot.command.dimensions)
        rows = [self._actions.value(number).tolist() for number in range(self._actions.size)]
        self._rows = torch.tensor(rows, dtype=torch.float32)  # (M, A), of all choices
        self.exploration = 1.0
        self.take(DynaQ(self._states.size, self._actions.size).snapshot())

    def take(self, tensors: dict[str, Tensor]) -> None:
        """Choose by the values of a DynaQ from now on."""
        self.tensors = tensors
        self._values = tensors["values"]

    # -- acting -----------------------------------------------------------------------------

    def act(self, states: Tensor) -> Tensor:
        """Return the best actions (N, A) in states (N, D), float32; the first of several."""
        return self._rows[self._worth(states).argmax(1)]

    def sample(self, states: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Return actions (N, A) in states (N, D), float32, epsilon-greedy.

        Of several that are best, a random one.
        """
        worth = self._worth(states)
        best = (worth == worth.amax(1, keepdim=True)).double()
        chances = (1.0 - self.exploration) * best / best.sum(1, keepdim=True)
        chances += self.exploration / worth.shape[1]
        return self._rows[torch.multinomial(chances, 1, generator=generator)[:, 0]]

    def value(self, states: Tensor) -> Tensor:
        """Return what states (N, D) are worth, (N,): the value of the best action."""
        return self._worth(states).amax(1)

    def _worth(self, states: Tensor) -> Tensor:
        return self._values[[self.state_number(state) for state in states.tolist()]]

    def state_number(self, state: Sequence[float]) -> int:
        """Return the row of the table for a state (D,); ValueError if there is none."""
        return self._states.number(_whole(state))

    def action_number(self, action: Sequence[float]) -> int:
        """Return the column for an action (A,); ValueError if it is no choice."""
        return self._actions.number(_whole(action))

    # -- snapshots --------------------------------------------------------------------------

    def snapshot(self) -> dict[str, Tensor]:
        """Return all that `restore` needs, and a learner to go on."""
        exploration = torch.tensor([self.exploration], dtype=torch.float64)
        return {"exploration": exploration, **self.tensors}

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Take over a snapshot; raises ValueError, changing nothing, unless it is of this size."""
        table = dict(tensors)
        share = table.pop("exploration", torch.empty(0))
        if share.shape != (1,) or not 0.0 <= float(share) <= 1.0:
            raise ValueError(f"exploration is {share.tolist()}, expected one number from 0 to 1")
        agent = restored(table)
        if (agent.states, agent.actions) != (self._states.size, self._actions.size):
            raise ValueError(
                f"the table has {agent.states} states and {agent.actions} actions, expected "
                f"{self._states.size} and {self._actions.size}"
            )
        self.exploration = float(share)
        self.take(table)


def restored(
    tensors: Mapping[str, Tensor], settings: Settings | None = None, seed: int = 0
) -> DynaQ:
    """Return the agent that tensors are of; raises ValueError unless they are of one."""
    tried = tensors.get("last_tried", torch.empty(0))
    return DynaQ.restored(tensors, int(tried.max()) if tried.numel() else 0, settings, seed)


def decode_table(data: bytes, robot: RobotSpec) -> tuple[TablePolicy, PolicyInfo]:
    """Return the table of a snapshot, and what that says about it; raises SnapshotError."""
    found: tuple[Any, PolicyInfo] = decode(data, robot)
    policy, info = found
    if not isinstance(policy, TablePolicy):
        raise SnapshotError(f"policy is of kind '{info.kind}', expected a table")
    return policy, info


def _numbering(bounds: Iterable[Bounds]) -> Numbering:
    spans = [(int(low), int(high)) for low, high in bounds]
    return Numbering([low for low, _ in spans], [high - low + 1 for low, high in spans])


def _whole(values: Sequence[float]) -> list[int]:
    if not all(float(value).is_integer() for value in values):
        raise ValueError(f"{list(values)} are not all whole numbers")
    return [int(value) for value in values]


class TabularDynaQ(PolicyLearner):
    """Learns the values of a table from each real step, and from those that it imagines with it.

    Its model is a table too (see `dyna_q`), so that no dynamics model is needed. The reward is
    the robot's. Episodes need no mark: nothing is ever seen to follow from a state that ends one,
    so that it stays worth nothing.
    """

    kind = "dyna_q"
    needs_model = False
    _adopted: tuple[TablePolicy, PolicyInfo]
    settings = (
        Setting("planning_steps", 50, "Imagined steps after each real one, K.", 0, 1_000_000),
        Setting("step_size", 0.1, "How far an update goes towards its target.", 1e-6, 1.0),
        Setting("discount", 0.95, "What a reward one step later is worth.", 0.0, 1.0),
        Setting("exploration", 0.1, "Share of actions at random.", 0.0, 1.0),
        Setting("bonus", 0.0, "Kappa of Dyna-Q+, docs/imagination.md.", 0.0, 1e6),
        Setting("memory", MODELS[0], "What is believed of a state and action.", choices=MODELS),
        Setting("sweep_threshold", _NONE, "Theta of prioritised sweeping; -1: none.", _NONE, 1e6),
    )
    planning_steps: int
    step_size: float
    discount: float
    exploration: float
    bonus: float
    memory: str
    sweep_threshold: float

    def __init__(self, robot: RobotSpec, seed: int = 0, **values: object) -> None:
        super().__init__(robot, seed, **values)
        if robot.reward is None:
            raise ValueError(
                f"robot '{robot.name}' has no reward: topic in its file, which policy "
                f"'{self.kind}' learns from"
            )
        self._table_settings = Settings(
            planning_steps=self.planning_steps,
            step_size=self.step_size,
            discount=self.discount,
            exploration=self.exploration,
            bonus=self.bonus,
            model=self.memory,
            sweep_threshold=None if self.sweep_threshold == _NONE else self.sweep_threshold,
        )
        self._begin()

    def _begin(self) -> None:
        policy = self.new_policy(self.robot)
        self._new: list[tuple[int, int, float, int]] = []  # not learned from yet
        self._table = restored(policy.tensors, self._table_settings, self.seed)
        self._adopted = (policy, describe(self.robot, self, self.goal, kind=self.kind))

    @staticmethod
    def new_policy(robot: RobotSpec) -> TablePolicy:
        """Return a policy for a robot that knows nothing yet."""
        return TablePolicy(robot)

    @property
    def updates(self) -> int:
        """How many single values have been updated."""
        return self._table.updates

    @property
    def temperature(self) -> float:
        """Of no meaning here."""
        return 1.0

    def start_from(self, data: bytes) -> None:
        """Go on from the table of a snapshot, which is adopted. Raises SnapshotError."""
        policy, info = decode_table(data, self.robot)
        policy.exploration = self.exploration
        self._table = restored(policy.tensors, self._table_settings, self.seed)
        self._table.updates = info.updates
        self.generation = 1
        self._adopted = (policy, replace(info, generation=1))

    def observe(self, new: Transitions) -> None:
        """Remember real steps. Raises ValueError if a value is not one of the robot's."""
        new.check_finite()
        policy = self._adopted[0]
        self._new += [
            (
                policy.state_number(state),
                policy.action_number(action),
                reward,
                policy.state_number(after),
            )
            for state, action, reward, after in zip(
                new.states.tolist(),
                new.actions.tolist(),
                new.rewards[:, 0].tolist(),
                new.next_states.tolist(),
                strict=True,
            )
        ]
        self.steps += len(new)

    def observe_again(self, known: Transitions) -> None:
        """Remember these real steps in place of all others."""
        self.forget()
        self.observe(known)

    def pursue(self, goal: Sequence[float]) -> None:
        """Do nothing: a table is for the reward, whatever the goal."""

    def train(self, model: DynamicsModel | None, updates: int) -> bool:
        """Learn from what is new, and imagine as much as is due for it, whatever `updates` says.

        Returns False if nothing is new.
        """
        new, self._new = self._new, []
        for state, action, reward, after in new:
            self._table.learn(state, action, reward, after, False)
        self.trained = self.updates
        return bool(new)

    def adopt(self) -> None:
        """Take a copy of the table for the one in use."""
        self.generation += 1
        policy = self.new_policy(self.robot)
        policy.exploration = self.exploration
        policy.take(self._table.snapshot())
        info = describe(
            self.robot, self, self.goal, self.steps, kind=self.kind, generation=self.generation
        )
        self._adopted = (policy, info)
