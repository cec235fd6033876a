# Copyright 2026 The mbrl_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Node `command_guard`: the last node before the robot. It imports no planner and no torch."""

from __future__ import annotations

import contextlib
import gc
import math
import os
import stat
import sys
import time
from pathlib import Path

from diagnostic_msgs.msg import DiagnosticStatus, KeyValue
from rclpy.clock import Clock, ClockType
from rclpy.duration import Duration
from rclpy.timer import Timer
from sensor_msgs.msg import JointState
from std_srvs.srv import Trigger

from mbrl_ros.robots.guard import CommandGuard, GuardStatus, RefusedError, Stamped
from mbrl_ros.robots.guarded import load_guarded
from mbrl_ros.ros.clocks import FineClock
from mbrl_ros.ros.conversions import (
    MESSAGES,
    UNSTEERED,
    command_message,
    named_values,
    to_nanoseconds,
)
from mbrl_ros.ros.diagnostics import ERROR, OK, WARN, Diagnostics, Report
from mbrl_ros.ros.parameters import ROBOT, Parameter, declare
from mbrl_ros.ros.peers import Peers
from mbrl_ros.ros.priority import raise_priority
from mbrl_ros.ros.qos import LATEST, STREAM
from mbrl_ros.ros.runtime import ManagedNode, run
from mbrl_ros.units import NANOSECONDS

PARAMETERS = (
    ROBOT,
    Parameter("armed", False, "Let actions through from the start, without ~/arm."),
    Parameter(
        "timeout_periods",
        2.5,
        "Control periods without an action until the command goes to the safe one.",
        1.0,
        100.0,
    ),
    Parameter(
        "state_timeout_periods",
        4.0,
        "Control periods since the stamp of the last state until the command goes to the safe "
        "one; also the greatest age of the state that an action answers.",
        1.0,
        100.0,
    ),
    Parameter("lockstep", False, "Whether the simulation waits for each command."),
    Parameter(
        "listeners",
        ["dynamics_learner", "mpc_planner"],
        "Nodes that must hear what is applied before the first command goes out, in lockstep.",
    ),
    Parameter(
        "priority",
        "auto",
        "auto: real-time priority, else a better niceness, as far as the system allows; none: as "
        "started.",
    ),
    Parameter(
        "safe_command_only",
        False,
        "Send the safe command until all have heard it and end: for when a guard has died.",
    ),
    Parameter(
        "commanded_file",
        "",
        "File that exists from the first command on until a clean end; a replacement does "
        "nothing without it. Empty: none.",
    ),
)

# How long the way to the safe command may take at the end where a slew limit is given, and the
# last command to be acknowledged, in seconds.
_LONGEST_RAMP = 1.0
_LAST_COMMAND_TIMEOUT = 1.0
# For how long a replacement repeats the safe command, in seconds: after it found one more that
# listens, and at least in all. DDS announces itself every 3 s, so that where a first word was
# lost the robot may be found later than somebody who only looks on.
_TAKE_OVER_SECONDS = 2.0
_DISCOVERY_SECONDS = 4.0

_LEVELS = {
    GuardStatus.DISARMED: WARN,
    GuardStatus.WAITING: OK,
    GuardStatus.ACTIVE: OK,
    GuardStatus.TIMEOUT: ERROR,
    GuardStatus.STALE_STATE: ERROR,
    GuardStatus.STOPPED: WARN,
}


