# Copyright 2026 The mbrl_ros authors
# SPDX-License-Identifier: Apache-2.0
"""What `mbrl bench` runs on, and what it says. No times are judged here."""

import dataclasses
import json
import math
import sys

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from mbrl_ros.benchmarks import gp, logs, model, plan, plan_peers
from mbrl_ros.benchmarks.logs import TASKS, BenchmarkError, load_log, log_path, transitions
from mbrl_ros.cli import app
from mbrl_ros.dynamics.evaluation import evaluate
from mbrl_ros.kinds import PLANNERS
from mbrl_ros.robots import load_robot

TINY = model.Effort(
    all_episodes=False, training_s=0.0, fit_steps=20, starts=5, updates=2, predictions=2
)
KEYS = {
    *("task", "kind", "library", "horizon"),
    *("nrmse", "coverage90", "update_ms", "predict_ms"),
}


def make(task: str, seed: int = 0) -> logs.Log:
    if task == "half_cheetah":
        pytest.importorskip("gymnasium")
    return TASKS[task].log(seed)


def tensors(log: logs.Log) -> list[torch.Tensor]:
    return [part for e in (*log.training, *log.test) for part in (e.states, e.actions)]


@pytest.mark.parametrize(
    ("task", "dimensions", "angles"),
    [("cartpole", (4, 1), [2]), ("arm2", (4, 2), [0]), ("half_cheetah", (17, 6), [])],
)
def test_logs_are_what_a_learner_would_see(task, dimensions, angles):
    log = make(task)
    assert (len(log.training), len(log.test)) == (TASKS[task].training, TASKS[task].test)
    assert log.features.angles == angles
    for episode in (*log.training, *log.test):
        steps = len(episode)
        assert steps >= max(model.HORIZONS)
        assert episode.states.shape == (steps + 1, dimensions[0])
        assert episode.actions.shape == (steps, dimensions[1])
        assert episode.states.dtype == episode.actions.dtype == torch.float64
        assert set(episode.stamps.diff().tolist()) == {log.robot.period_nanoseconds}
        assert episode.states.isfinite().all()
        assert all(log.robot.within_limits(state) for state in episode.states.tolist())
        for action, dimension in zip(episode.actions.T, log.robot.command.dimensions, strict=True):
            assert dimension.bounds[0] <= action.min()
            assert action.max() <= dimension.bounds[1]


@pytest.mark.parametrize("task", list(TASKS))
def test_one_seed_makes_one_log(task):
    first, again, other = make(task, 3), make(task, 3), make(task, 4)
    assert all(torch.equal(*pair) for pair in zip(tensors(first), tensors(again), strict=True))
    assert not torch.equal(first.test[0].states, other.test[0].states)


def test_the_cart_poles_log_covers_its_state_space():
    """Both parts see the pole hang and stand, and most of the rail."""
    log = make("cartpole")
    for part in (log.training, log.test):
        position, _, angle, _ = torch.cat([episode.states for episode in part]).T
        assert (torch.cos(angle) > 0.9).double().mean() > 0.03
        assert (torch.cos(angle) < -0.9).double().mean() > 0.1
        assert position.min() < -1.5
        assert position.max() > 1.5


def test_a_log_comes_back_from_its_file(tmp_path):
    lines: list[str] = []
    logs.write_logs(tmp_path / "new", ["arm2"], 5, lines.append)
    path = log_path(tmp_path / "new", "arm2")
    assert str(path) in lines[0]
    found, made = load_log(path, load_robot("arm2")), make("arm2", 5)
    assert (len(found.training), len(found.test)) == (len(made.training), len(made.test))
    assert all(torch.equal(*pair) for pair in zip(tensors(found), tensors(made), strict=True))


