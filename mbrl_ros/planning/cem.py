# Copyright 2026 The mbrl_ros authors
# SPDX-License-Identifier: Apache-2.0
"""The cross-entropy method."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from mbrl_ros.planning.planner import Plan, Setting, with_defaults
from mbrl_ros.planning.sampling import SamplingPlanner, Search, Update


class CEM(SamplingPlanner):
    """Fit a Gaussian to the elite of its own samples, again and again.

    Rubinstein, "The cross-entropy method for combinatorial and continuous optimization" (1999),
    as PETS uses it: independent noise, the mean carried from tick to tick, the deviation not.
    """

    kind = "cem"
    settings: ClassVar[tuple[Setting, ...]] = with_defaults(
        SamplingPlanner.settings, samples=150, iterations=4
    )
    own_settings: ClassVar[tuple[Setting, ...]] = (
        Setting(
            "noise", 0.5, "Standard deviation at first, as a share of half the range.", 1e-6, 10.0
        ),
        Setting("least_noise", 0.02, "Standard deviation at last, likewise.", 0.0, 10.0),
        Setting("elite_share", 0.05, "Share of the candidates that are elite.", 1e-6, 1.0),
        Setting(
            "momentum", 0.1, "Share of mean and deviation that an iteration keeps.", 0.0, 0.99
        ),
    )
    noise: float
    least_noise: float
    elite_share: float
    momentum: float

    def search(self, last: Plan | None) -> Search:
        """Start around the last plan, as wide as at first."""
        start = super().search(last)
        return Search(
            start.mean, (self.noise * self.half_range).expand_as(start.mean), start.elites
        )

    def propose(
        self, search: Search, count: int, iteration: int, generator: torch.Generator
    ) -> Tensor:
        """Draw from the Gaussian."""
        noise = torch.randn(self.horizon, count, self.action_dimensions, generator=generator)
        return torch.addcmul(search.mean[:, None], noise, search.deviation[:, None])

    def update(self, search: Search, candidates: Tensor, costs: Tensor) -> Update:
        """Fit the elite; the plan is their mean."""
        elites = candidates[:, self.elite_order(costs)]
        keep = self.momentum
        mean = keep * search.mean + (1.0 - keep) * elites.mean(1)
        deviation = keep * search.deviation + (1.0 - keep) * elites.std(1, correction=0)
        deviation = torch.maximum(deviation, self.least_noise * self.half_range)
        return Update(Search(mean, deviation, elites), mean, float(elites.shape[1]))

    def elite_order(self, costs: Tensor) -> Tensor:
        """Return the indices of the elite of costs (N,), best first."""
        count = max(round(self.elite_share * len(costs)), 1)
        order = costs.argsort()[:count]
        return order[costs[order].isfinite()]
