# Copyright 2026 The mbrl_ros authors
# SPDX-License-Identifier: Apache-2.0
"""The single description of a robot, read from one YAML file and validated as a whole."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import ConfigDict, Field, TypeAdapter, ValidationError, model_validator
from pydantic.dataclasses import dataclass

from mbrl_ros.resources import config_directory

_CONFIG = ConfigDict(extra="forbid", allow_inf_nan=False)

NANOSECONDS = 1_000_000_000  # in a second; stamps are whole nanoseconds

Bounds = tuple[float, float]
Topic = Annotated[str, Field(pattern=r"^~?/?[A-Za-z_][A-Za-z0-9_]*(/[A-Za-z_][A-Za-z0-9_]*)*$")]
NonNegative = Annotated[float, Field(ge=0.0)]
Positive = Annotated[float, Field(gt=0.0)]


class RobotError(ValueError):
    """A robot description that cannot be used; the message says what to change."""


def _check_bounds(what: str, bounds: Bounds) -> None:
    if not bounds[0] < bounds[1]:
        raise ValueError(
            f"{what}: bounds {list(bounds)} are not increasing; "
            "expected [lower, upper] with lower < upper"
        )


def _check_known(what: str, names: Iterable[str], known: Sequence[str]) -> None:
    for name in names:
        if name not in known:
            raise ValueError(f"{what}: unknown name '{name}'; expected one of {', '.join(known)}")


@dataclass(frozen=True, config=_CONFIG)
class Sensor:
    """A topic that state dimensions are read from.

    timeout: seconds without a message after which the state counts as stale.
    """

    type: Literal["sensor_msgs/msg/JointState"]
    timeout: Positive = 0.25


@dataclass(frozen=True, config=_CONFIG)
class StateDimension:
    """One entry of the state vector and where it is read.

    angle: the value is an angle in radians that wraps at +-pi; models see its sine and cosine.
    limits: end stops, in `unit`. Steps that touch them are not learned from, because a smooth
    model that is shown an impact bends everywhere else.
    """

    name: str
    sensor: str
    joint: str
    field: Literal["position", "velocity", "effort"]
    unit: str
    angle: bool = False
    limits: Bounds | None = None

    @model_validator(mode="after")
    def _check(self) -> StateDimension:
        if self.limits is not None:
            _check_bounds(f"state '{self.name}', limits", self.limits)
        if self.angle and self.field != "position":
            raise ValueError(
                f"state '{self.name}': angle: true needs field: position, not {self.field}"
            )
        return self


@dataclass(frozen=True, config=_CONFIG)
class ActionDimension:
    """One entry of the action vector.

    bounds: lowest and highest value sent, in `unit`.
    safe: what is sent when nothing better is known; it lies within the bounds.
    slew: largest change per second, in `unit`/s; null for no limit.
    """

    name: str
    unit: str
    bounds: Bounds
    safe: float = 0.0
    slew: Positive | None = None

    @model_validator(mode="after")
    def _check(self) -> ActionDimension:
        _check_bounds(f"action '{self.name}'", self.bounds)
        if not self.bounds[0] <= self.safe <= self.bounds[1]:
            raise ValueError(
                f"action '{self.name}': safe value {self.safe} lies outside "
                f"bounds {list(self.bounds)}"
            )
        return self


@dataclass(frozen=True, config=_CONFIG)
class Command:
    """The robot's command topic; values are sent in the order of `dimensions`."""

    topic: Topic
    type: Literal["std_msgs/msg/Float64MultiArray"]
    dimensions: Annotated[tuple[ActionDimension, ...], Field(min_length=1)]


@dataclass(frozen=True, config=_CONFIG)
class GoalDimension:
    """A state dimension that the goal fixes, its first value and the values accepted.

    tolerance: how near counts as reached, in the dimension's unit.
    """

    dimension: str
    bounds: Bounds
    tolerance: Positive
    default: float = 0.0

    @model_validator(mode="after")
    def _check(self) -> GoalDimension:
        _check_bounds(f"goal '{self.dimension}'", self.bounds)
        if not self.bounds[0] <= self.default <= self.bounds[1]:
            raise ValueError(
                f"goal '{self.dimension}': default {self.default} lies outside "
                f"bounds {list(self.bounds)}"
            )
        return self


@dataclass(frozen=True, config=_CONFIG)
class SoftBound:
    """Cost of leaving, or coming near to leaving, `bounds` of one state dimension.

    kind: `quadratic`, weight x (distance outside)^2, or `barrier`, which rises from `margin`
    inside the bounds on.
    """

    dimension: str
    bounds: Bounds
    weight: NonNegative
    kind: Literal["quadratic", "barrier"] = "quadratic"
    margin: Positive = 0.1

    @model_validator(mode="after")
    def _check(self) -> SoftBound:
        _check_bounds(f"soft bound on '{self.dimension}'", self.bounds)
        return self


