# Copyright 2026 The mbrl_ros authors
# SPDX-License-Identifier: Apache-2.0
"""The comparison of sample efficiency: its rows, what it makes of them, and its picture."""

import json
import math

import numpy as np
import pytest
from typer.testing import CliRunner

from mbrl_ros.benchmarks import sample_efficiency
from mbrl_ros.benchmarks.logs import BenchmarkError, MissingPackage
from mbrl_ros.benchmarks.sample_efficiency import Row, Task, band, curves, steps_to
from mbrl_ros.cli import app


def quick_learner(steps, seed):
    for step in range(0, steps + 1, 10):
        yield step, seed + step


def missing(steps, seed):
    raise MissingPackage("it needs a robot")


TASKS = {
    "walk": Task("walk", "return", 100, 20, 4, {"a": quick_learner, "b": missing}, target=12.0),
    "run": Task("run", "return", 50, 20, 3, {"a": quick_learner, "c": quick_learner}),
}


def test_rows_hold_their_keys_and_what_is_missing_is_named():
    said = []
    rows = sample_efficiency.run(TASKS, quick=True, seed=5, say=said.append)
    assert rows[1].plain() == {"task": "walk", "agent": "a", "seed": 5, "step": 10, "return": 15}
    assert {(row.task, row.agent, row.seed) for row in rows} == {
        (task, agent, seed)
        for task, agent in (("walk", "a"), ("run", "a"), ("run", "c"))
        for seed in (5, 6)
    }
    assert max(row.step for row in rows) == 20
    assert "walk: b left out: it needs a robot" in said
    assert len(sample_efficiency.run(TASKS, ["run"], ["a"], seeds=1)) == 6
    assert Row("t", "a", 0, 1, math.nan).plain()["return"] is None


def test_what_is_unknown_is_refused():
    with pytest.raises(BenchmarkError, match="unknown task 'fly'; expected one of walk, run"):
        sample_efficiency.run(TASKS, ["fly"])
    with pytest.raises(BenchmarkError, match="unknown agent 'd'; expected one of a, b, c"):
        sample_efficiency.run(TASKS, agents=["d"])
    with pytest.raises(BenchmarkError, match="nothing left to measure"):
        sample_efficiency.run(TASKS, ["walk"], ["c"])


def test_bands_cover_curves_of_different_steps():
    steps, mean, half = band([[(0, 1.0), (10, 3.0)], [(5, 5.0), (10, 5.0), (12, 9.0)]])
    assert steps.tolist() == [5, 10]
    assert mean.tolist() == [3.0, 4.0]
    # Student's interval of two values 4 apart: 12.706 * their deviation / sqrt(2).
    assert half.tolist() == pytest.approx([12.706 * 2.0, 12.706 * 1.0], rel=1e-4)
    assert band([[(0, 1.0), (10, 3.0)]])[2].tolist() == [0.0, 0.0]
    rows = sample_efficiency.run(TASKS, ["walk"], quick=True)
    found = curves(rows, "walk", "a")
    assert [steps_to(curve, 12.0) for curve in found] == [20.0, 20.0]
    assert steps_to(found[0], 1e9) == math.inf


def test_the_table_and_the_picture(tmp_path):
    rows = sample_efficiency.run(TASKS)
    table = sample_efficiency.table(rows, TASKS)
    cells = [list(column.cells) for column in table.columns]
    assert cells[0] == ["walk", "run", "run"]
    assert cells[3] == ["101.5", "51", "51"]
    assert cells[5] == ["20 (4/4)", "", ""]
    sample_efficiency.draw(rows, TASKS, tmp_path / "curves.png")
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")


def test_the_command_measures_the_mazes(tmp_path):
    pytest.importorskip("gymnasium")
    file, plot = tmp_path / "rows.json", tmp_path / "curves.pdf"
    words = ["--quick", "--tasks", "dyna-maze,blocking-maze", "--seeds", "3"]
    result = CliRunner().invoke(
        app, ["bench", "sample-efficiency", *words, "--json", str(file), "--plot", str(plot)]
    )
    assert result.exit_code == 0, result.stderr
    rows = json.loads(file.read_text("utf-8"))
    assert list(rows[0]) == ["task", "agent", "seed", "step", "return"]
    assert plot.read_bytes().startswith(b"%PDF")

    again = CliRunner().invoke(
        app, ["bench", "sample-efficiency", "--rows", str(file), "--json", str(tmp_path / "b")]
    )
    assert again.exit_code == 0, again.stderr
    assert json.loads((tmp_path / "b").read_text("utf-8")) == rows

    def mean_return(agent):
        return np.mean([row["return"] for row in rows if row["agent"] == agent])

    assert mean_return("dyna-q-50") > mean_return("dyna-q-5") > mean_return("q-learning")


def test_the_command_refuses_what_it_cannot_do(tmp_path):
    def refused(*words):
        result = CliRunner().invoke(app, ["bench", "sample-efficiency", *words])
        assert result.exit_code != 0
        return result.stderr

    assert "unknown task 'chess'; expected one of dyna-maze" in refused("--tasks", "chess")
    assert "unknown agent 'magic'" in refused("--agents", "magic")
    (tmp_path / "bad").write_text('[{"task": "dyna-maze"}]', "utf-8")
    assert "does not hold rows" in refused("--rows", str(tmp_path / "bad"))
    assert "there is no folder" in refused("--plot", str(tmp_path / "no" / "x.png"))
