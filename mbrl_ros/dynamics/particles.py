# Copyright 2026 The mbrl_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Particles that move through an ensemble of networks: the planners' hot path."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cache
from itertools import repeat

import torch
from torch import Tensor
from torch.nn.functional import silu, softplus

from mbrl_ros.dynamics.calibration import PersistentNoise
from mbrl_ros.dynamics.cuda import RecordedFunction
from mbrl_ros.dynamics.features import FeatureMap
from mbrl_ros.dynamics.model import Step

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

    def to(self, device: str) -> FoldedNetworks:
        """Return the same on a device."""
        bounds = self.log_variance_bounds
        return FoldedNetworks(
            [weight.to(device) for weight in self.weights],
            [bias.to(device) for bias in self.biases],
            self.noise_scale.to(device),
            self.persistence,
            None if bounds is None else (bounds[0].to(device), bounds[1].to(device)),
        )


class Particles:
    """Moves `count` particles in float32, without gradients, in buffers made once.

    By `mean` all particles move with the average of all members. Otherwise each row is evaluated
    by one member only: by `tsinf` and `pathwise` row i by member i % M, by `ts1` each member
    has as many rows, dealt out anew at each step. So rows never gather weights; but by `ts1`
    they lie grouped by member, (M, N / M, ...), throughout a rollout. `pathwise` adds no noise;
    that of `tsinf` is correlated from step to step as held-out errors are.

    precision: `bfloat16` rounds what is between the first and the last layer to 8 bits, which
    many processors compute in half the time. The layers next to states stay in float32.
    engine: `compile`: the networks go through torch.compile, which takes seconds at the first
    step of a number of rows; it raises what the compiler does. `cuda`: rollouts are computed on
    a GPU, see RecordedFunction; what is random is still drawn on the CPU. Otherwise `eager`.
    """

    def __init__(
        self,
        features: FeatureMap,
        networks: FoldedNetworks,
        propagation: str,
        count: int,
        precision: str = "float32",
        engine: str = "eager",
    ) -> None:
        device = "cuda" if engine == "cuda" else "cpu"
        networks = networks.to(device)
        self._networks, self._count, self._engine = networks, count, engine
        self._recorded: dict[int, RecordedFunction] = {}  # by the number of steps
        self._shared, self._dealt = propagation == "mean", propagation == "ts1"
        self._noisy = propagation in ("ts1", "tsinf")
        self._persistence = networks.persistence * (propagation == "tsinf")
        size = self._size = features.state_dimensions
        members = len(networks.weights[0])
        each = count if self._shared else -(-count // members)
        self._groups = 1 if self._shared or self._dealt else members
        self._padding = 0 if self._dealt else each * (1 if self._shared else members) - count

        # The first layer: states as they are, sines, cosines, actions, and a one for the bias.
        angles, plain = len(features.circular), len(features.plain)
        parts = (size, angles, angles, features.action_dimensions, 1)
        first = networks.weights[0].new_zeros(members, sum(parts), networks.weights[0].shape[2])
        first[:, features.plain] = networks.weights[0][:, :plain]
        first[:, size:-1] = networks.weights[0][:, plain:]
        first[:, -1:] = networks.biases[0]
        inputs = first.new_zeros(1 if self._shared else members, each, sum(parts))
        inputs[..., -1] = 1.0
        self._rows = inputs.view(-1, sum(parts))
        self._staged = inputs.new_ones(1, count, sum(parts)) if self._dealt else inputs
        self._states, sines, cosines, self._actions, _ = self._staged.split(parts, dim=2)
        self._angles = [
            (self._states[..., angle], sines[..., i], cosines[..., i])
            for i, angle in enumerate(features.circular)
        ]
        self._first = (inputs.expand(members, -1, -1), first)

        dtype = {"float32": torch.float32, "bfloat16": torch.bfloat16}[precision]
        self._rounded = dtype != torch.float32
        self._middle = [
            (weight.to(dtype), bias.to(dtype))
            for weight, bias in zip(networks.weights[1:-1], networks.biases[1:-1], strict=True)
        ]
        # Layers of one width take turns with two buffers, which stay in the processor's cache.
        widths = [weight.shape[2] for weight in networks.weights[:-1]]
        buffers = {
            (width, i % 2): first.new_empty(members, each, width, dtype=dtype)
            for i, width in enumerate(widths)
        }
        self._hidden = [buffers[width, i % 2] for i, width in enumerate(widths)]
        self._entry, self._exit = self._hidden[0], self._hidden[-1]
        if self._rounded:
            self._entry, self._exit = self._entry.float(), self._exit.float()

        predicts_noise = self._noisy and networks.log_variance_bounds is not None
        columns = slice(2 * size if predicts_noise else size)
        self._output_weight = _padded(networks.weights[-1][..., columns])
        self._output_bias = _padded(networks.biases[-1][..., columns])
        width = self._output_weight.shape[2]
        if self._shared:
            self._output_weight = self._output_weight / members
            self._output_bias = self._output_bias.mean(0)
            self._output = first.new_empty(each, width)
        else:
            self._output = first.new_empty(members, each, width)

    @torch.no_grad()
    def rollout(
        self, states: Tensor, actions: Tensor, generator: torch.Generator | None
    ) -> Tensor:
        """Return trajectories (H + 1, N, D) from states (N, D) under actions (H, N, A)."""
        start, moves, noise = self._grouped(states[None])[0], self._grouped(actions), None
        if self._noisy:
            noise = PersistentNoise(self._count, self._persistence, generator)
        draws = (self._drawn(noise, generator) for _ in moves)
        if self._engine != "cuda":
            return self._follow(start, moves, draws)
        values = (start, moves, *map(torch.stack, zip(*draws, strict=True)))
        if len(moves) not in self._recorded:
            self._recorded[len(moves)] = RecordedFunction(self._follow_drawn, values)
        return self._recorded[len(moves)](*values)

    def stepper(self, generator: torch.Generator | None) -> Step:
        """Return the function of one step: states (N, D), actions (N, A) -> states (N, D)."""
        noise = None
        if self._noisy:
            noise = PersistentNoise(self._count, self._persistence, generator)

        @torch.no_grad()
        def step(states: Tensor, actions: Tensor) -> Tensor:
            start, move = self._grouped(states[None])[0], self._grouped(actions[None])[0]
            after = torch.empty_like(start)
            self._advance(start, move, after, *self._drawn(noise, generator))
            return self._ungrouped(after[None])[0]

        return step

    def _drawn(
        self, noise: PersistentNoise | None, generator: torch.Generator | None
    ) -> tuple[Tensor, ...]:
        """Draw what is random in one step: noise (G, rows, D) and the order of rows, if any."""
        order = []
        if self._dealt:
            order.append(torch.randperm(len(self._rows), generator=generator)[: self._count])
        return () if noise is None else (self._grouped(noise.draw()[None])[0], *order)

    def _follow_drawn(self, start: Tensor, moves: Tensor, *draws: Tensor) -> Tensor:
        """Do as `_follow`, with everything random in tensors (H, ...)."""
        return self._follow(start, moves, zip(*draws, strict=True) if draws else repeat(()))

    def _follow(self, start: Tensor, moves: Tensor, draws: Iterable[tuple[Tensor, ...]]) -> Tensor:
        """Return trajectories (H + 1, N, D) from start (G, rows, D), moves (H, G, rows, A)."""
        trajectory = start.new_empty(len(moves) + 1, *start.shape)
        trajectory[0] = start
        for t, (move, drawn) in enumerate(zip(moves, draws, strict=False)):
            self._advance(trajectory[t], move, trajectory[t + 1], *drawn)
        return self._ungrouped(trajectory)

    def _grouped(self, values: Tensor) -> Tensor:
        """Lay out values (T, N, K) as (T, G, rows, K), filled up with zeros."""
        if self._padding:
            values = torch.nn.functional.pad(values, (0, 0, 0, self._padding))
        return values.unflatten(1, (-1, self._groups)).transpose(1, 2).contiguous()

    def _ungrouped(self, values: Tensor) -> Tensor:
        """Undo `_grouped`."""
        return values.transpose(1, 2).flatten(1, 2)[:, : self._count]

    def _advance(
        self,
        states: Tensor,
        actions: Tensor,
        out: Tensor,
        noise: Tensor | None = None,
        order: Tensor | None = None,
    ) -> None:
        """Write into `out` what follows on states (G, rows, D) under actions (G, rows, A)."""
        self._states.copy_(states)
        for angle, sine, cosine in self._angles:
            torch.sin(angle, out=sine)
            torch.cos(angle, out=cosine)
        self._actions.copy_(actions)
        if order is not None:
            self._rows[order] = self._staged[0]
        output = self._evaluate()
        change = output[..., : self._size]
        if order is not None:
            change = change.flatten(0, 1)[order]
        if noise is not None:
            change = torch.addcmul(change, noise, self._deviation(output, order))
        torch.add(states, change, out=out)

    def _evaluate(self) -> Tensor:
        """Return the networks' output at the inputs that have been set."""
        if self._engine == "compile":
            last = (self._output_weight, self._output_bias)
            output: Tensor = _compiled_network()(*self._first, self._middle, *last, self._shared)
            return output
        x = silu(torch.bmm(*self._first, out=self._entry), inplace=True)
        if self._rounded:
            x = self._hidden[0].copy_(x)
        for (weight, bias), hidden in zip(self._middle, self._hidden[1:], strict=True):
            x = silu(torch.baddbmm(bias, x, weight, out=hidden), inplace=True)
        if self._rounded:
            x = self._exit.copy_(x)
        product = torch.addbmm if self._shared else torch.baddbmm
        return product(self._output_bias, x, self._output_weight, out=self._output)

    def _deviation(self, output: Tensor, order: Tensor | None) -> Tensor:
        """Return the standard deviation of the noise of each row, (G, rows, D) or (D,)."""
        bounds = self._networks.log_variance_bounds
        if bounds is None:
            return self._networks.noise_scale
        raw = output[..., self._size : 2 * self._size]
        deviation = torch.exp(0.5 * bounded_log_variance(raw, *bounds))
        if order is not None:
            deviation = deviation.flatten(0, 1)[order]
        return deviation * self._networks.noise_scale


def _network(
    inputs: Tensor,
    first: Tensor,
    middle: list[tuple[Tensor, Tensor]],
    last_weight: Tensor,
    last_bias: Tensor,
    shared: bool,
) -> Tensor:
    """Do what `Particles._evaluate` does, without buffers, for the compiler to arrange."""
    x = silu(torch.bmm(inputs, first))
    for weight, bias in middle:
        x = silu(torch.baddbmm(bias, x.to(weight.dtype), weight))
    product = torch.addbmm if shared else torch.baddbmm
    return product(last_bias, x.to(last_weight.dtype), last_weight)


@cache
def _compiled_network() -> Callable[..., Tensor]:
    from torch._inductor import config

    config.compile_threads = 1  # in this process: no others to be cleared away
    # One program a number of rows; weights are arguments, so that a new model takes it over.
    compiled: Callable[..., Tensor] = torch.compile(_network, dynamic=False)
    return compiled


def _padded(columns: Tensor) -> Tensor:
    """Append zeros to columns (..., K) until K is aligned."""
    return torch.nn.functional.pad(columns, (0, -columns.shape[-1] % _ALIGNED))