def arrays(**changes: object) -> dict[str, object]:
    two = {"states": np.zeros((102, 4)), "actions": np.zeros((100, 1))}
    return {**two, "lengths": np.array([50, 50]), "test": np.array(1), **changes}


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"not a file of numpy", "cannot be read"),
        (b"", "cannot be read"),
        (arrays(lengths=np.array([object()])), "cannot be read: Object arrays"),
        ({"states": np.zeros((2, 4))}, "cannot be read.*actions"),
        (arrays(states=np.array(["a"])), "cannot be read: could not convert"),
        (arrays(actions=np.zeros((100, 2))), r"actions \(100, 2\), expected .*\(100, 1\)"),
        (arrays(lengths=np.array([100, 0])), "for 2 episodes"),
        (arrays(test=np.array(2)), "2 episodes for the test, expected 1 to 1"),
        (arrays(states=np.full((102, 4), np.nan)), "not finite"),
    ],
)
def test_files_that_hold_no_log_are_refused(tmp_path, cartpole, content, reason):
    path = log_path(tmp_path, "cartpole")
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        np.savez(path, **content)
    with pytest.raises(BenchmarkError, match=reason) as refusal:
        load_log(path, cartpole)
    assert str(path) in str(refusal.value)
    assert "mbrl bench logs" in str(refusal.value)


def test_a_row_for_each_model_and_horizon():
    lines: list[str] = []
    rows = model.run(["cartpole"], model.LIBRARIES, TINY, say=lines.append)
    found = [(row.library, row.kind, row.horizon) for row in rows]
    peers = [("gpytorch", "gp")]
    if not any(line.startswith("mbrl-lib: left out") for line in lines):
        peers.append(("mbrl-lib", "ensemble"))
    own = [("mbrl_ros", kind) for kind in ("gp", "svgp", "ensemble", "mlp")]
    assert found == [(*entrant, steps) for entrant in own + peers for steps in (1, 10, 30)]
    for row in rows:
        plain = row.plain()
        assert set(plain) == KEYS
        assert 0.0 <= plain["coverage90"] <= 1.0
        assert min(plain["nrmse"], plain["update_ms"], plain["predict_ms"]) > 0.0
    assert model.table(rows).row_count == len(rows)


def test_what_is_not_finite_becomes_null():
    row = model.Row("cartpole", "gp", "mbrl_ros", 1, math.inf, math.nan, 1.0, 1.0)
    assert row.plain()["nrmse"] is None
    assert row.plain()["coverage90"] is None
    assert row.plain()["horizon"] == 1


def test_rows_do_not_depend_on_who_else_is_measured():
    alone = model.run(["cartpole"], ["gpytorch"], TINY)
    first = model.run(["arm2", "cartpole"], ["gpytorch"], TINY)[3:]
    assert [(r.nrmse, r.coverage90) for r in alone] == [(r.nrmse, r.coverage90) for r in first]


