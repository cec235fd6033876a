# Copyright 2026 The mbrl_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Braking in time before an end stop, whatever a plan hopes for."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, replace
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from mbrl_ros.dynamics.model import DynamicsModel
from mbrl_ros.planning.planner import Plan, Problem, actions_in_force, largest_changes
from mbrl_ros.robots.spec import RobotSpec

# Share of the range between two stops that is kept free before either.
_MARGIN = 0.02
# Share of the braking power, as the model has it, that is counted on: what else moves the robot,
# such as a pole that swings, may take the rest.
_COUNTED_ON = 0.6
# Share of a period by which braking may begin later than is known.
_LATE = 0.5
# Seconds within which a robot is to leave what is kept free.
_BACK = 0.2
# Steps between the wished action and full braking, among which the least change is chosen.
_STEPS = 20
# Share of the newest tick in the mean of late errors, and in the actions' effect where no data
# tell of it.
_NEW = 0.2
# The newest transitions that tell of the actions' effect, rows per unknown that are enough, and
# standard errors from which on an effect is certain.
_TELLING, _ENOUGH, _CERTAIN = 1000, 2, 3.0
# Seconds that a robot must have been at its stop to be resting there, and how near that is, as a
# share of what is kept free.
_RESTING, _AT_STOP = 0.5, 0.25
_WAITING = 20  # predictions that wait for their state


@dataclass(frozen=True)
class _Stop:
    """One end: where side x state[dimension] may go, and how much before the stop that is.

    rate: which dimension is its velocity. solid: whether the robot is held there, by `limits`, or
    stopped by the guard, who watches the safe range.
    """

    dimension: int
    rate: int
    side: float
    at: float
    margin: float
    solid: bool


