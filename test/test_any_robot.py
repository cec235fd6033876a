# Copyright 2026 The mbrl_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Estimator and guard of a robot that is none of ours, over real DDS, from its YAML alone."""

import math
import time

import pytest
from geometry_msgs.msg import Twist, TwistStamped
from nav_msgs.msg import Odometry
from sensor_msgs.msg import Imu, JointState
from stack import LATEST, Listener, Process, wait_for

from mbrl_ros.ros.conversions import named_values, sensor_message, to_nanoseconds
from mbrl_ros.ros.qos import STREAM

ROVER = """
name: rover
control_rate: 20.0
sensors:
  base/odometry: {type: nav_msgs/msg/Odometry, frame: odom}
  base/imu: {type: sensor_msgs/msg/Imu, align: latest}
state:
  - {name: east, sensor: base/odometry, field: position.x, unit: m}
  - {name: heading, sensor: base/odometry, field: orientation.yaw, unit: rad, angle: true}
  - {name: turn_rate, sensor: base/imu, field: angular_velocity.z, unit: rad/s}
  - {name: speed, derivative_of: east, filter: difference, unit: m/s}
command:
  topic: base/cmd_vel
  type: geometry_msgs/msg/TwistStamped
  frame: base_link
  dimensions:
    - {name: turn, field: angular.z, unit: rad/s, bounds: [-1.0, 1.0]}
    - {name: drive, field: linear.x, unit: m/s, bounds: [-0.5, 1.5], safe: 0.0}
goal:
  - {dimension: east, bounds: [-5.0, 5.0], tolerance: 0.1}
cost:
  goal: {east: 1.0}
"""
SECOND = 1_000_000_000


@pytest.fixture
def rover(tmp_path):
    path = tmp_path / "rover.yaml"
    path.write_text(ROVER, "utf-8")
    return path


@pytest.fixture
def listener():
    with Listener() as listening:
        yield listening


def node(folder, name, *parameters):
    words = ["--ros-args"]
    for parameter in parameters:
        words += ["-p", parameter]
    return Process(folder, f"mbrl_ros.nodes.{name}", words)


def test_odometry_and_imu_become_one_state(listener, rover, tmp_path):
    """A rover drives along x and turns past pi; stamps are of the system's clock."""
    odometry = listener.node.create_publisher(Odometry, "base/odometry", STREAM)
    imu = listener.node.create_publisher(Imu, "base/imu", STREAM)
    with node(tmp_path, "state_estimator", f"robot:={rover}") as estimator:
        for publisher in (odometry, imu):
            wait_for(lambda p=publisher: p.get_subscription_count() > 0, "a subscriber")
        begin = time.time_ns()
        while len(listener.states) < 8:
            assert time.time_ns() < begin + 60 * SECOND, estimator.output
            stamp = time.time_ns()
            t = (stamp - begin) / SECOND
            values = {"position.x": 0.5 * t, "orientation.yaw": math.pi - 0.1 + 0.5 * t}
            odometry.publish(sensor_message("nav_msgs/msg/Odometry", stamp, "odom", values))
            values = {"angular_velocity.z": 0.5}
            imu.publish(sensor_message("sensor_msgs/msg/Imu", stamp, "base_link", values))
            time.sleep(0.007)
        states = dict(sorted(listener.states.items()))
    first = min(states)
    for stamp, (east, heading, turn_rate, speed) in states.items():
        t = (stamp - begin) / SECOND
        assert stamp % (SECOND // 20) == 0
        assert east == pytest.approx(0.5 * t, abs=1e-6)
        assert math.remainder(heading - math.pi + 0.1 - 0.5 * t, 2.0 * math.pi) == pytest.approx(
            0.0, abs=1e-6
        )
        assert -math.pi <= heading <= math.pi
        assert turn_rate == 0.5
        if stamp > first:
            assert speed == pytest.approx(0.5, abs=1e-5)


def test_a_wrong_type_on_a_sensor_topic_is_named(listener, rover, tmp_path):
    listener.node.create_publisher(JointState, "base/imu", STREAM)
    with node(tmp_path, "state_estimator", f"robot:={rover}") as estimator:
        wait_for(
            lambda: (
                "waiting for base/odometry: nobody publishes /base/odometry (nav_msgs/msg/Odom"
                in estimator.output
            ),
            "the line",
            30.0,
        )
        wait_for(
            lambda: (
                "waiting for base/imu: /base/imu is published as sensor_msgs/msg/JointState by "
                "/listener, the robot's file says sensor_msgs/msg/Imu" in estimator.output
            ),
            "the line",
            30.0,
        )


def test_actions_go_out_as_stamped_twists(listener, rover, tmp_path):
    received = []
    listener.node.create_subscription(TwistStamped, "base/cmd_vel", received.append, LATEST)
    actions = listener.node.create_publisher(JointState, "action", LATEST)
    states = listener.node.create_publisher(JointState, "state", STREAM)
    names = ["east", "heading", "turn_rate", "speed"]
    with node(tmp_path, "command_guard", f"robot:={rover}", "armed:=true"):
        for publisher in (actions, states):
            wait_for(lambda p=publisher: p.get_subscription_count() > 0, "a subscriber")
        wait_for(lambda: listener.node.count_publishers("base/cmd_vel") > 0, "the guard")

        def send():
            stamp = time.time_ns()
            states.publish(named_values(stamp, names, [0.0, 0.0, 0.0, 0.0]))
            time.sleep(0.005)
            actions.publish(named_values(stamp, ["turn", "drive"], [0.5, 9.0]))
            time.sleep(0.03)
            return any(m.twist.linear.x for m in received)

        wait_for(send, "a command")
    moving = next(m for m in received if m.twist.linear.x)
    assert moving.twist.angular.z == 0.5
    assert moving.twist.linear.x == 1.5
    assert moving.header.frame_id == "base_link"
    assert abs(to_nanoseconds(moving.header.stamp) - time.time_ns()) < 60 * SECOND
    assert received[-1].twist == Twist()  # the last word is the safe command
