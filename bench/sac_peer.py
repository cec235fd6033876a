# Copyright 2026 The mbrl_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Compare SAC with that of Stable-Baselines3, side by side: return against real steps.

    pip install stable-baselines3==2.9.2
    python bench/sac_peer.py --tasks half-cheetah --json rows.json --plot half_cheetah.png

Both with equal settings: networks, minibatches, learning rate, discount, target averaging, random
steps at first, one update a step; and judged by the same episodes.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rich.console import Console

from mbrl_ros.benchmarks import sample_efficiency
from mbrl_ros.benchmarks.continuous_tasks import (
    EVALUATED,
    HALF_CHEETAH,
    PENDULUM,
    Setup,
    learner,
)
from mbrl_ros.benchmarks.logs import MissingPackage
from mbrl_ros.benchmarks.sample_efficiency import Agent, Task
from mbrl_ros.imagination.episodes import Values, evaluate
from mbrl_ros.imagination.sac import SAC


def peer(setup: Setup) -> Agent:
    """Return Stable-Baselines3's SAC with a task's settings."""

    def learn(steps: int, seed: int) -> Iterator[tuple[int, float]]:
        try:
            import stable_baselines3
        except ImportError as error:
            raise MissingPackage(str(error)) from None
        settings = {setting.name: setting.default for setting in SAC.settings} | setup.sac
        agent = stable_baselines3.SAC(
            "MlpPolicy",
            setup.make(),
            learning_rate=settings["learning_rate"],
            batch_size=settings["batch_size"],
            gamma=settings["discount"],
            tau=settings["averaging"],
            learning_starts=setup.warmup,
            policy_kwargs={"net_arch": [settings["hidden"]] * settings["layers"]},
            seed=seed,
            device="cpu",
        )
        judge = setup.judged()

        def act(state: Values) -> Any:
            return agent.predict(state, deterministic=True)[0]

        done = 0
        while done < steps:
            agent.learn(setup.every, reset_num_timesteps=not done)
            done += setup.every
            yield done, statistics.mean(evaluate(act, judge, setup.episodes, EVALUATED))

    return learn


def _task(name: str, setup: Setup, steps: int, target: float | None = None) -> Task:
    agents = {"sac": learner(setup, None), "stable-baselines3": peer(setup)}
    return Task(name, "return of an episode", steps, steps // 5, 3, agents, target)


TASKS = {
    task.name: task
    for task in (
        _task("pendulum", PENDULUM, 5000, -200.0),
        _task("half-cheetah", HALF_CHEETAH, 20_000),
    )
}


def main() -> None:
    """Run both, print the table, write the rows."""
    parser = argparse.ArgumentParser(description="Compare SAC with Stable-Baselines3's.")
    parser.add_argument("--tasks", default=",".join(TASKS), help="some of them (default: all)")
    parser.add_argument("--agents", default="sac,stable-baselines3")
    parser.add_argument("--seed", type=int, default=0, help="the first")
    parser.add_argument("--seeds", type=int, default=3, help="runs of each")
    parser.add_argument("--json", type=Path, help="write the rows to this file")
    parser.add_argument("--plot", type=Path, help="draw the curves to this file")
    given = parser.parse_args()
    rows = sample_efficiency.run(
        TASKS, given.tasks.split(","), given.agents.split(","), given.seeds, given.seed, say=print
    )
    Console().print(sample_efficiency.table(rows, TASKS))
    if given.json:
        given.json.write_text(json.dumps([row.plain() for row in rows]), "utf-8")
    if given.plot:
        sample_efficiency.draw(rows, TASKS, given.plot)


if __name__ == "__main__":
    main()
