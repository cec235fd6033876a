# Copyright 2026 The mbrl_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Robot descriptions: what a YAML file says about a robot, validated."""

from mbrl_ros.robots.spec import RobotError, RobotSpec, load_robot, robot_names

__all__ = ["RobotError", "RobotSpec", "load_robot", "robot_names"]
