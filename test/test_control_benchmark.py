# Copyright 2026 The mbrl_ros authors
# SPDX-License-Identifier: Apache-2.0
"""The benchmark of planners: the plants that it plans through, its rows and its picture."""

import dataclasses
import json
import math

import pytest
import torch
from typer.testing import CliRunner

from mbrl_ros.benchmarks import control, logs
from mbrl_ros.benchmarks.control import Effort, Row
from mbrl_ros.benchmarks.control_tasks import TASKS
from mbrl_ros.cli import app
from mbrl_ros.dynamics.features import wrap_angle
from mbrl_ros.planning.planner import Plan, Problem, make_planner

TINY = Effort(("diff_drive",), 1, 0.1, 1, 0, all_episodes=False)


@pytest.mark.parametrize("name", ["cartpole", "arm2"])
def test_closed_form_moves_as_mujoco_does(name):
    task = TASKS[name]
    robot = task.robot()
    log = dataclasses.replace(task.log, training=4, test=1).log(0)
    data = logs.transitions(log.training)
    plant = task.true(robot)
    error = plant.step(data.states, data.actions) - data.next_states
    error[:, plant.features.angles] = wrap_angle(error[:, plant.features.angles])
    change = plant.features.deltas(data.states, data.next_states)
    share = (error.square().mean(0) / change.square().mean(0)).sqrt()
    assert float(share.max()) < 0.015  # what is left is dry friction, smooth and not


def test_the_cheetah_moves_as_in_gymnasium_and_its_cost_is_its_reward():
    pytest.importorskip("gymnasium")
    task = TASKS["half_cheetah"]
    robot = task.robot()
    plant = task.true(robot)
    environment = logs.half_cheetah_environment()
    observation, _ = environment.reset(seed=0)
    generator = torch.Generator().manual_seed(0)
    actions = 2.0 * torch.rand(20, 6, generator=generator, dtype=torch.float64) - 1.0
    states, effort = [torch.from_numpy(observation)], 0.0
    for action in actions.numpy():
        observation, _, _, _, info = environment.step(action)
        states.append(torch.from_numpy(observation))
        effort -= info["reward_ctrl"]
    environment.close()
    seen = torch.stack(states)
    predicted = plant.rollout(seen[:1], actions[:, None])[:, 0]
    assert torch.allclose(predicted, seen, atol=1e-6)
    objective = make_planner("mppi", robot).objective
    cost = objective.cost(seen[:, None], actions[:, None], torch.zeros(1), torch.zeros(6))
    assert float(cost) == pytest.approx(effort - float(seen[1:, 8].sum()), rel=1e-5)


def test_finite_differences_are_the_slopes_of_the_cheetah():
    pytest.importorskip("gymnasium")
    task = TASKS["half_cheetah"]
    plant = task.true(task.robot())
    state = torch.zeros(1, 17, dtype=torch.float64)
    state[0, 0] = 1.0  # in the air, where nothing has a kink
    action = torch.zeros(1, 6, dtype=torch.float64)
    by_state, by_action = plant.linearise(state, action)
    assert (by_state.shape, by_action.shape) == ((1, 17, 17), (1, 17, 6))
    generator = torch.Generator().manual_seed(0)
    away = 1e-3 * torch.randn(1, 17, generator=generator, dtype=torch.float64)
    push = 1e-3 * torch.randn(1, 6, generator=generator, dtype=torch.float64)
    moved = plant.step(state + away, action + push) - plant.step(state, action)
    expected = (by_state @ away[..., None] + by_action @ push[..., None])[..., 0]
    assert torch.allclose(moved, expected, atol=1e-2 * float(moved.abs().max()))


def test_rows_hold_their_keys_and_repeat():
    rows = control.run(planners=["cem", "ilqr"], effort=TINY)
    assert [list(row.plain()) for row in rows] == [
        ["task", "planner", "dynamics", "samples", "median_ms", "cost"]
    ] * 4
    assert [(row.planner, row.dynamics) for row in rows] == [
        (planner, dynamics) for dynamics in ("true", "gp") for planner in ("cem", "ilqr")
    ]
    assert all(row.median_ms > 0.0 and math.isfinite(row.cost) for row in rows)
    assert rows[0].samples == 60
    again = control.run(planners=["cem", "ilqr"], effort=TINY)
    assert [(row.samples, row.cost) for row in again] == [(row.samples, row.cost) for row in rows]


