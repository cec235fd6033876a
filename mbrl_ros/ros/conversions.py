# Copyright 2026 The mbrl_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Between ROS messages and plain Python values."""

from __future__ import annotations

import array
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from builtin_interfaces.msg import Duration, Time
from geometry_msgs.msg import PoseStamped, Quaternion, Twist, TwistStamped, Vector3
from nav_msgs.msg import Odometry
from sensor_msgs.msg import Imu, JointState
from std_msgs.msg import (
    Float64MultiArray,
    MultiArrayDimension,
    MultiArrayLayout,
    UInt8MultiArray,
)
from trajectory_msgs.msg import JointTrajectory, JointTrajectoryPoint

from mbrl_ros.robots import messages
from mbrl_ros.robots.message_types import (
    FLOAT64_MULTI_ARRAY,
    IMU,
    JOINT_FIELDS,
    JOINT_STATE,
    JOINT_TRAJECTORY,
    ODOMETRY,
    POSE_STAMPED,
    TWIST,
    TWIST_STAMPED,
)
from mbrl_ros.robots.messages import read_command, sensor_stamp
from mbrl_ros.units import NANOSECONDS

if TYPE_CHECKING:
    from mbrl_ros.robots.guarded import GuardedRobot
    from mbrl_ros.robots.spec import RobotSpec

__all__ = [
    "MESSAGES",
    "PREDICTED",
    "UNSTEERED",
    "bytes_message",
    "command_message",
    "named_values",
    "read_command",
    "read_named_values",
    "read_sensor",
    "sensor_message",
    "sensor_stamp",
    "to_nanoseconds",
    "to_time",
]

# header.frame_id of a state that is carried on from a late sensor's last message: nothing can
# be learned from it.
PREDICTED = "predicted"

# header.frame_id of an applied action that is not what the planner wished, but what the guard
# sends while it lets nothing pass: steps under it are not learned from.
UNSTEERED = "safe"

# The class of each message type that a robot file may name.
MESSAGES: dict[str, type[Any]] = {
    FLOAT64_MULTI_ARRAY: Float64MultiArray,
    IMU: Imu,
    JOINT_STATE: JointState,
    JOINT_TRAJECTORY: JointTrajectory,
    ODOMETRY: Odometry,
    POSE_STAMPED: PoseStamped,
    TWIST: Twist,
    TWIST_STAMPED: TwistStamped,
}
_TYPES = {class_: type_ for type_, class_ in MESSAGES.items()}


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


def read_sensor(message: Any) -> dict[str, float]:
    """Return the values of a sensor message by key (see `robots.messages`)."""
    return messages.read_sensor(_TYPES[type(message)], message)


def sensor_message(type_: str, stamp: int, frame: str, values: Mapping[str, float]) -> Any:
    """Return the message of this type that `read_sensor` reads as `values`.

    stamp: nanoseconds. frame: header.frame_id. What `values` does not name is zero; of a
    JointState it is not in the message.
    """
    if type_ == FLOAT64_MULTI_ARRAY:
        data = array.array("d", (values[str(place)] for place in range(len(values))))
        label = MultiArrayDimension(
            label=messages.stamp_label(stamp), size=len(data), stride=len(data)
        )
        return Float64MultiArray(layout=MultiArrayLayout(dim=[label]), data=data)
    message = MESSAGES[type_]()
    message.header.stamp = to_time(stamp)
    message.header.frame_id = frame
    if type_ == JOINT_STATE:
        message.name, columns = _columns(values)
        for field, column in columns.items():
            setattr(message, field, column)
    elif type_ == IMU:
        message.orientation = _orientation(values)
        message.angular_velocity = _vector(values, "angular_velocity")
        message.linear_acceleration = _vector(values, "linear_acceleration")
    else:
        pose = message.pose if type_ == POSE_STAMPED else message.pose.pose
        for axis in "xyz":
            setattr(pose.position, axis, values.get(f"position.{axis}", 0.0))
        pose.orientation = _orientation(values)
        if type_ == ODOMETRY:
            message.child_frame_id = "base_link"
            message.twist.twist.linear = _vector(values, "linear_velocity")
            message.twist.twist.angular = _vector(values, "angular_velocity")
    return message


def command_message(robot: RobotSpec | GuardedRobot, stamp: int, values: Sequence[float]) -> Any:
    """Return the message that carries an action (A,), in its units, on the robot's command topic.

    stamp: nanoseconds. A trajectory has one point, one control period after it was received:
    its own stamp is zero, which is how joint_trajectory_controller is told to start at once.
    """
    command = robot.command
    values = [v / d.scale for v, d in zip(values, command.dimensions, strict=True)]
    if command.type == FLOAT64_MULTI_ARRAY:
        return Float64MultiArray(data=array.array("d", values))
    if command.type in (TWIST, TWIST_STAMPED):
        named = {d.field or "": v for d, v in zip(command.dimensions, values, strict=True)}
        twist = Twist(linear=_vector(named, "linear"), angular=_vector(named, "angular"))
        if command.type == TWIST:
            return twist
        stamped = TwistStamped(twist=twist)
        stamped.header.stamp = to_time(stamp)
        stamped.header.frame_id = command.frame
        return stamped
    keys = [f"{dimension.field}/{dimension.joint}" for dimension in command.dimensions]
    names, columns = _columns(dict(zip(keys, values, strict=True)))
    if command.type == JOINT_STATE:
        message = JointState(name=names, **columns)
        message.header.stamp = to_time(stamp)
        message.header.frame_id = command.frame
        return message
    after = to_time(robot.period_nanoseconds)
    point = JointTrajectoryPoint(
        positions=columns.get("position", array.array("d")),
        velocities=columns.get("velocity", array.array("d")),
        effort=columns.get("effort", array.array("d")),
        time_from_start=Duration(sec=after.sec, nanosec=after.nanosec),
    )
    return JointTrajectory(joint_names=names, points=[point])


def _columns(values: Mapping[str, float]) -> tuple[list[str], dict[str, array.array[float]]]:
    """Return joint names, in order, and their values by field; no field without a value."""
    names = list(dict.fromkeys(key.partition("/")[2] for key in values))
    columns = {}
    for field in JOINT_FIELDS:
        if any(key.startswith(f"{field}/") for key in values):
            columns[field] = array.array("d", (values[f"{field}/{name}"] for name in names))
    return names, columns


def _vector(values: Mapping[str, float], name: str) -> Vector3:
    return Vector3(**{axis: float(values.get(f"{name}.{axis}", 0.0)) for axis in "xyz"})


def _orientation(values: Mapping[str, float]) -> Quaternion:
    angles = (values.get(f"orientation.{name}", 0.0) for name in ("roll", "pitch", "yaw"))
    x, y, z, w = messages.quaternion(*angles)
    return Quaternion(x=x, y=y, z=z, w=w)


def bytes_message(data: bytes) -> UInt8MultiArray:
    """Return a message that holds `data`; an array.array is copied at once, a list is not."""
    return UInt8MultiArray(data=array.array("B", data))
