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
