# Copyright 2026 The mbrl_ros authors
# SPDX-License-Identifier: Apache-2.0
"""The rules that a command passes last: what may go to the robot, and what goes in its place."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING

from mbrl_ros.units import NANOSECONDS

if TYPE_CHECKING:  # the guard's process must stay small: see robots.guarded
    from mbrl_ros.robots.guarded import GuardedRobot
    from mbrl_ros.robots.spec import ActionDimension, Bounds

# A stamp may be ahead of this machine's clock by so much, in seconds, or by one period.
_AHEAD = 0.5
# Where stamps may be of any age, one this much older than the last is of a new time (seconds).
_RESTART = 1.0


class GuardStatus(Enum):
    """What the guard is doing; the value is the code on `~/status`."""

    DISARMED = 0
    WAITING = 1
    ACTIVE = 2
    TIMEOUT = 3
    STALE_STATE = 4
    STOPPED = 5


TEXTS = {
    GuardStatus.DISARMED: "disarmed: call ~/arm to let commands through",
    GuardStatus.WAITING: "waiting for the first action",
    GuardStatus.ACTIVE: "passing actions on",
    GuardStatus.TIMEOUT: "no action in time: going to the safe command",
    GuardStatus.STALE_STATE: "no state in time: going to the safe command",
    GuardStatus.STOPPED: "stopped by ~/stop: safe command until ~/arm",
}

# Why a message was not used, as it is counted. The first two are no faults of its sender: planners
# say an action again, and do not know that the guard is not armed or has no state.
NO_FAULTS = ("repeated", "not_ready")
REASONS = (
    *NO_FAULTS,
    "not_finite",
    "no_choice",
    "wrong_size",
    "wrong_names",
    "duplicate_names",
    "too_old",
    "in_future",
    "out_of_order",
)


class RefusedError(ValueError):
    """A message that is not used. reason: one of REASONS."""

    def __init__(self, reason: str, text: str) -> None:
        super().__init__(text)
        self.reason = reason


@dataclass(frozen=True)
class Stamped:
    """Named values as they came. stamp: nanoseconds of the robot's clock."""

    stamp: int
    names: Sequence[str]
    values: Sequence[float]


class Inlet:
    """Checks the messages of one topic, and knows how long the last good one counts.

    names: exactly these a message holds, in any order. max_age: seconds that a stamp may lie
    behind the robot's clock. lifetime: seconds from its arrival that a message counts; None:
    until its stamp is too old. ahead: seconds that a stamp may lie ahead of the robot's clock.
    choices: bounds, by name, of what must be a whole number.
    """

    def __init__(
        self,
        what: str,
        names: Sequence[str],
        max_age: float,
        lifetime: float | None,
        ahead: float,
        choices: Mapping[str, Bounds],
    ) -> None:
        self._what = what
        self._choices = choices
        self._names = tuple(names)
        self._max_age, self._lifetime, self._ahead = max_age, lifetime, ahead
        self._last_stamp = -1
        # A stamp that is not too old and yet further back than this: the clock has gone back.
        restart = max_age + ahead if math.isfinite(max_age) else _RESTART
        self._restart = round(restart * NANOSECONDS)
        self._good_until = -math.inf
        self.refused: Counter[str] = Counter(dict.fromkeys(REASONS, 0))
        self.heard = False

    @property
    def faults(self) -> int:
        """How many messages were dropped because something was wrong with them."""
        return self.refused.total() - sum(self.refused[reason] for reason in NO_FAULTS)

    def take(self, message: Stamped, clock: int, now: float) -> list[float]:
        """Return the values, in the order of the names.

        clock: the robot's clock in nanoseconds, `now` that of time-outs. Raises RefusedError.
        """
        try:
            age = self._check_time(message.stamp, clock)
            values = self._values(message)
        except RefusedError as refusal:
            self.refused[refusal.reason] += 1
            raise
        self._last_stamp = message.stamp
        left = self._max_age - age if self._lifetime is None else self._lifetime
        self._good_until = now + left
        self.heard = True
        return values

    def fresh(self, now: float) -> bool:
        """Whether a good message came that still counts."""
        # A clock that went back must not put the end off.
        longest = self._max_age if self._lifetime is None else self._lifetime
        self._good_until = min(self._good_until, now + longest)
        return now <= self._good_until

    def missing(self, now: float) -> str | None:
        """Say what there is to wait for, None if the last message is fresh."""
        if self.fresh(now):
            return None
        return f"the last {self._what} is too old" if self.heard else f"no {self._what} has come"

    def _check_time(self, stamp: int, clock: int) -> float:
        """Return for how long, in seconds, the message has aged on the way."""
        if stamp == self._last_stamp:
            raise RefusedError("repeated", f"{self._what} was taken already")
        if stamp < self._last_stamp < stamp + self._restart:
            raise RefusedError("out_of_order", f"{self._what} has been overtaken by a newer one")
        age = (clock - stamp) / NANOSECONDS
        if age > self._max_age:
            raise RefusedError(
                "too_old",
                f"{self._what} is of {age:.2f} s ago, by the clock of this machine; expected at "
                f"most {self._max_age:.2f} s",
            )
        if age < -self._ahead:
            raise RefusedError(
                "in_future",
                f"{self._what} is {-age:.2f} s ahead of the clock of this machine",
            )
        return max(age, 0.0)

    def _values(self, message: Stamped) -> list[float]:
        names, values = message.names, message.values
        expected = len(self._names)
        if not len(names) == len(values) == expected:
            raise RefusedError(
                "wrong_size",
                f"{self._what} has {len(names)} names and {len(values)} positions, "
                f"expected {expected} of each",
            )
        by_name = dict(zip(names, values, strict=True))
        found = f"{self._what} has {_short(names)}, expected {list(self._names)}"
        if len(by_name) != expected:
            raise RefusedError("duplicate_names", found)
        if by_name.keys() != set(self._names):
            raise RefusedError("wrong_names", found)
        for name in self._names:
            if not math.isfinite(by_name[name]):
                raise RefusedError(
                    "not_finite", f"{self._what} {name} = {by_name[name]} is not finite"
                )
        for name, (low, high) in self._choices.items():
            value = float(by_name[name])
            if not (value.is_integer() and low <= value <= high):
                raise RefusedError(
                    "no_choice",
                    f"{self._what} {name} = {value} is none of the choices {low:g} to {high:g}",
                )
        return [float(by_name[name]) for name in self._names]


