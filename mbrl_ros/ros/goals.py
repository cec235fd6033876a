# Copyright 2026 The mbrl_ros authors
# SPDX-License-Identifier: Apache-2.0
"""The goal in force, as a node that is not the planner follows it."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from rcl_interfaces.msg import ParameterEvent, ParameterValue
from rcl_interfaces.srv import GetParameters
from rclpy.node import Node
from rclpy.parameter_client import AsyncParameterClient
from rclpy.task import Future

from mbrl_ros.planning.goals import Goals
from mbrl_ros.robots.spec import RobotSpec
from mbrl_ros.ros.peers import peer_name
from mbrl_ros.ros.qos import RECORDING

# Parameters of the planner that the goal in force follows from, in the order of their effect.
_GOALS = ("goal", "waypoint_dwell", "waypoints", "goal_trajectory")


class PlannerGoals:
    """Keeps `goals` as those of the planner in the same namespace, which every goal comes to.

    goal (G,): in force at first. on_change: called after parameters of the planner have changed
    the goal; way points and trajectories move it by `goals.at`, which the node calls. Call `ask`
    now and then until the planner `answered`: it may have been started with way points.
    """

    def __init__(
        self, node: Node, robot: RobotSpec, goal: Sequence[float], on_change: Callable[[], None]
    ) -> None:
        self.goals = Goals(robot)
        self.goals.set_goal(goal)
        self.answered = False
        self.parameters = AsyncParameterClient(node, "mpc_planner")
        self._node, self._on_change = node, on_change
        self._planner = peer_name(node, "mpc_planner")
        self._asked = False
        node.create_subscription(
            ParameterEvent, "/parameter_events", self._on_parameter, RECORDING
        )

    def ask(self) -> None:
        """Ask for what the planner has been started with, once it is there."""
        if self._asked or not self.parameters.services_are_ready():
            return
        self._asked = True

        def set_all(future: Future[GetParameters.Response]) -> None:
            response = future.result()
            for name, value in zip(_GOALS, response.values if response else [], strict=False):
                if value.double_array_value or value.double_value:
                    self._set(name, value)
            self.answered = True

        self.parameters.get_parameters(list(_GOALS), set_all)

    def _on_parameter(self, event: ParameterEvent) -> None:
        if event.node != self._planner:
            return
        for parameter in event.changed_parameters:
            if parameter.name in _GOALS:
                self._set(parameter.name, parameter.value)

    def _set(self, name: str, value: ParameterValue) -> None:
        goals, before = self.goals, list(self.goals.goal)
        numbers = [float(x) for x in value.double_array_value or value.integer_array_value]
        try:
            if name == "waypoint_dwell":
                goals.dwell = value.double_value or float(value.integer_value)
            elif name == "goal":
                goals.set_goal(numbers)
            elif name == "waypoints":
                goals.set_waypoints(numbers)
            else:
                goals.set_trajectory(numbers)
        except ValueError as error:
            # The planner has checked its own: this is one of another stack's.
            self._node.get_logger().warning(
                f"not followed, {name}: {error}", throttle_duration_sec=10.0
            )
            return
        if goals.goal != before:
            self._on_change()
