# Copyright 2026 The mbrl_ros authors
# SPDX-License-Identifier: Apache-2.0
"""A robot simulated by MuJoCo from an MJCF file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from mbrl_ros.robots.spec import JOINT_FIELDS, JOINT_STATE, RobotError, RobotSpec

MODEL_DIRECTORY = Path(__file__).parent / "models"


class MujocoPlant:
    """Single-degree-of-freedom joints driven by the actuators of an MJCF file.

    Actuators are matched to the robot's action dimensions by name, joints by name.
    """

    def __init__(self, robot: RobotSpec) -> None:
        try:
            import mujoco
        except ImportError as error:
            raise RobotError(
                f"simulation needs MuJoCo, which cannot be imported ({error}); "
                "install it with: pip install 'mbrl_ros[sim]'"
            ) from None
        if robot.simulation is None:
            raise RobotError(
                f"robot '{robot.name}' has no simulation: section; add one or use sim:=false"
            )
        for topic, sensor in robot.sensors.items():
            if sensor.type != JOINT_STATE:
                raise RobotError(
                    f"sensor {topic}: plant mujoco has no {sensor.type}; expected {JOINT_STATE}"
                )
        if robot.simulation.model is None:
            raise RobotError("simulation.model: plant mujoco needs an MJCF file")
        self._topics = list(robot.sensors)
        path = MODEL_DIRECTORY / robot.simulation.model
        if not path.is_file():
            raise RobotError(f"simulation.model: no file {path}")
        try:
            self._model = mujoco.MjModel.from_xml_path(str(path))
        except ValueError as error:
            raise RobotError(f"simulation.model {path}: {error}") from None
        self._mujoco = mujoco
        self._data = mujoco.MjData(self._model)
        self._initial = dict(robot.simulation.initial_position)
        joints = [self._model.joint(i) for i in range(self._model.njnt)]
        actuators = [self._model.actuator(i).name for i in range(self._model.nu)]
        self.joint_names = [joint.name for joint in joints]
        self._addresses = [(int(joint.qposadr[0]), int(joint.dofadr[0])) for joint in joints]
        for name in self._initial:
            if name not in self.joint_names:
                raise RobotError(
                    f"simulation.initial_position: unknown joint '{name}'; "
                    f"expected one of {', '.join(self.joint_names)}"
                )
        if sorted(robot.action_names) != sorted(actuators):
            raise RobotError(
                f"simulation.model {path}: actuators {actuators} do not match "
                f"the command dimensions {robot.action_names}"
            )
        self._actuators = [actuators.index(name) for name in robot.action_names]
        self.reset()

    @property
    def time_step(self) -> float:
        """Seconds of one integration step."""
        return float(self._model.opt.timestep)

    def reset(self) -> None:
        """Return to the initial position, at rest, with no action."""
        self._mujoco.mj_resetData(self._model, self._data)
        for name, value in self._initial.items():
            self._data.joint(name).qpos[0] = value
        self._mujoco.mj_forward(self._model, self._data)

    def step(self, action: Sequence[float], steps: int) -> None:
        """Integrate `steps` time steps with action (A,) in force."""
        for actuator, value in zip(self._actuators, action, strict=True):
            self._data.ctrl[actuator] = value
        self._mujoco.mj_step(self._model, self._data, steps)

    def joint_state(self) -> tuple[list[float], list[float], list[float]]:
        """Return position, velocity and effort of each joint, in the order of `joint_names`."""
        return (
            [float(self._data.qpos[position]) for position, _ in self._addresses],
            [float(self._data.qvel[velocity]) for _, velocity in self._addresses],
            [float(self._data.qfrc_actuator[velocity]) for _, velocity in self._addresses],
        )

    def sensors(self) -> dict[str, dict[str, float]]:
        """Return what each sensor topic reads now, by key (see `robots.messages`)."""
        values = {
            f"{field}/{name}": value
            for field, column in zip(JOINT_FIELDS, self.joint_state(), strict=True)
            for name, value in zip(self.joint_names, column, strict=True)
        }
        return dict.fromkeys(self._topics, values)
