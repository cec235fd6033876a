# Copyright 2026 The mbrl_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Node `run_monitor`: tells how a run goes, ends it in time, and reports what it came to."""

from __future__ import annotations

import contextlib
import json
import math
import sys
import time
from pathlib import Path

from diagnostic_msgs.msg import DiagnosticArray
from rcl_interfaces.srv import SetParameters
from rclpy.clock import Clock, ClockType
from rclpy.parameter import Parameter as RosParameter
from rclpy.task import Future
from sensor_msgs.msg import JointState

from mbrl_ros.errors import told
from mbrl_ros.report import RunRecord, draw
from mbrl_ros.robots import load_robot
from mbrl_ros.robots.spec import NANOSECONDS
from mbrl_ros.ros.conversions import read_named_values, to_nanoseconds
from mbrl_ros.ros.diagnostics import read_values
from mbrl_ros.ros.goals import PlannerGoals
from mbrl_ros.ros.parameters import ROBOT, Parameter, ParameterError, declare
from mbrl_ros.ros.peers import peer_name
from mbrl_ros.ros.qos import RECORDING
from mbrl_ros.ros.runtime import FAILED, ManagedNode, run

PARAMETERS = (
    ROBOT,
    Parameter("duration", 0.0, "Robot seconds after which the run ends; 0: no end.", 0.0),
    Parameter("report", "", "JSON file for the summary; empty: none."),
    Parameter("picture", "", "PNG file for a picture of the run; empty: none."),
    Parameter("second_goal_after", 0.0, "Robot seconds until `second_goal`; 0: never.", 0.0),
    Parameter("stall_timeout", 120.0, "Wall seconds without a new state until the run ends.", 1.0),
    Parameter("settings", "{}", "JSON object that the report repeats: how the run was started."),
)

_LINE_EVERY = 5.0  # robot seconds between two lines of the story


_CLOSED = ("DISARMED", "STOPPED")  # the guard, until somebody arms it
_LIMITED = {"planner": ": planner too slow", "model": ": model not good enough yet"}