class CommandGuardNode(ManagedNode):
    """Passes actions on under the rules of `robots.guard`, and reports what was sent."""

    def __init__(self) -> None:
        super().__init__("command_guard")
        _never_wait_for_readers()
        values = declare(self, PARAMETERS)
        if values["priority"] not in ("auto", "none"):
            raise ValueError(
                f"parameter 'priority' is '{values['priority']}', expected auto or none"
            )
        self._robot = robot = load_guarded(values["robot"])
        self._lockstep = bool(values["lockstep"])
        timeout = float(values["timeout_periods"]) * robot.period
        # A simulation that waits for its commands waits for its states too.
        state_timeout = float(values["state_timeout_periods"]) * robot.period
        self._guard = CommandGuard(
            robot, timeout, math.inf if self._lockstep else state_timeout, bool(values["armed"])
        )
        topic = self.resolve_topic_name(robot.command.topic)
        own = [self.resolve_topic_name(name) for name in ("state", "action", "applied_action")]
        if topic in own:
            raise ValueError(
                f"parameter 'robot': command.topic {topic} is a topic of this package's own, by "
                "which planners would pass the guard; expected the topic that the robot listens to"
            )
        self._commands = self.create_publisher(
            MESSAGES[robot.command.type], robot.command.topic, LATEST
        )
        self._applied = self.create_publisher(JointState, "applied_action", STREAM)
        # In lockstep every node must see every tick, the first one too.
        self._peers = Peers(
            self,
            {
                robot.command.topic: ["simulator"],
                "applied_action": list(values["listeners"]),
            }
            if self._lockstep
            else {},
        )
        self._fine_clock = FineClock(self, interpolate=not self._lockstep)
        self._commanded_file = Path(values["commanded_file"]) if values["commanded_file"] else None
        steady = Clock(clock_type=ClockType.STEADY_TIME)
        # In simulation time-outs are counted in robot time: nothing moves while that clock
        # stands. On hardware only the steady clock will do: it neither jumps nor stops.
        self._simulated = bool(self.get_parameter("use_sim_time").value)
        self._watch_clock = self.get_clock() if self._simulated else steady
        self._command: list[float] = []  # what was sent last
        if values["safe_command_only"]:
            self._take_over(steady)
            return
        if self._commanded_file is not None:
            self._commanded_file.unlink(missing_ok=True)
        self._known_status = self._guard.status
        self._known_faults = 0
        self.create_subscription(JointState, "state", self._on_state, LATEST)
        self.create_subscription(JointState, "action", self._on_action, LATEST)
        self.create_service(Trigger, "~/arm", self._on_arm)
        self.create_service(Trigger, "~/stop", self._on_stop)
        self._deadline: Timer | None = None
        if not self._lockstep:
            # The first goes off at the very moment of the time-out, the second walks on to the
            # safe command from there and watches the state. In lockstep every command moves the
            # simulation by a tick, so that one may only go out in answer to an action.
            self._deadline = self.create_timer(timeout, self._on_watch, clock=self._watch_clock)
            self.create_timer(robot.period / 2.0, self._on_watch, clock=self._watch_clock)
        self._status = self.create_publisher(DiagnosticStatus, "~/status", LATEST)
        self.create_timer(robot.period, self._publish_status, clock=steady)
        self.create_timer(2.0, self._look_for_rivals, clock=steady)
        self._diagnostics = Diagnostics(self, robot.name, self._report)
        if values["priority"] == "auto" and not self._lockstep:
            self.get_logger().info(raise_priority())
        # What is there now stays: the garbage collector need not look through it again and again.
        gc.collect()
        gc.freeze()
        self.get_logger().info(self._guard.text)

    def _on_state(self, message: JointState) -> None:
        try:
            self._guard.take_state(_stamped(message), self._now(), self._watch_time())
        except RefusedError as refusal:
            if refusal.reason != "repeated":
                self.get_logger().error(f"state refused: {refusal}", throttle_duration_sec=1.0)
        if self._guard.status is not self._known_status:
            self._stop()

    def _on_action(self, message: JointState) -> None:
        if self._peers.missing():
            return
        stamped = _stamped(message)
        stamp = self._fine_clock.now()
        if self._simulated:
            # The action may overtake the clock message of its own tick.
            stamp = max(stamp, stamped.stamp)
        try:
            command = self._guard.take_action(
                stamped, self._now(), self._watch_time(stamped.stamp)
            )
        except RefusedError as refusal:
            if refusal.reason == "not_ready":
                self.get_logger().info(f"action refused: {refusal}", throttle_duration_sec=10.0)
            elif refusal.reason != "repeated":
                self.get_logger().error(f"action refused: {refusal}", throttle_duration_sec=1.0)
            if self._lockstep and refusal.reason == "not_ready":
                self._on_watch()
            return
        if self._deadline is not None:
            self._deadline.reset()
        self._send(command, stamp)

    def _on_watch(self) -> None:
        stamp = self._fine_clock.now()
        command = self._guard.watch(self._watch_time())
        if command is not None:
            self._send(command, stamp)

    def _send(self, command: list[float], stamp: int) -> None:
        """Send a command with the time of its decision, in which the limits hold."""
        if not self._command and self._commanded_file is not None:
            self._commanded_file.touch()
        self._command = command
        self._publish(command, stamp)
        applied = named_values(stamp, self._robot.action_names, command)
        if self._guard.status is not GuardStatus.ACTIVE:
            applied.header.frame_id = UNSTEERED
        self._applied.publish(applied)
        self._note_status()

    def _publish(self, command: list[float], stamp: int) -> None:
        self._commands.publish(command_message(self._robot, stamp, command))

    def _note_status(self) -> None:
        """Say in the log when the guard begins or ceases to let actions pass."""
        status, before = self._guard.status, self._known_status
        self._known_status = status
        if status is before:
            return
        if status is not GuardStatus.ACTIVE:
            self.get_logger().error(self._guard.text)
        elif before is not GuardStatus.WAITING:
            self.get_logger().info("actions come again: passing them on")

    def _now(self) -> int:
        return int(self.get_clock().now().nanoseconds)

    def _watch_time(self, at_least: int = 0) -> float:
        """Return the time that time-outs and limits count in, in seconds."""
        now = self._watch_clock.now().nanoseconds
        if self._simulated:
            now = max(now, at_least)
        return float(now) / NANOSECONDS

    def _on_arm(self, _request: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        problem = self._guard.arm(self._watch_time())
        self._known_status = self._guard.status
        response.success = problem is None
        response.message = problem or self._guard.text
        if problem:
            self.get_logger().error(problem)
        else:
            self.get_logger().info(f"armed; {self._guard.text}")
        return response

    def _on_stop(self, _request: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        self._guard.stop()
        self._stop()
        response.success = True
        response.message = self._guard.text
        return response

    def _stop(self) -> None:
        """Go to the safe command from this moment on."""
        self._note_status()
        if not self._lockstep:
            self._on_watch()

    def _take_over(self, clock: Clock) -> None:
        """Send the safe command in place of a guard that has died, if that one ever sent any.

        Again and again: this node is new, and the robot may only now hear of it. At once: what
        the dead guard sent last is not known.
        """
        if self._commanded_file is not None and not self._commanded_file.exists():
            self.get_logger().info("the robot was never commanded: nothing to take back")
            self.finished.set()
            return
        self._command = self._guard.release()
        until = time.monotonic() + _DISCOVERY_SECONDS
        known = 0

        def repeat() -> None:
            nonlocal known, until
            self._publish(self._command, self._now())
            now, listeners = time.monotonic(), self._commands.get_subscription_count()
            if listeners > known:
                known, until = listeners, max(until, now + _TAKE_OVER_SECONDS)
            if now < until:
                return
            if known:
                self._commands.wait_for_all_acked(Duration(seconds=_LAST_COMMAND_TIMEOUT))
                self.get_logger().info(f"sent the safe command to {known} that listened; end")
            else:
                self.get_logger().error("nobody listened to the safe command")
            self.finished.set()

        self.create_timer(0.02, repeat, clock=clock)

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
        """Send the safe command and see it delivered, if any command was ever sent.

        Where the robot has slew limits they hold now too: a sudden stop is what they are there
        to prevent. But not for long, as whoever asked for the end may not wait. A simulation in
        lockstep gets it at once: every command would take it one tick further.
        """
        if not self._command:
            return
        safe = self._guard.release()
        if not self._lockstep:
            self._guard.stop()
            begin, now = time.monotonic(), self._watch_time()  # nobody spins: it may stand still
            while (elapsed := time.monotonic() - begin) < _LONGEST_RAMP:
                stamp = self._now()
                command = self._guard.watch(now + elapsed) or safe
                if command == safe:
                    break
                self._publish(command, stamp)
                time.sleep(self._robot.period / 2.0)
        self._publish(safe, self._now())
        self._commands.wait_for_all_acked(Duration(seconds=_LAST_COMMAND_TIMEOUT))
        if self._commanded_file is not None:
            self._commanded_file.unlink(missing_ok=True)
        self.get_logger().info("sent the safe command; end")

    def _publish_status(self) -> None:
        guard = self._guard
        values = {
            "code": guard.status.value,
            "status": guard.status.name,
            "accepted_actions": guard.accepted,
            "timeouts": guard.timeouts,
            "command": [round(value, 6) for value in self._command],
        } | self._refusals()
        self._status.publish(
            DiagnosticStatus(
                level=_LEVELS[guard.status],
                name=self.get_fully_qualified_name().lstrip("/"),
                message=guard.text,
                values=[KeyValue(key=key, value=str(value)) for key, value in values.items()],
            )
        )

    def _refusals(self) -> dict[str, int]:
        """Return how many messages were dropped for which reason, leaving out what never was."""
        inlets = {"action": self._guard.action, "state": self._guard.state}
        return {
            f"{what}_{reason}": count
            for what, inlet in inlets.items()
            for reason, count in inlet.refused.items()
            if count
        }

    def _report(self) -> Report:
        guard = self._guard
        faults = guard.action.faults + guard.state.faults
        level = max(_LEVELS[guard.status], WARN if faults > self._known_faults else OK)
        self._known_faults = faults
        return (
            level,
            guard.text,
            {
                "status": guard.status.name,
                "rejected_actions": guard.action.faults,
                "rejected_states": guard.state.faults,
                "timeouts": guard.timeouts,
            }
            | self._refusals(),
        )


def _never_wait_for_readers() -> None:
    """Let log lines be lost rather than wait for whoever reads them from a pipe.

    A terminal that was halted by Ctrl-S stops a launcher's output, and then all that write to it.
    """
    for descriptor in (1, 2):
        with contextlib.suppress(OSError):  # there may be none
            if stat.S_ISFIFO(os.fstat(descriptor).st_mode):
                os.set_blocking(descriptor, False)


def _stamped(message: JointState) -> Stamped:
    return Stamped(to_nanoseconds(message.header.stamp), message.name, message.position)


def main() -> None:
    """Run the node."""
    sys.exit(run(CommandGuardNode))


if __name__ == "__main__":
    main()
