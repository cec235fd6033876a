# Copyright 2026 The mbrl_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Random shooting: draw, and take the best."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from mbrl_ros.planning.noise import coloured_noise
from mbrl_ros.planning.planner import Setting
from mbrl_ros.planning.sampling import SamplingPlanner, Search, Update


class RandomShooting(SamplingPlanner):
    """Take the best of random sequences (Nagabandi et al., ICRA 2018) and of the last plan.

    Coloured noise around the middle of the bounds in place of independent draws, which a robot's
    inertia averages away.
    """

    kind = "random_shooting"
    own_settings: ClassVar[tuple[Setting, ...]] = (
        Setting("noise", 1.0, "Standard deviation, as a share of half the range.", 1e-6, 10.0),
        Setting("noise_exponent", 1.0, "Colour of the noise: 0 white, 1 pink.", 0.0, 3.0),
    )
    noise: float
    noise_exponent: float

    def propose(
        self, search: Search, count: int, iteration: int, generator: torch.Generator
    ) -> Tensor:
        """Draw around the middle; the first candidate is the best so far."""
        noise = coloured_noise(
            self.noise_exponent, self.horizon, count, self.action_dimensions, generator
        )
        middle = (self.lower + self.upper) / 2.0
        candidates = torch.addcmul(middle, noise, self.noise * self.half_range)
        candidates[:, 0] = search.mean
        return candidates

    def update(self, search: Search, candidates: Tensor, costs: Tensor) -> Update:
        """Take the best."""
        best = candidates[:, int(costs.argmin())]
        return Update(Search(best, search.deviation), best, 1.0)
