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
from mbrl_ros.robots.estimator import Estimate, SensorError, StateEstimator
from mbrl_ros.robots.spec import NANOSECONDS
from mbrl_ros.ros.conversions import MESSAGES, PREDICTED, named_values, read_sensor, sensor_stamp
from mbrl_ros.ros.diagnostics import OK, WARN, Diagnostics, Report
from mbrl_ros.ros.parameters import ROBOT, Parameter, declare
from mbrl_ros.ros.qos import SENSOR, STREAM
from mbrl_ros.ros.runtime import ManagedNode, run

PARAMETERS = (
    ROBOT,
    Parameter("lockstep", False, "Whether the simulation waits for each command."),
)

# A share of predicted states above which something is wrong with a sensor.
_MANY = 0.2


class StateEstimatorNode(ManagedNode):
    """Publishes `state` when the sensor messages of a tick are there, or are overdue."""

    def __init__(self) -> None:
        super().__init__("state_estimator")
        values = declare(self, PARAMETERS)
        self._robot = load_robot(values["robot"])
        self._lockstep = bool(values["lockstep"])
        self._simulated = bool(self.get_parameter("use_sim_time").value)
        self._estimator = StateEstimator(self._robot, self._lockstep)
        self._unstamped: set[str] = set()
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
        if not self._lockstep:
            # Its period is set anew each time: it wakes when a tick may be complete.
            self._waker = self.create_timer(self._robot.period, self._on_wake)
        self._diagnostics = Diagnostics(self, self._robot.name, self._report)

    def _on_message(self, topic: str, message: Any) -> None:
        now = self._now()
        stamp = sensor_stamp(message)
        if stamp is None or (stamp == 0 and not self._simulated):
            # A driver that leaves the stamp out; counts from its arrival.
            if stamp == 0 and topic not in self._unstamped:
                self._unstamped.add(topic)
                self.get_logger().warning(
                    f"messages on {topic} have no stamp: they count from when they arrive"
                )
            stamp = self.get_clock().now().nanoseconds
        try:
            values = read_sensor(message)
        except ValueError as error:
            self._estimator.rejected += 1
            self.get_logger().error(f"{topic}: {error}; dropped", throttle_duration_sec=1.0)
            return
        try:
            state = self._estimator.add(topic, stamp, values, self._steady_seconds(), now)
        except SensorError as error:
            self.get_logger().error(f"{error}; message dropped", throttle_duration_sec=1.0)
            return
        self._publish(state)

    def _on_wake(self) -> None:
        now = self._now()
        if now is None:
            return
        self._publish(self._estimator.advance(now))
        wake = self._estimator.next_wake(now)
        self._waker.timer_period_ns = max(wake - now, 1_000_000)
        self._waker.reset()

    def _publish(self, state: Estimate | None) -> None:
        for notice in self._estimator.take_notices():
            self.get_logger().warning(notice)
        if state is not None:
            message = named_values(state.stamp, self._robot.state_names, state.values)
            message.header.frame_id = "" if state.measured else PREDICTED
            self._publisher.publish(message)

    def _now(self) -> int | None:
        """Return what the clock reads, or None where that says nothing of the sensors."""
        # A simulated clock reads zero until its first message, and while the robot waits.
        return None if self._lockstep else self.get_clock().now().nanoseconds or None

    def _steady_seconds(self) -> float:
        return self._steady.now().nanoseconds / NANOSECONDS

    def _say_what_is_missing(self) -> None:
        for topic in self._estimator.missing(self._steady_seconds()):
            self.get_logger().warning(f"waiting for {topic}: {self._why_missing(topic)}")
        for topic, lag in self._estimator.behind().items():
            self.get_logger().warning(
                f"waiting for {topic}: its stamps are {lag:.2f} s behind this machine's clock; "
                "synchronise the two, or raise the sensor's timeout",
                throttle_duration_sec=10.0,
            )

    def _why_missing(self, topic: str) -> str:
        """Say what there is on a topic that no message comes from."""
        wanted = self._robot.sensors[topic].type
        name = self.resolve_topic_name(topic)
        found = {
            info.topic_type: f"{info.node_namespace.rstrip('/')}/{info.node_name}"
            for info in self.get_publishers_info_by_topic(name)
        }
        if wanted in found:
            silence = self._estimator.silence(topic, self._steady_seconds())
            since = "no usable message yet" if silence is None else f"silent for {silence:.1f} s"
            return f"{found[wanted]} publishes {name} ({wanted}), {since}"
        if found:
            others = ", ".join(f"{type_} by {node}" for type_, node in sorted(found.items()))
            return f"{name} is published as {others}, the robot's file says {wanted}"
        return f"nobody publishes {name} ({wanted})"

    def _report(self) -> Report:
        estimator = self._estimator
        missing = estimator.missing(self._steady_seconds())
        text, level = "estimating", WARN if estimator.rejected else OK
        if estimator.predicted > _MANY * max(estimator.states, 20):
            text, level = (
                "sensors come too late for align: interpolate, and too much is predicted",
                WARN,
            )
        if estimator.behind():
            text, level = f"stamps of {', '.join(estimator.behind())} are too old", WARN
        if missing:
            text, level = f"waiting for {', '.join(missing)}", WARN
        return (
            level,
            text,
            {
                "states": estimator.states,
                "predicted_states": estimator.predicted,
                "skipped_ticks": estimator.skipped,
                "rejected_messages": estimator.rejected,
                "late_messages": estimator.late,
                "duplicate_messages": estimator.duplicates,
                "clock_leaps": estimator.leaps,
                "last_state": [round(value, 4) for value in estimator.last_state]
                if estimator.last_state
                else math.nan,
            },
        )


def main() -> None:
    """Run the node."""
    sys.exit(run(StateEstimatorNode))


if __name__ == "__main__":
    main()
