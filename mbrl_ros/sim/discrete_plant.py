# Copyright 2026 The mbrl_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Mazes, and Gymnasium environments with discrete spaces, as a robot."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from mbrl_ros.robots.spec import RobotError, RobotSpec
from mbrl_ros.sim.gymnasium_plant import INSTALL, EnvironmentPlant, make_environment

Span = tuple[int, int]  # lowest and highest value


class DiscretePlant(EnvironmentPlant):
    """One environment; a step of it is a control period, however long the robot has that.

    environment: a maze of `imagination.mazes` such as dyna_maze, or a registered name such as
    FrozenLake-v1. options: handed to the environment. A Float64MultiArray reads the observation
    by index. The command is the action's number, or the number after the last one: stay, with
    which the environment does not step at all.
    Raises RobotError if there is no such environment or the robot does not fit its spaces.
    """

    def __init__(
        self,
        robot: RobotSpec,
        seed: int = 0,
        environment: str = "",
        options: Mapping[str, Any] | None = None,
    ) -> None:
        made = _make(environment, options or {})
        _, (low, high) = spans(made, environment)
        self._stay = high + 1
        bounds = [dimension.bounds for dimension in robot.command.dimensions]
        if not robot.discrete or bounds not in ([(low, high)], [(low, self._stay)]):
            raise RobotError(
                f"robot '{robot.name}' has command bounds {[list(pair) for pair in bounds]}, "
                f"expected one dimension with discrete: true and bounds: [{low}, {high}]; "
                f"{self._stay} is to stay, which may be the safe command or one more choice"
            )
        super().__init__(robot, seed, made, robot.period)

    def step(self, action: Sequence[float], steps: int) -> None:
        """Take `steps` steps, fewer if the episode ends, or none: to stay."""
        number = int(action[0])
        self._take(number, 0 if number == self._stay else steps)


def spans(environment: Any, name: str) -> tuple[list[Span], Span]:
    """Return the spans of the numbers of an observation, and of the actions.

    Raises RobotError unless the observations are Discrete or MultiDiscrete, actions Discrete.
    """
    import numpy as np
    from gymnasium.spaces import Discrete, MultiDiscrete

    seen, done = environment.observation_space, environment.action_space
    if not isinstance(seen, Discrete | MultiDiscrete) or not isinstance(done, Discrete):
        raise RobotError(
            f"Gymnasium environment '{name}' has observation space {seen} and action space "
            f"{done}; expected Discrete or MultiDiscrete observations with Discrete actions, or "
            "a flat Box for both"
        )
    sizes = np.ravel(seen.n if isinstance(seen, Discrete) else seen.nvec).tolist()
    starts = np.ravel(seen.start).tolist()
    numbers = [(start, start + size - 1) for start, size in zip(starts, sizes, strict=True)]
    return numbers, (int(done.start), int(done.start + done.n) - 1)


def _make(name: str, options: Mapping[str, Any]) -> Any:
    try:
        from mbrl_ros.imagination.mazes import MAZES
    except ImportError:
        raise RobotError(f"{name} needs Gymnasium; install it with: {INSTALL}") from None
    if name not in MAZES:
        return make_environment(name, options)
    try:
        return MAZES[name](**options)
    except (TypeError, ValueError) as error:
        raise RobotError(f"maze '{name}' cannot be made: {error}") from None