def test_a_missing_library_is_left_out_with_a_word(monkeypatch):
    for name in [n for n in sys.modules if n == "mbrl" or n.startswith("mbrl.")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.delitem(sys.modules, model.PEERS["mbrl-lib"].module, raising=False)
    monkeypatch.setitem(sys.modules, "mbrl", None)
    lines: list[str] = []
    with pytest.raises(BenchmarkError, match="nothing left to measure"):
        model.run(["cartpole"], ["mbrl-lib"], TINY, say=lines.append)
    assert lines[0].startswith("mbrl-lib: left out")
    assert "pip install --no-deps mbrl==0.2.0" in lines[0]


def test_a_missing_simulator_is_left_out_with_a_word(monkeypatch):
    monkeypatch.setitem(sys.modules, "gymnasium", None)
    lines: list[str] = []
    with pytest.raises(BenchmarkError, match="nothing left to measure"):
        model.run(["half_cheetah"], ["gpytorch"], TINY, say=lines.append)
    assert lines[0].startswith("half_cheetah: left out")
    assert "pip install 'mbrl_ros[bench]'" in lines[0]


@pytest.mark.parametrize(
    ("tasks", "libraries", "reason"),
    [
        (["cart"], ["gpytorch"], "unknown task 'cart'; expected one of cartpole, arm2"),
        (["arm2"], ["sklearn"], "unknown library 'sklearn'; expected one of mbrl_ros, gpytorch"),
    ],
)
def test_unknown_names_are_refused(tasks, libraries, reason):
    with pytest.raises(BenchmarkError, match=reason):
        model.run(tasks, libraries, TINY)


def peer(library: str, log: logs.Log):
    if library == "gpytorch":
        learner = model.load_peer(library, print)(log.features, 150, fit_steps=60)
        learner.update(transitions(log.training))
        return learner
    pytest.importorskip("mbrl")
    learner = model.load_peer(library, print)(log.features)
    learner.train(transitions(log.training), 3.0)
    return learner


@pytest.mark.parametrize("library", list(model.PEERS))
def test_peers_learn_and_offer_what_they_are_measured_by(library):
    log = make("cartpole").first(6, 2)
    learner = peer(library, log)
    result = evaluate(learner, log.test, log.robot, horizon=10, starts=5)
    assert result.propagation == {"gpytorch": "ts1", "mbrl-lib": "tsinf"}[library]
    assert result.nrmse_all[0] < 0.5 * result.nrmse_unchanged[0]
    assert result.one_step_coverage[1].mean() > 0.5

    rows = transitions(log.test)[:7]  # no multiple of the ensemble's members
    states, actions = rows.states.float(), rows.actions.float()
    mean, variance = learner.predict(states, actions)
    stepped = learner.rollout(states, actions[None])[1]
    assert (variance > 0.0).all()
    assert torch.allclose(mean, stepped, atol=1e-4)
    before = learner.transitions
    learner.update(transitions(log.test)[:1])
    assert learner.transitions == before + 1
    with pytest.raises(NotImplementedError):
        learner.snapshot()


def test_gpytorch_keeps_what_is_new_and_no_more_points_than_it_may():
    log = make("arm2").first(2, 1)
    learner = peer("gpytorch", log)
    new = transitions(log.test)[:1]
    learner.update(new)
    kept = learner.data
    assert len(kept) == 150
    assert torch.equal(kept.states[-1], new.states[0])


def test_growing_the_gp_predicts_as_starting_again_does():
    result = gp.run(turns=1)
    assert result.mean_difference <= gp.LARGEST_DIFFERENCE
    assert min(result.update_ms, result.refactorise_ms, result.predict_ms, result.bare_ms) > 0.0
    assert result.update_ratio == pytest.approx(result.refactorise_ms / result.update_ms)
    good = dataclasses.replace(result, update_ratio=20.0, mean_difference=1e-6, predict_ratio=1.5)
    assert good.met
    for change in ({"update_ratio": 19.0}, {"mean_difference": 2e-6}, {"predict_ratio": 1.6}):
        assert not dataclasses.replace(good, **change).met


def test_the_command_writes_rows_from_logs(tmp_path, monkeypatch):
    monkeypatch.setattr(model, "QUICK", TINY)
    written = CliRunner().invoke(
        app, ["bench", "logs", "-o", str(tmp_path), "--tasks", "arm2", "--seed", "2"]
    )
    assert written.exit_code == 0, written.output
    path = tmp_path / "rows.json"
    words = ["bench", "model", "--quick", "--tasks", "arm2", "--libraries", "gpytorch"]
    done = CliRunner().invoke(app, [*words, "--logs", str(tmp_path), "--json", str(path)])
    assert done.exit_code == 0, done.output
    rows = json.loads(path.read_text("utf-8"))
    assert [row["horizon"] for row in rows] == [1, 10, 30]
    assert all(set(row) == KEYS for row in rows)
    assert rows[0]["nrmse"] == model.run(["arm2"], ["gpytorch"], TINY, logs=tmp_path)[0].nrmse


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["model", "--json", "/nowhere/rows.json"], "there is no folder /nowhere"),
        (["model", "--tasks", "cart"], "unknown task 'cart'"),
        (["logs", "-o", "/dev/null/logs"], "cannot be written"),
    ],
)
def test_the_command_refuses_what_cannot_work(words, reason):
    done = CliRunner().invoke(app, ["bench", *words])
    assert done.exit_code != 0
    assert reason in done.output


