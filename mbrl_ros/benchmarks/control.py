# Copyright 2026 The mbrl_ros authors
# SPDX-License-Identifier: Apache-2.0
"""How well each planner controls a robot, against the time that a plan takes."""

from __future__ import annotations

import contextlib
import math
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, astuple, dataclass, fields
from pathlib import Path
from typing import Any

import torch
from rich.box import SIMPLE_HEAD
from rich.table import Table
from torch import Tensor

from mbrl_ros.benchmarks.control_tasks import TASKS, ControlTask, start_of
from mbrl_ros.benchmarks.logs import (
    BenchmarkError,
    Log,
    MissingPackage,
    check_names,
    load_log,
    log_path,
    transitions,
)
from mbrl_ros.benchmarks.plants import TrueDynamics
from mbrl_ros.benchmarks.timing import one_thread
from mbrl_ros.dynamics.model import DynamicsModel, make_model
from mbrl_ros.kinds import PLANNERS
from mbrl_ros.planning.objective import Objective
from mbrl_ros.planning.planner import Plan, Planner, PlanningError, Problem, make_planner
from mbrl_ros.planning.sampling import SamplingPlanner
from mbrl_ros.robots.spec import RobotSpec

TRUE = "true"
_ILQR_ITERATIONS = (1, 2, 5, 10)  # its budgets: it evaluates next to no trajectories


@dataclass(frozen=True)
class Effort:
    """How much a run may cost.

    seeds: episodes of each planner. share: of an episode's steps that are run. budgets: the
    first so many of a task's. slices: of training of a model at most, counted and not timed, so
    that it comes out the same. all_episodes: learn from all of a log, or from the first few of
    it only.
    """

    tasks: tuple[str, ...]
    seeds: int
    share: float
    budgets: int
    slices: int
    all_episodes: bool


QUICK = Effort(
    ("cartpole", "arm2", "diff_drive"),
    seeds=1,
    share=0.4,
    budgets=2,
    slices=10,
    all_episodes=False,
)
FULL = Effort(tuple(TASKS), seeds=3, share=1.0, budgets=4, slices=500, all_episodes=True)


@dataclass(frozen=True)
class Row:
    """What one planner with one budget comes to.

    dynamics: `true`, or the kind of model that was learned. samples: trajectories that a plan
    evaluates. median_ms: of a plan, and of what refines it before the next, in time of one
    processor core, which other work on the machine stretches less than that of the clock on the
    wall. cost: of an episode in the plant, mean over the seeds.
    """

    task: str
    planner: str
    dynamics: str
    samples: int
    median_ms: float
    cost: float

    def plain(self) -> dict[str, Any]:
        """Return the row as JSON can hold it: a number that is not finite as None."""
        return {
            key: None if isinstance(value, float) and not math.isfinite(value) else value
            for key, value in asdict(self).items()
        }


@dataclass(frozen=True)
class Episode:
    """One run in the plant: states (T + 1, D), actions (T, A) and its cost.

    plan_ms: of each plan. samples: trajectories that each plan evaluated.
    """

    states: Tensor
    actions: Tensor
    cost: float
    plan_ms: tuple[float, ...]
    samples: tuple[int, ...]


@one_thread()
def run(
    tasks: Sequence[str] | None = None,
    planners: Sequence[str] | None = None,
    effort: Effort = FULL,
    seed: int = 0,
    logs: Path | None = None,
    say: Callable[[str], None] = lambda line: None,
) -> list[Row]:
    """Run every planner on every task, through the true dynamics and through learned ones.

    tasks, planners: None for those of the effort, and all of this package. logs: a folder with
    logs; what is missing there is made. say: told what is being done, and what is left out
    because a package is missing.
    Raises BenchmarkError for unknown names, unusable logs, or if nothing is left to measure.
    """
    tasks = effort.tasks if tasks is None else tasks
    planners = PLANNERS.built_in() if planners is None else planners
    check_names("task", tasks, TASKS)
    check_names("planner", planners, PLANNERS.names())
    rows: list[Row] = []
    for task in (TASKS[name] for name in tasks):
        robot = task.robot()
        try:
            true = task.true(robot)
            learned = learn(task, _log(task, robot, effort, seed, logs), effort, seed, say)
        except MissingPackage as error:
            say(f"{task.name}: left out: {error}")
            continue
        for model in (true, learned):
            rows += _measure(task, robot, true, model, planners, effort, seed, say)
    if not rows:
        raise BenchmarkError("there is nothing left to measure; see what was left out above")
    return rows


