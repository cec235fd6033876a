# Copyright 2026 The mbrl_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Node `state_estimator`: sensor messages in, one state vector a control period out."""

from __future__ import annotations

import math
import sys
from typing import Any

from rclpy.clock import Clock, ClockType
from sensor_msgs.msg import JointState

from mbrl_ros.robots import load_robot
from mbrl_ros.robots.estimator import StateEstimator
from mbrl_ros.robots.spec import NANOSECONDS
from mbrl_ros.ros.conversions import MESSAGES, named_values, read_sensor, sensor_stamp
from mbrl_ros.ros.diagnostics import OK, WARN, Diagnostics, Report
from mbrl_ros.ros.parameters import ROBOT, declare
from mbrl_ros.ros.qos import SENSOR, STREAM
from mbrl_ros.ros.runtime import ManagedNode, run

PARAMETERS = (ROBOT,)


class StateEstimatorNode(ManagedNode):
    """Publishes `state` when the sensor messages of a tick are there."""

    def __init__(self) -> None:
        super().__init__("state_estimator")
        values = declare(self, PARAMETERS)
        self._robot = load_robot(values["robot"])
        self._estimator = StateEstimator(self._robot)
        self._publisher = self.create_publisher(JointState, "state", STREAM)
        for topic, sensor in self._robot.sensors.items():
            self.create_subscription(
                MESSAGES[sensor.type],
                topic,
                lambda message, topic=topic: self._on_message(topic, message),
                SENSOR,
            )
        self._steady = Clock(clock_type=ClockType.STEADY_TIME)
        self.create_timer(2.0, self._say_what_is_missing, clock=self._steady)
        self._diagnostics = Diagnostics(self, self._robot.name, self._report)

    def _on_message(self, topic: str, message: Any) -> None:
        stamp = sensor_stamp(message)
        if stamp is None:
            stamp = self.get_clock().now().nanoseconds
        try:
            state = self._estimator.add(topic, stamp, read_sensor(message), self._now())
        except ValueError as error:
            self.get_logger().error(f"{error}; message dropped", throttle_duration_sec=1.0)
            return
        if state is not None:
            tick, values = state
            self._publisher.publish(named_values(tick, self._robot.state_names, values))

    def _now(self) -> float:
        return self._steady.now().nanoseconds / NANOSECONDS

    def _say_what_is_missing(self) -> None:
        missing = self._estimator.missing(self._now())
        if missing:
            self.get_logger().warning(
                f"waiting for {', '.join(missing)}", throttle_duration_sec=5.0
            )

    def _report(self) -> Report:
        missing = self._estimator.missing(self._now())
        bad = missing or self._estimator.rejected
        return (
            WARN if bad else OK,
            f"waiting for {', '.join(missing)}" if missing else "estimating",
            {
                "states": self._estimator.states,
                "rejected_messages": self._estimator.rejected,
                "last_state": [round(value, 4) for value in self._estimator.last_state]
                if self._estimator.last_state
                else math.nan,
            },
        )


def main() -> None:
    """Run the node."""
    sys.exit(run(StateEstimatorNode))


if __name__ == "__main__":
    main()