@dataclass(frozen=True, config=_CONFIG)
class Obstacle:
    """What a robot that moves in a plane is to keep away from: weight x (margin - distance)^2.

    plane: the two state dimensions that are its position. center: of the shape, in metres.
    radius: of a circle. size: of a box along the two dimensions. margin: distance from which
    on it costs nothing; it includes the robot's own radius.
    """

    shape: Literal["circle", "box"]
    plane: tuple[str, str]
    center: tuple[float, float]
    weight: NonNegative
    margin: Positive
    radius: NonNegative = 0.0
    size: tuple[NonNegative, NonNegative] = (0.0, 0.0)


@dataclass(frozen=True, config=_CONFIG)
class Cost:
    """Weights of the stage cost, by dimension name (see `planning.objective`).

    terminal: on the last state of a plan. reward: on the learned reward, which needs `reward`.
    terms: settings of terms from other packages, by name.
    """

    goal: dict[str, NonNegative]
    state: dict[str, NonNegative] = Field(default_factory=dict)
    effort: dict[str, NonNegative] = Field(default_factory=dict)
    rate: dict[str, NonNegative] = Field(default_factory=dict)
    terminal: dict[str, NonNegative] = Field(default_factory=dict)
    soft_bounds: tuple[SoftBound, ...] = ()
    obstacles: tuple[Obstacle, ...] = ()
    reward: NonNegative = 0.0
    terms: dict[str, dict[str, Any]] = Field(default_factory=dict)


@dataclass(frozen=True, config=_CONFIG)
class Success:
    """A run is solved once `dimension` stays within `tolerance` of its goal for `hold` seconds.

    label: what people call that, as in "up since 5.3 s".
    """

    dimension: str
    tolerance: Positive
    hold: Positive
    label: str = "at the goal"


@dataclass(frozen=True, config=_CONFIG)
class Simulation:
    """The plant that stands in for the robot with `sim:=true`."""

    model: str
    initial_position: dict[str, float] = Field(default_factory=dict)


@dataclass(frozen=True, config=_CONFIG)
class RobotSpec:
    """All that is known of a robot before it moves.

    D is the number of state dimensions, A of action dimensions, G of goal dimensions;
    vectors everywhere in the package follow the order of `state`, `command.dimensions`, `goal`.
    reward: topic (sensor_msgs/JointState named `reward`, stamped with the tick) of a reward to
    be learned; none: the robot has no reward.
    """

    name: Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$")]
    control_rate: Annotated[float, Field(gt=0.0, le=1000.0)]
    sensors: Annotated[dict[Topic, Sensor], Field(min_length=1)]
    state: Annotated[tuple[StateDimension, ...], Field(min_length=1)]
    command: Command
    goal: Annotated[tuple[GoalDimension, ...], Field(min_length=1)]
    cost: Cost
    success: Success
    reward: Topic | None = None
    simulation: Simulation | None = None
    description: str = ""

    @model_validator(mode="after")
    def _check(self) -> RobotSpec:
        state, action = self.state_names, self.action_names
        for what, names in (("state", state), ("command", action), ("goal", self.goal_names)):
            duplicates = sorted({name for name in names if names.count(name) > 1})
            if duplicates:
                raise ValueError(f"{what}: name '{duplicates[0]}' is used twice")
        for dimension in self.state:
            _check_known(
                f"state '{dimension.name}', sensor", [dimension.sensor], list(self.sensors)
            )
        _check_known("goal", self.goal_names, state)
        _check_known("cost.goal", self.cost.goal, self.goal_names)
        _check_known("cost.state", self.cost.state, state)
        _check_known("cost.effort", self.cost.effort, action)
        _check_known("cost.rate", self.cost.rate, action)
        _check_known("cost.terminal", self.cost.terminal, self.goal_names)
        for obstacle in self.cost.obstacles:
            _check_known("cost.obstacles, plane", obstacle.plane, state)
        if self.cost.reward and self.reward is None:
            raise ValueError("cost.reward needs `reward`: the topic that a reward comes on")
        _check_known("cost.soft_bounds", [b.dimension for b in self.cost.soft_bounds], state)
        _check_known("success.dimension", [self.success.dimension], self.goal_names)
        return self

    @property
    def period(self) -> float:
        """Seconds between two ticks of the control clock."""
        return 1.0 / self.control_rate

    @property
    def period_nanoseconds(self) -> int:
        """The period in the unit of stamps."""
        return round(self.period * NANOSECONDS)

    @property
    def state_names(self) -> list[str]:
        """Names of the D state dimensions."""
        return [dimension.name for dimension in self.state]

    @property
    def action_names(self) -> list[str]:
        """Names of the A action dimensions."""
        return [dimension.name for dimension in self.command.dimensions]

    @property
    def goal_names(self) -> list[str]:
        """Names of the G goal dimensions, each of them a state dimension."""
        return [goal.dimension for goal in self.goal]

    @property
    def goal_default(self) -> list[float]:
        """The goal in force when nothing else is asked for, (G,)."""
        return [goal.default for goal in self.goal]

    @property
    def angle_mask(self) -> list[bool]:
        """Which of the D state dimensions wrap at +-pi."""
        return [dimension.angle for dimension in self.state]

    @property
    def safe_action(self) -> list[float]:
        """The command that is sent when nothing better is known, (A,)."""
        return [dimension.safe for dimension in self.command.dimensions]

    def within_limits(self, state: Sequence[float]) -> bool:
        """Whether `state` (D,) is clear of every end stop."""
        return all(
            dimension.limits is None or dimension.limits[0] < value < dimension.limits[1]
            for value, dimension in zip(state, self.state, strict=True)
        )

    def check_goal(self, goal: Sequence[float]) -> str | None:
        """Say why `goal` (G,) cannot be used, or None if it can."""
        if len(goal) != len(self.goal):
            return (
                f"goal has {len(goal)} values, expected {len(self.goal)}: "
                f"[{', '.join(self.goal_names)}]"
            )
        for value, spec in zip(goal, self.goal, strict=True):
            if not math.isfinite(value) or not spec.bounds[0] <= value <= spec.bounds[1]:
                return (
                    f"goal {spec.dimension} = {value} is outside "
                    f"[{spec.bounds[0]}, {spec.bounds[1]}]"
                )
        return None

    def check_goal_weights(self, weights: Sequence[float]) -> list[float]:
        """Return weights (G,) on the distance to the goal; raises ValueError if not usable."""
        if len(weights) != len(self.goal):
            raise ValueError(
                f"goal_weights has {len(weights)} values, expected {len(self.goal)}: "
                f"[{', '.join(self.goal_names)}]"
            )
        for name, weight in zip(self.goal_names, weights, strict=True):
            if not 0.0 <= weight < math.inf:
                raise ValueError(f"goal weight of {name} is {weight}, expected 0 or more")
        return [float(weight) for weight in weights]

    def changed_goal(
        self, goal: Sequence[float], names: Sequence[str], values: Sequence[float]
    ) -> list[float]:
        """Return `goal` (G,) with the named values in place of its own.

        Raises ValueError, saying what was expected, for an unknown name or a result that
        `check_goal` refuses.
        """
        if len(names) != len(values) or not names:
            raise ValueError(
                f"goal has {len(names)} names with {len(values)} values, "
                f"expected as many, of {', '.join(self.goal_names)}"
            )
        _check_known("goal", names, self.goal_names)
        changed = list(goal)
        for name, value in zip(names, values, strict=True):
            changed[self.goal_names.index(name)] = float(value)
        problem = self.check_goal(changed)
        if problem:
            raise ValueError(problem)
        return changed

    def goal_errors(self, state: Sequence[float], goal: Sequence[float]) -> list[float]:
        """Distances >= 0 of `state` (D,) from `goal` (G,), angles the shorter way round."""
        errors = []
        for spec, wished in zip(self.goal, goal, strict=True):
            index = self.state_names.index(spec.dimension)
            error = state[index] - wished
            if self.state[index].angle:
                error = math.remainder(error, 2.0 * math.pi)
            errors.append(abs(error))
        return errors

    def goal_reached(self, state: Sequence[float], goal: Sequence[float]) -> bool:
        """Whether every goal dimension is within its tolerance."""
        errors = self.goal_errors(state, goal)
        return all(e <= spec.tolerance for e, spec in zip(errors, self.goal, strict=True))

    def success_error(self, state: Sequence[float], goal: Sequence[float]) -> float:
        """Distance of `state` (D,) from `goal` (G,) along the success dimension, >= 0."""
        return self.goal_errors(state, goal)[self.goal_names.index(self.success.dimension)]


