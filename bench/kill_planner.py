# Copyright 2026 The mbrl_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Kill the planner, again and again, and measure how soon the guard takes the robot to safety.

python bench/kill_planner.py --kills 200

A stand-in for the planner sends, once a control period, an action that answers the newest state;
the real guard passes it on. SIGKILL hits the stand-in at a random moment. The first command that
is nearer to the safe one than the last is the reaction; its time is the one that the guard's
middleware puts on it. It is measured from the kill, and from the moment at which the last action
was sent: the guard's time-out of 2.5 periods begins when it arrives.
"""

from __future__ import annotations

import array
import contextlib
import multiprocessing
import os
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from argparse import ArgumentParser
from pathlib import Path

import rclpy
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.node import Node
from rclpy.qos import QoSProfile, QoSReliabilityPolicy
from sensor_msgs.msg import JointState
from std_msgs.msg import Float64MultiArray

ROBOT = """
name: killed
control_rate: {rate}
sensors: {{joint_states: {{type: sensor_msgs/msg/JointState}}}}
state: [{{name: x, sensor: joint_states, joint: slider, field: position, unit: m}}]
command:
  topic: killed_commands
  type: std_msgs/msg/Float64MultiArray
  dimensions: [{{name: force, unit: N, bounds: [-10.0, 10.0], safe: 0.0, slew: 40.0}}]
