# Copyright 2026 The mbrl_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Whether a robot that runs now is the one that its file describes."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any

from rclpy.node import Node

from mbrl_ros.robots.messages import sensor_stamp
from mbrl_ros.robots.spec import RobotSpec, Sensor, StateDimension
from mbrl_ros.ros.conversions import MESSAGES, read_sensor
from mbrl_ros.ros.discovery import graph
from mbrl_ros.ros.qos import SENSOR
from mbrl_ros.units import NANOSECONDS

_SLOWEST = 0.9  # share of the control rate below which a sensor counts as too slow
_AT_LEAST = 3  # messages, to tell a rate
_DISCOVERY = 6.0  # s that a busy machine's middleware may take until it knows every topic


@dataclass(frozen=True)
class Seen:
    """What was seen, and what of it is not as the file says; lines for people."""

    lines: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)


@dataclass
class _Heard:
    at: list[float] = field(default_factory=list)  # seconds, monotonic
    ages: list[float] = field(default_factory=list)  # seconds from stamp to arrival
    values: dict[str, float] = field(default_factory=dict)  # of the newest message, by key
    unreadable: str = ""  # why the newest could not be read

    def take(self, message: Any) -> None:
        self.at.append(time.monotonic())
        stamp = sensor_stamp(message)
        if stamp is not None:
            self.ages.append((time.time_ns() - stamp) / NANOSECONDS)
        try:
            self.values, self.unreadable = read_sensor(message), ""
        except ValueError as error:
            self.unreadable = str(error)


def compare(robot: RobotSpec, namespace: str, seconds: float) -> Seen:
    """Listen to a robot's sensors for some seconds, and look who takes its commands.

    Sends nothing. namespace: of the robot's topics. Waits some seconds more for topics that are
    missing.
    """
    with graph("mbrl_robot_check", namespace) as (node, executor):
        heard = {topic: _Heard() for topic in robot.sensors}
        for topic, sensor in robot.sensors.items():
            node.create_subscription(MESSAGES[sensor.type], topic, heard[topic].take, SENSOR)
        end = time.monotonic() + _DISCOVERY
        while time.monotonic() < end and not (
            all(one.at for one in heard.values()) and node.count_subscribers(robot.command.topic)
        ):
            executor.spin_once(timeout_sec=0.1)
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0.0:
            executor.spin_once(timeout_sec=left)
        seen = Seen()
        simulated = node.count_publishers("/clock") > 0
        for topic, sensor in robot.sensors.items():
            _judge_sensor(seen, robot, node, topic, sensor, heard[topic], seconds, simulated)
        _judge_command(seen, robot, node)
    return seen


def _judge_sensor(
    seen: Seen,
    robot: RobotSpec,
    node: Node,
    topic: str,
    sensor: Sensor,
    heard: _Heard,
    seconds: float,
    simulated: bool,
) -> None:
    what, problems = f"sensor {topic}", seen.problems
    types = sorted({info.topic_type for info in node.get_publishers_info_by_topic(topic)})
    if types and sensor.type not in types:
        problems.append(f"{what}: carries {', '.join(types)}, the file says {sensor.type}")
        return
    if not heard.at:
        known = [name for name, _ in node.get_topic_names_and_types() if _is_robots(node, name)]
        there = f"; there are {', '.join(known)}" if known else "; no node of a robot was found"
        nothing = f"no message came in {_DISCOVERY + seconds:g} s"
        problems.append(f"{what}: {nothing if types else 'nobody publishes it' + there}")
        return
    if heard.unreadable:
        problems.append(f"{what}: {heard.unreadable}")
        return
    told = f"  {topic}: {_rate(heard.at)}"
    if len(heard.at) >= _AT_LEAST:
        rate = (len(heard.at) - 1) / (heard.at[-1] - heard.at[0])
        longest = max(b - a for a, b in zip(heard.at, heard.at[1:], strict=False))
        if rate < _SLOWEST * robot.control_rate:
            problems.append(
                f"{what}: comes {rate:.3g} times a second, the control rate is "
                f"{robot.control_rate:g}; lower control_rate, or let the driver send more often"
            )
        if longest > sensor.timeout:
            problems.append(
                f"{what}: was silent for {longest:.2f} s; after its timeout of "
                f"{sensor.timeout:g} s the guard goes to the safe command"
            )
    else:
        problems.append(f"{what}: {len(heard.at)} messages came in {seconds:g} s")
    if heard.ages and not simulated:
        age = median(heard.ages)
        told += f", {1e3 * age:.0f} ms old"
        if abs(age) > sensor.timeout:
            side = "behind" if age > 0.0 else "ahead of"
            problems.append(
                f"{what}: its stamps are {abs(age):.3g} s {side} this machine's clock; all "
                "messages would be stale: synchronise the clocks, or have the driver stamp"
            )
    seen.lines.append(told)
    for dimension in robot.state:
        if dimension.sensor == topic:
            _judge_value(seen, dimension, heard.values)


