# Copyright 2026 The mbrl_ros authors
# SPDX-License-Identifier: Apache-2.0
"""A quadrotor that flies in a vertical plane, commanded by thrust and pitch rate."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from mbrl_ros.robots.spec import IMU, ODOMETRY, POSE_STAMPED, RobotSpec
from mbrl_ros.sim.plant import (
    Plant,
    Reading,
    check_actions,
    check_positive,
    initial_position,
)

_GRAVITY = 9.81  # m/s^2
_TIME_STEP = 0.005  # s


class Quadrotor2d(Plant):
    """A rigid body with an autopilot that follows rates, over flat ground at z = 0.

    Axes are those of REP-103: x forward, z up, and pitch about y, so that a positive pitch lowers
    the nose and thrust then pulls forward. Thrust and pitch rate follow their commands with lags,
    as they do behind a rate controller (Mellinger and Kumar, ICRA 2011, has the full model). Air
    drags by `drag` N a m/s. On the ground the body levels and friction stops it.

    The command dimensions are `thrust` (N, never below zero in effect) and `pitch_rate_command`
    (rad/s). An Odometry reads the pose, and speeds in the body's frame as that message has them;
    an Imu attitude, rate and specific force; a PoseStamped the pose. mass in kg, lags in s.
    Raises RobotError for a setting that cannot be.
    """

    disturbances = ("friction", "mass", "payload", "wind", "motor_gain")

    def __init__(
        self,
        robot: RobotSpec,
        seed: int = 0,
        mass: float = 1.0,
        thrust_lag: float = 0.02,
        rate_lag: float = 0.08,
        drag: float = 0.25,
    ) -> None:
        check_positive(mass=mass, thrust_lag=thrust_lag, rate_lag=rate_lag, drag=drag)
        check_actions(robot, ("thrust", "pitch_rate_command"))
        super().__init__(robot, seed)
        self._order = [robot.action_names.index(n) for n in ("thrust", "pitch_rate_command")]
        self._start = initial_position(robot, ("x", "z", "pitch"))
        self._mass, self._drag = mass, drag
        self._approach = [1.0 - math.exp(-_TIME_STEP / lag) for lag in (thrust_lag, rate_lag)]
        self.reset()

    @property
    def time_step(self) -> float:
        """Seconds of one integration step."""
        return _TIME_STEP

    def reset(self) -> None:
        """Return to the initial position, at rest, with motors off."""
        self._x, self._z, self._pitch = self._start
        self._vx = self._vz = self._rate = self._thrust = 0.0
        self._force = [0.0, _GRAVITY]  # specific force along the body's x and z, m/s^2

    def step(self, action: Sequence[float], steps: int) -> None:
        """Integrate by the semi-implicit Euler method."""
        world = self._values
        mass = world["mass"] * self._mass + world["payload"]
        drag = world["friction"] * self._drag
        thrust, rate = (world["motor_gain"] * action[i] for i in self._order)
        thrust = max(thrust, 0.0)
        for _ in range(steps):
            self._thrust += self._approach[0] * (thrust - self._thrust)
            self._rate += self._approach[1] * (rate - self._rate)
            sine, cosine = math.sin(self._pitch), math.cos(self._pitch)
            ax = (self._thrust * sine - drag * self._vx + world["wind"]) / mass
            az = (self._thrust * cosine - drag * self._vz) / mass - _GRAVITY
            if self._z <= 0.0 and self._vz + _TIME_STEP * az <= 0.0:
                self._rest()
                continue
            self._vx += _TIME_STEP * ax
            self._vz += _TIME_STEP * az
            self._x += _TIME_STEP * self._vx
            self._z += _TIME_STEP * self._vz
            self._pitch = math.remainder(self._pitch + _TIME_STEP * self._rate, 2.0 * math.pi)
            up = az + _GRAVITY
            self._force = [cosine * ax - sine * up, sine * ax + cosine * up]

    def _rest(self) -> None:
        self._z = self._vx = self._vz = self._pitch = self._rate = 0.0
        self._force = [0.0, _GRAVITY]

    def meters(self) -> dict[str, Callable[[], Reading]]:
        """Read what an autopilot publishes."""
        return {
            ODOMETRY: lambda: self._pose() | self._twist(),
            IMU: self._read_imu,
            POSE_STAMPED: self._pose,
        }

    def _pose(self) -> Reading:
        return {"position.x": self._x, "position.z": self._z, "orientation.pitch": self._pitch}

    def _twist(self) -> Reading:
        sine, cosine = math.sin(self._pitch), math.cos(self._pitch)
        return {
            "linear_velocity.x": cosine * self._vx - sine * self._vz,
            "linear_velocity.z": sine * self._vx + cosine * self._vz,
            "angular_velocity.y": self._rate,
        }

    def _read_imu(self) -> Reading:
        return {
            "orientation.pitch": self._pitch,
            "angular_velocity.y": self._rate,
            "linear_acceleration.x": self._force[0],
            "linear_acceleration.z": self._force[1],
        }
