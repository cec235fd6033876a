# Copyright 2026 The mbrl_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Node `command_guard`: the last node before the robot. It imports no planner and no torch."""

from __future__ import annotations

import sys
import time
from pathlib import Path

from rclpy.clock import Clock, ClockType
from rclpy.duration import Duration
from sensor_msgs.msg import JointState
from std_srvs.srv import Trigger

from mbrl_ros.robots import load_robot
from mbrl_ros.robots.guard import CommandGuard, GuardStatus
from mbrl_ros.robots.spec import NANOSECONDS
from mbrl_ros.ros.clocks import FineClock
from mbrl_ros.ros.conversions import (
    MESSAGES,
    command_message,
    named_values,
    read_named_values,
    to_nanoseconds,
)
from mbrl_ros.ros.diagnostics import OK, WARN, Diagnostics, Report
from mbrl_ros.ros.parameters import ROBOT, Parameter, declare
from mbrl_ros.ros.peers import Peers
from mbrl_ros.ros.qos import LATEST, STREAM
from mbrl_ros.ros.runtime import ManagedNode, run

PARAMETERS = (
    ROBOT,
    Parameter("armed", False, "Let actions through from the start, without ~/arm."),
    Parameter(
        "timeout_periods",
        2.5,
        "Control periods without an action until the safe command is sent.",
        1.0,
        100.0,
    ),
    Parameter("lockstep", False, "Whether the simulation waits for each command."),
    Parameter(
        "safe_command_only",
        False,
        "Send the safe command for two seconds and end: for when a guard has died.",
    ),
    Parameter(
        "commanded_file",
        "",
        "File that exists from the first command on until a clean end; a replacement does "
        "nothing without it. Empty: none.",
    ),
)

# How long the last command may take to be acknowledged, in seconds.
_LAST_COMMAND_TIMEOUT = 1.0
# For how long the safe command is repeated in place of a guard that has died, and how long its
# replacement waits for somebody to listen, in seconds.
_TAKE_OVER_SECONDS = 2.0
_DISCOVERY_SECONDS = 4.0
# A stamp may be ahead of this machine's clock by so much, in seconds.
_AHEAD = 0.5
# A stamp this much older than the last one is a new time, not an old action, in nanoseconds.
_RESTART = NANOSECONDS


