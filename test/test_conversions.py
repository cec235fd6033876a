# Copyright 2026 The mbrl_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Messages of every type that a robot file may name, to their values and back."""

import math
import random

import numpy as np
import pytest
from geometry_msgs.msg import Quaternion, Twist
from pydantic import TypeAdapter
from scipy.spatial.transform import Rotation
from sensor_msgs.msg import Imu, JointState
from std_msgs.msg import Float64MultiArray
from trajectory_msgs.msg import JointTrajectory, JointTrajectoryPoint

from mbrl_ros.robots import RobotSpec
from mbrl_ros.robots.messages import euler_angles, quaternion, unscaled
from mbrl_ros.robots.spec import SENSOR_FIELDS
from mbrl_ros.ros.conversions import (
    MESSAGES,
    command_message,
    read_command,
    read_sensor,
    sensor_message,
    sensor_stamp,
    to_nanoseconds,
)

STAMP = 12_345_678_901


def keys(type_):
    if type_ == "sensor_msgs/msg/JointState":
        return [f"{field}/{joint}" for field in SENSOR_FIELDS[type_] for joint in ("left", "a/b")]
    return SENSOR_FIELDS[type_] or ["0", "1", "2"]


@pytest.mark.parametrize("type_", SENSOR_FIELDS)
def test_sensor_messages_read_as_what_they_were_made_of(type_):
    generator = random.Random(0)
    for _ in range(100):
        values = {key: generator.uniform(-1.5, 1.5) for key in keys(type_)}
        message = sensor_message(type_, STAMP, "odom", values)
        assert isinstance(message, MESSAGES[type_])
        assert sensor_stamp(message) == STAMP
        assert read_sensor(message) == pytest.approx(values, abs=1e-12)


def test_angles_follow_rep_103():
    """Compared with SciPy's rotations about fixed axes."""
    generator = np.random.default_rng(0)
    for angles in generator.uniform(-math.pi, math.pi, (200, 3)):
        roll, pitch, yaw = angles[0], angles[1] / 2.0, angles[2]
        expected = Rotation.from_euler("xyz", [roll, pitch, yaw]).as_quat()
        found = np.array(quaternion(roll, pitch, yaw))
        assert min(np.abs(found - expected).max(), np.abs(found + expected).max()) < 1e-12
        # Of any length, either sign.
        assert euler_angles(*(-3.0 * expected)) == pytest.approx([roll, pitch, yaw], abs=1e-9)


def test_an_orientation_that_is_none_is_not_a_number():
    found = read_sensor(Imu(orientation=Quaternion(x=0.0, y=0.0, z=0.0, w=0.0)))
    assert math.isnan(found["orientation.yaw"])
    assert found["angular_velocity.z"] == 0.0


def test_fields_that_a_joint_state_leaves_out_are_left_out():
    assert read_sensor(JointState(name=["a"], position=[1.0])) == {"position/a": 1.0}
    with pytest.raises(ValueError, match="2 names but 1 of position"):
        read_sensor(JointState(name=["a", "b"], position=[1.0]))


def test_data_without_a_stamp_says_so():
    assert sensor_stamp(Float64MultiArray(data=[1.0])) is None


COMMANDS = {
    "std_msgs/msg/Float64MultiArray": [{}, {}],
    "geometry_msgs/msg/Twist": [{"field": "angular.z"}, {"field": "linear.x"}],
    "geometry_msgs/msg/TwistStamped": [{"field": "linear.y"}, {"field": "angular.x"}],
    "trajectory_msgs/msg/JointTrajectory": [
        {"field": "position", "joint": "a"},
        {"field": "velocity", "joint": "a"},
    ],
    "sensor_msgs/msg/JointState": [
        {"field": "effort", "joint": "b"},
        {"field": "effort", "joint": "a"},
    ],
}


def robot(type_, places, **command):
    dimensions = [
        {"name": f"u{i}", "unit": "1", "bounds": [-1.0, 1.0], **place}
        for i, place in enumerate(places)
    ]
    return TypeAdapter(RobotSpec).validate_python(
        {
            "name": "test",
            "control_rate": 10.0,
            "sensors": {"imu": {"type": "sensor_msgs/msg/Imu"}},
            "state": [{"name": "w", "sensor": "imu", "field": "angular_velocity.z", "unit": "1"}],
            "command": {"topic": "command", "type": type_, "dimensions": dimensions, **command},
            "cost": {"state": {"w": 1.0}},
        }
    )


@pytest.mark.parametrize("type_", COMMANDS)
def test_commands_read_as_what_they_were_made_of(type_):
    spec = robot(type_, COMMANDS[type_], frame="base_link")
    message = command_message(spec, STAMP, [0.25, -0.5])
    assert isinstance(message, MESSAGES[type_])
    assert read_command(spec, message) == [0.25, -0.5]
    if type_ in ("geometry_msgs/msg/TwistStamped", "sensor_msgs/msg/JointState"):
        assert to_nanoseconds(message.header.stamp) == STAMP
        assert message.header.frame_id == "base_link"


def test_commands_set_what_they_say():
    twist = command_message(
        robot("geometry_msgs/msg/Twist", COMMANDS["geometry_msgs/msg/Twist"]), 0, [0.25, -0.5]
    )
    assert twist == Twist(angular=type(twist.angular)(z=0.25), linear=type(twist.linear)(x=-0.5))
    type_ = "trajectory_msgs/msg/JointTrajectory"
    trajectory = command_message(robot(type_, COMMANDS[type_]), STAMP, [0.25, -0.5])
    (point,) = trajectory.points
    assert trajectory.joint_names == ["a"]
    assert (list(point.positions), list(point.velocities)) == ([0.25], [-0.5])
    assert to_nanoseconds(point.time_from_start) == 100_000_000
    assert to_nanoseconds(trajectory.header.stamp) == 0


@pytest.mark.parametrize(
    ("type_", "message", "reason"),
    [
        ("std_msgs/msg/Float64MultiArray", Float64MultiArray(), "0 values, expected 2"),
        ("trajectory_msgs/msg/JointTrajectory", JointTrajectory(), "0 points, expected 1"),
        (
            "trajectory_msgs/msg/JointTrajectory",
            JointTrajectory(joint_names=["a"], points=[JointTrajectoryPoint(positions=[1.0])]),
            "no 'velocity/a'",
        ),
        ("sensor_msgs/msg/JointState", JointState(name=["a"], effort=[1.0]), "no 'effort/b'"),
    ],
)
def test_commands_that_do_not_fit_are_refused(type_, message, reason):
    with pytest.raises(ValueError, match=reason):
        read_command(robot(type_, COMMANDS[type_]), message)


def test_numbers_are_scaled_to_the_units_of_the_robot(crane):
    """The crane counts in millimetres and degrees, and is driven in millimetres a second."""
    message = command_message(crane, STAMP, [0.25])
    assert list(message.velocity) == pytest.approx([250.0])
    assert read_command(crane, message) == pytest.approx([0.25])
    said = unscaled(crane, "crane/encoders", {"0": 0.5, "1": math.pi / 6.0})
    assert said == pytest.approx({"0": 500.0, "1": 30.0})
