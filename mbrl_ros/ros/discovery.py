# Copyright 2026 The mbrl_ros authors
# SPDX-License-Identifier: Apache-2.0
"""What a live graph shows of a robot: sensors, commands, and one message of each sensor."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import rclpy
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.qos import qos_profile_sensor_data

from mbrl_ros.robots.spec import COMMAND_FIELDS, FLOAT64_MULTI_ARRAY, JOINT_STATE, SENSOR_FIELDS
from mbrl_ros.robots.starter import Found, FoundSensor
from mbrl_ros.ros.conversions import MESSAGES, read_sensor

# Topics of this stack and of tools, which are no robot's.
_NOT_SENSORS = ("action", "applied_action", "goal", "goal_pose", "reward", "state")


def look(namespace: str, seconds: float) -> Found:
    """Listen to every topic under `namespace` that a robot file could name, for some seconds.

    A topic is a sensor if a message of a known type comes on it, a command if something
    subscribes to it and, where its type is that of sensors too, nothing publishes on it.
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
    sensors = []
    for topic, messages in received.items():
        if not messages:
            continue
        span = messages[-1][0] - messages[0][0]
        try:
            keys = tuple(read_sensor(messages[-1][1]))
        except ValueError:
            continue
        rate = (len(messages) - 1) / span if span > 0.0 else 0.0
        sensors.append(FoundSensor(topic.removeprefix(prefix), types[topic], keys, rate))
    commands = {}
    for topic, offered in node.get_topic_names_and_types():
        known = [type_ for type_ in offered if type_ in COMMAND_FIELDS]
        if not known or not topic.startswith(prefix) or topic.rpartition("/")[2] in _NOT_SENSORS:
            continue
        ambiguous = known[0] in (FLOAT64_MULTI_ARRAY, JOINT_STATE)
        this = node.get_fully_qualified_name()
        listening = [
            info
            for info in node.get_subscriptions_info_by_topic(topic)
            if f"{info.node_namespace.rstrip('/')}/{info.node_name}" != this
        ]
        if listening and not (ambiguous and node.count_publishers(topic)):
            commands[topic.removeprefix(prefix)] = known[0]
    return Found(namespace.strip("/") or "robot", tuple(sensors), commands)
