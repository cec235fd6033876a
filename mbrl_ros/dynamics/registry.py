# Copyright 2026 The mbrl_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Kinds of dynamics models by name; other packages add theirs through entry points."""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import entry_points

from mbrl_ros.dynamics.features import FeatureMap
from mbrl_ros.dynamics.gp import GaussianProcess
from mbrl_ros.dynamics.model import DynamicsModel
from mbrl_ros.robots.spec import RobotSpec

ENTRY_POINT_GROUP = "mbrl_ros.dynamics"

ModelFactory = Callable[..., DynamicsModel]

_BUILT_IN: dict[str, ModelFactory] = {GaussianProcess.kind: GaussianProcess}


def model_kinds() -> list[str]:
    """Return the names that `make_model` knows."""
    return sorted({*_BUILT_IN, *(point.name for point in entry_points(group=ENTRY_POINT_GROUP))})


def make_model(kind: str, robot: RobotSpec, seed: int = 0) -> DynamicsModel:
    """Make a model of `kind` that knows nothing of `robot` yet.

    An entry point names a callable that takes (features: FeatureMap, seed: int). Raises
    ValueError for an unknown kind.
    """
    features = FeatureMap(robot.angle_mask, len(robot.command.dimensions))
    if kind in _BUILT_IN:
        return _BUILT_IN[kind](features, seed=seed)
    for point in entry_points(group=ENTRY_POINT_GROUP):
        if point.name == kind:
            factory: ModelFactory = point.load()
            return factory(features, seed=seed)
    raise ValueError(f"unknown model '{kind}'; expected one of {', '.join(model_kinds())}")
