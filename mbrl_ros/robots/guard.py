# Copyright 2026 The mbrl_ros authors
# SPDX-License-Identifier: Apache-2.0
"""The rules that a command passes last: what may go to the robot, and what goes in its place."""

from __future__ import annotations

import math
from collections.abc import Sequence
from enum import Enum

from mbrl_ros.robots.spec import RobotSpec


class GuardStatus(Enum):
    """What the guard is doing, and why."""

    DISARMED = "disarmed: call ~/arm to let commands through"
    WAITING = "waiting for the first action"
    ACTIVE = "passing actions on"
    TIMEOUT = "no action in time: going to the safe command"
    STOPPED = "stopped by ~/stop: safe command until ~/arm"


class CommandGuard:
    """Decides on every command; times are seconds of one monotonic clock.

    timeout: seconds without an action after which the command goes to the safe one. armed:
    whether actions pass from the start.
    """

    def __init__(self, robot: RobotSpec, timeout: float, armed: bool) -> None:
        self._dimensions = robot.command.dimensions
        self._safe = robot.safe_action
        self._period = robot.period
        self._timeout = timeout
        self._last_action: float | None = None  # when the last action was accepted
        self._sent: tuple[float, list[float]] | None = None  # when and what was sent last
        self.status = GuardStatus.WAITING if armed else GuardStatus.DISARMED
        self.rejected = 0
        self.timeouts = 0

    def accept(self, action: Sequence[float], now: float) -> list[float] | str:
        """Take a wished action (A,): return the command to send, or the reason to send none."""
        if len(action) != len(self._dimensions):
            self.rejected += 1
            return f"action has {len(action)} values, expected {len(self._dimensions)}"
        for value, dimension in zip(action, self._dimensions, strict=True):
            if not math.isfinite(value):
                self.rejected += 1
                return f"action {dimension.name} = {value} is not finite"
        if self.status in (GuardStatus.DISARMED, GuardStatus.STOPPED):
            return self.status.value
        self._last_action = now
        self.status = GuardStatus.ACTIVE
        return self._send(action, now)

    def watch(self, now: float) -> list[float] | None:
        """Return the command that must go out although no action came, if one must.

        Call this at least once a control period.
        """
        if self._last_action is not None:
            # A clock that went back must not put the time-out off.
            self._last_action = min(self._last_action, now)
        if self.status is GuardStatus.ACTIVE:
            if self._last_action is not None and now - self._last_action <= self._timeout:
                return None
            self.status = GuardStatus.TIMEOUT
            self.timeouts += 1
        if self.status in (GuardStatus.TIMEOUT, GuardStatus.STOPPED):
            return self._send(self._safe, now)
        return None

    def arm(self) -> None:
        """Let actions through, from the next one on."""
        if self.status in (GuardStatus.DISARMED, GuardStatus.STOPPED):
            self.status = GuardStatus.WAITING

    def stop(self) -> None:
        """Go to the safe command and stay there until armed again."""
        self.status = GuardStatus.STOPPED

    def release(self) -> list[float]:
        """Return the last command of all: the safe one, at once."""
        return list(self._safe)

    def _send(self, wished: Sequence[float], now: float) -> list[float]:
        """Clamp to the bounds and to the slew limit since the last command."""
        command = []
        for i, dimension in enumerate(self._dimensions):
            value = min(max(wished[i], dimension.bounds[0]), dimension.bounds[1])
            if dimension.slew is not None:
                # Before the first command the robot is taken to be at its safe one.
                since, previous = self._sent or (now - self._period, self._safe)
                reach = dimension.slew * max(now - since, 0.0)  # none if the clock went back
                value = min(max(value, previous[i] - reach), previous[i] + reach)
            command.append(value)
        self._sent = (now, command)
        return list(command)
