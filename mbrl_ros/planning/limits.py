# Copyright 2026 The mbrl_ros authors
# SPDX-License-Identifier: Apache-2.0
"""What holds a robot back: a planner that is too slow, or a model that is not good enough yet."""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass
from statistics import fmean, median

import torch
from torch import Tensor

from mbrl_ros.robots.spec import NANOSECONDS, RobotSpec

_TICKS = 200  # that tell whether the planner keeps up
_MISSED, _HURRIED = 0.05, 0.5  # shares of them from which on it does not
_EVERY = 0.2  # seconds between two predictions that are watched
_WATCHED = 25  # of them the newest so many count
_ENOUGH = 5  # and fewer tell nothing
# The model is at fault where the robot gets so much more cost than was planned, as a share ...
_EXCESS = 0.5
# ... or where it is off by so many of its own deviations, and by so much of what happened.
_SURPRISING, _WRONG = 3.0, 0.2
# Share of a period that is left for all but planning, and of its budget that a plan has at least.
_RESERVE, _LEAST = 0.1, 0.25
_LONGEST_PAUSE = 512  # ticks


def time_to_plan(budget: float, age: float, period: float) -> float:
    """Return the seconds that a plan may take: its budget, but no longer than its tick.

    age: of the state that is planned from. It has waited for its sensors and may have waited for
    the plan before. Who plans from states older than a period has sensors that are so slow, and
    gains nothing by haste.
    """
    if age >= period:
        return budget
    return min(budget, max((1.0 - _RESERVE) * period - age, _LEAST * budget))


class Leisure:
    """Says whether there is time between two ticks for work that takes about as long each time.

    Work that overran is left out for two ticks, then for four, eight, ... until it is done in
    time, so that what never fits costs few ticks, and what was late once is soon done again.
    """

    def __init__(self) -> None:
        self._took = 0.0  # seconds, the last time
        self._pause, self._left_out = 1, 0  # ticks

    def allows(self, left: float) -> bool:
        """Whether to begin, with so many seconds left."""
        if left <= 0.0:
            return False
        if left >= self._took or self._left_out >= self._pause:
            return True
        self._left_out += 1
        return False

    def took(self, seconds: float, left: float) -> None:
        """Note how long it took, of what was left."""
        self._pause = min(2 * self._pause, _LONGEST_PAUSE) if seconds > left else 1
        self._took, self._left_out = seconds, 0


@dataclass(frozen=True)
class Verdict:
    """What limits a robot: `none`, `planner` or `model`, and the numbers that say so.

    text: for people; empty for `none`. hurried_share: of the ticks whose plan the time budget
    cut short. prediction_error: of one step, root mean square in predicted standard deviations
    (1: as uncertain as it says). promised_cost, realised_cost: of one horizon, as planned and as
    it came. NaN where too little is known.
    """

    limited_by: str
    text: str
    hurried_share: float
    prediction_error: float
    promised_cost: float
    realised_cost: float


@dataclass(frozen=True)
class _Expected:
    due: int  # stamp of the state that is predicted
    start: Tensor  # (D,)
    mean: Tensor  # (D,)
    variance: Tensor  # (D,)


