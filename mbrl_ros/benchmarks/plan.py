# Copyright 2026 The mbrl_ros authors
# SPDX-License-Identifier: Apache-2.0
"""How fast planners plan, next to those of other libraries with the same models."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import torch
from rich.table import Table
from torch import Tensor

from mbrl_ros.benchmarks import plan_peers
from mbrl_ros.benchmarks.logs import INSTALL, BenchmarkError, check_names
from mbrl_ros.benchmarks.plan_peers import Plan, Task
from mbrl_ros.benchmarks.timing import seconds, threads
from mbrl_ros.dynamics.ensemble import Ensemble
from mbrl_ros.dynamics.features import FeatureMap
from mbrl_ros.dynamics.kernel_model import KernelModel
from mbrl_ros.dynamics.model import DynamicsModel, Step, Transitions, make_model
from mbrl_ros.kinds import PLANNERS
from mbrl_ros.planning.objective import Objective
from mbrl_ros.planning.planner import Problem, make_planner
from mbrl_ros.robots import load_robot
from mbrl_ros.robots.spec import (
    ActionDimension,
    Command,
    Cost,
    GoalDimension,
    RobotSpec,
    Sensor,
    StateDimension,
    Success,
)

OWN = "mbrl_ros"
# Of other libraries: how to get them. GPyTorch brings a model, not a planner.
PEERS = {
    "pytorch-mppi": "pip install pytorch-mppi==0.9.1",
    "pytorch-icem": "pip install pytorch-icem==0.1.0",
    "mbrl-lib": f"{INSTALL} and pip install --no-deps mbrl==0.2.0",
    "gpytorch": "pip install gpytorch",
}
LIBRARIES = (OWN, *PEERS)
MODELS = ("gp", "svgp", "ensemble", "mlp")
POINTS = 400  # that GPs rest on
# Repetitions of the reference product in each round, and its width.
_PRODUCTS, _WIDTH = 10, 200


@dataclass(frozen=True)
class Effort:
    """How much a run may cost.

    sizes: samples and horizons of the comparison with other libraries. all_planners: those of
    all planners with all models, or None to leave these and the GPs out. rounds: turns that
    those who are compared take, within seconds. all_threads: measure next to one thread as
    many as PyTorch takes, which on a busy machine takes a hundred times as long.
    """

    sizes: tuple[tuple[int, int], ...]
    all_planners: tuple[int, int] | None
    rounds: int
    seconds: float
    all_threads: bool


QUICK = Effort(((500, 30),), (500, 30), rounds=30, seconds=5.0, all_threads=False)
FULL = Effort(
    ((500, 30), (1000, 30), (2000, 56)), (500, 30), rounds=200, seconds=40.0, all_threads=True
)


@dataclass(frozen=True)
class Row:
    """How long one plan takes.

    model: a kind, or a model that is known exactly; `ensemble`: each candidate follows one of 5
    members, `ensemble mean`: all of them, `ensemble bfloat16`: as the first, in that precision.
    median_ms, p99_ms: of a plan. gflops: 1e9 operations a second of the model's matrix products,
    over the whole plan; NaN for models without. gemm_gflops: the same of bare float32 products
    (5 members) of (samples / 5, 200) and (200, 200), measured in turns with the plans.
    """

    planner: str
    model: str
    library: str
    threads: int
    samples: int
    horizon: int
    iterations: int
    median_ms: float
    p99_ms: float
    gflops: float
    gemm_gflops: float

    def plain(self) -> dict[str, Any]:
        """Return the row as JSON can hold it: a number that is not finite as None."""
        return {
            key: None if isinstance(value, float) and not math.isfinite(value) else value
            for key, value in asdict(self).items()
        }


@dataclass
class _Entrant:
    """plan: makes a plan, returns how many sequences it evaluated. operations: of one of them."""

    planner: str
    model: str
    library: str
    iterations: int
    plan: Plan
    operations: float = math.nan
    evaluated: int = 0
    taken: list[float] = field(default_factory=list)  # seconds


def run(
    libraries: Sequence[str] = LIBRARIES,
    effort: Effort = FULL,
    most_threads: int | None = None,
    seed: int = 0,
    say: Callable[[str], None] = lambda line: None,
) -> list[Row]:
    """Measure plans of all libraries.

    most_threads: measured next to one thread; default: as the effort says. say: told what
    is being done, and what is left out because a package is missing.
    Raises BenchmarkError for unknown names, or if nothing is left to measure.
    """
    check_names("library", libraries, LIBRARIES)
    torch.manual_seed(seed)  # peers draw from the global generator
    libraries = [name for name in libraries if _is_there(name, say)]
    most = most_threads or (torch.get_num_threads() if effort.all_threads else 1)
    rows: list[Row] = []
    for count in sorted({1, most}):
        with threads(count):
            for samples, horizon in effort.sizes:
                for entrants in _compared(libraries, samples, horizon, seed):
                    rows += _measure(entrants, samples, horizon, count, effort, say)
    with threads(1):
        for entrants, samples, horizon in _trivial(libraries):
            rows += _measure(entrants, samples, horizon, 1, effort, say)
        if effort.all_planners:
            samples, horizon = effort.all_planners
            gps = _gps(libraries, samples, horizon, seed)
            rows += _measure(gps, samples, horizon, 1, effort, say)
        if effort.all_planners and OWN in libraries:
            for entrant in _all_planners(samples, horizon, seed):
                rows += _measure([entrant], samples, horizon, 1, effort, say, share=0.1)
    if not rows:
        raise BenchmarkError("there is nothing left to measure; see what was left out above")
    return rows


def _is_there(library: str, say: Callable[[str], None]) -> bool:
    try:
        plan_peers.check(library)
    except ImportError as error:
        say(f"{library}: left out, it cannot be imported ({error}); install: {PEERS[library]}")
        return False
    return True


def _measure(
    entrants: list[_Entrant],
    samples: int,
    horizon: int,
    count: int,
    effort: Effort,
    say: Callable[[str], None],
    share: float = 1.0,
) -> list[Row]:
    """Let entrants, and bare products, take turns for a share of the effort."""
    if not entrants:
        return []
    names = ", ".join(f"{e.library} {e.planner}" for e in entrants)
    say(f"{entrants[0].model}, {samples} x {horizon}, threads {count}: {names}")
    for entrant in entrants:
        for _ in range(2):  # makes buffers, fills caches, starts threads
            entrant.evaluated = entrant.plan()
    product = _Product(-(-samples // 5))
    product.compute()
    products: list[float] = []
    begin = time.perf_counter()
    for _ in range(effort.rounds):
        for entrant in entrants:
            entrant.taken.append(seconds(entrant.plan))
        products.append(seconds(product.compute))
        if time.perf_counter() - begin > share * effort.seconds:
            break
    rate = product.operations / float(np.median(products)) / 1e9
    return [
        Row(
            planner=entrant.planner,
            model=entrant.model,
            library=entrant.library,
            threads=count,
            samples=samples,
            horizon=horizon,
            iterations=entrant.iterations,
            median_ms=1e3 * float(np.median(entrant.taken)),
            p99_ms=1e3 * float(np.percentile(entrant.taken, 99)),
            gflops=entrant.evaluated
            * horizon
            * entrant.operations
            / float(np.median(entrant.taken))
            / 1e9,
            gemm_gflops=rate,
        )
        for entrant in entrants
    ]


class _Product:
    """The bare matrix product that an ensemble's hidden layer is, `rows` a member."""

    def __init__(self, rows: int) -> None:
        self._x, self._weight = torch.rand(5, rows, _WIDTH), torch.rand(5, _WIDTH, _WIDTH)
        self._out = torch.empty_like(self._x)
        self.operations = _PRODUCTS * 2.0 * self._x.numel() * _WIDTH

    def compute(self) -> None:
        for _ in range(_PRODUCTS):
            torch.bmm(self._x, self._weight, out=self._out)


