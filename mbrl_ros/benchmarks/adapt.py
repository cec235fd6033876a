# Copyright 2026 The mbrl_ros authors
# SPDX-License-Identifier: Apache-2.0
"""What a change of the world costs, and how long, with and without adaptation."""

from __future__ import annotations

import copy
import math
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from rich.box import SIMPLE_HEAD
from rich.table import Table
from torch import Tensor

from mbrl_ros.benchmarks.adapt_tasks import CHANGES, Change
from mbrl_ros.benchmarks.logs import BenchmarkError, check_names
from mbrl_ros.benchmarks.plants import ClosedForm
from mbrl_ros.benchmarks.timing import one_thread
from mbrl_ros.dynamics.features import wrap_angle
from mbrl_ros.dynamics.model import DynamicsModel, Transitions, make_model
from mbrl_ros.dynamics.online import OnlineLearner
from mbrl_ros.planning.planner import Plan, PlanningError, Problem, make_planner
from mbrl_ros.robots.spec import NANOSECONDS, RobotSpec

ADAPTIVE, NONE, FROZEN, INFORMED = "adaptive", "none", "frozen", "informed"
VARIANTS = (ADAPTIVE, NONE, FROZEN, INFORMED)

_UPDATE_EVERY = 5  # ticks, as the learner's default
_SAMPLES = 150  # of the planner (MPPI)
_EPISODE_STEPS = 10  # of the log that models are trained on
_SLICES = 8  # of that training
_WINDOW = 1.0  # s over which costs are averaged
_WITHIN = 0.2  # share of the informed model's cost that counts as recovered
_QUALITY_WINDOW = 60 * NANOSECONDS


@dataclass(frozen=True)
class Effort:
    """How much a run may cost.

    changes: names. seeds: of each. known: transitions that models were trained on before.
    seconds: after the change.
    """

    changes: tuple[str, ...]
    seeds: int
    known: int
    seconds: float


QUICK = Effort(("slippery_patch", "halved_motor_gain"), seeds=1, known=300, seconds=6.0)
FULL = Effort(tuple(CHANGES), seeds=3, known=400, seconds=10.0)


@dataclass(frozen=True)
class Row:
    """What became of one robot after one change.

    recovery_s: seconds from the change until its cost is, and stays, that of the informed model
    (see `recovery`); None: not within the run. cost: mean stage cost from the change on.
    """

    change: str
    variant: str
    seed: int
    recovery_s: float | None
    cost: float


@dataclass(frozen=True)
class Course:
    """Stage costs (T,) of one variant from the change on, one every period (s)."""

    change: str
    variant: str
    seed: int
    period: float
    costs: Tensor


class Robot:
    """A plant, a planner and a learner, one after the other, as nodes in lockstep.

    A model takes effect one update after the one that made it. Copied, it goes on alike.
    """

    def __init__(self, change: Change, spec: RobotSpec, learner: OnlineLearner, seed: int) -> None:
        self.plant: ClosedForm = change.before(spec)
        self.learner, self.learning = learner, True
        self.costs: list[float] = []
        self._change, self._spec, self._seed = change, spec, seed
        self._planner = make_planner("mppi", spec, samples=_SAMPLES, iterations=1)
        self._angles = torch.tensor(spec.angle_mask)
        self.state = torch.tensor(change.start).double()
        self._action = torch.tensor(spec.safe_action)
        self._plan: Plan | None = None
        self._new = Transitions.empty(learner.model.features)
        self.model = self._next = learner.adopted

    def know(self, learner: OnlineLearner) -> None:
        """Go on with what another learner has learned."""
        self.learner = learner
        self.model = self._next = learner.adopted

    def tick(self) -> None:
        """Plan, move and, now and then, learn."""
        ticks, period = len(self.costs), self._spec.period
        steps = range(1, self._planner.horizon + 1) if self._change.foreseen else (0,)
        goals = torch.tensor([self._change.goal((ticks + i) * period) for i in steps])
        problem = Problem(
            self.state.float(),
            goals if self._change.foreseen else goals[0],
            self._action,
            seed=self._seed * 1_000_003 + ticks,
        )
        try:
            self._plan = self._planner.plan(problem, self.model, self._plan)
        except PlanningError:
            self._plan = None if self._plan is None else self._plan.shifted()
        if self._plan is not None:
            self._action = self._plan.actions[0]
        after = self.plant.step(self.state[None], self._action[None].double())[0]
        after = torch.where(self._angles, wrap_angle(after), after)
        self.costs.append(self._planner.objective.now(after.float(), self._action, goals[0]))
        self._record(after, round((ticks + 1) * period * NANOSECONDS))
        self.state = after
        if (ticks + 1) % _UPDATE_EVERY == 0:
            self._learn()

    def _record(self, after: Tensor, stamp: int) -> None:
        within = self._spec.within_limits
        if within(self.state.tolist()) and within(after.tolist()):
            step = (self.state[None], self._action[None].double(), after[None])
            none = torch.zeros(1, 0).double()
            self._new = self._new + Transitions(*step, none, torch.tensor([stamp]))

    def _learn(self) -> None:
        self.model = self._next
        if self.learning:
            self.learner.learn(self._new)
            self.learner.improve()
            if self.learner.better:
                self.learner.adopt()
        self._new = self._new[:0]
        self._next = self.learner.adopted


