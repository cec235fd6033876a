# Copyright 2026 The mbrl_ros authors
# SPDX-License-Identifier: Apache-2.0
"""What every dynamics model offers, and the data it is made from."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from mbrl_ros.dynamics.action_map import ActionMap
from mbrl_ros.dynamics.features import FeatureMap
from mbrl_ros.kinds import MODELS
from mbrl_ros.robots.spec import RobotSpec

# How a rollout carries uncertainty from step to step; see DynamicsModel.rollout.
PROPAGATIONS = ("mean", "ts1", "tsinf", "pathwise")

# What a rollout may compute in; see DynamicsModel.rollout.
PRECISIONS = ("float32", "bfloat16")

# (states (N, D), actions (N, A)) -> next states (N, D)
Step = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Transitions:
    """N steps of experience, oldest first.

    states (N, D), actions (N, A) in force until the next state, next_states (N, D),
    rewards (N, R) that came with the next state, R being 0 for robots that have none; float64.
    stamps (N,): when each step ended, in nanoseconds of robot time, int64; 0: not known.
    """

    states: Tensor
    actions: Tensor
    next_states: Tensor
    rewards: Tensor = field(default_factory=lambda: torch.zeros(0, 0))
    stamps: Tensor = field(default_factory=lambda: torch.zeros(0, dtype=torch.int64))

    def __post_init__(self) -> None:
        if self.rewards.numel() == 0 and len(self.rewards) != len(self.states):
            object.__setattr__(self, "rewards", self.states.new_zeros(len(self.states), 0))
        if len(self.stamps) == 0 and len(self.states):
            unknown = torch.zeros(len(self.states), dtype=torch.int64)
            object.__setattr__(self, "stamps", unknown)

    @staticmethod
    def empty(features: FeatureMap) -> Transitions:
        """Return no experience, of the right shapes."""
        sizes = (features.state_dimensions, features.action_dimensions)
        columns = (sizes[0], sizes[1], sizes[0], features.rewards)
        return Transitions(*(torch.zeros(0, size).double() for size in columns))

    def __len__(self) -> int:
        return len(self.states)

    def __add__(self, later: Transitions) -> Transitions:
        columns = zip(self._columns(), later._columns(), strict=True)
        return Transitions(*(torch.cat(pair) for pair in columns))

    def __getitem__(self, index: slice | Tensor) -> Transitions:
        return Transitions(*(column[index] for column in self._columns()))

    def tensors(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return what models learn from: states, actions, next states and rewards."""
        return self.states, self.actions, self.next_states, self.rewards

    def _columns(self) -> tuple[Tensor, ...]:
        return (*self.tensors(), self.stamps)

    def isfinite(self) -> bool:
        """Whether every value is."""
        # A sum is finite only if all of its terms are, and NumPy is quick with few numbers.
        return math.isfinite(sum(float(tensor.numpy().sum()) for tensor in self.tensors()))

    def check_finite(self) -> None:
        """Raise ValueError if a value is not finite."""
        if not self.isfinite():
            raise ValueError("transitions hold a value that is not finite")


