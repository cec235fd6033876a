# Copyright 2026 The mbrl_ros authors
# SPDX-License-Identifier: Apache-2.0
"""How late commands take effect: which actions are in force when, and which lag explains it."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mbrl_ros.dynamics.features import FeatureMap

Array = NDArray[np.float64]

# Delays beyond this many control periods are a fault elsewhere, not something to plan around.
MAX_PERIODS = 4.0
# Candidates lie this far apart, in periods; between them the evidence is interpolated.
_SPACING = 0.25
# Steps that are looked at, the newest ones, and fewest that say anything.
_WINDOW = 300
_FEWEST = 25
# By how many nats a delay must explain the steps better than the one in force, by how many
# periods it must differ, and how often in a row this must be found, before it takes its place.
# While noise is as large as the motion, a wrong one explained what 120 robots did better by 24 at
# most.
_EVIDENCE = 30.0
_NOTICEABLE = 0.25
_LOOKS = 3
# Steps per regressor from which on products of state features are regressed on as well.
_PLENTY = 4
_MOST_PRODUCTS = 40
_RIDGE = 1e-6
# Deviation of errors that are of no consequence, as a share of what usually changes in a step:
# what is left over while a robot rests, such as dry friction, any wrong delay may explain.
_NEGLIGIBLE = 0.02
# An error counts for at most so many times the usual one.
_OUTLIER = 4.0


class ActionHistory:
    """Actions (A,) over time: each holds from its stamp, in nanoseconds, until the next one's.

    limit: how many of the newest are kept, at least.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._stamps: list[int] = []
        self._actions: list[list[float]] = []
        self._steered: list[bool] = []

    def __len__(self) -> int:
        return len(self._stamps)

    @property
    def newest(self) -> int:
        """Stamp of the last action."""
        return self._stamps[-1]

    def add(self, stamp: int, action: Sequence[float], steered: bool = True) -> None:
        """Take an action; its stamp is not older than the last one's.

        steered: whether a planner wished it; False for what is sent in place of that.
        """
        self._stamps.append(stamp)
        self._actions.append(list(action))
        self._steered.append(steered)
        if len(self._stamps) > 2 * self._limit:
            for kept in (self._stamps, self._actions, self._steered):
                del kept[: self._limit]

    def clear(self) -> None:
        """Forget all."""
        self._stamps, self._actions, self._steered = [], [], []

    def covers(self, begin: int) -> bool:
        """Whether it is known what held at this time."""
        return bool(self._stamps) and self._stamps[0] <= begin

    def steered(self, begin: int, end: int) -> bool:
        """Whether nothing but what a planner wished was in force from begin to end."""
        first = max(bisect_right(self._stamps, begin) - 1, 0)
        return all(self._steered[first : bisect_left(self._stamps, end)])

    def average(self, begin: int, end: int) -> list[float]:
        """Return the average (A,), weighted by time, from begin to end, in nanoseconds.

        What is not covered counts as no action.
        """
        first = max(bisect_right(self._stamps, begin) - 1, 0)
        total = [0.0] * len(self._actions[0])
        for i in range(first, bisect_left(self._stamps, end)):
            until = self._stamps[i + 1] if i + 1 < len(self._stamps) else end
            share = (min(until, end) - max(self._stamps[i], begin)) / (end - begin)
            if share > 0.0:
                total = [t + share * a for t, a in zip(total, self._actions[i], strict=True)]
        return total

    def arrays(self) -> tuple[NDArray[np.int64], Array]:
        """Return stamps (M,) and actions (M, A)."""
        return np.array(self._stamps, dtype=np.int64), np.array(self._actions, dtype=np.float64)


