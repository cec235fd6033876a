# Copyright 2026 The mbrl_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Send random messages, good and bad, to the guard, and look at all that it sends to the robot.

python bench/fuzz_guard.py --messages 100000

First to its rules, with a simulated clock, where every limit can be checked exactly; then to the
real node over DDS. The checks use the numbers of the robot's file, what was sent and what came
out, and nothing of the guard's own code.
"""

from __future__ import annotations

import array
import bisect
import math
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from argparse import ArgumentParser
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from mbrl_ros.robots import load_robot
from mbrl_ros.robots.guard import CommandGuard, GuardStatus, RefusedError, Stamped
from mbrl_ros.robots.guarded import guarded

if TYPE_CHECKING:
    from sensor_msgs.msg import JointState

ROBOT = """
name: fuzzed
control_rate: 100.0
sensors: {joint_states: {type: sensor_msgs/msg/JointState}}
state:
  - {name: x, sensor: joint_states, joint: slider, field: position, unit: m, safe_range: [-1, 1]}
  - {name: v, sensor: joint_states, joint: slider, field: velocity, unit: m/s}
command:
  topic: fuzzed_commands
  type: sensor_msgs/msg/JointState
  dimensions:
    - {name: lift, joint: lift, field: effort, unit: N, bounds: [-2.0, 10.0], safe: 1.0,
       slew: 100.0}
    - {name: turn, joint: turn, field: effort, unit: N m, bounds: [-1.0, 1.0], safe: 0.0,
       slew: 20.0, jerk: 800.0}
    - {name: lamp, joint: lamp, field: effort, unit: V, bounds: [0.0, 5.0], safe: 0.0}
goal: [{dimension: x, bounds: [-1, 1], tolerance: 0.1}]
cost: {goal: {x: 1.0}}
success: {dimension: x, tolerance: 0.1, hold: 1.0}
"""
# The same, as the checks know it.
STATE_NAMES = ["x", "v"]
NAMES = ["lift", "turn", "lamp"]
LOW, HIGH, SAFE = (-2.0, -1.0, 0.0), (10.0, 1.0, 5.0), (1.0, 0.0, 0.0)
SLEW = (100.0, 20.0, math.inf)
JERK = (math.inf, 800.0, math.inf)
PERIOD = 0.01
TIMEOUT, STATE_TIMEOUT = 2.5 * PERIOD, 4.0 * PERIOD
AHEAD = 0.5
EPSILON = 1e-9

# What is sent, with its weight, and whether the guard may pass it on.
KINDS = {
    "good": (30, True),
    "huge": (5, True),
    "burst": (4, True),
    "slightly_ahead": (1, True),
    "not_finite": (12, False),
    "empty": (4, False),
    "wrong_size": (8, False),
    "wrong_names": (6, False),
    "duplicate_names": (6, False),
    "too_old": (8, False),
    "in_future": (6, False),
    "out_of_order": (6, False),
    "repeated": (4, False),
}
STATE_KINDS = {
    "good": 100,
    "not_finite": 5,
    "wrong_size": 4,
    "wrong_names": 4,
    "too_old": 5,
    "in_future": 4,
    "outside": 0.15,
}
BURST = 8


class Source:
    """Makes random messages: kind, stamp relative to the clock in seconds, names, values."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)

    def action(self) -> tuple[str, float, list[str], list[float]]:
        kinds = list(KINDS)
        kind = self._random.choices(kinds, [KINDS[k][0] for k in kinds])[0]
        names, values = list(NAMES), [self._random.uniform(-12.0, 12.0) for _ in NAMES]
        stamp = 0.0
        if kind == "huge":
            values = [self._random.choice([1e300, -1e300, 1e9, -1e12]) for _ in NAMES]
        elif kind == "slightly_ahead":
            stamp = self._random.uniform(0.0, 0.8 * PERIOD)
        elif kind == "not_finite":
            bad = self._random.choice([math.nan, math.inf, -math.inf])
            values[self._random.randrange(len(values))] = bad
        elif kind == "empty":
            names, values = self._random.choice([([], []), (names, []), ([], values)])
        elif kind == "wrong_size":
            extra = [self._random.uniform(-1e3, 1e3)] * self._random.choice([1, 2, 500])
            values, names = self._random.choice(
                [(values + extra, names), (values[:-1], names[1:])]
            )
            if self._random.random() < 0.5:
                names = [f"{i}" for i in range(len(values))]
        elif kind == "wrong_names":
            names[self._random.randrange(len(names))] = self._random.choice(["", "Lift", "é" * 99])
        elif kind == "duplicate_names":
            names[0] = names[2]
        elif kind == "too_old":
            stamp = -self._random.choice([STATE_TIMEOUT + 0.005, 0.1, 10.0, 1e5])
        elif kind == "in_future":
            stamp = self._random.choice([AHEAD + 0.05, 1.0, 3600.0])
        elif kind == "out_of_order":
            stamp = -self._random.uniform(0.1, 0.9) * PERIOD
        if self._random.random() < 0.3:
            order = self._random.sample(range(3), 3)
            if len(names) == len(values) == 3:
                names, values = [names[i] for i in order], [values[i] for i in order]
        return kind, stamp, names, values

    def state(self) -> tuple[str, float, list[str], list[float]]:
        kinds = list(STATE_KINDS)
        kind = self._random.choices(kinds, list(STATE_KINDS.values()))[0]
        names, values = list(STATE_NAMES), [self._random.uniform(-0.99, 0.99), 3.0]
        stamp = 0.0
        if kind == "not_finite":
            values[self._random.randrange(2)] = self._random.choice([math.nan, math.inf])
        elif kind == "wrong_size":
            values = values[:1]
        elif kind == "wrong_names":
            names[1] = "x"
        elif kind == "too_old":
            stamp = -self._random.choice([STATE_TIMEOUT + 0.005, 0.3, 1e4])
        elif kind == "in_future":
            stamp = self._random.choice([AHEAD + 0.05, 100.0])
        elif kind == "outside":
            values[0] = self._random.choice([1.01, -5.0, 1e300])
        return kind, stamp, names, values

    def pause(self) -> float:
        """Return seconds until the next message: mostly short, now and then a silence."""
        draw = self._random.random()
        if draw < 0.01:
            return self._random.uniform(2.0, 12.0) * PERIOD
        return 0.0 if draw < 0.2 else self._random.uniform(0.0, 0.3) * PERIOD

    def chance(self, probability: float) -> bool:
        return self._random.random() < probability


