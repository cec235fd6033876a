# Copyright 2026 The mbrl_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Cholesky factors, and the weights of a regression, that grow with the data."""

from __future__ import annotations

import math

import numpy as np
import torch
from scipy.linalg.blas import dtpsv
from torch import Tensor

_JITTERS = (0.0, 1e-6, 1e-4, 1e-2)


class GrowingCholesky:
    """Lower factors L of K covariance matrices (K, n, n), and the weights of a regression.

    weights (K, n): the inverse covariance times the targets (K, n). Appending a row costs
    O(n^2), not the O(n^3) of starting again (Rasmussen and Williams, 2006, appendix A.3). The
    rows of a factor lie one after the other in one vector (BLAS's packed storage), so that a
    new one is written behind the last and nothing is moved.

    Raises ValueError if a matrix is not positive definite even with the largest jitter.
    """

    def __init__(self, covariance: Tensor, targets: Tensor) -> None:
        lower = factorise(covariance)
        self.size = covariance.shape[-1]
        self._lower: Tensor | None = lower
        self._weights = torch.cholesky_solve(targets[:, :, None], lower)[:, :, 0].numpy()
        rows = np.tril_indices(self.size)
        self._packed = [factor[rows] for factor in lower.numpy()]

    def append(self, cross: Tensor, corner: Tensor, targets: Tensor) -> None:
        """Take in one more row: its covariance with those before (K, n) and its own (K,).

        targets (K,): the value observed there. Raises ValueError, leaving all as it was, if a
        larger matrix is not positive definite.
        """
        size, used = self.size, self.size * (self.size + 1) // 2
        kernels, values = cross.numpy(), targets.tolist()
        rows, solved = [], []
        for packed, right in zip(self._packed, kernels, strict=True):
            # L^-1 right and L^-T L^-1 right, one after the other while L is in the cache. Rows
            # of L are columns of the upper factor that BLAS expects.
            rows.append(dtpsv(size, packed[:used], right, trans=1))
            solved.append(dtpsv(size, packed[:used], rows[-1]))
        pivots = [own - row @ row for own, row in zip(corner.tolist(), rows, strict=True)]
        if min(pivots) <= 0.0:
            raise ValueError("the larger covariance is not positive definite")
        weights = np.empty((len(rows), size + 1))
        for k, (row, pivot) in enumerate(zip(rows, pivots, strict=True)):
            last = (values[k] - kernels[k] @ self._weights[k]) / pivot
            np.subtract(self._weights[k], last * solved[k], out=weights[k, :size])
            weights[k, size] = last
            end = used + size + 1
            if end > len(self._packed[k]):  # room for more: a vector means nothing beyond `used`
                self._packed[k] = np.resize(self._packed[k], end * 3 // 2)
            self._packed[k][used : end - 1] = row
            self._packed[k][end - 1] = math.sqrt(pivot)
        self._weights, self.size, self._lower = weights, size + 1, None

    @property
    def weights(self) -> Tensor:
        """The inverse covariance times the targets, (K, n)."""
        return torch.from_numpy(self._weights)

    @property
    def lower(self) -> Tensor:
        """The factors (K, n, n)."""
        if self._lower is None:
            full = np.zeros((len(self._packed), self.size, self.size))
            rows = np.tril_indices(self.size)
            for factor, packed in zip(full, self._packed, strict=True):
                factor[rows] = packed[: len(rows[0])]
            self._lower = torch.from_numpy(full)
        return self._lower


def factorise(covariance: Tensor) -> Tensor:
    """Return the lower factor of (..., n, n), adding more to the diagonal until it works.

    Raises ValueError if that does not help.
    """
    identity = torch.eye(covariance.shape[-1], dtype=covariance.dtype)
    for jitter in _JITTERS:
        factor, failed = torch.linalg.cholesky_ex(covariance + jitter * identity)
        if not failed.any():
            return factor
    raise ValueError("the covariance is not positive definite even with the largest jitter")
