# Copyright 2026 The mbrl_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Goals from, and plans for, tools that show a plane: RViz and Foxglove."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from geometry_msgs.msg import Point, PoseStamped, Quaternion
from nav_msgs.msg import Path
from rclpy.node import Node
from std_msgs.msg import ColorRGBA
from visualization_msgs.msg import Marker, MarkerArray

from mbrl_ros.robots.messages import quaternion, read_sensor
from mbrl_ros.robots.spec import POSE_STAMPED, Obstacle, RobotSpec
from mbrl_ros.ros.conversions import to_time
from mbrl_ros.ros.qos import LATEST

_HEIGHT = 0.2  # of the obstacles that are drawn, m
_GREEN = ColorRGBA(r=0.1, g=0.7, b=0.2, a=0.9)
_RED = ColorRGBA(r=0.8, g=0.2, b=0.1, a=0.6)
_BLUE = ColorRGBA(r=0.1, g=0.4, b=0.9, a=0.9)


class PlanarView:
    """Takes `goal_pose`, and publishes `plan_path` and `plan_markers`, of a robot with `planar`.

    change_goal: called with names and values of the goal dimensions that the pose fixes; raises
    ValueError, with the reason, if it refuses them. Messages are built only for subscribers.
    """

    def __init__(
        self,
        node: Node,
        robot: RobotSpec,
        change_goal: Callable[[Sequence[str], Sequence[float]], None],
    ) -> None:
        if robot.planar is None:
            raise ValueError(f"robot '{robot.name}' has no planar: section")
        self._node, self._robot, self._change_goal = node, robot, change_goal
        planar, names = robot.planar, robot.state_names
        self._places = [names.index(planar.x), names.index(planar.y)]
        self._heading = None if planar.yaw is None else names.index(planar.yaw)
        keys = (
            (planar.x, "position.x"),
            (planar.y, "position.y"),
            (planar.yaw, "orientation.yaw"),
        )
        self._goal_keys = {name: key for name, key in keys if name in robot.goal_names}
        sensor = robot.state[self._places[0]].sensor
        self._frame = robot.sensors[sensor].frame if sensor is not None else ""
        self._paths = node.create_publisher(Path, "plan_path", LATEST)
        self._markers = node.create_publisher(MarkerArray, "plan_markers", LATEST)
        if self._goal_keys:
            node.create_subscription(PoseStamped, "goal_pose", self._on_goal_pose, LATEST)

    def _on_goal_pose(self, message: PoseStamped) -> None:
        frame = message.header.frame_id
        try:
            if frame and self._frame and frame != self._frame:
                raise ValueError(
                    f"it is in frame '{frame}', expected '{self._frame}'; nothing transforms it"
                )
            found = read_sensor(POSE_STAMPED, message)
            values = [found[key] for key in self._goal_keys.values()]
            if not all(math.isfinite(value) for value in values):
                raise ValueError(f"it holds a value that is not finite: {values}")
            self._change_goal(list(self._goal_keys), values)
        except ValueError as error:
            self._node.get_logger().error(f"goal_pose refused: {error}", throttle_duration_sec=1.0)

    def publish(
        self, stamp: int, states: Sequence[Sequence[float]], goal: Sequence[float]
    ) -> None:
        """Show a plan.

        stamp: of its first state, nanoseconds. states (H + 1, D). goal (G,) in force.
        """
        if self._paths.get_subscription_count():
            self._paths.publish(self._path(stamp, states))
        if self._markers.get_subscription_count():
            self._markers.publish(self._marker_array(stamp, states, goal))

    def _path(self, stamp: int, states: Sequence[Sequence[float]]) -> Path:
        path = Path()
        path.header.stamp, path.header.frame_id = to_time(stamp), self._frame
        for step, state in enumerate(states):
            pose = PoseStamped()
            pose.header.stamp = to_time(stamp + step * self._robot.period_nanoseconds)
            pose.header.frame_id = self._frame
            pose.pose.position = self._point(state)
            yaw = 0.0 if self._heading is None else state[self._heading]
            x, y, z, w = quaternion(0.0, 0.0, yaw)
            pose.pose.orientation = Quaternion(x=x, y=y, z=z, w=w)
            path.poses.append(pose)
        return path

    def _marker_array(
        self, stamp: int, states: Sequence[Sequence[float]], goal: Sequence[float]
    ) -> MarkerArray:
        line = self._marker(stamp, "plan", 0, Marker.LINE_STRIP, _GREEN, (0.03, 0.0, 0.0))
        line.points = [self._point(state) for state in states]
        markers = [line]
        wanted = dict(zip(self._robot.goal_names, goal, strict=True))
        place = [wanted.get(self._robot.state_names[i]) for i in self._places]
        if None not in place:
            marker = self._marker(stamp, "goal", 0, Marker.SPHERE, _BLUE, (0.15, 0.15, 0.15))
            marker.pose.position = Point(x=place[0], y=place[1])
            markers.append(marker)
        plane = tuple(self._robot.state_names[i] for i in self._places)
        for number, obstacle in enumerate(self._robot.cost.obstacles):
            if obstacle.plane == plane:
                markers.append(self._obstacle(stamp, number, obstacle))
        return MarkerArray(markers=markers)

    def _obstacle(self, stamp: int, number: int, obstacle: Obstacle) -> Marker:
        round_ = obstacle.shape == "circle"
        width = (2.0 * obstacle.radius, 2.0 * obstacle.radius) if round_ else obstacle.size
        kind = Marker.CYLINDER if round_ else Marker.CUBE
        marker = self._marker(stamp, "obstacles", number, kind, _RED, (*width, _HEIGHT))
        marker.pose.position = Point(x=obstacle.center[0], y=obstacle.center[1], z=_HEIGHT / 2.0)
        return marker

    def _marker(
        self,
        stamp: int,
        namespace: str,
        number: int,
        kind: int,
        color: ColorRGBA,
        scale: tuple[float, float, float],
    ) -> Marker:
        marker = Marker(ns=namespace, id=number, type=kind, action=Marker.ADD, color=color)
        marker.header.stamp, marker.header.frame_id = to_time(stamp), self._frame
        marker.scale.x, marker.scale.y, marker.scale.z = scale
        marker.pose.orientation.w = 1.0
        return marker

    def _point(self, state: Sequence[float]) -> Point:
        return Point(x=float(state[self._places[0]]), y=float(state[self._places[1]]))
