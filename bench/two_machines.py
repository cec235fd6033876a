# Copyright 2026 The mbrl_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Split a stack over two machines, break the link between them, and mend it again.

python bench/two_machines.py --broken 25 --json two_machines.json

The machines are two network namespaces joined by a pair of virtual Ethernet interfaces, so it
needs root and the `ip` command. They talk through UDP alone: shared memory would not notice
that the link is broken. Exit status 1 if the robot's ticks were interrupted, or if no model
came after the link was mended; 77 where namespaces cannot be made.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from argparse import ArgumentParser
from collections.abc import Iterator
from pathlib import Path

import rclpy
from diagnostic_msgs.msg import DiagnosticArray
from rclpy.executors import ExternalShutdownException
from sensor_msgs.msg import JointState

from mbrl_ros.robots import load_robot
from mbrl_ros.ros.diagnostics import read_values
from mbrl_ros.ros.qos import RECORDING, STREAM

SKIPPED = 77
ROBOT, WORKSTATION = "mbrl-robot", "mbrl-work"
LINK = {ROBOT: ("mbrl-r0", "10.203.7.1/24"), WORKSTATION: ("mbrl-w0", "10.203.7.2/24")}
PATIENCE = 90.0  # seconds
ENVIRONMENT = {
    "FASTDDS_BUILTIN_TRANSPORTS": "UDPv4",
    "ROS_AUTOMATIC_DISCOVERY_RANGE": "SUBNET",
    "ROS_DOMAIN_ID": "1",  # of networks of their own
}
# A gap between two actions that is no accident of a busy machine, in periods.
INTERRUPTED = 10.0


def ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True, text=True)


@contextlib.contextmanager
def two_namespaces() -> Iterator[None]:
    """Make two machines and a link; raises RuntimeError, with the reason, where that fails."""
    if shutil.which("ip") is None:
        raise RuntimeError("there is no command `ip`")
    try:
        try:
            for name in LINK:
                ip("netns", "add", name)
            (robot, _), (workstation, _) = LINK.values()
            ip("link", "add", robot, "netns", ROBOT, "type", "veth",
               "peer", workstation, "netns", WORKSTATION)  # fmt: skip
            for name, (device, address) in LINK.items():
                ip("-n", name, "link", "set", "lo", "up")
                ip("-n", name, "address", "add", address, "dev", device)
                connect(name)
        except subprocess.CalledProcessError as error:
            raise RuntimeError(f"{' '.join(error.cmd)}: {error.stderr.strip()}") from None
        yield
    finally:
        for name in LINK:
            subprocess.run(["ip", "netns", "delete", name], check=False, capture_output=True)


def connect(name: str) -> None:
    device = LINK[name][0]
    ip("-n", name, "link", "set", device, "up")
    ip("-n", name, "route", "add", "224.0.0.0/4", "dev", device)  # discovery


def disconnect(name: str) -> None:
    ip("-n", name, "link", "set", LINK[name][0], "down")


class Machine:
    """Processes in one of the namespaces, whose output goes to files."""

    def __init__(self, name: str, folder: Path) -> None:
        self._name, self._folder = name, folder
        self._processes: list[subprocess.Popen[bytes]] = []

    def start(self, label: str, *command: str) -> Path:
        path = self._folder / f"{label}.txt"
        with path.open("w") as stream:
            process = subprocess.Popen(
                ["ip", "netns", "exec", self._name, sys.executable, *command],
                stdout=stream,
                stderr=subprocess.STDOUT,
                env=os.environ | ENVIRONMENT,
            )
        self._processes.append(process)
        return path

    def stop(self) -> None:
        for process in self._processes:
            process.send_signal(signal.SIGINT)
        for process in self._processes:
            process.wait(60.0)

    @property
    def running(self) -> bool:
        return all(process.poll() is None for process in self._processes)


def observe() -> None:
    """Print a line of JSON at every action and at every diagnosis of the planner."""
    rclpy.init()
    node = rclpy.create_node("observer")

    def on_action(_: JointState) -> None:
        print(json.dumps({"at": time.time(), "action": 1}), flush=True)

    def on_diagnostics(message: DiagnosticArray) -> None:
        values = read_values(message, "/mpc_planner")
        if values:
            known = ("model_age_s", "model_transitions", "ticks", "deadline_misses")
            line = {"at": time.time(), "text": message.status[0].message}
            print(json.dumps(line | {key: float(values[key]) for key in known}), flush=True)

    node.create_subscription(JointState, "applied_action", on_action, RECORDING)
    node.create_subscription(DiagnosticArray, "/diagnostics", on_diagnostics, STREAM)
    with contextlib.suppress(KeyboardInterrupt, ExternalShutdownException):
        rclpy.spin(node)


