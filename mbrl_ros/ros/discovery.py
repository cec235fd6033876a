# Copyright 2026 The mbrl_ros authors
# SPDX-License-Identifier: Apache-2.0
"""What a live graph shows of a robot: sensors, commands, and one message of each sensor."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import rclpy
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.qos import qos_profile_sensor_data

from mbrl_ros.bringup import NODES
from mbrl_ros.robots.spec import (
    COMMAND_FIELDS,
    FLOAT64_MULTI_ARRAY,
    JOINT_STATE,
    SENSOR_FIELDS,
    STACK_TOPICS,
)
from mbrl_ros.robots.starter import Found, FoundSensor
from mbrl_ros.ros.conversions import MESSAGES, read_sensor

_GUARD, _SIMULATOR = "command_guard", "simulator"
# Topics of this stack and of tools, which are no robot's.
_NOT_SENSORS = (*STACK_TOPICS, "reward")


def look(namespace: str, seconds: float) -> Found:
    """Listen to every topic under `namespace` that a robot file could name, for some seconds.

    A topic is a sensor if a message of a known type comes on it, a command if something
    subscribes to it and, where its type is that of sensors too, nothing publishes on it. This
    stack may run: its simulator is a robot, its guard's commands are as if nobody sent them, and
    what its other nodes send and hear says nothing of the robot.
    """
    with graph("mbrl_robot_new") as (node, executor):
        return _look(node, executor, "/" + namespace.strip("/"), seconds)


@contextmanager
def graph(name: str, namespace: str = "") -> Iterator[tuple[Node, SingleThreadedExecutor]]:
    """Give a node to look around with, and what spins it, in a context of their own."""
    context = rclpy.Context()
    rclpy.init(context=context)
    try:
        node = Node(name, context=context, namespace=namespace)
        executor = SingleThreadedExecutor(context=context)
        executor.add_node(node)
        try:
            yield node, executor
        finally:
            executor.shutdown()
            node.destroy_node()
    finally:
        rclpy.try_shutdown(context=context)


def _look(node: Node, executor: SingleThreadedExecutor, namespace: str, seconds: float) -> Found:
    received: dict[str, list[tuple[float, Any]]] = {}
    types: dict[str, str] = {}
    prefix = namespace.rstrip("/") + "/"
    end = time.monotonic() + seconds
    while (now := time.monotonic()) < end:
        for topic, offered in node.get_topic_names_and_types():
            known = [type_ for type_ in offered if type_ in SENSOR_FIELDS]
            own = topic.rpartition("/")[2] in _NOT_SENSORS
            if topic in types or not known or own or not topic.startswith(prefix):
                continue
            types[topic] = known[0]
            messages: list[tuple[float, Any]] = []
            received[topic] = messages
            node.create_subscription(
                MESSAGES[known[0]],
                topic,
                lambda message, messages=messages: messages.append((time.monotonic(), message)),
                qos_profile_sensor_data,
            )
        executor.spin_once(timeout_sec=min(0.1, end - now))
    ours = _own_nodes(node)
    sensors = []
    for topic, messages in received.items():
        if not messages or _publishers(node, topic) & ours:
            continue
        span = messages[-1][0] - messages[0][0]
        try:
            values = read_sensor(messages[-1][1])
        except ValueError:
            continue
        # As joint_state_broadcaster sends what a joint has no interface for.
        keys = tuple(key for key, value in values.items() if math.isfinite(value))
        rate = (len(messages) - 1) / span if span > 0.0 else 0.0
        sensors.append(FoundSensor(topic.removeprefix(prefix), types[topic], keys, rate))
    commands = {}
    for topic, offered in node.get_topic_names_and_types():
        known = [type_ for type_ in offered if type_ in COMMAND_FIELDS]
        if not known or not topic.startswith(prefix) or topic.rpartition("/")[2] in _NOT_SENSORS:
            continue
        ambiguous = known[0] in (FLOAT64_MULTI_ARRAY, JOINT_STATE)
        listening = _subscribers(node, topic) - ours - {node.get_fully_qualified_name()}
        senders = {name for name in _publishers(node, topic) if not _is_guard(name, ours)}
        if listening and not senders & ours and not (ambiguous and senders):
            commands[topic.removeprefix(prefix)] = known[0]
    return Found(namespace.strip("/") or "robot", tuple(sensors), commands)


def _own_nodes(node: Node) -> set[str]:
    """Return the full names of this stack's nodes, but for the simulator.

    Only beside a guard, without which no stack runs: a robot's driver may have the name of one.
    """
    nodes = node.get_node_names_and_namespaces()
    guarded = {namespace for name, namespace in nodes if name == _GUARD}
    return {
        _full_name(namespace, name)
        for name, namespace in nodes
        if namespace in guarded and name in NODES and name != _SIMULATOR
    }


def _is_guard(name: str, ours: set[str]) -> bool:
    return name in ours and name.rpartition("/")[2] == _GUARD


def _publishers(node: Node, topic: str) -> set[str]:
    infos = node.get_publishers_info_by_topic(topic)
    return {_full_name(info.node_namespace, info.node_name) for info in infos}


def _subscribers(node: Node, topic: str) -> set[str]:
    infos = node.get_subscriptions_info_by_topic(topic)
    return {_full_name(info.node_namespace, info.node_name) for info in infos}


def _full_name(namespace: str, name: str) -> str:
    return f"{namespace.rstrip('/')}/{name}"
