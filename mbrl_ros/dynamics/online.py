# Copyright 2026 The mbrl_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Learning while the robot runs: what is learned from, and which model deserves to be used."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from math import nan, sqrt

import torch
from torch import Tensor

from mbrl_ros.dynamics.features import wrap_angle
from mbrl_ros.dynamics.model import DynamicsModel, Transitions

_HELD_OUT_EVERY = 10  # one transition in so many is held out
_HELD_OUT = 20  # of them the newest so many judge; older ones are learned from
# How much less each counts than the next newer one, so that a changed world soon counts most.
_FADING = 0.8
# Nats a dimension by which the model in training may seem worse than the one in use: so few
# transitions tell no better.
_TOLERANCE = 0.1
_NINETY_PERCENT = 1.6449  # half width of a normal distribution's central 90 %, in deviations


@dataclass(frozen=True)
class Quality:
    """How well the model in use has predicted lately, transitions that it had not seen.

    transitions: how many. one_step_error: as `model.one_step_error`. coverage90: how often the
    truth lay within the central 90 % interval, over all dimensions. NaN without transitions.
    """

    transitions: int
    one_step_error: float
    coverage90: float


class OnlineLearner:
    """Trains one model without end, and keeps a copy of the last one that was adopted.

    make: returns a model that knows nothing. window: nanoseconds that `quality` looks back.
    Some of the newest transitions are held out, and learned from only later: on those the model
    in training must do as well as the adopted one before it may replace it.
    """

    def __init__(self, make: Callable[[], DynamicsModel], window: int) -> None:
        self._make = make
        self._window = window
        self._seen = 0
        self._recent: deque[tuple[int, Tensor]] = deque()
        self.model = make()  # in training
        self.adopted = make()  # in use
        features = self.model.features
        self._nothing = Transitions.empty(features)
        self._held_out = self._nothing
        self._start = (self.model.snapshot(), 0)

    def start_from(self, model: DynamicsModel) -> None:
        """Go on from a model that has learned already."""
        self.model = model
        self._start = (model.snapshot(), model.transitions)
        self.adopt()

    def restart(self) -> None:
        """Go back to the model of `start_from`, because what came since was not as it seemed."""
        tensors, transitions = self._start
        self.forget()
        if transitions:
            for model in (self.model, self.adopted):
                model.restore(tensors)
                model.transitions = transitions

    def forget(self) -> None:
        """Start again from a model that knows nothing."""
        self.model, self.adopted = self._make(), self._make()
        self._held_out, self._seen = self._nothing, 0
        self._recent.clear()

    def learn(self, new: Transitions) -> None:
        """Judge the adopted model by new transitions, then learn from them.

        Raises ValueError, having learned nothing, if the model refuses them.
        """
        self._judge(new)
        numbers = torch.arange(self._seen, self._seen + len(new))
        held_out = numbers % _HELD_OUT_EVERY == _HELD_OUT_EVERY - 1
        waiting = self._held_out + new[held_out]
        released = max(len(waiting) - _HELD_OUT, 0)
        self.model.update(new[~held_out] + waiting[:released])
        self._held_out = waiting[released:]
        self._seen += len(new)

    def improve(self) -> bool:
        """Train for one slice; return whether more is expected to help."""
        return self.model.improve()

    @property
    def better(self) -> bool:
        """Whether the model in training does as well as the adopted one on what both never saw.

        By the likelihood of what happened, which an overconfident model forfeits as well as a
        wrong one.
        """
        if len(self._held_out) == 0 or not self.adopted.transitions:
            return True
        age = torch.arange(len(self._held_out) - 1, -1, -1).double()
        weights = _FADING**age / (_FADING**age).sum()
        surprises = [
            float(weights @ _surprise(model, self._held_out))
            for model in (self.model, self.adopted)
        ]
        return surprises[0] <= surprises[1] + _TOLERANCE

    def adopt(self) -> None:
        """Take a copy of the model in training for the one in use."""
        adopted = self._make()
        adopted.restore(self.model.snapshot())
        adopted.transitions = self.model.transitions
        self.adopted = adopted

    def quality(self) -> Quality:
        """Return how the adopted models have done within the window."""
        rows = [row for _, row in list(self._recent)]
        if not rows:
            return Quality(0, nan, nan)
        error, change, inside = torch.stack(rows, dim=1)
        return Quality(len(rows), _relative(error, change), float(inside.mean()))

    def _judge(self, new: Transitions) -> None:
        if len(new) == 0 or not new.isfinite():
            return
        if self.adopted.transitions:
            rows = torch.stack(_residuals(self.adopted, new), dim=1)
            self._recent.extend(zip(new.stamps.tolist(), rows, strict=True))
        oldest = int(new.stamps[-1]) - self._window
        while self._recent and self._recent[0][0] < oldest:
            self._recent.popleft()


def _predicted(model: DynamicsModel, data: Transitions) -> tuple[Tensor, Tensor]:
    """Return errors and variances of the next states, each (N, D)."""
    mean, variance = model.predict(data.states, data.actions)
    error = mean - data.next_states
    angles = model.features.angles
    error[:, angles] = wrap_angle(error[:, angles])
    return error, variance


def _residuals(model: DynamicsModel, data: Transitions) -> tuple[Tensor, Tensor, Tensor]:
    """Return squared errors, squared changes and whether within 90 %, each (N, D)."""
    error, variance = _predicted(model, data)
    change = model.features.deltas(data.states, data.next_states)
    inside = error.abs() <= _NINETY_PERCENT * variance.sqrt()
    return error.square(), change.square(), inside.to(error.dtype)


def _surprise(model: DynamicsModel, data: Transitions) -> Tensor:
    """Return the negative log likelihood a dimension, up to a constant, (N,)."""
    error, variance = _predicted(model, data)
    variance = variance.clamp_min(1e-12)
    return 0.5 * (variance.log() + error.square() / variance).mean(1)


def _relative(error: Tensor, change: Tensor) -> float:
    return sqrt(float((error.mean(0) / change.mean(0).clamp_min(1e-12)).mean()))
