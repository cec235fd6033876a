# Copyright 2026 The mbrl_ros authors
# SPDX-License-Identifier: Apache-2.0
"""From streams of stamped states and actions to transitions."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence

import torch

from mbrl_ros.dynamics.model import Transitions
from mbrl_ros.robots.spec import RobotSpec

_WAITING = 1000  # states and actions that wait for their counterpart


class TransitionRecorder:
    """Pairs consecutive states with the action that was in force between them.

    Commands arrive late by part of a period, so the action of a step is the average, weighted
    by time, of what was in force. A step is complete once an action sent after its end has
    been seen, so that none of its own can still come. `steps` counts completed steps, of which
    `skipped` were not kept: a tick was missed, a value was not finite, or an end stop touched.
    """

    def __init__(self, robot: RobotSpec) -> None:
        self._robot = robot
        self._period = robot.period_nanoseconds
        # Bounded, because one stream may go on for ever without the other.
        self._states: deque[tuple[int, list[float]]] = deque(maxlen=_WAITING)
        self._actions: deque[tuple[int, list[float]]] = deque(maxlen=_WAITING)
        self._new: list[tuple[list[float], list[float], list[float]]] = []
        self.steps = 0
        self.skipped = 0
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

    def add_action(self, stamp: int, action: Sequence[float]) -> int:
        """Take an action (A,) and when it was sent; return how many steps this completes."""
        if self._actions and stamp < self._actions[-1][0]:
            self._restart()
        self._actions.append((stamp, list(action)))
        return self._complete()

    def take(self) -> Transitions:
        """Return the transitions since the last call, oldest first."""
        columns = zip(*self._new, strict=True) if self._new else ([], [], [])
        self._new = []
        dimensions = (len(self._robot.state), len(self._robot.command.dimensions))
        sizes = (dimensions[0], dimensions[1], dimensions[0])
        return Transitions(
            *(
                torch.tensor(column, dtype=torch.float64).reshape(-1, size)
                for column, size in zip(columns, sizes, strict=True)
            )
        )

    def _restart(self) -> None:
        """Forget half-finished steps after time has gone backwards; keep what is complete."""
        self._states.clear()
        self._actions.clear()

    def _complete(self) -> int:
        completed = 0
        while (
            len(self._states) >= 2 and self._actions and self._actions[-1][0] >= self._states[1][0]
        ):
            (begin, state), (end, following) = self._states[0], self._states[1]
            self._states.popleft()
            # Of the actions sent before this step only the one still in force matters.
            while len(self._actions) >= 2 and self._actions[1][0] <= begin:
                self._actions.popleft()
            self.last_stamp = end
            if self._actions[0][0] > begin:
                continue  # nothing was in force yet: the robot has not been moved
            self.steps += 1
            completed += 1
            action = self._in_force(begin, end)
            if self._usable(end - begin, state, action, following):
                self._new.append((state, action, following))
            else:
                self.skipped += 1
        return completed

    def _in_force(self, begin: int, end: int) -> list[float]:
        total = [0.0] * len(self._actions[0][1])
        for i, (sent, action) in enumerate(self._actions):
            until = self._actions[i + 1][0] if i + 1 < len(self._actions) else end
            share = (min(until, end) - max(sent, begin)) / (end - begin)
            if share > 0.0:
                total = [t + share * a for t, a in zip(total, action, strict=True)]
        return total

    def _usable(
        self, duration: int, state: list[float], action: list[float], following: list[float]
    ) -> bool:
        return (
            abs(duration - self._period) < self._period // 10
            and all(math.isfinite(value) for value in (*state, *action, *following))
            and self._robot.within_limits(state)
            and self._robot.within_limits(following)
        )
