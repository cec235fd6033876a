# Copyright 2026 The mbrl_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Measure how imagined rollouts drift from reality with their horizon, and what that does.

python bench/imagined_drift.py --seeds 2 --json FILE --plot FILE

SAC learns Pendulum-v1 from what an imperfect model imagines: a GP of 40 points. For each
horizon: how far imagined states are from real ones under the same actions, what a step of the
imagined and of the real rollouts earns, and the real return of the policy that came of it. Every
horizon imagines as many steps.
"""

from __future__ import annotations

import json
import statistics
from argparse import ArgumentParser
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mbrl_ros.benchmarks.continuous_tasks import PENDULUM
from mbrl_ros.benchmarks.timing import one_thread
from mbrl_ros.dynamics.features import FeatureMap
from mbrl_ros.dynamics.gp import GaussianProcess
from mbrl_ros.imagination.mbpo import MBPO, evaluate, interact

HORIZONS = (1, 5, 25, 100)
POINTS = 40  # of the imperfect model
IMAGINED = 3000  # steps a round of rollouts, whatever their horizon
STEPS = 500  # real ones
LONGEST = max(HORIZONS)
COMPARED = 100  # rollouts that are compared with reality
SOLVED = -200.0


@dataclass(frozen=True)
class Row:
    """What came of one horizon with one seed.

    errors: root mean square distance of imagined states from real ones after 1, 2, ... steps, in
    standard deviations of the states visited. imagined, real: mean reward of a step of rollouts
    of the horizon. value: return of the policy in the environment, mean of 10 episodes.
    """

    horizon: int
    seed: int
    errors: list[float]
    imagined: float
    real: float
    value: float


def true_step(states: Tensor, actions: Tensor) -> tuple[Tensor, Tensor]:
    """Return next states and rewards of Pendulum-v1 for many pendulums (cos, sin, rate)."""
    angle, rate, torque = torch.atan2(states[:, 1], states[:, 0]), states[:, 2], actions[:, 0]
    reward = -(angle.square() + 0.1 * rate.square() + 0.001 * torque.square())
    rate = (rate + 0.05 * (15.0 * torch.sin(angle) + 3.0 * torque)).clamp(-8.0, 8.0)
    angle = angle + 0.05 * rate
    return torch.stack([torch.cos(angle), torch.sin(angle), rate], 1), reward


def measure(horizon: int, seed: int) -> Row:
    model = GaussianProcess(FeatureMap([False] * 3, 1, 1), max_points=POINTS, seed=seed)
    agent = MBPO(
        PENDULUM.angle_mask,
        PENDULUM.lower,
        PENDULUM.upper,
        model,
        sac=PENDULUM.sac,
        seed=seed,
        updates=15,
        horizon=horizon,
        rollouts=IMAGINED // horizon,
        slices=3,
    )
    environment: Any = PENDULUM.make()
    visited = []
    state_of = agent.observe

    def observe(state: Any, *others: Any) -> None:
        visited.append(torch.as_tensor(state))
        state_of(state, *others)

    agent.observe = observe  # type: ignore[method-assign]
    for _ in interact(agent, environment, STEPS, seed):
        pass
    states = torch.stack(visited).float()
    scale = states.std(0)
    chosen = torch.randint(len(states), (COMPARED,), generator=torch.Generator().manual_seed(seed))
    imagined = real = states[chosen]
    step = model.stepper("mean", COMPARED)
    errors, rewards = [], torch.zeros(LONGEST, 2)
    for i in range(LONGEST):
        actions = agent.policy.act(imagined)
        rewards[i, 0] = model.reward(imagined, actions).mean()
        imagined = step(imagined, actions)
        real, reward = true_step(real, actions)
        rewards[i, 1] = reward.mean()
        errors.append(float(((imagined - real) / scale).square().mean().sqrt()))
    earned = rewards[:horizon].mean(0).tolist()
    value = statistics.mean(evaluate(agent.policy, environment, 10, 1_000_000))
    return Row(horizon, seed, errors, *earned, value)


def draw(rows: list[Row], path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, (drift, earned, result) = pyplot.subplots(1, 3, figsize=(12.6, 3.6))
    horizons = sorted({row.horizon for row in rows})
    for i, horizon in enumerate(horizons):
        own = [row for row in rows if row.horizon == horizon]
        for row in own:
            label = f"trained with {horizon}" if row is own[0] else None
            drift.plot(range(1, LONGEST + 1), row.errors, color=f"C{i}", label=label)
            result.plot(horizon, row.value, "o", color=f"C{i}")
            earned.plot(horizon, row.imagined, "o", color=f"C{i}", fillstyle="none")
            earned.plot(horizon, row.real, "o", color=f"C{i}")
    result.plot(
        horizons,
        [statistics.mean(row.value for row in rows if row.horizon == h) for h in horizons],
        color="grey",
        zorder=0,
    )
    result.axhline(SOLVED, color="grey", linestyle=":")
    drift.set(
        title="drift of imagined states",
        xlabel="imagined steps",
        ylabel="error, standard deviations",
        xscale="log",
        yscale="log",
    )
    earned.set(
        title="reward of a step: imagined (rings) and real",
        xlabel="imagined horizon",
        xscale="log",
    )
    result.set(
        title=f"real return after {STEPS} real steps", xlabel="imagined horizon", xscale="log"
    )
    for panel in (earned, result):
        panel.set_xticks(horizons, [str(h) for h in horizons])
        panel.minorticks_off()
    for panel in (drift, earned, result):
        panel.grid(visible=True, alpha=0.2)
    drift.legend(frameon=False, fontsize=8)
    figure.tight_layout()
    figure.savefig(path, dpi=110)


@one_thread()
def main() -> None:
    parser = ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--plot", type=Path)
    options = parser.parse_args()
    rows = []
    for seed in range(options.seeds):
        for horizon in HORIZONS:
            row = measure(horizon, seed)
            rows.append(row)
            print(
                f"horizon {horizon:3d}, seed {seed}: error {row.errors[horizon - 1]:.3f}, "
                f"reward of a step {row.imagined:.2f} imagined, {row.real:.2f} real, "
                f"return {row.value:.0f}",
                flush=True,
            )
            if options.json is not None:
                options.json.write_text(json.dumps([asdict(r) for r in rows], indent=1) + "\n")
    if options.plot is not None:
        draw(rows, options.plot)


if __name__ == "__main__":
    main()
