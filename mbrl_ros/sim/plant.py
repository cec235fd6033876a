# Copyright 2026 The mbrl_ros authors
# SPDX-License-Identifier: Apache-2.0
"""What every simulated robot offers: time, readings of sensors, and a world that can change."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from mbrl_ros.kinds import PLANTS
from mbrl_ros.robots.spec import RobotError, RobotSpec

# What one sensor reads, by key: "position/NAME" of a JointState, "position.x" of an Odometry, an
# Imu or a PoseStamped, "3" of a Float64MultiArray.
Reading = dict[str, float]


@dataclass(frozen=True)
class Disturbance:
    """A property of the world that can change while the robot runs.

    default: its value in a world that nobody has changed. least, most: accepted, edges included.
    """

    name: str
    default: float
    least: float
    most: float
    description: str


DISTURBANCES = (
    Disturbance("friction", 1.0, 0.0, 1000.0, "Scale of all friction and damping."),
    Disturbance("mass", 1.0, 0.01, 100.0, "Scale of all masses and inertias."),
    Disturbance("payload", 0.0, 0.0, 1000.0, "Mass that is carried in addition, in kg."),
    Disturbance("wind", 0.0, -1000.0, 1000.0, "Force along the world's x axis, in N."),
    Disturbance(
        "motor_gain", 1.0, -10.0, 10.0, "Scale of what motors do; negative: reversed motors."
    ),
    Disturbance(
        "slippery_patch", 0.0, 0.0, 1.0, "Share of the grip that is lost on the slippery patch."
    ),
)
_BY_NAME = {disturbance.name: disturbance for disturbance in DISTURBANCES}


class Plant(ABC):
    """A simulated robot behind the sensors and the command of its YAML file.

    A kind supplies `reset`, `step` and `meters`, and names in `disturbances` what can change in
    its world, of which `_values` holds what is in force. What it is made with beyond robot and
    seed (of all that is random in it) comes from `simulation.settings`.

    Raises RobotError if the robot has a sensor that this plant cannot stand in for.
    """

    disturbances: tuple[str, ...] = ()

    def __init__(self, robot: RobotSpec, seed: int = 0) -> None:
        self._values = {name: _BY_NAME[name].default for name in self.disturbances}
        self._meters: dict[str, Callable[[], Reading]] = {}
        meters = self.meters()
        for topic, sensor in robot.sensors.items():
            if sensor.type not in meters:
                raise RobotError(
                    f"sensor '{topic}' is of type {sensor.type}, which this plant does not "
                    f"measure; it measures {', '.join(meters)}"
                )
            self._meters[topic] = meters[sensor.type]

    @property
    @abstractmethod
    def time_step(self) -> float:
        """Seconds of one integration step."""

    @abstractmethod
    def reset(self) -> None:
        """Return to the initial position, at rest, with no action; the world stays changed."""

    @abstractmethod
    def step(self, action: Sequence[float], steps: int) -> None:
        """Integrate `steps` time steps with action (A,) in force."""

    @abstractmethod
    def meters(self) -> dict[str, Callable[[], Reading]]:
        """Return, by message type, what reads a sensor of that type now."""

    @property
    def reward(self) -> float | None:
        """What the last step earned; None: this plant knows no reward."""
        return None

    @property
    def ended(self) -> bool:
        """Whether an episode is over, so that `reset` must come before the next step."""
        return False

    def readings(self) -> dict[str, Reading]:
        """Return what each of the robot's sensors reads now, by topic."""
        return {topic: meter() for topic, meter in self._meters.items()}

    def disturb(self, name: str, value: float) -> None:
        """Change the world from now on; raises ValueError, with what is accepted, if it cannot."""
        self.check_disturbance(name, value)
        self._disturb(name, float(value))

    def check_disturbance(self, name: str, value: float) -> None:
        """Raise ValueError, saying what is accepted, if `disturb` would refuse."""
        known = _BY_NAME.get(name)
        if known is None or name not in self.disturbances:
            raise ValueError(
                f"there is no '{name}' in this robot's world; there is "
                f"{', '.join(self.disturbances) or 'nothing to change'}"
            )
        if not (math.isfinite(value) and known.least <= value <= known.most):
            raise ValueError(f"{name} is {value}, expected {known.least:g} to {known.most:g}")

    def _disturb(self, name: str, value: float) -> None:
        """Take note of a change that is accepted."""
        self._values[name] = value


def make_plant(robot: RobotSpec, seed: int = 0) -> Plant:
    """Make the plant that the robot's `simulation` section names (see `kinds.PLANTS`).

    Raises RobotError, with what was expected, if the section is missing or cannot be used.
    """
    simulation = robot.simulation
    if simulation is None:
        raise RobotError(
            f"robot '{robot.name}' has no simulation: section; add one or use sim:=false"
        )
    try:
        kind: Any = PLANTS.load(simulation.plant)
    except ValueError as error:
        raise RobotError(f"simulation.plant: {error}") from None
    try:
        plant: Plant = kind(robot, seed=seed, **simulation.settings)
    except TypeError as error:
        raise RobotError(
            f"simulation.settings {sorted(simulation.settings)} do not suit plant "
            f"'{simulation.plant}': {error}"
        ) from None
    return plant


def check_actions(robot: RobotSpec, expected: Sequence[str]) -> None:
    """Raise RobotError unless the robot's command dimensions are these, in any order."""
    if sorted(robot.action_names) != sorted(expected):
        raise RobotError(
            f"command dimensions {robot.action_names} do not match what the plant is driven "
            f"by: {list(expected)}"
        )


def check_positive(**settings: float) -> None:
    """Raise RobotError for a setting that is not a positive number."""
    for name, value in settings.items():
        if not (isinstance(value, (int, float)) and 0.0 < value < math.inf):
            raise RobotError(f"simulation.settings.{name} is {value!r}, expected a number above 0")


def initial_position(robot: RobotSpec, coordinates: Sequence[str]) -> list[float]:
    """Return where the robot starts, by coordinate; raises RobotError for an unknown one."""
    given = {} if robot.simulation is None else robot.simulation.initial_position
    for name in given:
        if name not in coordinates:
            raise RobotError(
                f"simulation.initial_position: unknown coordinate '{name}'; "
                f"expected one of {', '.join(coordinates)}"
            )
    return [float(given.get(name, 0.0)) for name in coordinates]
