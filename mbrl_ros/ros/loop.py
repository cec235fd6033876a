# Copyright 2026 The mbrl_ros authors
# SPDX-License-Identifier: Apache-2.0
"""The control loop as all controllers have it: a state comes, an action answers it."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from rclpy.node import Node
from sensor_msgs.msg import JointState

from mbrl_ros.robots.spec import RobotSpec
from mbrl_ros.ros.conversions import named_values, read_named_values, to_nanoseconds
from mbrl_ros.ros.peers import Peers
from mbrl_ros.ros.qos import LATEST


class ControlLoop:
    """Subscribes to `state` and publishes `action`, once the guard listens.

    answer: is called with the stamp (nanoseconds) and the state (D,) of a tick. It calls `send`
    or leaves the robot to the guard, and returns True; or False as long as something is missing
    that it needs: call `retry` when that has come. check: raises ValueError for a state (D,) that
    has no answer; one that is not finite has none.
    """

    def __init__(
        self,
        node: Node,
        robot: RobotSpec,
        answer: Callable[[int, list[float]], bool],
        check: Callable[[Sequence[float]], object] | None = None,
    ) -> None:
        self.ticks = 0  # answered
        self.answered = -1  # stamp of the last of them
        self.rejected = 0  # states
        self._node, self._robot = node, robot
        self._answer, self._check = answer, check
        self._waiting: tuple[int, list[float]] | None = None
        self._last_action = JointState()
        self._actions = node.create_publisher(JointState, "action", LATEST)
        self._peers = Peers(node, {"action": ["command_guard"]})
        node.create_subscription(JointState, "state", self._on_state, LATEST)

    @property
    def waiting(self) -> int | None:
        """Stamp of the tick that waits for its answer, if one does."""
        return None if self._waiting is None else self._waiting[0]

    def retry(self) -> None:
        """Try again to answer the tick that waits, if one does."""
        if (
            self._waiting is not None
            and not self._peers.missing()
            and self._answer(*self._waiting)
        ):
            self._waiting = None

    def send(self, stamp: int, action: Sequence[float]) -> int:
        """Publish the action (A,) of a tick; return how many ticks before it were left out."""
        self._last_action = named_values(stamp, self._robot.action_names, action)
        self._actions.publish(self._last_action)
        periods = (stamp - self.answered) // self._robot.period_nanoseconds
        skipped = max(periods - 1, 0) if self.ticks else 0
        self.ticks += 1
        self.answered = stamp
        return skipped

    def _on_state(self, message: JointState) -> None:
        stamp = to_nanoseconds(message.header.stamp)
        if stamp == self.answered:
            self._actions.publish(self._last_action)  # the guard may have come late
            return
        try:
            state = read_named_values(message, self._robot.state_names)
            if not all(math.isfinite(value) for value in state):
                raise ValueError(f"{state} holds a value that is not finite")
            if self._check is not None:
                self._check(state)
        except ValueError as error:
            self.rejected += 1
            self._node.get_logger().error(f"state dropped: {error}", throttle_duration_sec=1.0)
            return
        self._waiting = (stamp, state)
        self.retry()
