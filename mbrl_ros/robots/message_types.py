# Copyright 2026 The mbrl_ros authors
# SPDX-License-Identifier: Apache-2.0
"""The message types that a robot's file may name, and what can be read of them or set in them."""

from __future__ import annotations

JOINT_STATE = "sensor_msgs/msg/JointState"
ODOMETRY = "nav_msgs/msg/Odometry"
IMU = "sensor_msgs/msg/Imu"
POSE_STAMPED = "geometry_msgs/msg/PoseStamped"
FLOAT64_MULTI_ARRAY = "std_msgs/msg/Float64MultiArray"
TWIST = "geometry_msgs/msg/Twist"
TWIST_STAMPED = "geometry_msgs/msg/TwistStamped"
JOINT_TRAJECTORY = "trajectory_msgs/msg/JointTrajectory"

JOINT_FIELDS = ("position", "velocity", "effort")


def _vector(name: str) -> tuple[str, ...]:
    return tuple(f"{name}.{axis}" for axis in "xyz")


_ORIENTATION = ("orientation.roll", "orientation.pitch", "orientation.yaw")
_TWIST_FIELDS = (*_vector("linear"), *_vector("angular"))

# What a state dimension may read of each type of sensor, by `field`; a JointState needs `joint`
# as well, a Float64MultiArray `index` instead.
SENSOR_FIELDS: dict[str, tuple[str, ...]] = {
    JOINT_STATE: JOINT_FIELDS,
    ODOMETRY: (
        *_vector("position"),
        *_ORIENTATION,
        *_vector("linear_velocity"),
        *_vector("angular_velocity"),
    ),
    IMU: (*_ORIENTATION, *_vector("angular_velocity"), *_vector("linear_acceleration")),
    POSE_STAMPED: (*_vector("position"), *_ORIENTATION),
    FLOAT64_MULTI_ARRAY: (),
}

# What an action dimension may set of each type of command, by `field`; the last two need
# `joint` as well, a Float64MultiArray takes the order of the dimensions.
COMMAND_FIELDS: dict[str, tuple[str, ...]] = {
    FLOAT64_MULTI_ARRAY: (),
    TWIST: _TWIST_FIELDS,
    TWIST_STAMPED: _TWIST_FIELDS,
    JOINT_TRAJECTORY: JOINT_FIELDS,
    JOINT_STATE: JOINT_FIELDS,
}
