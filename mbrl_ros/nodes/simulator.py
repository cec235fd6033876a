# Copyright 2026 The mbrl_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Node `simulator`: a plant behind the robot's own topics, and the clock of the graph."""

from __future__ import annotations

import math
import random
import sys
import time
from collections import deque
from typing import Any

from rcl_interfaces.msg import SetParametersResult
from rclpy.clock import Clock, ClockType
from rclpy.parameter import Parameter as RosParameter
from rosgraph_msgs.msg import Clock as ClockMessage
from sensor_msgs.msg import JointState
from std_srvs.srv import Trigger

from mbrl_ros.robots import load_robot
from mbrl_ros.robots.messages import unscaled
from mbrl_ros.robots.spec import NANOSECONDS
from mbrl_ros.ros.conversions import (
    MESSAGES,
    named_values,
    read_command,
    sensor_message,
    to_time,
)
from mbrl_ros.ros.diagnostics import OK, WARN, Diagnostics, Report
from mbrl_ros.ros.parameters import ROBOT, Parameter, ParameterError, as_float, declare
from mbrl_ros.ros.peers import Peers
from mbrl_ros.ros.qos import LATEST, STREAM
from mbrl_ros.ros.runtime import ManagedNode, run
from mbrl_ros.sim.plant import DISTURBANCES, make_plant

# What this node itself can do to messages, whatever the plant.
_LINE = (
    Parameter(
        "added_delay",
        0.0,
        "Seconds until a command takes effect, in whole time steps of the plant.",
        0.0,
        1.0,
        fixed=False,
    ),
    Parameter(
        "sensor_noise",
        0.0,
        "Standard deviation of the noise on everything that sensors read, in its own unit.",
        0.0,
        1000.0,
        fixed=False,
    ),
    Parameter(
        "dropped_messages",
        0.0,
        "Share of sensor messages that are lost. In lockstep all those of a tick are, and never "
        "of two ticks in a row.",
        0.0,
        0.9,
        fixed=False,
    ),
)
_WORLD = tuple(
    Parameter(d.name, d.default, d.description, d.least, d.most, fixed=False) for d in DISTURBANCES
)
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
    Parameter(
        "sensor_rate",
        100.0,
        "Sensor messages a robot second (realtime), at most one a time step of the plant.",
        1.0,
        1000.0,
    ),
    Parameter("seed", 0, "Seed of the plant's start, of noise and of lost messages.", 0),
    Parameter(
        "listeners",
        [],
        "Nodes that must hear rewards before the sensors speak, in lockstep.",
    ),
    *_WORLD,
    *_LINE,
    Parameter(
        "disturbance",
        "",
        "Changes of the parameters above at `disturbance_at`, such as motor_gain=0.5, wind=3.",
    ),
    Parameter("disturbance_at", 0.0, "Robot seconds until `disturbance`.", 0.0),
)

# While nothing answers, the present moment is published again this often (wall seconds), so
# that a node which joined late sees it too.
_REPEAT = 0.1
# A plant that falls this far behind the wall clock lets the clock slip instead of rushing.
_MAX_LAG = 0.2


