# Copyright 2026 The mbrl_ros authors
# SPDX-License-Identifier: Apache-2.0
"""True dynamics that planners can plan through, for many trajectories at once.

Cart-pole, arm and differential drive are integrated in closed form, with the masses and lengths
of their MJCF files; HalfCheetah-v5 is simulated by MuJoCo.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mbrl_ros.benchmarks.logs import MissingPackage, half_cheetah_environment
from mbrl_ros.dynamics.features import FeatureMap
from mbrl_ros.dynamics.model import DynamicsModel, Step, Transitions
from mbrl_ros.robots.spec import RobotSpec
from mbrl_ros.sim.mujoco_plant import MODEL_DIRECTORY

_GRAVITY = 9.81  # m/s^2
_STICTION = 0.05  # rad/s or m/s over which dry friction changes sign
_DIFFERENCE = 1e-5  # of finite differences


class TrueDynamics(DynamicsModel):
    """A model that is the plant itself: it knows all, learns nothing and is never uncertain."""

    kind = "true"
    transitions = 1

    def __init__(self, robot: RobotSpec) -> None:
        super().__init__(FeatureMap.of(robot))
        self.period = robot.period

    def update(self, new: Transitions) -> None:
        """Learn nothing."""

    @abstractmethod
    def step(self, states: Tensor, actions: Tensor) -> Tensor:
        """Return where states (N, D) are one period later under actions (N, A)."""

    def outputs(self, states: Tensor, actions: Tensor) -> tuple[Tensor, Tensor]:
        """Return the change of state, and no variance."""
        change = self.step(states, actions) - states
        return change, torch.zeros_like(change)

    def stepper(
        self, propagation: str, count: int, generator: torch.Generator | None = None
    ) -> Step:
        """All propagations are one."""
        return self.step

    def snapshot(self) -> dict[str, Tensor]:
        """There is nothing to keep."""
        return {}

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """There is nothing to take over."""


class ClosedForm(TrueDynamics):
    """Equations of motion, integrated by Runge and Kutta's fourth-order method."""

    substeps = 1

    @abstractmethod
    def derivative(self, states: Tensor, actions: Tensor) -> Tensor:
        """Return the time derivative (N, D) of states (N, D) under actions (N, A)."""

    def step(self, states: Tensor, actions: Tensor) -> Tensor:
        """Integrate over one period."""
        h = self.period / self.substeps
        for _ in range(self.substeps):
            a = self.derivative(states, actions)
            b = self.derivative(states + 0.5 * h * a, actions)
            c = self.derivative(states + 0.5 * h * b, actions)
            d = self.derivative(states + h * c, actions)
            states = states + h / 6.0 * (a + 2.0 * (b + c) + d)
        return states


def _friction(velocity: Tensor, damping: float, dry: float) -> Tensor:
    return damping * velocity + dry * torch.tanh(velocity / _STICTION)


class CartPole(ClosedForm):
    """cartpole.xml, but for the ends of its rail: the robot's soft bounds keep it from them."""

    def __init__(self, robot: RobotSpec) -> None:
        super().__init__(robot)
        bodies = _bodies(robot)
        pole = bodies.body("pole")
        self._masses = float(bodies.body("cart").mass[0] + pole.mass[0])
        self._offset = float(pole.mass[0] * pole.ipos[2])
        self._inertia = float(pole.inertia[1] + pole.mass[0] * pole.ipos[2] ** 2)
        self._damping, self._dry = _losses(bodies)

    def derivative(self, states: Tensor, actions: Tensor) -> Tensor:
        """Solve Newton's equations of cart and pole."""
        _, velocity, angle, rate = states.unbind(1)
        coupling = self._offset * torch.cos(angle)
        sine = self._offset * torch.sin(angle)
        force = actions[:, 0] + sine * rate.square()
        force = force - _friction(velocity, self._damping[0], self._dry[0])
        torque = _GRAVITY * sine - _friction(rate, self._damping[1], self._dry[1])
        determinant = self._masses * self._inertia - coupling.square()
        speeding = (self._inertia * force - coupling * torque) / determinant
        turning = (self._masses * torque - coupling * force) / determinant
        return torch.stack([velocity, speeding, rate, turning], 1)


