# Copyright 2026 The mbrl_ros authors
# SPDX-License-Identifier: Apache-2.0
"""The improved cross-entropy method."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from mbrl_ros.planning.cem import CEM
from mbrl_ros.planning.noise import coloured_noise
from mbrl_ros.planning.planner import Setting, with_defaults
from mbrl_ros.planning.sampling import Search, Update

# Where they are not those of CEM, by `mbrl bench control`.
_DEFAULTS = {"elite_share": 0.1, "least_noise": 0.05}


class ICEM(CEM):
    """CEM with a memory and with noise that moves a robot.

    Pinneri et al., "Sample-efficient cross-entropy method for real-time planning" (CoRL 2020):
    coloured noise, a population that decays by `decay` an iteration, a share of the elite kept
    for the next iteration and, shifted, for the next tick, the mean as a candidate of the last
    iteration, and the best candidate, not the mean, as the plan.
    """

    kind = "icem"
    own_settings: ClassVar[tuple[Setting, ...]] = (
        *with_defaults(CEM.own_settings, **_DEFAULTS),
        Setting("noise_exponent", 2.0, "Colour of the noise: 0 white, 1 pink, 2 red.", 0.0, 4.0),
        Setting("decay", 1.25, "Factor by which the population falls an iteration.", 1.0, 10.0),
        Setting("kept_share", 0.6, "Share of the elite that is kept.", 0.0, 1.0),
    )
    noise_exponent: float
    decay: float
    kept_share: float

    def propose(
        self, search: Search, count: int, iteration: int, generator: torch.Generator
    ) -> Tensor:
        """Draw fewer at every iteration, and add the kept elite and, at last, the mean."""
        least = min(count, 2 * max(round(self.elite_share * self.samples), 1))
        count = max(round(count / self.decay**iteration), least)
        noise = coloured_noise(
            self.noise_exponent, self.horizon, count, self.action_dimensions, generator
        )
        candidates = torch.addcmul(search.mean[:, None], noise, search.deviation[:, None])
        if search.elites is not None:
            kept = search.elites[:, : min(round(self.kept_share * search.elites.shape[1]), count)]
            candidates[:, : kept.shape[1]] = kept
        if iteration in (0, self.iterations - 1):
            candidates[:, -1] = search.mean
        return candidates

    def update(self, search: Search, candidates: Tensor, costs: Tensor) -> Update:
        """Fit the elite; the plan is the best of them."""
        found = super().update(search, candidates, costs)
        return Update(found.search, candidates[:, int(costs.argmin())], found.effective_samples)
