# Copyright 2026 The mbrl_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Cost term `linear`: as much, or as little, of a state dimension as possible."""

from __future__ import annotations

import torch
from torch import Tensor

from mbrl_ros.planning.objective import Steps
from mbrl_ros.robots.spec import RobotSpec


class LinearCost:
    """The sum of weight x value over the named state dimensions after each step.

    A negative weight on a velocity makes a robot run, where there is no goal to run to.
    Raises ValueError for a dimension that the robot does not have or a weight that is no number.
    """

    def __init__(self, robot: RobotSpec, **weights: float) -> None:
        names = robot.state_names
        for name, weight in weights.items():
            if name not in names:
                raise ValueError(
                    f"cost.terms.linear: unknown state '{name}'; expected one of "
                    f"{', '.join(names)}"
                )
            if isinstance(weight, bool) or not isinstance(weight, int | float):
                raise ValueError(f"cost.terms.linear: {name} is {weight!r}, expected a number")
        self._weights = torch.tensor([float(weights.get(name, 0.0)) for name in names])

    def __call__(self, steps: Steps) -> Tensor:
        """Return the cost (...) of each step."""
        return steps.states @ self._weights.to(steps.states)