# -- who is compared ------------------------------------------------------------------------


def _own(
    planner: str, name: str, robot: RobotSpec, model: DynamicsModel, **settings: Any
) -> _Entrant:
    """Let one of our planners plan from tick to tick."""
    own = make_planner(planner, robot, **settings)
    own.prepare(model)
    state, goal = _start(robot)
    last, ticks = None, 0

    def plan() -> int:
        nonlocal last, ticks
        last = own.plan(Problem(state, goal, torch.zeros(len(own.lower)), seed=ticks), model, last)
        ticks += 1
        return last.samples

    library = "gpytorch" if name == "gpytorch" else OWN
    label = "gp" if name == "gpytorch" else name
    operations = _operations(model, name == "ensemble mean")
    return _Entrant(planner, label, library, own.iterations, plan, operations)


def _start(robot: RobotSpec) -> tuple[Tensor, Tensor]:
    return torch.full((len(robot.state),), 0.1), torch.tensor(robot.goal_default)


def _operations(model: DynamicsModel, all_members: bool) -> float:
    """Return the floating-point operations of matrix products in the mean of one prediction."""
    size = model.features.state_dimensions
    if isinstance(model, Ensemble):
        shapes = [weight.shape[1:] for weight in model.folded().weights]
        shapes[-1] = torch.Size([shapes[-1][0], size])
        products = sum(2.0 * math.prod(shape) for shape in shapes)
        return products * (model.members if all_members else 1)
    if isinstance(model, KernelModel) or model.kind == "gp":  # or GPyTorch's
        return size * POINTS * 2.0 * (2.0 * model.features.size + 2.0)
    return math.nan


