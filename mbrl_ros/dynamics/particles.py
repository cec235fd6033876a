# Copyright 2026 The mbrl_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Particles that move through an ensemble of networks: the planners' hot path."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import silu, softplus

from mbrl_ros.dynamics.calibration import PersistentNoise
from mbrl_ros.dynamics.features import FeatureMap

_ALIGNED = 16  # products whose columns are a multiple of this take less than half the time


def bounded_log_variance(raw: Tensor, lower: Tensor, upper: Tensor) -> Tensor:
    """Keep raw log variances softly within bounds (PETS, appendix A.1)."""
    bounded = upper - softplus(upper - raw)
    return lower + softplus(bounded - lower)


@dataclass(frozen=True)
class FoldedNetworks:
    """M networks from features (F) as they are to changes of the D state dimensions.

    weights (M, in, out) and biases (M, 1, out) of each layer, float32. The output layer's first
    D columns are the mean in SI units, the next D, if log_variance_bounds are given, the raw log
    variance of the noise, which noise_scale (D,) turns into SI units. Without them the standard
    deviation of the noise is noise_scale. persistence (D,): correlation of the noise of
    consecutive steps, which is unknown dynamics rather than noise.
    """

    weights: list[Tensor]
    biases: list[Tensor]
    noise_scale: Tensor
    persistence: Tensor
    log_variance_bounds: tuple[Tensor, Tensor] | None = None  # lower, upper (M, 1, D)


class Particles:
    """The step of `count` particles, in float32, without gradients, in buffers made once.

    By `mean` all particles move with the average of all members. Otherwise each row is evaluated
    by one member only: by `tsinf` and `pathwise` row i by member i % M, by `ts1` each member
    has as many rows, dealt out anew at each step. So rows never gather weights: grouping them
    by member is a transposition. `pathwise` adds no noise; that of `tsinf` is correlated from
    step to step as held-out errors are.
    """

    def __init__(
        self,
        features: FeatureMap,
        networks: FoldedNetworks,
        propagation: str,
        count: int,
        generator: torch.Generator | None,
    ) -> None:
        self._features, self._networks, self._count = features, networks, count
        self._size = features.state_dimensions
        self._generator = generator
        self._shared, self._dealt = propagation == "mean", propagation == "ts1"
        self._noisy = propagation in ("ts1", "tsinf")
        persistence = networks.persistence * (propagation == "tsinf")
        self._noise = PersistentNoise(count, persistence, generator)
        members = len(networks.weights[0])
        each = count if self._shared else -(-count // members)
        # Rows beyond `count` fill up the groups.
        self._raw = torch.zeros(each if self._shared else each * members, features.size)
        if self._shared:
            self._grouped = self._raw.expand(members, -1, -1)
        else:
            self._grouped = self._raw.view(each, members, features.size).transpose(0, 1)
        self._hidden = [torch.empty(members, each, w.shape[2]) for w in networks.weights[:-1]]
        predicts_noise = self._noisy and networks.log_variance_bounds is not None
        columns = slice(2 * self._size if predicts_noise else self._size)
        self._output_weight = _padded(networks.weights[-1][..., columns])
        self._output_bias = _padded(networks.biases[-1][..., columns])
        if self._shared:
            self._output_weight = self._output_weight / members
            self._output_bias = self._output_bias.mean(0)

    def __call__(self, states: Tensor, actions: Tensor) -> Tensor:
        """Return the next states (N, D) of states (N, D) under actions (N, A)."""
        return self.advance(states, actions, torch.empty_like(states))

    @torch.no_grad()
    def advance(self, states: Tensor, actions: Tensor, out: Tensor) -> Tensor:
        """Write the next states (N, D) into `out` and return it."""
        inputs = self._features.inputs(states, actions)
        order = None
        if self._dealt:
            order = torch.randperm(len(self._raw), generator=self._generator)[: self._count]
            self._raw[order] = inputs.to(self._raw.dtype)
        else:
            self._raw[: self._count] = inputs
        x = self._grouped
        weights, biases = self._networks.weights[:-1], self._networks.biases[:-1]
        for weight, bias, hidden in zip(weights, biases, self._hidden, strict=True):
            torch.baddbmm(bias, x, weight, out=hidden)
            x = silu(hidden, inplace=True)
        if self._shared:
            change = torch.addbmm(self._output_bias, x, self._output_weight)
            return torch.add(states, change[:, : self._size], out=out)
        output = torch.baddbmm(self._output_bias, x, self._output_weight)
        change = self._rows(output[..., : self._size], order)
        if self._noisy:
            change = change + self._noise.draw() * self._deviation(output, order)
        return torch.add(states, change, out=out)

    def _deviation(self, output: Tensor, order: Tensor | None) -> Tensor:
        """Return the standard deviation of the noise of each row, (N, D) or (D,)."""
        bounds = self._networks.log_variance_bounds
        if bounds is None:
            return self._networks.noise_scale
        raw = output[..., self._size : 2 * self._size]
        deviation = torch.exp(0.5 * bounded_log_variance(raw, *bounds))
        return self._rows(deviation, order) * self._networks.noise_scale

    def _rows(self, grouped: Tensor, order: Tensor | None) -> Tensor:
        """Return the particles' rows (N, K) of groups (M, N / M, K)."""
        rows = grouped.transpose(0, 1).reshape(len(self._raw), -1)
        return rows[: self._count] if order is None else rows[order]


def _padded(columns: Tensor) -> Tensor:
    """Append zeros to columns (..., K) until K is aligned."""
    return torch.nn.functional.pad(columns, (0, -columns.shape[-1] % _ALIGNED))
