# Copyright 2026 The mbrl_ros authors
# SPDX-License-Identifier: Apache-2.0
"""`mbrl bench learn`: what counts as solved, and one short run through the whole graph."""

import json
import math

import pytest
import torch
import yaml
from typer.testing import CliRunner

from mbrl_ros import cli
from mbrl_ros.benchmarks import learn
from mbrl_ros.benchmarks.plants import DiffDrive
from mbrl_ros.dynamics.features import wrap_angle
from mbrl_ros.dynamics.model import Transitions
from mbrl_ros.planning.planner import Problem, make_planner
from mbrl_ros.resources import config_directory
from mbrl_ros.robots import load_robot
from mbrl_ros.robots.spec import robot_names


def run_of(robot, states, rewards=None, skip=()):
    """Return the transitions of a robot that is in these states tick by tick; `skip` has none."""
    period = robot.period_nanoseconds
    kept = [i for i in range(len(states) - 1) if i not in skip]
    table = torch.tensor(states, dtype=torch.float64)
    earned = torch.zeros(len(kept), 0)
    if rewards is not None:
        earned = torch.tensor([[rewards[i]] for i in kept]).double()
    return Transitions(
        table[kept],
        torch.zeros(len(kept), len(robot.action_names)).double(),
        table[[i + 1 for i in kept]],
        earned,
        torch.tensor([(i + 1) * period for i in kept]),
    )


def test_way_points_must_all_be_reached_in_their_order():
    robot, parameters = load_robot("diff_drive"), learn.TASKS["diff_drive"].planner_parameters
    points = [parameters["waypoints"][i : i + 2] for i in (0, 2, 4)]

    def solved(*places):
        states = [[*place, 0.0, 0.0, 0.0] for place in places]
        moments = list(learn.replayed(robot, parameters, run_of(robot, states)))
        return learn.TASKS["diff_drive"].judge(robot, moments)

    away = [0.5, 0.5]
    assert solved(away, points[0], away, points[1], away, points[2], away) == 0.5
    assert solved(away, points[1], away, points[0], away, points[2], away) is None
    assert solved(away, points[0], away, points[1], away) is None


def test_the_tip_must_stay_near_its_goal_until_the_end():
    robot, task = load_robot("arm2"), learn.TASKS["arm2"]
    rows = task.planner_parameters["goal_trajectory"]
    points = [rows[i : i + 3] for i in range(0, len(rows), 3)]
    assert all(robot.check_goal(point[1:]) is None for point in points)
    for _, *angles in points:
        assert math.dist(learn._tip(angles), (0.4, 0.4)) == pytest.approx(0.15)

    def solved(error, until, seconds=40.0):
        states = []
        for tick in range(round(seconds * robot.control_rate) + 1):
            time = tick / robot.control_rate
            before, after = points[int(time * 10.0)], points[int(time * 10.0) + 1]
            share = time * 10.0 - int(time * 10.0)
            angles = [a + share * (b - a) for a, b in zip(before[1:], after[1:], strict=True)]
            states.append([angles[0] + (error if time < until else 0.0), angles[1], 0.0, 0.0])
        moments = list(learn.replayed(robot, task.planner_parameters, run_of(robot, states)))
        return task.judge(robot, moments)

    assert solved(0.2, 20.0) == pytest.approx(20.0)
    assert solved(0.2, 35.0) is None  # too late to tell
    assert solved(0.2, 100.0) is None
    assert solved(0.01, 100.0) == pytest.approx(0.05)  # less than two centimetres off


def test_a_good_episode_is_whole_and_earns_enough():
    robot, task = load_robot("half_cheetah"), learn.TASKS["half_cheetah"]

    def solved(*per_step, last=1000):
        """Episodes of 1000 steps that earn so much each step, with a tick left out between."""
        lengths = [1000] * (len(per_step) - 1) + [last]
        rewards, skip = [], []
        for value, length in zip(per_step, lengths, strict=True):
            skip += [] if not rewards else [len(rewards), len(rewards) + 1]
            rewards += ([0.0, 0.0] if rewards else []) + [value] * length
        states = torch.zeros(len(rewards) + 1, 17).tolist()
        run = run_of(robot, states, rewards, skip)
        return task.judge(robot, list(learn.replayed(robot, {}, run)))

    assert solved(0.5, 1.001, 2.0) == pytest.approx(2002 * 0.05)
    assert solved(0.9, 0.99) is None
    assert solved(0.5, 3.0, last=600) is None  # more than enough, but no whole episode


def test_every_task_is_of_a_shipped_robot():
    assert set(learn.TASKS) <= set(robot_names())


def tuned_settings(robot, kind):
    """Return what the robot's tuning file says of this kind of planner."""
    content = yaml.safe_load((config_directory() / "tuning" / f"{robot.name}.yaml").read_text())
    parameters = content["/**/mpc_planner"]["ros__parameters"]
    prefix = f"{kind}."
    return {
        name.removeprefix(prefix): value
        for name, value in parameters.items()
        if name.startswith(prefix) or "." not in name
    }


@pytest.mark.parametrize(
    ("place", "goal", "seed"),
    [
        ((0.47, -0.04, 0.2), (3.0, 0.0), 0),
        ((0.47, -0.04, 0.2), (3.0, 0.0), 1),
        ((0.47, 0.04, 0.0), (3.0, 0.0), 0),
        ((1.72, 0.22, -0.9), (0.0, 1.0), 0),
    ],
)
def test_diff_drive_does_not_stay_before_a_pillar(place, goal, seed):
    # Even with a model that is the plant itself, the planner's defaults leave it there.
    robot, kind = load_robot("diff_drive"), "mppi"
    plant, angles = DiffDrive(robot), torch.tensor(robot.angle_mask)
    planner = make_planner(kind, robot, **tuned_settings(robot, kind))
    state, action, plan = torch.tensor([[*place, 0.0, 0.0]]).double(), torch.zeros(2), None
    for tick in range(60):
        problem = Problem(state[0].float(), torch.tensor(goal), action, seed=1000 * seed + tick)
        plan = planner.plan(problem, plant, plan)
        action = plan.actions[0]
        state = plant.step(state, action[None].double())
        state = torch.where(angles, wrap_angle(state), state)
        if robot.goal_reached(state[0].tolist(), list(goal)):
            return
    pytest.fail(f"still at {state[0].tolist()} after six seconds")


def test_an_unknown_robot_is_refused_at_once():
    result = CliRunner().invoke(cli.app, ["bench", "learn", "--robot", "toaster"])
    assert result.exit_code == 1
    assert "unknown robot 'toaster'; expected one of" in result.output


def test_a_short_run_through_the_graph_gives_a_row(tmp_path, monkeypatch):
    monkeypatch.setattr(learn, "QUICK_SECONDS", 3.0)
    path = tmp_path / "rows.json"
    words = ["bench", "learn", "--robot", "diff_drive", "--seeds", "1", "--quick", "--json"]
    result = CliRunner().invoke(cli.app, [*words, str(path)])
    assert result.exit_code == 0, result.output
    assert "its figures are no measurement" in result.output
    (row,) = json.loads(path.read_text("utf-8"))
    assert list(row) == [
        "robot",
        "model",
        "planner",
        "seed",
        "solved_at_s",
        "interaction_s",
        "cost",
        "deadline_misses",
    ]
    assert (row["robot"], row["model"], row["planner"], row["seed"]) == (
        "diff_drive",
        "gp",
        "mppi",
        0,
    )
    assert row["interaction_s"] == 3.0
    assert row["cost"] > 0.0
    assert row["deadline_misses"] == 0