def _compared(
    libraries: Sequence[str], samples: int, horizon: int, seed: int
) -> Iterator[list[_Entrant]]:
    """Yield those who plan with an ensemble, of one iteration each."""
    robot = load_robot("cartpole")
    model = _random_network("ensemble", robot, seed)
    size: dict[str, Any] = {"samples": samples, "horizon": horizon, "iterations": 1}
    entrants = []
    if OWN in libraries:
        entrants = [
            _own(kind, "ensemble", robot, model, **size) for kind in ("mppi", "icem", "cem")
        ]
        entrants.append(
            _own("mppi", "ensemble bfloat16", robot, model, precision="bfloat16", **size)
        )
    task = _task(robot, samples, horizon, plan_peers.one_member_a_row(model))
    entrants += _peers(libraries, task, "ensemble", model, mean=False)
    yield entrants
    entrants = []
    if OWN in libraries:
        entrants.append(_own("mppi", "ensemble mean", robot, model, propagation="mean", **size))
    task = _task(robot, samples, horizon, plan_peers.all_members(model))
    yield entrants + _peers(libraries, task, "ensemble mean", model, mean=True)


def _peers(
    libraries: Sequence[str], task: Task, name: str, model: Ensemble, mean: bool
) -> list[_Entrant]:
    plans: list[tuple[str, str, Plan]] = []
    if "pytorch-mppi" in libraries:
        plans.append(("mppi", "pytorch-mppi", plan_peers.pytorch_mppi(task)))
    if "pytorch-icem" in libraries:
        plans.append(("icem", "pytorch-icem", plan_peers.pytorch_icem(task)))
    if "mbrl-lib" in libraries:
        plans += [
            (planner, "mbrl-lib", plan_peers.mbrl_lib(planner, task, model, mean))
            for planner in ("mppi", "icem", "cem")
        ]
    operations = _operations(model, mean)
    return [_Entrant(planner, name, library, 1, p, operations) for planner, library, p in plans]