class EndStops:
    """Changes an action after which the robot could not brake before an end stop any more.

    Of a long prediction nothing is needed, because that is what a model of another machine, or of
    a world that has just changed, gets wrong first. From the state at which the action comes into
    force the model says what one step leads to, with its uncertainty, and what actions do to
    velocities; where such predictions have lately erred towards the stop, so much is added. The
    rest is the braking distance, velocity^2 / (2 x deceleration), and what it takes until a
    command with a slew limit has come to brake; all that must end before the stop.
    That makes the set of states from which the robot can stop invariant: a discrete-time control
    barrier function (Agrawal and Sreenath, RSS 2017).

    It minds the state dimensions that have `limits` or a `safe_range`, whichever ends first, and
    whose velocity is a state dimension too: of the same joint, or `derivative_of`. `braked` counts
    the actions that were changed.
    """

    def __init__(self, robot: RobotSpec) -> None:
        self._period = robot.period
        self._period_nanoseconds = robot.period_nanoseconds
        dimensions = robot.command.dimensions
        self._lower = torch.tensor([dimension.bounds[0] for dimension in dimensions])
        self._upper = torch.tensor([dimension.bounds[1] for dimension in dimensions])
        self._safe = torch.tensor(robot.safe_action)
        self._change = torch.tensor(largest_changes(robot))
        self._stops = [stop for index in range(len(robot.state)) for stop in _stops(robot, index)]
        self._gain: Tensor | None = None  # (A, D)
        # What the data of each model say of it, (A, D).
        self._told: WeakKeyDictionary[DynamicsModel, Tensor | None] = WeakKeyDictionary()
        self._patience = max(round(_RESTING / robot.period), 1)
        self._at_stop = 0  # ticks
        self._expected: deque[tuple[int, Tensor]] = deque(maxlen=_WAITING)  # by stamp
        self._error = torch.zeros(len(robot.state))  # mean of late, found less predicted
        self.braked = 0

    def prepare(self, model: DynamicsModel) -> None:
        """Look at the data of a model before its first tick, which then need not.

        May run in another thread than the ticks.
        """
        if self._stops and model.transitions:
            self._told[model] = _gain(model)

    def observe(self, stamp: int, state: Sequence[float], driven: bool = True) -> None:
        """Take the state (D,) of a tick, in nanoseconds, to see what predictions were worth.

        driven: whether the last action was sent to the robot.
        """
        while self._expected and self._expected[0][0] <= stamp:
            due, expected = self._expected.popleft()
            if due == stamp:
                self._error = torch.lerp(self._error, torch.tensor(state) - expected, _NEW)
        gaps = [
            (stop.at + stop.margin - stop.side * state[stop.dimension]) / stop.margin
            for stop in self._stops
            if stop.solid
        ]
        self._at_stop = self._at_stop + 1 if driven and gaps and min(gaps) < _AT_STOP else 0

    @property
    def resting(self) -> bool:
        """Whether the robot has been driven, but at a stop, for a while.

        Nothing is learned there, so what has led there would keep it there for ever.
        """
        return self._at_stop >= self._patience

    def heed(
        self, model: DynamicsModel, problem: Problem, plan: Plan, stamp: int, ahead: int
    ) -> Plan:
        """Return a plan whose first action leaves room to brake; the same if it does already.

        stamp: of the tick, nanoseconds. ahead: how many periods after it the plan starts.
        """
        action = self.nearest(model, problem, plan.actions[0], stamp, ahead)
        if torch.equal(action, plan.actions[0]):
            return plan
        actions = torch.cat([action[None], plan.actions[1:]])
        in_force = actions_in_force(
            problem.previous_action, actions[:, None], problem.delay_fraction
        )
        states = model.rollout(problem.state[None], in_force)[:, 0]
        return replace(plan, actions=actions, states=states)

    def nearest(
        self, model: DynamicsModel, problem: Problem, action: Tensor, stamp: int, ahead: int
    ) -> Tensor:
        """Return the action (A,) nearest to the given one after which there is room to brake.

        Where none will do: as much braking as the slew limits allow. The same where nothing is
        known of what actions do.
        """
        if not self._stops or not model.transitions:
            return action
        action = self._within_reach(action, problem)
        mean, variance, gain = self._one_step(model, problem, action)
        chosen = action
        for stop in self._stops:
            tried, enough = self._tried(stop, problem, action, mean, variance, gain, ahead)
            if not enough[0]:
                self.braked += 1
                # Of several dimensions that are near a stop the first counts: no action need do
                # for all of them.
                chosen = tried[int(enough.int().argmax()) if enough.any() else _STEPS]
                break
        moved = (1.0 - problem.delay_fraction) * ((chosen - action) @ gain)
        due = stamp + (ahead + 1) * self._period_nanoseconds
        self._expected.append((due, mean + moved))
        return chosen

    def _tried(
        self,
        stop: _Stop,
        problem: Problem,
        action: Tensor,
        mean: Tensor,
        variance: Tensor,
        gain: Tensor,
        ahead: int,
    ) -> tuple[Tensor, Tensor]:
        """Return actions from the given one to full braking, (N, A), and which will do, (N,).

        Within reach, both of them.
        """
        start, side = problem.state, stop.side
        outward = side * gain[:, stop.rate]
        brake = torch.where(outward > 0.0, self._lower, self._upper)
        brake = torch.where(outward == 0.0, action, brake)
        power = float((outward * (self._safe - brake)).sum()) / self._period  # 0: unknown
        tried = torch.lerp(action, brake, torch.linspace(0.0, 1.0, _STEPS + 1)[:, None])
        tried = self._within_reach(tried, problem)
        faster = math.sqrt(float(variance[stop.rate]) * (ahead + 1))
        faster += max(side * float(self._error[stop.rate]), 0.0)
        nearer = max(side * float(self._error[stop.dimension]), 0.0)
        moved = (1.0 - problem.delay_fraction) * ((tried - action) @ outward)
        before = side * float(start[stop.rate]) + faster
        after = side * mean[stop.rate] + moved + faster
        reached = side * start[stop.dimension] + nearer
        reached = reached + 0.5 * self._period * (before + after.clamp_min(0.0))
        counted_on = max(_COUNTED_ON * power, 1e-9)
        onward, later = self._until_braking(
            after, (after - before) / self._period, tried - brake, outward, counted_on
        )
        late = _LATE * self._period * after.clamp_min(0.0)
        braking = later.clamp_min(0.0).square() / (2.0 * counted_on)
        # Of a robot that is too near already: the way back that it makes in good time.
        comes_back = torch.maximum(after, later) <= 0.0
        way = torch.where(comes_back, _BACK * after, late + onward.clamp_min(0.0) + braking)
        return tried, (reached + way <= stop.at) | (power == 0.0)

    def _within_reach(self, actions: Tensor, problem: Problem) -> Tensor:
        """Return what the guard makes of actions (..., A) that follow those in force."""
        before = problem.previous_action
        return torch.clamp(actions, before - self._change, before + self._change)

    def _until_braking(
        self,
        speed: Tensor,
        acceleration: Tensor,
        excess: Tensor,
        outward: Tensor,
        counted_on: float,
    ) -> tuple[Tensor, Tensor]:
        """Return how far the robot goes until it brakes as counted on, and how fast it is then.

        All (N,). speed and acceleration are those under actions that lie `excess` (N, A) from full
        braking. What has no slew limit is there at once, the rest brakes ever more.
        """
        quick = self._change.isinf()
        at_once = excess[:, quick] @ outward[quick] / self._period
        jerk = float((outward[~quick].abs() * self._change[~quick]).sum()) / self._period**2
        if jerk == 0.0:
            return torch.zeros_like(speed), speed
        acceleration = acceleration - at_once
        time = (acceleration + counted_on).clamp_min(0.0) / jerk
        way = speed * time + acceleration * time**2 / 2.0 - jerk * time**3 / 6.0
        return way, speed + acceleration * time - jerk * time**2 / 2.0

    def _one_step(
        self, model: DynamicsModel, problem: Problem, action: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return mean and variance (D,) of the state after the action, and the gain (A, D).

        The gain is the change of each state dimension in a period by a unit of each action. The
        data behind a model tell it better than a young model does where it has seen nothing yet.
        """
        size = len(action)
        low, high = self._safe.repeat(size, 1), self._safe.repeat(size, 1)
        low.diagonal().copy_(self._lower)
        high.diagonal().copy_(self._upper)
        before = problem.previous_action.expand(1, -1)
        actions = torch.cat([torch.lerp(action[None], before, problem.delay_fraction), low, high])
        mean, variance = model.predict(problem.state.expand(len(actions), -1), actions)
        if model not in self._told:
            self.prepare(model)
        told = self._told[model]
        if told is not None:
            return mean[0], variance[0], told
        gain = (mean[1 + size :] - mean[1 : 1 + size]) / (self._upper - self._lower)[:, None]
        self._gain = gain if self._gain is None else torch.lerp(self._gain, gain, _NEW)
        return mean[0], variance[0], self._gain


def _stops(robot: RobotSpec, index: int) -> list[_Stop]:
    """Return the two ends of a state dimension, none if it has none that can be minded."""
    dimension, rate = robot.state[index], robot.rate_of(index)
    limits, safe = dimension.limits, dimension.safe_range
    ends = [bounds for bounds in (limits, safe) if bounds is not None]
    if rate is None or not ends:
        return []
    lower, upper = max(bounds[0] for bounds in ends), min(bounds[1] for bounds in ends)
    margin = _MARGIN * (upper - lower)
    return [
        _Stop(index, rate, side, side * end - margin, margin, end in (limits or ()))
        for side, end in ((1.0, upper), (-1.0, lower))
    ]


def _gain(model: DynamicsModel) -> Tensor | None:
    """Return what a unit of each action changes, (A, D), by a linear regression on its data.

    0 where that is not certain; None for a kind of model that does not tell its data.
    """
    data = model.remembered()
    if len(data) == 0:
        return None
    data, features = data[-_TELLING:], model.features
    size = features.action_dimensions
    inputs = features.inputs(data.states, data.actions).double()
    design = torch.cat([torch.ones(len(data), 1).double(), inputs], 1)
    changes = features.deltas(data.states, data.next_states).double()
    free = len(data) - design.shape[1]
    if free < (_ENOUGH - 1) * design.shape[1]:
        return torch.zeros(size, changes.shape[1])
    inverse = torch.linalg.pinv(design.T @ design, hermitian=True)
    found = inverse @ design.T @ changes
    left = (changes - design @ found).square().sum(0) / free
    error = (inverse.diagonal()[-size:, None] * left).sqrt()
    gain = found[-size:]
    return torch.where(gain.abs() > _CERTAIN * error, gain, 0.0).float()
