# Copyright 2026 The mbrl_ros authors
# SPDX-License-Identifier: Apache-2.0
"""From sensor values to one state vector a control period."""

from __future__ import annotations

import bisect
import math
from collections.abc import Mapping
from dataclasses import dataclass

from mbrl_ros.robots.messages import rates
from mbrl_ros.robots.spec import NANOSECONDS, RobotSpec, Sensor, StateDimension
from mbrl_ros.robots.velocity_filter import VelocityFilter

# A stamp may be ahead of this machine's clock by so much, in nanoseconds.
_AHEAD = NANOSECONDS // 2
# A clock, or stamps without one, that leaps this far is a new time, in nanoseconds.
_LEAP = NANOSECONDS
# So many late messages in a row say that the sensor's own clock went back.
_LATE_IN_A_ROW = 10
# Samples of one sensor that are kept at most.
_KEPT = 2000
# Weight of the newest message in a sensor's usual interval and lag.
_NEW = 0.1


class SensorError(ValueError):
    """A sensor message that cannot be used; says which value, and what was expected."""


@dataclass(frozen=True)
class Estimate:
    """The state of one tick.

    stamp: of the tick, nanoseconds. values (D,), angles in [-pi, pi]. measured: false if a
    sensor was late, so that its values are carried on from its last message; there is nothing
    to be learned from such a state.
    """

    stamp: int
    values: list[float]
    measured: bool