def _trivial(libraries: Sequence[str]) -> Iterator[tuple[list[_Entrant], int, int]]:
    """Yield those who plan with a model that costs next to nothing, and sizes."""
    for name, robot, step, samples, horizon in (
        ("double_integrator", _double_integrator(), _integrate, 500, 15),
        ("planar", _planar(), _drive, 2000, 56),
    ):
        entrants = []
        if OWN in libraries:
            size = {"samples": samples, "horizon": horizon, "iterations": 1}
            entrants.append(_own("mppi", name, robot, _Known(robot, step), **size))
        if "pytorch-mppi" in libraries:
            plan = plan_peers.pytorch_mppi(_task(robot, samples, horizon, step))
            entrants.append(_Entrant("mppi", name, "pytorch-mppi", 1, plan))
        yield entrants, samples, horizon


def _gps(libraries: Sequence[str], samples: int, horizon: int, seed: int) -> list[_Entrant]:
    """Return our MPPI with our GP and with GPyTorch's."""
    robot, data = load_robot("cartpole"), _experience(seed)
    size: dict[str, Any] = {"samples": samples, "horizon": horizon, "iterations": 1}
    entrants = []
    if OWN in libraries:
        entrants.append(_own("mppi", "gp", robot, _trained_gp("gp", robot, data), **size))
    if "gpytorch" in libraries:
        peer = plan_peers.gpytorch_gp(data, POINTS, robot)
        entrants.append(_own("mppi", "gpytorch", robot, peer, propagation="mean", **size))
    return entrants


def _all_planners(samples: int, horizon: int, seed: int) -> Iterator[_Entrant]:
    """Yield each of our planners with each of our models, with iterations as they come."""
    robot, data = load_robot("cartpole"), _experience(seed)
    for kind in MODELS:
        model: DynamicsModel
        if kind in ("ensemble", "mlp"):
            model = _random_network(kind, robot, seed)
        else:
            model = _trained_gp(kind, robot, data)
        for planner in PLANNERS.built_in():
            settings = {"horizon": horizon}
            if any(s.name == "samples" for s in PLANNERS.load(planner).settings):
                settings["samples"] = samples
            entrant = _own(planner, kind, robot, model, **settings)
            if "ilqr" in planner:
                entrant.operations = math.nan  # most of its products are in derivatives
            yield entrant


def _task(robot: RobotSpec, samples: int, horizon: int, step: Step) -> Task:
    state, goal = _start(robot)
    bounds = [dimension.bounds for dimension in robot.command.dimensions]
    lower, upper = torch.tensor(bounds).T
    return Task(Objective(robot), step, state, goal, lower, upper, samples, horizon)


# -- models ---------------------------------------------------------------------------------


def _random_network(kind: str, robot: RobotSpec, seed: int) -> Ensemble:
    """Return a model of 3 hidden layers of 200; times do not depend on what it has learned."""
    model = make_model(kind, robot, seed)
    assert isinstance(model, Ensemble)
    tensors = {name: tensor.clone() for name, tensor in model.snapshot().items()}
    tensors["weight_3"].normal_(0.0, 1e-3, generator=torch.Generator().manual_seed(seed))
    model.restore(tensors)
    return model


def _experience(seed: int) -> Transitions:
    """Return POINTS transitions of a cart with a pendulum, of no particular robot."""
    generator = torch.Generator().manual_seed(seed)
    states = torch.randn(POINTS, 4, generator=generator).double()
    actions = 5.0 * torch.randn(POINTS, 1, generator=generator).double()
    rates = [states[:, 1], actions[:, 0], states[:, 3], 9.81 * states[:, 2].sin()]
    return Transitions(states, actions, states + 0.05 * torch.stack(rates, 1))


def _trained_gp(kind: str, robot: RobotSpec, data: Transitions) -> DynamicsModel:
    points = {"max_points": POINTS} if kind == "gp" else {}
    model = make_model(kind, robot, **points)
    model.update(data)
    model.improve()
    return model


