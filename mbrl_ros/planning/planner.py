# Copyright 2026 The mbrl_ros authors
# SPDX-License-Identifier: Apache-2.0
"""The loop that all planners share, and the plan that it carries from tick to tick."""

from __future__ import annotations

import math
import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from mbrl_ros.dynamics.model import DynamicsModel
from mbrl_ros.kinds import PLANNERS
from mbrl_ros.planning.objective import Objective
from mbrl_ros.robots.spec import RobotSpec


class PlanningError(RuntimeError):
    """No usable plan came out; the message says why."""


@dataclass(frozen=True)
class Plan:
    """One planned trajectory; never changed once made.

    actions (H, A) within the bounds, states (H + 1, D) predicted under them, float32.
    cost: predicted, in the objective's unit. effective_samples: how many candidates share
    the weight of the last update (1 to the sample count). discarded: candidates whose
    prediction was not finite.
    """

    actions: Tensor
    states: Tensor
    cost: float
    effective_samples: float = field(default=float("nan"))
    discarded: int = 0

    def shifted(self) -> Plan:
        """Return the plan one step later; its last action is held on."""
        return replace(
            self,
            actions=torch.cat([self.actions[1:], self.actions[-1:]]),
            states=torch.cat([self.states[1:], self.states[-1:]]),
        )


@dataclass(frozen=True)
class Problem:
    """What a plan has to solve at one tick.

    state (D,): where the plan starts. goal (G,). previous_action (A,): what is in force when
    the plan starts. delay_fraction: the share of each period during which the action of the
    period before is still in force, in [0, 1). seed: of all random numbers of this plan.
    time_budget: seconds after which no further iteration is begun that would overrun it;
    infinite where the same plan must come out on any machine.
    """

    state: Tensor
    goal: Tensor
    previous_action: Tensor
    delay_fraction: float = 0.0
    seed: int = 0
    time_budget: float = math.inf


class Planner(ABC):
    """Shift the last plan, then propose, roll out, score and update a few times.

    Planning is a function of the problem, the model and the last plan: the same three give
    the same plan. A kind supplies `propose` and `update`.

    samples: candidates an iteration. horizon: steps of one control period. lower, upper (A,):
    action bounds. Raises ValueError, naming the parameter, if one cannot be used.
    """

    kind: str

    def __init__(
        self,
        objective: Objective,
        lower: Sequence[float],
        upper: Sequence[float],
        samples: int = 500,
        horizon: int = 25,
        iterations: int = 1,
    ) -> None:
        for name, value in (
            ("samples", samples),
            ("horizon", horizon),
            ("iterations", iterations),
        ):
            if value < 1:
                raise ValueError(f"{name} is {value}, expected at least 1")
        self.objective = objective
        self.lower = torch.tensor(lower, dtype=torch.float32)
        self.upper = torch.tensor(upper, dtype=torch.float32)
        self.samples, self.horizon, self.iterations = samples, horizon, iterations

    @property
    def action_dimensions(self) -> int:
        """A."""
        return len(self.lower)

    @abstractmethod
    def propose(self, nominal: Tensor, iteration: int, generator: torch.Generator) -> Tensor:
        """Return candidate action sequences (H, N, A) around nominal (H, A)."""

    @abstractmethod
    def update(self, nominal: Tensor, candidates: Tensor, costs: Tensor) -> tuple[Tensor, float]:
        """Return a better nominal (H, A), and the effective sample count.

        candidates (H, N, A) lie within the bounds; costs (N,) are infinite for discarded ones,
        finite for at least one.
        """

    def plan(self, problem: Problem, model: DynamicsModel, last: Plan | None) -> Plan:
        """Plan one trajectory, warm-started from `last` (None: from the middle of the bounds).

        Raises PlanningError when the model's prediction is not finite for any candidate.
        """
        generator = torch.Generator().manual_seed(problem.seed)
        nominal = self._middle() if last is None else last.shifted().actions
        effective, discarded, begin = float("nan"), 0, time.perf_counter()
        for iteration in range(self.iterations):
            elapsed = time.perf_counter() - begin
            if iteration and elapsed * (iteration + 1) / iteration > problem.time_budget:
                break
            candidates = self.propose(nominal, iteration, generator)
            torch.clamp(candidates, self.lower, self.upper, out=candidates)
            costs = self._evaluate(problem, model, candidates)[1]
            finite = costs.isfinite()
            discarded += int((~finite).sum())
            if not finite.any():
                raise PlanningError(
                    f"all {len(costs)} predicted trajectories hold values that are not finite"
                )
            costs = torch.where(finite, costs, torch.inf)
            nominal, effective = self.update(nominal, candidates, costs)
            torch.clamp(nominal, self.lower, self.upper, out=nominal)
        states, costs = self._evaluate(problem, model, nominal[:, None, :])
        if not costs.isfinite().all():
            raise PlanningError("the planned trajectory holds values that are not finite")
        return Plan(nominal, states[:, 0], float(costs[0]), effective, discarded)

    def _middle(self) -> Tensor:
        return ((self.lower + self.upper) / 2.0).expand(self.horizon, -1).clone()

    def _evaluate(
        self, problem: Problem, model: DynamicsModel, candidates: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Roll out candidates (H, N, A): trajectories (H + 1, N, D), costs (N,)."""
        count = candidates.shape[1]
        in_force = actions_in_force(problem.previous_action, candidates, problem.delay_fraction)
        states = model.rollout(problem.state.expand(count, -1), in_force)
        return states, self.objective.cost(states, candidates, problem.goal)


def make_planner(kind: str, robot: RobotSpec, **settings: Any) -> Planner:
    """Make a planner of `kind` for `robot`; settings are those of its constructor.

    The kind is loaded by name (see `kinds.PLANNERS`). Raises ValueError for an unknown kind,
    or a setting that cannot be used.
    """
    dimensions = robot.command.dimensions
    lower = [dimension.bounds[0] for dimension in dimensions]
    upper = [dimension.bounds[1] for dimension in dimensions]
    planner: Planner = PLANNERS.load(kind)(Objective(robot), lower, upper, **settings)
    return planner


def actions_in_force(previous: Tensor, actions: Tensor, delay_fraction: float) -> Tensor:
    """Average action over each period when commands arrive `delay_fraction` of it late.

    previous (A,) is in force before actions (H, N, A); returns (H, N, A).
    """
    if delay_fraction == 0.0:
        return actions
    before = torch.cat([previous.expand(1, *actions.shape[1:]), actions[:-1]])
    return torch.lerp(actions, before, delay_fraction)
