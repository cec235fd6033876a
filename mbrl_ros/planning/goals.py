# Copyright 2026 The mbrl_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Where the robot is to be, now and over the next steps: a goal, way points or a trajectory."""

from __future__ import annotations

import math
from collections.abc import Sequence

from mbrl_ros.robots.spec import NANOSECONDS, RobotSpec


class Goals:
    """The goal in force, which way points and trajectories move.

    Of the three the one that was set last counts. Way points are visited in order: the next one
    comes once the state has been within the goal's tolerances for `dwell` seconds; the last one
    stays. A trajectory begins when it is first asked for, is linear between its points, and
    stays at its end.
    """

    def __init__(self, robot: RobotSpec) -> None:
        self._robot = robot
        self.goal = list(robot.goal_default)  # in force, (G,)
        self.dwell = 0.0  # seconds
        self._waypoints: list[list[float]] = []  # still to come
        self._count = 0  # of all way points
        self._reached_at: int | None = None
        self._trajectory: list[list[float]] = []  # rows of seconds and goal
        self._begun_at: int | None = None

    @property
    def left(self) -> int:
        """How many way points are still to come after the one in force."""
        return len(self._waypoints)

    @property
    def waypoint(self) -> str:
        """Which way point is in force, as in "2 of 3"; empty where there are none."""
        return f"{self._count - self.left} of {self._count}" if self._count else ""

    @property
    def moving(self) -> bool:
        """Whether a trajectory moves the goal."""
        return bool(self._trajectory)

    def set_goal(self, goal: Sequence[float]) -> None:
        """Go to goal (G,). Raises ValueError, with the reason, if it cannot be used."""
        self._check(goal)
        self.goal = [float(value) for value in goal]
        self._waypoints, self._trajectory, self._count = [], [], 0

    def set_waypoints(self, flat: Sequence[float]) -> None:
        """Visit way points, one after the other in one list; none: stay with the goal in force.

        Raises ValueError, with the reason, if they cannot be used.
        """
        points = self._rows("waypoints", flat, len(self._robot.goal))
        for point in points:
            self._check(point)
        self._trajectory, self._reached_at, self._count = [], None, len(points)
        if points:
            self.goal, *self._waypoints = points
        else:
            self._waypoints = []

    def set_trajectory(self, flat: Sequence[float]) -> None:
        """Follow points [seconds, goal...], one after the other in one list; none: stay.

        Raises ValueError, with the reason, if they cannot be used.
        """
        rows = self._rows("goal_trajectory", flat, 1 + len(self._robot.goal))
        times = [row[0] for row in rows]
        if any(not b > a for a, b in zip([-math.inf, *times], times, strict=False)):
            raise ValueError(f"goal_trajectory: times {times} do not increase")
        for row in rows:
            self._check(row[1:])
        self._waypoints, self._trajectory, self._begun_at = [], rows, None
        self._count = 0

    def at(
        self, stamp: int, state: Sequence[float], horizon: int
    ) -> list[float] | list[list[float]]:
        """Return the goal (G,), or (H, G) along a trajectory, for a plan from this tick on.

        stamp: of the tick, nanoseconds. state (D,): tells whether a way point is reached.
        """
        if self._trajectory:
            if self._begun_at is None:
                self._begun_at = stamp
            begin = (stamp - self._begun_at) / NANOSECONDS
            period = self._robot.period
            rows = [self._along(begin + period * (step + 1)) for step in range(horizon)]
            self.goal = self._along(begin)
            return rows
        if self._waypoints:
            self._advance(stamp, state)
        return list(self.goal)

    def _advance(self, stamp: int, state: Sequence[float]) -> None:
        if not self._robot.goal_reached(state, self.goal):
            self._reached_at = None
            return
        if self._reached_at is None:
            self._reached_at = stamp
        if stamp - self._reached_at >= self.dwell * NANOSECONDS:
            self.goal, self._reached_at = self._waypoints.pop(0), None

    def _along(self, time: float) -> list[float]:
        rows = self._trajectory
        later = next((i for i, row in enumerate(rows) if row[0] > time), len(rows))
        if later == 0:
            return rows[0][1:]
        if later == len(rows):
            return rows[-1][1:]
        (begin, *first), (end, *second) = rows[later - 1], rows[later]
        share = (time - begin) / (end - begin)
        return [a + share * (b - a) for a, b in zip(first, second, strict=True)]

    def _check(self, goal: Sequence[float]) -> None:
        problem = self._robot.check_goal(goal)
        if problem:
            raise ValueError(problem)

    @staticmethod
    def _rows(what: str, flat: Sequence[float], width: int) -> list[list[float]]:
        values = [float(value) for value in flat]
        if values and not width:
            raise ValueError(f"{what}: this robot has no goal, only a reward")
        if values and len(values) % width:
            raise ValueError(f"{what} has {len(values)} values, expected a multiple of {width}")
        if not all(math.isfinite(value) for value in values):
            raise ValueError(f"{what} holds a value that is not finite: {values}")
        return [values[i : i + width] for i in range(0, len(values), width or 1)]