def read(path: Path) -> tuple[list[float], list[dict[str, float | str]]]:
    """Return when actions came, and the diagnoses of the planner."""
    lines = [json.loads(line) for line in path.read_text("utf-8").splitlines() if line[-1] == "}"]
    return [line["at"] for line in lines if "action" in line], [
        line for line in lines if "text" in line
    ]


def wait_for(path: Path, machines: list[Machine], since: float, least: int, young: float) -> float:
    """Wait for a diagnosis with so many transitions and so young a model; return the seconds."""
    while True:
        for line in read(path)[1]:
            age, count = line["model_age_s"], line["model_transitions"]
            if line["at"] > since and count >= least and age < young:
                return float(line["at"]) - since
        if time.time() - since > PATIENCE or not all(machine.running for machine in machines):
            raise TimeoutError(f"no model of {least} transitions came")
        time.sleep(0.2)


def phase(path: Path, begin: float, end: float) -> dict[str, object]:
    """Return what the robot did between two times."""
    actions, lines = read(path)
    inside = [at for at in actions if begin <= at < end]
    heard = [line for line in lines if begin <= line["at"] < end]
    last = heard[-1] if heard else {}
    gaps = [after - before for before, after in itertools.pairwise(inside)]
    return {
        "seconds": round(end - begin, 1),
        "actions": len(inside),
        "actions_per_s": round(len(inside) / (end - begin), 2),
        "longest_gap_ms": round(1e3 * max(gaps, default=end - begin), 1),
        "model_age_s": last.get("model_age_s"),
        "model_transitions": last.get("model_transitions"),
        "says": last.get("text"),
    }


def trial(
    folder: Path, before: float, broken: float, after: float, arguments: list[str]
) -> dict[str, object]:
    """Run a simulated robot and a workstation with the link up, down, and up again."""
    robot, workstation = Machine(ROBOT, folder), Machine(WORKSTATION, folder)
    machines = [robot, workstation]
    launch = ("-m", "mbrl_ros.cli", "launch", "mpc.launch.py", "seed:=1", *arguments)
    try:
        story = robot.start("observer", __file__, "--observe")
        robot.start("robot", *launch, "part:=robot")
        workstation.start("workstation", *launch, "part:=workstation")
        wait_for(story, machines, time.time(), 40, 5.0)
        begin = time.time()
        time.sleep(before)
        disconnect(WORKSTATION)
        down = time.time()
        time.sleep(broken)
        connect(WORKSTATION)
        up = time.time()
        known = max(float(line["model_transitions"]) for line in read(story)[1])
        back = wait_for(story, machines, up, int(known) + 1, 5.0)
        time.sleep(after)
        end = time.time()
    finally:
        robot.stop()
        workstation.stop()
    return {
        "up": phase(story, begin, down),
        "down": phase(story, down, up),
        "up_again": phase(story, up, end),
        "model_back_after_s": round(back, 1),
        "load_average": round(os.getloadavg()[0], 2),
    }


def main() -> int:
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("--before", type=float, default=5.0, help="seconds with the link up")
    parser.add_argument("--broken", type=float, default=25.0, help="seconds with the link down")
    parser.add_argument("--after", type=float, default=5.0, help="seconds with a model again")
    parser.add_argument("--json", type=Path, help="file for the result")
    parser.add_argument("arguments", nargs="*", help="launch arguments, such as planner:=icem")
    parser.add_argument("--observe", action="store_true", help="be the observer on the robot")
    options = parser.parse_args()
    if options.observe:
        observe()
        return 0
    with tempfile.TemporaryDirectory() as name, contextlib.ExitStack() as stack:
        folder = Path(name)
        try:
            stack.enter_context(two_namespaces())
        except RuntimeError as error:
            print(f"skipped: {error}")
            return SKIPPED
        try:
            result = trial(
                folder, options.before, options.broken, options.after, options.arguments
            )
        except TimeoutError as error:
            for path in folder.glob("*.txt"):
                print(f"--- {path.stem}\n{path.read_text('utf-8')[-2000:]}")
            print(error)
            return 1
    text = json.dumps(result, indent=2)
    print(text)
    if options.json is not None:
        options.json.write_text(text + "\n", encoding="utf-8")
    period = load_robot("cartpole").period
    gap = max(float(result[name]["longest_gap_ms"]) for name in ("up", "down", "up_again"))
    return int(gap > 1e3 * INTERRUPTED * period)


if __name__ == "__main__":
    sys.exit(main())
