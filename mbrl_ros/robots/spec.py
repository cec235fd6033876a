# Copyright 2026 The mbrl_ros authors
# SPDX-License-Identifier: Apache-2.0
"""The single description of a robot, read from one YAML file and validated as a whole."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    BeforeValidator,
    ConfigDict,
    Field,
    TypeAdapter,
    ValidationError,
    model_validator,
)
from pydantic.dataclasses import dataclass

from mbrl_ros.resources import config_directory
from mbrl_ros.robots.message_types import COMMAND_FIELDS as COMMAND_FIELDS
from mbrl_ros.robots.message_types import FLOAT64_MULTI_ARRAY as FLOAT64_MULTI_ARRAY
from mbrl_ros.robots.message_types import IMU as IMU
from mbrl_ros.robots.message_types import JOINT_FIELDS as JOINT_FIELDS
from mbrl_ros.robots.message_types import JOINT_STATE as JOINT_STATE
from mbrl_ros.robots.message_types import JOINT_TRAJECTORY as JOINT_TRAJECTORY
from mbrl_ros.robots.message_types import ODOMETRY as ODOMETRY
from mbrl_ros.robots.message_types import POSE_STAMPED as POSE_STAMPED
from mbrl_ros.robots.message_types import SENSOR_FIELDS as SENSOR_FIELDS
from mbrl_ros.robots.message_types import TWIST as TWIST
from mbrl_ros.robots.message_types import TWIST_STAMPED as TWIST_STAMPED
from mbrl_ros.units import NANOSECONDS
from mbrl_ros.yaml_file import YamlFileError, read_mapping

_CONFIG = ConfigDict(extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True)

GYMNASIUM = "gym/"  # before the name of a Gymnasium environment that stands for a robot

# Topics of this stack, which are no robot's: the guard would be passed by.
STACK_TOPICS = (
    "state",
    "action",
    "applied_action",
    "model",
    "policy",
    "goal",
    "goal_pose",
    "plan",
    "plan_path",
    "plan_markers",
)


def _number(value: object) -> object:
    if isinstance(value, bool):
        raise ValueError(f"{str(value).lower()} is no number")
    return value


_NUMBER = BeforeValidator(_number)  # true would be 1
Number = Annotated[float, _NUMBER]
Bounds = tuple[Number, Number]
Topic = Annotated[str, Field(pattern=r"^~?/?[A-Za-z_][A-Za-z0-9_]*(/[A-Za-z_][A-Za-z0-9_]*)*$")]
NonNegative = Annotated[float, Field(ge=0.0), _NUMBER]
Positive = Annotated[float, Field(gt=0.0), _NUMBER]


class RobotError(ValueError):
    """A robot description that cannot be used; the message says what to change."""


def _check_bounds(what: str, bounds: Bounds) -> None:
    if not bounds[0] < bounds[1]:
        raise ValueError(
            f"{what}: bounds {list(bounds)} are not increasing; "
            "expected [lower, upper] with lower < upper"
        )


def _check_scale(what: str, scale: float) -> None:
    if scale == 0.0:
        raise ValueError(f"{what}: scale is 0, expected what a number in the message amounts to")


def _check_whole(what: str, values: Iterable[float]) -> None:
    for value in values:
        if not value.is_integer():
            raise ValueError(f"{what}: {value} is no whole number, which discrete: true needs")


def _check_known(what: str, names: Iterable[str], known: Sequence[str]) -> None:
    for name in names:
        if name not in known:
            expected = f"expected one of {', '.join(known)}" if known else "there is none to name"
            raise ValueError(f"{what}: unknown name '{name}'; {expected}")


@dataclass(frozen=True, config=_CONFIG)
class Sensor:
    """A topic that state dimensions are read from."""

    type: Literal[
        "sensor_msgs/msg/JointState",
        "nav_msgs/msg/Odometry",
        "sensor_msgs/msg/Imu",
        "geometry_msgs/msg/PoseStamped",
        "std_msgs/msg/Float64MultiArray",
    ]
    """Message type on the topic."""
    timeout: Positive = 0.25
    """Seconds without a message after which the state counts as stale: none is published, and
    the guard goes to the safe command."""
    align: Literal["interpolate", "latest", "predict"] = "interpolate"
    """How values come to be those of a tick of the control clock. interpolate: between the
    messages before and after it. latest: of the newest message at or before it. predict: of
    that message, carried on to the tick by its velocity where it has one."""
    frame: str = ""
    """Frame that the values are expressed in (REP-105), such as odom: a note, and what a
    simulator writes into header.frame_id."""


@dataclass(frozen=True, config=_CONFIG)
class StateDimension:
    """One entry of the state vector and where it is read.

    Read from a sensor by `field` (and `joint`, of a JointState) or by `index` (of a
    Float64MultiArray), or derived from another dimension by `derivative_of`.
    """

    name: str
    """What it is called everywhere: in goal, cost, diagnostics and on the topic `state`."""
    unit: str
    """SI unit, such as m, rad or m/s: a note for people."""
    sensor: str | None = None
    """Topic under `sensors` that it is read from."""
    joint: str | None = None
    """Of a JointState: the joint's name in the message."""
    field: str | None = None
    """What is read of the message: position, velocity or effort of a joint; of other messages
    one such as position.x, orientation.yaw, linear_velocity.x, angular_velocity.z (body frame)
    or linear_acceleration.x."""
    index: Annotated[int, Field(ge=0)] | None = None
    """Of a Float64MultiArray: the place in its data, from 0 on."""
    scale: Number = 1.0
    """What a number in the message is multiplied by to be in `unit`: 0.001 for a sensor that
    counts millimetres, 0.0174533 for degrees, -1 for one that is mounted the other way round."""
    derivative_of: str | None = None
    """Name of another dimension, read from a sensor, of which this one is the time derivative:
    for a robot that does not measure its velocity."""
    filter: Literal["difference", "kalman"] = "kalman"
    """How a derivative is found. difference: change since the last tick by the period. kalman:
    a constant-velocity Kalman filter, smoother where the sensor is noisy or coarse."""
    time_constant: Positive | None = None
    """Of filter kalman: how fast it follows, in seconds; it lags by 1.4 of them, and longer is
    smoother. Default: half a control period."""
    angle: bool = False
    """The value is an angle in radians that wraps at +-pi; models see its sine and cosine."""
    limits: Bounds | None = None
    """End stops. Steps that touch them are not learned from, because a smooth model that is
    shown an impact bends everywhere else. On hardware the planner brakes in time before them,
    where the velocity is a state dimension too."""
    safe_range: Bounds | None = None
    """Where the robot may be: the guard stops it when it leaves this range."""
    model_input: bool = True
    """How the robot moves depends on it. false for one it does not depend on, such as where a
    drone is in free space: models do not see it, so that what is learned in one place holds
    everywhere and far sooner. Where the world differs from place to place, leave it true."""
    discrete: bool = False
    """The value is a whole number, such as that of a cell: it is held from message to message,
    never interpolated. All values that there are lie in `safe_range`, edges included."""

    @model_validator(mode="after")
    def _check(self) -> StateDimension:
        what = f"state '{self.name}'"
        _check_scale(what, self.scale)
        if self.limits is not None:
            _check_bounds(f"{what}, limits", self.limits)
        if self.safe_range is not None:
            _check_bounds(f"{what}, safe_range", self.safe_range)
        if self.limits is not None and self.safe_range is not None:
            ends = (self.limits, self.safe_range)
            if not max(low for low, _ in ends) < min(high for _, high in ends):
                raise ValueError(
                    f"{what}: limits {list(self.limits)} and safe_range {list(self.safe_range)} "
                    "have nothing in common; expected ranges that overlap"
                )
        if self.derivative_of is not None:
            for entry in ("sensor", "joint", "field", "index"):
                if getattr(self, entry) is not None:
                    raise ValueError(f"{what}: derivative_of and {entry} exclude each other")
            if self.angle:
                raise ValueError(f"{what}: a derivative does not wrap; leave out angle: true")
            if self.scale != 1.0:
                raise ValueError(f"{what}: scale goes with '{self.derivative_of}', not here")
        elif self.sensor is None:
            raise ValueError(f"{what}: expected sensor: TOPIC, or derivative_of: NAME")
        elif self.time_constant is not None:
            raise ValueError(f"{what}: time_constant needs derivative_of")
        if self.discrete:
            if self.derivative_of is not None or self.angle or self.scale != 1.0:
                raise ValueError(
                    f"{what}: discrete: true takes the number as it is sent; leave out "
                    "derivative_of, angle and scale"
                )
            if not self.model_input:
                raise ValueError(f"{what}: tables see every dimension; leave out model_input")
            if self.safe_range is None:
                raise ValueError(
                    f"{what}: discrete: true needs safe_range: [LOWEST, HIGHEST], all values "
                    "that there are"
                )
            _check_whole(f"{what}, safe_range", self.safe_range)
        turns = self.field == "position" or str(self.field).startswith("orientation.")
        if self.angle and self.index is None and not turns:
            raise ValueError(f"{what}: angle: true needs field: position, not {self.field}")
        if self.field in ("orientation.roll", "orientation.yaw") and not self.angle:
            raise ValueError(f"{what}: {self.field} wraps at +-pi; expected angle: true")
        return self

    @property
    def key(self) -> str:
        """Where it stands in the neutral form of its sensor's messages (`robots.messages`).

        Empty for a derivative, which stands in none.
        """
        if self.joint is not None:
            return f"{self.field}/{self.joint}"
        return str(self.index) if self.index is not None else self.field or ""


