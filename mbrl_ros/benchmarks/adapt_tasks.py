# Copyright 2026 The mbrl_ros authors
# SPDX-License-Identifier: Apache-2.0
"""What changes about robots in the benchmark of adaptation, and what they are doing meanwhile."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from mbrl_ros.benchmarks.control_tasks import TASKS
from mbrl_ros.benchmarks.plants import Arm, CartPole, ClosedForm, DiffDrive
from mbrl_ros.robots.spec import RobotSpec, load_robot

_PAYLOAD = 0.4  # kg that the arm carries before it is doubled
_FOREARM, _UPPER_ARM = 0.4, 0.5  # m
_PATCH = 1.0  # m: where the slippery patch begins, along x
_SLIP = 5.0  # how many times as long speed and turn rate take there to follow their commands


@dataclass(frozen=True)
class Change:
    """A robot at work when its world changes.

    before, after: make the plants. place (D,), spread (D,): around which and how far states
    lie from which the model was learned. start (D,): state at the beginning. goal: of the time
    in seconds; foreseen: whether the planner knows it ahead. reached: whether a state lies
    where the change is felt, once the warm-up of so many seconds is over.
    """

    name: str
    robot: Callable[[], RobotSpec]
    before: Callable[[RobotSpec], ClosedForm]
    after: Callable[[RobotSpec], ClosedForm]
    place: tuple[float, ...]
    spread: tuple[float, ...]
    start: tuple[float, ...]
    goal: Callable[[float], tuple[float, ...]]
    foreseen: bool = False
    place_after: tuple[float, ...] | None = None
    reached: Callable[[Tensor], bool] = lambda state: True
    warm_up: float = 3.0


class GearedCartPole(CartPole):
    """A cart-pole whose motor gives so many times the force that it is told.

    The ends of its rail stop the cart dead.
    """

    def __init__(self, robot: RobotSpec, motor_gain: float) -> None:
        super().__init__(robot)
        self._motor_gain = motor_gain
        self._rail = next(d.limits[1] for d in robot.state if d.limits is not None)

    def derivative(self, states: Tensor, actions: Tensor) -> Tensor:
        """As CartPole's."""
        return super().derivative(states, actions * self._motor_gain)

    def step(self, states: Tensor, actions: Tensor) -> Tensor:
        """Integrate over one period, as far as the rail goes."""
        position, velocity, angle, rate = super().step(states, actions).unbind(1)
        velocity = torch.where(position.abs() < self._rail, velocity, 0.0)
        return torch.stack([position.clamp(-self._rail, self._rail), velocity, angle, rate], 1)


class LoadedArm(Arm):
    """An arm with a point mass (kg) in its hand."""

    def __init__(self, robot: RobotSpec, payload: float) -> None:
        super().__init__(robot)
        self._elbow += payload * _FOREARM**2
        self._shoulder += payload * (_FOREARM**2 + _UPPER_ARM**2)
        self._coupling += payload * _FOREARM * _UPPER_ARM


class SlipperyFloor(DiffDrive):
    """A differential drive whose wheels pass on less force, for the same slip, beyond some x."""

    def derivative(self, states: Tensor, actions: Tensor) -> Tensor:
        """As DiffDrive's, but slower to change speed and turn rate on the patch."""
        found = super().derivative(states, actions)
        share = torch.where(states[:, 0] > _PATCH, 1.0 / _SLIP, 1.0)
        return torch.cat([found[:, :3], found[:, 3:] * share[:, None]], 1)


def _empty_floor() -> RobotSpec:
    robot = TASKS["diff_drive"].robot()
    return replace(robot, cost=replace(robot.cost, obstacles=()))


def _in_turn(
    values: tuple[tuple[float, ...], ...], seconds: float
) -> Callable[[float], tuple[float, ...]]:
    """Return goals that take turns."""
    return lambda time: values[int(time / seconds + 1e-9) % len(values)]


def _reaching(time: float) -> tuple[float, ...]:
    """Return where the arm's joints are to be."""
    return (
        0.8 * math.sin(2.0 * math.pi * time / 4.0),
        1.0 + 0.6 * math.sin(2.0 * math.pi * time / 3.0),
    )


def _fetching(time: float) -> tuple[float, ...]:
    """Return where the differential drive is to be: at first into the patch, then to and fro."""
    return ((2.0, 0.0), (3.0, 0.5), (2.0, -0.5), (3.0, -0.5), (2.0, 0.5))[int(time / 4.0) % 5]


def _cart_pole(name: str, motor_gain: float) -> Change:
    return Change(
        name,
        lambda: load_robot("cartpole"),
        lambda robot: GearedCartPole(robot, 1.0),
        lambda robot: GearedCartPole(robot, motor_gain),
        place=(0.0, 0.0, 0.0, 0.0),
        spread=(0.5, 0.7, 0.8, 2.0),
        start=(0.0, 0.0, 0.1, 0.0),
        goal=_in_turn(((0.5, 0.0), (-0.5, 0.0)), 2.0),
    )


CHANGES = {
    change.name: change
    for change in (
        Change(
            "slippery_patch",
            _empty_floor,
            DiffDrive,
            SlipperyFloor,
            place=(0.0, 0.0, 0.0, 0.0, 0.0),
            spread=(0.5, 0.5, 2.0, 0.4, 0.8),
            start=(0.0, 0.0, 0.0, 0.0, 0.0),
            goal=_fetching,
            place_after=(2.5, 0.0, 0.0, 0.0, 0.0),
            reached=lambda state: float(state[0]) > _PATCH,
            warm_up=0.5,
        ),
        Change(
            "doubled_payload",
            lambda: load_robot("arm2"),
            lambda robot: LoadedArm(robot, _PAYLOAD),
            lambda robot: LoadedArm(robot, 2.0 * _PAYLOAD),
            place=(0.0, 1.0, 0.0, 0.0),
            spread=(0.8, 0.7, 1.2, 1.2),
            start=(0.0, 1.0, 0.0, 0.0),
            goal=_reaching,
            foreseen=True,
        ),
        _cart_pole("halved_motor_gain", 0.5),
        _cart_pole("reversed_actuator", -1.0),
    )
}