@one_thread()
def run(
    changes: Sequence[str] | None = None,
    kind: str = "gp",
    effort: Effort = FULL,
    seed: int = 0,
    say: Callable[[str], None] = lambda line: None,
) -> tuple[list[Row], list[Course]]:
    """Let every change happen to every variant; the same seed gives the same.

    changes: None for those of the effort. kind: of the model that learns. say: told what is
    being done. Raises BenchmarkError for unknown names.
    """
    changes = effort.changes if changes is None else changes
    check_names("change", changes, CHANGES)
    rows: list[Row] = []
    courses: list[Course] = []
    for name in changes:
        for number in range(seed, seed + effort.seeds):
            begin = time.perf_counter()
            try:
                found = _courses(CHANGES[name], kind, effort, number)
            except ValueError as error:
                raise BenchmarkError(f"{name}: {error}") from None
            courses += found
            reference = found[VARIANTS.index(INFORMED)]
            rows += [
                Row(
                    name,
                    course.variant,
                    number,
                    recovery(course.costs, reference.costs, course.period),
                    float(course.costs.mean()),
                )
                for course in found
            ]
            say(f"{name}, seed {number}: {time.perf_counter() - begin:.0f} s")
    return rows, courses


def recovery(costs: Tensor, informed: Tensor, period: float) -> float | None:
    """Return the seconds after which costs (T,) stay close to those of the informed model (T,).

    That is: from then on, in every second to come, the mean is at most that of the informed
    model in the same second plus 20 % of it, or of the informed model's mean over the whole
    time where that is more (near the goal there is next to no cost). None: never.
    """
    count = round(_WINDOW / period)
    own, other = (values.unfold(0, count, 1).mean(1) for values in (costs, informed))
    margin = _WITHIN * other.clamp_min(float(informed.mean()))
    worse = torch.nonzero(own > other + margin)[:, 0]
    if len(worse) == 0:
        return 0.0
    first = int(worse[-1]) + 1
    return None if first == len(own) else first * period


def _courses(change: Change, kind: str, effort: Effort, seed: int) -> list[Course]:
    """Bring one robot to the change, then go on from there once a variant."""
    spec = change.robot()
    # Enough for a few hundred transitions, and fast.
    options = {"fit_points": 100, "fit_steps": 10} if kind in ("gp", "svgp") else {}

    def learner(plant: ClosedForm, place: Sequence[float], adapt: bool) -> OnlineLearner:
        known = drive(plant, spec, place, change.spread, effort.known, seed)
        made = OnlineLearner(
            lambda: make_model(kind, spec, seed, **options), _QUALITY_WINDOW, adapt=adapt
        )
        model: DynamicsModel = made.model
        model.update(known)
        for _ in range(_SLICES if options else 100 * _SLICES):
            if not model.improve():
                break
        made.start_from(model)
        return made

    before, after = change.before(spec), change.after(spec)
    # All are the same until the change; what they do about it differs from there.
    robot = Robot(change, spec, learner(before, change.place, True), seed)
    warm_up = round(change.warm_up / spec.period)
    robot.plant = before if change.place_after is None else after
    while len(robot.costs) < warm_up or not change.reached(robot.state):
        robot.tick()
        if len(robot.costs) > 100 * warm_up:
            raise ValueError("the robot never came to where its world changes")
    robot.plant, begin = after, len(robot.costs)
    informed = learner(after, change.place_after or change.place, False)
    courses = []
    for variant in VARIANTS:
        one = copy.deepcopy(robot)
        one.learner.adapt = variant == ADAPTIVE
        one.learning = variant != FROZEN
        if variant == INFORMED:
            one.know(informed)
        for _ in range(round(effort.seconds / spec.period)):
            one.tick()
        costs = torch.tensor(one.costs[begin:], dtype=torch.float64)
        courses.append(Course(change.name, variant, seed, spec.period, costs))
    return courses


