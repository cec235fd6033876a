# Copyright 2026 The mbrl_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Any Gymnasium environment with continuous observations and actions, as a robot.

`describe_environment` also writes the robot file of those that `sim.discrete_plant` runs.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from mbrl_ros.robots.spec import FLOAT64_MULTI_ARRAY, RobotError, RobotSpec
from mbrl_ros.sim.plant import Plant, Reading

INSTALL = "pip install 'mbrl_ros[gym]'"
_OBSERVATION = "observation"


class EnvironmentPlant(Plant):
    """What all robots that are Gymnasium environments share.

    environment: made already. time_step: seconds that a step of it stands for. When an episode
    ends, `ended` is true until the next reset.
    """

    def __init__(self, robot: RobotSpec, seed: int, environment: Any, time_step: float) -> None:
        self._environment, self._time_step = environment, time_step
        super().__init__(robot, seed)
        self._begin(seed)

    @property
    def time_step(self) -> float:
        """Seconds of one step of the environment, which is a control period."""
        return self._time_step

    @property
    def reward(self) -> float:
        """What the last step earned."""
        return self._reward

    @property
    def ended(self) -> bool:
        """Whether the episode is over."""
        return self._ended

    def reset(self) -> None:
        """Begin a new episode; each may begin differently, but the same for the same seed."""
        self._begin(None)

    def _begin(self, seed: int | None) -> None:
        self._observation, _ = self._environment.reset(seed=seed)
        self._reward, self._ended = 0.0, False

    def _take(self, action: Any, steps: int) -> None:
        """Take `steps` steps, fewer if the episode ends; the reward is that of all of them."""
        self._reward = 0.0
        for _ in range(steps):
            if self._ended:
                return
            self._observation, reward, terminated, truncated, _ = self._environment.step(action)
            self._reward += float(reward)
            self._ended = bool(terminated or truncated)

    def meters(self) -> dict[str, Callable[[], Reading]]:
        """Read the observation."""
        return {FLOAT64_MULTI_ARRAY: self._read}

    def _read(self) -> Reading:
        import numpy as np

        return {str(i): float(value) for i, value in enumerate(np.ravel(self._observation))}


class GymnasiumPlant(EnvironmentPlant):
    """One environment; a step of it is a control period.

    environment: its registered name, such as HalfCheetah-v5. options: handed to the environment.
    A Float64MultiArray reads the observation by index; actions are in the order of the action
    space.
    Raises RobotError if there is no such environment or the robot does not fit its spaces.
    """

    disturbances = ("motor_gain",)

    def __init__(
        self,
        robot: RobotSpec,
        seed: int = 0,
        environment: str = "",
        options: Mapping[str, Any] | None = None,
    ) -> None:
        made = make_environment(environment, options or {})
        _check_continuous(made, environment)
        period, size = time_step(made), made.action_space.shape[0]
        if len(robot.action_names) != size:
            raise RobotError(
                f"robot '{robot.name}' has {len(robot.action_names)} command dimensions, "
                f"{environment} takes {size}"
            )
        if abs(robot.period - period) > 1e-6:
            raise RobotError(
                f"control_rate is {robot.control_rate:g} Hz, expected that of {environment}: "
                f"{1.0 / period:g} Hz"
            )
        super().__init__(robot, seed, made, period)

    def step(self, action: Sequence[float], steps: int) -> None:
        """Take `steps` steps, fewer if the episode ends; the reward is that of all of them."""
        space = self._environment.action_space
        numbers = [self._values["motor_gain"] * value for value in action]
        self._take(space.low.dtype.type(numbers).clip(space.low, space.high), steps)