def _short(names: Sequence[str]) -> str:
    """Show names from outside, which may be long."""
    return f"[{', '.join(repr(name[:40]) for name in names)}]"


class CommandLimiter:
    """Keeps one action dimension within its bounds, slew and jerk, whatever is wished.

    Where they cannot all hold, bounds win over slew and slew wins over jerk. The limits count in
    time since the last command, so that a burst of commands gets no further than one, and never
    in more than one period, so that the first command after a pause is no jump.
    """

    def __init__(self, dimension: ActionDimension, period: float) -> None:
        self._dimension = dimension
        self._period = period
        self._sent_at: float | None = None
        self.value = dimension.safe  # where the robot is taken to be before the first command
        self.rate = 0.0

    def step(self, wished: float, now: float, hurry: bool = False) -> float:
        """Return the command nearest to the wished one that may be sent now.

        hurry: regardless of jerk. On the way to the safe command it would first carry on a
        motion that has to end.
        """
        low, high = self._dimension.bounds
        if self._dimension.discrete:
            self.value = wished  # a choice, or the safe command, which may be none of them
            return wished
        seconds = self._period if self._sent_at is None else now - self._sent_at
        seconds = min(max(seconds, 0.0), self._period)  # none if the clock went back
        self._sent_at = now
        target = min(max(wished, low), high)
        value = target
        if self._dimension.jerk is not None and not hurry:
            rate = self._smooth_rate(target, seconds, self._dimension.jerk)
            value = self.value + rate * seconds
        if self._dimension.slew is not None:
            reach = self._dimension.slew * seconds
            value = min(max(value, self.value - reach), self.value + reach)
        if not math.isfinite(value):
            value = self.value  # bounds near the largest number overflow
        value = min(max(value, low), high)
        if hurry:
            self.rate = 0.0  # whatever comes next starts from rest
        elif seconds > 0.0:
            self.rate = (value - self.value) / seconds
        self.value = value
        return value

    def _smooth_rate(self, target: float, seconds: float, jerk: float) -> float:
        """Return the rate of change that nears the target, and can end there by braking.

        A rate v held for T seconds and then braked with jerk J covers at most v T + v^2 / (2 J),
        in steps of any length. This is the largest v for which that is within the distance, and
        the least change on the way to it. As the target lies within the bounds, so does the way.
        """
        if seconds == 0.0:
            return self.rate
        distance = target - self.value
        brake = 2.0 * distance / (math.sqrt(seconds**2 + 2.0 * abs(distance) / jerk) + seconds)
        change = jerk * seconds
        return min(max(brake, self.rate - change), self.rate + change)


