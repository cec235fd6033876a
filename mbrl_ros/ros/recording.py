# Copyright 2026 The mbrl_ros authors
# SPDX-License-Identifier: Apache-2.0
"""What learners hear of the robot: states, what was applied, and rewards, paired as they come."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from rclpy.node import Node
from sensor_msgs.msg import JointState

from mbrl_ros.dynamics.dataset import TransitionRecorder
from mbrl_ros.robots.spec import RobotSpec
from mbrl_ros.ros.conversions import PREDICTED, UNSTEERED, read_named_values, to_nanoseconds
from mbrl_ros.ros.qos import RECORDING


class Recording:
    """Feeds a recorder from the topics `state`, `applied_action` and the robot's reward.

    From the moment on when it is made.

    on_state: called with the stamp and the values (D,) of every usable state. on_message: called
    after that, and after every other usable message. `rejected` counts the others.
    """

    def __init__(
        self,
        node: Node,
        robot: RobotSpec,
        recorder: TransitionRecorder,
        on_state: Callable[[int, list[float]], None],
        on_message: Callable[[], None],
    ) -> None:
        self.rejected = 0
        self._node, self._robot, self._recorder = node, robot, recorder
        self._on_state_read, self._on_message = on_state, on_message
        self._actions = node.create_subscription(
            JointState, "applied_action", self._on_action, RECORDING
        )
        node.create_subscription(JointState, "state", self._on_state, RECORDING)
        if robot.reward is not None:
            node.create_subscription(JointState, robot.reward, self._on_reward, RECORDING)

    @property
    def connected(self) -> bool:
        """Whether what the guard applies is heard, so that no step can be lost."""
        return self._actions.get_publisher_count() > 0

    def _on_state(self, message: JointState) -> None:
        stamp = to_nanoseconds(message.header.stamp)
        state = self._read(message, "state", self._robot.state_names)
        if state is None:
            return
        if message.header.frame_id != PREDICTED:
            self._recorder.add_state(stamp, state)
        self._on_state_read(stamp, state)
        self._on_message()

    def _on_action(self, message: JointState) -> None:
        action = self._read(message, "action", self._robot.action_names)
        if action is not None:
            steered = message.header.frame_id != UNSTEERED
            self._recorder.add_action(to_nanoseconds(message.header.stamp), action, steered)
            self._on_message()

    def _on_reward(self, message: JointState) -> None:
        reward = self._read(message, "reward", ["reward"])
        if reward is not None:
            self._recorder.add_reward(to_nanoseconds(message.header.stamp), reward[0])
            self._on_message()

    def _read(self, message: JointState, what: str, names: Sequence[str]) -> list[float] | None:
        try:
            return read_named_values(message, names)
        except ValueError as error:
            self.rejected += 1
            self._node.get_logger().error(f"{what} dropped: {error}", throttle_duration_sec=1.0)
            return None
