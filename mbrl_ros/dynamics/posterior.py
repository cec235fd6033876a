# Copyright 2026 The mbrl_ros authors
# SPDX-License-Identifier: Apache-2.0
"""What the predictions of Gaussian processes rest on."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from mbrl_ros.dynamics.hyperparameters import Hyperparameters
from mbrl_ros.dynamics.normaliser import Normaliser


@dataclass(frozen=True)
class Posterior:
    """A Gaussian-process posterior in normalised units.

    input, target: normalisers of F inputs and K outputs. points (n, F). With k the kernel of
    one output between a point and the points, the mean is weights (K, n) times k, and the
    signal's variance is reduced by k^T explaining k, explaining being (K, n, n). noise (K,):
    the variance that is added to it.
    """

    input: Normaliser
    target: Normaliser
    points: Tensor
    weights: Tensor
    explaining: Tensor
    hyperparameters: Hyperparameters
    noise: Tensor
