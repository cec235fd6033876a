# Copyright 2026 The mbrl_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Goals from, and plans for, RViz and Foxglove, over real DDS."""

import math

import pytest
from geometry_msgs.msg import PoseStamped
from nav_msgs.msg import Path
from stack import LATEST, Listener, wait_for
from visualization_msgs.msg import Marker, MarkerArray

from mbrl_ros.robots import load_robot
from mbrl_ros.robots.messages import euler_angles
from mbrl_ros.ros.planar import PlanarView


@pytest.fixture
def listener():
    with Listener() as listening:
        yield listening


@pytest.fixture
def asked():
    return []


@pytest.fixture
def view(listener, asked):
    def change(names, values):
        asked.append(dict(zip(names, values, strict=True)))

    return PlanarView(listener.node, load_robot("diff_drive"), change)


def pose(x, y, frame="odom"):
    message = PoseStamped()
    message.header.frame_id = frame
    message.pose.position.x, message.pose.position.y = x, y
    message.pose.orientation.w = 1.0
    return message


def test_a_pose_that_somebody_clicked_becomes_the_goal(listener, view, asked):
    """Not of another frame, and not if it holds nonsense."""
    publisher = listener.node.create_publisher(PoseStamped, "goal_pose", LATEST)
    wait_for(lambda: publisher.get_subscription_count() > 0, "the subscriber")
    for message in (pose(9.0, 9.0, "map"), pose(math.nan, 9.0), pose(1.5, -0.5)):
        count = len(asked)
        publisher.publish(message)
        if message.header.frame_id == "odom" and math.isfinite(message.pose.position.x):
            wait_for(lambda count=count: len(asked) > count, "the goal")
    assert asked == [{"x": 1.5, "y": -0.5}]


def test_a_plan_is_shown_as_path_and_markers(listener, view):
    paths, markers = [], []
    states = [[0.1 * i, 0.2 * i, 0.3 * i, 0.0, 0.0] for i in range(4)]
    view.publish(0, states, [3.0, 0.0])  # to nobody
    listener.node.create_subscription(Path, "plan_path", paths.append, LATEST)
    listener.node.create_subscription(MarkerArray, "plan_markers", markers.append, LATEST)

    def shown():
        view.publish(2_500_000_000, states, [3.0, 0.0])
        return paths and markers

    wait_for(shown, "path and markers")
    path = paths[-1]
    assert path.header.frame_id == "odom"
    assert [p.pose.position.y for p in path.poses] == pytest.approx([0.0, 0.2, 0.4, 0.6])
    last = path.poses[-1]
    assert (last.header.stamp.sec, last.header.stamp.nanosec) == (2, 800_000_000)
    q = last.pose.orientation
    assert euler_angles(q.x, q.y, q.z, q.w)[2] == pytest.approx(0.9)
    found = markers[-1].markers
    assert [m.ns for m in found] == ["plan", "goal", "obstacles", "obstacles", "obstacles"]
    assert [m.type for m in found[2:]] == [Marker.CYLINDER, Marker.CYLINDER, Marker.CUBE]
    assert found[1].pose.position.x == 3.0
    assert (found[4].scale.x, found[4].scale.y) == (0.5, 0.4)


def test_a_robot_without_a_pose_in_the_plane_has_no_view(listener):
    with pytest.raises(ValueError, match="robot 'cartpole' has no planar: section"):
        PlanarView(listener.node, load_robot("cartpole"), lambda names, values: None)
