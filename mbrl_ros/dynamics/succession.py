# Copyright 2026 The mbrl_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Which of the models received is in use at which tick."""

from __future__ import annotations

from collections import deque

from mbrl_ros.dynamics.model import DynamicsModel
from mbrl_ros.dynamics.snapshot import SnapshotInfo


class Succession:
    """Swaps models between two ticks.

    lockstep: use each model from exactly the tick on that it names, and say so when one that
    should be in use has not come; otherwise use the newest.
    """

    def __init__(self, lockstep: bool) -> None:
        self._lockstep = lockstep
        self._received: deque[tuple[SnapshotInfo, DynamicsModel]] = deque()
        self._next_effective_from = 0
        self.info: SnapshotInfo | None = None  # of the model in use
        self.model: DynamicsModel | None = None  # in use

    @property
    def empty(self) -> bool:
        """Whether no model has ever been received."""
        return self.model is None and not self._received

    def add(self, info: SnapshotInfo, model: DynamicsModel) -> None:
        """Take a model that was received."""
        self._received.append((info, model))
        self._next_effective_from = info.next_effective_from

    def at(self, stamp: int) -> DynamicsModel | None:
        """Return the model to use at this tick (nanoseconds), or None if it has yet to come."""
        while self._received and (
            not self._lockstep or self._received[0][0].effective_from <= stamp
        ):
            self.info, self.model = self._received.popleft()
        overdue = self._lockstep and self._next_effective_from <= stamp
        return None if overdue else self.model