class CommandGuardNode(ManagedNode):
    """Passes actions on under the rules of `robots.guard`, and reports what was sent."""

    def __init__(self) -> None:
        super().__init__("command_guard")
        values = declare(self, PARAMETERS)
        robot = load_robot(values["robot"])
        self._robot = robot
        self._action_names = robot.action_names
        self._timeout = float(values["timeout_periods"]) * robot.period
        self._guard = CommandGuard(robot, self._timeout, bool(values["armed"]))
        self._commands = self.create_publisher(
            MESSAGES[robot.command.type], robot.command.topic, LATEST
        )
        self._applied = self.create_publisher(JointState, "applied_action", STREAM)
        # In lockstep every node must see every tick, the first one too.
        self._peers = Peers(
            self,
            {
                robot.command.topic: ["simulator"],
                "applied_action": ["dynamics_learner", "mpc_planner"],
            }
            if values["lockstep"]
            else {},
        )
        self._fine_clock = FineClock(self, interpolate=not values["lockstep"])
        self._last_stamp = -1
        self._ever_sent = False
        self._commanded_file = Path(values["commanded_file"]) if values["commanded_file"] else None
        if values["safe_command_only"]:
            self._take_over()
            return
        if self._commanded_file is not None:
            self._commanded_file.unlink(missing_ok=True)
        self.create_subscription(JointState, "action", self._on_action, LATEST)
        self.create_service(Trigger, "~/arm", self._on_arm)
        self.create_service(Trigger, "~/stop", self._on_stop)
        # In simulation time-outs are counted in robot time: nothing moves while that clock
        # stands. On hardware only the steady clock will do: it neither jumps nor stops.
        simulated = bool(self.get_parameter("use_sim_time").value)
        clock_type = ClockType.ROS_TIME if simulated else ClockType.STEADY_TIME
        self._watch_clock = self.get_clock() if simulated else Clock(clock_type=clock_type)
        self.create_timer(robot.period / 2.0, self._on_watch, clock=self._watch_clock)
        self.create_timer(
            2.0, self._look_for_rivals, clock=Clock(clock_type=ClockType.STEADY_TIME)
        )
        self._diagnostics = Diagnostics(self, robot.name, self._report)
        self.get_logger().info(self._guard.status.value)

    def _on_action(self, message: JointState) -> None:
        stamp = to_nanoseconds(message.header.stamp)
        if stamp <= self._last_stamp < stamp + _RESTART:
            return  # a repetition, or overtaken by a newer one
        if self._peers.missing():
            return
        age = (self.get_clock().now().nanoseconds - stamp) / NANOSECONDS
        if not -_AHEAD <= age <= self._timeout:
            self._guard.rejected += 1
            self._refuse(f"it answers a state of {age:.2f} s ago, by the clock of this machine")
            return
        try:
            action = read_named_values(message, self._action_names)
        except ValueError as error:
            self._guard.rejected += 1
            self._refuse(str(error))
            return
        before = self._guard.status
        command = self._guard.accept(action, self._watch_time(stamp))
        if isinstance(command, str):
            self._refuse(command)
            return
        if before is GuardStatus.TIMEOUT:
            self.get_logger().info("actions come again: passing them on")
        self._last_stamp = stamp
        self._send(command, stamp)

    def _on_watch(self) -> None:
        before = self._guard.status
        command = self._guard.watch(self._watch_time(0))
        if command is not None:
            if before is GuardStatus.ACTIVE:
                self.get_logger().error(self._guard.status.value)
            self._send(command, 0)

    def _send(self, command: list[float], answered: int) -> None:
        if not self._ever_sent and self._commanded_file is not None:
            self._commanded_file.touch()
        self._ever_sent = True
        # In lockstep the action may overtake the clock message of its own tick.
        stamp = max(self._fine_clock.now(), answered)
        self._commands.publish(command_message(self._robot, stamp, command))
        self._applied.publish(named_values(stamp, self._action_names, command))

    def _watch_time(self, at_least: int) -> float:
        if self._watch_clock.clock_type == ClockType.STEADY_TIME:
            return self._watch_clock.now().nanoseconds / NANOSECONDS
        return max(self._watch_clock.now().nanoseconds, at_least) / NANOSECONDS

    def _refuse(self, reason: str) -> None:
        self.get_logger().error(f"action refused: {reason}", throttle_duration_sec=1.0)

    def _on_arm(self, _request: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        self._guard.arm()
        response.success = True
        response.message = self._guard.status.value
        self.get_logger().info(f"armed; {self._guard.status.value}")
        return response

    def _on_stop(self, _request: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        self._guard.stop()
        command = self._guard.watch(self._watch_time(0))
        if command is not None:
            self._send(command, 0)
        response.success = True
        response.message = self._guard.status.value
        self.get_logger().warning(self._guard.status.value)
        return response

    def _take_over(self) -> None:
        """Send the safe command in place of a guard that has died, if that one ever sent any.

        Again and again: this node is new, and the robot may only now hear of it.
        """
        if self._commanded_file is not None and not self._commanded_file.exists():
            self.get_logger().info("the robot was never commanded: nothing to take back")
            self.finished.set()
            return
        self._ever_sent = True
        begin = time.monotonic()
        heard: float | None = None

        def repeat() -> None:
            nonlocal heard
            now = time.monotonic()
            if heard is None and self._commands.get_subscription_count() > 0:
                heard = now
            self._send_last()
            if now - (begin + _DISCOVERY_SECONDS if heard is None else heard) > _TAKE_OVER_SECONDS:
                if heard is None:
                    self.get_logger().error("nobody listened to the safe command")
                self.finished.set()

        self.create_timer(0.02, repeat, clock=Clock(clock_type=ClockType.STEADY_TIME))

    def _send_last(self) -> None:
        stamp = self.get_clock().now().nanoseconds
        self._commands.publish(command_message(self._robot, stamp, self._guard.release()))

    def _look_for_rivals(self) -> None:
        for topic in ("action", self._commands.topic_name):
            count = self.count_publishers(topic)
            if count > 1:
                self.get_logger().error(
                    f"{count} publishers on {topic}: another stack runs here, or one died less "
                    "than 20 s ago; use another ROS_DOMAIN_ID or namespace",
                    throttle_duration_sec=10.0,
                )

    def on_shutdown(self) -> None:
        """Send the safe command and see it delivered, if any command was ever sent."""
        if not self._ever_sent:
            return
        self._send_last()
        self._commands.wait_for_all_acked(Duration(seconds=_LAST_COMMAND_TIMEOUT))
        if self._commanded_file is not None:
            self._commanded_file.unlink(missing_ok=True)
        self.get_logger().info("sent the safe command; end")

    def _report(self) -> Report:
        status = self._guard.status
        quiet = status in (GuardStatus.ACTIVE, GuardStatus.WAITING)
        return (
            OK if quiet and not self._guard.rejected else WARN,
            status.value,
            {
                "status": status.name,
                "rejected_actions": self._guard.rejected,
                "timeouts": self._guard.timeouts,
            },
        )


def main() -> None:
    """Run the node."""
    sys.exit(run(CommandGuardNode))


if __name__ == "__main__":
    main()
