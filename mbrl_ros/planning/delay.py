# Copyright 2026 The mbrl_ros authors
# SPDX-License-Identifier: Apache-2.0
"""How late commands take effect, and where the robot will be by then."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence

import torch
from torch import Tensor

from mbrl_ros.dynamics.delay import MAX_PERIODS, ActionHistory
from mbrl_ros.dynamics.model import DynamicsModel
from mbrl_ros.robots.spec import NANOSECONDS

# Each new delay counts this much in the running mean.
_GAIN = 0.1
_KEPT = 100  # actions: far more than can be on their way
# Share of a period by which an action may seem to be passed on before it was published: clocks of
# two processes differ a little where a simulator drives them.
_EARLY = 0.1
# A stamp this much further back than any delay, in seconds, says that the clock has gone back.
_RESTART = 1.0


class DelayCompensation:
    """Follows the delay from a state's stamp to its command in force.

    It has two parts: until the command is sent, which the guard's stamps tell, and from then
    until it moves the robot, which nobody tells: `actuation`, in seconds, comes with the model,
    whose data were paired under it (see `dynamics.delay`).

    period: seconds of one control step. safe_action (A,): in force before the first command.
    compensate: false to plan as if there were no delay.
    """

    def __init__(
        self, period: float, safe_action: Sequence[float], compensate: bool = True
    ) -> None:
        self._period = period
        self._restart = round((MAX_PERIODS * period + _RESTART) * NANOSECONDS)
        self._compensate = compensate
        self._until_sent: float | None = None
        self._sent = ActionHistory(_KEPT)
        self._sent.add(0, safe_action)
        # When they were published, of which state's stamp: answers not known yet to be sent.
        self._answers: deque[tuple[int, int]] = deque(maxlen=_KEPT)
        self._latest: tuple[int, list[float]] | None = None  # the newest of them, when published
        self.actuation = 0.0

    @property
    def until_sent(self) -> float:
        """Running mean of the seconds from a state's stamp to when its command is sent."""
        return self._until_sent or 0.0

    @property
    def delay(self) -> float:
        """The whole delay, in seconds."""
        return min(self.until_sent + self.actuation, MAX_PERIODS * self._period)

    @property
    def whole_periods(self) -> int:
        """How many periods after a state its plan starts."""
        return math.floor(self._periods + 1e-9)

    @property
    def _periods(self) -> float:
        return self.delay / self._period if self._compensate else 0.0

    @property
    def _last_sent(self) -> list[float]:
        return self._sent.average(self._sent.newest, self._sent.newest + 1)

    def answered(self, stamp: int, action: Sequence[float], published: int | None = None) -> None:
        """Note the action (A,) that answers the state of this stamp, in nanoseconds.

        published: when it left for the guard; None: at the stamp.
        """
        published = stamp if published is None else published
        self._follow_clock(published)
        self._settle()
        self._answers.append((published, stamp))
        self._latest = (published, list(action))

    def applied(self, stamp: int, action: Sequence[float], steered: bool = True) -> None:
        """Note what was really sent, and when.

        steered: whether that was an answer; False for what the guard sends in place of one. Which
        answer it was, its time tells: the planner may have given the next one by now.
        """
        self._follow_clock(stamp)
        until = stamp + round(_EARLY * self._period * NANOSECONDS)
        if steered:
            answered = None
            while self._answers and self._answers[0][0] <= until:
                _, answered = self._answers.popleft()
            if answered is not None:
                self.observe((stamp - answered) / NANOSECONDS)
        if self._latest is not None and self._latest[0] <= until:
            self._latest = None
        self._sent.add(max(stamp, self._sent.newest), action)

    def observe(self, seconds: float) -> None:
        """Note how long after its state a command was sent."""
        seconds = min(max(seconds, 0.0), MAX_PERIODS * self._period)
        before = self._until_sent
        self._until_sent = seconds if before is None else before + _GAIN * (seconds - before)

    def start_of_plan(
        self, stamp: int, state: Tensor, model: DynamicsModel
    ) -> tuple[Tensor, Tensor, float]:
        """Predict state (D,) of this stamp over the whole periods of the delay.

        Returns the state (D,) where the plan starts, the action (A,) in force then, and the
        share of a period for which it stays in force.
        """
        self._follow_clock(stamp)
        self._settle()
        periods, whole = self._periods, self.whole_periods
        period = round(self._period * NANOSECONDS)
        actuation = round(self.actuation * NANOSECONDS)
        if whole:
            begins = [stamp - actuation + step * period for step in range(whole)]
            actions = [self._sent.average(begin, begin + period) for begin in begins]
            in_force = torch.tensor(actions, dtype=torch.float32)
            state = model.rollout(state[None], in_force[:, None, :])[-1, 0]
        return state, torch.tensor(self._last_sent, dtype=torch.float32), max(periods - whole, 0.0)

    def _follow_clock(self, stamp: int) -> None:
        """Forget when actions were sent if the clock has gone back; the last stays in force."""
        if stamp > self._sent.newest - self._restart:
            return
        last = self._last_sent
        self._sent.clear()
        self._sent.add(0, last)
        self._answers.clear()
        self._latest = None

    def _settle(self) -> None:
        """Take the last answer as passed on at once, if nothing else is known."""
        if self._latest is not None:
            published, action = self._latest
            self._sent.add(max(published, self._sent.newest), action)
            self._latest = None