class CommandGuard:
    """Decides on every command; `now` is in seconds of one clock, best one that never jumps.

    timeout: seconds without an action after which the command goes to the safe one.
    state_timeout: the same for the state, and the age of the state that an action may answer;
    infinite where the robot waits for its commands. armed: whether actions pass from the start.
    """

    def __init__(
        self, robot: GuardedRobot, timeout: float, state_timeout: float, armed: bool
    ) -> None:
        dimensions = robot.command.dimensions
        ahead = max(_AHEAD, robot.period)
        self._state_matters = math.isfinite(state_timeout)
        self._ranges = robot.safe_ranges
        self._safe = [dimension.safe for dimension in dimensions]
        self._limiters = [CommandLimiter(dimension, robot.period) for dimension in dimensions]
        self._outside: str | None = None  # which state dimension is outside its safe range
        self.state = Inlet("state", robot.state_names, state_timeout, None, ahead, {})
        # The limiters would make a choice of anything.
        choices = {d.name: d.bounds for d in dimensions if d.discrete}
        self.action = Inlet("action", robot.action_names, state_timeout, timeout, ahead, choices)
        self.status = GuardStatus.WAITING if armed else GuardStatus.DISARMED
        self.text = TEXTS[self.status]
        self.ever_sent = False
        self.accepted = 0
        self.timeouts = 0  # times that actions or states stopped while the robot was moved

    def take_state(self, message: Stamped, clock: int, now: float) -> None:
        """Take a state (D,), and stop the robot if it is outside a safe range.

        Raises RefusedError if it is not usable. clock: the robot's, in nanoseconds.
        """
        values = self.state.take(message, clock, now)
        self._outside = None
        for (name, span), value in zip(self._ranges.items(), values, strict=True):
            if span is not None and not span[0] <= value <= span[1]:
                self._outside = f"{name} = {value:.6g} is outside its safe range {list(span)}"
                break
        if self._outside and self.status not in (GuardStatus.DISARMED, GuardStatus.STOPPED):
            self._enter(GuardStatus.STOPPED, f"stopped: {self._outside}; safe command until ~/arm")

    def take_action(self, message: Stamped, clock: int, now: float) -> list[float]:
        """Take a wished action (A,) and return the command to send; raises RefusedError."""
        missing = self._state_missing(now)
        if missing:
            # Not taken at all: when the state is there, the same action may come again.
            raise self._not_ready(f"{missing}, so no action passes")
        wished = self.action.take(message, clock, now)
        if self.status in (GuardStatus.DISARMED, GuardStatus.STOPPED):
            raise self._not_ready(self.text)
        self._enter(GuardStatus.ACTIVE)
        self.accepted += 1
        return self._send(wished, now)

    def watch(self, now: float) -> list[float] | None:
        """Return the command that must go out although no action came, if one must.

        Call this at least once a control period.
        """
        if self.status in (GuardStatus.ACTIVE, GuardStatus.TIMEOUT, GuardStatus.STALE_STATE):
            before = self.status
            if self._state_missing(now):
                self._enter(GuardStatus.STALE_STATE)
            elif not self.action.fresh(now):
                self._enter(GuardStatus.TIMEOUT)
            self.timeouts += before is GuardStatus.ACTIVE and self.status is not before
        silent = self.status in (GuardStatus.DISARMED, GuardStatus.ACTIVE)
        if silent or (self.status is GuardStatus.WAITING and not self.ever_sent):
            return None
        return self._to_safe(now)

    def arm(self, now: float) -> str | None:
        """Let actions through, from the next one on; or return what speaks against it."""
        problems = (self._state_missing(now), self._outside, self.action.missing(now))
        reasons = [problem for problem in problems if problem]
        if reasons:
            return f"not armed: {'; '.join(reasons)}"
        if self.status in (GuardStatus.DISARMED, GuardStatus.STOPPED):
            self._enter(GuardStatus.WAITING)
        return None

    def stop(self) -> None:
        """Go to the safe command and stay there until armed again."""
        self._enter(GuardStatus.STOPPED)

    def release(self) -> list[float]:
        """Return the last command of all: the safe one, at once."""
        return list(self._safe)

    def _not_ready(self, text: str) -> RefusedError:
        self.action.refused["not_ready"] += 1
        return RefusedError("not_ready", text)

    def _state_missing(self, now: float) -> str | None:
        return self.state.missing(now) if self._state_matters else None

    def _enter(self, status: GuardStatus, text: str = "") -> None:
        self.status = status
        self.text = text or TEXTS[status]

    def _to_safe(self, now: float) -> list[float]:
        return self._send(self._safe, now, hurry=True)

    def _send(self, wished: Sequence[float], now: float, hurry: bool = False) -> list[float]:
        self.ever_sent = True
        pairs = zip(self._limiters, wished, strict=True)
        return [limiter.step(value, now, hurry) for limiter, value in pairs]
