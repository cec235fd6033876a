# Copyright 2026 The mbrl_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Stamps finer than a simulator's clock messages."""

from __future__ import annotations

import time

from rclpy.clock import JumpThreshold, TimeJump
from rclpy.duration import Duration
from rclpy.node import Node

from mbrl_ros.units import NANOSECONDS

# Never run ahead of the last clock message by more wall time than this, in seconds: the
# clock may have been stopped.
_MAX_AHEAD = 0.03


class FineClock:
    """The node's clock, carried on by wall time between two clock messages.

    A command that is stamped with the last clock message, 10 ms old at worst, would be paired
    with the wrong part of the period. interpolate: false where the clock stands still between
    its messages (lockstep). Without simulated time this is the node's clock.
    """

    def __init__(self, node: Node, interpolate: bool) -> None:
        self._source = node.get_clock()
        self._updated: float | None = None
        if interpolate and node.get_parameter("use_sim_time").value:
            self._handle = self._source.create_jump_callback(
                JumpThreshold(
                    min_forward=Duration(nanoseconds=1), min_backward=Duration(nanoseconds=-1)
                ),
                post_callback=self._on_update,
            )

    def now(self) -> int:
        """Return the present time in nanoseconds."""
        now = self._source.now().nanoseconds
        if self._updated is None:
            return now
        ahead = min(time.monotonic() - self._updated, _MAX_AHEAD)
        return now + int(ahead * NANOSECONDS)

    def _on_update(self, _jump: TimeJump) -> None:
        self._updated = time.monotonic()
