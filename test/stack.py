# Copyright 2026 The mbrl_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Starts real processes and listens to them over real DDS."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import rclpy
import yaml
from diagnostic_msgs.msg import DiagnosticArray
from rclpy.context import Context
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.publisher import Publisher
from sensor_msgs.msg import JointState
from std_msgs.msg import Float64MultiArray
from typer.testing import CliRunner

from mbrl_ros.cli import app
from mbrl_ros.ros.conversions import to_nanoseconds
from mbrl_ros.ros.diagnostics import read_values
from mbrl_ros.ros.qos import LATEST, RECORDING, STREAM

PATIENCE = 120.0
# Seconds after which nodes that do not end tell what they are doing; sooner than the monitor of a
# run that does not go on gives it up.
_SUSPICIOUS = 100.0


def wait_for(condition: Callable[[], object], what: str, patience: float = PATIENCE) -> None:
    deadline = time.monotonic() + patience
    while not condition():
        assert time.monotonic() < deadline, f"waited {patience:g} s for {what}"
        time.sleep(0.02)


class Listener:
    """A node that keeps every command and state, spun in a thread of its own."""

    def __init__(self, domain: int | None = None, namespace: str = "") -> None:
        self.commands: list[list[float]] = []
        self.states: dict[int, list[float]] = {}
        self.last_command_at = 0.0
        self._context = Context()
        rclpy.init(context=self._context, domain_id=domain)
        self.node = Node("listener", context=self._context, namespace=namespace)
        self.node.create_subscription(
            Float64MultiArray, "effort_controller/commands", self._on_command, RECORDING
        )
        self.node.create_subscription(JointState, "state", self._on_state, RECORDING)
        self._executor = SingleThreadedExecutor(context=self._context)
        self._executor.add_node(self.node)
        self._thread = threading.Thread(target=self._executor.spin, daemon=True)

    def _on_command(self, message: Float64MultiArray) -> None:
        self.commands.append(list(message.data))
        self.last_command_at = time.monotonic()

    def _on_state(self, message: JointState) -> None:
        self.states[to_nanoseconds(message.header.stamp)] = list(message.position)

    def __enter__(self) -> Listener:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._executor.shutdown()
        self._thread.join(timeout=5.0)
        self.node.destroy_node()
        self._context.try_shutdown()


class Process:
    """A Python module as a process; its output goes to a file that `output` reads."""

    def __init__(
        self, folder: Path, module: str, arguments: Sequence[str] = (), domain: int | None = None
    ) -> None:
        self._log = folder / f"{module}-{time.monotonic_ns()}.log"
        environment = dict(os.environ)
        if domain is not None:
            environment["ROS_DOMAIN_ID"] = str(domain)
        with self._log.open("w") as stream:
            self._process = subprocess.Popen(
                [sys.executable, "-m", module, *arguments],
                stdout=stream,
                stderr=subprocess.STDOUT,
                env=environment,
                cwd=folder,
            )
        self.pid = self._process.pid

    @property
    def output(self) -> str:
        return self._log.read_text("utf-8")

    @property
    def running(self) -> bool:
        return self._process.poll() is None

    def nodes(self) -> dict[str, int]:
        """Return the process number of each node that this process has started."""
        found = {}
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                command = (folder / "cmdline").read_bytes().split(b"\0")
                parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            except (OSError, IndexError):
                continue
            for word in command:
                if parent == self.pid and word.startswith(b"mbrl_ros.nodes."):
                    found[word.decode().rpartition(".")[2]] = int(folder.name)
        return found

    def signal(self, number: int) -> None:
        self._process.send_signal(number)

    def wait(self, patience: float = PATIENCE) -> int:
        try:
            return self._process.wait(min(patience, _SUSPICIOUS))
        except subprocess.TimeoutExpired:
            for pid in self.nodes().values():
                os.kill(pid, signal.SIGUSR1)
            return self._process.wait(max(patience - _SUSPICIOUS, 0.0))

    def __enter__(self) -> Process:
        return self

    def __exit__(self, *_: object) -> None:
        if self.running:
            self.signal(signal.SIGINT)
            try:
                self.wait(20.0)
            except subprocess.TimeoutExpired:
                self.signal(signal.SIGKILL)
                self.wait(5.0)


def launch(folder: Path, *arguments: str, domain: int | None = None) -> Process:
    """Start `mbrl launch mpc.launch.py` with these arguments."""
    return Process(folder, "mbrl_ros.cli", ["launch", "mpc.launch.py", *arguments], domain)


# Parameters of a planner where it does not matter how well the robot moves.
QUICK = {"samples": 50, "horizon": 8}


def settings(folder: Path, **parameters: dict[str, object]) -> str:
    """Write parameters of nodes; return the launch argument for them."""
    path = folder / "settings.yaml"
    nodes = {f"/**/{name}": {"ros__parameters": values} for name, values in parameters.items()}
    path.write_text(yaml.safe_dump(nodes), "utf-8")
    return f"params_file:={path}"


def asked(*arguments: str) -> Any:
    """Give the `mbrl` command without a process of its own."""
    return CliRunner().invoke(app, list(arguments))


def node(folder: Path, name: str, *parameters: str) -> Process:
    """Start one node with these parameters."""
    words = ["--ros-args"]
    for parameter in parameters:
        words += ["-p", parameter]
    return Process(folder, f"mbrl_ros.nodes.{name}", words)


def matched(publisher: Publisher) -> None:
    """Wait until somebody hears what is published."""
    wait_for(lambda: publisher.get_subscription_count() > 0, "a subscriber")


class Diagnosis:
    """Keeps the last diagnostics of one node."""

    def __init__(self, listener: Listener, name: str) -> None:
        self.values: dict[str, str] = {}
        self.text = ""
        self._name = name
        listener.node.create_subscription(DiagnosticArray, "diagnostics", self._on, STREAM)

    def _on(self, message: DiagnosticArray) -> None:
        values = read_values(message, f"/{self._name}")
        if values:
            self.values, self.text = values, message.status[0].message


def alive(pid: int) -> bool:
    """Whether a process runs (a zombie does not)."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


__all__ = [
    "LATEST",
    "QUICK",
    "Diagnosis",
    "Listener",
    "Process",
    "alive",
    "asked",
    "launch",
    "matched",
    "node",
    "settings",
    "wait_for",
]