def drive(
    plant: ClosedForm,
    spec: RobotSpec,
    place: Sequence[float],
    spread: Sequence[float],
    count: int,
    seed: int,
) -> Transitions:
    """Return about so many transitions of random actions, in short runs from random states."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    runs = max(count // _EPISODE_STEPS, 1)
    states = torch.tensor(place).double() + torch.tensor(spread).double() * normal(
        runs, len(spread)
    )
    bounds = [dimension.bounds for dimension in spec.command.dimensions]
    low, high = torch.tensor(bounds).double().T
    actions = (low + high) / 2.0 + (high - low) / 3.0 * normal(runs, len(low))
    steps = []
    for _ in range(_EPISODE_STEPS):
        actions = torch.clamp(actions + 0.2 * (high - low) * normal(runs, len(low)), low, high)
        after = plant.step(states, actions)
        steps.append((states, actions, after))
        states = after
    # Run by run.
    columns = [torch.stack(column, 1).flatten(0, 1) for column in zip(*steps, strict=True)]
    kept = torch.tensor(
        [
            spec.within_limits(s) and spec.within_limits(e)
            for s, e in zip(columns[0].tolist(), columns[2].tolist(), strict=True)
        ]
    )
    return Transitions(*columns)[kept]


def table(rows: Sequence[Row]) -> Table:
    """Lay out medians over the seeds for the terminal."""
    result = Table(box=SIMPLE_HEAD, padding=0, show_edge=False)
    for i, heading in enumerate(("change", "variant", "recovery_s", "cost")):
        result.add_column(heading, justify="right" if i > 1 else "left", no_wrap=True)
    for change in dict.fromkeys(row.change for row in rows):
        for variant in VARIANTS:
            some = [row for row in rows if (row.change, row.variant) == (change, variant)]
            times = [math.inf if row.recovery_s is None else row.recovery_s for row in some]
            middle = statistics.median(times)
            result.add_row(
                change,
                variant,
                "never" if math.isinf(middle) else f"{middle:.2f}",
                f"{statistics.median(row.cost for row in some):.3f}",
                end_section=variant == VARIANTS[-1],
            )
    return result


def draw(courses: Sequence[Course], path: Path) -> None:
    """Draw the running cost of every variant, one panel a change, the median of the seeds.

    path: PNG, PDF or what else Matplotlib writes. Raises OSError if the file cannot be written,
    ValueError for an unknown ending.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    changes = list(dict.fromkeys(course.change for course in courses))
    figure, axes = pyplot.subplots(
        1, len(changes), figsize=(0.5 + 4.0 * len(changes), 3.6), squeeze=False
    )
    for panel, change in zip(axes[0], changes, strict=True):
        for variant in VARIANTS:
            some = [c for c in courses if (c.change, c.variant) == (change, variant)]
            period = some[0].period
            window = round(_WINDOW / period)
            costs = torch.stack([course.costs for course in some])
            running = costs.unfold(1, window, 1).mean(2).median(0).values
            panel.plot(period * torch.arange(len(running)), running, label=variant)
        panel.set(title=change, xlabel="time since the change, s", yscale="log")
        panel.grid(True, which="both", alpha=0.2)
    axes[0][0].set_ylabel(f"stage cost, mean of the next {_WINDOW:g} s")
    axes[0][0].legend()
    figure.tight_layout()
    try:
        figure.savefig(path, dpi=110)
    finally:
        pyplot.close(figure)
