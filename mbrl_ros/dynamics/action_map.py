# Copyright 2026 The mbrl_ros authors
# SPDX-License-Identifier: Apache-2.0
"""What has become of actions: which one of the old world does what an action does now."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from mbrl_ros.dynamics.features import FeatureMap


@dataclass(frozen=True)
class ActionMap:
    """old action = gain x action + feedback x features of the state + offset.

    gain (A, A): motors that are weaker, stronger, reversed or coupled. feedback (A, F - A):
    what the world adds in proportion to the state, such as friction. offset (A,): a constant
    push. All float64.
    """

    features: FeatureMap
    gain: Tensor
    feedback: Tensor
    offset: Tensor

    @staticmethod
    def identity(features: FeatureMap) -> ActionMap:
        """Return the map that changes nothing."""
        size = features.action_dimensions
        return ActionMap(
            features,
            torch.eye(size).double(),
            torch.zeros(size, features.size - size).double(),
            torch.zeros(size).double(),
        )

    def _added(self, states: Tensor) -> Tensor:
        actions = states.new_zeros(len(states), self.features.action_dimensions)
        features = self.features.inputs(states, actions)[:, : self.feedback.shape[1]]
        return features @ self.feedback.T + self.offset

    def old(self, states: Tensor, actions: Tensor) -> Tensor:
        """Return the actions of the old world (N, A) for states (N, D) and actions (N, A)."""
        return actions @ self.gain.T + self._added(states)

    def new(self, states: Tensor, actions: Tensor) -> Tensor:
        """Return the actions now (N, A) for states (N, D) and those of the old world (N, A)."""
        return torch.linalg.solve(self.gain, (actions - self._added(states)).T).T

    def after(self, earlier: ActionMap) -> ActionMap:
        """Return the map that leads to this one for who has taken over an earlier one."""
        return ActionMap(
            self.features,
            torch.linalg.solve(earlier.gain, self.gain),
            torch.linalg.solve(earlier.gain, self.feedback - earlier.feedback),
            torch.linalg.solve(earlier.gain, self.offset - earlier.offset),
        )
