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
# Adam (Kingma and Ba, ICLR 2015): its rate, and the shares of its means that a step keeps.
_RATE, _MEAN_KEPT, _SQUARE_KEPT = 0.1, 0.9, 0.999


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

        inputs (n, F), targets (n, K). Posterior and steps are those of GPyTorch's exact marginal
        likelihood with priors and of torch.optim.Adam, in closed form (eq. 5.9), which takes half
        the time; nor do the two then have to be loaded, for seconds, while the robot moves.
        """
        medians, spreads = _priors(inputs.shape[1])
        scales = torch.stack([self.log_signal, self.log_noise], dim=1)
        values = torch.cat([self.log_lengthscale, scales], dim=1)  # (K, F + 2)
        mean, square = torch.zeros_like(values), torch.zeros_like(values)
        for step in range(1, steps + 1):
            present = Hyperparameters._of(values)
            slope = present._likelihood_slope(inputs, targets) - (values - medians) / spreads**2
            mean = torch.lerp(slope, mean, _MEAN_KEPT)
            square = torch.lerp(slope.square(), square, _SQUARE_KEPT)
            size = (square / (1.0 - _SQUARE_KEPT**step)).sqrt() + 1e-8
            values = values + _RATE * mean / (1.0 - _MEAN_KEPT**step) / size
        return Hyperparameters._of(values)

    @staticmethod
    def _of(values: Tensor) -> Hyperparameters:
        """Return the hyper-parameters whose logarithms are `values` (K, F + 2)."""
        return Hyperparameters(
            values[:, :-2].clone(), values[:, -2].clone(), values[:, -1].clone()
        )

    def _likelihood_slope(self, inputs: Tensor, targets: Tensor) -> Tensor:
        """Return the gradient (K, F + 2) of the log marginal likelihood by the logarithms."""
        kernel = self.kernel(inputs, inputs)
        diagonal = kernel.diagonal(dim1=-2, dim2=-1)
        diagonal.add_(self.noise[:, None])
        inverse = torch.cholesky_inverse(factorise(kernel))
        diagonal.sub_(self.noise[:, None])
        weights = inverse @ targets.T[:, :, None]
        # By the covariance.
        slope = torch.baddbmm(inverse, weights, weights.mT, beta=-0.5, alpha=0.5)
        noise = slope.diagonal(dim1=-2, dim2=-1).sum(-1) * self.log_noise.exp()
        slope *= kernel
        # The sum over pairs of slope_ij (x_i - x_j)^2, without the differences.
        squares = slope.sum(2) @ inputs.square() - ((slope @ inputs) * inputs).sum(1)
        lengthscale = 2.0 * squares * torch.exp(-2.0 * self.log_lengthscale)
        signal = slope.sum((1, 2))
        return torch.cat([lengthscale, signal[:, None], noise[:, None]], dim=1)


def _priors(inputs: int) -> tuple[Tensor, Tensor]:
    """Return medians and spreads of the priors on the logarithms, (F + 2,)."""
    priors = [_LENGTHSCALE_PRIOR] * inputs + [_SIGNAL_PRIOR, _NOISE_PRIOR]
    medians, spreads = torch.tensor(priors).double().T
    return medians, spreads