goal: [{{dimension: x, bounds: [-1, 1], tolerance: 0.1}}]
cost: {{goal: {{x: 1.0}}}}
success: {{dimension: x, tolerance: 0.1, hold: 1.0}}
"""
FORCE = 8.0
_READY = 4  # planners that wait for their turn
LATEST = QoSProfile(depth=1, reliability=QoSReliabilityPolicy.RELIABLE)
STREAM = QoSProfile(depth=1000, reliability=QoSReliabilityPolicy.RELIABLE)


def plan_until_killed(number: int) -> None:
    """Answer at once every state that asks for this planner."""
    rclpy.init()
    node = Node(f"planner_{number}")
    actions = node.create_publisher(JointState, "action", LATEST)

    def answer(state: JointState) -> None:
        if state.header.frame_id != str(number):
            return
        action = JointState(name=["force"], position=array.array("d", [FORCE]))
        action.header = state.header
        actions.publish(action)

    node.create_subscription(JointState, "state", answer, LATEST)
    rclpy.spin(node)


class Witness:
    """Publishes states, and notes when each action and command was sent."""

    def __init__(self, period: float) -> None:
        rclpy.init()
        self._node = Node("witness")
        self.actions: list[float] = []
        self.commands: list[tuple[float, float]] = []
        self.planner = 0  # number of the one that is to answer
        self._states = self._node.create_publisher(JointState, "state", STREAM)
        self._node.create_subscription(Float64MultiArray, "killed_commands", self._on, STREAM)
        self._node.create_subscription(JointState, "action", self._on_action, STREAM)
        self._node.create_timer(period, self._publish)
        self._executor = SingleThreadedExecutor()
        self._executor.add_node(self._node)
        self._thread = threading.Thread(target=self._spin, daemon=True)
        self._thread.start()

    def _spin(self) -> None:
        with contextlib.suppress(ExternalShutdownException):
            self._executor.spin()

    def _publish(self) -> None:
        state = JointState(name=["x"], position=array.array("d", [0.0]))
        state.header.stamp = self._node.get_clock().now().to_msg()
        state.header.frame_id = str(self.planner)
        self._states.publish(state)

    def _on(self, message: Float64MultiArray, info: dict[str, int]) -> None:
        self.commands.append((info["source_timestamp"] / 1e9, message.data[0]))

    def _on_action(self, _message: JointState, info: dict[str, int]) -> None:
        self.actions.append(info["source_timestamp"] / 1e9)

    def close(self) -> None:
        rclpy.try_shutdown()
        self._thread.join(5.0)


def wait_for(condition: object, what: str, patience: float = 120.0) -> None:
    deadline = time.monotonic() + patience
    while not condition():  # type: ignore[operator]
        if time.monotonic() > deadline:
            raise RuntimeError(f"waited {patience:g} s for {what}")
        time.sleep(0.005)


def _life(planner: multiprocessing.process.BaseProcess) -> str:
    return "runs" if planner.is_alive() else f"ended with exit status {planner.exitcode}"


def measure(
    kills: int, rate: float, seed: int, guard_log: Path
) -> tuple[list[float], list[float]]:
    """Return reactions in control periods: since the last action, and since the kill."""
    period, generator = 1.0 / rate, random.Random(seed)
    # Planners are forked from a process that has imported everything and has no threads.
    processes = multiprocessing.get_context("forkserver")
    processes.set_forkserver_preload([__name__ if __name__ != "__main__" else "kill_planner"])
    robot = guard_log.with_name("killed.yaml")
    robot.write_text(ROBOT.format(rate=rate), "utf-8")
    witness = Witness(period)
    command = [sys.executable, "-m", "mbrl_ros.nodes.command_guard", "--ros-args"]
    for parameter in (f"robot:={robot}", "armed:=true"):
        command += ["-p", parameter]
    since_action, since_kill = [], []
    with guard_log.open("w") as stream:
        guard = subprocess.Popen(command, stdout=stream, stderr=subprocess.STDOUT)
        try:
            planners = []
            for number in range(kills):
                while len(planners) < min(number + _READY, kills):  # discovery takes its time
                    planners.append(
                        processes.Process(
                            target=plan_until_killed, args=(len(planners),), daemon=True
                        )
                    )
                    planners[-1].start()
                planner, witness.planner = planners[number], number
                heard = len(witness.actions)
                try:
                    wait_for(
                        lambda: witness.commands and witness.commands[-1][1] == FORCE, "full force"
                    )
                except RuntimeError as error:
                    raise RuntimeError(
                        f"{error} from planner {number}, which {_life(planner)}; "
                        f"{len(witness.actions) - heard} of its actions were heard; the guard's "
                        f"last words:\n{guard_log.read_text('utf-8')[-800:]}"
                    ) from None
                time.sleep(generator.uniform(1.0, 4.0) * period)
                assert planner.pid is not None
                os.kill(planner.pid, signal.SIGKILL)
                killed = time.time()
                planner.join()
                wait_for(lambda: witness.commands[-1][1] == 0.0, "the safe command")
                # The last moment at which the command was still at full force, and the next one.
                last = max(k for k, (_, value) in enumerate(witness.commands) if value == FORCE)
                reacted = witness.commands[last + 1][0]
                since_action.append((reacted - witness.actions[-1]) / period)
                since_kill.append((reacted - killed) / period)
        finally:
            guard.send_signal(signal.SIGINT)
            guard.wait(10.0)
            witness.close()
    return since_action, since_kill


def percentile_99(values: list[float]) -> float:
    return sorted(values)[min(len(values) - 1, round(0.99 * len(values)))]


def line(name: str, values: list[float]) -> str:
    return (
        f"since {name}: median {statistics.median(values):.2f}, p99 {percentile_99(values):.2f}, "
        f"longest {max(values):.2f} control periods"
    )


def main() -> int:
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--rate", type=float, default=20.0, help="control periods a second")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    before = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "guard.log"
        since_action, since_kill = measure(options.kills, options.rate, options.seed, log)
        priority = next(
            (text for text in log.read_text("utf-8").splitlines() if "priority" in text), ""
        )
    print(f"{options.kills} kills at {options.rate:g} Hz; {priority.rpartition(']: ')[2]}")
    print(line("the last action", since_action))
    print(line("the kill", since_kill))
    print(f"load of the machine before and after: {before:.1f}, {os.getloadavg()[0]:.1f}")
    return 0 if percentile_99(since_kill) <= 3.0 else 1


if __name__ == "__main__":
    sys.exit(main())
