# Copyright 2026 The mbrl_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Model-predictive path integral control."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from mbrl_ros.planning.noise import coloured_noise
from mbrl_ros.planning.objective import Objective
from mbrl_ros.planning.planner import Setting, with_defaults
from mbrl_ros.planning.sampling import SamplingPlanner, Search, Update


class MPPI(SamplingPlanner):
    """Average the candidates, weighted by the exponential of their negative cost.

    Williams et al., "Information-theoretic model predictive control" (2017), with coloured
    noise in place of white. The temperature adapts at every update so that the effective
    sample size, 1 / sum of squared weights, is `effective_share` of the samples: costs keep
    their meaning whatever their unit, and one far-off candidate does not flatten the rest.

    The candidates' deviations lie between `noise` and `least_noise` in equal ratios, so that
    one iteration both searches far and polishes. The control-cost term of the weights (there:
    gamma u^T Sigma^-1 eps) is `control_weight` times the temperature.
    """

    kind = "mppi"
    # The second time around what the first has found, which is worth more than twice as many.
    settings: ClassVar[tuple[Setting, ...]] = with_defaults(
        SamplingPlanner.settings, samples=250, iterations=2
    )
    own_settings: ClassVar[tuple[Setting, ...]] = (
        Setting("noise", 0.5, "Widest noise, as a share of half the range.", 1e-6, 10.0),
        Setting("least_noise", 0.075, "Tightest noise, likewise.", 1e-6, 10.0),
        Setting("noise_exponent", 1.0, "Colour of that noise: 0 white, 1 pink.", 0.0, 3.0),
        Setting(
            "effective_share",
            0.04,
            "Share of the candidates that carry the weight: small is greedy, large averages more.",
            1e-6,
            0.999999,
        ),
        Setting(
            "control_weight",
            0.0,
            "How much candidates far from the plan, on the side it leans to, are held back.",
            0.0,
            1.0,
        ),
    )
    noise: float
    least_noise: float
    noise_exponent: float
    effective_share: float
    control_weight: float

    def __init__(
        self, objective: Objective, lower: Sequence[float], upper: Sequence[float], **values: Any
    ) -> None:
        super().__init__(objective, lower, upper, **values)
        if self.least_noise > self.noise:
            raise ValueError(
                f"least_noise is {self.least_noise}, expected at most noise, {self.noise}"
            )

    def propose(
        self, search: Search, count: int, iteration: int, generator: torch.Generator
    ) -> Tensor:
        """Add coloured noise to the plan; the first candidate is the plan itself."""
        noise = coloured_noise(
            self.noise_exponent, self.horizon, count, self.action_dimensions, generator
        )
        noise[:, 0] = 0.0
        return torch.addcmul(search.mean[:, None], noise, self._deviation(count))

    def update(self, search: Search, candidates: Tensor, costs: Tensor) -> Update:
        """Average the candidates with softmax weights."""
        excess = costs - costs.min()
        penalty = None
        if self.control_weight:
            leaning = (search.mean - (self.lower + self.upper) / 2.0)[:, None]
            drawn = candidates[:, : len(costs) - search.guided]  # the weights are those of noise
            moved = (drawn - search.mean[:, None]) / self._deviation(drawn.shape[1]).square()
            penalty = self.control_weight * (leaning * moved).sum((0, 2))
            penalty = torch.nn.functional.pad(penalty, (0, search.guided))
        weights = _softmax_of_size(excess, self.effective_share * len(costs), penalty)
        effective = 1.0 / float(weights.square().sum())
        mean = torch.tensordot(candidates, weights, dims=([1], [0]))
        return Update(Search(mean, search.deviation), mean, effective)

    def _deviation(self, count: int) -> Tensor:
        """Return each candidate's standard deviation, (N, A)."""
        return _scales(self.least_noise, self.noise, count)[:, None] * self.half_range


@lru_cache(maxsize=16)
def _scales(least: float, most: float, count: int) -> Tensor:
    """Return `count` numbers from least to most in equal ratios."""
    return torch.logspace(math.log10(least), math.log10(most), count)


def _softmax_of_size(excess: Tensor, size: float, penalty: Tensor | None = None) -> Tensor:
    """Return softmax(-excess / temperature - penalty) (N,), its effective size close to `size`.

    excess (N,) >= 0, zero for the best candidate, infinite for discarded ones. The effective
    size grows with the temperature, which is found by bisection of its logarithm.
    """
    finite = excess[excess.isfinite()]
    scale = float(finite.max())
    if scale <= 0.0:
        return torch.where(excess.isfinite(), 1.0 / len(finite), 0.0)
    low, high = math.log(1e-6 * scale), math.log(10.0 * scale)
    # Twenty passes over little data, where NumPy's calls cost a third of PyTorch's.
    gains = -excess.numpy()
    for _ in range(20):
        middle = (low + high) / 2.0
        logits = gains * np.float32(math.exp(-middle))  # the greatest is zero
        if penalty is not None:
            logits -= penalty.numpy()
            logits -= logits.max()
        weights = np.exp(logits)
        total = weights.sum()
        if total * total < size * (weights @ weights):
            low = middle
        else:
            high = middle
    return torch.from_numpy(weights / total)
