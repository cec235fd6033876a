# Copyright 2026 The mbrl_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Messages in neutral form: numbers by key, whatever library made the message.

A sensor message becomes a flat dict of floats: of a JointState `position/JOINT`,
`velocity/JOINT` and `effort/JOINT`; of an Odometry, Imu or PoseStamped `position.x`,
`orientation.yaw` (roll and pitch too; REP-103, fixed axes), `linear_velocity.x`,
`angular_velocity.z`, `linear_acceleration.x`, as far as it has them; of a Float64MultiArray the
place in its data, `3`. `StateDimension.key` is such a key. Only attributes are read, so that
messages of rclpy and of rosbags do alike.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

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
from mbrl_ros.units import NANOSECONDS

if TYPE_CHECKING:
    from mbrl_ros.robots.spec import Command, RobotSpec

# Data that has no header carries its time, where its sender knows it, in the label of its first
# dimension: this and nanoseconds. A simulation in lockstep depends on it.
_STAMP_LABEL = "stamp_ns="


def read_sensor(type_: str, message: Any) -> dict[str, float]:
    """Return the values of a sensor message of this type, by key.

    Values may be anything that a float can hold; roll, pitch and yaw are NaN if the quaternion
    is none. Raises ValueError, saying why, if names and values of a JointState do not match.
    """
    return _READERS[type_](message)


def sensor_stamp(message: Any) -> int | None:
    """Return a sensor message's own time in nanoseconds, or None if it carries none."""
    if hasattr(message, "header"):
        stamp = message.header.stamp
        return int(stamp.sec) * NANOSECONDS + int(stamp.nanosec)
    dimensions = message.layout.dim
    if len(dimensions) and dimensions[0].label.startswith(_STAMP_LABEL):
        digits = dimensions[0].label.removeprefix(_STAMP_LABEL)
        return int(digits) if digits.isdecimal() else None
    return None


def rates(type_: str, values: Mapping[str, float]) -> dict[str, float]:
    """Return the rate of change, per second, of those values that a message tells it of.

    A joint's position moves with its velocity; an Odometry's position with its linear velocity,
    turned from the body frame by its orientation; orientation with the angular velocity of the
    body (none of it within 6 degrees of pitch straight up or down).
    """
    if type_ == JOINT_STATE:
        found = {
            key: values.get(f"velocity/{key.removeprefix('position/')}", math.nan)
            for key in values
            if key.startswith("position/")
        }
    elif type_ in (ODOMETRY, IMU):
        roll, pitch, yaw = (
            values.get(f"orientation.{name}", math.nan) for name in ("roll", "pitch", "yaw")
        )
        (cr, sr), (cp, sp) = ((math.cos(a), math.sin(a)) for a in (roll, pitch))
        p, q, r = (values.get(f"angular_velocity.{axis}", math.nan) for axis in "xyz")
        turn = q * sr + r * cr
        found = {}
        if abs(cp) > 0.1:
            found["orientation.roll"] = p + turn * sp / cp
            found["orientation.pitch"] = q * cr - r * sr
            found["orientation.yaw"] = turn / cp
        if type_ == ODOMETRY:
            cy, sy = math.cos(yaw), math.sin(yaw)
            u, v, w = (values.get(f"linear_velocity.{axis}", math.nan) for axis in "xyz")
            forward, left = cp * u + sp * (sr * v + cr * w), cr * v - sr * w
            found["position.x"] = cy * forward - sy * left
            found["position.y"] = sy * forward + cy * left
            found["position.z"] = cp * (sr * v + cr * w) - sp * u
    else:
        found = {}
    return {key: rate for key, rate in found.items() if math.isfinite(rate)}


def stamp_label(stamp: int) -> str:
    """Return the label by which a Float64MultiArray carries its time (nanoseconds)."""
    return f"{_STAMP_LABEL}{stamp}"


def unscaled(robot: RobotSpec, topic: str, values: Mapping[str, float]) -> dict[str, float]:
    """Return values by key, in SI units, as the sensor on `topic` would say them."""
    scales = {d.key: d.scale for d in robot.state if d.sensor == topic}
    return {key: value / scales.get(key, 1.0) for key, value in values.items()}


def read_command(robot: RobotSpec, message: Any) -> list[float]:
    """Return the action (A,), in its units, that a message on the robot's command topic carries.

    Raises ValueError, saying what was expected, if it does not carry exactly that.
    """
    numbers = _command_numbers(robot.command, message)
    return [d.scale * number for d, number in zip(robot.command.dimensions, numbers, strict=True)]


