# Copyright 2026 The mbrl_ros authors
# SPDX-License-Identifier: Apache-2.0
"""A model that is known exactly, for tests of what plans with one."""

import math

import torch

from mbrl_ros.dynamics.features import FeatureMap
from mbrl_ros.dynamics.model import DynamicsModel

STEP = 0.05  # seconds


class Cart(DynamicsModel):
    """A cart of 1 kg; the other two dimensions of the cart-pole stay as they are.

    poison: predictions are spoilt where the action exceeds it. deviation: of the velocity.
    """

    kind = "cart"
    transitions = 1

    def __init__(self, poison=math.inf, deviation=0.0):
        super().__init__(FeatureMap([False, False, True, False], 1))
        self.poison, self.deviation = poison, deviation

    def update(self, data):
        raise NotImplementedError

    def outputs(self, states, actions):
        change, variance = torch.zeros_like(states), torch.zeros_like(states)
        change[:, 1] = STEP * actions[:, 0]
        change[:, 0] = STEP * (states[:, 1] + change[:, 1])
        change[:, 0] = torch.where(actions[:, 0] > self.poison, torch.nan, change[:, 0])
        variance[:, 1] = self.deviation**2
        return change, variance

    def snapshot(self):
        return {}

    def restore(self, tensors):
        pass