def _log(task: ControlTask, robot: RobotSpec, effort: Effort, seed: int, logs: Path | None) -> Log:
    if logs is not None and log_path(logs, task.name).exists():
        log = load_log(log_path(logs, task.name), robot)
    else:
        log = task.log.log(seed)
    if effort.all_episodes:
        return log
    return log.first(task.log.quick_training, task.log.quick_test)


def learn(
    task: ControlTask, log: Log, effort: Effort, seed: int, say: Callable[[str], None]
) -> DynamicsModel:
    """Return a model of the task's kind that has learned from the log."""
    model, begin = make_model(task.learned, log.robot, seed), time.perf_counter()
    model.update(transitions(log.training))
    for _ in range(effort.slices):
        if not model.improve():
            break
    say(f"{task.name}: {task.learned} trained for {time.perf_counter() - begin:.1f} s")
    return model


def _measure(
    task: ControlTask,
    robot: RobotSpec,
    true: TrueDynamics,
    model: DynamicsModel,
    planners: Sequence[str],
    effort: Effort,
    seed: int,
    say: Callable[[str], None],
) -> list[Row]:
    """Run all planners through one model; each seed is a round, so that all see the same load."""
    entrants = [
        planner
        for kind in planners
        for planner in planners_of(kind, robot, task.horizon, task.budgets[: effort.budgets])
    ]
    dynamics = TRUE if model is true else model.kind
    found: list[list[Episode]] = [[] for _ in entrants]
    begin = time.perf_counter()
    for episode in range(effort.seeds):
        for planner, episodes in zip(entrants, found, strict=True):
            episodes.append(
                run_episode(task, robot, planner, model, true, seed + episode, share=effort.share)
            )
    say(
        f"{task.name}: {len(entrants)} planners on {dynamics} dynamics in "
        f"{time.perf_counter() - begin:.0f} s"
    )
    return [
        Row(
            task=task.name,
            planner=planner.kind,
            dynamics=dynamics,
            samples=round(statistics.mean(s for e in episodes for s in e.samples)),
            median_ms=statistics.median(ms for e in episodes for ms in e.plan_ms),
            cost=statistics.mean(e.cost for e in episodes),
        )
        for planner, episodes in zip(entrants, found, strict=True)
    ]


def planners_of(
    kind: str, robot: RobotSpec, horizon: int, budgets: Sequence[int]
) -> list[Planner]:
    """Return planners of one kind, as it is by default, of rising effort.

    Those that sample get as many samples an iteration as come to the budgets (trajectories a
    plan, in all); the others more and more iterations.
    """
    default = make_planner(kind, robot, horizon=horizon)
    if not isinstance(default, SamplingPlanner):
        chosen = _ILQR_ITERATIONS[: len(budgets)]
        return [make_planner(kind, robot, horizon=horizon, iterations=n) for n in chosen]
    decay = getattr(default, "decay", 1.0)
    each = sum(decay**-i for i in range(default.iterations))
    return [
        make_planner(kind, robot, horizon=horizon, samples=max(round(budget / each), 1))
        for budget in budgets
    ]


def run_episode(
    task: ControlTask,
    robot: RobotSpec,
    planner: Planner,
    model: DynamicsModel,
    plant: TrueDynamics,
    seed: int,
    share: float = 1.0,
) -> Episode:
    """Let a planner control the plant for (a share of) an episode; the same seed, the same.

    Where no plan comes out, the last one is followed, as the node does.
    """
    state, goal = start_of(task, seed), torch.tensor(task.goal)
    action = torch.tensor(robot.safe_action)
    states, actions, plan_ms, samples = [state], [], [], []
    plan: Plan | None = None
    first = action
    planner.prepare(model)
    for tick in range(max(round(share * task.steps), 1)):
        problem = Problem(state.float(), goal, action, seed=seed * 1_000_003 + tick)
        begin = time.process_time()
        try:
            plan = planner.plan(problem, model, plan)
            samples.append(plan.samples)
            with contextlib.suppress(PlanningError):
                plan = planner.refine(problem, model, plan)
        except PlanningError:
            plan = None if plan is None else plan.shifted()
        plan_ms.append(1e3 * (time.process_time() - begin))
        action = first if plan is None else plan.actions[0]
        state = plant.step(state[None], action[None].double())[0]
        states.append(state)
        actions.append(action)
    taken, seen = torch.stack(actions).double(), torch.stack(states)
    # The robot's own cost, whatever a planner at hand expects beyond the end.
    cost = Objective(robot).cost(seen[:, None], taken[:, None], goal.double(), first)
    return Episode(seen, taken, float(cost), tuple(plan_ms), tuple(samples) or (0,))


