# Copyright 2026 The mbrl_ros authors
# SPDX-License-Identifier: Apache-2.0
"""What a planner minimises: terms that add up to one cost a trajectory."""

from __future__ import annotations

import torch
from torch import Tensor

from mbrl_ros.robots.spec import RobotSpec


class Objective:
    """The cost of a robot's YAML file as a function of states, actions and goal.

    The stage cost is the sum of

    - goal: weight x (distance to the goal)^2; for an angle the squared chord between the two
      directions, 2 (1 - cos error), which has no kink half a turn away;
    - state: weight x value^2;
    - effort: weight x action^2;
    - soft_bounds: weight x (distance outside the bounds)^2.
    """

    def __init__(self, robot: RobotSpec) -> None:
        state, action, cost = robot.state_names, robot.action_names, robot.cost
        self.goal_dimensions = len(robot.goal)
        self._goal_index = [state.index(name) for name in robot.goal_names]
        self._goal_weight = torch.tensor([cost.goal.get(name, 0.0) for name in robot.goal_names])
        self._goal_angle = torch.tensor([robot.angle_mask[i] for i in self._goal_index])
        self._state_weight = torch.tensor([cost.state.get(name, 0.0) for name in state])
        self._effort_weight = torch.tensor([cost.effort.get(name, 0.0) for name in action])
        bounds = cost.soft_bounds
        self._bound_index = [state.index(bound.dimension) for bound in bounds]
        self._lower = torch.tensor([bound.bounds[0] for bound in bounds])
        self._upper = torch.tensor([bound.bounds[1] for bound in bounds])
        self._bound_weight = torch.tensor([bound.weight for bound in bounds])

    def stage_cost(self, states: Tensor, actions: Tensor, goal: Tensor) -> Tensor:
        """Cost (...) of being in states (..., D) and sending actions (..., A) with goal (G,)."""
        error = states[..., self._goal_index] - goal
        squared = torch.where(self._goal_angle, 2.0 - 2.0 * torch.cos(error), error * error)
        cost = squared @ self._goal_weight
        cost = cost + (states * states) @ self._state_weight
        cost = cost + (actions * actions) @ self._effort_weight
        if self._bound_index:
            value = states[..., self._bound_index]
            excess = torch.relu(value - self._upper) + torch.relu(self._lower - value)
            cost = cost + (excess * excess) @ self._bound_weight
        return cost

    def cost(self, trajectories: Tensor, actions: Tensor, goal: Tensor) -> Tensor:
        """Total cost (N,) of trajectories (H + 1, N, D) under actions (H, N, A).

        The state that a plan starts from is the same for all its candidates and does not count.
        """
        return self.stage_cost(trajectories[1:], actions, goal).sum(0)
