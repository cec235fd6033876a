# Copyright 2026 The mbrl_ros authors
# SPDX-License-Identifier: Apache-2.0
"""What all planners share: a problem, a plan carried from tick to tick, and settings."""

from __future__ import annotations

import math
import time
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from mbrl_ros.dynamics.model import DynamicsModel
from mbrl_ros.kinds import PLANNERS
from mbrl_ros.planning.guide import PolicyGuide
from mbrl_ros.planning.objective import Objective
from mbrl_ros.robots.spec import RobotSpec


class PlanningError(RuntimeError):
    """No usable plan came out; the message says why."""


@dataclass(frozen=True)
class Plan:
    """One planned trajectory; never changed once made.

    actions (H, A) within bounds and slew limits, states (H + 1, D) predicted under them, float32.
    cost: predicted, in the objective's unit. effective_samples: how many candidates share
    the weight of the last update (1 to the sample count). discarded: candidates whose
    prediction was not finite. iterations, samples: what the time allowed, over all iterations.
    elites (H, E, A): candidates worth starting from again, where a kind keeps some.
    hurried: whether the time budget left out some of what was asked for.
    """

    actions: Tensor
    states: Tensor
    cost: float
    effective_samples: float = field(default=float("nan"))
    discarded: int = 0
    iterations: int = 0
    samples: int = 0
    elites: Tensor | None = None
    hurried: bool = False

    def shifted(self) -> Plan:
        """Return the plan one step later; its last action is held on."""
        return replace(
            self,
            actions=_shifted(self.actions),
            states=_shifted(self.states),
            elites=None if self.elites is None else _shifted(self.elites),
        )


def _shifted(sequence: Tensor) -> Tensor:
    return torch.cat([sequence[1:], sequence[-1:]])


@dataclass(frozen=True)
class Problem:
    """What a plan has to solve at one tick.

    state (D,): where the plan starts. goal (G,), or (H, G) where it moves. previous_action (A,):
    what is in force when the plan starts. delay_fraction: the share of each period during which
    the action of the period before is still in force, in [0, 1). seed: of all random numbers of
    this plan.
    time_budget: seconds that planning is to take at most; infinite where the same plan must
    come out on any machine.
    """

    state: Tensor
    goal: Tensor
    previous_action: Tensor
    delay_fraction: float = 0.0
    seed: int = 0
    time_budget: float = math.inf

    def shifted(self, plan: Plan) -> Problem:
        """Return the problem one step later, if this one goes as planned."""
        goal = self.goal if self.goal.ndim == 1 else _shifted(self.goal)
        return replace(self, state=plan.states[1], goal=goal, previous_action=plan.actions[0])


@dataclass(frozen=True)
class Setting:
    """A number that a planner can be set to, from `least` to `most`, or a word of `choices`.

    In ROS the parameter of an own setting is `KIND.name`.
    """

    name: str
    default: float | int | str
    description: str
    least: float = -math.inf
    most: float = math.inf
    choices: tuple[str, ...] = ()

    def check(self, value: Any) -> None:
        """Raise ValueError, naming the setting, if it cannot have this value."""
        if self.choices:
            if value not in self.choices:
                raise ValueError(f"{self.name} is '{value}', expected {', '.join(self.choices)}")
        elif not self.least <= value <= self.most:
            raise ValueError(f"{self.name} is {value}, expected {self.least} to {self.most}")


def with_defaults(settings: Iterable[Setting], **defaults: float) -> tuple[Setting, ...]:
    """Return the settings with other defaults for those that are named."""
    return tuple(replace(s, default=defaults.get(s.name, s.default)) for s in settings)


