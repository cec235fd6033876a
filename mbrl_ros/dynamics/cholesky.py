# Copyright 2026 The mbrl_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Cholesky factors, and the weights of a regression, that grow with the data."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.linalg.blas import dtpsv
from torch import Tensor

_JITTERS = (0.0, 1e-6, 1e-4, 1e-2)


class GrowingCholesky:
    """Lower factors L of K covariance matrices (K, n, n), and L^-1 times their targets (K, n).

    Appending a row costs O(n^2), not the O(n^3) of starting again (Rasmussen and Williams,
    2006, appendix A.3): one triangular solve; `weights` costs another. The rows of a factor lie
    one after the other in one vector (BLAS's packed storage), so that a new one is written
    behind the last and nothing is moved.

    Raises ValueError if a matrix is not positive definite even with the largest jitter.
    """

    def __init__(self, covariance: Tensor, targets: Tensor) -> None:
        lower = factorise(covariance)
        self.size = covariance.shape[-1]
        self._lower: Tensor | None = lower
        solved = torch.linalg.solve_triangular(lower, targets[:, :, None], upper=False)
        self._solved = solved[:, :, 0].numpy()
        rows = np.tril_indices(self.size)
        # Room for more rows: beyond n (n + 1) / 2 entries a vector means nothing.
        self._packed = [factor[rows] for factor in lower.numpy()]

    def append(
        self, cross: NDArray[np.float64], corner: NDArray[np.float64], targets: NDArray[np.float64]
    ) -> None:
        """Take in one more row: its covariance with those before (K, n) and its own (K,).

        targets (K,): the value observed there. Raises ValueError, leaving all as it was, if a
        larger matrix is not positive definite.
        """
        used = self.size * (self.size + 1) // 2
        rows = np.array([self._solve(k, right, trans=1) for k, right in enumerate(cross)])
        pivots = corner - np.einsum("kn,kn->k", rows, rows)
        if pivots.min() <= 0.0:
            raise ValueError("the larger covariance is not positive definite")
        roots = np.sqrt(pivots)
        last = (targets - np.einsum("kn,kn->k", rows, self._solved)) / roots
        end = used + self.size + 1
        for k, packed in enumerate(self._packed):
            if end > len(packed):
                packed = self._packed[k] = np.resize(packed, end * 3 // 2)
            packed[used : end - 1] = rows[k]
            packed[end - 1] = roots[k]
        self._solved = np.concatenate([self._solved, last[:, None]], axis=1)
        self.size, self._lower = self.size + 1, None

    def weights(self) -> Tensor:
        """Return the inverse covariance times the targets, (K, n)."""
        solved = [self._solve(k, right, trans=0) for k, right in enumerate(self._solved)]
        return torch.from_numpy(np.stack(solved))

    def _solve(self, output: int, right: NDArray[np.float64], trans: int) -> NDArray[np.float64]:
        """Return L^-1 right (trans 1) or L^-T right (trans 0).

        Rows of L are columns of the upper factor that BLAS expects.
        """
        packed = self._packed[output][: self.size * (self.size + 1) // 2]
        solved: NDArray[np.float64] = dtpsv(self.size, packed, right, trans=trans)
        return solved

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
    for jitter in _JITTERS:
        shifted = covariance
        if jitter:
            shifted = covariance + jitter * torch.eye(covariance.shape[-1], dtype=covariance.dtype)
        factor, failed = torch.linalg.cholesky_ex(shifted)
        if not failed.any():
            return factor
    raise ValueError("the covariance is not positive definite even with the largest jitter")