@dataclass
class Result:
    """What a run came to."""

    violations: list[str] = field(default_factory=list)
    outputs: int = 0
    good: int = 0
    sent: Counter[str] = field(default_factory=Counter)
    handled: dict[str, int] = field(default_factory=dict)  # as the node itself counts them
    lost: int = 0  # commands that came out and were not received here
    longest_gap: float = 0.0  # in control periods, without a command, away from the safe one


def within_bounds(values: list[float]) -> bool:
    return len(values) == len(NAMES) and all(
        low <= value <= high for low, value, high in zip(LOW, values, HIGH, strict=True)
    )


def away(before: list[float], values: list[float]) -> bool:
    """Whether any value is further from the safe one than before."""
    return any(
        abs(value - safe) > abs(old - safe) + EPSILON
        for old, value, safe in zip(before, values, SAFE, strict=True)
    )


# -- the rules, with a simulated clock ----------------------------------------------------------


def fuzz_rules(messages: int, seed: int) -> Result:
    """Send so many actions to `robots.guard`, and states in between."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "fuzzed.yaml"
        path.write_text(ROBOT, "utf-8")
        robot = guarded(load_robot(str(path)))
    guard = CommandGuard(robot, TIMEOUT, STATE_TIMEOUT, armed=True)
    source, result = Source(seed), Result()
    now, clock = 100.0, 1_700_000_000.0  # seconds; the robot's clock is another one, and jumps
    sent, rate, sent_at = list(SAFE), [0.0] * len(NAMES), now - PERIOD
    last_good, last_state = -math.inf, -math.inf
    last_stamp = 0
    stopped = False
    next_watch = now + PERIOD / 2.0

    def check(values: list[float], passed: bool) -> None:
        """Look at one output; passed: it answers an action."""
        nonlocal sent, sent_at
        result.outputs += 1
        wrong = []
        if not within_bounds(values):
            wrong.append("outside the bounds")
        seconds = min(now - sent_at, PERIOD)
        for i, value in enumerate(values):
            if abs(value - sent[i]) > SLEW[i] * seconds + EPSILON:
                wrong.append(f"{NAMES[i]} faster than its slew limit")
            if seconds > 0.0:
                new = (value - sent[i]) / seconds
                if passed and abs(new - rate[i]) > JERK[i] * seconds + 1e-6:
                    wrong.append(f"{NAMES[i]} faster than its jerk limit")
                rate[i] = new
            if not passed:
                rate[i] = 0.0  # on the way to the safe command jerk does not count
        late = now - last_good > TIMEOUT + EPSILON or now - last_state > STATE_TIMEOUT + EPSILON
        if (late or stopped) and away(sent, values):
            wrong.append("away from the safe command after a time-out or stop")
        result.violations += [f"{text} at {now:.4f}: {sent} -> {values}" for text in wrong]
        sent, sent_at = list(values), now

    def watch() -> None:
        command = guard.watch(now)
        if command is not None:
            check(command, passed=False)
        gap = (now - sent_at) / PERIOD
        if sent != list(SAFE):
            result.longest_gap = max(result.longest_gap, gap)
            if gap > 3.0 + 1e-6:
                result.violations.append(f"no command for {gap:.2f} periods at {now:.4f}")

    def wait(seconds: float) -> None:
        nonlocal now, clock, next_watch
        end = now + seconds
        while next_watch <= end:
            clock += next_watch - now
            now = next_watch
            watch()
            next_watch += PERIOD / 2.0
        clock += end - now
        now = end

    while result.sent.total() < messages:
        wait(source.pause())
        if source.chance(1e-4):
            clock += random.Random(result.outputs).choice([-30.0, 5.0, 0.002])
        if source.chance(2e-3):
            guard.stop()
            stopped = True
            watch()
        if stopped and source.chance(0.1) and guard.arm(now) is None:
            stopped = False
        if source.chance(0.5):
            kind, offset, names, values = source.state()
            stamp = round((clock + offset) * 1e9)
            try:
                guard.take_state(Stamped(stamp, names, values), round(clock * 1e9), now)
                if kind in ("good", "outside"):
                    last_state = now
                else:
                    result.violations.append(f"took a state that is {kind}")
            except RefusedError:
                pass
            if guard.status is GuardStatus.STOPPED:
                stopped = True
        kind, offset, names, values = source.action()
        for _ in range(BURST if kind == "burst" else 1):
            result.sent[kind] += 1
            stamp = round((clock + offset) * 1e9)
            if kind == "repeated":
                stamp = last_stamp
            if kind == "burst":
                wait(1e-6)
                stamp = round(clock * 1e9)
            try:
                command = guard.take_action(Stamped(stamp, names, values), round(clock * 1e9), now)
            except RefusedError:
                continue
            acceptable = KINDS[kind][1]
            if kind == "out_of_order" and stamp > last_stamp:
                acceptable = True  # nothing newer was taken meanwhile
            last_stamp = stamp
            if acceptable:
                result.good += 1
                last_good = now
            else:
                result.violations.append(f"took an action that is {kind}")
            check(command, passed=True)
    return result


# -- the node, over DDS -------------------------------------------------------------------------


class Output(NamedTuple):
    """A command: its number, when the guard decided on it and when it left, in seconds."""

    number: int
    decided: float
    left: float
    values: list[float]


class NodeFuzz:
    """Sends to a guard in a process of its own and keeps what it sends."""

    def __init__(self, folder: Path, seed: int) -> None:
        import rclpy
        from diagnostic_msgs.msg import DiagnosticStatus
        from rclpy.context import Context
        from rclpy.executors import SingleThreadedExecutor
        from rclpy.node import Node
        from rclpy.qos import QoSProfile
        from sensor_msgs.msg import JointState
        from std_srvs.srv import Trigger

        self._random, self._source = random.Random(seed), Source(seed)
        self._message, self._trigger = JointState, Trigger.Request
        self.outputs: list[Output] = []
        self.acceptable: list[float] = []  # when an action was sent that may pass
        self.result = Result()
        self._last_stamp = 0.0
        path = folder / "fuzzed.yaml"
        path.write_text(ROBOT, "utf-8")
        self._context = Context()
        rclpy.init(context=self._context)
        self._node = Node("fuzz", context=self._context)
        deep = QoSProfile(depth=1000)
        self._actions = self._node.create_publisher(JointState, "action", 10)
        self._states = self._node.create_publisher(JointState, "state", 10)
        self._node.create_subscription(JointState, "fuzzed_commands", self._on, deep)
        self._node.create_subscription(
            DiagnosticStatus, "command_guard/status", self._on_status, deep
        )
        self._arm = self._node.create_client(Trigger, "command_guard/arm")
        self._executor = SingleThreadedExecutor(context=self._context)
        self._executor.add_node(self._node)
        self._thread = threading.Thread(target=self._executor.spin, daemon=True)
        self._thread.start()
        self._log = (folder / "guard.log").open("w")
        command = [sys.executable, "-m", "mbrl_ros.nodes.command_guard", "--ros-args"]
        for parameter in (f"robot:={path}", "armed:=true"):
            command += ["-p", parameter]
        self._guard = subprocess.Popen(command, stdout=self._log, stderr=subprocess.STDOUT)

    def _on(self, message: JointState, info: dict[str, int]) -> None:
        stamp = message.header.stamp
        self.outputs.append(
            Output(
                info["publication_sequence_number"],
                stamp.sec + stamp.nanosec / 1e9,
                info["source_timestamp"] / 1e9,
                list(message.effort),
            )
        )

    def _on_status(self, status: object) -> None:
        counts = {item.key: item.value for item in status.values}  # type: ignore[attr-defined]
        self.result.handled = {
            key: int(count)
            for key, count in counts.items()
            if key == "accepted_actions" or key.startswith(("action_", "state_"))
        }

    def _send(
        self, publisher: object, stamp: float, names: list[str], values: list[float]
    ) -> None:
        message = self._message(name=names, position=array.array("d", values))
        nanoseconds = max(round(stamp * 1e9), 0)
        message.header.stamp.sec, message.header.stamp.nanosec = divmod(nanoseconds, 10**9)
        publisher.publish(message)  # type: ignore[attr-defined]

    def run(self, messages: int, rate: float) -> Result:
        """Send, at most so many a second, until the node has counted so many messages."""
        deadline = time.monotonic() + 60.0
        while not (
            self._actions.get_subscription_count() and self._states.get_subscription_count()
        ):
            if time.monotonic() > deadline or self._guard.poll() is not None:
                raise RuntimeError("the guard did not start; see its messages")
            time.sleep(0.05)
        begin, silence = time.monotonic(), 0.0
        while sum(self.result.handled.values()) < messages:
            if self._source.chance(2e-3):
                quiet = self._random.uniform(2.0, 12.0) * PERIOD
                silence += quiet
                time.sleep(quiet)
            ahead = self.result.sent.total() / rate - (time.monotonic() - begin - silence)
            if ahead > 1e-3:
                time.sleep(ahead)
            self._send_state()
            self._send_action()
            if self._guard.poll() is not None:
                raise RuntimeError("the guard has ended; see its messages")
            if self._source.chance(0.02) and self._arm.service_is_ready():
                self._arm.call_async(self._trigger())
        time.sleep(0.5)
        return self.result

    def _send_state(self) -> None:
        _, offset, names, values = self._source.state()
        if self._source.chance(0.5):
            self._send(self._states, time.time() + offset, names, values)

    def _send_action(self) -> None:
        kind, offset, names, values = self._source.action()
        for _ in range(BURST if kind == "burst" else 1):
            now = time.time()
            stamp = self._last_stamp if kind == "repeated" else now + offset
            # What comes late may yet be the newest that the guard gets, so it may pass.
            if KINDS[kind][1] or kind in ("out_of_order", "repeated"):
                self.acceptable.append(now)
                self._last_stamp = max(self._last_stamp, stamp)
            self._send(self._actions, stamp, names, values)
            self.result.sent[kind] += 1

    def close(self) -> None:
        self._guard.send_signal(signal.SIGINT)
        self._guard.wait(10.0)
        time.sleep(0.3)
        self._executor.shutdown()
        self._thread.join(5.0)
        self._node.destroy_node()
        self._context.try_shutdown()
        self._log.close()


def check_outputs(fuzz: NodeFuzz, tolerance: float | None) -> None:
    """Look at all that the node has sent.

    tolerance: seconds by which the stamp of an output may differ from the time in which the
    guard counts, and its leaving from the moment that it had to leave; None: leave out what would
    depend on it.
    """
    result, outputs = fuzz.result, fuzz.outputs
    result.outputs = len(outputs)
    for k, output in enumerate(outputs):
        if not within_bounds(output.values):
            result.violations.append(f"outside the bounds: {output.values}")
            continue
        at = output.decided
        before = outputs[k - 1] if k else Output(output.number - 1, at, output.left, list(SAFE))
        # A busy machine may lose some on the way here: only the latest counts on this topic.
        steps = output.number - before.number
        result.lost += steps - 1
        for i, value in enumerate(output.values):
            if abs(value - before.values[i]) > SLEW[i] * PERIOD * steps + EPSILON:
                result.violations.append(f"{NAMES[i]} jumps from {before.values[i]} to {value}")
        if steps == 1 and away(before.values, output.values):
            # It must answer an action, no older than an action may be.
            index = bisect.bisect_right(fuzz.acceptable, at) - 1
            age = at - fuzz.acceptable[index] if index >= 0 else math.inf
            if age > STATE_TIMEOUT + (tolerance or 1.0):
                result.violations.append(f"away from the safe command {age:.3f} s after an action")
        if tolerance is None:
            continue
        for old in outputs[max(0, k - 40) : k]:
            for i, value in enumerate(output.values):
                if abs(value - old.values[i]) > SLEW[i] * (at - old.decided + tolerance) + EPSILON:
                    result.violations.append(
                        f"{NAMES[i]} from {old.values[i]} to {value} within "
                        f"{at - old.decided:.4f} s"
                    )
        if steps == 1 and before.values != list(SAFE):
            gap = (output.left - before.left) / PERIOD
            result.longest_gap = max(result.longest_gap, gap)
            if gap > 2.5 + (0.5 * PERIOD + tolerance) / PERIOD:
                result.violations.append(f"no command for {gap:.2f} periods")


def fuzz_node(messages: int, seed: int, rate: float, tolerance: float | None) -> Result:
    """Send messages to a guard of its own, over DDS, until it has counted so many."""
    with tempfile.TemporaryDirectory() as folder:
        fuzz = NodeFuzz(Path(folder), seed)
        try:
            fuzz.run(messages, rate)
        finally:
            fuzz.close()
        check_outputs(fuzz, tolerance)
    if fuzz.outputs and fuzz.outputs[-1].values != list(SAFE):
        fuzz.result.violations.append("the last command is not the safe one")
    fuzz.result.good = len(fuzz.acceptable)
    return fuzz.result


def main() -> int:
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("--messages", type=int, default=100_000)
    parser.add_argument("--rate", type=float, default=1000.0, help="messages a second to the node")
    parser.add_argument("--tolerance", type=float, default=0.005, help="of times, in seconds")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    results = {
        "rules": fuzz_rules(options.messages, options.seed),
        "node": fuzz_node(options.messages, options.seed, options.rate, options.tolerance),
    }
    for name, result in results.items():
        kinds = ", ".join(f"{count} {kind}" for kind, count in result.sent.most_common() if count)
        print(
            f"{name}: {result.sent.total()} actions ({kinds}); {result.good} might pass; "
            f"{result.outputs} commands came out ({result.lost} more were missed), at most "
            f"{result.longest_gap:.2f} periods apart away from the safe one; "
            f"{len(result.violations)} violations"
        )
        if result.handled:
            print(f"  the node counted {sum(result.handled.values())}: {result.handled}")
        for violation in result.violations[:10]:
            print(f"  {violation}")
    print(f"load of the machine at the end: {os.getloadavg()[0]:.1f}")
    return 1 if any(result.violations for result in results.values()) else 0


if __name__ == "__main__":
    sys.exit(main())