@dataclass(frozen=True, config=_CONFIG)
class ActionDimension:
    """One entry of the action vector."""

    name: str
    """What it is called everywhere: in cost, diagnostics and on the topic `action`."""
    unit: str
    """SI unit: a note for people."""
    bounds: Bounds
    """Lowest and highest value sent."""
    safe: Number = 0.0
    """What is sent when nothing better is known; it lies within the bounds. Of a discrete command
    it may be a number that is none of the choices, and so the guard's alone."""
    slew: Positive | None = None
    """Largest change per second, in unit/s; none: no limit."""
    jerk: Positive | None = None
    """Largest change per second of the rate of change, in unit/s^2; none: no limit."""
    field: str | None = None
    """What it sets of the message: linear.x to angular.z of a Twist or TwistStamped; position,
    velocity or effort of a joint in a JointTrajectory or JointState."""
    joint: str | None = None
    """Of a JointTrajectory or JointState: the joint's name."""
    scale: Number = 1.0
    """What a number in the message is multiplied by to be in `unit`: 0.001 for a robot that is
    commanded in millimetres per second, -1 for a motor that is mounted the other way round."""
    discrete: bool = False
    """The action is one of several choices, the whole numbers within the bounds; the guard
    refuses any other. Then all state dimensions are discrete too, and all of the command."""

    @model_validator(mode="after")
    def _check(self) -> ActionDimension:
        _check_bounds(f"action '{self.name}'", self.bounds)
        _check_scale(f"action '{self.name}'", self.scale)
        if not self.discrete and not self.bounds[0] <= self.safe <= self.bounds[1]:
            raise ValueError(
                f"action '{self.name}': safe value {self.safe} lies outside "
                f"bounds {list(self.bounds)}"
            )
        if self.discrete:
            _check_whole(f"action '{self.name}', bounds and safe", (*self.bounds, self.safe))
            if self.slew is not None or self.jerk is not None or self.scale != 1.0:
                raise ValueError(
                    f"action '{self.name}': discrete: true sends choices as they are; leave out "
                    "slew, jerk and scale"
                )
        return self