# -- planners ------------------------------------------------------------------------------

TINY_PLANS = plan.Effort(
    sizes=((50, 3),), all_planners=(50, 3), rounds=1, seconds=1.0, all_threads=False
)
PLAN_KEYS = {
    *("planner", "model", "library", "threads", "samples", "horizon", "iterations"),
    *("median_ms", "p99_ms", "gflops", "gemm_gflops"),
}


def test_plans_of_all_planners_and_models_are_rows(tmp_path, monkeypatch):
    monkeypatch.setattr(plan, "QUICK", TINY_PLANS)
    file = tmp_path / "rows.json"
    command = ["bench", "plan", "--quick", "--libraries", "mbrl_ros", "--threads", "1"]
    result = CliRunner().invoke(app, [*command, "--json", str(file)])
    assert result.exit_code == 0, result.output
    rows = json.loads(file.read_text("utf-8"))
    assert all(set(row) == PLAN_KEYS for row in rows)
    pairs = {(row["planner"], row["model"]) for row in rows}
    assert pairs >= {(p, m) for p in PLANNERS.built_in() for m in plan.MODELS}
    assert {("mppi", name) for name in ("double_integrator", "planar", "ensemble mean")} <= pairs
    for row in rows:
        assert 0.0 < row["median_ms"] <= row["p99_ms"]
        assert row["gemm_gflops"] > 0.0
        counted = row["model"] not in ("double_integrator", "planar")
        assert (row["gflops"] is not None) == (counted and "ilqr" not in row["planner"])


def test_planners_of_other_libraries_do_the_same_work():
    for package in ("pytorch_mppi", "pytorch_icem", "mbrl"):
        pytest.importorskip(package)
    peers = ("pytorch-mppi", "pytorch-icem", "mbrl-lib")
    effort = dataclasses.replace(TINY_PLANS, all_planners=None)
    rows = plan.run(("mbrl_ros", *peers), effort, most_threads=1)
    found = {(row.library, row.planner) for row in rows if row.model == "ensemble"}
    assert found >= {("pytorch-mppi", "mppi"), ("pytorch-icem", "icem"), ("mbrl-lib", "mppi")}
    for name, times in (("ensemble", 1.0), ("ensemble mean", 5.0)):
        work = [
            row.gflops * row.median_ms
            for row in rows
            if row.model == name and row.planner == "mppi"
        ]
        # Of 50 x 3 steps: products with 6 inputs, 3 layers of 200, 4 outputs, in millions.
        expected = times * 150 * 2e-6 * (6 * 200 + 2 * 200 * 200 + 200 * 4)
        assert work == pytest.approx([expected] * 3)
    # What peers are given predicts as the model itself does.
    model = plan._random_network("ensemble", load_robot("cartpole"), 0)
    states, actions = torch.rand(10, 4), torch.rand(1, 10, 1)
    mean = plan_peers.all_members(model)(states, actions[0])
    assert torch.allclose(mean, model.rollout(states, actions)[1], atol=1e-6)
    grouped = states.view(2, 5, 4).transpose(0, 1).reshape(10, 4)
    own = plan_peers.one_member_a_row(model)(grouped, actions[0, :1].expand(10, 1))
    expected = model.rollout(states, actions[:, :1].expand(1, 10, 1), "pathwise")[1]
    assert torch.allclose(own.view(5, 2, 4).transpose(0, 1).reshape(10, 4), expected, atol=1e-6)


def test_a_missing_planner_is_left_out_with_the_line_that_installs_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "pytorch_mppi", None)
    said = []
    with pytest.raises(BenchmarkError, match="nothing left to measure"):
        plan.run(("pytorch-mppi",), TINY_PLANS, most_threads=1, say=said.append)
    assert len(said) == 1
    assert "pip install pytorch-mppi" in said[0]
    with pytest.raises(BenchmarkError, match="unknown library 'magic'; expected one of mbrl_ros"):
        plan.run(("magic",), TINY_PLANS)