class _Known(DynamicsModel):
    """A model that is known exactly; step: (states (N, D), actions (N, A)) -> next states."""

    kind = "known"
    transitions = 1

    def __init__(self, robot: RobotSpec, step: Step) -> None:
        super().__init__(FeatureMap.of(robot))
        self._step = step

    def stepper(
        self, propagation: str, count: int, generator: torch.Generator | None = None
    ) -> Step:
        return self._step

    def update(self, new: Transitions) -> None:
        """Learn nothing."""

    def outputs(self, states: Tensor, actions: Tensor) -> tuple[Tensor, Tensor]:
        change = self._step(states, actions) - states
        return change, torch.zeros_like(change)

    def snapshot(self) -> dict[str, Tensor]:
        return {}

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Take over nothing."""


def _integrate(states: Tensor, actions: Tensor) -> Tensor:
    """Push a mass of 1 kg for 0.05 s."""
    velocity = states[:, 1:] + 0.05 * actions
    return torch.cat([states[:, :1] + 0.05 * velocity, velocity], 1)


def _drive(states: Tensor, actions: Tensor) -> Tensor:
    """Drive with a forward and a turning speed for 0.05 s: x, y, heading."""
    heading = states[:, 2] + 0.05 * actions[:, 1]
    forward = 0.05 * actions[:, 0]
    along, across = forward * torch.cos(heading), forward * torch.sin(heading)
    return torch.stack([states[:, 0] + along, states[:, 1] + across, heading], 1)


def _double_integrator() -> RobotSpec:
    return _robot(
        "double_integrator",
        {"position": "m", "velocity": "m/s"},
        {"force": ("N", (-10.0, 10.0))},
        ("position",),
        Cost(
            goal={"position": 1.0},
            state={"position": 0.0, "velocity": 0.1},
            effort={"force": 0.01},
        ),
    )


def _planar() -> RobotSpec:
    return _robot(
        "planar",
        {"x": "m", "y": "m", "heading": "rad"},
        {"forward": ("m/s", (-1.0, 1.0)), "turn": ("rad/s", (-2.0, 2.0))},
        ("x", "y"),
        Cost(goal={"x": 1.0, "y": 1.0}, effort={"forward": 0.01, "turn": 0.01}),
    )


def _robot(
    name: str,
    states: dict[str, str],
    actions: dict[str, tuple[str, tuple[float, float]]],
    goal: tuple[str, ...],
    cost: Cost,
) -> RobotSpec:
    return RobotSpec(
        name=name,
        control_rate=20.0,
        sensors={"joint_states": Sensor("sensor_msgs/msg/JointState")},
        state=tuple(
            StateDimension(key, unit, "joint_states", key, "position")
            for key, unit in states.items()
        ),
        command=Command(
            "commands",
            "std_msgs/msg/Float64MultiArray",
            tuple(ActionDimension(key, unit, span) for key, (unit, span) in actions.items()),
        ),
        goal=tuple(GoalDimension(key, (-10.0, 10.0), 0.5) for key in goal),
        cost=cost,
        success=Success(1.0, goal[0], 0.1),
    )


def table(rows: Sequence[Row]) -> Table:
    """Lay rows out for the terminal, with the share of the bare products' rate."""
    result = Table(
        *("planner", "model", "library", "threads", "samples", "horizon", "iterations"),
        *("median_ms", "p99_ms", "gflops", "gemm_gflops", "share"),
    )
    before = None
    for row in rows:
        group = (row.threads, row.samples, row.horizon, row.model.split()[0])
        if before is not None and group != before:
            result.add_section()
        before = group
        counts = (row.threads, row.samples, row.horizon, row.iterations)
        numbers = (row.median_ms, row.p99_ms, row.gflops, row.gemm_gflops)
        shown = [f"{number:.1f}" if math.isfinite(number) else "-" for number in numbers]
        share = row.gflops / row.gemm_gflops
        shown.append(f"{100.0 * share:.0f} %" if math.isfinite(share) else "-")
        result.add_row(row.planner, row.model, row.library, *map(str, counts), *shown)
    return result
