# Copyright 2026 The mbrl_ros authors
# SPDX-License-Identifier: Apache-2.0
"""What a run came to: measured from its states and actions, told as numbers and as a picture."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from mbrl_ros.robots.spec import RobotSpec

# States and commands kept for the picture: an hour at 20 Hz.
_KEPT = 72_000

# Episodes kept, and the longest step, in periods: beyond it lies the tick that a reset leaves out.
_EPISODES = 1000
_LONGEST = 1.5

# Keys of the diagnostics that a report quotes, by node.
_TIMES = {"median": "plan_ms_median", "p99": "plan_ms_p99", "max": "plan_ms_max"}


@dataclass
class GoalChange:
    """A goal that came during a run, and how long it took to be within its tolerances.

    at, reached_after: seconds; None: not reached.
    """

    at: float
    goal: list[float]
    reached_after: float | None = None


class RunRecord:
    """Collects one run. Times are seconds of robot time since the robot first got a command.

    duration: what comes later is left out (infinity: nothing is). Of a run without end, the
    picture shows the last part.
    """

    def __init__(self, robot: RobotSpec, goal: Sequence[float], duration: float) -> None:
        self.robot = robot
        self.goal = list(goal)
        self.duration = duration
        self.started: float | None = None  # stamp of the first command, seconds
        self.ticks = 0
        self.solved_at: float | None = None
        self.reached_since: float | None = None
        self.goal_changes: list[GoalChange] = []
        # The first command may arrive after the states that it answers.
        self._early: deque[tuple[float, list[float]]] = deque(maxlen=5)
        self.times: deque[float] = deque(maxlen=_KEPT)
        self.states: deque[list[float]] = deque(maxlen=_KEPT)
        self.goals: deque[list[float]] = deque(maxlen=_KEPT)
        self.episode_steps: deque[int] = deque(maxlen=_EPISODES)  # of those that have ended
        self._steps = 0  # of the one under way
        self.command_times: deque[float] = deque(maxlen=_KEPT)
        self.commands: deque[list[float]] = deque(maxlen=_KEPT)

    def change_goal(self, goal: Sequence[float]) -> None:
        """Take a new goal (G,) that is in force from now on."""
        self.goal = list(goal)
        self.goal_changes.append(GoalChange(self.now, self.goal))

    @property
    def label(self) -> str:
        """What people call success."""
        return self.robot.success.label if self.robot.success is not None else "solved"

    @property
    def now(self) -> float:
        """Time of the last state."""
        return self.times[-1] if self.times else 0.0

    @property
    def ended(self) -> bool:
        """Whether the duration has passed."""
        return bool(self.times) and self.now >= self.duration - 1e-9

    def add_command(self, stamp: float, command: Sequence[float]) -> None:
        """Take a command (A,) and when it was sent, in seconds; the first one starts the run."""
        if self.started is None:
            self.started = stamp
            for early in self._early:
                self.add_state(*early)
        if stamp - self.started < self.duration - 1e-9:
            self.command_times.append(stamp - self.started)
            self.commands.append(list(command))

    def add_state(self, stamp: float, state: Sequence[float]) -> None:
        """Take the state (D,) of this stamp, in seconds; none counts before the first command."""
        if self.started is None:
            self._early.append((stamp, list(state)))
            return
        if self.ended:
            return
        time = stamp - self.started
        if time < 0.0 or (self.times and time <= self.times[-1]):
            return
        if time < self.duration - 1e-9:
            self.ticks += 1
        if self.times and time - self.times[-1] > _LONGEST * self.robot.period:
            self.episode_steps.append(self._steps)
            self._steps = 0
        elif self.times:
            self._steps += 1
        self.times.append(time)
        self.states.append(list(state))
        self.goals.append(list(self.goal))
        change = self.goal_changes[-1] if self.goal_changes else None
        if change and change.reached_after is None and self.robot.goal_reached(state, self.goal):
            change.reached_after = time - change.at
        success = self.robot.success
        if success is None or not self.robot.succeeds(state, self.goal):
            self.reached_since = None
            return
        if self.reached_since is None:
            self.reached_since = time
        held = time - self.reached_since >= success.hold - 1e-9
        if self.solved_at is None and held:
            self.solved_at = self.reached_since

    def summary(self, planner: Mapping[str, str], learner: Mapping[str, str]) -> dict[str, object]:
        """Return the report; planner, learner: values of the nodes' last diagnostics.

        What nothing is known of is None, which JSON writes as null.
        """
        return {
            "robot": self.robot.name,
            "planner": planner.get("planner"),
            "interaction_s": _rounded(self.now),
            "solved_at_s": _rounded(self.solved_at),
            "at_goal_since_s": _rounded(self.reached_since),
            "goal": self.goal,
            "goal_changes": [
                {
                    "at_s": _rounded(change.at),
                    "goal": change.goal,
                    "reached_after_s": _rounded(change.reached_after),
                }
                for change in self.goal_changes
            ],
            "ticks": self.ticks,
            "episode_steps": None if self.robot.reward is None else list(self.episode_steps),
            "transitions": _number(learner, "transitions", int),
            "plan_ms": {name: _number(planner, key) for name, key in _TIMES.items()},
            "deadline_misses": _number(planner, "deadline_misses", int),
            "limited_by": planner.get("limited_by"),
            "mpc_ticks": _number(planner, "mpc_ticks", int),
            "guided_ticks": _number(planner, "guided_ticks", int),
            "policy_ticks": _number(planner, "policy_ticks", int),
            "policy_generation": _number(planner, "policy_generation", int),
            "learner_update_ms": _number(learner, "update_ms_median"),
            "one_step_error": _number(learner, "one_step_error"),
        }

    def tell(self, summary: Mapping[str, object]) -> list[str]:
        """Return the summary as lines for people."""
        if self.started is None:
            return [f"{self.robot.name}: the robot was never commanded"]
        success, plan_ms = self.robot.success, summary["plan_ms"]
        assert isinstance(plan_ms, dict)
        misses = f"{summary['deadline_misses']} deadline misses"
        if summary.get("pace") == "lockstep":
            misses = "deadline misses are not counted in lockstep"
        solved = summary["solved_at_s"]
        since = summary["at_goal_since_s"]
        outcome = []
        if success is not None:
            outcome = [
                f"first {success.label} for {success.hold:g} s: "
                + ("never" if solved is None else f"from {solved} s on"),
                "at the end: "
                + (
                    f"not {success.label}" if since is None else f"{success.label} since {since} s"
                ),
            ]
        changes = [
            f"goal {change.goal} at {change.at:.2f} s: "
            + (
                "not reached"
                if change.reached_after is None
                else f"reached after {change.reached_after:.2f} s"
            )
            for change in self.goal_changes
        ]
        steps = self.episode_steps if self.robot.reward is not None else ()
        if steps:
            outcome.append(
                f"{len(steps)} episodes: the first of {steps[0]} steps, the shortest of "
                f"{min(steps)}, the last of {steps[-1]}"
            )
        return [
            f"{self.robot.name}: moved for {summary['interaction_s']} s, "
            f"{summary['ticks']} ticks, {summary['transitions']} transitions",
            *outcome[:1],
            *changes,
            *outcome[1:],
            f"plan {plan_ms['median']} ms median, {plan_ms['p99']} ms p99, "
            f"{plan_ms['max']} ms max; {misses}; "
            f"model update {summary['learner_update_ms']} ms",
        ]


def draw(record: RunRecord, path: Path) -> None:
    """Write a picture of the run: goal dimensions and actions over time."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    robot, times = record.robot, record.times
    rows = len(robot.goal) + len(robot.command.dimensions)
    figure, axes = pyplot.subplots(
        rows, 1, sharex=True, figsize=(9.0, 1.9 * rows + 0.6), layout="constrained", squeeze=False
    )
    panels = [row[0] for row in axes]
    for i, name in enumerate(robot.goal_names):
        index = robot.state_names.index(name)
        values = [state[index] for state in record.states]
        if robot.state[index].angle:
            values = _broken_at_wraps(values)
        panels[i].plot(times, [goal[i] for goal in record.goals], "--", color="tab:green", lw=1.2)
        panels[i].plot(times, values, color="tab:blue", lw=1.2)
        panels[i].set_ylabel(f"{name}\n[{robot.state[index].unit}]")
        limits = robot.state[index].limits
        for limit in limits or ():
            panels[i].axhline(limit, color="tab:red", lw=0.8)
    for i, dimension in enumerate(robot.command.dimensions):
        panel = panels[len(robot.goal) + i]
        panel.step(
            record.command_times,
            [action[i] for action in record.commands],
            where="post",
            color="tab:orange",
            lw=0.9,
        )
        panel.set_ylabel(f"{dimension.name}\n[{dimension.unit}]")
    if record.solved_at is not None:
        for panel in panels:
            panel.axvspan(record.solved_at, record.now, color="tab:green", alpha=0.08, lw=0)
        title = f", {record.label} from {record.solved_at:.2f} s on"
    else:
        title = f", never {record.label}" if robot.success is not None else ""
    panels[0].set_title(f"{robot.name}: starts knowing nothing{title}", fontsize=10)
    panels[-1].set_xlabel("robot time since the first command [s]")
    for panel in panels:
        panel.grid(alpha=0.3)
    figure.savefig(path, dpi=110)
    pyplot.close(figure)


def _broken_at_wraps(values: Sequence[float]) -> list[float]:
    """Put NaN where an angle jumps from pi to -pi, so that no line is drawn across."""
    broken = list(values)
    for i in range(1, len(values)):
        if abs(values[i] - values[i - 1]) > math.pi:
            broken[i] = math.nan
    return broken


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 3)


def _number(
    values: Mapping[str, str], key: str, kind: type[int] | type[float] = float
) -> int | float | None:
    try:
        number = float(values[key])
    except (KeyError, ValueError):
        return None
    if not math.isfinite(number):
        return None
    return int(number) if kind is int else round(number, 3)
