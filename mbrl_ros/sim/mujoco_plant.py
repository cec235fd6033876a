# Copyright 2026 The mbrl_ros authors
# SPDX-License-Identifier: Apache-2.0
"""A robot simulated by MuJoCo from an MJCF file."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from mbrl_ros.robots.spec import (
    FLOAT64_MULTI_ARRAY,
    JOINT_FIELDS,
    JOINT_STATE,
    RobotError,
    RobotSpec,
)
from mbrl_ros.sim.plant import Plant, Reading, check_actions

MODEL_DIRECTORY = Path(__file__).parent / "models"
_PAYLOAD = "payload"  # the body that a payload is fixed to


class MujocoPlant(Plant):
    """Single-degree-of-freedom joints driven by the actuators of an MJCF file.

    Actuators are matched to the robot's action dimensions by name, joints by name. A
    JointState reads the joints, a Float64MultiArray the file's sensors in their order. Wind
    pushes at the centre of the last body that has mass; a payload sits at the body of that
    name, where the file has one.
    """

    disturbances: tuple[str, ...] = ("friction", "mass", "payload", "wind", "motor_gain")

    def __init__(self, robot: RobotSpec, seed: int = 0) -> None:
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
        if robot.simulation.model is None:
            raise RobotError("simulation.model is missing: plant mujoco needs an MJCF file")
        path = MODEL_DIRECTORY / robot.simulation.model
        if not path.is_file():
            raise RobotError(
                f"simulation.model: no file {path}, nor one of that name beside the robot's file"
            )
        try:
            self._model: Any = mujoco.MjModel.from_xml_path(str(path))
        except ValueError as error:
            raise RobotError(f"simulation.model {path}: {error}") from None
        self._mujoco = mujoco
        self._data = mujoco.MjData(self._model)
        self._initial = dict(robot.simulation.initial_position)
        joints = [self._model.joint(i) for i in range(self._model.njnt)]
        actuators = [self._model.actuator(i).name for i in range(self._model.nu)]
        bodies = [self._model.body(i).name for i in range(self._model.nbody)]
        self.joint_names = [joint.name for joint in joints]
        self._addresses = [(int(joint.qposadr[0]), int(joint.dofadr[0])) for joint in joints]
        for name in self._initial:
            if name not in self.joint_names:
                raise RobotError(
                    f"simulation.initial_position: unknown joint '{name}'; "
                    f"expected one of {', '.join(self.joint_names)}"
                )
        check_actions(robot, actuators)
        self._actuators = [actuators.index(name) for name in robot.action_names]
        if _PAYLOAD in bodies:
            self._loaded = bodies.index(_PAYLOAD)
            self._model.body_ipos[self._loaded] = 0.0  # a point mass, right at the body
        else:
            self._loaded = 0  # the world's mass is of no effect
            self.disturbances = tuple(n for n in self.disturbances if n != _PAYLOAD)
        self._last = max(i for i in range(len(bodies)) if self._model.body_mass[i] or not i)
        self._undisturbed = {
            name: getattr(self._model, name).copy()
            for name in (
                "dof_damping",
                "dof_frictionloss",
                "geom_friction",
                "body_mass",
                "body_inertia",
                "actuator_gear",
            )
        }
        super().__init__(robot, seed)
        self.reset()

    @property
    def time_step(self) -> float:
        """Seconds of one integration step."""
        return float(self._model.opt.timestep)

    def reset(self) -> None:
        """Return to the initial position, at rest, with no action; the world stays changed."""
        self._mujoco.mj_resetData(self._model, self._data)
        for name, value in self._initial.items():
            self._data.joint(name).qpos[0] = value
        self._push()
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

    def meters(self) -> dict[str, Callable[[], Reading]]:
        """Read joints and, of the file's own sensors, the numbers."""
        return {JOINT_STATE: self._read_joints, FLOAT64_MULTI_ARRAY: self._read_sensors}

    def _read_joints(self) -> Reading:
        return {
            f"{field}/{joint}": value
            for field, values in zip(JOINT_FIELDS, self.joint_state(), strict=True)
            for joint, value in zip(self.joint_names, values, strict=True)
        }

    def _read_sensors(self) -> Reading:
        return {str(i): float(value) for i, value in enumerate(self._data.sensordata)}

    def _disturb(self, name: str, value: float) -> None:
        super()._disturb(name, value)
        model, before = self._model, self._undisturbed
        if name == "friction":
            for array in ("dof_damping", "dof_frictionloss", "geom_friction"):
                getattr(model, array)[:] = value * before[array]
        elif name == "motor_gain":
            model.actuator_gear[:] = value * before["actuator_gear"]
        elif name == "wind":
            self._push()
        else:
            for array in ("body_mass", "body_inertia"):
                getattr(model, array)[:] = self._values["mass"] * before[array]
            model.body_mass[self._loaded] += self._values.get(_PAYLOAD, 0.0)
            # What MuJoCo derives from masses; in data of its own, which it overwrites.
            self._mujoco.mj_setConst(model, self._mujoco.MjData(model))

    def _push(self) -> None:
        self._data.xfrc_applied[self._last, 0] = self._values["wind"]
