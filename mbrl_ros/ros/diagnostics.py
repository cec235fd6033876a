# Copyright 2026 The mbrl_ros authors
# SPDX-License-Identifier: Apache-2.0
"""One DiagnosticStatus a node, once a second."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from rclpy.clock import Clock, ClockType
from rclpy.node import Node

from mbrl_ros.ros.qos import STREAM

OK, WARN, ERROR = DiagnosticStatus.OK, DiagnosticStatus.WARN, DiagnosticStatus.ERROR

# Level, message and values of one moment.
Report = tuple[bytes, str, Mapping[str, object]]


class Diagnostics:
    """Publishes what `collect` returns every second of wall time, and whenever asked."""

    def __init__(self, node: Node, hardware_id: str, collect: Callable[[], Report]) -> None:
        self._node = node
        self._name = node.get_fully_qualified_name().lstrip("/")
        self._hardware_id = hardware_id
        self._collect = collect
        self._publisher = node.create_publisher(DiagnosticArray, "diagnostics", STREAM)
        # Wall time: diagnostics must come when the robot's clock stands still.
        self._clock = Clock(clock_type=ClockType.STEADY_TIME)
        node.create_timer(1.0, self.publish, clock=self._clock)

    def publish(self) -> None:
        """Publish the state of this moment."""
        level, text, values = self._collect()
        status = DiagnosticStatus(
            level=level,
            name=self._name,
            message=text,
            hardware_id=self._hardware_id,
            values=[KeyValue(key=key, value=_text(value)) for key, value in values.items()],
        )
        message = DiagnosticArray(status=[status])
        message.header.stamp = self._node.get_clock().now().to_msg()
        self._publisher.publish(message)


def _text(value: object) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def read_values(message: DiagnosticArray, full_name: str) -> dict[str, str]:
    """Return the values that the node of this full name published, empty if it did not."""
    for status in message.status:
        if status.name == full_name.lstrip("/"):
            return {item.key: item.value for item in status.values}
    return {}
