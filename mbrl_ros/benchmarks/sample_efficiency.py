# Copyright 2026 The mbrl_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Return against real steps: what agents with and without a model make of the same experience."""

from __future__ import annotations

import json
import math
import statistics
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.box import SIMPLE_HEAD
from rich.table import Table
from scipy.stats import t as student

from mbrl_ros.benchmarks.logs import BenchmarkError, MissingPackage, check_names
from mbrl_ros.benchmarks.timing import one_thread

QUICK_SEEDS = 2
_CONFIDENCE = 0.95
_POINTS = 200  # of a curve that is drawn
_WIDE = 4.0  # from this ratio of the agents' last steps on, steps are drawn on a logarithmic scale
# One colour a way of learning: blue without a model, orange with imagination, green by planning.
_COLOURS = {
    "q-learning": "#1f77b4",
    "dqn": "#1f77b4",
    "dqn-6-updates": "#7fb6e0",
    "sac": "#1f77b4",
    "stable-baselines3": "#7fb6e0",
    "dyna-q-5": "#fdae6b",
    "dyna-q": "#fdae6b",
    "dyna-q+": "#d94801",
    "dyna-q-50": "#d94801",
    "deep-dyna-q": "#d94801",
    "sac-imagined": "#d94801",
    "mpc-gp": "#2ca02c",
    "mpc-ensemble": "#2ca02c",
    "mpc+policy": "#98df8a",
}

# (steps, seed) -> (real steps so far, return) again and again, until so many steps are made.
# Raises MissingPackage if something is not installed.
Agent = Callable[[int, int], Iterable[tuple[int, float]]]


@dataclass(frozen=True)
class Task:
    """What agents learn, and who does.

    measure: what `return` is here, for the axis. steps: real ones of each run; quick_steps:
    with `--quick`. seeds: runs of each agent. target: a return that counts as solved, or None.
    change: the step at which the task changes, or None. agents: by name.
    """

    name: str
    measure: str
    steps: int
    quick_steps: int
    seeds: int
    agents: Mapping[str, Agent]
    target: float | None = None
    change: int | None = None


@dataclass(frozen=True)
class Row:
    """The return of one agent with one seed after so many real steps."""

    task: str
    agent: str
    seed: int
    step: int
    value: float

    def plain(self) -> dict[str, Any]:
        """Return the row as JSON can hold it: a return that is not finite as None."""
        value = self.value if math.isfinite(self.value) else None
        return {
            "task": self.task,
            "agent": self.agent,
            "seed": self.seed,
            "step": self.step,
            "return": value,
        }


@one_thread()
def run(
    tasks: Mapping[str, Task],
    names: Sequence[str] | None = None,
    agents: Sequence[str] | None = None,
    seeds: int | None = None,
    seed: int = 0,
    quick: bool = False,
    say: Callable[[str], None] = lambda line: None,
) -> list[Row]:
    """Run agents on tasks, all agents of a task with the same seeds.

    names, agents: None for all; a task runs those of the agents that it has. seeds: how many,
    from `seed` on; None: as the task has it. say: told what is being done, and what is left out
    because a package is missing.
    Raises BenchmarkError for unknown names, or if nothing is left to measure.
    """
    check_names("task", tasks if names is None else names, tasks)
    check_names("agent", agents or (), agents_of(tasks.values()))
    rows: list[Row] = []
    for task in (tasks[name] for name in (tasks if names is None else names)):
        count = seeds or (QUICK_SEEDS if quick else task.seeds)
        steps = task.quick_steps if quick else task.steps
        for name, agent in task.agents.items():
            if agents is not None and name not in agents:
                continue
            begin = time.perf_counter()
            try:
                for each in range(seed, seed + count):
                    rows += [
                        Row(task.name, name, each, step, float(value))
                        for step, value in agent(steps, each)
                    ]
            except MissingPackage as error:
                say(f"{task.name}: {name} left out: {error}")
                continue
            say(f"{task.name}: {name}, {count} seeds in {time.perf_counter() - begin:.0f} s")
    if not rows:
        raise BenchmarkError("there is nothing left to measure; no task has such agents")
    return rows


def read(path: Path, tasks: Mapping[str, Task]) -> list[Row]:
    """Return the rows of a file that `--json` wrote; raises BenchmarkError if it holds others."""
    try:
        rows = [
            Row(
                str(row["task"]),
                str(row["agent"]),
                int(row["seed"]),
                int(row["step"]),
                math.nan if row["return"] is None else float(row["return"]),
            )
            for row in json.loads(path.read_text("utf-8"))
        ]
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise BenchmarkError(f"{path} does not hold rows as --json writes them: {error}") from None
    if not rows:
        raise BenchmarkError(f"{path} holds no rows")
    check_names("task", [row.task for row in rows], tasks)
    return rows


def agents_of(tasks: Iterable[Task]) -> list[str]:
    """Return the names of all agents, each once."""
    return list(dict.fromkeys(name for task in tasks for name in task.agents))


# -- what the rows say ------------------------------------------------------------------------

Curve = list[tuple[int, float]]