@dataclass(frozen=True, config=_CONFIG)
class Command:
    """The robot's command topic."""

    topic: Topic
    """Topic that commands are sent on, relative to the namespace."""
    type: Literal[
        "std_msgs/msg/Float64MultiArray",
        "geometry_msgs/msg/Twist",
        "geometry_msgs/msg/TwistStamped",
        "trajectory_msgs/msg/JointTrajectory",
        "sensor_msgs/msg/JointState",
    ]
    """Message type on the topic."""
    dimensions: Annotated[tuple[ActionDimension, ...], Field(min_length=1)]
    """The action vector; a Float64MultiArray carries the values in this order."""
    frame: str = ""
    """header.frame_id of a TwistStamped, such as base_link."""

    @model_validator(mode="after")
    def _check(self) -> Command:
        known = COMMAND_FIELDS[self.type]
        places: list[tuple[str | None, str | None]] = []
        for dimension in self.dimensions:
            what = f"action '{dimension.name}'"
            if known:
                _check_entry(what, "field", dimension.field, self.type)
                _check_known(f"{what}, field", [dimension.field or ""], known)
            else:
                _check_no_entry(what, "field", dimension.field, self.type)
            if known == JOINT_FIELDS:
                _check_entry(what, "joint", dimension.joint, self.type)
            else:
                _check_no_entry(what, "joint", dimension.joint, self.type)
            place = (dimension.joint, dimension.field)
            if known and place in places:
                text = " of joint ".join(part for part in reversed(place) if part)
                raise ValueError(f"{what}: {text} is set by another dimension already")
            places.append(place)
        # A message holds one list a field, each as long as the list of joints.
        joints = {joint for joint, _ in places}
        fields = {field for _, field in places}
        if known == JOINT_FIELDS and len(places) < len(joints) * len(fields):
            missing = next((j, f) for j in joints for f in fields if (j, f) not in places)
            raise ValueError(
                f"command: joint '{missing[0]}' has no dimension for {missing[1]}, other joints "
                f"have; a {self.type} sets the same fields of all its joints"
            )
        return self