class StateEstimator:
    """Collects sensor messages and completes the state of each tick.

    Ticks are the multiples of the control period. How a sensor's messages make the values of a
    tick is its `align`:

    - interpolate: the tick waits for the first message at or after it, and its values lie on
      the line between that and the one before. A message that does not come when it is
      usually there is waited for half a period; then the tick is completed by prediction.
    - latest: the newest message at or before the tick, as soon as the clock reaches it.
    - predict: the same, carried on to the tick by the velocities in it (see `messages.rates`).

    A message older than the sensor's time-out at the tick makes no state. Of several ticks
    that could be completed at once only the newest is.

    lockstep: every tick waits for a message of every sensor at or after it; no clock is told.

    `states` counts ticks completed, of which `predicted` were not measured; `skipped` counts
    ticks left out, `rejected` messages that could not be used, `late` those overtaken by a
    newer one, `duplicates` those with the stamp of the one before, `leaps` those of the clock.
    """

    def __init__(self, robot: RobotSpec, lockstep: bool = False) -> None:
        self._robot = robot
        self._period = robot.period_nanoseconds
        self._lockstep = lockstep
        self._tracks = {
            topic: _Track(robot, topic, sensor) for topic, sensor in robot.sensors.items()
        }
        self._published = -1  # tick of the last state, nanoseconds
        self._now: int | None = None
        self._notices: list[str] = []
        self.last_state: list[float] | None = None
        self.states = 0
        self.predicted = 0
        self.skipped = 0
        self.rejected = 0
        self.late = 0
        self.duplicates = 0
        self.leaps = 0

    def add(
        self,
        sensor: str,
        stamp: int,
        values: Mapping[str, float],
        arrived: float,
        now: int | None = None,
    ) -> Estimate | None:
        """Take a message: its stamp and values (see `robots.messages`), and when it arrived.

        arrived: seconds of a clock that never jumps. now: what the clock that stamps are of
        reads, nanoseconds; None: nothing is known of it, so that a late message is waited for.

        Returns the state if this completes a tick. A message of the present tick may come
        again, as of a simulation that stands still: then so does the state. Raises SensorError
        for a missing value, one that is not finite or a stamp ahead of the clock.
        """
        self._keep_time(now)
        track = self._tracks[sensor]
        if now is not None and stamp > now + _AHEAD:
            self.rejected += 1
            raise SensorError(
                f"{sensor}: its stamp is {(stamp - now) / NANOSECONDS:.2f} s ahead of this "
                "machine's clock; synchronise the two"
            )
        try:
            track.check(values)
        except SensorError:
            self.rejected += 1
            raise
        track.arrived = arrived
        newest = track.newest
        if newest is not None and stamp < newest:
            self.late += 1
            track.late_in_a_row += 1
            # Without a clock, a great leap of the stamps is all that tells of a new time.
            leap = now is None and newest - stamp >= _LEAP
            if not leap and track.late_in_a_row < _LATE_IN_A_ROW:
                return None
            self._restart(f"stamps of {sensor} went back", stamp - newest)
        elif stamp == newest:
            self.duplicates += 1
        track.add(stamp, values, now)
        if stamp == self._published == track.newest:
            return self._estimate(stamp)
        return self._complete(now)

    def advance(self, now: int) -> Estimate | None:
        """Tell the time, in nanoseconds of the clock that stamps are of.

        Returns the state if a tick is complete by now. Call it whenever `next_wake` says.
        """
        self._keep_time(now)
        return self._complete(now)

    def next_wake(self, now: int) -> int:
        """Return when the next tick may be complete without a message, in nanoseconds."""
        waits = [track.wait(self._period) for track in self._tracks.values()]
        return min(((now - wait) // self._period + 1) * self._period + wait for wait in set(waits))

    def missing(self, now: float) -> list[str]:
        """Return the sensors without a message for longer than their time-out; now in seconds."""
        return [
            topic
            for topic, track in self._tracks.items()
            if track.arrived is None or now - track.arrived > track.sensor.timeout
        ]

    def silence(self, sensor: str, now: float) -> float | None:
        """Return the seconds since a sensor's last message, or None if there was none."""
        arrived = self._tracks[sensor].arrived
        return None if arrived is None else now - arrived

    def behind(self) -> dict[str, float]:
        """Return the sensors whose usual lag exceeds their time-out, and the lag in seconds.

        Their stamps are not of this machine's clock, or they come far too late.
        """
        return {
            topic: track.lag / NANOSECONDS
            for topic, track in self._tracks.items()
            if track.lag > track.sensor.timeout * NANOSECONDS
        }

    def take_notices(self) -> list[str]:
        """Return what a person should know of and has not been told yet."""
        notices, self._notices = self._notices, []
        return notices

    def _keep_time(self, now: int | None) -> None:
        if now is None:
            return
        before, self._now = self._now, now
        if before is None:
            return
        if now < before - self._period:
            self._restart("the clock went back", now - before)
        elif now > before + _LEAP + self._period:
            self._restart("the clock leapt forward, or nothing ran", now - before)

    def _restart(self, why: str, leap: int) -> None:
        """Begin anew in a new time."""
        self.leaps += 1
        self._notices.append(f"{why}: {leap / NANOSECONDS:+.2f} s; estimation begins anew")
        self._published = -1
        for track in self._tracks.values():
            track.clear()

    def _complete(self, now: int | None) -> Estimate | None:
        tracks = self._tracks.values()
        stamps = [track.newest for track in tracks]
        known = [stamp for stamp in stamps if stamp is not None]
        if len(known) < len(stamps):
            return None
        if self._lockstep:
            moment = min(known)
        else:
            # Without a clock, the stamps are all that tells the time.
            clock = max(known) if now is None else max(now, *known)
            moment = min(track.horizon(clock, self._period, now) for track in tracks)
        tick = moment // self._period * self._period
        return self._estimate(tick) if tick > self._published else None

    def _estimate(self, tick: int) -> Estimate | None:
        """Return the state of this tick, or None if a sensor has no values for it."""
        values: dict[str, float] = {}
        for track in self._tracks.values():
            found = track.at(tick)
            if found is None:
                return None
            before = track.at(tick - self._period) or found
            for dimension in self._robot.state:
                name, base = dimension.name, dimension.derivative_of
                if name in found:
                    values[name] = found[name]
                elif base in found:  # the difference: what is filtered is among what was found
                    change = found[base] - before[base]
                    values[name] = track.shortest(base, change) / self._robot.period
        measured = all(track.reaches(tick) for track in self._tracks.values())
        if tick != self._published:
            self.states += 1
            self.predicted += not measured
            if self._published >= 0:
                self.skipped += (tick - self._published) // self._period - 1
        self._published = tick
        for track in self._tracks.values():
            track.forget_before(tick - self._period)
        self.last_state = [values[name] for name in self._robot.state_names]
        return Estimate(tick, self.last_state, measured)


class _Track:
    """The messages of one sensor, and what they say of the dimensions that it measures."""

    def __init__(self, robot: RobotSpec, topic: str, sensor: Sensor) -> None:
        self.sensor = sensor
        self.arrived: float | None = None  # seconds, of the last usable message
        self.late_in_a_row = 0
        self.lag = 0.0  # usual age of a message when it arrives, nanoseconds
        self._topic = topic
        self._timeout = round(sensor.timeout * NANOSECONDS)
        self._interval = 0.0  # usual time between stamps, nanoseconds
        self._dimensions = [d for d in robot.state if d.sensor == topic]
        self._angles = {d.name for d in self._dimensions if d.angle}
        self._discrete = {d.name for d in self._dimensions if d.discrete}
        self._filters: dict[str, tuple[str, VelocityFilter]] = {}
        for derived in robot.state:
            for base in self._dimensions:
                if derived.derivative_of == base.name and derived.filter == "kalman":
                    velocity = VelocityFilter(
                        derived.time_constant or robot.period / 2.0, base.angle
                    )
                    self._filters[derived.name] = (base.name, velocity)
        self._stamps: list[int] = []
        self._samples: list[tuple[dict[str, float], dict[str, float]]] = []

    @property
    def newest(self) -> int | None:
        """Stamp of the newest message."""
        return self._stamps[-1] if self._stamps else None

    def check(self, values: Mapping[str, float]) -> None:
        """Raise SensorError unless all that is read of the sensor is there and finite."""
        for dimension in self._dimensions:
            what = _named(dimension)
            if dimension.key not in values:
                raise SensorError(
                    f"{self._topic} has no {what}; it has {', '.join(sorted(values)) or 'nothing'}"
                )
            value = values[dimension.key]
            if not math.isfinite(value):
                raise SensorError(f"{self._topic}: {what} is {value}, expected a finite number")
            if dimension.discrete and not float(value).is_integer():
                raise SensorError(f"{self._topic}: {what} is {value}, expected a whole number")

    def add(self, stamp: int, values: Mapping[str, float], now: int | None) -> None:
        """Take values that `check` accepts, as new as the newest or newer."""
        self.late_in_a_row = 0
        again = stamp == self.newest
        if again:
            del self._stamps[-1], self._samples[-1]
        elif self._stamps and stamp - self._stamps[-1] > self._timeout:
            self._reset_filters()
        elif self._stamps:
            interval = stamp - self._stamps[-1]
            self._interval += _NEW * (interval - self._interval) if self._interval else interval
        if now is not None and not again:
            self.lag += (_NEW if self.lag else 1.0) * (max(now - stamp, 0) - self.lag)
        found = {d.name: d.scale * values[d.key] for d in self._dimensions}
        all_rates = rates(self.sensor.type, values)
        moving = {
            d.name: d.scale * all_rates[d.key]
            for d in self._dimensions
            if d.key in all_rates and not d.discrete
        }
        for name, (base, velocity) in self._filters.items():
            found[name] = velocity.velocity if again else velocity.update(stamp, found[base])
            moving.setdefault(base, found[name])
        self._stamps.append(stamp)
        self._samples.append((found, moving))
        del self._stamps[:-_KEPT], self._samples[:-_KEPT]

    def clear(self) -> None:
        """Forget all messages."""
        self._stamps.clear()
        self._samples.clear()
        self._reset_filters()
        self.lag = 0.0
        self.late_in_a_row = 0

    def forget_before(self, tick: int) -> None:
        """Forget what no tick from this one on needs."""
        unneeded = bisect.bisect_right(self._stamps, tick) - 1
        if unneeded > 0:
            del self._stamps[:unneeded], self._samples[:unneeded]

    def wait(self, period: int) -> int:
        """Return how long after a tick it is completed without the message that it waits for."""
        if self.sensor.align != "interpolate":
            return 0
        return round(self._interval + self.lag) + period // 2

    def horizon(self, clock: int, period: int, now: int | None) -> int:
        """Return up to when ticks need not wait for this sensor any more."""
        newest = self._stamps[-1]
        if self.sensor.align != "interpolate":
            return max(newest, clock)
        if now is None or not self._interval:  # nothing tells when the next one should come
            return newest
        return max(newest, now - self.wait(period))

    def reaches(self, tick: int) -> bool:
        """Whether the values of this tick are as they should be, not a stopgap."""
        return self.sensor.align != "interpolate" or self._stamps[-1] >= tick

    def at(self, tick: int) -> dict[str, float] | None:
        """Return values by dimension at this time, angles wrapped, or None if there are none."""
        place = bisect.bisect_left(self._stamps, tick)
        if place < len(self._stamps) and self._stamps[place] == tick:
            return {name: self.shortest(name, v) for name, v in self._samples[place][0].items()}
        if place == 0:
            return None
        begin, (values, moving) = self._stamps[place - 1], self._samples[place - 1]
        if self.sensor.align == "interpolate" and place < len(self._stamps):
            gap = self._stamps[place] - begin
            if gap > self._timeout:
                return None
            after, share = self._samples[place][0], (tick - begin) / gap
            return {
                name: v
                if name in self._discrete
                else self.shortest(name, v + share * self.shortest(name, after[name] - v))
                for name, v in values.items()
            }
        if tick - begin > self._timeout:
            return None
        ahead = 0.0 if self.sensor.align == "latest" else (tick - begin) / NANOSECONDS
        return {
            name: self.shortest(name, v + ahead * moving.get(name, 0.0))
            for name, v in values.items()
        }

    def shortest(self, name: str, value: float) -> float:
        """Return a value or difference of a dimension, in [-pi, pi] if that is an angle."""
        return math.remainder(value, 2.0 * math.pi) if name in self._angles else value

    def _reset_filters(self) -> None:
        for _, velocity in self._filters.values():
            velocity.reset()


def _named(dimension: StateDimension) -> str:
    if dimension.joint is not None:
        return f"{dimension.field} of joint '{dimension.joint}'"
    return dimension.field or f"value at index {dimension.index}"
