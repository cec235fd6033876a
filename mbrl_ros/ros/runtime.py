# Copyright 2026 The mbrl_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Runs one node as a process: start, signals, a clean end."""

from __future__ import annotations

import ctypes
import difflib
import faulthandler
import os
import signal
import sys
import threading
from collections.abc import Callable
from types import FrameType

import rclpy
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.signals import SignalHandlerOptions

from mbrl_ros.process import BAD_CONFIGURATION, PARENT_VARIABLE

# How often the main loop looks whether a signal has come, in seconds.
_SIGNAL_LATENCY = 0.05

FAILED = 1
_PR_SET_PDEATHSIG = 1
# For glibc's mallopt, M_TRIM_THRESHOLD and M_MMAP_THRESHOLD: the most that either takes, in bytes.
_KEPT_BY_MALLOC = {-1: 2**31 - 1, -3: 32 * 2**20}


class ManagedNode(Node):
    """A node that may end its own process and that has a last word before it ends."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.finished = threading.Event()
        self.exit_status = 0

    def fail(self, reason: str) -> None:
        """End the process with exit status 1, from any thread."""
        self.get_logger().fatal(reason)
        self.exit_status = FAILED
        self.finished.set()

    def on_shutdown(self) -> None:
        """Do what must be done while the node can still publish."""


def run(factory: Callable[[], ManagedNode]) -> int:
    """Run the node that `factory` makes until SIGINT, SIGTERM or its `finished`.

    rclpy's own signal handlers would shut the context down first, and the last message could
    not be sent; so the handlers here only set a flag. On SIGUSR1 the process writes what each of
    its threads is doing. Returns the exit status of the process: 0, 1 when the node has failed, or
    2 with one message when it cannot start with its configuration.
    """
    keep_memory()
    faulthandler.register(signal.SIGUSR1, file=2)
    stop = threading.Event()

    def request_stop(_number: int, _frame: FrameType | None) -> None:
        stop.set()

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, request_stop)
    if not _tie_to_parent():
        return FAILED
    try:
        rclpy.init(args=sys.argv, signal_handler_options=SignalHandlerOptions.NO)
    except RuntimeError as error:
        print(f"cannot start: {error}", file=sys.stderr, flush=True)
        return BAD_CONFIGURATION
    try:
        try:
            node = factory()
        except ValueError as error:
            print(f"cannot start: {error}", file=sys.stderr, flush=True)
            return BAD_CONFIGURATION
        _warn_of_unknown_parameters(node)
        executor = SingleThreadedExecutor()
        executor.add_node(node)
        try:
            while not (stop.is_set() or node.finished.is_set()):
                executor.spin_once(timeout_sec=_SIGNAL_LATENCY)
        finally:
            # Also on an exception: the guard must have its last word.
            node.on_shutdown()
            executor.remove_node(node)
            # Left to the garbage collector, it can find what it is made of gone before it.
            executor.shutdown()
            node.destroy_node()
    finally:
        rclpy.try_shutdown()
    if threading.active_count() > 1:
        # A thread that still computes would be torn down within native code, which aborts.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(node.exit_status)
    return node.exit_status


def _warn_of_unknown_parameters(node: Node) -> None:
    """Name parameters that were set from outside and that the node does not have.

    A warning only: one file may set parameters of many nodes at once.
    """
    given = getattr(node, "_parameter_overrides", {})
    for name in given:
        if node.has_parameter(name) or name.startswith("qos_overrides."):
            continue
        known = node.get_parameters_by_prefix("")
        near = difflib.get_close_matches(name, known, n=1)
        hint = f"; did you mean '{near[0]}'?" if near else ""
        node.get_logger().warning(f"there is no parameter '{name}'{hint}")


def keep_memory() -> None:
    """Have malloc keep what is freed, for the next tick, instead of giving it back.

    Otherwise matrices of a few hundred rows are mapped anew at each use, and the page faults
    take longer than the algebra; in a control loop they also come when they like.
    """
    if not sys.platform.startswith("linux"):
        return
    library = ctypes.CDLL(None)
    if hasattr(library, "mallopt"):
        for option, size in _KEPT_BY_MALLOC.items():
            library.mallopt(option, size)


def _tie_to_parent() -> bool:
    """Ask the kernel for SIGTERM when the launcher dies; False if it is dead already."""
    parent = os.environ.get(PARENT_VARIABLE)
    if parent is None or not sys.platform.startswith("linux"):
        return True
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    return os.getppid() == int(parent)
