# Copyright 2026 The mbrl_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Experience with a damped pendulum, for tests of models."""

import math

import torch

from mbrl_ros.dynamics.features import wrap_angle
from mbrl_ros.dynamics.model import Transitions

STEP = 0.05


def pendulum(count, seed=0):
    """Return random steps of a damped pendulum: states (angle, velocity), action torque."""
    generator = torch.Generator().manual_seed(seed)
    angle = math.pi * (2.0 * torch.rand(count, generator=generator, dtype=torch.float64) - 1.0)
    velocity = 4.0 * torch.randn(count, generator=generator, dtype=torch.float64)
    torque = 2.0 * torch.randn(count, generator=generator, dtype=torch.float64)
    states = torch.stack([angle, velocity], -1)
    after = velocity + STEP * (9.81 * torch.sin(angle) - 0.1 * velocity + torque)
    turned = wrap_angle(angle + STEP * after)
    return Transitions(states, torque[:, None], torch.stack([turned, after], -1))


def learn(model, data):
    model.update(data)
    model.improve()
    return model