def make_environment(name: str, options: Mapping[str, Any]) -> Any:
    """Make an environment; raises RobotError, with what was expected, if it cannot be used."""
    try:
        import gymnasium
    except ImportError as error:
        raise RobotError(
            f"{name or 'this robot'} needs Gymnasium, which cannot be imported ({error}); "
            f"install it with: {INSTALL}"
        ) from None
    quiet = _quiet_mujoco()
    try:
        environment: Any = gymnasium.make(name, **options)
    except (gymnasium.error.Error, ImportError, TypeError) as error:
        raise RobotError(f"Gymnasium environment '{name}' cannot be made: {error}") from None
    finally:
        quiet()
    return environment


def _check_continuous(environment: Any, name: str) -> None:
    """Raise RobotError unless observations and actions are flat rows of bounded numbers."""
    from gymnasium.spaces import Box

    for what in ("observation", "action"):
        space = getattr(environment, f"{what}_space")
        if not isinstance(space, Box) or len(space.shape) != 1:
            raise RobotError(
                f"Gymnasium environment '{name}' has {what} space {space}, expected a flat Box: "
                "continuous numbers in one row"
            )
    space = environment.action_space
    if not all(math.isfinite(bound) for bound in (*space.low, *space.high)):
        raise RobotError(f"Gymnasium environment '{name}': its actions have no finite bounds")


def time_step(environment: Any) -> float:
    """Return the seconds of one step, as far as the environment tells: its dt, or its frames."""
    own = getattr(environment.unwrapped, "dt", None)
    if own:
        return float(own)
    frames = environment.metadata.get("render_fps")
    if frames:
        return 1.0 / float(frames)
    raise RobotError(
        f"Gymnasium environment '{environment.spec.id}' does not tell how long a step lasts: it "
        "has neither dt nor metadata['render_fps']"
    )


def describe_environment(name: str) -> dict[str, Any]:
    """Return the robot file, as YAML would give it, of an environment.

    The observation is the state, by index; the environment's reward is learned and maximised.
    """
    environment = make_environment(name, {})  # which says if Gymnasium is missing
    from gymnasium.spaces import Discrete

    period = time_step(environment)
    space = environment.action_space
    discrete = isinstance(space, Discrete)
    state: list[dict[str, Any]]
    if discrete:
        from mbrl_ros.sim.discrete_plant import spans

        numbers, choices = spans(environment, name)
        state = [{"discrete": True, "safe_range": list(pair)} for pair in numbers]
        commands = [{"bounds": list(choices), "safe": choices[1] + 1, "discrete": True}]
    else:
        _check_continuous(environment, name)
        state = [{} for _ in range(environment.observation_space.shape[0])]
        commands = [
            {
                "bounds": [float(low), float(high)],
                "safe": min(max(0.0, float(low)), float(high)),
            }
            for low, high in zip(space.low, space.high, strict=True)
        ]
    environment.close()
    return {
        "name": re.sub(r"[^a-z0-9]+", "_", name.lower()).strip("_"),
        "description": f"Gymnasium environment {name}.",
        "control_rate": 1.0 / period,
        "sensors": {_OBSERVATION: {"type": FLOAT64_MULTI_ARRAY}},
        "state": [
            {"name": f"observation_{i}", "sensor": _OBSERVATION, "index": i, "unit": "1"} | more
            for i, more in enumerate(state)
        ],
        "command": {
            "topic": "commands",
            "type": FLOAT64_MULTI_ARRAY,
            "dimensions": [
                {"name": f"action_{i}", "unit": "1"} | more for i, more in enumerate(commands)
            ],
        },
        "reward": "reward",
        "cost": {"reward": 1.0},
        "simulation": {
            "plant": "discrete" if discrete else "gymnasium",
            "settings": {"environment": name},
        },
    }


def _quiet_mujoco() -> Callable[[], None]:
    """Keep MuJoCo from writing a log file about Gymnasium's models; the result undoes it."""
    try:
        import mujoco
    except ImportError:
        return lambda: None
    before = mujoco.get_mju_user_warning()
    mujoco.set_mju_user_warning(lambda message: None)
    return lambda: mujoco.set_mju_user_warning(before)