def test_an_episode_repeats_bit_for_bit_and_follows_its_seed():
    task = TASKS["diff_drive"]
    robot = task.robot()
    plant = task.true(robot)

    def episode(seed):
        planner = make_planner("icem+ilqr", robot, horizon=10, samples=20)
        return control.run_episode(task, robot, planner, plant, plant, seed, share=0.15)

    first, again, other = episode(0), episode(0), episode(1)
    assert torch.equal(first.states, again.states)
    assert torch.equal(first.actions, again.actions)
    assert first.cost == again.cost
    assert first.cost != other.cost
    # The plant is what planners plan through: the first prediction comes true.
    assert torch.allclose(plant.step(first.states[:1], first.actions[:1])[0], first.states[1])


def test_planners_get_the_same_budgets_of_trajectories():
    task = TASKS["diff_drive"]
    robot = task.robot()
    plant = task.true(robot)
    state = torch.zeros(5)
    problem = Problem(state, torch.tensor(task.goal), torch.zeros(2))
    for kind in ("random_shooting", "cem", "icem", "mppi"):
        small, large = control.planners_of(kind, robot, 5, (60, 200))
        assert small.plan(problem, plant, None).samples == pytest.approx(60, abs=3)
        assert large.plan(problem, plant, None).samples == pytest.approx(200, abs=3)


def test_ilqr_leaves_a_place_where_the_cost_has_no_slope():
    """A pole that all but hangs down: the cost curves downwards there."""
    task = TASKS["cartpole"]
    robot = task.robot()
    plant = task.true(robot)
    planner = make_planner("ilqr", robot, horizon=25, iterations=6)
    state = torch.tensor([0.0, 0.0, math.pi - 0.1, 0.0])
    idle = torch.zeros(25, 1)
    states = plant.rollout(state[None], idle[:, None])
    goal = torch.zeros(2)
    cost = float(planner.objective.cost(states, idle[:, None], goal, torch.zeros(1)))
    last = Plan(idle, states[:, 0], cost)
    found = planner.plan(Problem(state, goal, torch.zeros(1)), plant, last)
    assert found.cost < 0.96 * cost


def test_the_first_plan_of_ilqr_starts_away_from_the_middle():
    task = TASKS["cartpole"]
    robot = task.robot()
    plant = task.true(robot)
    state = torch.tensor([0.0, 0.0, math.pi, 0.0])  # where the cost has no slope at all
    problem = Problem(state, torch.zeros(2), torch.zeros(1))
    costs = [
        make_planner("ilqr", robot, iterations=1, starts=n).plan(problem, plant, None).cost
        for n in (0, 64)
    ]
    assert costs[1] < 0.99 * costs[0]
    planner = make_planner("ilqr", robot, iterations=1)
    plans = [planner.plan(problem, plant, None).actions for _ in range(2)]
    assert torch.equal(plans[0], plans[1])


def test_the_front_is_what_nothing_beats_and_the_picture_is_drawn(tmp_path):
    rows = [
        Row("t", "cem", "true", 10, 1.0, 9.0),
        Row("t", "cem", "true", 20, 2.0, 10.0),
        Row("t", "icem", "true", 10, 3.0, 5.0),
        Row("t", "icem", "gp", 10, 0.5, 1.0),
        Row("t", "ilqr", "true", 10, 4.0, math.nan),
    ]
    assert control.pareto_front(rows[:3] + rows[4:]) == [rows[0], rows[2]]
    control.draw(rows, tmp_path / "front.png")
    assert (tmp_path / "front.png").read_bytes().startswith(b"\x89PNG")
    assert control.table(rows).row_count == 5


def test_the_command_refuses_what_it_cannot_do(tmp_path):
    def refused(*words):
        result = CliRunner().invoke(app, ["bench", "control", *words])
        assert result.exit_code != 0
        return result.stderr

    assert "unknown task 'chess'; expected one of cartpole" in refused("--tasks", "chess")
    assert "unknown planner 'magic'" in refused("--planners", "magic", "--tasks", "diff_drive")
    assert "there is no folder" in refused("--plot", str(tmp_path / "no" / "x.png"))


def test_the_command_writes_what_it_measured(tmp_path, monkeypatch):
    monkeypatch.setattr(control, "QUICK", TINY)
    file, plot = tmp_path / "control.json", tmp_path / "control.pdf"
    words = ["--quick", "--planners", "mppi", "--json", str(file), "--plot", str(plot)]
    result = CliRunner().invoke(app, ["bench", "control", *words])
    assert result.exit_code == 0, result.stderr
    rows = json.loads(file.read_text("utf-8"))
    assert {row["dynamics"] for row in rows} == {"true", "gp"}
    assert list(rows[0]) == ["task", "planner", "dynamics", "samples", "median_ms", "cost"]
    assert plot.read_bytes().startswith(b"%PDF")
