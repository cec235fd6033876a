# Copyright 2026 The mbrl_ros authors
# SPDX-License-Identifier: Apache-2.0
"""A trained policy at a planner's side: where to look, and what comes after the horizon."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import cycle
from typing import Protocol

import torch
from torch import Tensor


class Reflex(Protocol):
    """What a planner needs of a policy; `imagination.policy.Policy` is one."""

    lower: Tensor  # (A,), bounds of its actions
    upper: Tensor

    @property
    def sizes(self) -> tuple[int, int]:
        """D and A."""

    def act(self, states: Tensor) -> Tensor:
        """Return the best actions (N, A) in states (N, D), float32, within the bounds."""

    def value(self, states: Tensor) -> Tensor:
        """Return the discounted rewards (N,) expected from states (N, D) on, differentiable."""


@dataclass(frozen=True)
class PolicyGuide:
    """A policy that proposes candidates, and whose value is the cost beyond the horizon.

    As in Lowrey et al., "Plan Online, Learn Offline" (ICLR 2019), and Hansen et al., "Temporal
    Difference Learning for Model Predictive Control" (ICML 2022).

    policy: must not change while a plan is made. reward_scale: it was trained on rewards of
    - reward_scale x stage cost (see Objective), so that the cost of going on from a state is
    - value / reward_scale: in the unit of the stage cost, each further step discounted as the
    policy was trained to. goal (G,): that it was trained for; a plan that ends with another one
    is made without the guide. None: it holds for any.
    Raises ValueError if reward_scale is not a positive number.
    """

    policy: Reflex
    reward_scale: float = 1.0
    goal: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        if not 0.0 < self.reward_scale < float("inf"):
            raise ValueError(f"reward_scale is {self.reward_scale}, expected more than 0")

    def check(self, state_dimensions: int, lower: Tensor, upper: Tensor, goals: int) -> None:
        """Raise ValueError unless it is for so many state and goal dimensions and these bounds."""
        expected = (state_dimensions, len(lower))
        if self.policy.sizes != expected:
            raise ValueError(
                "policy is for {} state and {} action dimensions, expected {} and {}: train it "
                "for this robot".format(*self.policy.sizes, *expected)
            )
        for name, found, bound in (
            ("lower", self.policy.lower, lower),
            ("upper", self.policy.upper, upper),
        ):
            if not torch.equal(found, bound):
                raise ValueError(
                    f"policy's {name} action bounds are {found.tolist()}, expected "
                    f"{bound.tolist()}: train it for this robot"
                )
        if self.goal is not None and len(self.goal) != goals:
            raise ValueError(f"policy's goal is {list(self.goal)}, expected {goals} numbers")

    def holds(self, goal: Tensor) -> bool:
        """Return whether it is for plans that end with goal (..., G)."""
        if self.goal is None:
            return True
        # Asked three times a plan, of few numbers: as such they take a tenth of a tensor's time.
        return all(
            math.isclose(found, wanted, rel_tol=1e-5, abs_tol=1e-8)
            for found, wanted in zip(goal.flatten().tolist(), cycle(self.goal))
        )

    def cost_to_go(self, states: Tensor) -> Tensor:
        """Return the cost (...) of going on from states (..., D)."""
        value = self.policy.value(states.reshape(-1, states.shape[-1])).view(states.shape[:-1])
        return value.to(states) / -self.reward_scale
