# Copyright 2026 The mbrl_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Notices that the world has changed: a model that predicted well errs, and goes on erring."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

# Deviations, in the model's own, that errors of a changed world are taken to have.
_RATIO = 4.0
# Sum of log likelihood ratios at which a change counts as certain.
_THRESHOLD = 30.0
# No single transition adds more: one outlier is no change.
_MOST = 6.0
# An error below this share of what usually changes in a step is of no consequence, however
# sure the model was.
_NEGLIGIBLE = 0.05
# The same of what changes in a step over the robot's life, during which it may rest for long.
_SLIGHT, _LIFE = 0.02, 5000
# Transitions over which the model's usual errors and the robot's usual changes are averaged, and
# how much larger than usual an error may at most count there: a change is not to become usual.
_MEMORY, _OUTLIER = 200, 4.0
_LATELY = 30


class ChangeDetector:
    """A cumulative-sum test a state dimension (Page, "Continuous inspection schemes", 1954).

    Each transition adds the logarithm of how much likelier its error is if errors are _RATIO
    times as large as usual; sums do not fall below zero, and an alarm comes when one passes the
    threshold. "As usual" is the deviation that the model states, which grows where it knows
    little, so that what is new is no alarm; scaled by how the model has kept its word lately,
    so that an overconfident one is not taken for a changed world.

    dimensions: D.
    """

    def __init__(self, dimensions: int, threshold: float = _THRESHOLD) -> None:
        self._dimensions = dimensions
        self._threshold = threshold
        self.forget()

    def forget(self) -> None:
        """Start again with nothing known about usual errors."""
        self._judged = 0
        self._usual = np.ones(self._dimensions)  # mean normalised squared error
        self._lately = np.ones(self._dimensions)  # the same of the newest transitions
        self._change = np.zeros(self._dimensions)  # mean squared change of state, of late
        self._noted = 0
        self._life = np.zeros(self._dimensions)  # the same over life
        self.restart()

    def note(self, changes: NDArray[np.float64]) -> None:
        """Take changes of state (N, D) for what the robot does in its life, without judging.

        While it is watched it may do next to nothing; dry friction in that is no changed world.
        """
        if len(changes):
            self._noted = min(self._noted + len(changes), _LIFE)
            share = min(len(changes) / self._noted, 1.0)
            self._life += share * (np.square(changes).mean(axis=0) - self._life)

    def restart(self) -> None:
        """Start the sums again, as after an alarm that has been acted on."""
        self._sums = np.zeros(self._dimensions)
        self._since = np.zeros(self._dimensions, dtype=int)  # transitions since it was zero

    def excuse(self) -> None:
        """Take the errors of late for usual: they were no change of the world."""
        self._usual = np.maximum(self._usual, self._lately)
        self.restart()

    def add(
        self,
        error: NDArray[np.float64],
        variance: NDArray[np.float64],
        change: NDArray[np.float64],
    ) -> int | None:
        """Take one transition: error, stated variance and change of each state dimension, (D,).

        Returns None, or, as an alarm, how many transitions ago the change is thought to have
        come, this one included.
        """
        self._judged += 1
        self._change += (np.square(change) - self._change) / min(self._judged, _MEMORY)
        self.note(change[None])
        negligible = np.maximum(_NEGLIGIBLE**2 * self._change, _SLIGHT**2 * self._life) + 1e-18
        normalised = np.square(error) / (variance + negligible)
        self._lately += (normalised - self._lately) / _LATELY
        usual = np.maximum(self._usual, 1.0)
        gain = 0.5 * (1.0 - _RATIO**-2) * normalised / usual - math.log(_RATIO)
        self._usual += (np.minimum(normalised, _OUTLIER * usual) - self._usual) / _MEMORY
        self._sums = np.maximum(self._sums + np.minimum(gain, _MOST), 0.0)
        self._since = np.where(self._sums > 0.0, self._since + 1, 0)
        worst = int(self._sums.argmax())
        return int(self._since[worst]) if self._sums[worst] > self._threshold else None
