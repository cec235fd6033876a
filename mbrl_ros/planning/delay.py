# Copyright 2026 The mbrl_ros authors
# SPDX-License-Identifier: Apache-2.0
"""How late commands take effect, and where the robot will be by then."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence

import torch
from torch import Tensor

from mbrl_ros.dynamics.model import DynamicsModel

# Each new delay counts this much in the running mean.
_GAIN = 0.1
# A delay beyond this many periods is a fault elsewhere, not something to plan around.
_MAX_PERIODS = 4.0


class DelayCompensation:
    """Follows the delay from a state's stamp to its command in force.

    period: seconds of one control step. safe_action (A,): in force before the first command.
    """

    def __init__(self, period: float, safe_action: Sequence[float]) -> None:
        self._period = period
        self._mean: float | None = None
        history = int(_MAX_PERIODS) + 1
        self._sent = deque([list(safe_action)] * history, maxlen=history)

    @property
    def delay(self) -> float:
        """Running mean of the delay, in seconds."""
        return self._mean or 0.0

    def sent(self, action: Sequence[float]) -> None:
        """Note the action (A,) of one tick."""
        self._sent.append(list(action))

    def applied(self, action: Sequence[float]) -> None:
        """Note what was really sent in place of the newest action (A,)."""
        self._sent[-1] = list(action)

    def observe(self, delay: float) -> None:
        """Note how long after its state a command took effect, in seconds."""
        delay = min(max(delay, 0.0), _MAX_PERIODS * self._period)
        self._mean = delay if self._mean is None else self._mean + _GAIN * (delay - self._mean)

    def start_of_plan(self, state: Tensor, model: DynamicsModel) -> tuple[Tensor, Tensor, float]:
        """Predict state (D,) over the whole periods of the delay.

        Returns the state (D,) where the plan starts, the action (A,) in force then, and the
        share of a period for which it stays in force.
        """
        periods = self.delay / self._period
        whole = math.floor(periods)
        sent = torch.tensor(list(self._sent), dtype=torch.float32)
        if whole:
            # The actions of the ticks before, oldest first, that are still to take effect.
            pending, before = sent[-whole:], sent[-whole - 1 : -1]
            in_force = torch.lerp(pending, before, periods - whole)
            state = model.rollout(state[None], in_force[:, None, :])[-1, 0]
        return state, sent[-1], periods - whole