@dataclass(frozen=True)
class Steps:
    """N steps as they were observed: begins, ends (N,) in nanoseconds; states (N, D) at either."""

    begins: NDArray[np.int64]
    ends: NDArray[np.int64]
    states: Array
    next_states: Array

    @staticmethod
    def of(rows: Iterable[tuple[int, int, Sequence[float], Sequence[float]]]) -> Steps:
        """Return steps from rows of begin, end, state and next state."""
        begins, ends, states, next_states = zip(*rows, strict=True)
        return Steps(
            np.array(begins, dtype=np.int64),
            np.array(ends, dtype=np.int64),
            np.array(states, dtype=np.float64),
            np.array(next_states, dtype=np.float64),
        )


class DelayEstimator:
    """Finds the delay from when a command is sent to when it moves the robot, from data alone.

    For each candidate delay the changes of state are regressed on the state and on the actions
    that would have been in force: the delay under which least is left unexplained is the most
    likely one (profile likelihood). It costs a few milliseconds, and needs no model.

    Errors count next to the largest changes of state that the robot is known for, so that one
    that has come to rest tells nothing.

    period: nanoseconds of one control step. first_guess: seconds; in force until there is
    evidence of another. usual (D,): mean squared change of each state dimension in a step, as
    far as it is known beforehand. `changed` counts how often there was evidence.
    """

    def __init__(
        self,
        features: FeatureMap,
        period: int,
        first_guess: float = 0.0,
        usual: Array | None = None,
    ) -> None:
        self._features = features
        self._period = period
        self._usual = np.zeros(features.state_dimensions) if usual is None else usual
        self.delay = round(first_guess * 1e9)  # nanoseconds
        self.changed = 0
        self._found: list[float] = []  # by the last looks, as long as they agree

    def update(self, steps: Steps, actions: ActionHistory) -> bool:
        """Look at the newest steps; return whether the delay in force has changed."""
        found = self._look(steps, actions)
        if found is None:
            self._found = []
            return False
        near = _NOTICEABLE * self._period
        self._found = [other for other in self._found if abs(other - found) < 2.0 * near] + [found]
        if len(self._found) < _LOOKS:
            return False
        self.delay = round(sum(self._found) / len(self._found))
        self._found = []
        self.changed += 1
        return True

    def _look(self, steps: Steps, actions: ActionHistory) -> float | None:
        """Return a delay that is clearly likelier than the one in force, if there is one."""
        evidence = self._evidence(steps, actions)
        if evidence is None:
            return None
        candidates, scores = evidence
        best = int(scores.argmax())
        if best == len(scores) - 1:
            return None  # it may be anywhere beyond
        here = float(np.interp(self.delay, candidates, scores))
        found = _summit(candidates, scores, best)
        clear = scores[best] - here >= _EVIDENCE
        return found if clear and abs(found - self.delay) >= _NOTICEABLE * self._period else None

    def _evidence(self, steps: Steps, actions: ActionHistory) -> tuple[Array, Array] | None:
        """Return candidates (C,), nanoseconds, and how likely each makes the steps, in nats."""
        if len(actions) < 2:
            return None
        candidates = np.arange(0.0, MAX_PERIODS + 1e-9, _SPACING) * self._period
        stamps, values = actions.arrays()
        # All candidates must be judged by the same steps.
        known = steps.begins - candidates[-1] >= stamps[0]
        known &= abs(steps.ends - steps.begins - self._period) < self._period // 10
        rows = np.flatnonzero(known)[-_WINDOW:]
        if len(rows) < _FEWEST:
            return None
        changes = _deltas(self._features, steps.states[rows], steps.next_states[rows])
        self._usual = np.maximum(self._usual, np.square(changes).mean(axis=0))
        negligible = _NEGLIGIBLE**2 * self._usual
        lively = (np.square(changes) > negligible).any(axis=1)
        rows, changes = rows[lively], changes[lively]
        if len(rows) < _FEWEST:
            return None
        moving = changes.std(axis=0) > 1e-9
        if not moving.any():
            return None
        origin = stamps[0]
        begins, ends = steps.begins[rows] - origin, steps.ends[rows] - origin
        held = _Integral((stamps - origin).astype(np.float64), values)
        inputs = [held.average(begins - delay, ends - delay) for delay in candidates]
        if inputs[0].std(axis=0).max() < 1e-9:
            return None  # never steered: any delay would do
        functions = _regressors(self._features, steps.states[rows], inputs[0].shape[1])
        left = np.array(
            [
                _unexplained(*functions, action, changes[:, moving], negligible[moving])
                for action in inputs
            ]
        )
        # Independent errors of unknown size: the likelihood with that size put in.
        return candidates, -0.5 * len(rows) * np.log(left).sum(axis=1)


