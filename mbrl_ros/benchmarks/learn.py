# Copyright 2026 The mbrl_ros authors
# SPDX-License-Identifier: Apache-2.0
"""How long each robot takes to learn its task from nothing, through the graph in lockstep."""

from __future__ import annotations

import json
import math
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
import yaml
from rich.box import SIMPLE_HEAD
from rich.table import Table

from mbrl_ros.benchmarks.logs import BenchmarkError
from mbrl_ros.dynamics.experience import Experience, ExperienceError
from mbrl_ros.dynamics.model import Transitions
from mbrl_ros.planning.goals import Goals
from mbrl_ros.planning.objective import Objective, Steps
from mbrl_ros.robots.spec import NANOSECONDS, RobotError, RobotSpec, load_robot

QUICK_SECONDS = 12.0
_ARM_LINKS = (0.5, 0.4)  # m, of arm2.xml
_TIP_TOLERANCE = 0.02  # m
_TRACKING = 40.0  # weight on the squared distance to the moving goal
_TRACKED_FOR = 10.0  # s up to the end in which the tip must not leave it
_RETURN = 1000.0  # of an episode of HalfCheetah,
_EPISODE = 1000  # which has so many steps,
_LOST = 10  # of which some may not have been stored


@dataclass(frozen=True)
class Moment:
    """One step of a run, and the goal (G,) that was in force: time is of its end, in seconds."""

    time: float
    state: list[float]
    goal: list[float]
    goals_left: int
    reached: bool
    reward: float


# (robot, run) -> when the task was solved, in seconds since the first motion, or None
Judge = Callable[[RobotSpec, Sequence[Moment]], float | None]


@dataclass(frozen=True)
class LearnTask:
    """What a robot is to learn.

    duration: robot seconds that it has. judge: says when it was solved; None: by the robot's own
    `success`. planner_parameters: of node mpc_planner, beyond the defaults.
    """

    duration: float = 60.0
    model: str = "gp"
    judge: Judge | None = None
    planner_parameters: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Row:
    """What one seed came to.

    solved_at_s: seconds since the first motion, or None. interaction_s: how long the robot
    moved. cost: mean of a step, by the robot's file and the goal in force; of a robot that only
    has a reward, the negative of that.
    """

    robot: str
    model: str
    planner: str
    seed: int
    solved_at_s: float | None
    interaction_s: float
    cost: float | None
    deadline_misses: int


# -- tasks ------------------------------------------------------------------------------------


def _all_goals(robot: RobotSpec, run: Sequence[Moment]) -> float | None:
    """Solved when the last of the way points has been reached."""
    return next((m.time for m in run if m.goals_left == 0 and m.reached), None)


def _tip(angles: Sequence[float]) -> tuple[float, float]:
    shoulder, both = angles[0], angles[0] + angles[1]
    upper, fore = _ARM_LINKS
    return (
        upper * math.cos(shoulder) + fore * math.cos(both),
        upper * math.sin(shoulder) + fore * math.sin(both),
    )


def _tip_follows(robot: RobotSpec, run: Sequence[Moment]) -> float | None:
    """Solved from when on the tip never leaves the moving goal, for ten seconds at least."""
    since = None
    for moment in run:
        near = math.dist(_tip(moment.state[:2]), _tip(moment.goal)) <= _TIP_TOLERANCE
        since = (moment.time if since is None else since) if near else None
    if since is None or run[-1].time - since < _TRACKED_FOR - 2.0 * robot.period:
        return None
    return since


def _circle(seconds: float, lap: float = 8.0) -> list[float]:
    """Return joint angles over time, [s, shoulder, elbow] one after the other, of a tip's circle.

    Of 0.15 m around (0.4, 0.4) m; inverse kinematics of the two-link arm (Craig, section 4.4).
    """
    flat: list[float] = []
    upper, fore = _ARM_LINKS
    for i in range(round(seconds * 10.0) + 1):
        phase = 2.0 * math.pi * i / (10.0 * lap)
        x, y = 0.4 + 0.15 * math.cos(phase), 0.4 + 0.15 * math.sin(phase)
        elbow = math.acos((x * x + y * y - upper**2 - fore**2) / (2.0 * upper * fore))
        bend = math.atan2(fore * math.sin(elbow), upper + fore * math.cos(elbow))
        flat += [i / 10.0, math.atan2(y, x) - bend, elbow]
    return flat


def _good_episode(robot: RobotSpec, run: Sequence[Moment]) -> float | None:
    """Solved at the end of the first whole episode whose return is high enough."""
    total, steps = 0.0, 0
    for moment, following in zip(run, [*run[1:], None], strict=True):
        total, steps = total + moment.reward, steps + 1
        if following is not None and following.time - moment.time < 1.5 * robot.period:
            continue
        # The tick that a reset leaves out ends an episode; a run may end in the midst of one.
        if steps >= _EPISODE - _LOST and total >= _RETURN:
            return moment.time
        total, steps = 0.0, 0
    return None


TASKS = {
    "cartpole": LearnTask(duration=40.0),
    "arm2": LearnTask(
        duration=45.0,
        judge=_tip_follows,
        # Nearer than the file's weights, which are of a goal that stands still, care for.
        planner_parameters={
            "goal_trajectory": _circle(45.0),
            "goal_weights": [_TRACKING, _TRACKING],
        },
    ),
    "diff_drive": LearnTask(
        duration=60.0,
        judge=_all_goals,
        planner_parameters={"waypoints": [3.0, 0.0, 0.0, 1.0, 2.6, -1.4]},
    ),
    "quadrotor2d": LearnTask(duration=60.0),
    "half_cheetah": LearnTask(
        # 20,000 steps, and a tick between two episodes.
        duration=1001.0,
        model="ensemble",
        judge=_good_episode,
    ),
}


