# Copyright 2026 The mbrl_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Exact Gaussian-process dynamics that take in each transition in O(n^2)."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mbrl_ros.dynamics.cholesky import GrowingCholesky
from mbrl_ros.dynamics.features import FeatureMap
from mbrl_ros.dynamics.kernel_model import KernelModel
from mbrl_ros.dynamics.model import Transitions


class GaussianProcess(KernelModel):
    """K independent exact GPs, conditioned on the most informative transitions.

    Twice `max_points` transitions are remembered, chosen alike, so that learning costs the same
    however long the robot has run. The other options are explained in KernelModel.
    """

    kind = "gp"

    def __init__(
        self,
        features: FeatureMap,
        max_points: int = 200,
        fit_points: int = 200,
        fit_steps: int = 20,
        seed: int = 0,
    ) -> None:
        super().__init__(features, max_points, 2 * max_points, fit_points, fit_steps, seed)
        self._factor: GrowingCholesky | None = None  # made when asked for

    def _extend(self, new: Transitions) -> bool:
        known = len(self._inputs)
        if known + len(new) > 1.25 * self.max_points:
            return False
        factor, hyperparameters = self._grown(), self._hyperparameters
        self._factor = None  # until all are in: a failure may leave it half grown
        corner = hyperparameters.corner()
        inputs, targets = self._rows(new)
        points = np.concatenate([self._inputs.numpy(), inputs])
        for row, target in enumerate(targets, start=known):
            try:
                factor.append(hyperparameters.cross(points[:row], points[row]), corner, target)
            except ValueError:
                return False
        self._inputs = torch.from_numpy(points)
        self._targets = torch.from_numpy(np.concatenate([self._targets.numpy(), targets]))
        self._factor, self._made_weights = factor, None
        return True

    def _rows(self, new: Transitions) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return normalised inputs (N, F) and targets (N, K) of a few transitions, quickly."""
        steps = zip(*(tensor.numpy() for tensor in new.tensors()), strict=True)
        inputs, targets = [], []
        for state, action, after, reward in steps:
            row, changes = self.features.example(state, action, after)
            inputs.append(row)
            targets.append(np.concatenate([changes, reward]) if len(reward) else changes)
        return (
            (np.array(inputs) - self._input.mean.numpy()) / self._input.scale.numpy(),
            (np.array(targets) - self._target.mean.numpy()) / self._target.scale.numpy(),
        )

    def _condition(self, inputs: Tensor, targets: Tensor) -> Tensor:
        chosen = self._informative(inputs, self.max_points)
        self._inputs, self._targets = inputs[chosen], targets[chosen]
        self._factor = self._made_weights = None
        return chosen

    def _make_weights(self) -> Tensor:
        return self._grown().weights()

    def _held_out_errors(
        self, inputs: Tensor, targets: Tensor, chosen: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Leave each chosen point out in turn, in closed form (eqs. 5.10 to 5.12)."""
        error, unknown = super()._held_out_errors(inputs, targets, chosen)
        precision = torch.cholesky_inverse(self._grown().lower).diagonal(dim1=1, dim2=2)
        left_out = 1.0 / precision - self._hyperparameters.noise[:, None]
        shown = chosen >= 0
        error[chosen[shown]] = -(self._weights / precision).T[shown]
        unknown[chosen[shown]] = left_out.clamp_min(0.0).T[shown]
        return error, unknown

    def _grown(self) -> GrowingCholesky:
        # One that a failed update left half grown is of another size.
        if self._factor is None or self._factor.size != len(self._inputs):
            covariance = self._hyperparameters.covariance(self._inputs)
            self._factor = GrowingCholesky(covariance, self._targets.T)
        return self._factor

    def _explaining(self) -> list[tuple[float, Tensor]]:
        return [(1.0, self._grown().lower)]

    def _function_weights(self, prior: Tensor, generator: torch.Generator | None) -> Tensor:
        noise = torch.randn(prior.shape, generator=generator, dtype=prior.dtype)
        observed = prior + noise * self._hyperparameters.noise.sqrt()[:, None, None]
        return torch.cholesky_solve(self._targets.T[:, :, None] - observed, self._grown().lower)

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Take over a snapshot; the factor is remade when it is needed."""
        super().restore(tensors)
        self._factor = None
