# Copyright 2026 The mbrl_ros authors
# SPDX-License-Identifier: Apache-2.0
"""What an online learner remembers, and the minibatches it draws from that."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

_BLOCK = 32  # rows that are resampled among themselves for a bootstrap sample
_FIRST_ROOM = 1024


class Replay:
    """The newest `capacity` rows: it grows by doubling, then the oldest are overwritten.

    A row is a step of experience in columns of the given widths: where it began (of the first
    width), what was done, what came of it. For each of `members` there is a bootstrap sample
    of the rows (Efron 1979), drawn block by block of consecutive rows as they come; a single
    member sees the rows themselves.
    """

    def __init__(self, widths: Sequence[int], capacity: int, members: int) -> None:
        self._widths = tuple(widths)
        self._capacity = max(1, capacity // _BLOCK) * _BLOCK
        self._members = members
        self._rows = torch.zeros(0, sum(widths)).double()
        self._follows = torch.zeros(0, dtype=torch.bool)  # begins where the row before ended
        self._sample = torch.zeros(members, 0, dtype=torch.int32)
        self._size = 0
        self._head = 0  # where the next row goes
        self._end: Tensor | None = None  # where the newest row ended

    def __len__(self) -> int:
        return self._size

    def append(
        self, columns: Sequence[Tensor], ends: Tensor, generator: torch.Generator | None = None
    ) -> None:
        """Take rows, oldest first: columns (N, width) each, ends (N, first width)."""
        rows = torch.cat([column.double() for column in columns], -1)
        begins = columns[0]
        if len(rows) == 0:
            return
        follows = torch.zeros(len(rows), dtype=torch.bool)
        follows[1:] = (begins[1:] == ends[:-1]).all(-1)
        follows[0] = self._end is not None and torch.equal(begins[0], self._end)
        self._end = ends[-1].clone()
        rows, follows = rows[-self._capacity :], follows[-self._capacity :]
        self._make_room(min(self._capacity, self._size + len(rows)))
        slots = (self._head + torch.arange(len(rows))) % self._capacity
        self._rows[slots] = rows
        self._follows[slots] = follows
        size, self._size = self._size, min(self._capacity, self._size + len(rows))
        self._head = (self._head + len(rows)) % self._capacity
        if self._size == self._capacity:
            self._follows[self._head] = False  # the row before the oldest is gone
        self._resample(size, self._size, generator)

    def _make_room(self, size: int) -> None:
        room = len(self._rows)
        if size <= room:
            return
        more = min(self._capacity, max(2 * room, size, _FIRST_ROOM)) - room
        self._rows = torch.cat([self._rows, self._rows.new_zeros(more, self._rows.shape[1])])
        self._follows = torch.cat([self._follows, self._follows.new_zeros(more)])
        self._sample = torch.cat([self._sample, self._sample.new_zeros(self._members, more)], 1)

    def _resample(self, begin: int, end: int, generator: torch.Generator | None) -> None:
        """Let the members see the new rows; of complete blocks, a sample with replacement."""
        self._sample[:, begin:end] = torch.arange(begin, end, dtype=torch.int32)
        if self._members == 1:
            return
        first, last = begin // _BLOCK * _BLOCK, end // _BLOCK * _BLOCK
        starts = torch.arange(first, last, dtype=torch.int32) // _BLOCK * _BLOCK
        shape = (self._members, len(starts))
        within = torch.randint(_BLOCK, shape, generator=generator, dtype=torch.int32)
        self._sample[:, first:last] = starts + within

    def draw(
        self, count: int, recent: int, share: float, generator: torch.Generator | None
    ) -> Tensor:
        """Draw slots (members, count), each member's from its own bootstrap sample.

        A share of them from the newest `recent` rows, the others from all.
        """
        newest = round(share * count) if recent < self._size else 0
        shape = (self._members, newest)
        ages = torch.randint(min(recent, self._size), shape, generator=generator)
        shape = (self._members, count - newest)
        others = torch.randint(self._size, shape, generator=generator)
        places = torch.cat([(self._head - 1 - ages) % self._size, others], 1)
        return self._sample.gather(1, places).long()

    def newest(self, count: int) -> Tensor:
        """Return the slots of the newest rows (at most `count`), oldest first."""
        return (self._head - torch.arange(min(count, self._size), 0, -1)) % self._size

    def columns(self, slots: Tensor) -> Sequence[Tensor]:
        """Return the columns (..., width) of rows at slots (...)."""
        rows = self._rows.index_select(0, slots.reshape(-1))
        return rows.reshape(*slots.shape, rows.shape[1]).split(self._widths, -1)

    def after(self, slots: Tensor) -> tuple[Tensor, Tensor]:
        """Return the slots that come next, and whether their rows begin where these ended."""
        following = (slots + 1) % self._size
        return following, self._follows[following]
