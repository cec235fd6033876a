# Copyright 2026 The mbrl_ros authors
# SPDX-License-Identifier: Apache-2.0
"""What a GPU saves: whole plans of MPPI, and training steps of an ensemble, next to the CPU.

    python bench/gpu.py --json gpu.json

Plans: with an ensemble of 5 networks of 3 layers of 200 and with a GP of 400 points, for the
cart-pole; on one thread of the CPU, on the GPU in float32 and in bfloat16, and, if it is installed
(pip install pytorch-mppi==0.9.1), by pytorch-mppi with the same networks on the same GPU.
`prepare_ms` is what a new model takes until the first plan. Training: minibatches of 256 for
each member. All in turns.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor
from torch.nn.functional import silu

from mbrl_ros.benchmarks.timing import seconds
from mbrl_ros.dynamics.ensemble import Ensemble
from mbrl_ros.dynamics.model import DynamicsModel, Transitions, make_model
from mbrl_ros.planning.objective import Objective, Steps
from mbrl_ros.planning.planner import Problem, make_planner
from mbrl_ros.robots import load_robot
from mbrl_ros.robots.spec import RobotSpec

POINTS = 400
NOISE = 0.5  # share of half the action's range, as in the benchmark of planners


@dataclass
class Row:
    """task: `plan` or `train`; size: samples x horizon, or units of each hidden layer."""

    task: str
    model: str
    way: str
    size: str
    median_ms: float
    p99_ms: float
    prepare_ms: float | None = None


def experience() -> Transitions:
    """Return POINTS transitions of a cart with a pendulum, of no particular robot."""
    generator = torch.Generator().manual_seed(0)
    states = torch.randn(POINTS, 4, generator=generator).double()
    actions = 5.0 * torch.randn(POINTS, 1, generator=generator).double()
    rates = [states[:, 1], actions[:, 0], states[:, 3], 9.81 * states[:, 2].sin()]
    return Transitions(states, actions, states + 0.05 * torch.stack(rates, 1))


def learned(kind: str, robot: RobotSpec) -> DynamicsModel:
    options = {"max_points": POINTS} if kind == "gp" else {}
    model = make_model(kind, robot, **options)
    model.update(experience())
    model.improve()
    return model


def own(
    robot: RobotSpec,
    model: DynamicsModel,
    samples: int,
    horizon: int,
    optimize: str,
    precision: str,
) -> tuple[Callable[[], object], float]:
    """Return what makes a plan, and the milliseconds that a new model takes to be prepared."""
    planner = make_planner(
        "mppi",
        robot,
        samples=samples,
        horizon=horizon,
        iterations=1,
        optimize=optimize,
        precision=precision,
    )
    for remark in planner.prepare(model):
        if "does not work" in remark:
            raise SystemExit(remark)
    again = make_model(model.kind, robot, **({"max_points": POINTS} if model.kind == "gp" else {}))
    again.restore(model.snapshot())
    taken = seconds(lambda: planner.prepare(again))
    start = torch.full((len(robot.state),), 0.1)
    problem = Problem(start, torch.tensor(robot.goal_default), torch.zeros(1))
    last = None

    def plan() -> None:
        nonlocal last
        last = planner.plan(problem, again, last)

    return plan, 1e3 * taken


def pytorch_mppi(
    robot: RobotSpec, model: Ensemble, samples: int, horizon: int
) -> Callable[[], object]:
    """Return what makes a plan by pytorch-mppi on the GPU; each row is moved by one member."""
    import pytorch_mppi as library

    networks, size = model.folded().to("cuda"), len(robot.state)
    layers = list(zip(networks.weights, networks.biases, strict=True))
    objective, goal = Objective(robot), torch.tensor(robot.goal_default, device="cuda")

    @torch.no_grad()
    def step(states: Tensor, actions: Tensor) -> Tensor:
        angle = states[:, 2:3]
        plain = [states[:, :2], states[:, 3:]]
        x = torch.cat([*plain, torch.sin(angle), torch.cos(angle), actions], 1)
        x = x.view(model.members, -1, x.shape[1])
        for weight, bias in layers[:-1]:
            x = silu(torch.baddbmm(bias, x, weight))
        weight, bias = layers[-1]
        change = torch.baddbmm(bias[..., :size], x, weight[..., :size])
        return states + change.reshape(states.shape)

    def cost(states: Tensor, actions: Tensor) -> Tensor:
        return objective.stage_cost(Steps(states, actions, states, actions, goal))

    upper = torch.tensor([d.bounds[1] for d in robot.command.dimensions], device="cuda")
    planner = library.MPPI(
        step,
        cost,
        size,
        torch.diag((NOISE * upper).square()),
        num_samples=samples,
        horizon=horizon,
        u_min=-upper,
        u_max=upper,
        device="cuda",
    )
    start = torch.full((size,), 0.1)
    return lambda: planner.command(start.to("cuda")).cpu()


def measured(entrants: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    """Let all take turns; return their seconds."""
    taken: dict[str, list[float]] = {name: [] for name in entrants}
    for call in entrants.values():
        for _ in range(2):
            call()
    begin = time.perf_counter()
    for _ in range(rounds):
        for name, call in entrants.items():
            taken[name].append(seconds(call))
        if time.perf_counter() - begin > 5.0:
            break
    return taken


def plans(samples: int, horizon: int, rounds: int) -> list[Row]:
    robot, rows = load_robot("cartpole"), []
    for kind in ("ensemble", "gp"):
        model = learned(kind, robot)
        ways = {"cpu": ("none", "float32"), "gpu": ("cuda", "float32")}
        if kind == "ensemble":
            ways["gpu bfloat16"] = ("cuda", "bfloat16")
        entrants, prepared = {}, {}
        for name, way in ways.items():
            entrants[name], prepared[name] = own(robot, model, samples, horizon, *way)
        if isinstance(model, Ensemble) and importlib.util.find_spec("pytorch_mppi"):
            entrants["pytorch-mppi gpu"] = pytorch_mppi(robot, model, samples, horizon)
        for name, taken in measured(entrants, rounds).items():
            size = f"{samples} x {horizon}"
            rows.append(row("plan", kind, name, size, taken, prepared.get(name)))
    return rows


def training(width: int, rounds: int) -> list[Row]:
    robot, entrants = load_robot("cartpole"), {}
    for name, device in (("cpu", "cpu"), ("gpu", "cuda")):
        model = make_model(
            "ensemble", robot, hidden=(width,) * 3, device=device, patience=1_000_000
        )
        model.update(experience())
        entrants[name] = model.improve
    return [
        row("train", "ensemble", name, str(width), [t / 10 for t in taken])
        for name, taken in measured(entrants, rounds).items()
    ]


def row(
    task: str, model: str, way: str, size: str, taken: list[float], prepared: float | None = None
) -> Row:
    median, p99 = np.percentile(taken, [50, 99])
    return Row(task, model, way, size, 1e3 * float(median), 1e3 * float(p99), prepared)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=100, help="turns that each takes")
    parser.add_argument("--json", type=Path, help="file for the rows")
    options = parser.parse_args()
    if not torch.cuda.is_available():
        print("PyTorch finds no GPU here; there is nothing to compare.", file=sys.stderr)
        return 1
    torch.set_num_threads(1)
    console = Console(width=100)
    console.print(f"{torch.cuda.get_device_name()}, PyTorch {torch.__version__}, one CPU thread")
    rows: list[Row] = []
    for samples, horizon in ((500, 30), (2000, 56), (20_000, 56)):
        console.print(f"plans of {samples} x {horizon} ...")
        rows += plans(samples, horizon, options.rounds)
    for width in (200, 1000):
        console.print(f"training with {width} units a layer ...")
        rows += training(width, options.rounds)
    table = Table("task", "model", "way", "size", "median_ms", "p99_ms", "prepare_ms")
    for found in rows:
        numbers = (found.median_ms, found.p99_ms, found.prepare_ms)
        shown = ("-" if number is None else f"{number:.2f}" for number in numbers)
        table.add_row(found.task, found.model, found.way, found.size, *shown)
    console.print(table)
    if options.json is not None:
        options.json.write_text(
            "".join(json.dumps(asdict(found)) + "\n" for found in rows), encoding="utf-8"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
