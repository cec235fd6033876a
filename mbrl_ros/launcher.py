# Copyright 2026 The mbrl_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Starts the processes of `bringup` where the ROS 2 launch system is not installed."""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from types import FrameType
from typing import IO

from mbrl_ros.bringup import NodeProcess, environment, processes
from mbrl_ros.process import PARENT_VARIABLE
from mbrl_ros.resources import share_directory

# Seconds that a process gets to end after SIGTERM, and after SIGKILL.
_GRACE = 8.0
_KILL_GRACE = 2.0
# What takes the place of a dead guard looks for those that listen; then it has been heard.
_REPLACEMENT_GRACE = 15.0
# The monitor may still have a picture to draw.
_MONITOR_GRACE = 30.0
_POLL = 0.05


def launch_files() -> list[str]:
    """Return the names of the launch files that ship with the package."""
    return sorted(path.name for path in (share_directory() / "launch").glob("*.launch.py"))


def launch(launch_file: str, arguments: Mapping[str, str]) -> int:
    """Run a launch file until it ends; return the exit status.

    It goes through launch_ros where that is importable, otherwise through `Supervisor`.
    Raises bringup.ArgumentError before anything is started.
    """
    graph = processes(arguments)
    os.environ.update(environment(arguments))
    if importlib.util.find_spec("launch_ros") is not None:
        return _ros_launch(share_directory() / "launch" / launch_file, arguments)
    return Supervisor(graph).run()


def _ros_launch(path: Path, arguments: Mapping[str, str]) -> int:
    from launch import LaunchContext, LaunchDescription, LaunchService
    from launch.actions import IncludeLaunchDescription, RegisterEventHandler
    from launch.event_handlers import OnProcessExit
    from launch.events.process import ProcessExited
    from launch.launch_description_sources import PythonLaunchDescriptionSource

    failed = False

    def note_failure(event: ProcessExited, context: LaunchContext) -> None:
        nonlocal failed
        failed |= event.returncode != 0 and not context.is_shutdown

    service = LaunchService()
    include = IncludeLaunchDescription(
        PythonLaunchDescriptionSource(str(path)), launch_arguments=list(arguments.items())
    )
    watch = RegisterEventHandler(OnProcessExit(on_exit=note_failure))
    service.include_launch_description(LaunchDescription([watch, include]))
    return int(service.run()) or int(failed)


class Supervisor:
    """Runs one process a node; all are required: when one ends, the run ends.

    graph: in the order in which the processes must end.
    """

    def __init__(self, graph: list[NodeProcess]) -> None:
        self._graph = graph
        self._children: dict[str, subprocess.Popen[str]] = {}
        self._readers: list[threading.Thread] = []
        self._signals = 0
        self._width = max(len(node.executable) for node in graph)
        self._print_lock = threading.Lock()

    def run(self) -> int:
        """Start all, wait, stop all. Returns 0 after a normal end or Ctrl-C, otherwise 1."""
        previous = {
            number: signal.signal(number, self._on_signal)
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
        }
        try:
            with tempfile.TemporaryDirectory(prefix="mbrl-") as folder:
                try:
                    for node in self._graph:
                        self._children[node.executable] = self._start(node, Path(folder))
                    status = self._wait()
                finally:
                    self._stop(Path(folder))
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)
        return status

    def _on_signal(self, _number: int, _frame: FrameType | None) -> None:
        self._signals += 1

    def _say(self, text: str, name: str = "launch") -> None:
        try:
            with self._print_lock:
                print(f"[{name:<{self._width}}] {text}", flush=True)
        except OSError:
            # Whoever was watching has gone: a robot is not left running unseen.
            self._signals = max(self._signals, 1)

    def _start(self, node: NodeProcess, folder: Path) -> subprocess.Popen[str]:
        parameters = folder / f"{node.executable}-{len(self._readers)}.yaml"
        # JSON is YAML without the aliases that ROS parameter files may not have.
        parameters.write_text(
            json.dumps({"/**": {"ros__parameters": node.parameters}}), encoding="utf-8"
        )
        command = [sys.executable, "-m", f"mbrl_ros.nodes.{node.executable}", "--ros-args"]
        for path in (*node.parameter_files, parameters):
            command += ["--params-file", str(path)]
        for source, target in node.remappings:
            command += ["-r", f"{source}:={target}"]
        if node.namespace:
            command += ["-r", f"__ns:=/{node.namespace.strip('/')}"]
        command += ["--log-level", node.log_level]
        child = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            # A session of its own: Ctrl-C in the terminal reaches this process alone, which
            # then stops the nodes in order.
            start_new_session=True,
            env=os.environ
            | {
                PARENT_VARIABLE: str(os.getpid()),
                "PYTHONUNBUFFERED": "1",
                # A folder `mbrl_ros` in the working directory is not to be taken for the package.
                "PYTHONSAFEPATH": "1",
            },
        )
        assert child.stdout is not None
        reader = threading.Thread(
            target=self._forward, args=(node.executable, child.stdout), daemon=True
        )
        reader.start()
        self._readers.append(reader)
        return child

    def _forward(self, name: str, stream: IO[str]) -> None:
        for line in stream:
            self._say(line.rstrip("\n"), name)

    def _wait(self) -> int:
        """Wait until a process ends or a signal comes; return the run's exit status."""
        while True:
            if self._signals:
                self._say("stopping: interrupted")
                return 0
            for name, child in self._children.items():
                status = child.poll()
                if status is None:
                    continue
                if name == "run_monitor" and status == 0:
                    self._say("stopping: the run is over")
                    return 0
                self._say(f"stopping: {name} {_how(status)}")
                return 1
            time.sleep(_POLL)

    def _stop(self, folder: Path) -> None:
        started = [node for node in self._graph if node.executable in self._children]
        order = [self._children[node.executable] for node in started]
        self._end(order[:1], _GRACE)
        for node, child in zip(started, order, strict=True):
            # Dead before, or hung and killed just now: either way its last word is missing.
            status = child.poll()
            replacement = None if status is None else node.replacement(status)
            if replacement is not None:
                self._finish([self._start(replacement, folder)], _REPLACEMENT_GRACE)
        self._end(order[1:-1], _GRACE)
        self._end(order[-1:], _MONITOR_GRACE)
        for reader in self._readers:
            reader.join(timeout=1.0)

    def _end(self, children: list[subprocess.Popen[str]], grace: float) -> None:
        """Ask to end, then kill.

        SIGTERM means to a node what SIGINT does, and is quiet while it still imports.
        """
        for number, patience in ((signal.SIGTERM, grace), (signal.SIGKILL, _KILL_GRACE)):
            for child in children:
                if child.poll() is None:
                    child.send_signal(number)
            self._finish(children, patience)

    def _finish(self, children: list[subprocess.Popen[str]], patience: float) -> None:
        """Wait until all have ended; another Ctrl-C changes nothing, the wait is bounded."""
        deadline = time.monotonic() + patience
        while time.monotonic() < deadline:
            if all(child.poll() is not None for child in children):
                return
            time.sleep(_POLL)


def _how(status: int) -> str:
    if status < 0:
        try:
            return f"died (killed by {signal.Signals(-status).name})"
        except ValueError:
            return f"died (killed by signal {-status})"
    return f"ended with exit status {status}"
