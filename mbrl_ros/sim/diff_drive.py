# Copyright 2026 The mbrl_ros authors
# SPDX-License-Identifier: Apache-2.0
"""A differential drive whose two wheels slip."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from mbrl_ros.robots.spec import IMU, JOINT_STATE, ODOMETRY, POSE_STAMPED, RobotSpec
from mbrl_ros.sim.plant import (
    Plant,
    Reading,
    check_actions,
    check_positive,
    initial_position,
)

_GRAVITY = 9.81  # m/s^2
_TIME_STEP = 0.005  # s
_STIFFNESS = 150.0  # N of traction a m/s of slip, until the grip ends
_ROLLING = 1.0  # N s/m that slows the robot as it rolls
_SCRUBBING = 0.1  # N m s that slows it as it turns on the spot


class DiffDrive(Plant):
    """A body on two driven wheels and a caster, in the plane.

    The wheels' speeds follow their commands with a lag, `motor_lag`. A wheel pulls in proportion
    to its slip, the speed of its rim over the ground, up to `grip` times the load on it; so
    commands that ask for more make the wheels spin or slide. (A linear tyre with a Coulomb limit;
    see Wong, "Theory of Ground Vehicles", section 1.4.) The robot never slides sideways.

    The command dimensions are `speed_command` (m/s) and `turn_command` (rad/s, left is positive).
    An Odometry reads the true pose and speeds, an Imu turn rate, accelerations and heading, a
    JointState the wheels, a PoseStamped the pose. SI units throughout: mass in kg, track (distance
    of the wheels) and wheel_radius in m, motor_lag in s, patch_center and patch_radius in m.
    Raises RobotError for a setting that cannot be.
    """

    disturbances = ("friction", "mass", "payload", "wind", "motor_gain", "slippery_patch")

    def __init__(
        self,
        robot: RobotSpec,
        seed: int = 0,
        mass: float = 10.0,
        track: float = 0.4,
        wheel_radius: float = 0.08,
        motor_lag: float = 0.15,
        grip: float = 0.6,
        patch_center: Sequence[float] = (0.0, 0.0),
        patch_radius: float = 1.0,
    ) -> None:
        check_positive(
            mass=mass,
            track=track,
            wheel_radius=wheel_radius,
            motor_lag=motor_lag,
            grip=grip,
            patch_radius=patch_radius,
        )
        check_actions(robot, ("speed_command", "turn_command"))
        super().__init__(robot, seed)
        self._order = [robot.action_names.index(n) for n in ("speed_command", "turn_command")]
        self._start = initial_position(robot, ("x", "y", "yaw"))
        self._mass, self._track, self._radius = mass, track, wheel_radius
        self._lag, self._grip = motor_lag, grip
        self._patch_x, self._patch_y = patch_center
        self._patch_radius = patch_radius
        self.reset()

    @property
    def time_step(self) -> float:
        """Seconds of one integration step."""
        return _TIME_STEP

    def reset(self) -> None:
        """Return to the initial position, at rest."""
        self._x, self._y, self._yaw = self._start
        self._speed = self._rate = self._acceleration = 0.0
        self._rims = [0.0, 0.0]  # speeds of the left and the right wheel's rim, m/s
        self._turned = [0.0, 0.0]  # angles of the wheels, rad

    @property
    def on_patch(self) -> bool:
        """Whether the robot stands on the slippery patch, slippery or not."""
        across, along = self._x - self._patch_x, self._y - self._patch_y
        return math.hypot(across, along) <= self._patch_radius

    def step(self, action: Sequence[float], steps: int) -> None:
        """Integrate by the semi-implicit Euler method."""
        world, half = self._values, 0.5 * self._track
        mass = world["mass"] * self._mass + world["payload"]
        # Of a disc that reaches to the wheels.
        inertia = 0.5 * mass * half * half
        speed, turn = (world["motor_gain"] * action[i] for i in self._order)
        wished = (speed - half * turn, speed + half * turn)
        approach = 1.0 - math.exp(-_TIME_STEP / self._lag)
        for _ in range(steps):
            loss = world["slippery_patch"] if self.on_patch else 0.0
            most = world["friction"] * self._grip * (1.0 - loss) * 0.5 * mass * _GRAVITY
            pulls = []
            for i, side in enumerate((-half, half)):
                self._rims[i] += approach * (wished[i] - self._rims[i])
                slip = self._rims[i] - (self._speed + side * self._rate)
                pulls.append(max(-most, min(most, _STIFFNESS * slip)))
                self._turned[i] += _TIME_STEP * self._rims[i] / self._radius
            drag = world["friction"] * _ROLLING * self._speed
            push = world["wind"] * math.cos(self._yaw)
            self._acceleration = (pulls[0] + pulls[1] + push - drag) / mass
            twist = half * (pulls[1] - pulls[0]) - world["friction"] * _SCRUBBING * self._rate
            self._speed += _TIME_STEP * self._acceleration
            self._rate += _TIME_STEP * twist / inertia
            self._yaw = math.remainder(self._yaw + _TIME_STEP * self._rate, 2.0 * math.pi)
            self._x += _TIME_STEP * self._speed * math.cos(self._yaw)
            self._y += _TIME_STEP * self._speed * math.sin(self._yaw)

    def meters(self) -> dict[str, Callable[[], Reading]]:
        """Read what a mobile base publishes."""
        return {
            ODOMETRY: lambda: self._pose() | self._twist(),
            IMU: self._read_imu,
            POSE_STAMPED: self._pose,
            JOINT_STATE: self._read_wheels,
        }

    def _pose(self) -> Reading:
        return {"position.x": self._x, "position.y": self._y, "orientation.yaw": self._yaw}

    def _twist(self) -> Reading:
        return {"linear_velocity.x": self._speed, "angular_velocity.z": self._rate}

    def _read_imu(self) -> Reading:
        return {
            "orientation.yaw": self._yaw,
            "angular_velocity.z": self._rate,
            "linear_acceleration.x": self._acceleration,
            "linear_acceleration.y": self._speed * self._rate,
            "linear_acceleration.z": _GRAVITY,
        }

    def _read_wheels(self) -> Reading:
        reading = {}
        for i, name in enumerate(("left_wheel", "right_wheel")):
            reading[f"position/{name}"] = self._turned[i]
            reading[f"velocity/{name}"] = self._rims[i] / self._radius
        return reading