_ADAPTER = TypeAdapter(RobotSpec)


def robot_names() -> list[str]:
    """Names of the robots that ship with the package, for `load_robot`."""
    return sorted(path.stem for path in (config_directory() / "robots").glob("*.yaml"))


def load_robot(robot: str) -> RobotSpec:
    """Load a robot by shipped name or by path of a YAML file.

    Raises RobotError, with what was found and what was expected, when the file is missing,
    unreadable, not YAML, or does not describe a robot.
    """
    path = Path(robot)
    if path.suffix not in (".yaml", ".yml"):
        path = config_directory() / "robots" / f"{robot}.yaml"
        if robot not in robot_names():
            raise RobotError(
                f"unknown robot '{robot}'; expected one of {', '.join(robot_names())}, "
                "or the path of a YAML file"
            )
    try:
        data = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise RobotError(f"robot file {path}: cannot be read: {error}") from None
    except yaml.YAMLError as error:
        raise RobotError(f"robot file {path}: not valid YAML: {error}") from None
    if not isinstance(data, dict):
        raise RobotError(f"robot file {path}: expected a mapping, found {type(data).__name__}")
    try:
        return _ADAPTER.validate_python(data)
    except ValidationError as error:
        raise RobotError(f"robot file {path}:\n" + _explain(error)) from None


def _explain(error: ValidationError) -> str:
    """One line a problem: where it is, what was found, what was expected."""
    lines = []
    for problem in error.errors(include_url=False):
        where = ".".join(str(part) for part in problem["loc"])
        message = problem["msg"].removeprefix("Value error, ")
        found: Any = problem.get("input")
        shown = "" if isinstance(found, (dict, list)) or found is None else f" (found {found!r})"
        lines.append(f"  {where + ': ' if where else ''}{message}{shown}")
    return "\n".join(lines)
