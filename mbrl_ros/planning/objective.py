# Copyright 2026 The mbrl_ros authors
# SPDX-License-Identifier: Apache-2.0
"""What a planner minimises: terms that add up to one cost a trajectory."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from mbrl_ros.dynamics.model import DynamicsModel
from mbrl_ros.kinds import COSTS
from mbrl_ros.planning.guide import PolicyGuide
from mbrl_ros.robots.spec import Exploration, Obstacle, RobotSpec, SoftBound

_BARRIER_KNEE = 0.1  # share of a barrier's margin below which it goes on as a parabola
_LOOKS = 3  # steps of a trajectory at which exploration is judged, which takes a plan's time
_FADED = 0.01  # share of its weight below which it is not looked at any more


class CostError(ValueError):
    """A cost term of another package that does not do what it must; the message names it."""


@dataclass(frozen=True)
class Steps:
    """Steps to be judged, of any leading dimensions (...), such as horizon and candidates.

    starts (..., D), actions (..., A), states (..., D) that the actions led to, before (..., A):
    the action of the step before. goal (..., G) in force, or one that broadcasts. model: that
    predicted them, or None outside a plan.
    """

    starts: Tensor
    actions: Tensor
    states: Tensor
    before: Tensor
    goal: Tensor
    model: DynamicsModel | None = None


Term = Callable[[Steps], Tensor]  # returns costs (...)


class Objective:
    """The cost of a robot's YAML file as a function of states, actions and goal.

    The stage cost is the sum of

    - goal: weight x (distance to the goal)^2; for an angle the squared chord between the two
      directions, 2 (1 - cos error), which has no kink half a turn away;
    - state: weight x value^2;
    - effort: weight x action^2;
    - rate: weight x (change of the action from one step to the next)^2;
    - soft_bounds: weight x (distance outside the bounds)^2, or a barrier that rises within
      `margin` of them;
    - obstacles: weight x (how much nearer than `margin`)^2;
    - reward: - weight x learned reward;
    - exploration: - weight x what a step would tell the model, in nats, at a few steps that
      stand for all; it fades with the transitions that the model has seen;
    - terms of other packages (entry points `mbrl_ros.costs`).

    The last state of a trajectory also costs terminal: weight x distance to the goal, as above;
    or, where there is a `guide` for the goal, what the guide expects of all that follows.
    Raises ValueError if a term of another package is unknown, refuses its settings or does not
    return one finite cost a step.
    """

    def __init__(self, robot: RobotSpec) -> None:
        state, action, cost = robot.state_names, robot.action_names, robot.cost
        self.state_dimensions, self.goal_dimensions = len(state), len(robot.goal_names)
        self.guide: PolicyGuide | None = None
        self._goal_index = [state.index(name) for name in robot.goal_names]
        self._goal_angle = [robot.angle_mask[i] for i in self._goal_index]
        self.goal_weight = torch.tensor([cost.goal.get(name, 0.0) for name in robot.goal_names])
        self._terminal_weight = torch.tensor(
            [cost.terminal.get(name, 0.0) for name in robot.goal_names]
        )
        self._terms: list[Term] = [self._goal_term]
        if cost.state:
            weights = [cost.state.get(name, 0.0) for name in state]
            self._terms.append(lambda steps: _weighted_squares(steps.states, weights))
        if cost.effort:
            self._terms.append(_Effort([cost.effort.get(name, 0.0) for name in action]))
        if cost.rate:
            self._terms.append(_Rate([cost.rate.get(name, 0.0) for name in action]))
        self._terms += [_soft_bound(state.index(b.dimension), b) for b in cost.soft_bounds]
        self._terms += [
            _obstacle(state.index(o.plane[0]), state.index(o.plane[1]), o) for o in cost.obstacles
        ]
        if cost.reward:
            self._terms.append(_LearnedReward(cost.reward))
        if cost.exploration is not None and cost.exploration.weight:
            self._terms.append(_Exploration(cost.exploration))
        for name, settings in cost.terms.items():
            self._terms.append(_checked(name, COSTS.load(name)(robot, **settings), robot))

    def stage_cost(self, steps: Steps) -> Tensor:
        """Return the cost (...) of each step."""
        total = self._terms[0](steps)
        for term in self._terms[1:]:
            total = total + term(steps)
        return total

    def now(self, state: Tensor, action: Tensor, goal: Tensor) -> float:
        """Return the stage cost of one state (D,) and action (A,) that is held, goal (G,)."""
        return float(self.stage_cost(Steps(state, action, state, action, goal)))

    def terminal_cost(self, states: Tensor, goal: Tensor) -> Tensor:
        """Return the cost (...) of ending in states (..., D) with goal (..., G)."""
        guide = self.guide
        if guide is not None and guide.holds(goal):
            return guide.cost_to_go(states)
        return self._distance(states, goal, self._terminal_weight)

    def cost(
        self,
        trajectories: Tensor,
        actions: Tensor,
        goal: Tensor,
        previous_action: Tensor,
        model: DynamicsModel | None = None,
    ) -> Tensor:
        """Total cost (N,) of trajectories (H + 1, N, D) under actions (H, N, A).

        goal: (G,), or (H, G) where it changes over time. previous_action (A,): in force before.
        """
        total = self.running_cost(trajectories, actions, goal, previous_action, model)
        if self.guide is not None or self._terminal_weight.any():
            last = goal[-1] if goal.ndim == 2 else goal
            total = total + self.terminal_cost(trajectories[-1], last)
        return total

    def running_cost(
        self,
        trajectories: Tensor,
        actions: Tensor,
        goal: Tensor,
        previous_action: Tensor,
        model: DynamicsModel | None = None,
    ) -> Tensor:
        """Return the same without what the last state costs more."""
        if goal.ndim == 2:
            goal = goal[:, None]
        first = previous_action.to(actions).expand(1, *actions.shape[1:])
        before = torch.cat([first, actions[:-1]])
        steps = Steps(trajectories[:-1], actions, trajectories[1:], before, goal, model)
        return self.stage_cost(steps).sum(0)

    def _goal_term(self, steps: Steps) -> Tensor:
        return self._distance(steps.states, steps.goal, self.goal_weight)

    def _distance(self, states: Tensor, goal: Tensor, weights: Tensor) -> Tensor:
        total = torch.zeros_like(states[..., 0])
        # Column by column: of a planner's many states only those that count are read, once.
        columns = zip(
            self._goal_index, self._goal_angle, goal.unbind(-1), weights.tolist(), strict=True
        )
        for index, is_angle, wanted, weight in columns:
            if weight:
                error = states[..., index] - wanted
                if is_angle:  # 2 (1 - cos error) = (2 sin (error / 2))^2
                    error, weight = torch.sin(0.5 * error), 4.0 * weight
                total = torch.addcmul(total, error, error, value=weight)
        return total


def _weighted_squares(values: Tensor, weights: Sequence[float]) -> Tensor:
    """Return the sum (...) over the columns of values (..., K) of weight x value^2."""
    total = torch.zeros_like(values[..., 0])
    for column, weight in zip(values.unbind(-1), weights, strict=True):
        if weight:
            total = torch.addcmul(total, column, column, value=weight)
    return total


class _Effort:
    def __init__(self, weights: Sequence[float]) -> None:
        self._weights = weights

    def __call__(self, steps: Steps) -> Tensor:
        return _weighted_squares(steps.actions, self._weights)


class _Rate:
    def __init__(self, weights: Sequence[float]) -> None:
        self._weights = weights

    def __call__(self, steps: Steps) -> Tensor:
        return _weighted_squares(steps.actions - steps.before, self._weights)


class _LearnedReward:
    def __init__(self, weight: float) -> None:
        self._weight = weight

    def __call__(self, steps: Steps) -> Tensor:
        if steps.model is None or not steps.model.transitions:
            return torch.zeros_like(steps.states[..., 0])
        starts, actions = steps.starts.flatten(0, -2), steps.actions.flatten(0, -2)
        return steps.model.reward(starts, actions).view(steps.states.shape[:-1]) * -self._weight


class _Exploration:
    def __init__(self, settings: Exploration) -> None:
        self._weight, self._half_life = settings.weight, settings.half_life

    def __call__(self, steps: Steps) -> Tensor:
        total, model = torch.zeros_like(steps.states[..., 0]), steps.model
        if model is None or not model.transitions:
            return total
        left = 0.5 ** (model.transitions / self._half_life)
        if left < _FADED:
            return total
        horizon = len(total)
        count = min(_LOOKS, horizon)
        weight = -self._weight * left * horizon / count
        for i in range(count):
            step = (i + 1) * horizon // count - 1
            start, action = steps.starts[step], steps.actions[step]
            found = model.novelty(
                start.reshape(-1, start.shape[-1]), action.reshape(-1, action.shape[-1])
            )
            total[step] = weight * found.view(total.shape[1:])
        return total


def _soft_bound(index: int, bound: SoftBound) -> Term:
    lower, upper = bound.bounds

    def quadratic(steps: Steps) -> Tensor:
        value = steps.states[..., index]
        return bound.weight * (torch.relu(value - upper) + torch.relu(lower - value)).square()

    def barrier(steps: Steps) -> Tensor:
        value = steps.states[..., index]
        room = torch.minimum(value - lower, upper - value) / bound.margin
        return bound.weight * _relaxed_barrier(room)

    return quadratic if bound.kind == "quadratic" else barrier


def _relaxed_barrier(room: Tensor) -> Tensor:
    """Return -log(room) below 1, 0 above, and its parabola below the knee.

    Hauser and Saccon, "A barrier function method for the optimization of trajectory functionals
    with constraints" (CDC 2006).
    """
    knee = torch.tensor(_BARRIER_KNEE).to(room)
    inside = -torch.log(room.clamp(knee, torch.ones_like(knee)))
    below = (knee - room).clamp_min(0.0) / knee
    return inside + below + 0.5 * below.square()


def _obstacle(x: int, y: int, obstacle: Obstacle) -> Term:
    def distance(steps: Steps) -> Tensor:
        """Return how far outside the shape the robot is; negative inside."""
        across = steps.states[..., x] - obstacle.center[0]
        along = steps.states[..., y] - obstacle.center[1]
        if obstacle.shape == "circle":
            # A point at the very centre has no direction; it must have a slope all the same.
            return (across.square() + along.square() + 1e-12).sqrt() - obstacle.radius
        across = across.abs() - 0.5 * obstacle.size[0]
        along = along.abs() - 0.5 * obstacle.size[1]
        outside = (torch.relu(across).square() + torch.relu(along).square() + 1e-12).sqrt()
        return outside + torch.maximum(across, along).clamp_max(0.0)

    return lambda steps: obstacle.weight * torch.relu(obstacle.margin - distance(steps)).square()


def _checked(name: str, term: Term, robot: RobotSpec) -> Term:
    """Try a term of another package on steps at rest, and watch its shape for ever."""

    def watched(steps: Steps) -> Tensor:
        try:
            cost = term(steps)
        except Exception as error:
            kind = type(error).__name__
            raise CostError(f"cost term '{name}' failed: {kind}: {error}") from error
        if not isinstance(cost, Tensor) or cost.shape != steps.states.shape[:-1]:
            shape = list(cost.shape) if isinstance(cost, Tensor) else type(cost).__name__
            raise CostError(
                f"cost term '{name}' returned {shape}, "
                f"expected a tensor of {list(steps.states.shape[:-1])}: one cost a step"
            )
        return cost

    states = torch.zeros(2, 3, len(robot.state))
    actions = torch.tensor(robot.safe_action).expand(2, 3, -1)
    goal = torch.tensor(robot.goal_default)
    found = watched(Steps(states, actions, states, actions, goal))
    if not found.isfinite().all():
        raise CostError(f"cost term '{name}' is not finite at rest: {found[0, 0]}")
    return watched