def _check_entry(what: str, entry: str, value: object, type_: str) -> None:
    if value is None:
        raise ValueError(f"{what}: {type_} needs {entry}:")


def _check_no_entry(what: str, entry: str, value: object, type_: str) -> None:
    if value is not None:
        raise ValueError(f"{what}: {type_} has no {entry}; leave out {entry}: {value}")


@dataclass(frozen=True, config=_CONFIG)
class GoalDimension:
    """A state dimension that the goal fixes."""

    dimension: str
    """Name of a state dimension."""
    bounds: Bounds
    """Lowest and highest goal accepted."""
    tolerance: Positive
    """How near counts as reached, in the dimension's unit."""
    default: Number = 0.0
    """The goal in force when nothing else is asked for."""

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
    """Cost of leaving, or coming near to leaving, a range of one state dimension."""

    dimension: str
    """Name of a state dimension."""
    bounds: Bounds
    """Where it costs nothing."""
    weight: NonNegative
    """Weight of the cost."""
    kind: Literal["quadratic", "barrier"] = "quadratic"
    """quadratic: weight x (distance outside)^2. barrier: rises from `margin` inside the bounds
    on."""
    margin: Positive = 0.1
    """Of a barrier: how far inside the bounds it begins."""

    @model_validator(mode="after")
    def _check(self) -> SoftBound:
        _check_bounds(f"soft bound on '{self.dimension}'", self.bounds)
        return self


@dataclass(frozen=True, config=_CONFIG)
class Obstacle:
    """What a robot that moves in a plane is to keep away from: weight x (margin - distance)^2."""

    shape: Literal["circle", "box"]
    """Its outline."""
    plane: tuple[str, str]
    """The two state dimensions that are the robot's position."""
    center: tuple[Number, Number]
    """Middle of the shape, in metres."""
    weight: NonNegative
    """Weight of the cost."""
    margin: Positive
    """Distance in metres from which on it costs nothing; it includes the robot's own radius."""
    radius: NonNegative = 0.0
    """Of a circle, in metres."""
    size: tuple[NonNegative, NonNegative] = (0.0, 0.0)
    """Of a box, along the two dimensions, in metres."""


