# Copyright 2026 The mbrl_ros authors
# SPDX-License-Identifier: Apache-2.0
"""What every dynamics model offers, and the data it is made from."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from mbrl_ros.dynamics.features import FeatureMap, wrap_angle
from mbrl_ros.kinds import MODELS
from mbrl_ros.robots.spec import RobotSpec


@dataclass(frozen=True)
class Transitions:
    """N steps of experience, oldest first.

    states (N, D), actions (N, A) in force until the next state, next_states (N, D); float64.
    """

    states: Tensor
    actions: Tensor
    next_states: Tensor

    def __len__(self) -> int:
        return len(self.states)

    def __add__(self, later: Transitions) -> Transitions:
        return Transitions(
            torch.cat([self.states, later.states]),
            torch.cat([self.actions, later.actions]),
            torch.cat([self.next_states, later.next_states]),
        )

    def isfinite(self) -> bool:
        """Whether every value is."""
        return all(bool(t.isfinite().all()) for t in (self.states, self.actions, self.next_states))

    def __getitem__(self, index: slice | Tensor) -> Transitions:
        return Transitions(self.states[index], self.actions[index], self.next_states[index])


class DynamicsModel(ABC):
    """A probabilistic model of the next state, learned from transitions.

    A model is used from one thread at a time. `kind` is its name in the registry;
    `transitions` counts the steps of experience that it has seen (0: knows nothing).
    """

    kind: str
    transitions: int = 0

    def __init__(self, features: FeatureMap) -> None:
        self.features = features

    @abstractmethod
    def update(self, new: Transitions) -> None:
        """Learn from new experience, starting from what is known already."""

    @abstractmethod
    def predict(self, states: Tensor, actions: Tensor) -> tuple[Tensor, Tensor]:
        """Predict one step: states (N, D), actions (N, A) -> mean, variance (N, D).

        The mean is of the next state; angles in it may lie beyond +-pi.
        """

    def rollout(self, states: Tensor, actions: Tensor) -> Tensor:
        """Predict trajectories by feeding means back (propagation `mean`).

        states (N, D), actions (H, N, A) -> trajectories (H + 1, N, D), the first entry being
        `states`. Kinds override this where they can be faster.
        """
        trajectory = [states]
        for action in actions:
            trajectory.append(self.predict(trajectory[-1], action)[0])
        return torch.stack(trajectory)

    @abstractmethod
    def snapshot(self) -> dict[str, Tensor]:
        """Return all that `restore` needs to predict alike, by name."""

    @abstractmethod
    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Take over a snapshot; raises ValueError if it does not fit this model."""


def make_model(kind: str, robot: RobotSpec, seed: int = 0) -> DynamicsModel:
    """Make a model of `kind` that knows nothing of `robot` yet.

    The kind is loaded by name (see `kinds.MODELS`) and called with (features, seed=seed).
    Raises ValueError for an unknown kind.
    """
    features = FeatureMap(robot.angle_mask, len(robot.command.dimensions))
    model: DynamicsModel = MODELS.load(kind)(features, seed=seed)
    return model


def one_step_error(model: DynamicsModel, data: Transitions) -> float:
    """Root mean square error of one-step predictions, as a share of the change's own size.

    0 is perfect; 1 is no better than predicting that nothing changes. Every state dimension
    weighs the same. NaN without data.
    """
    if len(data) == 0:
        return float("nan")
    mean, _ = model.predict(data.states, data.actions)
    error = mean - data.next_states
    angles = model.features.angles
    error[:, angles] = wrap_angle(error[:, angles])
    change = model.features.deltas(data.states, data.next_states)
    scale = change.square().mean(0).clamp_min(1e-12)
    return float((error.square().mean(0) / scale).mean().sqrt())