def _judge_value(seen: Seen, dimension: StateDimension, values: dict[str, float]) -> None:
    what, raw = f"state '{dimension.name}'", values.get(dimension.key)
    if raw is None:
        if dimension.joint is not None:
            has = sorted(key.partition("/")[2] for key in values if key.startswith("position/"))
            wanted = f"no {dimension.field} of joint '{dimension.joint}'"
            has = [f"joints {', '.join(has)}"] if has else sorted(values)
        else:
            wanted, has = f"nothing at {dimension.key}", sorted(values)
        seen.problems.append(f"{what}: the message has {wanted}; it has {', '.join(has)}")
        return
    value = raw * dimension.scale
    if dimension.angle and math.isfinite(value):
        value = math.remainder(value, 2.0 * math.pi)
    unit = "" if dimension.unit == "1" else dimension.unit
    seen.lines.append(f"    {dimension.name}: {value:.4g} {unit}".rstrip())
    if not math.isfinite(value):
        seen.problems.append(f"{what}: is {value} now; such messages are dropped")
    for name, span in (("limits", dimension.limits), ("safe_range", dimension.safe_range)):
        if span and not span[0] <= value <= span[1]:
            seen.problems.append(
                f"{what}: is {value:.4g} {dimension.unit} now, outside its {name} "
                f"{span[0]:g} to {span[1]:g}: see unit, scale and where zero is"
            )


def _judge_command(seen: Seen, robot: RobotSpec, node: Node) -> None:
    topic, type_ = robot.command.topic, robot.command.type
    what = f"command {topic}"
    listening = node.get_subscriptions_info_by_topic(topic)
    types = sorted({info.topic_type for info in listening})
    if not listening:
        seen.problems.append(f"{what}: nobody listens to it; is the controller active?")
    elif type_ not in types:
        seen.problems.append(f"{what}: takes {', '.join(types)}, the file says {type_}")
    else:
        names = sorted({_full_name(info) for info in listening})
        seen.lines.append(f"  {topic}: taken by {', '.join(names)}")
    others = sorted({_full_name(info) for info in node.get_publishers_info_by_topic(topic)})
    if others:
        seen.problems.append(
            f"{what}: {', '.join(others)} sends it too; a robot must have one master"
        )


def _is_robots(node: Node, topic: str) -> bool:
    """Whether something that a sensor could be is published there."""
    infos = node.get_publishers_info_by_topic(topic)
    return any(info.topic_type in MESSAGES for info in infos)


def _full_name(info: Any) -> str:
    return f"{info.node_namespace.rstrip('/')}/{info.node_name}"


def _rate(at: Sequence[float]) -> str:
    if len(at) < _AT_LEAST:
        return f"{len(at)} messages"
    return f"{(len(at) - 1) / (at[-1] - at[0]):.3g} a second"
