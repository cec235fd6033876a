# Copyright 2026 The mbrl_ros authors
# SPDX-License-Identifier: Apache-2.0
"""The velocity of a value that only its position is measured of."""

from __future__ import annotations

import math


class VelocityFilter:
    """A Kalman filter of position and velocity, for measurements at any times.

    The velocity is a random walk (constant-velocity model: Bar-Shalom et al., Estimation with
    Applications to Tracking and Navigation, section 6.2). Only the ratio of process to
    measurement noise matters to the estimate; it is set by `time_constant` (seconds): a
    filter in its steady state has two poles of that time constant and damping 1/sqrt(2),
    however often measurements come.

    angle: the value wraps at +-pi.
    """

    def __init__(self, time_constant: float, angle: bool) -> None:
        # Densities of the noises, with that of the measurement as unit.
        self._process = time_constant**-4
        self._angle = angle
        self._start = 100.0 / time_constant**3  # variance of a velocity nothing is known of
        self.reset()

    def reset(self) -> None:
        """Forget everything."""
        self._time: int | None = None
        self._position = 0.0
        self.velocity = 0.0

    def update(self, stamp: int, measured: float) -> float:
        """Take a measurement and its time in nanoseconds; return the velocity now, per second.

        The first one says nothing of the velocity, which then is zero. Times must increase.
        """
        if self._time is None:
            self._time, self._position, self.velocity = stamp, measured, 0.0
            # Of a single measurement at an interval of one time constant.
            self._p, self._c, self._v = self._process**0.25, 0.0, self._start
            return 0.0
        step = (stamp - self._time) * 1e-9
        self._time = stamp
        q = self._process
        position = self._position + step * self.velocity
        p = self._p + step * (2.0 * self._c + step * (self._v + q * step / 3.0))
        c = self._c + step * (self._v + q * step / 2.0)
        v = self._v + q * step
        error = measured - position
        if self._angle:
            error = math.remainder(error, 2.0 * math.pi)
        noise = p + 1.0 / step  # of one measurement in `step` seconds, by its density
        self._position = position + p / noise * error
        self.velocity += c / noise * error
        self._p, self._c, self._v = p - p * p / noise, c - p * c / noise, v - c * c / noise
        return self.velocity