class Limits:
    """Watches plans and what comes of them.

    The planner is too slow if ticks go without an action of their own, or if the time budget
    cuts most plans short. Otherwise the model is not good enough if the robot gets more cost
    than plans promise over their horizon, or if a step is further off than the model says by
    more than noise. horizon: steps of a plan.
    """

    def __init__(self, robot: RobotSpec, horizon: int) -> None:
        self._robot, self._horizon = robot, horizon
        self._missed: deque[int] = deque(maxlen=_TICKS)
        self._hurried: deque[bool] = deque(maxlen=_TICKS)
        self._seconds: deque[float] = deque(maxlen=_TICKS)
        self._expected: deque[_Expected] = deque(maxlen=_WATCHED)
        self._surprise: deque[float] = deque(maxlen=_WATCHED)  # mean squares of the dimensions
        self._wrong: deque[tuple[Tensor, Tensor]] = deque(maxlen=_WATCHED)  # error^2, change^2
        self._next = 0  # stamp from which on a prediction is due to be watched
        self._ticks, self._cost = 0, 0.0  # since the start, and the stage costs up to now
        self._promises: deque[tuple[int, float, float]] = deque()  # tick, cost so far, promised
        self._kept: deque[tuple[float, float]] = deque(maxlen=_WATCHED)  # promised, realised

    def ticked(self, seconds: float, missed: int, hurried: bool) -> None:
        """Note a tick: how long its plan took, how many before it were missed, if it was cut."""
        self._seconds.append(seconds)
        self._missed.append(min(missed, 1))
        self._hurried.append(hurried)

    def arrived(self, stamp: int, state: list[float], stage_cost: float) -> None:
        """Compare the state (D,) of this tick, in nanoseconds, with what was predicted of it."""
        self._ticks += 1
        self._cost += stage_cost
        while self._promises and self._ticks - self._promises[0][0] >= self._horizon:
            tick, before, promised = self._promises.popleft()
            if self._ticks - tick == self._horizon:
                self._kept.append((promised, self._cost - before))
        tolerance = self._robot.period_nanoseconds // 2
        while self._expected and self._expected[0].due <= stamp + tolerance:
            expected = self._expected.popleft()
            if abs(expected.due - stamp) < tolerance:
                self._compare(expected, state)

    def _compare(self, expected: _Expected, state: list[float]) -> None:
        present = torch.tensor(state, dtype=expected.mean.dtype)
        error, change = self._wrapped(present - expected.mean), present - expected.start
        deviations = error / expected.variance.clamp_min(1e-12).sqrt()
        self._surprise.append(float(deviations.square().mean()))
        self._wrong.append((error.square(), self._wrapped(change).square()))

    def _wrapped(self, difference: Tensor) -> Tensor:
        turn = 2.0 * math.pi
        wrapped = difference - turn * torch.round(difference / turn)
        return torch.where(torch.tensor(self._robot.angle_mask), wrapped, difference)

    def due(self, stamp: int) -> bool:
        """Whether the plan of this tick is one to be watched: only a few a second are."""
        if stamp < self._next:
            return False
        self._next = stamp + round(_EVERY * NANOSECONDS)
        return True

    def expect(
        self, due: int, start: Tensor, mean: Tensor, variance: Tensor, promised: float
    ) -> None:
        """Note a prediction from start (D,) of the state that `due` will bring, and its cost.

        mean, variance (D,). promised: sum of the stage costs over the plan's horizon.
        """
        self._expected.append(_Expected(due, start, mean, variance))
        self._promises.append((self._ticks, self._cost, promised))

    def forget_promises(self) -> None:
        """Compare no costs of plans made so far: the goal has changed, or a plan was missing."""
        self._promises.clear()
        self._kept.clear()

    def verdict(self, goal_weights: list[float]) -> Verdict:
        """Say what limits the robot, given the weights (G,) on the distance to the goal."""
        missed, hurried = (fmean(v) if v else 0.0 for v in (self._missed, self._hurried))
        surprise = wrong = promised = realised = math.nan
        if len(self._surprise) >= _ENOUGH:
            surprise = math.sqrt(fmean(self._surprise))
            error, change = (
                torch.stack(column).mean(0) for column in zip(*self._wrong, strict=True)
            )
            wrong = float((error / change.clamp_min(1e-12)).mean().sqrt())
        if len(self._kept) >= _ENOUGH:
            promised, realised = (fmean(column) for column in zip(*self._kept, strict=True))
        limited_by, text = "none", ""
        # What it costs to rest at the edge of the goal's tolerances: less is of no concern.
        goals = zip(goal_weights, self._robot.goal, strict=True)
        floor = self._horizon * sum(weight * goal.tolerance**2 for weight, goal in goals)
        if missed > _MISSED or (len(self._hurried) == _TICKS and hurried > _HURRIED):
            limited_by = "planner"
            text = (
                f"planner too slow: {100.0 * missed:.0f} % of the ticks missed, "
                f"{100.0 * hurried:.0f} % with less than was asked for, a plan takes "
                f"{1e3 * median(self._seconds):.0f} of {1e3 * self._robot.period:.0f} ms: fewer "
                "samples, a shorter horizon or fewer iterations"
            )
        elif realised - promised > _EXCESS * (abs(promised) + floor):
            limited_by = "model"
            text = (
                f"model not good enough yet: plans promise a cost of {promised:.3g}, the robot "
                f"gets {realised:.3g}"
            )
        elif surprise > _SURPRISING and wrong > _WRONG:
            limited_by = "model"
            text = (
                f"model not good enough yet: a step is off by {surprise:.1f} predicted "
                f"deviations, {100.0 * wrong:.0f} % of its size"
            )
        return Verdict(limited_by, text, hurried, surprise, promised, realised)
