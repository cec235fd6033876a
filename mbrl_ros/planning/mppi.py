# Copyright 2026 The mbrl_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Model-predictive path integral control."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from mbrl_ros.planning.noise import coloured_noise
from mbrl_ros.planning.objective import Objective
from mbrl_ros.planning.planner import Planner


class MPPI(Planner):
    """Average the candidates, weighted by the exponential of their negative cost.

    Williams et al., "Information-theoretic model predictive control" (2017), with coloured
    noise in place of white. The temperature adapts at every update so that the effective
    sample size, 1 / sum of squared weights, is `effective_share` of the samples: costs keep
    their meaning whatever their unit, and one far-off candidate does not flatten the rest.

    noise, least_noise: standard deviation of the widest and of the tightest candidates, as
    shares of half the action range; the others lie between them in equal ratios, so that one
    iteration both searches far and polishes. noise_exponent: colour of the noise, 0 (white)
    to 3. effective_share: in (0, 1); small is greedy, large averages more.
    """

    kind = "mppi"

    def __init__(
        self,
        objective: Objective,
        lower: Sequence[float],
        upper: Sequence[float],
        samples: int = 500,
        horizon: int = 25,
        iterations: int = 1,
        noise: float = 0.5,
        least_noise: float = 0.075,
        noise_exponent: float = 1.0,
        effective_share: float = 0.04,
    ) -> None:
        super().__init__(objective, lower, upper, samples, horizon, iterations)
        if not 0.0 < least_noise <= noise:
            raise ValueError(
                f"least_noise is {least_noise} and noise is {noise}, "
                "expected 0 < least_noise <= noise"
            )
        if not 0.0 < effective_share < 1.0:
            raise ValueError(f"effective_share is {effective_share}, expected between 0 and 1")
        self.noise, self.least_noise, self.noise_exponent = noise, least_noise, noise_exponent
        self.effective_share = effective_share
        scales = torch.logspace(math.log10(least_noise), math.log10(noise), samples)
        self._deviation = scales[:, None] * (self.upper - self.lower) / 2.0  # (N, A)

    def propose(self, nominal: Tensor, iteration: int, generator: torch.Generator) -> Tensor:
        """Add coloured noise to the nominal; the first candidate is the nominal itself."""
        noise = coloured_noise(
            self.noise_exponent, self.horizon, self.samples, self.action_dimensions, generator
        )
        noise[:, 0] = 0.0
        return torch.addcmul(nominal[:, None, :], noise, self._deviation)

    def update(self, nominal: Tensor, candidates: Tensor, costs: Tensor) -> tuple[Tensor, float]:
        """Average the candidates with softmax weights."""
        excess = costs - costs.min()
        weights = _softmax_of_size(excess, self.effective_share * len(costs))
        effective = 1.0 / float(weights.square().sum())
        return torch.einsum("n,hna->ha", weights, candidates), effective


def _softmax_of_size(excess: Tensor, size: float) -> Tensor:
    """Return softmax(-excess / temperature) (N,), its effective sample size close to `size`.

    excess (N,) >= 0, zero for the best candidate, infinite for discarded ones. The effective
    size grows with the temperature, which is found by bisection of its logarithm.
    """
    finite = excess[excess.isfinite()]
    scale = float(finite.max())
    if scale <= 0.0:
        return torch.where(excess.isfinite(), 1.0 / len(finite), 0.0)
    low, high = math.log(1e-6 * scale), math.log(10.0 * scale)
    for _ in range(20):
        middle = (low + high) / 2.0
        weights = torch.softmax(excess / -math.exp(middle), dim=0)
        if float(weights.square().sum()) * size > 1.0:
            low = middle
        else:
            high = middle
    return weights
