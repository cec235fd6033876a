# Copyright 2026 The mbrl_ros authors
# SPDX-License-Identifier: Apache-2.0
"""From sensor values to one state vector a control period."""

from __future__ import annotations

import math
from collections.abc import Mapping

from mbrl_ros.robots.spec import RobotSpec, StateDimension


class SensorError(ValueError):
    """A sensor message that cannot be used; says which value, and what was expected."""


class StateEstimator:
    """Collects sensor messages and completes the state of each tick.

    Ticks are the multiples of the control period. The state of a tick is made of the first
    message of each sensor at or after it, and is complete when the last of them has come.
    `rejected` counts messages that could not be used.
    """

    def __init__(self, robot: RobotSpec) -> None:
        self._robot = robot
        self._period = robot.period_nanoseconds
        # Per sensor: tick of the values held, the values, and when the last message arrived.
        self._ticks: dict[str, int] = {}
        self._values: dict[str, dict[str, float]] = {}
        self._arrived: dict[str, float] = {}
        self._published = -1
        self.last_state: list[float] | None = None
        self.states = 0
        self.rejected = 0

    def add(
        self, sensor: str, stamp: int, values: Mapping[str, float], now: float
    ) -> tuple[int, list[float]] | None:
        """Take a message: stamp in nanoseconds, values by key, arrival in seconds.

        Values as `robots.messages` reads them.

        Returns the tick's stamp and its state (D,) if this completes it, angles in [-pi, pi].
        The first message of the present tick may come again: then so does the state. Raises
        SensorError for an unknown sensor, a missing key or a value that is not finite.
        """
        read = self._read(sensor, values)
        self._arrived[sensor] = now
        tick = stamp // self._period
        if tick < self._ticks.get(sensor, -1):
            if tick < self._ticks[sensor] - 1:
                # Time went backwards, as after a simulator's restart: begin again.
                self._ticks, self._values, self._published = {}, {}, -1
            else:
                return None
        repeated = stamp == tick * self._period and tick == self._published
        if tick == self._ticks.get(sensor) and not repeated:
            return None
        self._ticks[sensor], self._values[sensor] = tick, read
        if any(self._ticks.get(name, -1) < tick for name in self._robot.sensors):
            return None
        self._published = tick
        self.states += 1
        self.last_state = [
            self._values[dimension.sensor or ""][dimension.name] for dimension in self._robot.state
        ]
        return tick * self._period, self.last_state

    def missing(self, now: float) -> list[str]:
        """Return the sensors without a message for longer than their time-out; now in seconds."""
        return [
            name
            for name, sensor in self._robot.sensors.items()
            if name not in self._arrived or now - self._arrived[name] > sensor.timeout
        ]

    def _read(self, sensor: str, found: Mapping[str, float]) -> dict[str, float]:
        values = {}
        for dimension in self._robot.state:
            if dimension.sensor != sensor:
                continue
            if dimension.key not in found:
                self.rejected += 1
                raise SensorError(
                    f"{sensor} has no {_named(dimension)}; it has {', '.join(sorted(found))}"
                )
            value = found[dimension.key]
            if not math.isfinite(value):
                self.rejected += 1
                raise SensorError(
                    f"{sensor}: {_named(dimension)} is {value}, expected a finite number"
                )
            wrapped = math.remainder(value, 2.0 * math.pi) if dimension.angle else value
            values[dimension.name] = wrapped
        return values


def _named(dimension: StateDimension) -> str:
    if dimension.joint is not None:
        return f"{dimension.field} of joint '{dimension.joint}'"
    return dimension.field or f"value at index {dimension.index}"
