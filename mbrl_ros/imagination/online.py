# Copyright 2026 The mbrl_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Training a policy while the robot runs: on real steps, and on what its model imagines."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from mbrl_ros.dynamics.model import PROPAGATIONS, DynamicsModel, Transitions
from mbrl_ros.dynamics.snapshot import MAX_BYTES, SnapshotError
from mbrl_ros.imagination.memory import Batch, Memory, draw_mixed
from mbrl_ros.imagination.policy import Policy
from mbrl_ros.imagination.rollouts import Imagination
from mbrl_ros.imagination.sac import SAC, configure
from mbrl_ros.imagination.snapshot import Kept, PolicyInfo, decode, describe, encode
from mbrl_ros.planning.objective import Objective, Steps
from mbrl_ros.planning.planner import Setting
from mbrl_ros.robots.spec import RobotSpec

# Stage costs in units of their mean at first: what is dearer counts as this. A model goes on where
# a robot would long have been stopped, and one such step would outweigh all others.
_MOST_COST = 5.0


class PolicyLearner(ABC):
    """Trains one policy for one goal at a time, and keeps a copy of the last that was adopted.

    robot: whose cost is to be low. seed: of all random numbers. The settings' values become
    attributes. A kind supplies what is abstract here, and `new_policy`.
    Raises ValueError, naming it, if a value cannot be used, or if it cannot learn for this robot.
    """

    kind: ClassVar[str]
    settings: ClassVar[tuple[Setting, ...]] = ()
    needs_model: ClassVar[bool] = True  # to train; one that does not gets none
    _adopted: tuple[Kept, PolicyInfo]  # the policy in use, and what it says about itself

    def __init__(self, robot: RobotSpec, seed: int = 0, **values: Any) -> None:
        configure(self, f"policy '{self.kind}'", self.settings, values)
        self.robot, self.seed = robot, seed
        self.goal = list(robot.goal_default)  # (G,), that it trains for
        self.steps = 0  # real ones that it has learned from
        self.generation = 0  # how many policies have been adopted
        self.trained = 0  # updates for the goal in force

    @staticmethod
    @abstractmethod
    def new_policy(robot: RobotSpec) -> Any:
        """Return a policy for a robot that knows nothing yet, for `snapshot.decode` to restore."""

    @property
    @abstractmethod
    def updates(self) -> int:
        """How many updates the policy in training has had."""

    @property
    def adopted_updates(self) -> int:
        """How many updates the adopted policy has had; 0: there is none."""
        return self._adopted[1].updates

    def details(self) -> dict[str, float]:
        """Return what else diagnostics should tell, by name."""
        return {}

    @abstractmethod
    def start_from(self, data: bytes) -> None:
        """Go on from the policy of a snapshot, which is adopted. Raises SnapshotError."""

    @abstractmethod
    def observe(self, new: Transitions) -> None:
        """Remember real steps. Raises ValueError if a value is not finite."""

    @abstractmethod
    def observe_again(self, known: Transitions) -> None:
        """Remember these real steps in place of all others: they were paired in another way."""

    @abstractmethod
    def pursue(self, goal: Sequence[float]) -> None:
        """Train for goal (G,) from now on; the adopted policy stays one for its own goal."""

    @abstractmethod
    def train(self, model: DynamicsModel | None, updates: int) -> bool:
        """Update the policy so many times; return False if there is nothing to learn from yet."""

    @abstractmethod
    def adopt(self) -> None:
        """Take a copy of the policy in training for the one in use."""

    def snapshot(self, effective_from: int = 0, next_effective_from: int = 0) -> bytes:
        """Return the adopted policy as the bytes of a file; with no updates, before the first."""
        policy, info = self._adopted
        return encode(
            policy,
            replace(info, effective_from=effective_from, next_effective_from=next_effective_from),
        )

    def forget(self) -> None:
        """Start again from a policy that knows nothing."""
        self.steps = self.trained = 0
        self._begin()

    @abstractmethod
    def _begin(self) -> None:
        """Make what is in training, and the policy in use, ones that know nothing."""


