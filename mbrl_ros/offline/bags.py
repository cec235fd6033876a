# Copyright 2026 The mbrl_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Transitions from a rosbag2 recording of a robot's own topics, without ROS.

It goes the way of the live stack: sensor messages through the state estimator, then states and
commands through the recorder that pairs them.
"""

from __future__ import annotations

import bisect
import statistics
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import track
from rosbags.highlevel import AnyReader
from rosbags.typesys import Stores, get_typestore

from mbrl_ros.dynamics.dataset import TransitionRecorder
from mbrl_ros.dynamics.model import Transitions
from mbrl_ros.robots.estimator import StateEstimator
from mbrl_ros.robots.messages import read_command, read_sensor, sensor_stamp
from mbrl_ros.robots.spec import NANOSECONDS, RobotSpec

JOINT_STATE = "sensor_msgs/msg/JointState"
CLOCK = "/clock"
_CLOCK_TYPE = "rosgraph_msgs/msg/Clock"
_ENDS = 50  # sensor messages at either end by which a drift of the clocks is noticed


class BagError(ValueError):
    """A recording that cannot be read or written; the message says why."""


@dataclass(frozen=True)
class Recording:
    """What a bag came to.

    transitions: oldest first, with stamps. states, commands: how many there were. skipped:
    steps that were not kept (see `TransitionRecorder`), unrewarded of them for want of a
    reward. rejected: messages that could not be used; problem: what was wrong with the last.
    """

    transitions: Transitions
    states: int
    commands: int
    skipped: int
    unrewarded: int
    rejected: int
    problem: str

    def __str__(self) -> str:
        text = (
            f"{self.states} states, {self.commands} commands, "
            f"{len(self.transitions)} transitions, {self.skipped} steps skipped"
        )
        if self.unrewarded:
            text += f" ({self.unrewarded} without a reward)"
        if self.rejected:
            text += f", {self.rejected} messages rejected (the last: {self.problem})"
        return text


def read_bag(
    path: Path, robot: RobotSpec, namespace: str | None = None, progress: bool = False
) -> Recording:
    """Read a recording of the robot's own sensor, command and reward topics.

    path: a rosbag2 directory, stored as MCAP or SQLite. namespace: under which the topics were
    recorded; None: wherever all of them are. progress: show a bar on standard error.

    Sensor messages carry their time. Commands need not, so each counts from when it was
    recorded: if the bag holds /clock, by the clock's last reading before, as the nodes had it;
    otherwise by the recorder's clock, corrected by the constant that it is ahead of the stamps.

    Raises BagError if that is no bag, a topic is missing or of another type, the time of
    commands cannot be told, or there is not one transition in it.
    """
    with _opened(path) as reader:
        topics = _find_topics(reader, robot, namespace, path)
        replay = _Replay(path, robot, topics)
        wanted = [
            connection
            for connection in reader.connections
            if connection.topic in topics or _is_clock(connection.topic, connection.msgtype)
        ]
        stream = track(
            reader.messages(connections=wanted),
            f"reading {path.name}",
            total=sum(connection.msgcount for connection in wanted),
            console=Console(stderr=True),
            disable=not progress,
        )
        try:
            for connection, logged, raw in stream:
                replay.add(connection.topic, logged, reader.deserialize(raw, connection.msgtype))
        except BagError:
            raise
        except Exception as error:  # whatever the storage of a damaged file raises
            raise BagError(f"{path}: cannot be read to its end: {error}") from None
    return replay.finish()


@contextmanager
def _opened(path: Path) -> Iterator[AnyReader]:
    try:
        reader = AnyReader([path], default_typestore=get_typestore(Stores.ROS2_JAZZY))
        reader.open()
    except Exception as error:  # whatever the storage of a damaged file raises
        raise BagError(
            f"{path}: not a rosbag2 recording: {error}; expected the directory that "
            "`ros2 bag record` makes"
        ) from None
    try:
        yield reader
    finally:
        reader.close()


def _is_clock(topic: str, type_: str) -> bool:
    return topic == CLOCK and type_ == _CLOCK_TYPE


def _find_topics(
    reader: AnyReader, robot: RobotSpec, namespace: str | None, path: Path
) -> dict[str, str]:
    """Return {topic in the bag: the same in the robot's YAML}, of all that is needed."""
    present = {connection.topic: connection.msgtype for connection in reader.connections}
    needed: dict[str, str] = {topic: sensor.type for topic, sensor in robot.sensors.items()}
    needed[robot.command.topic] = robot.command.type
    if robot.reward is not None:
        needed[robot.reward] = JOINT_STATE
    if namespace is None:
        complete = [
            candidate
            for candidate in _namespaces(next(iter(needed)), present)
            if all(_resolved(candidate, topic) in present for topic in needed)
        ]
        if len(complete) > 1:
            raise BagError(
                f"{path}: the topics of {robot.name} are in it under several namespaces: "
                f"{', '.join(name or '/' for name in complete)}; choose one with --namespace"
            )
        namespace = complete[0] if complete else ""
    found = {_resolved(namespace, topic): topic for topic in needed}
    missing = [topic for topic in found if topic not in present]
    if missing:
        listed = ", ".join(f"{topic} ({type_})" for topic, type_ in sorted(present.items()))
        raise BagError(
            f"{path}: no topic {', '.join(missing)}, which robot {robot.name} needs; "
            f"the bag holds {listed or 'none at all'}"
        )
    for topic, name in found.items():
        if present[topic] != needed[name]:
            raise BagError(
                f"{path}: topic {topic} is of type {present[topic]}, "
                f"robot {robot.name} expects {needed[name]}"
            )
    return found


def _namespaces(topic: str, present: dict[str, str]) -> list[str]:
    """Return the namespaces under which `topic` is present, "" for the root."""
    suffix = "/" + topic.lstrip("/")
    return sorted(name.removesuffix(suffix) for name in present if name.endswith(suffix))


def _resolved(namespace: str, topic: str) -> str:
    """Return the full name of a topic as the robot's YAML names it."""
    prefix = namespace.strip("/")
    return topic if topic.startswith("/") else f"/{prefix}/{topic}" if prefix else f"/{topic}"


class _Replay:
    """Takes the messages of a bag in the order of recording."""

    def __init__(self, path: Path, robot: RobotSpec, topics: dict[str, str]) -> None:
        self._path = path
        self._robot = robot
        self._topics = topics
        self._estimator = StateEstimator(robot)
        # What is paired at the end, when the time of commands is known: (topic, time, values).
        self._events: list[tuple[str, int, list[float]]] = []
        self._clock: list[tuple[int, int]] = []  # when recorded, what it read
        self._ahead: list[int] = []  # by how much recording times are ahead of stamps
        self._stamped = False
        self._rejected = 0
        self._problem = ""

    def add(self, topic: str, logged: int, message: Any) -> None:
        """Take a message and when it was recorded, in nanoseconds."""
        if topic not in self._topics:
            self._clock.append((logged, _nanoseconds(message.clock)))
            return
        name = self._topics[topic]
        try:
            if name == self._robot.command.topic:
                self._events.append((name, logged, self._command(message)))
            elif name == self._robot.reward:
                stamp = _nanoseconds(message.header.stamp)
                self._events.append((name, stamp, [_reward(message)]))
            else:
                self._sensor(name, logged, message)
        except ValueError as error:
            self._rejected += 1
            self._problem = str(error)

    def _sensor(self, name: str, logged: int, message: Any) -> None:
        # Data without a stamp of its own counts from when it was recorded.
        stamp = sensor_stamp(message)
        if stamp is None:
            stamp = logged
        self._stamped |= stamp != 0
        self._ahead.append(logged - stamp)
        seconds = logged / NANOSECONDS
        values = read_sensor(self._robot.sensors[name].type, message)
        state = self._estimator.add(name, stamp, values, seconds)
        if state is not None:
            self._events.append(("", state.stamp, state.values))

    def _command(self, message: Any) -> list[float]:
        return read_command(self._robot, message)

    def finish(self) -> Recording:
        """Pair what there is."""
        recorder = TransitionRecorder(self._robot)
        ahead = self._offset() if self._ahead and not self._clock else 0
        states = commands = 0
        for name, time, values in self._events:
            if name == "":
                recorder.add_state(time, values)
                states += 1
            elif name == self._robot.command.topic:
                recorder.add_action(
                    self._read_clock(time) if self._clock else time - ahead, values
                )
                commands += 1
            else:
                recorder.add_reward(time, values[0])
        recording = Recording(
            recorder.take(),
            states,
            commands,
            recorder.skipped,
            recorder.unrewarded,
            self._rejected,
            self._problem,
        )
        if len(recording.transitions) == 0:
            raise BagError(
                f"{self._path}: holds no usable transition of robot {self._robot.name}: "
                f"{recording}"
            )
        return recording

    def _read_clock(self, logged: int) -> int:
        """Return what the clock last read, or at first did, when this was recorded."""
        index = bisect.bisect_right(self._clock, logged, key=lambda pair: pair[0])
        return self._clock[max(0, index - 1)][1]

    def _offset(self) -> int:
        """Return by how much the recorder's clock is ahead of the sensors' stamps."""
        if not self._stamped:
            raise BagError(
                f"{self._path}: none of its {len(self._ahead)} sensor messages has a time stamp; "
                "the driver has to set header.stamp"
            )
        period = self._robot.period_nanoseconds
        first = statistics.median(self._ahead[:_ENDS])
        last = statistics.median(self._ahead[-_ENDS:])
        if abs(first - last) > period / 2:
            raise BagError(
                f"{self._path}: the time of recording is {first / NANOSECONDS:.3f} s ahead of "
                f"the sensors' stamps at first and {last / NANOSECONDS:.3f} s at the end, so "
                "that it cannot be told when commands were sent; of a simulation, record "
                f"{CLOCK} too"
            )
        ahead = statistics.median(self._ahead)
        # Less than that is the way to the recorder, which is as long for commands.
        return round(ahead) if abs(ahead) > period / 2 else 0


def _nanoseconds(time: Any) -> int:
    return int(time.sec) * NANOSECONDS + int(time.nanosec)


def _reward(message: Any) -> float:
    values = dict(zip(message.name, message.position, strict=False))
    if "reward" not in values:
        raise ValueError(f"reward message has no 'reward'; it has {list(message.name)}")
    return float(values["reward"])
