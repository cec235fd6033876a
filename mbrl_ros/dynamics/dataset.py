# Copyright 2026 The mbrl_ros authors
# SPDX-License-Identifier: Apache-2.0
"""From streams of stamped states, actions and rewards to transitions, and on to trajectories."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from mbrl_ros.dynamics.delay import ActionHistory, Steps
from mbrl_ros.dynamics.model import Transitions
from mbrl_ros.robots.spec import RobotSpec

_WAITING = 1000  # states, actions and rewards that wait for their counterpart
# Periods after which the reward of a step is given up. Fewer than there are steps between two
# updates of the learner, for whom a simulation in lockstep waits.
_REWARD_PATIENCE = 3
# Steps, and the actions sent meanwhile, that can be paired again when the delay turns out to be
# another; the guard may send more than one a step.
_REMEMBERED = 1000
_REMEMBERED_ACTIONS = 4 * _REMEMBERED
# Share of the range between two end stops that counts as near to one.
_MARGIN = 0.01


@dataclass(frozen=True)
class _Step:
    """One step as it was observed; begin, end: stamps of the states, nanoseconds."""

    begin: int
    end: int
    state: list[float]
    following: list[float]
    reward: list[float]


class TransitionRecorder:
    """Pairs consecutive states with the action that was in force between them.

    Commands take effect late: by `delay` nanoseconds after they are sent, and that within a
    period. So the action of a step is the average, weighted by time, of what was in force; of a
    discrete robot it is what was in force last, because a choice counts as a whole. A
    step is complete once an action sent after its end has been seen, so that none of its own
    can still come, and, of a robot with a reward, once the reward of its end has been seen or
    can no longer be expected. `steps` counts completed steps, of which `skipped` were not kept:
    ticks were missed, as when an episode ends and the next begins, a value was not finite, an
    end stop touched, the reward missing (`unrewarded` of them), or something else than what a
    planner wished was in force (`unsteered` of them): a robot that stands at its safe command
    may be moved by hand, and tells nothing of how late its commands take effect.
    """

    def __init__(self, robot: RobotSpec) -> None:
        self._robot = robot
        self._period = robot.period_nanoseconds
        # Bounded, because one stream may go on for ever without the other.
        self._states: deque[tuple[int, list[float]]] = deque(maxlen=_WAITING)
        self._actions = ActionHistory(_REMEMBERED_ACTIONS)
        self._remembered: deque[_Step] = deque(maxlen=_REMEMBERED)
        self.delay = 0
        self._rewards: dict[int, float] = {}  # by stamp
        self._last_reward = -1  # stamp of the one that came last
        self._new: list[tuple[_Step, list[float]]] = []  # with the action in force
        self.steps = 0
        self.skipped = 0
        self.unrewarded = 0
        self.unsteered = 0
        self.last_stamp = 0  # end of the last completed step, nanoseconds

    @property
    def kept(self) -> int:
        """How many transitions there have been."""
        return self.steps - self.skipped

    def add_state(self, stamp: int, state: Sequence[float]) -> int:
        """Take the state (D,) of one tick; return how many steps this completes."""
        if self._states and stamp <= self._states[-1][0]:
            if stamp == self._states[-1][0]:
                return 0
            self._restart()
        self._states.append((stamp, list(state)))
        return self._complete()

    def add_action(self, stamp: int, action: Sequence[float], steered: bool = True) -> int:
        """Take an action (A,) and when it was sent; return how many steps this completes.

        steered: whether a planner wished it; False for what was sent in place of that.
        """
        if self._actions and stamp < self._actions.newest:
            self._restart()
        self._actions.add(stamp, action, steered)
        return self._complete()

    def add_reward(self, stamp: int, reward: float) -> int:
        """Take the reward of the step that ends at `stamp`; return how many steps this completes.

        Of no effect if the robot has no reward.
        """
        self._rewards[stamp] = reward
        self._last_reward = stamp
        if len(self._rewards) > _WAITING:
            del self._rewards[next(iter(self._rewards))]
        return self._complete()

    def take(self) -> Transitions:
        """Return the transitions since the last call, oldest first."""
        new, self._new = self._new, []
        return self._transitions(new)

    def take_again(self) -> Transitions:
        """Return the newest transitions, those taken already too, paired under `delay` anew."""
        self._new = []
        again = [
            (step, self._in_force(step.begin, step.end))
            for step in self._remembered
            if self._actions.covers(step.begin - self.delay)
            and self._actions.steered(step.begin - self.delay, step.end - self.delay)
        ]
        return self._transitions(again)

    def observed(self, count: int) -> tuple[Steps | None, ActionHistory]:
        """Return the newest steps, `count` at most, and when which actions were sent.

        Without steps that came near an end stop, where commands are of no effect.
        """
        rows = [
            (step.begin, step.end, step.state, step.following)
            for step in list(self._remembered)[-count:]
            if self._clear_of_stops(step.state) and self._clear_of_stops(step.following)
        ]
        return Steps.of(rows) if rows else None, self._actions

    def _clear_of_stops(self, state: Sequence[float]) -> bool:
        for value, dimension in zip(state, self._robot.state, strict=True):
            if dimension.limits is not None:
                lower, upper = dimension.limits
                margin = _MARGIN * (upper - lower)
                if not lower + margin < value < upper - margin:
                    return False
        return True

    def _transitions(self, rows: Sequence[tuple[_Step, list[float]]]) -> Transitions:
        robot = self._robot

        def tensor(values: Sequence[list[float]], size: int) -> Tensor:
            return torch.tensor(values, dtype=torch.float64).reshape(len(rows), size)

        return Transitions(
            tensor([step.state for step, _ in rows], len(robot.state)),
            tensor([action for _, action in rows], len(robot.command.dimensions)),
            tensor([step.following for step, _ in rows], len(robot.state)),
            tensor([step.reward for step, _ in rows], int(robot.reward is not None)),
            torch.tensor([step.end for step, _ in rows], dtype=torch.int64),
        )

    def _restart(self) -> None:
        """Forget half-finished steps after time has gone backwards; keep what is complete."""
        self._states.clear()
        self._actions.clear()
        self._remembered.clear()
        self._rewards.clear()
        self._last_reward = -1

    def _complete(self) -> int:
        completed = 0
        while len(self._states) >= 2 and self._actions:
            missed = self._missed_ticks()
            if missed:
                # Nothing is learned across them, so there is nothing to wait for.
                begin, _ = self._states.popleft()
                self.last_stamp = self._states[0][0]
                if self._actions.covers(begin - self.delay):
                    self.steps += missed
                    self.skipped += missed
                    completed += missed
                continue
            if not (
                self._actions.newest >= self._states[1][0]
                and self._reward_is_settled(self._states[1][0])
            ):
                break
            (begin, state), (end, following) = self._states[0], self._states[1]
            self._states.popleft()
            reward = self._take_reward(end)
            self.last_stamp = end
            if not self._actions.covers(begin - self.delay):
                continue  # nothing was in force yet: the robot has not been moved
            self.steps += 1
            completed += 1
            action = self._in_force(begin, end)
            steered = self._actions.steered(begin - self.delay, end - self.delay)
            if reward is None:
                self.unrewarded += 1
            if not steered:
                self.unsteered += 1
            if (
                steered
                and reward is not None
                and self._usable(end - begin, state, action, following, reward)
            ):
                step = _Step(begin, end, state, following, reward)
                self._remembered.append(step)
                self._new.append((step, action))
            else:
                self.skipped += 1
        return completed

    def _in_force(self, begin: int, end: int) -> list[float]:
        """Return the action (A,) of the step between these stamps."""
        if self._robot.discrete:
            begin = end - 1
        return self._actions.average(begin - self.delay, end - self.delay)

    def _missed_ticks(self) -> int:
        """Return how many periods, two or more, the oldest step lasted; 0: just one."""
        periods = (self._states[1][0] - self._states[0][0]) / self._period
        return round(periods) if periods > 1.5 else 0

    def _reward_is_settled(self, end: int) -> bool:
        """Whether the reward of the step that ends at `end` is here or no longer waited for."""
        if self._robot.reward is None or end in self._rewards:
            return True
        given_up = self._actions.newest >= end + _REWARD_PATIENCE * self._period
        return given_up or self._last_reward > end

    def _take_reward(self, end: int) -> list[float] | None:
        """Return the R rewards of the step that ends at `end`, or None if it is missing."""
        found = self._rewards.get(end)
        self._rewards = {stamp: r for stamp, r in self._rewards.items() if stamp > end}
        if self._robot.reward is None:
            return []
        return None if found is None else [found]

    def _usable(
        self,
        duration: int,
        state: list[float],
        action: list[float],
        following: list[float],
        reward: list[float],
    ) -> bool:
        return (
            abs(duration - self._period) < self._period // 10
            and all(math.isfinite(value) for value in (*state, *action, *following, *reward))
            and self._robot.within_limits(state)
            and self._robot.within_limits(following)
        )


@dataclass(frozen=True)
class Trajectory:
    """T consecutive steps of one run.

    stamps (T + 1,) of the states, nanoseconds, int64; states (T + 1, D), actions (T, A),
    rewards (T, R) that came with the state after; float64.
    """

    stamps: Tensor
    states: Tensor
    actions: Tensor
    rewards: Tensor

    def __len__(self) -> int:
        return len(self.actions)

    def transitions(self) -> Transitions:
        """Return the same steps one by one."""
        return Transitions(
            self.states[:-1], self.actions, self.states[1:], self.rewards, self.stamps[1:]
        )


def trajectories(run: Transitions, period: int) -> list[Trajectory]:
    """Put the transitions of one run together where one follows the other.

    Two are consecutive if their stamps are one period (nanoseconds; within a tenth of it)
    apart and one starts from the very state that the other ended in.
    """
    if len(run) == 0:
        return []
    late = (run.stamps.diff() - period).abs() >= period // 10
    elsewhere = (run.next_states[:-1] != run.states[1:]).any(-1)
    breaks = (torch.nonzero(late | elsewhere)[:, 0] + 1).tolist()
    return [
        Trajectory(
            torch.cat([run.stamps[begin : begin + 1] - period, run.stamps[begin:end]]),
            torch.cat([run.states[begin : begin + 1], run.next_states[begin:end]]),
            run.actions[begin:end],
            run.rewards[begin:end],
        )
        for begin, end in zip([0, *breaks], [*breaks, len(run)], strict=True)
    ]