def table(rows: Sequence[Row]) -> Table:
    """Lay rows out for the terminal, within 80 columns."""
    result = Table(box=SIMPLE_HEAD, padding=0, show_edge=False)
    formats = ("{}", "{}", "{}", "{}", "{:.1f}", "{:.2f}")
    for i, column in enumerate(fields(Row)):
        result.add_column(column.name, justify="right" if i > 2 else "left", no_wrap=True)
    for row, following in zip(rows, [*rows[1:], None], strict=True):
        group = (row.task, row.dynamics)
        result.add_row(
            *(text.format(value) for text, value in zip(formats, astuple(row), strict=True)),
            end_section=following is not None and (following.task, following.dynamics) != group,
        )
    return result


def draw(rows: Sequence[Row], path: Path) -> None:
    """Draw cost against time, one panel a task, and mark what nothing beats in both.

    path: PNG, PDF or what else Matplotlib writes.

    Raises OSError if the file cannot be written, ValueError for an unknown ending.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    tasks = list(dict.fromkeys(row.task for row in rows))
    planners = list(dict.fromkeys(row.planner for row in rows))
    figure, axes = pyplot.subplots(
        1, len(tasks), figsize=(0.5 + 4.2 * len(tasks), 4.2), squeeze=False
    )
    for panel, task in zip(axes[0], tasks, strict=True):
        for dynamics in dict.fromkeys(row.dynamics for row in rows if row.task == task):
            for i, planner in enumerate(planners):
                points = [
                    row
                    for row in rows
                    if (row.task, row.dynamics, row.planner) == (task, dynamics, planner)
                    and math.isfinite(row.cost)
                ]
                panel.plot(
                    [row.median_ms for row in points],
                    [row.cost for row in points],
                    color=f"C{i}",
                    linestyle="-" if dynamics == TRUE else ":",
                    marker="o" if dynamics == TRUE else "s",
                    markersize=4,
                    label=f"{planner}, {dynamics}",
                )
            front = pareto_front(
                [row for row in rows if (row.task, row.dynamics) == (task, dynamics)]
            )
            panel.scatter(
                [row.median_ms for row in front],
                [row.cost for row in front],
                s=80,
                facecolors="none",
                edgecolors="black",
                linewidths=0.8,
            )
        costs = [row.cost for row in rows if row.task == task and math.isfinite(row.cost)]
        panel.set_xscale("log")
        times = [row.median_ms for row in rows if row.task == task]
        ticks = [t for t in (1, 2, 5, 10, 20, 50, 100, 200, 500) if min(times) <= t <= max(times)]
        panel.set_xticks(ticks, [str(tick) for tick in ticks])
        panel.set_xticks([], minor=True)
        if costs and min(costs) > 0.0 and max(costs) > 5.0 * min(costs):
            panel.set_yscale("log")
        panel.set(title=task, xlabel="median time of a plan, ms")
        panel.grid(True, which="both", alpha=0.2)
    axes[0][0].set_ylabel("cost of an episode (lower is better)")
    lines = [pyplot.Line2D([], [], color=f"C{i}", label=name) for i, name in enumerate(planners)]
    lines += [
        pyplot.Line2D([], [], color="grey", linestyle="-", marker="o", label="true dynamics"),
        pyplot.Line2D([], [], color="grey", linestyle=":", marker="s", label="learned"),
        pyplot.Line2D(
            [], [], color="black", linestyle="", marker="o", fillstyle="none", markersize=9,
            label="nothing is both faster and better",
        ),
    ]  # fmt: skip
    figure.legend(handles=lines, loc="lower center", ncols=5, frameon=False)
    figure.tight_layout(rect=(0.0, 0.14, 1.0, 1.0))
    try:
        figure.savefig(path, dpi=110)
    finally:
        pyplot.close(figure)


def pareto_front(rows: Sequence[Row]) -> list[Row]:
    """Return the rows that none beats in both time and cost."""
    front: list[Row] = []
    for row in sorted(rows, key=lambda row: row.median_ms):
        if math.isfinite(row.cost) and (not front or row.cost < front[-1].cost):
            front.append(row)
    return front
