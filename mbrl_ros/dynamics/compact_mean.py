# Copyright 2026 The mbrl_ros authors
# SPDX-License-Identifier: Apache-2.0
"""The mean of Gaussian processes on as few points as tell it, for rollouts of many rows."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.linalg import lapack, solve_triangular
from torch import Tensor

from mbrl_ros.dynamics.cuda import RecordedFunction
from mbrl_ros.dynamics.features import FeatureMap
from mbrl_ros.dynamics.log_kernel import KernelInputs, log_kernel
from mbrl_ros.dynamics.normaliser import Normaliser
from mbrl_ros.dynamics.posterior import Posterior

# How far the compact mean may be from the mean at the points, root mean square: as a share of the
# deviation of the noise, and at least this share of that of what is learned.
_OF_NOISE = 0.05
_LEAST = 5e-4
# Share of the signal's variance below which nothing is left for more points to explain.
_EXPLAINED = 1e-8


def fewest_points(
    kernel: NDArray[np.float64], weights: NDArray[np.float64], tolerance: float
) -> tuple[NDArray[np.intp], NDArray[np.float64]]:
    """Return points, as indices (m,), and their weights (m,), that make nearly the same function.

    kernel (n, n) of the points, weights (n,) of the function, tolerance: root mean square at the
    points. Points come in the order of a pivoted Cholesky factor, ever the one that those before
    explain least (Fine and Scheinberg, JMLR 2001); their weights are the least-squares ones. All
    n, and the weights as they are, where fewer do not do.
    """
    values = kernel @ weights
    tol = _EXPLAINED * float(kernel.diagonal().max())
    factor, pivots, rank, _ = lapack.dpstrf(kernel, tol=tol, lower=1)
    order = pivots - 1
    columns = np.tril(factor)[:, :rank]
    orthogonal, triangular = np.linalg.qr(columns)
    told = orthogonal.T @ values[order]
    missing = values @ values - np.cumsum(told * told)
    enough = np.flatnonzero(missing <= len(values) * tolerance**2)
    if not len(enough) or enough[0] + 1 >= len(values):
        return np.arange(len(values)), weights
    count = int(enough[0]) + 1
    inner = solve_triangular(triangular[:count, :count], told[:count])
    return order[:count], solve_triangular(columns[:count, :count], inner, lower=True, trans="T")


@dataclass(frozen=True)
class CompactMean:
    """The mean change of D state dimensions as weights (D, M + 1) times exp(matrix [z, z^2, 1]).

    matrix (M + 1, 2F + 1), z being inputs (F,) that `input` has normalised. The last row of the
    exponential is one, and its weights are the mean of what is learned. matrix, weights: float32;
    M counts the points of all dimensions.
    """

    matrix: Tensor
    weights: Tensor
    input: Normaliser

    @classmethod
    def of(cls, posterior: Posterior, dimensions: int) -> CompactMean:
        """Choose the points of each of so many dimensions, the first outputs of a posterior."""
        points, hyperparameters = posterior.points, posterior.hyperparameters
        kernels = hyperparameters.kernel(points, points)
        rows, columns = [], []
        for k in range(dimensions):
            chosen, told = fewest_points(
                kernels[k].numpy(),
                posterior.weights[k].numpy(),
                tolerance=max(_OF_NOISE * float(posterior.noise[k]) ** 0.5, _LEAST),
            )
            rows.append(log_kernel(hyperparameters, k, points[torch.from_numpy(chosen)]))
            column = torch.zeros(dimensions, len(chosen), dtype=torch.float64)
            column[k] = posterior.target.scale[k] * torch.from_numpy(told)
            columns.append(column)
        rows.append(torch.zeros_like(rows[0][:1]))
        columns.append(posterior.target.mean[:dimensions, None])
        return cls(torch.cat(rows).float(), torch.cat(columns, dim=1).float(), posterior.input)


class MeanRollout:
    """Rolls out `count` rows by a compact mean, into buffers made once, on a device."""

    def __init__(
        self, mean: CompactMean, features: FeatureMap, count: int, device: str = "cpu"
    ) -> None:
        self._matrix, self._weights = mean.matrix.to(device), mean.weights.to(device)
        self._inputs = KernelInputs(features, mean.input, count, device)
        self._kernel = torch.empty(len(self._matrix), count, device=device)
        self._recorded: dict[int, RecordedFunction] = {}  # by the number of steps

    def step(self, states: Tensor, actions: Tensor) -> Tensor:
        """Return the next states (N, D) of states (N, D) under actions (N, A)."""
        before = states.T.float()
        after = self._advance(before, actions.T, torch.empty_like(before))
        return after.T.to(states.dtype)

    def rollout(self, states: Tensor, actions: Tensor) -> Tensor:
        """Return trajectories (H + 1, N, D) from states (N, D) under actions (H, N, A)."""
        trajectory = states.new_empty(len(actions) + 1, states.shape[1], len(states))
        trajectory[0] = states.T
        steps, columns = trajectory.unbind(), actions.transpose(1, 2).unbind()
        for before, action, after in zip(steps[:-1], columns, steps[1:], strict=True):
            self._advance(before, action, after)
        return trajectory.transpose(1, 2)

    def recorded_rollout(self, states: Tensor, actions: Tensor) -> Tensor:
        """Return the same, computed on a GPU from and to tensors on the CPU."""
        if len(actions) not in self._recorded:
            self._recorded[len(actions)] = RecordedFunction(self.rollout, (states, actions))
        return self._recorded[len(actions)](states, actions)

    def _advance(self, states: Tensor, actions: Tensor, after: Tensor) -> Tensor:
        """Write into `after` (D, N) what follows on states (D, N) under actions (A, N)."""
        torch.mm(self._matrix, self._inputs.of(states, actions), out=self._kernel)
        return torch.addmm(states, self._weights, self._kernel.exp_(), out=after)
