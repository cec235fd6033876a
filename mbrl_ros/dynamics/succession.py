# Copyright 2026 The mbrl_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Which of the models, or policies, received is in use at which tick."""

from __future__ import annotations

from collections import deque
from typing import Generic, Protocol, TypeVar


class Effective(Protocol):
    """What a snapshot says of when it counts, see SnapshotInfo."""

    @property
    def effective_from(self) -> int:
        """The tick from which on it may be used, in nanoseconds."""

    @property
    def next_effective_from(self) -> int:
        """The tick from which on its successor may."""


Info = TypeVar("Info", bound=Effective)
Item = TypeVar("Item")


class Succession(Generic[Info, Item]):
    """Swaps models, or policies, between two ticks.

    lockstep: use each from exactly the tick on that it names, and say so when one that should
    be in use has not come; otherwise use the newest.
    """

    def __init__(self, lockstep: bool) -> None:
        self._lockstep = lockstep
        self._received: deque[tuple[Info, Item]] = deque()
        self._next_effective_from = 0
        self.info: Info | None = None  # of the one in use
        self.item: Item | None = None  # in use

    @property
    def empty(self) -> bool:
        """Whether none has ever been received."""
        return self.item is None and not self._received

    def add(self, info: Info, item: Item) -> None:
        """Take one that was received."""
        self._received.append((info, item))
        self._next_effective_from = info.next_effective_from

    def at(self, stamp: int) -> Item | None:
        """Return the one to use at this tick (nanoseconds), or None if it has yet to come."""
        while self._received and (
            not self._lockstep or self._received[0][0].effective_from <= stamp
        ):
            self.info, self.item = self._received.popleft()
        overdue = self._lockstep and self._next_effective_from <= stamp
        return None if overdue else self.item