class ImaginedSAC(PolicyLearner):
    """Soft actor-critic on real steps and on rollouts that branch off from them (see `mbpo`).

    The reward of a step is its negative stage cost (learned reward included) for the goal in
    force, in units of the mean of the first ones.
    """

    kind = "sac"
    settings = (
        Setting("rollouts", 100, "Imagined rollouts a round.", 1, 100_000),
        Setting("horizon", 15, "Steps of an imagined rollout.", 1, 1000),
        Setting("rollout_interval", 100, "Updates between two rounds of rollouts.", 1, 1_000_000),
        Setting("real_share", 0.05, "Share of real steps in what an update sees.", 0.0, 1.0),
        Setting("capacity", 100_000, "Real steps that are remembered.", 1, 10_000_000),
        Setting("imagined", 25_000, "Imagined steps that are remembered.", 1, 10_000_000),
        Setting(
            "propagation",
            "ts1",
            "How rollouts carry the model's uncertainty, see docs/architecture.md.",
            choices=PROPAGATIONS,
        ),
        *(
            replace(setting, default={"hidden": 64, "batch_size": 128}[setting.name])
            if setting.name in ("hidden", "batch_size")
            else setting
            for setting in SAC.settings
        ),
    )
    rollouts: int
    horizon: int
    rollout_interval: int
    real_share: float
    capacity: int
    imagined: int
    propagation: str

    def __init__(self, robot: RobotSpec, seed: int = 0, **values: Any) -> None:
        super().__init__(robot, seed, **values)
        # What a step would tell the model is of no use where the model stays as it is.
        tame = replace(robot, cost=replace(robot.cost, exploration=None))
        self._objective = Objective(tame)
        self._begin()
        size = len(encode(self._sac.policy, self._adopted[1]))
        if size > MAX_BYTES:
            raise ValueError(
                f"a policy of {size} bytes is too large to be sent, at most {MAX_BYTES} are; use "
                "fewer or narrower layers"
            )

    def _begin(self) -> None:
        robot, sac = self.robot, {s.name: getattr(self, s.name) for s in SAC.settings}
        policy = self.new_policy(robot)
        self._sac = SAC(
            robot.angle_mask, policy.lower.tolist(), policy.upper.tolist(), self.seed, **sac
        )
        self._generator = torch.Generator().manual_seed(self.seed)
        self._known: deque[Transitions] = deque()
        self._model: DynamicsModel | None = None  # that imagines
        self._scale: float | None = None  # of rewards, once there have been costs
        self._real = Memory(*policy.sizes, self.capacity)
        self._dreams = Memory(*policy.sizes, self.imagined)
        self._adopted = (policy, describe(robot, self._sac, self.goal, kind=self.kind))

    @staticmethod
    def new_policy(robot: RobotSpec) -> Policy:
        """Return a policy for a robot that knows nothing yet."""
        lower, upper = zip(*(d.bounds for d in robot.command.dimensions), strict=True)
        return Policy(robot.angle_mask, lower, upper)

    @property
    def updates(self) -> int:
        """How many updates the policy in training has had."""
        return self._sac.updates

    def details(self) -> dict[str, float]:
        """Return what a nat of entropy is worth, in units of the reward."""
        return {"temperature": self._sac.temperature}

    # -- learning ---------------------------------------------------------------------------

    def start_from(self, data: bytes) -> None:
        """Go on from the policy of a snapshot, which is adopted. Raises SnapshotError."""
        policy, info = decode(data, self.robot)
        try:
            self._sac.start_from(policy, info.temperature, info.updates)
        except ValueError as error:
            raise SnapshotError(str(error)) from None
        self._scale = info.reward_scale
        self.generation = 1
        self._adopted = (policy, replace(info, generation=1))

    def observe(self, new: Transitions) -> None:
        """Remember real steps. Raises ValueError if a value is not finite."""
        new.check_finite()
        if len(new) == 0:
            return
        self._known.append(new)
        while sum(map(len, self._known)) - len(self._known[0]) >= self.capacity:
            self._known.popleft()
        self.steps += len(new)
        if self._scale is not None:
            self._real.append(self._rewarded(new))

    def observe_again(self, known: Transitions) -> None:
        """Remember these real steps in place of all others: they were paired in another way."""
        self._known.clear()
        self.steps = 0
        self._real = Memory(*self._sac.policy.sizes, self.capacity)
        self.observe(known)

    def pursue(self, goal: Sequence[float]) -> None:
        """Train for goal (G,) from now on; the adopted policy stays one for its own goal."""
        if list(goal) == self.goal:
            return
        self.goal, self.trained = list(goal), 0
        self._judge_again()
        if len(self._dreams):
            self._dreams.reward_again(self._reward)

    def train(self, model: DynamicsModel | None, updates: int) -> bool:
        """Update the policy so many times; return False if there is nothing to learn from yet."""
        if model is None or not model.transitions or not self._known:
            return False
        if self._scale is None:
            costs = torch.cat([self._costs(known) for known in self._known])
            self._scale = 1.0 / max(float(costs.abs().mean()), 1e-6)
        if not len(self._real):
            self._judge_again()
        if model is not self._model:
            self._model = model
            self._imagination = Imagination(
                model,
                self._reward,
                propagation=self.propagation,
                seed=self.seed * 1_000_003 + self.updates,
            )
        for _ in range(updates):
            if self.trained % self.rollout_interval == 0:
                starts = self._real.draw(self.rollouts, self._generator).states
                self._dreams.append(self._imagination.rollouts(self._sample, starts, self.horizon))
            self._sac.update(
                draw_mixed(
                    self._real,
                    self._dreams,
                    self._sac.batch_size,
                    self.real_share,
                    self._generator,
                )
            )
            self.trained += 1
        return True

    def _sample(self, states: Tensor) -> Tensor:
        return self._sac.policy.sample(states, self._generator)

    # -- rewards ----------------------------------------------------------------------------

    def _costs(self, steps: Transitions) -> Tensor:
        """Return the stage costs (N,) of real steps, with the rewards that came with them."""
        goal = torch.tensor(self.goal, dtype=torch.float64)
        found = self._objective.stage_cost(
            Steps(steps.states, steps.actions, steps.next_states, steps.actions, goal)
        )
        return found - self.robot.cost.reward * steps.rewards.sum(1)

    def _rewarded(self, steps: Transitions) -> Batch:
        return Batch.of(
            steps.states,
            steps.actions,
            self._scaled(self._costs(steps)),
            steps.next_states,
            torch.zeros(len(steps)),
        )

    def _judge_again(self) -> None:
        """Give all real steps the rewards that they have for the goal in force."""
        if self._scale is None:
            return
        self._real = Memory(*self._sac.policy.sizes, self.capacity)
        for known in self._known:
            self._real.append(self._rewarded(known))

    def _reward(self, states: Tensor, actions: Tensor, next_states: Tensor) -> Tensor:
        """Return the rewards (N,) of imagined steps."""
        goal = torch.tensor(self.goal)
        steps = Steps(states, actions, next_states, actions, goal, self._model)
        return self._scaled(self._objective.stage_cost(steps))

    def _scaled(self, costs: Tensor) -> Tensor:
        assert self._scale is not None
        return (-self._scale * costs).clamp(-_MOST_COST, _MOST_COST)

    # -- the policy in use ------------------------------------------------------------------

    def adopt(self) -> None:
        """Take a copy of the policy in training for the one in use."""
        self.generation += 1
        policy = self.new_policy(self.robot)
        policy.restore(self._sac.policy.snapshot())
        info = describe(
            self.robot,
            self._sac,
            self.goal,
            self.steps,
            self._scale or 1.0,
            self.kind,
            self.generation,
        )
        self._adopted = (policy, info)
