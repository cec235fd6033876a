# Copyright 2026 The mbrl_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Uncertainty that keeps its word: noise put right by errors on data that was held out."""

from __future__ import annotations

import torch
from torch import Tensor

_INTERVAL = 0.9  # share of new data that a prediction interval is to cover
# More of the held-out data than that: it also chose weights and hyper-parameters, so that it is
# predicted a little better than what is new.
_MARGIN = 0.02
_Z = 1.6449  # half the width of that interval in standard deviations of a Gaussian
_FACTORS = (1e-6, 1e6)
_MOST_PERSISTENT = 0.99
_LEAST_PAIRS = 10  # of consecutive steps, to see how errors persist


def noise_factor(error: Tensor, unknown: Tensor, noise: Tensor, block: int = 1) -> Tensor:
    """Return the factors (K,) on the noise with which 90 % intervals cover held-out errors.

    error (N, K); unknown, noise (N, K): variance of what the model does not know, and of the
    noise. An interval covers an error if the factor is at least ((error / z)^2 - unknown) /
    noise. Of these a quantile is taken, a little higher for few rows, as in split conformal
    prediction (Vovk et al., 2005). block: rows in a row that were held out together, whose errors
    are so much alike that they count as one.
    """
    needed = (((error / _Z).square() - unknown) / noise).double()
    level = min(1.0, (_INTERVAL + _MARGIN) * (1.0 + block / len(error)))
    return torch.quantile(needed, level, dim=0).clamp(*_FACTORS)


def noise_persistence(error: Tensor, variance: Tensor, pairs: Tensor) -> Tensor:
    """Return how far the error of one step foretells that of the next, (K,) in [0, 1).

    error, variance (N, K) of consecutive rows; pairs (N - 1,): whether a row's successor is the
    next step. A model of something smooth that is hardly noisy errs alike for many steps; noise
    drawn anew at each would cancel out.
    """
    residual = (error / variance.sqrt()).clamp(-3.0, 3.0)
    first, second = residual[:-1][pairs], residual[1:][pairs]
    if len(first) < _LEAST_PAIRS:
        return torch.zeros(error.shape[1]).double()
    correlation = (first * second).sum(0) / (first.square() + second.square()).sum(0) * 2.0
    return correlation.double().nan_to_num().clamp(0.0, _MOST_PERSISTENT)


class PersistentNoise:
    """Standard normal noise (N, K) that is correlated from draw to draw (AR(1)).

    persistence (K,): the correlation; 0: drawn anew every time.
    """

    def __init__(self, count: int, persistence: Tensor, generator: torch.Generator | None) -> None:
        self._shape = (count, len(persistence))
        self._persistence = persistence
        self._innovation = (1.0 - persistence.square()).sqrt()
        self._generator = generator
        self._last: Tensor | None = None

    def draw(self) -> Tensor:
        """Return the noise of the next step."""
        fresh = torch.randn(self._shape, generator=self._generator)
        if self._last is not None:
            fresh = self._persistence * self._last + self._innovation * fresh
        self._last = fresh
        return fresh