class _Integral:
    """Integral over time of actions (M, A) that hold from their stamps (M,) on."""

    def __init__(self, stamps: Array, actions: Array) -> None:
        self._stamps, self._actions = stamps, actions
        pieces = np.diff(stamps)[:, None] * actions[:-1]
        self._until = np.vstack([np.zeros((1, actions.shape[1])), pieces.cumsum(axis=0)])

    def average(self, begins: Array, ends: Array) -> Array:
        """Return averages (N, A) from begins to ends (N,)."""
        return (self._at(ends) - self._at(begins)) / (ends - begins)[:, None]

    def _at(self, times: Array) -> Array:
        index = np.searchsorted(self._stamps, times, side="right") - 1
        rest = (times - self._stamps[index])[:, None] * self._actions[index]
        return np.asarray(self._until[index] + rest)


def _deltas(features: FeatureMap, states: Array, next_states: Array) -> Array:
    deltas = next_states - states
    angles = features.angles
    deltas[:, angles] = (deltas[:, angles] + np.pi) % (2.0 * np.pi) - np.pi
    return deltas


def _regressors(features: FeatureMap, states: Array, actions: int) -> tuple[Array, Array]:
    """Return what changes depend on besides the action: functions of the state, scaled.

    First those that the action's effect may depend on as well (N, P), then the others (N, Q).
    """
    angles = states[:, features.circular]
    plain = np.hstack([states[:, features.plain], np.sin(angles), np.cos(angles)])
    scaled = (plain - plain.mean(axis=0)) / (plain.std(axis=0) + 1e-9)
    linear = np.hstack([np.ones((len(states), 1)), scaled])
    first, second = np.triu_indices(scaled.shape[1])
    size = (1 + actions) * linear.shape[1] + len(first)
    if len(first) > _MOST_PRODUCTS or len(states) < _PLENTY * size:
        return linear, linear[:, :0]
    return linear, scaled[:, first] * scaled[:, second]


def _unexplained(
    states: Array, products: Array, action: Array, changes: Array, negligible: Array
) -> Array:
    """Return the share (K,) of the changes (N, K) that a regression leaves unexplained.

    negligible (K,): squared errors that are none.
    """
    scaled = (action - action.mean(axis=0)) / (action.std(axis=0) + 1e-9)
    if len(states) < _PLENTY * states.shape[1] * (1 + scaled.shape[1]):
        effects = [scaled]
    else:
        effects = [states * column[:, None] for column in scaled.T]
    inputs = np.hstack([states, products, *effects])
    gram = inputs.T @ inputs + _RIDGE * len(inputs) * np.eye(inputs.shape[1])
    squares = (changes - inputs @ np.linalg.solve(gram, inputs.T @ changes)) ** 2
    # An impact is no evidence, however large.
    usual = np.minimum(squares, _OUTLIER**2 * np.median(squares, axis=0)).mean(axis=0)
    return np.asarray(np.maximum((usual + negligible) / changes.var(axis=0), 1e-9))


def _summit(candidates: Array, scores: Array, best: int) -> float:
    """Return where a parabola through the best score and its neighbours is highest."""
    if best in (0, len(scores) - 1):
        return float(candidates[best])
    before, at, after = scores[best - 1 : best + 2]
    bend = before - 2.0 * at + after
    shift = 0.5 * (before - after) / bend if bend < 0.0 else 0.0
    return float(candidates[best] + shift * (candidates[1] - candidates[0]))
