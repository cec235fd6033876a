# Copyright 2026 The mbrl_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Between ROS messages and plain Python values."""

from __future__ import annotations

import array
from collections.abc import Sequence

from builtin_interfaces.msg import Time
from sensor_msgs.msg import JointState
from std_msgs.msg import Float64MultiArray, UInt8MultiArray

from mbrl_ros.robots.spec import NANOSECONDS


def to_nanoseconds(stamp: Time) -> int:
    """Return a message stamp as nanoseconds."""
    return int(stamp.sec) * NANOSECONDS + int(stamp.nanosec)


def to_time(nanoseconds: int) -> Time:
    """Return nanoseconds as a message stamp."""
    return Time(sec=nanoseconds // NANOSECONDS, nanosec=nanoseconds % NANOSECONDS)


def named_values(stamp: int, names: Sequence[str], values: Sequence[float]) -> JointState:
    """Return the message of `state`, `action` and `applied_action`."""
    message = JointState(name=list(names), position=array.array("d", values))
    message.header.stamp = to_time(stamp)
    return message


def read_named_values(message: JointState, names: Sequence[str]) -> list[float]:
    """Return the values of `names`, in that order.

    Raises ValueError, saying what is missing, if the message does not hold them all.
    """
    if len(message.name) != len(message.position):
        raise ValueError(
            f"message has {len(message.name)} names but {len(message.position)} positions"
        )
    values = dict(zip(message.name, message.position, strict=True))
    missing = [name for name in names if name not in values]
    if missing:
        raise ValueError(f"message has no '{missing[0]}'; it has {list(message.name)}")
    return [float(values[name]) for name in names]


def command_message(values: Sequence[float]) -> Float64MultiArray:
    """Return the message of a forward_command_controller's command topic."""
    return Float64MultiArray(data=array.array("d", values))


def bytes_message(data: bytes) -> UInt8MultiArray:
    """Return a message that holds `data`; an array.array is copied at once, a list is not."""
    return UInt8MultiArray(data=array.array("B", data))
