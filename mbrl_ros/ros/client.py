# Copyright 2026 The mbrl_ros authors
# SPDX-License-Identifier: Apache-2.0
"""What the `mbrl` command asks of a running stack."""

from __future__ import annotations

import array
import shutil
import signal
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import FrameType
from typing import Any, NoReturn

import rclpy
from diagnostic_msgs.msg import DiagnosticArray
from rcl_interfaces.msg import Parameter as ParameterMessage
from rcl_interfaces.msg import ParameterType, ParameterValue
from rclpy.client import Client
from rclpy.node import Node
from rclpy.parameter import Parameter, get_parameter_value, parameter_value_to_python
from rclpy.parameter_client import AsyncParameterClient
from rclpy.signals import SignalHandlerOptions
from rclpy.task import Future
from sensor_msgs.msg import JointState
from std_srvs.srv import Trigger

from mbrl_ros.robots.spec import NANOSECONDS
from mbrl_ros.ros.conversions import to_nanoseconds
from mbrl_ros.ros.diagnostics import read_values
from mbrl_ros.ros.parameters import as_float
from mbrl_ros.ros.peers import peer_name
from mbrl_ros.ros.qos import STREAM

_PATIENCE = 10.0  # seconds for a node to be found and to answer
_RETRY = 0.2  # seconds between two attempts to arm
_GONE = 15.0  # seconds without a state after which a status has nothing more to follow
_SILENCE = 2.0  # seconds without a state after which a line says so
_TYPES = {
    ParameterType.PARAMETER_BOOL: "a truth value",
    ParameterType.PARAMETER_INTEGER: "a whole number",
    ParameterType.PARAMETER_DOUBLE: "a number",
    ParameterType.PARAMETER_STRING: "a word",
    ParameterType.PARAMETER_BOOL_ARRAY: "a list of truth values",
    ParameterType.PARAMETER_INTEGER_ARRAY: "a list of whole numbers",
    ParameterType.PARAMETER_DOUBLE_ARRAY: "a list of numbers",
    ParameterType.PARAMETER_STRING_ARRAY: "a list of words",
}
_IS_IT_RUNNING = "is the stack running, in this ROS_DOMAIN_ID and namespace?"


class CommandError(RuntimeError):
    """The running stack could not do what was asked; the message says why."""


@contextmanager
def _node(name: str, namespace: str) -> Iterator[Node]:
    # This command's own words are no ROS arguments. A signal ends it as any other program.
    rclpy.init(args=[], signal_handler_options=SignalHandlerOptions.NO)
    signal.signal(signal.SIGINT, _end)
    signal.signal(signal.SIGTERM, _end)
    node = Node(name, namespace=namespace)
    try:
        yield node
    finally:
        node.destroy_node()
        rclpy.try_shutdown()


def _end(number: int, _frame: FrameType | None) -> NoReturn:
    raise SystemExit(128 + number)


def _answer(node: Node, future: Future[Any]) -> Any:
    rclpy.spin_until_future_complete(node, future, timeout_sec=_PATIENCE)
    if not future.done():
        raise CommandError(f"no answer within {_PATIENCE:g} s")
    return future.result()


def trigger(node_name: str, service: str, namespace: str = "") -> str:
    """Call a Trigger service of a node of the stack; return what it says.

    Raises CommandError when it is not found or refuses.
    """
    with _node(f"mbrl_{service}", namespace) as node:
        client: Client[Trigger.Request, Trigger.Response] = node.create_client(
            Trigger, f"{node_name}/{service}"
        )
        if not client.wait_for_service(timeout_sec=_PATIENCE):
            raise CommandError(f"no {node_name} found; {_IS_IT_RUNNING}")
        response = _answer(node, client.call_async(Trigger.Request()))
        if not response.success:
            raise CommandError(response.message)
        return str(response.message)


def arm(timeout: float, namespace: str = "") -> str:
    """Arm the guard, trying again for `timeout` seconds, 0: once; return what it says.

    Says on stderr what is waited for. Raises CommandError when no guard is found or it still
    refuses at the end.
    """
    with _node("mbrl_arm", namespace) as node:
        client: Client[Trigger.Request, Trigger.Response] = node.create_client(
            Trigger, "command_guard/arm"
        )
        if not client.wait_for_service(timeout_sec=max(timeout, _PATIENCE)):
            raise CommandError(f"no command_guard found; {_IS_IT_RUNNING}")
        end, said = time.monotonic() + timeout, ""
        while True:
            response = _answer(node, client.call_async(Trigger.Request()))
            if response.success:
                return str(response.message)
            if timeout == 0.0:
                raise CommandError(response.message)
            if time.monotonic() + _RETRY > end:
                raise CommandError(f"{response.message}; gave up after {timeout:g} s")
            if response.message != said:
                said = response.message
                print(f"waiting: {said}", file=sys.stderr, flush=True)
            time.sleep(_RETRY)


def set_goal(changes: Mapping[str, float], namespace: str = "") -> dict[str, float]:
    """Change the named values of the planner's goal, keep the others, return them all.

    Raises CommandError when no planner is found, a name is unknown or the goal is refused.
    """
    with _node("mbrl_goal", namespace) as node:
        client = AsyncParameterClient(node, "mpc_planner")
        if not client.wait_for_services(timeout_sec=_PATIENCE):
            raise CommandError(f"no mpc_planner found; {_IS_IT_RUNNING}")
        found = _answer(node, client.get_parameters(["goal", "goal_names"]))
        values, names = found.values[0].double_array_value, found.values[1].string_array_value
        goal: dict[str, float] = dict(zip(names, values, strict=True))
        for name, value in changes.items():
            if name not in goal:
                raise CommandError(f"unknown goal '{name}'; expected one of {', '.join(goal)}")
            goal[name] = value
        wished = Parameter("goal", Parameter.Type.DOUBLE_ARRAY, list(goal.values()))
        result = _answer(node, client.set_parameters([wished])).results[0]
        if not result.successful:
            raise CommandError(result.reason)
        return goal