class RunMonitor(ManagedNode):
    """Follows states, commands and diagnostics; publishes nothing."""

    def __init__(self) -> None:
        super().__init__("run_monitor")
        values = declare(self, PARAMETERS)
        robot = load_robot(values["robot"])
        goals = [
            Parameter(name, robot.goal_default, f"{what}: [{', '.join(robot.goal_names)}].")
            for name, what in (("goal", "Goal at the start"), ("second_goal", "Goal to move to"))
        ]
        goal_values = declare(self, goals)
        for name, goal in goal_values.items():
            problem = robot.check_goal(goal)
            if problem:
                raise ParameterError(f"parameter '{name}': {problem}")
        self._robot = robot
        self._settings = json.loads(values["settings"])
        self._report_path, self._picture = values["report"], values["picture"]
        for name in ("report", "picture"):
            folder = Path(values[name]).absolute().parent
            if values[name] and not folder.is_dir():
                raise ParameterError(f"parameter '{name}': there is no folder {folder}")
        self._second_goal = list(goal_values["second_goal"])
        self._second_goal_after = values["second_goal_after"] or math.inf
        self._record = RunRecord(robot, list(goal_values["goal"]), values["duration"] or math.inf)
        # As the planner has them: both follow the same states.
        self._followed = PlannerGoals(self, robot, goal_values["goal"], self._on_goal)
        self._goals = self._followed.goals
        names = ("mpc_planner", "dynamics_learner")
        if robot.discrete:
            names = ("policy_controller", "policy_learner")
        self._planner_name, self._learner_name = (peer_name(self, name) for name in names)
        self._guard_name = peer_name(self, "command_guard")
        self._guard: dict[str, str] = {}
        self._planner: dict[str, str] = {}
        self._learner: dict[str, str] = {}
        self._texts: dict[str, str] = {}  # what each node said last
        self._phase = ""
        self._next_line = 0.0
        self._was_reached = False
        self._settled: float | None = None  # wall time at which the last numbers must be in
        self._last_progress = time.monotonic()
        self._stall_timeout = values["stall_timeout"]
        self.create_subscription(JointState, "state", self._on_state, RECORDING)
        self.create_subscription(JointState, "applied_action", self._on_applied, RECORDING)
        self.create_subscription(DiagnosticArray, "diagnostics", self._on_diagnostics, RECORDING)
        self.create_timer(0.2, self._on_timer, clock=Clock(clock_type=ClockType.STEADY_TIME))
        self._say("waiting for the robot")

    def _say(self, text: str) -> None:
        print(f"t ={self._record.now:6.2f} s  {text}", flush=True)

    def _on_applied(self, message: JointState) -> None:
        try:
            command = read_named_values(message, self._robot.action_names)
        except ValueError:
            return
        if self._record.started is None:
            self._say("first command sent: the robot moves")
        self._record.add_command(_seconds(message), command)

    def _on_state(self, message: JointState) -> None:
        try:
            state = read_named_values(message, self._robot.state_names)
        except ValueError:
            return
        record, ended, before = self._record, self._record.ended, self._record.now
        record.add_state(_seconds(message), state)
        if record.started is None or record.now > before:
            self._last_progress = time.monotonic()
        if not record.times or ended:
            return
        self._follow_goal(to_nanoseconds(message.header.stamp), state)
        label, since, success = record.label, record.reached_since, self._robot.success
        hold = success.hold if success is not None else math.inf
        reached = since is not None and record.now - since >= hold - 1e-9
        if reached and not self._was_reached:
            self._say(f"{label} since {since:.2f} s")
        if self._was_reached and since is None:
            self._say(f"no longer {label}")
        self._was_reached = reached or (self._was_reached and since is not None)
        if record.now >= self._next_line:
            self._tell_progress(state)
            self._next_line = record.now + _LINE_EVERY
        if record.now >= self._second_goal_after:
            self._second_goal_after = math.inf
            goal = RosParameter("goal", RosParameter.Type.DOUBLE_ARRAY, self._second_goal)
            self._followed.parameters.set_parameters([goal], self._on_goal_set)
        if record.ended:
            # Diagnostics come once a second: wait for those that cover the whole run.
            self._settled = time.monotonic() + 1.5

    def _follow_goal(self, stamp: int, state: list[float]) -> None:
        """Note where way points or a trajectory have moved the goal to."""
        before = self._goals.waypoint
        self._goals.at(stamp, state, 1)
        if self._goals.waypoint != before:
            self._record.change_goal(self._goals.goal)
            self._say(f"way point {self._goals.waypoint}: {_shown(self._goals.goal)}")
        self._record.goal = list(self._goals.goal)

    def _on_goal(self) -> None:
        self._record.change_goal(self._goals.goal)
        if self._goals.waypoint:
            self._say(f"way point {self._goals.waypoint}: {_shown(self._goals.goal)}")
        else:
            self._say(f"the goal moves to {self._goals.goal}")

    def _on_goal_set(self, future: Future[SetParameters.Response]) -> None:
        response = future.result()
        if response is None or not response.results[0].successful:
            self.get_logger().error(f"the second goal was not set: {response}")

    def _tell_progress(self, state: list[float]) -> None:
        robot = self._robot
        values = "  ".join(
            f"{name} {state[robot.state_names.index(name)]:+.2f}"
            for name in robot.goal_names or (robot.state_names if robot.discrete else ())
        )
        cost = float(self._planner.get("predicted_cost", "nan"))
        line = values or (f"plan of cost {cost:.2f}" if math.isfinite(cost) else "no plan yet")
        if self._goals.waypoint:
            line += f"  way point {self._goals.waypoint} at {_shown(self._goals.goal)},"
        elif self._goals.moving:
            line += f"  following {_shown(self._goals.goal)},"
        if self._learner.get("model_transitions", "0") != "0":
            error = float(self._learner["one_step_error"])
            line += f"  model of {self._learner['model_transitions']} transitions,"
            line += f" error {100.0 * error:.1f} %," if math.isfinite(error) else ""
            line += f" plan {float(self._planner.get('plan_ms_median', 'nan')):.0f} ms"
        if self._robot.reward is not None and self._record.episode_steps:
            steps = self._record.episode_steps
            line += f"  {len(steps)} episodes, the last of {steps[-1]} steps"
        line += _LIMITED.get(self._planner.get("limited_by", ""), "")
        if self._guard.get("status") in _CLOSED:
            line += f"; {self._texts[self._guard_name.lstrip('/')]}"
        self._say(line)

    def _on_diagnostics(self, message: DiagnosticArray) -> None:
        self._texts.update((status.name, status.message) for status in message.status)
        self._guard = read_values(message, self._guard_name) or self._guard
        self._planner = read_values(message, self._planner_name) or self._planner
        self._learner = read_values(message, self._learner_name) or self._learner
        phase = self._planner.get("phase", "")
        if phase != self._phase:
            self._phase = phase
            if phase == "moving at random":
                self._say("knows nothing: moving at random")
            if phase == "acting by reflex":
                self._say(f"acting by a policy of {self._planner.get('policy_updates')} updates")
            if phase == "planning":
                transitions = self._planner.get("model_transitions")
                self._say(f"planning with what was learned from {transitions} transitions")

    def _on_timer(self) -> None:
        self._followed.ask()
        if self._settled is not None and time.monotonic() > self._settled:
            self.finished.set()
        if time.monotonic() - self._last_progress > self._stall_timeout:
            texts = [f"{name}: {text}" for name, text in sorted(self._texts.items())]
            self.fail(
                f"no new state for {self._stall_timeout:g} s: giving up; "
                f"{'; '.join(texts) or 'no node says why'}"
            )

    def on_shutdown(self) -> None:
        """Print the summary; write the report and the picture."""
        summary = self._settings | self._record.summary(self._planner, self._learner)
        lines = self._record.tell(summary)
        # The files first: nobody may be there to read what is printed.
        try:
            if self._report_path:
                text = json.dumps(summary, indent=2) + "\n"
                Path(self._report_path).write_text(text, encoding="utf-8")
                lines.append(f"wrote {self._report_path}")
            if self._picture and self._record.times:
                draw(self._record, Path(self._picture))
                lines.append(f"wrote {self._picture}")
        except OSError as error:
            lines.append(f"cannot write {told(error)}")
            self.exit_status = FAILED
        with contextlib.suppress(OSError):
            print("\n".join(lines), flush=True)


def _shown(goal: list[float]) -> str:
    return f"[{', '.join(f'{value:.3g}' for value in goal)}]"


def _seconds(message: JointState) -> float:
    return to_nanoseconds(message.header.stamp) / NANOSECONDS


def main() -> None:
    """Run the node."""
    sys.exit(run(RunMonitor))


if __name__ == "__main__":
    main()
