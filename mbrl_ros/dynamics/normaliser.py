# Copyright 2026 The mbrl_ros authors
# SPDX-License-Identifier: Apache-2.0
"""To zero mean and unit variance, and back."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

_SCALE_FLOOR = 1e-6  # a constant column is not blown up


@dataclass(frozen=True)
class Normaliser:
    """An affine map of K columns: normalised = (value - mean) / scale; mean, scale (K,).

    A model that takes over another normaliser expresses its parameters in the new one, so that
    what it predicts does not jump.
    """

    mean: Tensor
    scale: Tensor

    @staticmethod
    def identity(size: int) -> Normaliser:
        """Return the map of K columns onto themselves, in float64."""
        return Normaliser(torch.zeros(size).double(), torch.ones(size).double())

    @staticmethod
    def of(values: Tensor) -> Normaliser:
        """Return the map to zero mean and unit variance over values (N, K), N >= 2.

        A constant column keeps scale 1.
        """
        scale = values.std(0)
        scale = torch.where(scale > _SCALE_FLOOR, scale, torch.ones_like(scale))
        return Normaliser(values.mean(0), scale)

    def normalise(self, values: Tensor) -> Tensor:
        """Map values (..., K)."""
        return (values - self.mean) / self.scale

    def restore(self, normalised: Tensor) -> Tensor:
        """Map back normalised values (..., K)."""
        return normalised * self.scale + self.mean


@dataclass(frozen=True)
class Moments:
    """Running mean and variance of K columns, (K,) each, in float64."""

    mean: Tensor
    variance: Tensor

    @staticmethod
    def none(size: int) -> Moments:
        """Return those of no data: mean 0, variance 1."""
        return Moments(torch.zeros(size).double(), torch.ones(size).double())

    def merged(self, count: int, values: Tensor) -> Moments:
        """Return those of the `count` rows so far and values (N, K) together.

        After Chan, Golub and LeVeque, "Algorithms for Computing the Sample Variance" (1983).
        """
        total = count + len(values)
        share = len(values) / total
        variance, mean = torch.var_mean(values.double(), 0, correction=0)
        apart = mean - self.mean
        return Moments(
            self.mean + share * apart,
            (1.0 - share) * self.variance
            + share * variance
            + share * (1.0 - share) * apart.square(),
        )

    def normaliser(self) -> Normaliser:
        """Return the map to zero mean and unit variance; a constant column keeps scale 1."""
        scale = self.variance.sqrt()
        scale = torch.where(scale > _SCALE_FLOOR, scale, torch.ones_like(scale))
        return Normaliser(self.mean, scale)
