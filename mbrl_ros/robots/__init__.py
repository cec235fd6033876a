# Copyright 2026 The mbrl_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Robot descriptions: what a YAML file says about a robot, validated."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mbrl_ros.robots.spec import RobotError, RobotSpec, load_robot, robot_names

__all__ = ["RobotError", "RobotSpec", "load_robot", "robot_names"]


def __getattr__(name: str) -> Any:
    """Import what reads robot files only where it is used: the guard does without."""
    if name in __all__:
        return getattr(importlib.import_module("mbrl_ros.robots.spec"), name)
    raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