# -- running them -----------------------------------------------------------------------------


def run(
    robot: str,
    model: str | None = None,
    planner: str | None = None,
    seeds: int = 10,
    quick: bool = False,
    say: Callable[[str], None] = lambda line: None,
) -> list[Row]:
    """Let a robot that knows nothing learn its task, once a seed, and say what came out.

    robot: a shipped name, a file or gym/ENVIRONMENT_ID. model: None for the task's. planner: None
    for the one that suits the robot.
    quick: a few seconds of it, to see that all works. say: told of each run.
    Raises BenchmarkError if the robot cannot be used or a run leaves no report.
    """
    try:
        spec = load_robot(robot)
    except RobotError as error:
        raise BenchmarkError(str(error)) from None
    task = TASKS.get(spec.name, LearnTask())
    model, planner = model or task.model, planner or ""
    rows = []
    for seed in range(seeds):
        row = _run_once(robot, spec, task, model, planner, seed, quick)
        solved = "not solved" if row.solved_at_s is None else f"solved at {row.solved_at_s:g} s"
        say(f"{row.robot}, seed {seed}: {solved}, of {row.interaction_s:g} s")
        rows.append(row)
    return rows


def _run_once(
    robot: str, spec: RobotSpec, task: LearnTask, model: str, planner: str, seed: int, quick: bool
) -> Row:
    duration = min(task.duration, QUICK_SECONDS) if quick else task.duration
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        report, parameters = folder / "report.json", folder / "parameters.yaml"
        content = {"mpc_planner": {"ros__parameters": dict(task.planner_parameters)}}
        parameters.write_text(yaml.safe_dump(content), "utf-8")
        arguments = {
            "robot": robot,
            "model": model,
            "planner": planner,
            "seed": seed,
            "pace": "lockstep",
            "duration": duration,
            "report": report,
            "experience": folder,
            "log_level": "warn",
        }
        if task.planner_parameters:
            arguments["params_file"] = parameters
        words = [f"{key}:={value}" for key, value in arguments.items()]
        command = [sys.executable, "-m", "mbrl_ros.cli", "launch", "mpc.launch.py", *words]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode or not report.is_file():
            last = "\n".join((done.stdout + done.stderr).splitlines()[-20:])
            raise BenchmarkError(f"{spec.name}, seed {seed}: the run came to nothing:\n{last}")
        summary = json.loads(report.read_text("utf-8"))
        try:
            transitions = Experience(folder, spec).load()
        except ExperienceError as error:
            raise BenchmarkError(str(error)) from None
    moments = list(replayed(spec, task.planner_parameters, transitions))
    solved = summary["solved_at_s"] if task.judge is None else task.judge(spec, moments)
    return Row(
        robot=spec.name,
        model=model,
        planner=summary["planner"],
        seed=seed,
        solved_at_s=solved,
        interaction_s=summary["interaction_s"],
        cost=_mean_cost(spec, transitions, moments),
        deadline_misses=summary["deadline_misses"] or 0,
    )


def replayed(
    robot: RobotSpec, planner_parameters: Mapping[str, Any], run: Transitions
) -> Iterator[Moment]:
    """Yield the steps of a run in order, with the goals that the planner had at their ends."""
    goals = Goals(robot)
    if "waypoints" in planner_parameters:
        goals.set_waypoints(planner_parameters["waypoints"])
    if "goal_trajectory" in planner_parameters:
        goals.set_trajectory(planner_parameters["goal_trajectory"])
    if len(run):
        goals.at(int(run.stamps[0]) - robot.period_nanoseconds, run.states[0].tolist(), 1)
    for i in range(len(run)):
        state, stamp = run.next_states[i].tolist(), int(run.stamps[i])
        before = list(goals.goal), goals.left
        reached = bool(robot.goal) and robot.goal_reached(state, before[0])
        goals.at(stamp, state, 1)
        left = before[1]
        reward = float(run.rewards[i].sum())
        goal = before[0] if goals.left < left else list(goals.goal)
        yield Moment(stamp / NANOSECONDS, state, goal, left, reached, reward)


def _mean_cost(robot: RobotSpec, run: Transitions, moments: Sequence[Moment]) -> float | None:
    if not moments:
        return None
    if robot.cost.reward:
        return -sum(moment.reward for moment in moments) / len(moments)
    goals = torch.tensor([moment.goal for moment in moments], dtype=torch.float64)
    before = torch.cat([run.actions[:1], run.actions[:-1]])
    steps = Steps(run.states, run.actions, run.next_states, before, goals)
    return round(float(Objective(robot).stage_cost(steps).mean()), 4)


def table(rows: Sequence[Row]) -> Table:
    """Lay rows out for the terminal."""
    result = Table(box=SIMPLE_HEAD, padding=0, show_edge=False)
    for column in asdict(rows[0]):
        result.add_column(column, justify="left" if column in ("robot", "model") else "right")
    for row in rows:
        values = asdict(row).values()
        result.add_row(*("-" if value is None else f"{value}" for value in values))
    return result


def plain(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """Return the rows as JSON can hold them."""
    return [asdict(row) for row in rows]