def curves(rows: Sequence[Row], task: str, agent: str) -> list[Curve]:
    """Return the (step, return) of each seed, in the order of steps."""
    chosen = [row for row in rows if (row.task, row.agent) == (task, agent)]
    return [
        sorted((row.step, row.value) for row in chosen if row.seed == seed)
        for seed in dict.fromkeys(row.seed for row in chosen)
    ]


def steps_to(curve: Curve, target: float) -> float:
    """Return the first step at which the return is at least the target; inf if it never is."""
    return next((float(step) for step, value in curve if value >= target), math.inf)


def band(found: Sequence[Curve]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return steps (N,), the mean return over the seeds (N,), and half its confidence interval.

    Each seed's curve is taken as constant from one of its points to the next. From where all
    have begun to where the first one ends. The interval is Student's, of 95 %; 0 for one seed.
    """
    begin, end = max(curve[0][0] for curve in found), min(curve[-1][0] for curve in found)
    steps = np.array(sorted({step for curve in found for step, _ in curve}))
    steps = steps[(steps >= begin) & (steps <= end)]
    values = np.empty((len(found), len(steps)))
    for i, curve in enumerate(found):
        at, value = np.array(curve).T
        values[i] = value[np.searchsorted(at, steps, side="right") - 1]
    mean = values.mean(0)
    if len(found) == 1:
        return steps, mean, np.zeros_like(mean)
    quantile = student.ppf(0.5 + 0.5 * _CONFIDENCE, len(found) - 1)
    return steps, mean, quantile * values.std(0, ddof=1) / math.sqrt(len(found))


def table(rows: Sequence[Row], tasks: Mapping[str, Task]) -> Table:
    """Lay out, for each agent, its last return and how many steps it takes to the target.

    The steps are the median over the seeds; behind them how many seeds get there.
    """
    result = Table(box=SIMPLE_HEAD, padding=0, show_edge=False)
    for name in ("task", "agent", "steps", "last return", "target", "steps to target"):
        result.add_column(name, justify="left" if name in ("task", "agent") else "right")
    for task in dict.fromkeys(row.task for row in rows):
        target = tasks[task].target
        agents = list(dict.fromkeys(row.agent for row in rows if row.task == task))
        for agent in agents:
            found = curves(rows, task, agent)
            mean = statistics.mean(curve[-1][1] for curve in found)
            reached = ["", ""]
            if target is not None:
                steps = [steps_to(curve, target) for curve in found]
                median = statistics.median_high(steps)
                there = sum(math.isfinite(step) for step in steps)
                text = f"{median:.0f}" if math.isfinite(median) else "never"
                reached = [f"{target:g}", f"{text} ({there}/{len(steps)})"]
            last = str(max(curve[-1][0] for curve in found))
            result.add_row(
                task, agent, last, f"{mean:.4g}", *reached, end_section=agent == agents[-1]
            )
    return result


def draw(rows: Sequence[Row], tasks: Mapping[str, Task], path: Path) -> None:
    """Draw return against real steps, one panel a task: means with confidence bands.

    path: PNG, PDF or what else Matplotlib writes. Raises OSError if the file cannot be written,
    ValueError for an unknown ending.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot
    from matplotlib.ticker import EngFormatter

    names = list(dict.fromkeys(row.task for row in rows))
    columns = min(len(names), 3)
    height = math.ceil(len(names) / columns)
    figure, axes = pyplot.subplots(
        height, columns, figsize=(4.3 * columns, 3.5 * height), squeeze=False
    )
    for panel, name in zip(axes.flat, names, strict=False):
        task, heights = tasks[name], list[float]()
        ends = []
        for agent in dict.fromkeys(row.agent for row in rows if row.task == name):
            steps, mean, half = band(curves(rows, name, agent))
            if len(steps) > _POINTS:
                chosen = np.linspace(0, len(steps) - 1, _POINTS).round().astype(int)
                steps, mean, half = steps[chosen], mean[chosen], half[chosen]
            colour = _COLOURS.get(agent, "grey")
            ends.append(float(steps[-1]))
            panel.plot(steps, mean, color=colour, linewidth=1.5, label=agent)
            panel.fill_between(steps, mean - half, mean + half, color=colour, alpha=0.2, lw=0)
            heights += mean.tolist()
        if task.target is not None:
            panel.axhline(task.target, color="grey", linestyle=":", linewidth=1.0)
        if task.change is not None:
            panel.axvline(task.change, color="grey", linestyle="--", linewidth=1.0)
        # A band of few seeds may be many times as wide as all that matters.
        margin = 0.15 * (max(heights) - min(heights)) or 1.0
        panel.set_ylim(min(heights) - margin, max(heights) + margin)
        panel.set(title=name, xlabel="real steps", ylabel=task.measure)
        if max(ends) > _WIDE * min(ends) > 0.0:
            panel.set_xscale("log")
        panel.xaxis.set_major_formatter(EngFormatter(sep=""))
        panel.grid(visible=True, alpha=0.2)
        panel.legend(frameon=False, fontsize=8)
        for side in ("top", "right"):
            panel.spines[side].set_visible(False)
    for panel in axes.flat[len(names) :]:
        panel.set_visible(False)
    figure.tight_layout()
    try:
        figure.savefig(path, dpi=110)
    finally:
        pyplot.close(figure)