class DynamicsModel(ABC):
    """A probabilistic model of the next state, and of the reward where there is one.

    A model is used from one thread at a time. `kind` is its name in the registry;
    `transitions` counts the steps of experience that it has seen (0: knows nothing).
    `widening` >= 1 multiplies the variance of the noise, while a model of a world that has
    just changed has yet to prove right.
    A kind supplies `update`, `outputs`, `snapshot` and `restore`; `improve` if it trains, and
    `stepper` for the propagations it can offer beyond `mean` and `ts1`.
    """

    kind: str
    transitions: int = 0
    widening: float = 1.0
    planning_propagation: str = "mean"  # what suits planning best, time included

    def __init__(self, features: FeatureMap) -> None:
        self.features = features

    # -- learning ---------------------------------------------------------------------------

    @abstractmethod
    def update(self, new: Transitions) -> None:
        """Take in new experience (N >= 0), in a time that does not grow with what is known.

        Raises ValueError, leaving the model as it was, if a value is not finite.
        """

    def improve(self) -> bool:
        """Spend one bounded slice of training on what is known already.

        Returns whether more of the same is expected to help. The learner calls it in the
        background, offline training until it returns False.
        """
        return False

    def remembered(self) -> Transitions:
        """Return the transitions that it still learns from; none if a kind does not tell."""
        return Transitions.empty(self.features)

    def relearn(
        self, known: Transitions, new: Transitions, actions: ActionMap, doubtful: bool = False
    ) -> bool:
        """Learn from these in place of all that is remembered, after the world has changed.

        known: from before the change, as it would be now; new: since. actions: which old action
        does what an action does now; a kind that cannot start again at once begins from there.
        doubtful: whether what is known was far off, so that it must not outweigh what is new.
        Returns False, having done nothing, if it does not offer this.
        """
        return False

    # -- prediction -------------------------------------------------------------------------

    @abstractmethod
    def outputs(self, states: Tensor, actions: Tensor) -> tuple[Tensor, Tensor]:
        """Predict one step: states (N, D), actions (N, A) -> mean, variance (N, D + R).

        Of the changes of state, then of the reward; the variance is that of what will be
        observed: what the model does not know, and noise. Of the states' type.
        """

    def predict(self, states: Tensor, actions: Tensor) -> tuple[Tensor, Tensor]:
        """Predict one step: states (N, D), actions (N, A) -> mean, variance (N, D).

        The mean is of the next state; angles in it may lie beyond +-pi.
        """
        mean, variance = self.outputs(states, actions)
        size = self.features.state_dimensions
        return states + mean[:, :size], variance[:, :size]

    def predict_mean(self, states: Tensor, actions: Tensor) -> Tensor:
        """Predict one step as `predict` does, its mean only, differentiable: (N, D)."""
        return self.predict(states, actions)[0]

    def linearise(self, states: Tensor, actions: Tensor) -> tuple[Tensor, Tensor]:
        """Return the mean's Jacobians by states, (N, D, D), and by actions, (N, D, A).

        states (N, D), actions (N, A).
        """
        with torch.enable_grad():
            leaves = (states.detach().requires_grad_(), actions.detach().requires_grad_())
            mean = self.predict_mean(*leaves)
            rows = [
                torch.autograd.grad(
                    column.sum(), leaves, retain_graph=True, materialize_grads=True
                )
                for column in mean.unbind(1)
            ]
        return torch.stack([row[0] for row in rows], 1), torch.stack([row[1] for row in rows], 1)

    def novelty(self, states: Tensor, actions: Tensor) -> Tensor:
        """Return how much a step would tell: states (N, D), actions (N, A) -> (N,), in nats.

        The sum over the state dimensions of 0.5 log(1 + variance of what is not known / variance
        of the noise): a Gaussian process' information gain; of an ensemble, from its members'
        disagreement (Sukhija et al., "Optimistic Active Exploration of Dynamical Systems",
        NeurIPS 2023, section 3). Differentiable. Raises ValueError if this kind cannot tell.
        """
        raise ValueError(f"model '{self.kind}' cannot tell what it does not know")

    def reward(self, states: Tensor, actions: Tensor) -> Tensor:
        """Predict the reward of one step: states (N, D), actions (N, A) -> mean (N,).

        Raises ValueError if the robot has no reward.
        """
        if not self.features.rewards:
            raise ValueError("this model has no reward; the robot's YAML names no reward topic")
        return self.outputs(states, actions)[0][:, -1]

    def rollout(
        self,
        states: Tensor,
        actions: Tensor,
        propagation: str = "mean",
        generator: torch.Generator | None = None,
        precision: str = "float32",
        engine: str = "eager",
    ) -> Tensor:
        """Predict trajectories by feeding predictions back.

        states (N, D), actions (H, N, A) -> trajectories (H + 1, N, D), the first entry being
        `states`. Each row is one particle: repeat a sequence in consecutive rows for several.

        propagation (names after Chua et al., NeurIPS 2018):
        `mean`: the mean prediction, one trajectory without uncertainty;
        `ts1`: a sample of the predictive distribution, drawn anew at every step;
        `tsinf`: the same, but what the model does not know is drawn once a particle (an
        ensemble's member, a GP's quantile), only noise anew;
        `pathwise`: each particle follows one function drawn from the posterior, without noise.

        generator: source of the samples. precision: one of PRECISIONS; `bfloat16` allows a kind
        to round what lies between states to 8 bits where that is faster. engine: `eager`, or
        one of those that `engines` names. Raises ValueError for a propagation that this kind
        does not offer.
        """
        step = self.stepper(propagation, len(states), generator)
        trajectory = [states]
        for action in actions:
            trajectory.append(step(trajectory[-1], action))
        return torch.stack(trajectory)

    def engines(self, propagation: str) -> tuple[str, ...]:
        """Return in what other ways than `eager` rollouts of this propagation can be computed.

        `compile`: through torch.compile; `cuda`: on a GPU, recorded as one CUDA graph for each
        number of rows and steps, from and to tensors on the CPU. The first of each takes its time,
        and raises whatever a compiler or a driver does where it, or the GPU, is missing.
        """
        return ()

    def stepper(
        self, propagation: str, count: int, generator: torch.Generator | None = None
    ) -> Step:
        """Return the function that advances `count` particles by one step (see `rollout`)."""
        if propagation == "mean":
            return lambda states, actions: self.predict(states, actions)[0]
        if propagation == "ts1":

            def sample(states: Tensor, actions: Tensor) -> Tensor:
                mean, variance = self.predict(states, actions)
                noise = torch.randn(mean.shape, generator=generator, dtype=mean.dtype)
                return mean + noise * variance.sqrt()

            return sample
        known = ", ".join(PROPAGATIONS)
        if propagation in PROPAGATIONS:
            raise ValueError(f"model '{self.kind}' does not offer propagation '{propagation}'")
        raise ValueError(f"unknown propagation '{propagation}'; expected one of {known}")

    # -- snapshots --------------------------------------------------------------------------

    @abstractmethod
    def snapshot(self) -> dict[str, Tensor]:
        """Return all that `restore` needs to predict alike, by name."""

    @abstractmethod
    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Take over a snapshot; raises ValueError if it does not fit this model."""


def make_model(kind: str, robot: RobotSpec, seed: int = 0, **options: Any) -> DynamicsModel:
    """Make a model of `kind` that knows nothing of `robot` yet.

    The kind is loaded by name (see `kinds.MODELS`) and called with (features, seed=seed) and
    the options, which are the kind's own.
    Raises ValueError for an unknown kind.
    """
    features = FeatureMap.of(robot, rewards=int(robot.reward is not None))
    model: DynamicsModel = MODELS.load(kind)(features, seed=seed, **options)
    return model


def one_step_error(model: DynamicsModel, data: Transitions) -> float:
    """Root mean square error of one-step predictions, as a share of the change's own size.

    0 is perfect; 1 is no better than predicting that nothing changes. Every state dimension
    weighs the same. NaN without data.
    """
    if len(data) == 0:
        return float("nan")
    mean, _ = model.predict(data.states, data.actions)
    error = model.features.deltas(data.next_states, mean)
    change = model.features.deltas(data.states, data.next_states)
    scale = change.square().mean(0).clamp_min(1e-12)
    return float((error.square().mean(0) / scale).mean().sqrt())
