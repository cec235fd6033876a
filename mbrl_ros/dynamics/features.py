# Copyright 2026 The mbrl_ros authors
# SPDX-License-Identifier: Apache-2.0
"""What a model sees: angles as sine and cosine, and as targets changes of state and rewards."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mbrl_ros.robots.spec import RobotSpec


def wrap_angle(angle: Tensor) -> Tensor:
    """Wrap radians of any shape into [-pi, pi]."""
    return torch.remainder(angle + math.pi, 2.0 * math.pi) - math.pi


class FeatureMap:
    """From states (..., D) and actions (..., A) to model inputs (..., F).

    The order is: the plain state dimensions, the sines of the angles, the cosines of the
    angles, the actions. Dimensions that `input_mask` leaves out (all are in by default) are no
    inputs: how the robot moves does not depend on them. What is learned are `outputs` values:
    the changes of all D state dimensions, then the reward if there is one (rewards: 0 or 1).
    """

    def __init__(
        self,
        angle_mask: Sequence[bool],
        action_dimensions: int,
        rewards: int = 0,
        input_mask: Sequence[bool] | None = None,
    ) -> None:
        self.angle_mask = tuple(bool(flag) for flag in angle_mask)
        self.state_dimensions = len(self.angle_mask)
        self.action_dimensions = action_dimensions
        self.rewards = rewards
        self.outputs = self.state_dimensions + rewards
        self.angles = [i for i, flag in enumerate(self.angle_mask) if flag]
        seen = [True] * self.state_dimensions if input_mask is None else input_mask
        taken = [i for i, flag in enumerate(seen) if flag]
        self.plain = [i for i in taken if not self.angle_mask[i]]  # inputs as they are
        self.circular = [i for i in taken if self.angle_mask[i]]  # inputs by sine and cosine
        self.size = len(self.plain) + 2 * len(self.circular) + action_dimensions
        self._whole = len(self.plain) == self.state_dimensions
        # As tensors: selecting by a list takes several times as long.
        self._plain_index = torch.tensor(self.plain, dtype=torch.int64)
        self._circular_index = torch.tensor(self.circular, dtype=torch.int64)
        self._mask = torch.tensor(self.angle_mask)
        self._plain_array, self._circular_array = (
            np.array(self.plain, int),
            np.array(self.circular, int),
        )

    @classmethod
    def of(cls, robot: RobotSpec, rewards: int = 0) -> FeatureMap:
        """Return what models of `robot` see."""
        return cls(robot.angle_mask, len(robot.action_names), rewards, robot.input_mask)

    def plain_part(self, states: Tensor) -> Tensor:
        """Return what inputs are as they are of states (..., D)."""
        return states if self._whole else states.index_select(-1, self._plain_index)

    def inputs(self, states: Tensor, actions: Tensor) -> Tensor:
        """Return model inputs (..., F) of states (..., D) and actions (..., A)."""
        plain = self.plain_part(states)
        if not self.circular:
            return torch.cat([plain, actions], dim=-1)
        angles = states.index_select(-1, self._circular_index)
        return torch.cat([plain, torch.sin(angles), torch.cos(angles), actions], dim=-1)

    def chain(self, states: Tensor, slopes: Tensor) -> tuple[Tensor, Tensor]:
        """Turn slopes (N, K, F) by the inputs at states (N, D) into those by state and action.

        Returns (N, K, D) and (N, K, A), by the chain rule.
        """
        by_state = slopes.new_zeros(*slopes.shape[:2], self.state_dimensions)
        plain, sines = len(self.plain), len(self.plain) + len(self.circular)
        by_state[:, :, self._plain_index] = slopes[:, :, :plain]
        if self.circular:
            angles = states.index_select(1, self._circular_index)[:, None]
            by_sine = slopes[:, :, plain:sines]
            by_cosine = slopes[:, :, sines : sines + len(self.circular)]
            turned = by_sine * torch.cos(angles) - by_cosine * torch.sin(angles)
            by_state[:, :, self._circular_index] = turned
        return by_state, slopes[:, :, self.size - self.action_dimensions :]

    def deltas(self, states: Tensor, next_states: Tensor) -> Tensor:
        """Return next_states - states (..., D), angles by the shorter way round."""
        deltas = next_states - states
        return torch.where(self._mask, wrap_angle(deltas), deltas) if self.angles else deltas

    def example(
        self, state: NDArray[np.float64], action: NDArray[np.float64], after: NDArray[np.float64]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return inputs (F,) and deltas (D,) of one step, as the other two do.

        In NumPy, which is several times as fast for so few numbers.
        """
        angles = state[self._circular_array]
        inputs = np.concatenate([state[self._plain_array], np.sin(angles), np.cos(angles), action])
        deltas = after - state
        for i in self.angles:
            deltas[i] = (deltas[i] + math.pi) % (2.0 * math.pi) - math.pi
        return inputs, deltas
