# Copyright 2026 The mbrl_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Sparse variational Gaussian-process dynamics, for more data than an exact GP can hold."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from mbrl_ros.dynamics.cholesky import factorise
from mbrl_ros.dynamics.features import FeatureMap
from mbrl_ros.dynamics.kernel_model import KernelModel
from mbrl_ros.dynamics.model import Transitions

_INDUCING_JITTER = 1e-6  # of the signal's variance; inducing values are observed without noise
_CHUNK = 1024  # transitions whose kernel is held at once


class SparseGaussianProcess(KernelModel):
    """K independent GPs that summarise all remembered transitions at n inducing points.

    The variational posterior over the inducing values is the optimal one, in closed form
    (Titsias, AISTATS 2009), so that new transitions only add to two sums. The inducing points
    are chosen greedily by what they explain, which bounds the distance to the exact posterior
    (Burt et al., JMLR 2020). max_points: inducing points. memory: transitions that count.
    The other options are explained in KernelModel.
    """

    kind = "svgp"

    def __init__(
        self,
        features: FeatureMap,
        max_points: int = 300,
        memory: int = 5000,
        fit_points: int = 400,
        fit_steps: int = 20,
        seed: int = 0,
    ) -> None:
        super().__init__(features, max_points, memory, fit_points, fit_steps, seed)
        self._sums: tuple[Tensor, Tensor] | None = None
        self._factors: tuple[Tensor, Tensor] | None = None

    def _extend(self, new: Transitions) -> bool:
        remembered = self._remembered_count
        if remembered < self.max_points or remembered + len(new) > 1.25 * self.memory:
            return False
        self._sums = self._added(*self._summed(), *self._normalised(new))
        self._factors = self._made_weights = None
        return True

    def _remembered(self, inputs: Tensor) -> Tensor:
        """Keep the newest half; of the older ones as many, by chance."""
        count, half = len(inputs), self.memory // 2
        older = torch.randperm(count - half, generator=self._generator)[: self.memory - half]
        return torch.cat([older.sort().values, torch.arange(count - half, count)])

    def _condition(self, inputs: Tensor, targets: Tensor) -> Tensor:
        chosen = self._informative(inputs, self.max_points)
        self._inputs, self._targets = inputs[chosen], targets[chosen]
        self._sums = self._factors = self._made_weights = None
        return chosen

    def _summed(self) -> tuple[Tensor, Tensor]:
        """Return the sums over transitions of k k^T (K, n, n) and k y (K, n), per noise.

        k is the kernel between the inducing points and the transition, y its target.
        """
        if self._sums is None:
            outputs, points = self.features.outputs, len(self._inputs)
            squares = torch.zeros(outputs, points, points).double()
            products = torch.zeros(outputs, points).double()
            inputs, targets = self._normalised(self._remembering())
            for some, their in zip(inputs.split(_CHUNK), targets.split(_CHUNK), strict=True):
                squares, products = self._added(squares, products, some, their)
            self._sums = squares, products
        return self._sums

    def _added(
        self, squares: Tensor, products: Tensor, inputs: Tensor, targets: Tensor
    ) -> tuple[Tensor, Tensor]:
        kernel = self._hyperparameters.kernel(self._inputs, inputs)
        weighted = kernel / self._hyperparameters.noise[:, None, None]
        return squares + weighted @ kernel.mT, products + (weighted @ targets.T[:, :, None])[
            ..., 0
        ]

    def _make_weights(self) -> Tensor:
        """Make them of the sums (Titsias, 2009, eq. 6)."""
        _, posterior = self._factored()
        products = self._summed()[1]
        return torch.cholesky_solve(products[:, :, None], posterior)[:, :, 0]

    def _factored(self) -> tuple[Tensor, Tensor]:
        """Return factors of the inducing values' prior covariance, and of that plus the sum."""
        if self._factors is None:
            prior = self._hyperparameters.kernel(self._inputs, self._inputs)
            jitter = _INDUCING_JITTER * self._hyperparameters.signal
            prior.diagonal(dim1=-2, dim2=-1).add_(jitter[:, None])
            self._factors = factorise(prior), factorise(prior + self._summed()[0])
        return self._factors

    def _explaining(self) -> list[tuple[float, Tensor]]:
        prior, posterior = self._factored()
        return [(1.0, prior), (-1.0, posterior)]

    def _function_weights(self, prior: Tensor, generator: torch.Generator | None) -> Tensor:
        inducing, posterior = self._factored()
        noise = torch.randn(prior.shape, generator=generator, dtype=prior.dtype)
        # K^-1 u of inducing values u drawn from their posterior, less K^-1 prior.
        drawn = torch.linalg.solve_triangular(posterior.mT, noise, upper=True)
        return self._weights[:, :, None] + drawn - torch.cholesky_solve(prior, inducing)

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Take over a snapshot; the sums are remade when they are needed."""
        super().restore(tensors)
        self._sums = self._factors = None
