# Copyright 2026 The mbrl_ros authors
# SPDX-License-Identifier: Apache-2.0
"""A stochastic policy with its critics: acts by reflex, and says what a state is worth."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise

import torch
from torch import Tensor
from torch.nn.functional import softplus

from mbrl_ros.dynamics.features import FeatureMap

CRITICS = 2
LOG_DEVIATION = (-20.0, 2.0)  # bounds of the logarithm of the actor's standard deviation
_MAX_LAYERS, _MAX_WIDTH = 9, 2048  # also of a snapshot
_LOG_2, _HALF_LOG_2_PI = math.log(2.0), 0.5 * math.log(2.0 * math.pi)

Layer = tuple[Tensor, Tensor]  # weight (M, in, out) and bias (M, 1, out) of M networks


def activations(layers: Sequence[Layer], inputs: Tensor) -> list[Tensor]:
    """Evaluate M networks with ReLU units in one set of products, from inputs (N, in).

    Returns what enters each layer, the first (M, N, in), and last what comes out, (M, N, out).
    """
    found = [inputs.expand(len(layers[0][0]), -1, -1)]
    for weight, bias in layers[:-1]:
        found.append(torch.baddbmm(bias, found[-1], weight).relu_())
    weight, bias = layers[-1]
    return [*found, torch.baddbmm(bias, found[-1], weight)]


def networks(layers: Sequence[Layer], inputs: Tensor) -> Tensor:
    """Evaluate M networks with ReLU units, from inputs (N, in) to (M, N, out)."""
    return activations(layers, inputs)[-1]


class Policy:
    """A Gaussian squashed by tanh into the action bounds, and two critics.

    After Haarnoja et al., "Soft Actor-Critic Algorithms and Applications" (2018), appendix C.
    angle_mask: which of the D state dimensions are angles; networks see their sine and cosine.
    lower, upper: bounds of the A action dimensions. hidden: units of the hidden layers.
    seed: of the first weights.
    Raises ValueError, naming the value, if one cannot be used.
    """

    def __init__(
        self,
        angle_mask: Sequence[bool],
        lower: Sequence[float],
        upper: Sequence[float],
        hidden: Sequence[int] = (128, 128),
        seed: int = 0,
    ) -> None:
        if len(lower) != len(upper) or not all(
            math.isfinite(a) and math.isfinite(b) and a < b
            for a, b in zip(lower, upper, strict=False)
        ):
            raise ValueError(
                f"action bounds are {list(lower)} to {list(upper)}, expected finite numbers, "
                "each lower one less than its upper one"
            )
        for name, value, most in (
            ("hidden layers", len(hidden), _MAX_LAYERS - 1),
            *((f"hidden[{i}]", width, _MAX_WIDTH) for i, width in enumerate(hidden)),
        ):
            if not 1 <= value <= most:
                raise ValueError(f"{name} is {value}, expected 1 to {most}")
        self._features = FeatureMap(angle_mask, 0)
        self.lower = torch.tensor(lower, dtype=torch.float32)
        self.upper = torch.tensor(upper, dtype=torch.float32)
        self._half, self._middle = (self.upper - self.lower) / 2, (self.upper + self.lower) / 2
        generator = torch.Generator().manual_seed(seed)
        inputs, actions = self._features.size, len(self.lower)
        self.actor = _new_layers(1, (inputs, *hidden, 2 * actions), generator)
        self.critics = _new_layers(CRITICS, (inputs + actions, *hidden, 1), generator)

    @property
    def sizes(self) -> tuple[int, int]:
        """Return D and A."""
        return self._features.state_dimensions, len(self.lower)

    # -- acting -----------------------------------------------------------------------------

    def act(self, states: Tensor) -> Tensor:
        """Return the most likely actions (N, A) in states (N, D), float32, within the bounds."""
        return self.restored(self._likeliest(self.inputs(states)))

    @torch.no_grad()
    def sample(self, states: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Return actions (N, A) drawn in states (N, D), float32, within the bounds."""
        return self.restored(self.drawn(self.inputs(states), generator)[0])

    def value(self, states: Tensor) -> Tensor:
        """Return what states (N, D) are worth, (N,): the discounted rewards expected from there.

        The lesser of the two critics' values of the most likely action; with the bonus for
        entropy that the policy was trained with. Can be differentiated by the states.
        """
        inputs = self.inputs(states)
        return self.worth(self.critics, inputs, self._likeliest(inputs)).amin(0)

    def _likeliest(self, inputs: Tensor) -> Tensor:
        return torch.tanh(activations(self.actor, inputs)[-1][0, :, : len(self.lower)])

    # -- what training is made of -----------------------------------------------------------

    def inputs(self, states: Tensor) -> Tensor:
        """Return what the networks see of states (N, D), float32."""
        states = states.float()
        return self._features.inputs(states, states[:, :0])

    def normalised(self, actions: Tensor) -> Tensor:
        """Scale actions (N, A) from their bounds to [-1, 1]."""
        return (actions - self._middle) / self._half

    def restored(self, normalised: Tensor) -> Tensor:
        """Undo `normalised`; rounding never leads out of the bounds."""
        actions = torch.addcmul(self._middle, normalised, self._half)
        return torch.clamp(actions, self.lower, self.upper)

    def drawn(
        self, inputs: Tensor, generator: torch.Generator | None = None
    ) -> tuple[Tensor, Tensor]:
        """Draw normalised actions (N, A) and return the logarithms of their densities (N,)."""
        output = networks(self.actor, inputs)[0]
        noise = torch.randn(len(output), len(self.lower), generator=generator)
        return squashed(output, noise)

    @staticmethod
    def worth(critics: Sequence[Layer], inputs: Tensor, actions: Tensor) -> Tensor:
        """Return each critic's value (2, N) of normalised actions (N, A) at inputs (N, F)."""
        return networks(critics, torch.cat([inputs, actions], 1))[..., 0]

    # -- snapshots --------------------------------------------------------------------------

    def snapshot(self) -> dict[str, Tensor]:
        """Return all that `restore` needs to act alike, by name."""
        tensors = {"lower": self.lower, "upper": self.upper}
        for name, layers in (("actor", self.actor), ("critic", self.critics)):
            for i, (weight, bias) in enumerate(layers):
                tensors[f"{name}_weight_{i}"] = weight.detach()
                tensors[f"{name}_bias_{i}"] = bias.detach()
        return tensors

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Take over a snapshot, with hidden layers of such sizes as it holds.

        Raises ValueError, leaving the policy as it was, if it does not fit.
        """
        expected = self._shapes(tensors)
        if set(tensors) != set(expected):
            raise ValueError(f"holds {sorted(tensors)}, expected {sorted(expected)}")
        for name, shape in expected.items():
            found = tensors[name]
            if list(found.shape) != shape or found.dtype != torch.float32:
                raise ValueError(
                    f"'{name}' is {found.dtype} {list(found.shape)}, "
                    f"expected torch.float32 {shape}"
                )
            if not found.isfinite().all():
                raise ValueError(f"'{name}' holds a value that is not finite")
        for name, bounds in (("lower", self.lower), ("upper", self.upper)):
            if not torch.equal(tensors[name], bounds):
                raise ValueError(
                    f"'{name}' bounds of actions are {tensors[name].tolist()}, expected "
                    f"{bounds.tolist()}"
                )
        count = sum(name.startswith("actor_weight_") for name in tensors)
        self.actor, self.critics = (
            [
                (tensors[f"{name}_weight_{i}"].clone(), tensors[f"{name}_bias_{i}"].clone())
                for i in range(count)
            ]
            for name in ("actor", "critic")
        )

    def _shapes(self, tensors: Mapping[str, Tensor]) -> dict[str, list[int]]:
        """Return the shapes of all tensors, given how many and how wide layers there are."""
        layers = sum(name.startswith("actor_weight_") for name in tensors)
        matrices = [tensors.get(f"actor_weight_{i}") for i in range(layers)]
        hidden = [m.shape[2] for m in matrices[:-1] if m is not None and m.ndim == 3]
        if not 2 <= len(hidden) + 1 == layers <= _MAX_LAYERS:
            raise ValueError(f"holds {layers} layers, expected 2 to {_MAX_LAYERS}")
        if not all(1 <= width <= _MAX_WIDTH for width in hidden):
            raise ValueError(f"holds layers of {hidden} units, expected 1 to {_MAX_WIDTH}")
        inputs, actions = self._features.size, len(self.lower)
        shapes = {"lower": [actions], "upper": [actions]}
        for name, count, sizes in (
            ("actor", 1, (inputs, *hidden, 2 * actions)),
            ("critic", CRITICS, (inputs + actions, *hidden, 1)),
        ):
            for i, (before, after) in enumerate(pairwise(sizes)):
                shapes[f"{name}_weight_{i}"] = [count, before, after]
                shapes[f"{name}_bias_{i}"] = [count, 1, after]
        return shapes


def squashed(output: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
    """Turn an actor's output (N, 2 A) and standard normal noise (N, A) into normalised actions.

    The output is mean and log deviation of u, and the action tanh(u). Returns actions (N, A) and
    the logarithms of their densities (N,) by equation 26 of the paper, with log(1 - tanh(u)^2) as
    2 (log 2 - u - softplus(-2 u)), which does not lose its digits.
    """
    mean, log_deviation = output.chunk(2, 1)
    log_deviation = log_deviation.clamp(*LOG_DEVIATION)
    raw = torch.addcmul(mean, log_deviation.exp(), noise)
    density = -0.5 * noise.square() - log_deviation - _HALF_LOG_2_PI
    squashing = 2.0 * (_LOG_2 - raw - softplus(-2.0 * raw))
    return torch.tanh(raw), (density - squashing).sum(1)


def _new_layers(count: int, sizes: Sequence[int], generator: torch.Generator) -> list[Layer]:
    """Draw layers of `count` networks, all values up to 1 / sqrt(inputs) either way."""
    layers = []
    for before, after in pairwise(sizes):
        bound = before**-0.5
        weight = torch.empty(count, before, after).uniform_(-bound, bound, generator=generator)
        bias = torch.empty(count, 1, after).uniform_(-bound, bound, generator=generator)
        layers.append((weight, bias))
    return layers
