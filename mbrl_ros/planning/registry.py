# Copyright 2026 The mbrl_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Kinds of planners by name; other packages add theirs through entry points."""

from __future__ import annotations

from importlib.metadata import entry_points
from typing import Any

from mbrl_ros.planning.mppi import MPPI
from mbrl_ros.planning.objective import Objective
from mbrl_ros.planning.planner import Planner
from mbrl_ros.robots.spec import RobotSpec

ENTRY_POINT_GROUP = "mbrl_ros.planners"

_BUILT_IN: dict[str, type[Planner]] = {MPPI.kind: MPPI}


def planner_kinds() -> list[str]:
    """Return the names that `make_planner` knows."""
    return sorted({*_BUILT_IN, *(point.name for point in entry_points(group=ENTRY_POINT_GROUP))})


def make_planner(kind: str, robot: RobotSpec, **settings: Any) -> Planner:
    """Make a planner of `kind` for `robot`; settings are those of its constructor.

    An entry point names a Planner class. Raises ValueError for an unknown kind, or a setting
    that cannot be used.
    """
    planner = _BUILT_IN.get(kind)
    for point in entry_points(group=ENTRY_POINT_GROUP):
        if planner is None and point.name == kind:
            planner = point.load()
    if planner is None:
        raise ValueError(f"unknown planner '{kind}'; expected one of {', '.join(planner_kinds())}")
    dimensions = robot.command.dimensions
    lower = [dimension.bounds[0] for dimension in dimensions]
    upper = [dimension.bounds[1] for dimension in dimensions]
    return planner(Objective(robot), lower, upper, **settings)
