# Copyright 2026 The mbrl_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Change the goal of the running graph again and again while the cart-pole balances.

python bench/goal_changes.py --changes 1000 --json goal_changes.json pace:=lockstep

Starts the whole stack, lets the cart-pole learn to stand, and then sets random goals through the
planner's parameter service, at random moments of the control period. What must hold: the plan that
follows the answer is made for the new goal; no tick goes without an action; no command changes
faster than the robot's slew limit (which its file gets for this); the pole stays up.

Which goal a plan was made for is told by the planner itself: `recorded`, mppi+ilqr that writes it
down, which the stack finds by its entry point as it finds the planners of any other package. In
real time a busy machine misses ticks whether the goal changes or not, so that the time before the
first change is judged too, to compare. Ends with status 1 if something does not hold.
"""

from __future__ import annotations

import json
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
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import rclpy
import yaml
from diagnostic_msgs.msg import DiagnosticArray
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.parameter import Parameter
from rclpy.parameter_client import AsyncParameterClient
from sensor_msgs.msg import JointState

from mbrl_ros.resources import config_directory
from mbrl_ros.robots import load_robot
from mbrl_ros.robots.spec import NANOSECONDS
from mbrl_ros.ros.conversions import to_nanoseconds
from mbrl_ros.ros.diagnostics import read_values
from mbrl_ros.ros.qos import RECORDING, STREAM

CLOCK_STEP = 0.01  # s of the simulated clock, by which the guard measures time
REACH = 0.8  # m, of the goals to either side
UP = 0.2  # rad from upright
STANDING = 3.0  # s upright before the first change
PATIENCE = 120.0  # s until it stands

RECORDER = """
import json, os, time
from mbrl_ros.planning.polished import PolishedMPPI

class Recorded(PolishedMPPI):
    kind = "recorded"

    def plan(self, problem, model, last):
        begin = time.monotonic()
        found = super().plan(problem, model, last)
        line = {"at": begin, "goal": problem.goal.tolist(), "warm": last is not None}
        with open(os.environ["RECORDED_PLANS"], "a") as file:
            file.write(json.dumps(line) + "\\n")
        return found
"""


@dataclass(frozen=True)
class Change:
    """A goal, and when it was asked for and answered, on the clock that all processes share."""

    asked: float
    answered: float
    goal: list[float]


class Watcher(Node):
    """Keeps what the graph says, spun in a thread of its own."""

    def __init__(self) -> None:
        super().__init__("goal_changes")
        self.states: list[tuple[int, list[float]]] = []
        self.commands: list[tuple[int, float]] = []
        self.answered: list[int] = []  # stamps of the states that actions answer
        self.planner: dict[str, str] = {}
        self.create_subscription(JointState, "state", self._on_state, RECORDING)
        self.create_subscription(JointState, "action", self._on_action, RECORDING)
        self.create_subscription(JointState, "applied_action", self._on_applied, RECORDING)
        self.create_subscription(DiagnosticArray, "/diagnostics", self._on_diagnostics, STREAM)
        self.client = AsyncParameterClient(self, "mpc_planner")
        self._executor = SingleThreadedExecutor()
        self._executor.add_node(self)
        self._thread = threading.Thread(target=self._executor.spin, daemon=True)
        self._thread.start()

    def _on_state(self, message: JointState) -> None:
        self.states.append((to_nanoseconds(message.header.stamp), list(message.position)))

    def _on_action(self, message: JointState) -> None:
        self.answered.append(to_nanoseconds(message.header.stamp))

    def _on_applied(self, message: JointState) -> None:
        self.commands.append((to_nanoseconds(message.header.stamp), message.position[0]))

    def _on_diagnostics(self, message: DiagnosticArray) -> None:
        self.planner.update(read_values(message, "mpc_planner"))

    def now(self) -> int:
        """Return the stamp of the last state."""
        return self.states[-1][0]

    def wait_ticks(self, count: int) -> None:
        """Wait until so many more states have had an action."""
        last, deadline = len(self.answered) + count, time.monotonic() + PATIENCE
        while len(self.answered) < last:
            if time.monotonic() > deadline:
                raise SystemExit("no actions come any more")
            time.sleep(0.002)

    def misses(self) -> int:
        """Return how many deadlines the planner says it has missed, once it has said so."""
        time.sleep(1.5)  # its diagnostics come once a second
        return int(self.planner["deadline_misses"])

    def close(self) -> None:
        """Stop listening."""
        self._executor.shutdown()
        self._thread.join(5.0)
        self.destroy_node()

    def set_goal(self, goal: list[float]) -> Change:
        """Set the goal and wait until the planner says that it has it."""
        asked, done = time.monotonic(), threading.Event()
        wished = Parameter("goal", Parameter.Type.DOUBLE_ARRAY, goal)
        future = self.client.set_parameters([wished])
        future.add_done_callback(lambda _: done.set())
        if not done.wait(10.0) or not future.result().results[0].successful:
            raise SystemExit(f"the planner did not take the goal {goal}")
        return Change(asked, time.monotonic(), goal)


def robot_with_slew(folder: Path, slew: float) -> Path:
    """Write the cart-pole's file with a slew limit in N/s."""
    text = (config_directory() / "robots" / "cartpole.yaml").read_text("utf-8")
    robot = yaml.safe_load(text)
    robot["command"]["dimensions"][0]["slew"] = slew
    path = folder / "cartpole_slew.yaml"
    path.write_text(yaml.safe_dump(robot), "utf-8")
    load_robot(str(path))
    return path