class Arm(ClosedForm):
    """arm2.xml, but for the elbow's end stops: the robot's soft bounds keep it from them."""

    def __init__(self, robot: RobotSpec) -> None:
        super().__init__(robot)
        bodies = _bodies(robot)
        upper, fore = bodies.body("upper_arm"), bodies.body("forearm")
        length = float(fore.pos[0])
        # Bodies of capsules list their inertia about their own axes; the links turn about a
        # cross axis, of which there are two alike.
        about = [float(body.inertia.max()) for body in (upper, fore)]
        centers = [float(abs(body.ipos[0])) for body in (upper, fore)]
        mass = float(fore.mass[0])
        rotors = [float(bodies.dof_armature[i]) for i in range(2)]
        self._elbow = about[1] + mass * centers[1] ** 2
        self._shoulder = (
            about[0] + float(upper.mass[0]) * centers[0] ** 2 + mass * length**2 + self._elbow
        )
        self._rotors, self._coupling = rotors, mass * length * centers[1]
        self._damping, self._dry = _losses(bodies)

    def derivative(self, states: Tensor, actions: Tensor) -> Tensor:
        """Solve the two-link manipulator's equations (Spong et al., section 7)."""
        _, elbow, first, second = states.unbind(1)
        cosine = self._coupling * torch.cos(elbow)
        sine = self._coupling * torch.sin(elbow)
        a = self._shoulder + self._rotors[0] + 2.0 * cosine
        b = self._elbow + cosine
        c = self._elbow + self._rotors[1]
        shoulder = actions[:, 0] + sine * second * (2.0 * first + second)
        shoulder = shoulder - _friction(first, self._damping[0], self._dry[0])
        forearm = actions[:, 1] - sine * first.square()
        forearm = forearm - _friction(second, self._damping[1], self._dry[1])
        determinant = a * c - b.square()
        return torch.stack(
            [
                first,
                second,
                (c * shoulder - b * forearm) / determinant,
                (a * forearm - b * shoulder) / determinant,
            ],
            1,
        )


class DiffDrive(ClosedForm):
    """A unicycle whose speed and turn rate follow their commands with a lag."""

    lags = (0.2, 0.1)  # seconds, of speed and turn rate

    def derivative(self, states: Tensor, actions: Tensor) -> Tensor:
        """States are x, y, yaw, speed and turn rate; actions the last two as commanded."""
        _, _, yaw, speed, rate = states.unbind(1)
        return torch.stack(
            [
                speed * torch.cos(yaw),
                speed * torch.sin(yaw),
                rate,
                (actions[:, 0] - speed) / self.lags[0],
                (actions[:, 1] - rate) / self.lags[1],
            ],
            1,
        )


class HalfCheetah(TrueDynamics):
    """HalfCheetah-v5 by MuJoCo's batched rollouts; derivatives are finite differences."""

    def __init__(self, robot: RobotSpec) -> None:
        super().__init__(robot)
        environment = half_cheetah_environment()
        import mujoco
        from mujoco import rollout

        self._model: Any = environment.unwrapped.model
        self._skip = int(environment.unwrapped.frame_skip)
        environment.close()
        self._data = mujoco.MjData(self._model)
        self._rollout = rollout.Rollout(nthread=0)

    def step(self, states: Tensor, actions: Tensor) -> Tensor:
        """Simulate one period."""
        return self.rollout(states, actions[None])[1]

    def rollout(
        self,
        states: Tensor,
        actions: Tensor,
        propagation: str = "mean",
        generator: torch.Generator | None = None,
        precision: str = "float32",
        engine: str = "eager",
    ) -> Tensor:
        """Simulate whole trajectories in one call; see `DynamicsModel.rollout`."""
        count = len(states)
        # MuJoCo's states are time, position and velocity; the place along the track, which the
        # robot does not observe, is of no consequence.
        start = np.zeros((count, 2 + states.shape[1]))
        start[:, 2:] = states.numpy()
        control = np.repeat(actions.double().numpy().transpose(1, 0, 2), self._skip, axis=1)
        found, _ = self._rollout.rollout(self._model, self._data, start, control)
        after = torch.from_numpy(found[:, self._skip - 1 :: self._skip, 2:].copy())
        return torch.cat([states[None], after.transpose(0, 1).to(states.dtype)])

    def linearise(self, states: Tensor, actions: Tensor) -> tuple[Tensor, Tensor]:
        """Return central differences; see `DynamicsModel.linearise`."""
        size, width = states.shape[1], states.shape[1] + actions.shape[1]
        point = torch.cat([states, actions], 1).double()
        shift = _DIFFERENCE * torch.eye(width, dtype=torch.float64)
        moved = torch.cat([point[:, None] + shift, point[:, None] - shift], 1).flatten(0, 1)
        after = self.step(moved[:, :size], moved[:, size:]).view(len(states), 2, width, size)
        slopes = ((after[:, 0] - after[:, 1]) / (2.0 * _DIFFERENCE)).mT
        return slopes[..., :size], slopes[..., size:]


def _bodies(robot: RobotSpec) -> Any:
    """Return the robot's compiled MJCF model."""
    try:
        import mujoco
    except ImportError as error:
        raise MissingPackage(
            f"it needs MuJoCo, which cannot be imported ({error}); "
            "install it with: pip install 'mbrl_ros[sim]'"
        ) from None
    assert robot.simulation is not None
    assert robot.simulation.model is not None
    return mujoco.MjModel.from_xml_path(str(MODEL_DIRECTORY / robot.simulation.model))


def _losses(bodies: Any) -> tuple[list[float], list[float]]:
    """Return damping and dry friction of each joint."""
    return (
        [float(value) for value in np.ravel(bodies.dof_damping)],
        [float(value) for value in np.ravel(bodies.dof_frictionloss)],
    )