@dataclass(frozen=True, config=_CONFIG)
class Exploration:
    """Reward for steps that tell the model something; it fades."""

    weight: NonNegative
    """Weight on what a step would tell, in nats (`DynamicsModel.novelty`)."""
    half_life: Positive = 100.0
    """Transitions after which the weight has halved."""


@dataclass(frozen=True, config=_CONFIG)
class Cost:
    """Weights of the stage cost, by dimension name (see `planning.objective`)."""

    goal: dict[str, NonNegative] = Field(default_factory=dict)
    """Weight on the squared distance to the goal, by goal dimension."""
    state: dict[str, NonNegative] = Field(default_factory=dict)
    """Weight on the squared value, by state dimension."""
    effort: dict[str, NonNegative] = Field(default_factory=dict)
    """Weight on the squared value, by action dimension."""
    rate: dict[str, NonNegative] = Field(default_factory=dict)
    """Weight on the squared change from step to step, by action dimension."""
    terminal: dict[str, NonNegative] = Field(default_factory=dict)
    """Weight on the squared distance to the goal at the end of a plan, by goal dimension."""
    soft_bounds: tuple[SoftBound, ...] = ()
    """Ranges that cost something to leave."""
    obstacles: tuple[Obstacle, ...] = ()
    """What to keep away from."""
    reward: NonNegative = 0.0
    """Weight on the learned reward, which counts as negative cost; needs `reward`."""
    exploration: Exploration | None = None
    """Reward for what steps would tell the model; none: no such reward."""
    terms: dict[str, dict[str, Any]] = Field(default_factory=dict)
    """Settings of cost terms from other packages, by name."""


@dataclass(frozen=True, config=_CONFIG)
class Success:
    """A run is solved once the robot stays at its goal for a while.

    At all of it, within the tolerances of `goal`; or at one dimension of it, within `tolerance`.
    """

    hold: Positive
    """Seconds that it has to stay there."""
    dimension: str | None = None
    """Name of the one goal dimension that counts; none: all count."""
    tolerance: Positive | None = None
    """How near counts, in the dimension's unit."""
    label: str = "at the goal"
    """What people call that, as in "up since 5.3 s"."""

    @model_validator(mode="after")
    def _check(self) -> Success:
        if (self.dimension is None) != (self.tolerance is None):
            found = "dimension" if self.tolerance is None else "tolerance"
            raise ValueError(
                f"success: {found} is alone; expected dimension and tolerance, or neither for "
                "all dimensions of the goal, each within its own tolerance"
            )
        return self


@dataclass(frozen=True, config=_CONFIG)
class Planar:
    """Which state dimensions are the robot's pose in the plane (REP-103: x forward, y left).

    With it the planner takes `goal_pose` and draws its plan for RViz and Foxglove.
    """

    x: str
    """State dimension of the position along x, in metres."""
    y: str
    """State dimension of the position along y, in metres."""
    yaw: str | None = None
    """State dimension of the heading, in radians; none: the robot has none."""


@dataclass(frozen=True, config=_CONFIG)
class Simulation:
    """The plant that stands in for the robot with `sim:=true`."""

    plant: str = "mujoco"
    """Kind of plant: mujoco, diff_drive, quadrotor2d, gymnasium, discrete, or one of another
    package."""
    model: str | None = None
    """Of plant mujoco: MJCF file beside the robot's own file, or in mbrl_ros/sim/models."""
    initial_position: dict[str, Number] = Field(default_factory=dict)
    """Where it starts, by joint or coordinate; what is not named starts at zero."""
    settings: dict[str, Any] = Field(default_factory=dict)
    """The plant's own settings, which the plant checks."""


