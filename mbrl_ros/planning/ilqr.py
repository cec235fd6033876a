# Copyright 2026 The mbrl_ros authors
# SPDX-License-Identifier: Apache-2.0
"""The iterative linear-quadratic regulator on the learned model."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from mbrl_ros.dynamics.model import DynamicsModel
from mbrl_ros.planning.noise import coloured_noise
from mbrl_ros.planning.objective import Objective, Steps
from mbrl_ros.planning.planner import (
    Plan,
    Planner,
    PlanningError,
    Problem,
    Setting,
    actions_in_force,
    with_defaults,
)

_STEP_SIZES = tuple(0.5**k for k in range(10))
_FACTOR = 4.0  # by which the regularisation changes
_LEAST, _MOST = 1e-8, 1e8  # regularisation
_ACCEPTED = 1e-3  # share of the expected improvement that must come true
_START_NOISE = 0.5  # standard deviation of random sequences, as a share of half the range
_START_COLOUR = 1.0  # and their colour: pink
_CONVERGED = 1e-9  # expected improvement, as a share of the cost, that is not worth a step


class ILQR(Planner):
    """Linearise the model along the plan, solve the quadratic problem, and step along it.

    Li and Todorov, "Iterative linear quadratic regulator design" (ICINCO 2004), with the bounds
    in the backward pass of Tassa et al., "Control-limited differential dynamic programming"
    (ICRA 2014). All step sizes are tried at once. Two things that a robot's plan has are part of
    the state: the action before, for its rate, its slew limit and commands that arrive late, and
    a goal that moves. Works in double precision; finds the bottom of the valley that it starts in,
    so that without a plan before it also starts from the best of a few random sequences.
    """

    kind = "ilqr"
    settings: ClassVar[tuple[Setting, ...]] = with_defaults(Planner.settings, iterations=5)
    own_settings: ClassVar[tuple[Setting, ...]] = (
        Setting(
            "starts",
            64,
            "Random sequences; the first plan starts from the best of them as well as from the "
            "middle of the bounds.",
            0,
            10_000,
        ),
    )
    starts: int

    def plan(self, problem: Problem, model: DynamicsModel, last: Plan | None) -> Plan:
        """Improve the last plan; the first one comes of two starts."""
        if last is not None or self.starts == 0:
            return self._polished(problem, model, self._start(last))
        # The middle of the bounds may have no slope to leave it by, so that a second attempt is
        # worth half of the time, once.
        begin = time.perf_counter()
        half = replace(problem, time_budget=problem.time_budget / 2.0)
        plan = self._polished(half, model, self._start(None))
        left = problem.time_budget - (time.perf_counter() - begin)
        problem = replace(problem, time_budget=left)
        try:
            other = self._polished(problem, model, self._best_start(problem, model))
        except PlanningError:
            return plan
        samples = plan.samples + self.starts + other.samples
        return replace(other if other.cost < plan.cost else plan, samples=samples)

    def _polished(self, problem: Problem, model: DynamicsModel, actions: Tensor) -> Plan:
        return polish(self.objective, self, problem, model, actions, self.iterations)

    def prepare(self, model: DynamicsModel) -> list[str]:
        """Let a new model make its buffers for the first plan, and for those after it."""
        remarks = super().prepare(model)
        if self.starts:
            self._rehearse(model, self.starts)
        return remarks

    def _best_start(self, problem: Problem, model: DynamicsModel) -> Tensor:
        """Return the best (H, A) of random sequences around the middle of the bounds."""
        generator = torch.Generator().manual_seed(problem.seed)
        noise = coloured_noise(
            _START_COLOUR, self.horizon, self.starts, self.action_dimensions, generator
        )
        middle = (self.lower + self.upper) / 2.0
        candidates = torch.addcmul(middle, noise, _START_NOISE * self.half_range)
        self.hold_to_limits(candidates, problem.previous_action)
        in_force = actions_in_force(problem.previous_action, candidates, problem.delay_fraction)
        states = model.rollout(problem.state.expand(self.starts, -1), in_force)
        costs = self.objective.cost(
            states, candidates, problem.goal, problem.previous_action, model
        )
        return candidates[:, int(torch.where(costs.isfinite(), costs, torch.inf).argmin())]


def polish(
    objective: Objective,
    planner: Planner,
    problem: Problem,
    model: DynamicsModel,
    actions: Tensor,
    iterations: int,
) -> Plan:
    """Improve actions (H, A) by at most so many iterations, within the problem's time budget.

    Raises PlanningError if the trajectory to start from is not finite.
    """
    begin = time.perf_counter()
    system = _System(objective, planner, problem, model)
    current = system.roll_out(actions.double())
    if not math.isfinite(current.cost):
        raise PlanningError("the trajectory to improve holds values that are not finite")
    regularisation, done, hurried = _LEAST, 0, False
    expansion: _Expansion | None = None
    for iteration in range(iterations):
        elapsed = time.perf_counter() - begin
        if iteration and elapsed * (iteration + 1) / iteration > problem.time_budget:
            hurried = True
            break
        done += 1
        if expansion is None:
            expansion = system.expand(current)
        policy = system.backward(expansion, current, regularisation)
        while policy is None and regularisation < _MOST:
            # As good as free next to an expansion, so that it takes no iteration.
            regularisation *= _FACTOR**2
            policy = system.backward(expansion, current, regularisation)
        if policy is None:
            break
        if policy.expected(1.0) < _CONVERGED * (abs(current.cost) + 1.0):
            break
        best = system.search(current, policy)
        if best is None:
            regularisation *= _FACTOR**2
            if regularisation > _MOST:
                break
            continue
        current, expansion = best, None
        regularisation = max(regularisation / _FACTOR, _LEAST)
    return Plan(
        torch.clamp(current.actions.float(), planner.lower, planner.upper),
        current.states.float(),
        current.cost,
        iterations=done,
        samples=system.followed,
        hurried=hurried,
    )


@dataclass(frozen=True)
class _Trajectory:
    actions: Tensor  # (H, A)
    states: Tensor  # (H + 1, D)
    before: Tensor  # (H, A), of the step before
    cost: float


@dataclass(frozen=True)
class _Expansion:
    """Derivatives along a trajectory.

    jacobian (H, D, D + 2A): of the next state by state, action before and action. gradient
    (H, 2D + 2A), hessian: of the stage cost by state, action before, next state and action.
    last_gradient (D,), last_hessian: of the terminal cost.
    """

    jacobian: np.ndarray
    gradient: np.ndarray
    hessian: np.ndarray
    last_gradient: np.ndarray
    last_hessian: np.ndarray


@dataclass(frozen=True)
class _Policy:
    """Changes of action: step size x open (H, A) + feedback (H, A, D + A) x change of state."""

    open: Tensor
    feedback: Tensor
    linear: float
    quadratic: float

    def expected(self, size: float) -> float:
        """Return the improvement that the quadratic problem promises, >= 0."""
        return -(size * self.linear + 0.5 * size * size * self.quadratic)


class _System:
    """The problem as a discrete system whose state is that of the robot and the action before.

    followed: how many trajectories it has rolled out.
    """

    def __init__(
        self, objective: Objective, planner: Planner, problem: Problem, model: DynamicsModel
    ) -> None:
        self._objective, self._model = objective, model
        self._start = problem.state.double()
        self._previous = problem.previous_action.double()
        self._late = problem.delay_fraction
        goal = problem.goal.double()
        self._goal = goal if goal.ndim == 2 else goal.expand(planner.horizon, -1)
        self._lower, self._upper = planner.lower.double(), planner.upper.double()
        change = planner.largest_change
        self._change = None if change is None else change.double()
        self._size, self._actions = len(self._start), len(self._lower)
        self.followed = 0

    def roll_out(self, actions: Tensor) -> _Trajectory:
        """Follow actions (H, A)."""
        found = self._follow(actions[:, None], None, None, (0.0,))
        return found[0]

    def search(self, current: _Trajectory, policy: _Policy) -> _Trajectory | None:
        """Return the best of all step sizes, or None if none improves as promised."""
        found = self._follow(current.actions[:, None], current, policy, _STEP_SIZES)
        best = None
        for size, trajectory in zip(_STEP_SIZES, found, strict=True):
            gained = current.cost - trajectory.cost
            if not gained > _ACCEPTED * policy.expected(size):
                continue
            if best is None or trajectory.cost < best.cost:
                best = trajectory
        return best

    def _follow(
        self,
        actions: Tensor,
        current: _Trajectory | None,
        policy: _Policy | None,
        sizes: tuple[float, ...],
    ) -> list[_Trajectory]:
        count = len(sizes)
        self.followed += count
        step = self._model.stepper("mean", count)
        scale = torch.tensor(sizes, dtype=torch.float64)[:, None]
        state, before = self._start.expand(count, -1), self._previous.expand(count, -1)
        states, chosen, earlier = [state], [], []
        with torch.no_grad():
            for t in range(len(actions)):
                action = actions[t].expand(count, -1)
                if policy is not None and current is not None:
                    away = torch.cat([state - current.states[t], before - current.before[t]], 1)
                    action = action + scale * policy.open[t] + away @ policy.feedback[t].T
                action = torch.clamp(action, *self._span(before))
                in_force = torch.lerp(action, before, self._late)
                state = step(state, in_force).double()
                states.append(state)
                chosen.append(action)
                earlier.append(before)
                before = action
            stacked, taken = torch.stack(states), torch.stack(chosen)
            costs = self._objective.cost(
                stacked, taken, self._goal, self._previous, self._model
            ).tolist()
        earlier_actions = torch.stack(earlier)
        return [
            _Trajectory(taken[:, i], stacked[:, i], earlier_actions[:, i], costs[i])
            if math.isfinite(costs[i])
            else _Trajectory(taken[:, i], stacked[:, i], earlier_actions[:, i], math.inf)
            for i in range(count)
        ]

    def _span(self, before: Tensor) -> tuple[Tensor, Tensor]:
        """Return the lowest and the highest action (..., A) that may follow one (..., A)."""
        if self._change is None:
            return self._lower, self._upper
        low = torch.maximum(self._lower, before - self._change)
        return low, torch.minimum(self._upper, before + self._change)

    def expand(self, current: _Trajectory) -> _Expansion:
        """Differentiate model and cost along a trajectory."""
        late = self._late
        in_force = torch.lerp(current.actions, current.before, late)
        by_state, by_action = self._model.linearise(current.states[:-1], in_force)
        jacobian = torch.cat([by_state, late * by_action, (1.0 - late) * by_action], 2)
        gradient, hessian = self._cost_derivatives(current)
        goal = self._goal[-1]
        slope, bend = _derivatives(
            lambda last: self._objective.terminal_cost(last[0], goal), [current.states[-1:]]
        )
        return _Expansion(
            jacobian.double().numpy(),
            gradient.numpy(),
            _convex(hessian).numpy(),
            slope[0].numpy(),
            _convex(bend)[0].numpy(),
        )

    def _cost_derivatives(self, current: _Trajectory) -> tuple[Tensor, Tensor]:
        def cost(parts: list[Tensor]) -> Tensor:
            start, before, state, action = parts
            return self._objective.stage_cost(
                Steps(start, action, state, before, self._goal[:, None], self._model)
            )

        parts = [current.states[:-1], current.before, current.states[1:], current.actions]
        return _derivatives(cost, parts)

    def backward(
        self, expansion: _Expansion, current: _Trajectory, regularisation: float
    ) -> _Policy | None:
        """Solve the quadratic problem from the end to the beginning; None if it is not convex."""
        d, a = self._size, self._actions
        horizon = len(current.actions)
        open_loop, feedback = np.zeros((horizon, a)), np.zeros((horizon, a, d + a))
        value, curvature = np.zeros(d + a), np.zeros((d + a, d + a))
        value[:d], curvature[:d, :d] = expansion.last_gradient, expansion.last_hessian
        linear = quadratic = 0.0
        actions = current.actions.numpy()
        span = self._span(current.before)
        low, high = (np.broadcast_to(bound.numpy(), actions.shape) for bound in span)
        lower, upper = low - actions, high - actions
        # Which bounds move along with the action before.
        slewed = low > self._lower.numpy(), high < self._upper.numpy()
        # From changes of (state, action before, action) to those of all that the cost sees.
        chain = np.zeros((horizon, 2 * d + 2 * a, d + 2 * a))
        chain[:, : d + a, : d + a] = np.eye(d + a)
        chain[:, d + a : 2 * d + a] = expansion.jacobian
        chain[:, 2 * d + a :, d + a :] = np.eye(a)
        turned = chain.transpose(0, 2, 1)
        slopes = (turned @ expansion.gradient[..., None])[..., 0]
        bends = turned @ expansion.hessian @ chain
        identity = regularisation * np.eye(a)
        for t in range(horizon - 1, -1, -1):
            # The next step's state is (next state, action), the last that the cost sees.
            onward = chain[t, d + a :]
            slope = slopes[t] + onward.T @ value
            bend = bends[t] + onward.T @ curvature @ onward
            q, qq = slope[d + a :], bend[d + a :, d + a :]
            cross = bend[d + a :, : d + a]
            solved = _bounded(qq + identity, q, lower[t], upper[t], open_loop[t])
            if solved is None:
                return None
            step, free, inverse = solved
            gain = np.zeros((a, d + a))
            for i in np.flatnonzero(~free):
                gain[i, d + i] = slewed[int(step[i] >= upper[t, i])][t, i]
            gain[free] = -inverse @ (cross[free] + qq[free][:, ~free] @ gain[~free])
            open_loop[t], feedback[t] = step, gain
            linear += step @ q
            quadratic += step @ qq @ step
            value = slope[: d + a] + gain.T @ qq @ step + gain.T @ q + cross.T @ step
            curvature = bend[: d + a, : d + a] + gain.T @ qq @ gain
            curvature = curvature + gain.T @ cross + cross.T @ gain
            curvature = 0.5 * (curvature + curvature.T)
        return _Policy(torch.from_numpy(open_loop), torch.from_numpy(feedback), linear, quadratic)


def _derivatives(
    cost: Callable[[list[Tensor]], Tensor], parts: list[Tensor]
) -> tuple[Tensor, Tensor]:
    """Return gradient (H, n) and Hessian (H, n, n) of costs by parts (H, n_i).

    cost takes parts (H, n, n_i) and returns (H, n): each of n copies tells one row of the
    Hessian, so that one backward pass tells all.
    """
    total = sum(part.shape[1] for part in parts)
    leaves = [part[:, None].repeat(1, total, 1).requires_grad_() for part in parts]
    with torch.enable_grad():
        value = cost(leaves).sum()
        hessian = value.new_zeros(len(parts[0]), total, total)
        if not value.requires_grad:
            return hessian[:, 0], hessian
        slopes = torch.cat(
            torch.autograd.grad(value, leaves, create_graph=True, materialize_grads=True), 2
        )
        rows = slopes.diagonal(dim1=1, dim2=2).sum()
        if rows.requires_grad:
            hessian = torch.cat(torch.autograd.grad(rows, leaves, materialize_grads=True), 2)
    return slopes[:, 0].detach(), hessian


def _convex(hessian: Tensor) -> Tensor:
    """Return the nearest Hessians (H, n, n) that are not negative in any direction.

    Of costs such as that of an angle far from its goal, the quadratic problem would have no
    minimum, and the regularisation that gives it one would slow down all other directions.
    Raises PlanningError where they cannot be decomposed.
    """
    try:
        values, vectors = torch.linalg.eigh(hessian)
    except torch.linalg.LinAlgError as error:  # as of numbers that are not finite
        raise PlanningError(f"the curvature of the cost is of no use: {error}") from error
    return vectors * values.clamp_min(0.0)[:, None] @ vectors.mT


def _bounded(
    hessian: np.ndarray, gradient: np.ndarray, lower: np.ndarray, upper: np.ndarray, x: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray] | None:
    """Minimise x^T hessian x / 2 + gradient^T x within the bounds, by projected Newton steps.

    Returns x, which of its entries are free, and the inverse of the free part of the Hessian;
    None if that is not positive definite. Tassa et al. (2014), section IV.
    """
    whole = _inverse(hessian)
    if whole is not None:
        lowest = -whole @ gradient
        if (lower <= lowest).all() and (lowest <= upper).all():
            return lowest, np.ones(len(x), dtype=bool), whole
    x = np.minimum(np.maximum(x, lower), upper)
    before: np.ndarray | None = None
    for _ in range(20):
        slope = gradient + hessian @ x
        held = ((x <= lower) & (slope > 0.0)) | ((x >= upper) & (slope < 0.0))
        free = ~held
        if before is None or (free != before).any():
            part = _inverse(hessian[free][:, free])
            if part is None:
                return None
            inverse, before = part, free
        step = np.zeros_like(x)
        step[free] = -inverse @ slope[free]
        if np.abs(step).max(initial=0.0) < 1e-10 * (1.0 + np.abs(x).max()):
            break
        size, cost = 1.0, 0.5 * x @ hessian @ x + gradient @ x
        while size > 1e-8:
            moved = np.minimum(np.maximum(x + size * step, lower), upper)
            if 0.5 * moved @ hessian @ moved + gradient @ moved < cost:
                break
            size *= 0.5
        else:
            break
        x = moved
    return x, free, inverse


def _inverse(matrix: np.ndarray) -> np.ndarray | None:
    """Return the inverse of a positive definite matrix, or None if it is not."""
    try:
        np.linalg.cholesky(matrix)
    except np.linalg.LinAlgError:
        return None
    return np.linalg.inv(matrix)
