# Copyright 2026 The mbrl_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Kinds of models, planners, costs, policies, plants; packages add theirs by entry points."""

from __future__ import annotations

from importlib.metadata import EntryPoint, entry_points
from typing import Any


class Kinds:
    """The named kinds of one entry point group; nothing is imported until it is loaded.

    what: how messages call them. built_in: "module:attribute" by name; it wins over an entry
    point of the same name.
    """

    def __init__(self, what: str, group: str, built_in: dict[str, str]) -> None:
        self._what = what
        self._group = group
        self._built_in = {name: EntryPoint(name, value, group) for name, value in built_in.items()}

    def names(self) -> list[str]:
        """Return the known names, sorted."""
        return sorted(self._points())

    def built_in(self) -> list[str]:
        """Return the names of this package's own kinds, sorted."""
        return sorted(self._built_in)

    def load(self, name: str) -> Any:
        """Return what the name stands for; raises ValueError, with the known ones, if unknown."""
        if name in self._built_in:  # without a look through all that is installed
            return self._built_in[name].load()
        points = self._points()
        if name not in points:
            raise ValueError(
                f"unknown {self._what} '{name}'; expected one of {', '.join(sorted(points))}"
            )
        return points[name].load()

    def _points(self) -> dict[str, EntryPoint]:
        others = {point.name: point for point in entry_points(group=self._group)}
        return others | self._built_in


MODELS = Kinds(
    "model",
    "mbrl_ros.dynamics",
    {
        "ensemble": "mbrl_ros.dynamics.ensemble:Ensemble",
        "gp": "mbrl_ros.dynamics.gp:GaussianProcess",
        "mlp": "mbrl_ros.dynamics.ensemble:MLP",
        "svgp": "mbrl_ros.dynamics.svgp:SparseGaussianProcess",
    },
)
PLANNERS = Kinds(
    "planner",
    "mbrl_ros.planners",
    {
        "cem": "mbrl_ros.planning.cem:CEM",
        "icem": "mbrl_ros.planning.icem:ICEM",
        "ilqr": "mbrl_ros.planning.ilqr:ILQR",
        "mppi": "mbrl_ros.planning.mppi:MPPI",
        "random_shooting": "mbrl_ros.planning.random_shooting:RandomShooting",
        "icem+ilqr": "mbrl_ros.planning.polished:PolishedICEM",
        "mppi+ilqr": "mbrl_ros.planning.polished:PolishedMPPI",
    },
)
COSTS = Kinds(
    "cost term",
    "mbrl_ros.costs",
    {"linear": "mbrl_ros.planning.linear_cost:LinearCost"},
)
POLICIES = Kinds(
    "policy",
    "mbrl_ros.policies",
    {
        "dyna_q": "mbrl_ros.imagination.tables:TabularDynaQ",
        "sac": "mbrl_ros.imagination.online:ImaginedSAC",
    },
)
PLANTS = Kinds(
    "plant",
    "mbrl_ros.plants",
    {
        "diff_drive": "mbrl_ros.sim.diff_drive:DiffDrive",
        "discrete": "mbrl_ros.sim.discrete_plant:DiscretePlant",
        "gymnasium": "mbrl_ros.sim.gymnasium_plant:GymnasiumPlant",
        "mujoco": "mbrl_ros.sim.mujoco_plant:MujocoPlant",
        "quadrotor2d": "mbrl_ros.sim.quadrotor2d:Quadrotor2d",
    },
)