@dataclass(frozen=True, config=_CONFIG)
class RobotSpec:
    """All that is known of a robot before it moves.

    D is the number of state dimensions, A of action dimensions, G of goal dimensions;
    vectors everywhere in the package follow the order of `state`, `command.dimensions`, `goal`.
    """

    name: Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$")]
    """Lower-case name; models and experience carry it."""
    control_rate: Annotated[float, Field(gt=0.0, le=1000.0), _NUMBER]
    """Ticks of the control clock per second: one state, plan and command each."""
    sensors: Annotated[dict[Topic, Sensor], Field(min_length=1)]
    """What is measured, by topic (relative to the namespace)."""
    state: Annotated[tuple[StateDimension, ...], Field(min_length=1)]
    """The state vector, in order."""
    command: Command
    """What is sent to the robot."""
    cost: Cost
    """What the planner minimises: the sum of these terms."""
    goal: tuple[GoalDimension, ...] = ()
    """What the goal fixes, in order; empty for a robot that only has a reward."""
    success: Success | None = None
    """When a run counts as solved; none: it never does."""
    reward: Topic | None = None
    """Topic (sensor_msgs/JointState named `reward`, stamped with the tick) of a reward to be
    learned; none: the robot has no reward."""
    delay: Annotated[float, Field(ge=0.0, le=10.0), _NUMBER] = 0.0
    """Seconds from when a command is sent to when it moves the robot, as far as they are known:
    the first guess of delay compensation, which then measures."""
    planar: Planar | None = None
    """The state dimensions that are a pose in the plane; none: the robot has no such pose."""
    simulation: Simulation | None = None
    """What stands in for the robot with sim:=true; none: it cannot be simulated."""
    description: str = ""
    """One sentence for people."""

    @model_validator(mode="after")
    def _check(self) -> RobotSpec:
        state, action = self.state_names, self.action_names
        for what, names in (("state", state), ("command", action), ("goal", self.goal_names)):
            duplicates = sorted({name for name in names if names.count(name) > 1})
            if duplicates:
                raise ValueError(f"{what}: name '{duplicates[0]}' is used twice")
        self._check_topics()
        for dimension in self.state:
            self._check_source(dimension)
        self._check_read_once()
        choices = [dimension.discrete for dimension in self.command.dimensions]
        if any(choices) and not (all(choices) and all(d.discrete for d in self.state)):
            raise ValueError(
                "command: a dimension has discrete: true; expected it of all dimensions of the "
                "command and of the state"
            )
        for topic in self.sensors:
            if not any(dimension.sensor == topic for dimension in self.state):
                raise ValueError(
                    f"sensors: no state dimension reads '{topic}'; leave it out, because every "
                    "state would wait for it"
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
        if not (self.goal or self.cost.reward or self.cost.state or self.cost.terms):
            raise ValueError(
                "there is nothing to pursue: expected a `goal`, or `cost.reward` and `reward`"
            )
        if self.success is not None:
            one = self.success.dimension
            _check_known("success.dimension", [] if one is None else [one], self.goal_names)
            if not self.goal:
                raise ValueError("success: there is no `goal` to stay at; leave out success")
        if self.planar is not None:
            planar = (self.planar.x, self.planar.y, self.planar.yaw)
            _check_known("planar", [name for name in planar if name is not None], state)
        return self

    def _check_topics(self) -> None:
        """Raise ValueError unless every topic is one of the robot's, and none is used twice."""
        used: dict[str, str] = {}
        topics = [("sensors", topic) for topic in self.sensors]
        topics += [("command.topic", self.command.topic)]
        topics += [("reward", self.reward)] if self.reward is not None else []
        for what, topic in topics:
            if topic.lstrip("/") in STACK_TOPICS:
                raise ValueError(
                    f"{what}: '{topic}' is a topic of this package's own; expected one of the "
                    f"robot's, none of {', '.join(STACK_TOPICS)}"
                )
            if topic in used:
                raise ValueError(
                    f"{what}: '{topic}' stands under {used[topic]} already; expected a topic each"
                )
            used[topic] = what

    def _check_read_once(self) -> None:
        """Raise ValueError if two state dimensions are the same number of the same message."""
        read: dict[tuple[str, str], str] = {}
        for dimension in self.state:
            if dimension.sensor is None:
                continue
            place = (dimension.sensor, dimension.key)
            if place in read:
                raise ValueError(
                    f"state '{dimension.name}': reads what '{read[place]}' reads of "
                    f"{dimension.sensor}; expected another joint, field or index"
                )
            read[place] = dimension.name

    def _check_source(self, dimension: StateDimension) -> None:
        """Raise ValueError unless the sensor, or the other dimension, has what is read of it."""
        what = f"state '{dimension.name}'"
        if dimension.sensor is None:
            read = [other.name for other in self.state if other.sensor is not None]
            _check_known(f"{what}, derivative_of", [dimension.derivative_of or ""], read)
            if self.state[self.state_names.index(dimension.derivative_of or "")].discrete:
                raise ValueError(
                    f"{what}: derivative_of {dimension.derivative_of}, which is discrete and "
                    "changes all at once"
                )
            return
        _check_known(f"{what}, sensor", [dimension.sensor], list(self.sensors))
        type_ = self.sensors[dimension.sensor].type
        known = SENSOR_FIELDS[type_]
        if known:
            _check_no_entry(what, "index", dimension.index, type_)
            _check_entry(what, "field", dimension.field, type_)
            _check_known(f"{what}, field of {type_}", [dimension.field or ""], known)
        else:
            _check_entry(what, "index", dimension.index, type_)
            _check_no_entry(what, "field", dimension.field, type_)
        if type_ == JOINT_STATE:
            _check_entry(what, "joint", dimension.joint, type_)
        else:
            _check_no_entry(what, "joint", dimension.joint, type_)

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
    def input_mask(self) -> list[bool]:
        """Which of the D state dimensions models see."""
        return [dimension.model_input for dimension in self.state]

    def rate_of(self, index: int) -> int | None:
        """Return which state dimension is the velocity of another one, or None if none is.

        It is derived from that one, or read of the same joint.
        """
        of = self.state[index]
        for i, other in enumerate(self.state):
            measured = (
                of.field == "position"
                and other.field == "velocity"
                and of.joint is not None
                and (other.sensor, other.joint) == (of.sensor, of.joint)
            )
            if measured or other.derivative_of == of.name:
                return i
        return None

    @property
    def discrete(self) -> bool:
        """Whether states and actions are whole numbers: a robot for tables, not for planners."""
        return all(dimension.discrete for dimension in self.command.dimensions)

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

    def same_goal(self, goal: Sequence[float], other: Sequence[float]) -> bool:
        """Whether two goals (G,) are within its tolerances of each other."""
        state = [0.0] * len(self.state)
        for name, value in zip(self.goal_names, goal, strict=True):
            state[self.state_names.index(name)] = value
        return self.goal_reached(state, other)

    def goal_reached(self, state: Sequence[float], goal: Sequence[float]) -> bool:
        """Whether every goal dimension is within its tolerance."""
        errors = self.goal_errors(state, goal)
        return all(e <= spec.tolerance for e, spec in zip(errors, self.goal, strict=True))

    def succeeds(self, state: Sequence[float], goal: Sequence[float]) -> bool:
        """Whether `state` (D,) is where it has to stay for a run to count as solved.

        Never of a robot whose file does not say.
        """
        if self.success is None:
            return False
        if self.success.dimension is None or self.success.tolerance is None:
            return self.goal_reached(state, goal)
        index = self.goal_names.index(self.success.dimension)
        return self.goal_errors(state, goal)[index] <= self.success.tolerance


_ADAPTER = TypeAdapter(RobotSpec)


def robot_names() -> list[str]:
    """Names of the robots that ship with the package, for `load_robot`."""
    return sorted(path.stem for path in (config_directory() / "robots").glob("*.yaml"))


def load_robot(robot: str) -> RobotSpec:
    """Load a robot by shipped name, by path of a YAML file, or as gym/ENVIRONMENT_ID.

    Raises RobotError, with what was found and what was expected, when the file is missing,
    unreadable, not YAML, or does not describe a robot, or the environment cannot be used.
    """
    if robot.startswith(GYMNASIUM):
        from mbrl_ros.sim.gymnasium_plant import describe_environment

        return _validated(describe_environment(robot.removeprefix(GYMNASIUM)), robot)
    path = Path(robot)
    if path.suffix not in (".yaml", ".yml"):
        path = config_directory() / "robots" / f"{robot}.yaml"
        if robot not in robot_names():
            raise RobotError(
                f"unknown robot '{robot}'; expected one of {', '.join(robot_names())}, "
                "or the path of a YAML file"
            )
    try:
        data = read_mapping(path)
    except YamlFileError as error:
        raise RobotError(f"robot file {path}: {error}") from None
    return _validated(_with_own_model(data, path), f"robot file {path}")


def _validated(data: dict[str, Any], source: str) -> RobotSpec:
    try:
        return _ADAPTER.validate_python(data)
    except ValidationError as error:
        raise RobotError(f"{source}:\n" + _explain(error, data)) from None


def _with_own_model(data: dict[str, Any], path: Path) -> dict[str, Any]:
    """Return the robot with the full path of its MJCF file, if that lies beside its own file."""
    simulation = data.get("simulation")
    if not isinstance(simulation, dict):
        return data
    model = simulation.get("model")
    if not isinstance(model, str) or not (path.parent / model).is_file():
        return data
    return data | {"simulation": simulation | {"model": str((path.parent / model).absolute())}}


def _explain(error: ValidationError, data: dict[str, Any]) -> str:
    """One line a problem: where it is, what was found, what was expected.

    What only follows from it further up, such as a list that is too short without a bad entry,
    is left out.
    """
    lines = []
    problems = error.errors(include_url=False)
    places = [problem["loc"] for problem in problems]
    for problem in problems:
        size = len(problem["loc"])
        if any(len(other) > size and other[:size] == problem["loc"] for other in places):
            continue
        where = _place(problem["loc"], data)
        message = _WORDS.get(problem["type"]) or problem["msg"].removeprefix("Value error, ")
        if problem["type"] == "unexpected_keyword_argument":
            message = _unexpected(problem["loc"])
        elif problem["type"] == "string_pattern_mismatch":
            message = _TOPIC if "/" in problem["ctx"]["pattern"] else _NAME
        found: Any = problem.get("input")
        shown = "" if isinstance(found, (dict, list)) or found is None else f" (found {found!r})"
        lines.append(f"  {where + ': ' if where else ''}{message}{shown}")
    return "\n".join(lines)


# What a file's author need not know of how it is read.
_WORDS = {
    "missing": "is missing",
    "too_short": "is empty, expected at least one entry",
    "dict_type": "expected a mapping, entries with a name each",
    "dataclass_type": "expected a mapping, entries with a name each",
    "tuple_type": "expected a list",
    "float_type": "expected a number",
    "float_parsing": "expected a number",
}
_NAME = "expected a lower-case letter, then lower-case letters, digits and underscores"
_TOPIC = "expected the name of a topic, such as imu/data: letters, digits, _ and / between them"


def _place(loc: tuple[int | str, ...], data: Any) -> str:
    """Return where in a file something is; entries of a list by number and, if any, by name."""
    words = []
    for part in loc:
        word = str(part)
        try:
            data = data[part]
        except (KeyError, IndexError, TypeError):
            data = None
        if isinstance(part, int) and isinstance(data, dict):
            name = data.get("name", data.get("dimension"))
            word += f" ({name})" if isinstance(name, str) else ""
        words.append(word)
    return ".".join(words)


def _unexpected(loc: tuple[int | str, ...]) -> str:
    """Return which entries there are where one is that there is not."""
    schema = _ADAPTER.json_schema()
    here = schema
    for part in loc[:-1]:
        if isinstance(part, int):
            here = here.get("items", here)
        else:
            here = here.get("properties", {}).get(part) or here.get("additionalProperties", {})
        here = next((one for one in here.get("anyOf", ()) if "$ref" in one), here)
        if "$ref" in here:
            here = schema["$defs"][here["$ref"].rpartition("/")[2]]
    known = list(here.get("properties", {}))
    near = get_close_matches(str(loc[-1]), known, n=1)
    hint = f"did you mean {near[0]}? Expected " if near else "expected "
    return f"there is no such entry; {hint}one of {', '.join(known)}"