@dataclass(frozen=True)
class Way:
    """How candidates are rolled out: in which precision, by which engine of the model."""

    precision: str = "float32"
    engine: str = "eager"

    def __str__(self) -> str:
        suffix = {"eager": "", "compile": ", compiled", "cuda": " on the GPU"}
        return self.precision + suffix[self.engine]

    def rollout(
        self,
        model: DynamicsModel,
        states: Tensor,
        actions: Tensor,
        propagation: str,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Predict trajectories; see DynamicsModel.rollout."""
        precision, engine = self.precision, self.engine
        return model.rollout(states, actions, propagation, generator, precision, engine)


EAGER = Way()


class Planner(ABC):
    """Planning is a function of the problem, the model and the last plan.

    The same three give the same plan, as long as the time budget is infinite and the `guide` is
    the same.
    lower, upper (A,): action bounds. largest_change (A,): of an action from one step to the next,
    None where the robot has no slew limit; the guard would cut a faster one. `settings` are common
    to all planners that have them, `own_settings` belong to one kind; the values become
    attributes.
    Raises ValueError, naming the setting, if a value cannot be used.
    """

    kind: str
    settings: ClassVar[tuple[Setting, ...]] = (
        Setting("horizon", 25, "Steps of one control period in a plan.", 1, 1000),
        Setting("iterations", 1, "Improvements of the plan a tick.", 1, 100),
    )
    own_settings: ClassVar[tuple[Setting, ...]] = ()
    horizon: int
    iterations: int

    def __init__(
        self,
        objective: Objective,
        lower: Sequence[float],
        upper: Sequence[float],
        *,
        largest_change: Sequence[float] | None = None,
        **values: Any,
    ) -> None:
        settings = self.settings + self.own_settings
        unknown = set(values) - {setting.name for setting in settings}
        if unknown:
            known = ", ".join(setting.name for setting in settings)
            raise ValueError(
                f"planner '{self.kind}' has no setting '{min(unknown)}'; it has {known}"
            )
        for setting in settings:
            value = values.get(setting.name, setting.default)
            setting.check(value)
            setattr(self, setting.name, value)
        self.objective = objective
        self.lower = torch.tensor(lower, dtype=torch.float32)
        self.upper = torch.tensor(upper, dtype=torch.float32)
        self.largest_change: Tensor | None = None
        if largest_change is not None:
            self.largest_change = torch.tensor(largest_change, dtype=torch.float32)

    @property
    def action_dimensions(self) -> int:
        """A."""
        return len(self.lower)

    @property
    def half_range(self) -> Tensor:
        """Half the distance between the bounds, (A,)."""
        return (self.upper - self.lower) / 2.0

    @property
    def guide(self) -> PolicyGuide | None:
        """The policy that helps to plan, or None; may change from one plan to the next.

        Setting it raises ValueError if the policy is for another robot.
        """
        return self.objective.guide

    @guide.setter
    def guide(self, guide: PolicyGuide | None) -> None:
        objective = self.objective
        if guide is not None:
            guide.check(
                objective.state_dimensions, self.lower, self.upper, objective.goal_dimensions
            )
        objective.guide = guide

    @abstractmethod
    def plan(self, problem: Problem, model: DynamicsModel, last: Plan | None) -> Plan:
        """Plan one trajectory, warm-started from `last` (None: from the middle of the bounds).

        Raises PlanningError when the model's prediction is not finite for any candidate.
        """

    def refine(self, problem: Problem, model: DynamicsModel, plan: Plan) -> Plan:
        """Improve what the next plan starts from, once the first action of this one is sent.

        problem: the one that `plan` solves, with the time that is left until the next. Raises what
        `self.plan` does.
        """
        return plan

    def prepare(self, model: DynamicsModel) -> list[str]:
        """Let a new model make what it needs for the first plan, ahead of it.

        Returns what is worth telling a user, each once.
        """
        self._rehearse(model, rows=1)
        return []

    def _rehearse(
        self,
        model: DynamicsModel,
        rows: int,
        propagation: str = "mean",
        way: Way = EAGER,
    ) -> float:
        """Predict one step of so many rows; return the seconds that it took.

        A GPU takes as long for one step as for many: there, the share of a whole horizon.
        """
        steps = self.horizon if way.engine == "cuda" else 1
        states = torch.zeros(rows, model.features.state_dimensions)
        actions = torch.zeros(steps, rows, self.action_dimensions)
        begin = time.perf_counter()
        way.rollout(model, states, actions, propagation)
        return (time.perf_counter() - begin) / steps

    def hold_to_limits(self, actions: Tensor, previous: Tensor) -> Tensor:
        """Bring actions (H, ..., A) within the bounds and slew limits, in place; return them.

        previous (A,), or one each (N, A): the action before them. What fits stays as it is.
        """
        torch.clamp(actions, self.lower, self.upper, out=actions)
        if self.largest_change is not None:
            before = torch.clamp(previous, self.lower, self.upper)
            for action in actions:
                low, high = before - self.largest_change, before + self.largest_change
                before = torch.clamp(action, low, high, out=action)
        return actions

    def _start(self, last: Plan | None) -> Tensor:
        """Return the actions (H, A) that planning starts from."""
        if last is None:
            return ((self.lower + self.upper) / 2.0).expand(self.horizon, -1).clone()
        return last.shifted().actions


def make_planner(kind: str, robot: RobotSpec, **settings: Any) -> Planner:
    """Make a planner of `kind` for `robot`; settings are those that it declares.

    The kind is loaded by name (see `kinds.PLANNERS`). Raises ValueError for an unknown kind,
    or a setting that cannot be used.
    """
    dimensions = robot.command.dimensions
    lower = [dimension.bounds[0] for dimension in dimensions]
    upper = [dimension.bounds[1] for dimension in dimensions]
    if any(dimension.slew is not None for dimension in dimensions):
        settings["largest_change"] = largest_changes(robot)
    planner: Planner = PLANNERS.load(kind)(Objective(robot), lower, upper, **settings)
    return planner


def largest_changes(robot: RobotSpec) -> list[float]:
    """Return how much each action may change in a period, (A,); infinite without a slew limit."""
    slews = [dimension.slew for dimension in robot.command.dimensions]
    return [math.inf if slew is None else slew * robot.period for slew in slews]


def actions_in_force(previous: Tensor, actions: Tensor, delay_fraction: float) -> Tensor:
    """Average action over each period when commands arrive `delay_fraction` of it late.

    previous (A,) is in force before actions (H, N, A); returns (H, N, A).
    """
    if delay_fraction == 0.0:
        return actions
    before = torch.cat([previous.expand(1, *actions.shape[1:]), actions[:-1]])
    return torch.lerp(actions, before, delay_fraction)