def _command_numbers(command: Command, message: Any) -> list[float]:
    if command.type == FLOAT64_MULTI_ARRAY:
        values = [float(value) for value in message.data]
        if len(values) != len(command.dimensions):
            raise ValueError(
                f"command has {len(values)} values, expected {len(command.dimensions)}"
            )
        return values
    if command.type in (TWIST, TWIST_STAMPED):
        twist = message.twist if command.type == TWIST_STAMPED else message
        found = _vector("linear", twist.linear) | _vector("angular", twist.angular)
        return [found[dimension.field or ""] for dimension in command.dimensions]
    if command.type == JOINT_TRAJECTORY:
        if len(message.points) != 1:
            raise ValueError(f"command has {len(message.points)} points, expected 1")
        (point,) = message.points
        lists = {
            "position": point.positions,
            "velocity": point.velocities,
            "effort": point.effort,
        }
        found = _by_joint(message.joint_names, lists)
    else:
        found = read_sensor(JOINT_STATE, message)
    try:
        return [found[f"{dimension.field}/{dimension.joint}"] for dimension in command.dimensions]
    except KeyError as error:
        raise ValueError(f"command has no {error}; it has {sorted(found)}") from None


def euler_angles(x: float, y: float, z: float, w: float) -> tuple[float, float, float]:
    """Return roll, pitch and yaw of a quaternion (REP-103: fixed axes x, y, z), in radians.

    Roll and yaw lie in [-pi, pi], pitch in [-pi/2, pi/2]. NaN if it has no length.
    """
    length = math.sqrt(x * x + y * y + z * z + w * w)
    if not 0.0 < length < math.inf:
        return math.nan, math.nan, math.nan
    x, y, z, w = x / length, y / length, z / length, w / length
    return (
        math.atan2(2.0 * (w * x + y * z), 1.0 - 2.0 * (x * x + y * y)),
        math.asin(max(-1.0, min(1.0, 2.0 * (w * y - z * x)))),
        math.atan2(2.0 * (w * z + x * y), 1.0 - 2.0 * (y * y + z * z)),
    )


def quaternion(roll: float, pitch: float, yaw: float) -> tuple[float, float, float, float]:
    """Return the quaternion (x, y, z, w) of these angles: the inverse of `euler_angles`."""
    (cr, sr), (cp, sp), (cy, sy) = (
        (math.cos(angle / 2.0), math.sin(angle / 2.0)) for angle in (roll, pitch, yaw)
    )
    return (
        sr * cp * cy - cr * sp * sy,
        cr * sp * cy + sr * cp * sy,
        cr * cp * sy - sr * sp * cy,
        cr * cp * cy + sr * sp * sy,
    )


def _vector(name: str, value: Any) -> dict[str, float]:
    return {f"{name}.{axis}": float(getattr(value, axis)) for axis in "xyz"}


def _orientation(value: Any) -> dict[str, float]:
    angles = euler_angles(value.x, value.y, value.z, value.w)
    names = ("orientation.roll", "orientation.pitch", "orientation.yaw")
    return dict(zip(names, angles, strict=True))


def _by_joint(names: Any, lists: Mapping[str, Any]) -> dict[str, float]:
    found: dict[str, float] = {}
    for field, values in lists.items():
        # A field that is not measured is an empty list.
        if len(values) not in (0, len(names)):
            raise ValueError(f"message has {len(names)} names but {len(values)} of {field}")
        for name, value in zip(names, values, strict=False):
            found[f"{field}/{name}"] = float(value)
    return found


def _joint_state(message: Any) -> dict[str, float]:
    return _by_joint(message.name, {field: getattr(message, field) for field in JOINT_FIELDS})


def _pose(pose: Any) -> dict[str, float]:
    return _vector("position", pose.position) | _orientation(pose.orientation)


def _odometry(message: Any) -> dict[str, float]:
    twist = message.twist.twist
    return (
        _pose(message.pose.pose)
        | _vector("linear_velocity", twist.linear)
        | _vector("angular_velocity", twist.angular)
    )


def _imu(message: Any) -> dict[str, float]:
    return (
        _orientation(message.orientation)
        | _vector("angular_velocity", message.angular_velocity)
        | _vector("linear_acceleration", message.linear_acceleration)
    )


_READERS: dict[str, Callable[[Any], dict[str, float]]] = {
    JOINT_STATE: _joint_state,
    ODOMETRY: _odometry,
    IMU: _imu,
    POSE_STAMPED: lambda message: _pose(message.pose),
    FLOAT64_MULTI_ARRAY: lambda message: {
        str(place): float(value) for place, value in enumerate(message.data)
    },
}
