# Copyright 2026 The mbrl_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Exact Gaussian-process dynamics that take in each transition in O(n^2)."""

from __future__ import annotations

from collections.abc import Mapping

import torch
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
        if len(self._inputs) + len(new) > 1.25 * self.max_points:
            return False
        factor, hyperparameters = self._grown(), self._hyperparameters
        self._factor = None  # until all are in: a failure may leave it half grown
        inputs, targets = self._normalised(new)
        inputs = torch.cat([self._inputs, inputs])
        corner = hyperparameters.signal + hyperparameters.noise
        for row in targets:
            cross = hyperparameters.cross(inputs[: factor.size], inputs[factor.size])
            try:
                factor.append(cross, corner, row)
            except ValueError:
                return False
        self._inputs, self._targets = inputs, torch.cat([self._targets, targets])
        self._factor, self._weights = factor, factor.weights
        return True

    def _condition(self, inputs: Tensor, targets: Tensor) -> Tensor:
        chosen = self._informative(inputs, self.max_points)
        self._inputs, self._targets = inputs[chosen], targets[chosen]
        self._factor = None
        self._weights = self._grown().weights
        return chosen

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