def environment(folder: Path) -> dict[str, str]:
    """Return one in which the stack finds the planner `recorded` in `folder`."""
    (folder / "goal_recorder.py").write_text(RECORDER, "utf-8")
    info = folder / "goal_recorder-0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: goal-recorder\nVersion: 0\n")
    points = "[mbrl_ros.planners]\nrecorded = goal_recorder:Recorded\n"
    (info / "entry_points.txt").write_text(points, "utf-8")
    paths = [str(folder), *filter(None, [os.environ.get("PYTHONPATH")])]
    return os.environ | {
        "PYTHONPATH": os.pathsep.join(paths),
        "RECORDED_PLANS": str(folder / "plans.jsonl"),
    }


def wait(condition: Callable[[], bool], what: str, stack: subprocess.Popen[bytes]) -> None:
    """Wait until something is true; end the program if it never is."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        if stack.poll() is not None or time.monotonic() > deadline:
            raise SystemExit(f"waited in vain for {what}")
        time.sleep(0.05)


def standing(watcher: Watcher) -> bool:
    """Whether the pole has been up for long enough."""
    if not watcher.states:
        return False
    now = watcher.states[-1][0]
    if now - watcher.states[0][0] < STANDING * NANOSECONDS:
        return False
    late = [s for stamp, s in watcher.states if now - stamp <= STANDING * NANOSECONDS]
    return all(abs(state[2]) < UP for state in late)


def change_goals(watcher: Watcher, count: int, generator: random.Random) -> list[Change]:
    """Set random goals at random moments of the control period."""
    changes = []
    for i in range(count):
        goal = [generator.uniform(-REACH, REACH), 0.0]
        changes.append(watcher.set_goal(goal))
        if (i + 1) % 100 == 0:
            print(f"{i + 1} changes", flush=True)
        watcher.wait_ticks(generator.randint(2, 8))
        time.sleep(generator.uniform(0.0, 0.05))
    return changes


def follow(plans: list[dict[str, Any]], changes: list[Change]) -> dict[str, int]:
    """Look at the first plan after each change, if one came before the next change."""
    wrong = checked = index = 0
    for number, change in enumerate(changes):
        following = changes[number + 1].asked if number + 1 < len(changes) else math.inf
        while index < len(plans) and plans[index]["at"] < change.answered:
            index += 1
        if index < len(plans) and plans[index]["at"] < following:
            checked += 1
            pairs = zip(plans[index]["goal"], change.goal, strict=True)
            wrong += any(abs(a - b) > 1e-5 for a, b in pairs)
    late = [plan for plan in plans if plan["at"] >= changes[0].asked]
    return {
        "changes": len(changes),
        "plans_checked": checked,
        "plans_for_another_goal": wrong,
        "cold_starts": sum(not plan["warm"] for plan in late),
    }


def judge(watcher: Watcher, begin: int, end: int, period: int, slew: float) -> dict[str, float]:
    """Sum up the ticks whose stamps lie within [begin, end)."""
    # A state that nobody answers is published again.
    states = {stamp: state for stamp, state in watcher.states if begin <= stamp < end}
    answered = set(watcher.answered)
    commands = [(stamp, u) for stamp, u in watcher.commands if begin <= stamp < end]
    over, largest = 0.0, 0.0
    for (early, before), (late, after) in pairwise(commands):
        change, seconds = abs(after - before), (late - early) / NANOSECONDS
        largest = max(largest, change)
        over = max(over, change - slew * (seconds + CLOCK_STEP))
    return {
        "ticks": len(states),
        "ticks_lost": (end - begin) // period - len(states),
        "ticks_without_action": sum(stamp not in answered for stamp in states),
        "largest_change_of_command": largest,
        "beyond_slew": over,
        "furthest_from_upright": max(abs(state[2]) for state in states.values()),
    }


def main() -> int:
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("--changes", type=int, default=1000)
    parser.add_argument("--slew", type=float, default=150.0, help="limit of the force, in N/s")
    parser.add_argument("--quiet", type=float, default=60.0, help="seconds before, to compare")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, help="file for the result")
    parser.add_argument("arguments", nargs="*", help="launch arguments")
    options = parser.parse_args()
    rclpy.init(args=[])  # launch arguments are for the stack
    watcher = Watcher()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        command = ["-m", "mbrl_ros.cli", "launch", "mpc.launch.py", "planner:=recorded"]
        robot = robot_with_slew(folder, options.slew)
        stack = subprocess.Popen(
            [
                *(sys.executable, *command, f"robot:={robot}", f"seed:={options.seed}"),
                *options.arguments,
            ],
            stdout=subprocess.DEVNULL,
            env=environment(folder),
        )
        try:
            wait(lambda: standing(watcher), "the pole to stand", stack)
            print("the pole stands", flush=True)
            marks, misses = [watcher.now()], [watcher.misses()]
            time.sleep(options.quiet)
            marks.append(watcher.now())
            misses.append(watcher.misses())
            changes = change_goals(watcher, options.changes, random.Random(options.seed))
            marks.append(watcher.now())
            misses.append(watcher.misses())
        finally:
            stack.send_signal(signal.SIGINT)
            stack.wait(30.0)
            watcher.close()
            rclpy.shutdown()
        lines = (folder / "plans.jsonl").read_text("utf-8").splitlines()
        plans = [json.loads(line) for line in lines]
        period = load_robot(str(robot)).period_nanoseconds
    result: dict[str, Any] = follow(plans, changes)
    for name, first in (("without_changes", 0), ("with_changes", 1)):
        result[name] = judge(watcher, marks[first], marks[first + 1], period, options.slew)
        result[name]["deadline_misses"] = misses[first + 1] - misses[first]
    print(json.dumps(result, indent=2))
    if options.json:
        options.json.write_text(json.dumps(result, indent=2) + "\n", "utf-8")
    changing = result["with_changes"]
    good = (
        result["plans_checked"] >= 0.99 * options.changes
        and result["plans_for_another_goal"] == 0
        and result["cold_starts"] == 0
        and changing["ticks_lost"] == 0
        and changing["ticks_without_action"] == 0
        and changing["deadline_misses"] == 0
        and changing["beyond_slew"] <= 0.0
        and changing["furthest_from_upright"] < math.pi / 2.0
    )
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