def set_parameter(node_name: str, name: str, text: str, namespace: str = "") -> None:
    """Set a parameter of a running node; its value is written as YAML, as for ros2 param.

    A whole number will do where a float is expected. Raises CommandError when no such node or
    parameter is found, the value is of another type, or the node refuses it.
    """
    with _node("mbrl_param", namespace) as node:
        client = AsyncParameterClient(node, node_name)
        present = _present(node, client, node_name, name)
        given = Parameter.from_parameter_msg(
            ParameterMessage(name=name, value=get_parameter_value(text))
        )
        if present.type in (ParameterType.PARAMETER_DOUBLE, ParameterType.PARAMETER_DOUBLE_ARRAY):
            given = as_float(given)
        # An empty list has no type of its own: its node checks what it is set to.
        if given.type_.value != present.type and _plain(present) != "[]":
            known, found = (_TYPES.get(type_, "") for type_ in (present.type, given.type_.value))
            raise CommandError(
                f"{node_name}: {name} = {text} is refused: it is {found}, expected {known} "
                f"such as {_plain(present)}"
            )
        result = _answer(node, client.set_parameters([given.to_parameter_msg()])).results[0]
        if not result.successful:
            raise CommandError(f"{node_name}: {name} = {text} is refused: {result.reason}")


def get_parameter(node_name: str, name: str, namespace: str = "") -> str:
    """Return a parameter of a running node, as text; raises CommandError if there is none."""
    with _node("mbrl_param", namespace) as node:
        client = AsyncParameterClient(node, node_name)
        return _plain(_present(node, client, node_name, name))


def _present(
    node: Node, client: AsyncParameterClient, node_name: str, name: str
) -> ParameterValue:
    """Return what a parameter of a running node is now; raises CommandError if there is none."""
    if not client.wait_for_services(timeout_sec=_PATIENCE):
        raise CommandError(f"no {node_name} found; {_IS_IT_RUNNING}")
    found = _answer(node, client.get_parameters([name])).values
    if not found or found[0].type == ParameterType.PARAMETER_NOT_SET:
        raise CommandError(f"{node_name} has no parameter '{name}'")
    present: ParameterValue = found[0]
    return present


def _plain(value: ParameterValue) -> str:
    plain = parameter_value_to_python(value)
    return str(list(plain) if isinstance(plain, array.array) else plain)


def follow_status(namespace: str = "", once: bool = False) -> None:
    """Print a line a second until interrupted, or only one.

    Raises CommandError if nothing is heard of the stack, or nothing more for a while.
    """
    state: JointState | None = None
    heard = 0.0
    planner: dict[str, str] = {}
    learner: dict[str, str] = {}
    found = {"mpc_planner": planner, "dynamics_learner": learner}
    # Of a discrete robot, which has neither.
    found |= {"policy_controller": planner, "policy_learner": learner}

    def on_state(message: JointState) -> None:
        nonlocal state, heard
        state, heard = message, time.monotonic()

    def on_diagnostics(message: DiagnosticArray) -> None:
        for name, values in found.items():
            values.update(read_values(message, peer_name(node, name)))

    with _node("mbrl_status", namespace) as node:
        node.create_subscription(JointState, "state", on_state, STREAM)
        node.create_subscription(DiagnosticArray, "/diagnostics", on_diagnostics, STREAM)
        begin = next_line = time.monotonic()
        try:
            while True:
                rclpy.spin_once(node, timeout_sec=0.1)
                now = time.monotonic()
                if state is None or not planner or not learner:
                    if now - begin > _PATIENCE:
                        raise CommandError(f"nothing heard; {_IS_IT_RUNNING}")
                    continue
                if now - heard > _GONE:
                    raise CommandError(f"nothing heard for {_GONE:g} s: the stack has ended")
                if now >= next_line:
                    next_line = now + 1.0
                    live = sys.stdout.isatty() and not once
                    line = _status_line(state, planner, learner)
                    if now - heard > _SILENCE:
                        line = f"nothing heard for {now - heard:.0f} s; last: {line}"
                    if live:  # a longer line would scroll instead of being replaced
                        line = line[: shutil.get_terminal_size().columns - 1]
                    print(
                        f"\r\033[K{line}" if live else line, end="" if live else "\n", flush=True
                    )
                    if once:
                        return
        except SystemExit:  # following has no other end
            print()


def _status_line(state: JointState, planner: Mapping[str, str], learner: Mapping[str, str]) -> str:
    values = " ".join(
        f"{name} {value:+.2f}" for name, value in zip(state.name, state.position, strict=False)
    )
    stamp = to_nanoseconds(state.header.stamp) / NANOSECONDS
    return (
        f"t {stamp:.1f} s | {values} | goal {planner.get('goal', '')}"
        f" | cost {_short(planner, 'stage_cost')}"
        f" | {learner['transitions']} transitions, error {_short(learner, 'one_step_error')}"
        f" | plan {_short(planner, 'plan_ms_median')} ms | {planner['deadline_misses']} misses"
    )


def _short(values: Mapping[str, str], key: str) -> str:
    return f"{float(values.get(key, 'nan')):.3g}"
