# Copyright 2026 The mbrl_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Node `simulator`: a plant behind the robot's own topics, and the clock of the graph."""

from __future__ import annotations

import math
import sys
import time
from typing import Any

from rclpy.clock import Clock, ClockType
from rosgraph_msgs.msg import Clock as ClockMessage
from std_srvs.srv import Trigger

from mbrl_ros.robots import load_robot
from mbrl_ros.robots.spec import NANOSECONDS
from mbrl_ros.ros.conversions import MESSAGES, read_command, sensor_message, to_time
from mbrl_ros.ros.diagnostics import OK, WARN, Diagnostics, Report
from mbrl_ros.ros.parameters import ROBOT, Parameter, declare
from mbrl_ros.ros.qos import LATEST, STREAM
from mbrl_ros.ros.runtime import ManagedNode, run
from mbrl_ros.sim.mujoco_plant import MujocoPlant

PARAMETERS = (
    ROBOT,
    Parameter(
        "pace",
        "realtime",
        "realtime: the clock follows the wall clock; lockstep: each control period waits for "
        "the command that answers it.",
    ),
    Parameter("realtime_factor", 1.0, "Robot seconds per wall second.", 0.01, 100.0),
    Parameter("duration", 0.0, "Robot seconds after which the plant stands still; 0: never.", 0.0),
    Parameter("sensor_rate", 100.0, "Sensor messages a robot second (realtime).", 1.0, 1000.0),
)

# While nothing answers, the present moment is published again this often (wall seconds), so
# that a node which joined late sees it too.
_REPEAT = 0.1
# A plant that falls this far behind the wall clock lets the clock slip instead of rushing.
_MAX_LAG = 0.2


class Simulator(ManagedNode):
    """Holds the plant at time zero until the first command, then paces it."""

    def __init__(self) -> None:
        super().__init__("simulator")
        values = declare(self, PARAMETERS)
        if values["pace"] not in ("realtime", "lockstep"):
            raise ValueError(
                f"parameter 'pace' is '{values['pace']}', expected realtime or lockstep"
            )
        self._robot = load_robot(values["robot"])
        self._plant = MujocoPlant(self._robot)
        self._lockstep = values["pace"] == "lockstep"
        self._factor = float(values["realtime_factor"])
        self._time = 0  # nanoseconds of robot time
        self._step = round(self._plant.time_step * NANOSECONDS)
        self._control_steps = self._steps_of(self._robot.period, "control_rate")
        # On a tick, so that the state of the end is estimated too.
        ticks = math.ceil(values["duration"] / self._robot.period - 1e-9)
        self._end = ticks * self._control_steps * self._step or None
        self._action = list(self._robot.safe_action)
        self._started = False
        self._rejected = 0
        self._lag = 0.0
        self._last_published = 0.0
        self._sensors = {
            topic: self.create_publisher(MESSAGES[sensor.type], topic, STREAM)
            for topic, sensor in self._robot.sensors.items()
        }
        self._clock_publisher = self.create_publisher(ClockMessage, "/clock", STREAM)
        command = self._robot.command
        self.create_subscription(MESSAGES[command.type], command.topic, self._on_command, LATEST)
        self.create_service(Trigger, "~/reset", self._on_reset)
        steady = Clock(clock_type=ClockType.STEADY_TIME)
        self._sensor_period = 1.0 / float(values["sensor_rate"])
        if self._lockstep:
            self.create_timer(_REPEAT, self._repeat, clock=steady)
        else:
            self._sensor_steps = self._steps_of(self._sensor_period, "sensor_rate")
            if self._sensor_period > self._robot.period:
                raise ValueError(
                    f"parameter 'sensor_rate' is {values['sensor_rate']} Hz, expected at least "
                    f"the robot's control_rate, {self._robot.control_rate} Hz"
                )
            self._origin = 0.0  # wall time at which the robot time was zero
            self._next_sensor = self._sensor_steps * self._step
            self.create_timer(self._sensor_period / self._factor, self._on_timer, clock=steady)
        self._diagnostics = Diagnostics(self, self._robot.name, self._report)
        self.get_logger().info(
            f"simulating {self._robot.name} at pace {values['pace']}; "
            f"waiting for the first command on {command.topic}"
        )

    def _on_command(self, message: Any) -> None:
        expected = len(self._robot.command.dimensions)
        try:
            values = read_command(self._robot, message)
            if not all(math.isfinite(value) for value in values):
                raise ValueError(f"command {values} is not finite")
        except ValueError as error:
            self._rejected += 1
            self.get_logger().error(
                f"{error}; dropped: expected {expected} finite values",
                throttle_duration_sec=1.0,
            )
            return
        if self._over():
            return
        if self._lockstep:
            self._started = True
            self._action = values
            self._advance(self._control_steps)
            self._publish()
        elif not self._started:
            self._started = True
            self._action = values
            self._origin = time.monotonic() - self._time / NANOSECONDS / self._factor
        else:
            self._catch_up()  # up to now the command before was in force
            self._action = values

    def _on_timer(self) -> None:
        if not self._started or self._over():
            self._repeat()
            return
        self._catch_up()

    def _catch_up(self) -> None:
        """Integrate up to the wall clock, publishing at each sensor time on the way."""
        elapsed = (time.monotonic() - self._origin) * self._factor
        behind = elapsed - self._time / NANOSECONDS
        if behind > _MAX_LAG:
            slip = behind - _MAX_LAG
            self._lag += slip
            self._origin += slip / self._factor
            self.get_logger().warning(
                f"the machine is too slow for real time: let {slip:.2f} s pass",
                throttle_duration_sec=5.0,
            )
            behind = _MAX_LAG
        target = self._time + int(behind * NANOSECONDS)
        while True:
            moment = min(target, self._next_sensor, self._end or target)
            self._advance((moment - self._time) // self._step)
            if self._time < self._next_sensor:
                return
            self._publish()
            self._next_sensor += self._sensor_steps * self._step

    def _steps_of(self, seconds: float, rate: str) -> int:
        steps = round(seconds / self._plant.time_step)
        if steps < 1 or abs(steps * self._plant.time_step - seconds) > 1e-9:
            raise ValueError(
                f"{rate} {1.0 / seconds:g} Hz does not fit the plant's time step of "
                f"{self._plant.time_step} s; expected a period that is a multiple of it"
            )
        return steps

    def _over(self) -> bool:
        return self._end is not None and self._time >= self._end

    def _advance(self, steps: int) -> None:
        if steps == 0:
            return
        self._plant.step(self._action, steps)
        self._time += steps * self._step

    def _repeat(self) -> None:
        if time.monotonic() - self._last_published >= _REPEAT:
            self._publish()

    def _publish(self) -> None:
        """Publish sensors, then the clock, of the present moment."""
        readings = self._plant.sensors()
        for topic, sensor in self._robot.sensors.items():
            message = sensor_message(sensor.type, self._time, sensor.frame, readings[topic])
            self._sensors[topic].publish(message)
        self._clock_publisher.publish(ClockMessage(clock=to_time(self._time)))
        self._last_published = time.monotonic()

    def _on_reset(self, _request: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        self._plant.reset()
        response.success = True
        response.message = "the plant is back at its initial position; time goes on"
        return response

    def _report(self) -> Report:
        level = WARN if self._rejected or self._lag else OK
        text = "running" if self._started else "waiting for the first command"
        return (
            level,
            text,
            {
                "time": self._time / NANOSECONDS,
                "rejected_commands": self._rejected,
                "clock_slip": self._lag,
            },
        )


def main() -> None:
    """Run the node."""
    sys.exit(run(Simulator))


if __name__ == "__main__":
    main()
