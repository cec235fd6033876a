# Copyright 2026 The mbrl_ros authors
# SPDX-License-Identifier: Apache-2.0
"""The logarithm of the kernel between many rows and points, as one matrix product."""

from __future__ import annotations

import torch
from torch import Tensor

from mbrl_ros.dynamics.features import FeatureMap
from mbrl_ros.dynamics.hyperparameters import Hyperparameters
from mbrl_ros.dynamics.normaliser import Normaliser


def log_kernel(hyperparameters: Hyperparameters, output: int, points: Tensor) -> Tensor:
    """Return what makes, times [z, z^2, 1], the logarithm of the kernel at z: (n, 2F + 1).

    Of one output, between normalised inputs z (F,) and points (n, F).
    """
    precision = torch.exp(-2.0 * hyperparameters.log_lengthscale[output])
    constant = hyperparameters.log_signal[output] - 0.5 * points.square() @ precision
    quadratic = (-0.5 * precision).expand(len(points), -1)
    return torch.cat([points * precision, quadratic, constant[:, None]], dim=1)


class KernelInputs:
    """[z, z^2, 1] (2F + 1, N) of N rows, z being their normalised inputs, in float32.

    In buffers made once, on a device. Dimensions come before rows, so that each is a piece of
    memory of its own.
    """

    def __init__(
        self, features: FeatureMap, normaliser: Normaliser, count: int, device: str = "cpu"
    ) -> None:
        size, plain, angles = features.size, len(features.plain), len(features.circular)
        self._gain = (1.0 / normaliser.scale)[:, None].float().to(device)
        self._shift = (-normaliser.mean / normaliser.scale)[:, None].float().to(device)
        self._plain_index = torch.tensor(features.plain, dtype=torch.int64, device=device)
        self._circular = features.circular
        self._whole = plain == features.state_dimensions
        raw = torch.empty(size, count, device=device)
        self._raw, self._plain = raw, raw[:plain]
        self._sines = list(raw[plain : plain + angles])
        self._cosines = list(raw[plain + angles : plain + 2 * angles])
        self._actions = raw[plain + 2 * angles :]
        self._augmented = torch.ones(2 * size + 1, count, device=device)
        self.inputs = self._augmented[:size]  # (F, N)
        self._squared = self._augmented[size : 2 * size]

    def of(self, states: Tensor, actions: Tensor) -> Tensor:
        """Return it of states (D, N) and actions (A, N), until the next call."""
        if self._whole:
            self._plain.copy_(states)
        else:
            torch.index_select(states, 0, self._plain_index, out=self._plain)
        for angle, sine, cosine in zip(self._circular, self._sines, self._cosines, strict=True):
            torch.sin(states[angle], out=sine)
            torch.cos(states[angle], out=cosine)
        self._actions.copy_(actions)
        torch.addcmul(self._shift, self._raw, self._gain, out=self.inputs)
        torch.mul(self.inputs, self.inputs, out=self._squared)
        return self._augmented
