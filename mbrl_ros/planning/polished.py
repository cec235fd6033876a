# Copyright 2026 The mbrl_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Sampling finds the valley, iLQR goes to its bottom."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import ClassVar

import torch

from mbrl_ros.dynamics.model import DynamicsModel
from mbrl_ros.planning.icem import ICEM
from mbrl_ros.planning.ilqr import polish
from mbrl_ros.planning.mppi import MPPI
from mbrl_ros.planning.planner import Plan, PlanningError, Problem, Setting, with_defaults
from mbrl_ros.planning.sampling import SamplingPlanner

_POLISH = (
    Setting("polish_iterations", 0, "Iterations of iLQR that follow the sampling.", 0, 100),
    Setting("polish_share", 0.5, "Share of the time budget that is left to them.", 0.0, 0.95),
    Setting(
        "refine_iterations",
        2,
        "Iterations of iLQR between two ticks, on the plan that the next one starts from.",
        0,
        100,
    ),
)


class _Polished(SamplingPlanner):
    polish_iterations: int
    polish_share: float
    refine_iterations: int

    def plan(self, problem: Problem, model: DynamicsModel, last: Plan | None) -> Plan:
        """Sample, then polish within the time left; keep the better of the two."""
        if self.polish_iterations == 0:
            return super().plan(problem, model, last)
        begin = time.perf_counter()
        first = replace(problem, time_budget=problem.time_budget * (1.0 - self.polish_share))
        sampled = super().plan(first, model, last)
        left = replace(problem, time_budget=problem.time_budget - (time.perf_counter() - begin))
        if left.time_budget <= 0.0:
            return replace(sampled, hurried=True)
        try:
            better = polish(
                self.objective, self, left, model, sampled.actions, self.polish_iterations
            )
        except PlanningError:
            return sampled
        samples = sampled.samples + better.samples
        hurried = sampled.hurried or better.hurried
        if better.cost >= sampled.cost:
            return replace(sampled, samples=samples, hurried=hurried)
        return replace(
            sampled,
            actions=better.actions,
            states=better.states,
            cost=better.cost,
            samples=samples,
            hurried=hurried,
        )

    def refine(self, problem: Problem, model: DynamicsModel, plan: Plan) -> Plan:
        """Polish what follows the first action, from the state that it is to lead to.

        No action waits for that, as for the preparation phase of Diehl, Bock and Schloeder, "A
        Real-Time Iteration Scheme for Nonlinear Optimization in Optimal Feedback Control" (2005).
        """
        if self.refine_iterations == 0:
            return plan
        rest, iterations = plan.shifted().actions, self.refine_iterations
        better = polish(self.objective, self, problem.shifted(plan), model, rest, iterations)
        return replace(
            plan,
            actions=torch.cat([plan.actions[:1], better.actions[:-1]]),
            states=torch.cat([plan.states[:1], better.states[:-1]]),
        )


class PolishedICEM(_Polished, ICEM):
    """iCEM, then iLQR from the best candidate."""

    kind = "icem+ilqr"
    own_settings: ClassVar[tuple[Setting, ...]] = ICEM.own_settings + _POLISH


class PolishedMPPI(_Polished, MPPI):
    """MPPI, then iLQR from the weighted average."""

    kind = "mppi+ilqr"
    # Sampling has only to find the valley, and the action waits for it.
    settings: ClassVar[tuple[Setting, ...]] = with_defaults(MPPI.settings, samples=150)
    own_settings: ClassVar[tuple[Setting, ...]] = MPPI.own_settings + _POLISH
