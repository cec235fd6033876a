# Copyright 2026 The mbrl_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Stored experience as a rosbag2 recording, for Foxglove, PlotJuggler and rosbags."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.progress import track
from rosbags.rosbag2 import StoragePlugin, Writer
from rosbags.typesys import Stores, get_typestore

from mbrl_ros.dynamics.dataset import Trajectory, trajectories
from mbrl_ros.dynamics.experience import Experience
from mbrl_ros.offline.bags import JOINT_STATE, BagError
from mbrl_ros.robots.spec import NANOSECONDS

_GAP = NANOSECONDS  # between runs whose times overlap


def export(experience: Experience, path: Path, force: bool = False, progress: bool = False) -> int:
    """Write all that is stored as a bag (MCAP) with topics state, applied_action and reward.

    The types are those on the wire: sensor_msgs/JointState with the dimensions' names. The
    header's stamp is robot time; so is the log time, except that a run whose time begins before
    the end of the one before, as in simulation, is moved behind it. An action is stamped with
    the beginning of its step, a reward with the end. progress: show a bar on standard error.

    Returns the number of messages. Raises BagError if there is nothing to write or `path`
    exists (with `force`: and is no bag), OSError if it cannot be written.
    """
    if path.exists():
        if not force:
            raise BagError(f"{path}: exists already; choose another name or give --force")
        if not (path / "metadata.yaml").is_file():
            raise BagError(f"{path}: exists and is not a bag, so that --force leaves it alone")
    if len(experience) == 0:
        raise BagError(f"{experience.path}: no experience is stored in it yet")
    # Beside its place until it is complete.
    partial = path.with_name(f".{path.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        partial.mkdir(parents=True)
        count = _write(experience, partial / path.name, progress)
        if path.exists():
            shutil.rmtree(path)
        (partial / path.name).replace(path)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return count


def _write(experience: Experience, path: Path, progress: bool) -> int:
    about = experience.description
    store = get_typestore(Stores.ROS2_JAZZY)
    message, header, time = (
        store.types[name]
        for name in (JOINT_STATE, "std_msgs/msg/Header", "builtin_interfaces/msg/Time")
    )
    names = {"state": about.state, "applied_action": about.action, "reward": ("reward",)}
    topics = ["state", "applied_action", *(["reward"] if about.rewards else [])]
    nothing = np.zeros(0)
    count, offset, last = 0, 0, -1
    with Writer(path, version=9, storage_plugin=StoragePlugin.MCAP) as writer:
        writer.set_custom_data("robot", about.robot)
        connections = {
            topic: writer.add_connection(f"/{topic}", JOINT_STATE, typestore=store)
            for topic in topics
        }
        pieces = [
            piece
            for run in experience.runs()
            for piece in trajectories(run.transitions, about.period_nanoseconds)
        ]
        for topic, stamp, values in track(
            _messages(pieces),
            f"writing {path.name}",
            total=len(topics) * sum(len(piece) for piece in pieces) + len(pieces),
            console=Console(stderr=True),
            disable=not progress,
        ):
            if stamp + offset < last:
                offset = last + _GAP - stamp
            last = stamp + offset
            content = message(
                header=header(
                    stamp=time(sec=stamp // NANOSECONDS, nanosec=stamp % NANOSECONDS), frame_id=""
                ),
                name=list(names[topic]),
                position=np.asarray(values, np.float64),
                velocity=nothing,
                effort=nothing,
            )
            writer.write(connections[topic], last, store.serialize_cdr(content, JOINT_STATE))
            count += 1
    return count


def _messages(pieces: Sequence[Trajectory]) -> Iterator[tuple[str, int, Sequence[float]]]:
    """Yield topic, stamp and values, in the order in which they happened within each piece."""
    for piece in pieces:
        stamps, states = piece.stamps.tolist(), piece.states.tolist()
        actions, rewards = piece.actions.tolist(), piece.rewards.tolist()
        yield "state", stamps[0], states[0]
        for i in range(len(piece)):
            yield "applied_action", stamps[i], actions[i]
            yield "state", stamps[i + 1], states[i + 1]
            if rewards[i]:
                yield "reward", stamps[i + 1], rewards[i]
