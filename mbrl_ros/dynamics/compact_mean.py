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
    missing = max(values @ values, 0.0) - np.cumsum(told * told)
    enough = np.flatnonzero(missing <= len(values) * tolerance**2)
    if not len(enough) or enough[0] + 1 >= len(values):
        return np.arange(len(values)), weights
    count = int(enough[0]) + 1
    inner = solve_triangular(triangular[:count, :count], told[:count])
    return order[:count], solve_triangular(columns[:count, :count], inner, lower=True, trans="T")


@dataclass(frozen=True)
class CompactMean:
    """The mean change of D state dimensions as weights (D, M + 1) times exp(matrix [z, z^2, 1]).

    matrix (M + 1, 2F + 1), z being normalised inputs: those times gain (F, 1) plus shift (F, 1).
    The last row of the exponential is one, and its weights are the mean of what is learned. In
    float32; M counts the points of all dimensions.
    """

    matrix: Tensor
    weights: Tensor
    gain: Tensor
    shift: Tensor

    @classmethod
    def of(cls, posterior: Posterior, dimensions: int) -> CompactMean:
        """Choose the points of each of so many dimensions, the first outputs of a posterior."""
        points, hyperparameters = posterior.points, posterior.hyperparameters
        input, target = posterior.input, posterior.target
        kernels = hyperparameters.kernel(points, points)
        size = points.shape[1]
        rows, columns = [], []
        for k in range(dimensions):
            tolerance = max(_OF_NOISE * float(posterior.noise[k]) ** 0.5, _LEAST)
            chosen, told = fewest_points(
                kernels[k].numpy(), posterior.weights[k].numpy(), tolerance
            )
            centres = points[torch.from_numpy(chosen)]
            precision = torch.exp(-2.0 * hyperparameters.log_lengthscale[k])
            constant = hyperparameters.log_signal[k] - 0.5 * centres.square() @ precision
            quadratic = (-0.5 * precision).expand(len(chosen), -1)
            rows.append(torch.cat([centres * precision, quadratic, constant[:, None]], dim=1))
            column = torch.zeros(dimensions, len(chosen), dtype=torch.float64)
            column[k] = target.scale[k] * torch.from_numpy(told)
            columns.append(column)
        rows.append(torch.zeros(1, 2 * size + 1, dtype=torch.float64))
        columns.append(target.mean[:dimensions, None])
        return cls(
            torch.cat(rows).float(),
            torch.cat(columns, dim=1).float(),
            (1.0 / input.scale)[:, None].float(),
            (-input.mean / input.scale)[:, None].float(),
        )


class MeanRollout:
    """Rolls out `count` rows by a compact mean, into buffers made once, on a device.

    Dimensions come before rows within, so that each is a piece of memory of its own.
    """

    def __init__(
        self, mean: CompactMean, features: FeatureMap, count: int, device: str = "cpu"
    ) -> None:
        size, plain, angles = features.size, len(features.plain), len(features.angles)
        self._matrix, self._weights = mean.matrix.to(device), mean.weights.to(device)
        self._gain, self._shift = mean.gain.to(device), mean.shift.to(device)
        self._plain_index = torch.tensor(features.plain, dtype=torch.int64, device=device)
        self._angles = features.angles
        raw = torch.empty(size, count, device=device)
        self._raw, self._plain = raw, raw[:plain]
        self._sines = list(raw[plain : plain + angles])
        self._cosines = list(raw[plain + angles : plain + 2 * angles])
        self._actions = raw[plain + 2 * angles :]
        self._augmented = torch.ones(2 * size + 1, count, device=device)
        self._inputs = self._augmented[:size]
        self._squared = self._augmented[size : 2 * size]
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
        steps = trajectory.unbind()
        for before, action, after in zip(
            steps, actions.transpose(1, 2).unbind(), steps[1:], strict=False
        ):
            self._advance(before, action, after)
        return trajectory.transpose(1, 2)

    def recorded_rollout(self, states: Tensor, actions: Tensor) -> Tensor:
        """Return the same, computed on a GPU from and to tensors on the CPU."""
        if len(actions) not in self._recorded:
            self._recorded[len(actions)] = RecordedFunction(self.rollout, (states, actions))
        return self._recorded[len(actions)](states, actions)

    def _advance(self, states: Tensor, actions: Tensor, after: Tensor) -> Tensor:
        """Write into `after` (D, N) what follows on states (D, N) under actions (A, N)."""
        if self._angles:
            torch.index_select(states, 0, self._plain_index, out=self._plain)
        else:
            self._plain.copy_(states)
        for angle, sine, cosine in zip(self._angles, self._sines, self._cosines, strict=True):
            torch.sin(states[angle], out=sine)
            torch.cos(states[angle], out=cosine)
        self._actions.copy_(actions)
        torch.addcmul(self._shift, self._raw, self._gain, out=self._inputs)
        torch.mul(self._inputs, self._inputs, out=self._squared)
        torch.mm(self._matrix, self._augmented, out=self._kernel)
        return torch.addmm(states, self._weights, self._kernel.exp_(), out=after)