class Simulator(ManagedNode):
    """Holds the plant at time zero until the first command, then paces it.

    A reset of the plant leaves out one tick: no sensor reports between the last moment before
    and the first one after it. So nobody takes one for the consequence of the other.
    """

    def __init__(self) -> None:
        super().__init__("simulator")
        values = declare(self, PARAMETERS)
        if values["pace"] not in ("realtime", "lockstep"):
            raise ValueError(
                f"parameter 'pace' is '{values['pace']}', expected realtime or lockstep"
            )
        self._robot = load_robot(values["robot"])
        self._plant = make_plant(self._robot, values["seed"])
        self._random = random.Random(values["seed"])
        self._lockstep = values["pace"] == "lockstep"
        self._factor = float(values["realtime_factor"])
        self._time = 0  # nanoseconds of robot time
        self._step = round(self._plant.time_step * NANOSECONDS)
        self._control_steps = self._steps_of(self._robot.period, "control_rate")
        self._control_period = self._control_steps * self._step
        # On a tick, so that the state of the end is estimated too.
        ticks = math.ceil(values["duration"] / self._robot.period - 1e-9)
        self._end = ticks * self._control_period or None
        self._action = list(self._robot.safe_action)
        self._commands: deque[tuple[int, list[float]]] = deque()  # that are to take effect when
        self._started = False
        self._rejected = 0
        self._lost = 0
        self._just_lost = False
        self._resets = 0
        self._reset_wanted = False
        self._earned = 0.0  # reward since the last tick
        self._lag = 0.0
        self._last_published = 0.0
        self._messages: list[tuple[str, Any]] = []  # sensor topics and what they said last
        self._sensors = {
            topic: self.create_publisher(MESSAGES[sensor.type], topic, STREAM)
            for topic, sensor in self._robot.sensors.items()
        }
        self._rewards = (
            self.create_publisher(JointState, self._robot.reward, STREAM)
            if self._robot.reward is not None and self._plant.reward is not None
            else None
        )
        # In lockstep a reward that is lost is waited for.
        heard: dict[str, list[str]] = {}
        if self._lockstep and self._rewards is not None:
            heard[self._rewards.topic_name] = values["listeners"]
        self._peers = Peers(self, heard)
        self._clock_publisher = self.create_publisher(ClockMessage, "/clock", STREAM)
        self._prepare_changes(values)
        self._measure()
        command = self._robot.command
        self.create_subscription(MESSAGES[command.type], command.topic, self._on_command, LATEST)
        self.create_service(Trigger, "~/reset", self._on_reset)
        steady = Clock(clock_type=ClockType.STEADY_TIME)
        if self._lockstep:
            self.create_timer(_REPEAT, self._repeat, clock=steady)
        else:
            sensor_period = max(1.0 / float(values["sensor_rate"]), self._plant.time_step)
            self._sensor_steps = self._steps_of(sensor_period, "sensor_rate")
            if sensor_period > self._robot.period:
                raise ValueError(
                    f"parameter 'sensor_rate' is {values['sensor_rate']} Hz, expected at least "
                    f"the robot's control_rate, {self._robot.control_rate} Hz"
                )
            self._origin = 0.0  # wall time at which the robot time was zero
            self._next_sensor = self._sensor_steps * self._step
            # More often than a plant of long steps measures: what it did must not be told so late
            # that the answer comes in the next step.
            look = 1.0 / float(values["sensor_rate"])
            self.create_timer(look / self._factor, self._on_timer, clock=steady)
        self._diagnostics = Diagnostics(self, self._robot.name, self._report)
        self.get_logger().info(
            f"simulating {self._robot.name} at pace {values['pace']}; "
            f"waiting for the first command on {command.topic}"
        )

    # -- changes of the world ---------------------------------------------------------------

    def _prepare_changes(self, values: dict[str, Any]) -> None:
        """Take over what the world is like at the start, and what is to change later."""
        self._line = dict.fromkeys((parameter.name for parameter in _LINE), 0.0)
        self._changeable = {parameter.name for parameter in (*_WORLD, *_LINE)}
        self._scheduled: dict[str, float] = {}
        self._scheduled_at = round(values["disturbance_at"] * NANOSECONDS)
        defaults = {parameter.name: parameter.default for parameter in _WORLD}
        try:
            for name in self._changeable:
                if values[name] != defaults.get(name):
                    self._change(name, values[name])
            for name, value in _assignments(values["disturbance"]).items():
                self._check_change(name, value)
                self._scheduled[name] = value
        except ValueError as error:
            raise ParameterError(f"disturbance: {error}") from None
        self.add_pre_set_parameters_callback(
            lambda parameters: [
                as_float(p) if p.name in self._changeable else p for p in parameters
            ]
        )
        self.add_on_set_parameters_callback(self._check_parameters)
        self.add_post_set_parameters_callback(self._apply_parameters)

    def _check_change(self, name: str, value: float) -> None:
        """Raise ValueError, saying what is accepted, if the world cannot change like this."""
        if name not in self._changeable:
            known = ", ".join([*self._plant.disturbances, *self._line])
            raise ValueError(f"unknown change '{name}'; expected one of {known}")
        if name not in self._line:
            self._plant.check_disturbance(name, value)
            return
        (limits,) = (parameter for parameter in _LINE if parameter.name == name)
        if not (limits.minimum or 0.0) <= value <= (limits.maximum or math.inf):
            raise ValueError(
                f"{name} is {value}, expected {limits.minimum:g} to {limits.maximum:g}"
            )
        if name == "sensor_noise" and value and any(d.discrete for d in self._robot.state):
            raise ValueError(f"{name} is {value}, expected 0: what is read are whole numbers")

    def _change(self, name: str, value: float) -> None:
        self._check_change(name, value)
        if name in self._line:
            self._line[name] = float(value)
        else:
            self._plant.disturb(name, value)

    def _check_parameters(self, parameters: list[RosParameter]) -> SetParametersResult:
        for parameter in parameters:
            if parameter.name in self._changeable:
                try:
                    self._check_change(parameter.name, parameter.value)
                except (TypeError, ValueError) as error:
                    return SetParametersResult(successful=False, reason=str(error))
        return SetParametersResult(successful=True)

    def _apply_parameters(self, parameters: list[RosParameter]) -> None:
        changes = [p for p in parameters if p.name in self._changeable]
        if changes and self._started and not self._lockstep and not self._over():
            self._catch_up()  # up to now the world was the old one
        for parameter in changes:
            self._change(parameter.name, parameter.value)
            self.get_logger().info(
                f"{parameter.name} is {parameter.value:g} from {self._time / NANOSECONDS:.3f} s on"
            )

    def _apply_scheduled(self) -> None:
        """Change the world at its time, and let the parameters show it."""
        due, self._scheduled = self._scheduled, {}
        for name, value in due.items():
            self._change(name, value)
        self.set_parameters(
            [RosParameter(name, RosParameter.Type.DOUBLE, value) for name, value in due.items()]
        )

    # -- time -------------------------------------------------------------------------------

    def _on_command(self, message: Any) -> None:
        try:
            values = read_command(self._robot, message)
            if not all(math.isfinite(value) for value in values):
                raise ValueError(f"command {values} has a value that is not finite")
        except ValueError as error:
            self._rejected += 1
            expected = len(self._robot.command.dimensions)
            self.get_logger().error(
                f"{error}; dropped: expected {expected} finite values", throttle_duration_sec=1.0
            )
            return
        if self._over():
            return
        if self._lockstep:
            self._started = True
            self._command(values)
            self._advance_ticks()
        elif not self._started:
            self._started = True
            self._command(values)
            self._origin = time.monotonic() - self._time / NANOSECONDS / self._factor
        else:
            self._catch_up()  # up to now the command before was in force
            self._command(values)

    def _command(self, values: list[float]) -> None:
        """Let a command take effect, after the delay if there is one."""
        delay = round(self._line["added_delay"] * NANOSECONDS / self._step) * self._step
        self._commands.append((self._time + delay, values))

    def _advance_ticks(self) -> None:
        """Go on to the next tick whose messages are not lost, in lockstep."""
        while True:
            if self._plant.ended or self._reset_wanted:
                self._reset_plant()
            else:
                self._advance(self._control_steps)
                self._publish_reward()
            self._just_lost = (
                not self._just_lost
                and not self._over()
                and self._random.random() < self._line["dropped_messages"]
            )
            if not self._just_lost:
                break
            self._lost += len(self._sensors)
        self._measure()
        self._publish()

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
            if self._time % self._control_period == 0:
                self._publish_reward()
            self._measure()
            self._publish()
            self._next_sensor += self._sensor_steps * self._step
            if self._plant.ended:
                self._reset_plant()
                return

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
        """Integrate; commands and changes of the world come at their own times."""
        until = self._time + steps * self._step
        while self._time < until:
            while self._commands and self._commands[0][0] <= self._time:
                self._action = self._commands.popleft()[1]
            if self._scheduled and self._scheduled_at <= self._time:
                self._apply_scheduled()
            moments = [until]
            if self._commands:
                moments.append(self._commands[0][0])
            if self._scheduled:
                moments.append(self._scheduled_at)
            part = max(-(-(min(moments) - self._time) // self._step), 1)
            self._plant.step(self._action, part)
            self._time += part * self._step
            self._earned += self._plant.reward or 0.0

    def _reset_plant(self) -> None:
        """Put the plant back to its start, and leave out one tick."""
        self._plant.reset()
        self._reset_wanted = False
        self._resets += 1
        self._action = list(self._robot.safe_action)
        self._commands.clear()
        self._earned = 0.0
        moment = (self._time // self._control_period + 2) * self._control_period
        if not self._lockstep:
            self._origin -= (moment - self._time) / NANOSECONDS / self._factor
            self._next_sensor = moment + self._sensor_steps * self._step
        self._time = moment

    # -- messages ---------------------------------------------------------------------------

    def _repeat(self) -> None:
        if time.monotonic() - self._last_published >= _REPEAT and not self._peers.missing():
            self._publish()

    def _measure(self) -> None:
        """Let the sensors look, with noise; what is lost on the way is left out."""
        noise = self._line["sensor_noise"]
        lossy = not self._lockstep and self._started
        self._messages = []
        for topic, reading in self._plant.readings().items():
            if lossy and self._random.random() < self._line["dropped_messages"]:
                self._lost += 1
                continue
            if noise:
                reading = {k: v + self._random.gauss(0.0, noise) for k, v in reading.items()}
            sensor = self._robot.sensors[topic]
            reading = unscaled(self._robot, topic, reading)
            message = sensor_message(sensor.type, self._time, sensor.frame, reading)
            self._messages.append((topic, message))

    def _publish(self) -> None:
        """Publish what the sensors said last, then the clock."""
        for topic, message in self._messages:
            self._sensors[topic].publish(message)
        self._clock_publisher.publish(ClockMessage(clock=to_time(self._time)))
        self._last_published = time.monotonic()

    def _publish_reward(self) -> None:
        """Publish what the period that ends now has earned."""
        if self._rewards is not None:
            self._rewards.publish(named_values(self._time, ["reward"], [self._earned]))
        self._earned = 0.0

    def _on_reset(self, _request: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        if self._lockstep and self._started:
            self._reset_wanted = True  # the command that is on its way answers the old state
        else:
            if self._started:
                self._reset_plant()
            else:
                self._plant.reset()
            self._measure()
            self._publish()
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
                "resets": self._resets,
                "lost_messages": self._lost,
            },
        )


def _assignments(text: str) -> dict[str, float]:
    """Return the numbers of NAME=VALUE, NAME=VALUE; raises ValueError for another form."""
    found = {}
    for part in text.split(","):
        name, separator, value = part.partition("=")
        if not part.strip():
            continue
        try:
            found[name.strip()] = float(value)
        except ValueError:
            separator = ""
        if not separator:
            raise ValueError(f"'{part.strip()}' is no change; expected such as motor_gain=0.5")
    return found


def main() -> None:
    """Run the node."""
    sys.exit(run(Simulator))


if __name__ == "__main__":
    main()
