# Copyright 2026 The mbrl_ros authors
# SPDX-License-Identifier: Apache-2.0
"""The kernel of the Gaussian processes, and how its hyper-parameters are found."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mbrl_ros.dynamics.cholesky import factorise

# Medians and spreads of the log-normal priors: smooth functions of unit-variance inputs that
# explain most of a unit-variance target.
_LENGTHSCALE_PRIOR = (math.log(2.0), 1.0)
_SIGNAL_PRIOR = (0.0, 1.0)
_NOISE_PRIOR = (math.log(0.01), 1.5)
_NOISE_FLOOR = 1e-4  # variance; keeps the factor well conditioned and float32 safe


@dataclass(frozen=True)
class Hyperparameters:
    """Of K squared-exponential kernels over F inputs (Rasmussen and Williams, 2006, eq. 5.1).

    log_lengthscale (K, F): one an input (ARD). log_signal (K,): of the signal's variance.
    log_noise (K,): of the noise's variance beyond a floor. All in normalised units.
    """

    log_lengthscale: Tensor
    log_signal: Tensor
    log_noise: Tensor

    @staticmethod
    def prior(outputs: int, inputs: int) -> Hyperparameters:
        """Return the medians of the priors."""
        return Hyperparameters(
            torch.full((outputs, inputs), _LENGTHSCALE_PRIOR[0]).double(),
            torch.full((outputs,), _SIGNAL_PRIOR[0]).double(),
            torch.full((outputs,), _NOISE_PRIOR[0]).double(),
        )

    @property
    def signal(self) -> Tensor:
        """Variance of the signal, (K,)."""
        return self.log_signal.exp()

    @property
    def noise(self) -> Tensor:
        """Variance of the noise, (K,)."""
        return self.log_noise.exp() + _NOISE_FLOOR

    def kernel(self, first: Tensor, second: Tensor) -> Tensor:
        """Return the covariance of the signal at (n, F) and (m, F): (K, n, m)."""
        inverse = torch.exp(-self.log_lengthscale)[:, None, :]
        a, b = first[None] * inverse, second[None] * inverse
        squares = a.square().sum(-1)[:, :, None] + b.square().sum(-1)[:, None, :]
        distance = torch.baddbmm(squares, a, b.mT, alpha=-2.0).clamp_min_(0.0)
        return distance.mul_(-0.5).add_(self.log_signal[:, None, None]).exp_()

    def cross(
        self, inputs: NDArray[np.float64], point: NDArray[np.float64]
    ) -> NDArray[np.float64]:
        """Return the covariance of the signal at inputs (n, F) and at one point (F,): (K, n)."""
        distance = np.exp(-2.0 * self.log_lengthscale.numpy()) @ np.square(inputs - point).T
        distance *= -0.5
        distance += self.log_signal.numpy()[:, None]
        return np.exp(distance, out=distance)

    def corner(self) -> NDArray[np.float64]:
        """Return the variance of what is observed at one point, (K,)."""
        signal, noise = np.exp(self.log_signal.numpy()), np.exp(self.log_noise.numpy())
        return signal + noise + _NOISE_FLOOR

    def covariance(self, inputs: Tensor) -> Tensor:
        """Return the covariance of what is observed at inputs (n, F): (K, n, n)."""
        kernel = self.kernel(inputs, inputs)
        kernel.diagonal(dim1=-2, dim2=-1).add_(self.noise[:, None])
        return kernel

    def rescaled(self, inputs: Tensor, outputs: Tensor) -> Hyperparameters:
        """Return the same functions in units that are `inputs` (F,), `outputs` (K,) as large."""
        return Hyperparameters(
            self.log_lengthscale - inputs.log(),
            self.log_signal - 2.0 * outputs.log(),
            self.log_noise - 2.0 * outputs.log(),
        )

    def distance(self, other: Hyperparameters) -> float:
        """Return the largest change of a logarithm between the two."""
        pairs = (
            (self.log_lengthscale, other.log_lengthscale),
            (self.log_signal, other.log_signal),
            (self.log_noise, other.log_noise),
        )
        return max(float((a - b).abs().max()) for a, b in pairs)

    def fitted(self, inputs: Tensor, targets: Tensor, steps: int) -> Hyperparameters:
        """Return what `steps` of Adam make of them, towards the maximum of their posterior.

        inputs (n, F), targets (n, K). Kernel, likelihood and priors are GPyTorch's.
        """
        # Imported here because a planner, which only predicts, starts sooner without.
        from gpytorch.constraints import GreaterThan, Positive
        from gpytorch.kernels import RBFKernel, ScaleKernel
        from gpytorch.likelihoods import GaussianLikelihood
        from gpytorch.priors import NormalPrior

        batch = torch.Size([len(self.log_signal)])
        # Raw parameters are logarithms, so that a step changes all scales alike.
        positive = Positive(transform=torch.exp, inv_transform=torch.log)
        above_floor = GreaterThan(_NOISE_FLOOR, transform=torch.exp, inv_transform=torch.log)
        base = RBFKernel(
            ard_num_dims=inputs.shape[1], batch_shape=batch, lengthscale_constraint=positive
        )
        kernel = ScaleKernel(base, batch_shape=batch, outputscale_constraint=positive).double()
        likelihood = GaussianLikelihood(batch_shape=batch, noise_constraint=above_floor).double()
        lengthscale, signal = base.raw_lengthscale, kernel.raw_outputscale
        noise = likelihood.noise_covar.raw_noise
        parameters = (lengthscale, signal, noise)
        values = (self.log_lengthscale[:, None], self.log_signal, self.log_noise[:, None])
        priors = [NormalPrior(*p) for p in (_LENGTHSCALE_PRIOR, _SIGNAL_PRIOR, _NOISE_PRIOR)]
        with torch.no_grad():
            for parameter, value in zip(parameters, values, strict=True):
                parameter.copy_(value)
        optimiser = torch.optim.Adam(parameters, lr=0.1)
        identity = torch.eye(len(inputs), dtype=inputs.dtype)
        batched = inputs.expand(*batch, *inputs.shape)
        for _ in range(steps):
            covariance = kernel(batched).to_dense() + likelihood.noise[:, :, None] * identity
            with torch.no_grad():
                factor = factorise(covariance)
                inverse = torch.cholesky_inverse(factor)
                weights = inverse @ targets.T[:, :, None]
                gradient = weights @ weights.mT - inverse
            # Its gradient is that of the log marginal likelihood (eq. 5.9), without
            # differentiating through the factorisation, which costs half as much again.
            objective = 0.5 * (gradient * covariance).sum()
            for parameter, prior in zip(parameters, priors, strict=True):
                objective = objective + prior.log_prob(parameter).sum()
            optimiser.zero_grad()
            (-objective).backward()
            optimiser.step()
        return Hyperparameters(
            lengthscale.detach()[:, 0].clone(), signal.detach().clone(), noise.detach()[:, 0]
        )
