# Copyright 2026 The mbrl_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Measure what figures 8.2, 8.4 and 8.5 of Sutton and Barto (2018) show, and print it.

python bench/maze_figures.py --seeds 30

Dyna maze: steps an episode by the number of planning steps, and the first episode after which
the greedy path is at most two steps longer than the shortest one. Blocking and shortcut maze:
the reward before and after the change, with and without the bonus of Dyna-Q+. Prioritised
sweeping: how many updates of a value it takes to the same path.
"""

from __future__ import annotations

import math
import statistics
from argparse import ArgumentParser
from collections.abc import Callable
from dataclasses import dataclass

from mbrl_ros.imagination import mazes
from mbrl_ros.imagination.dyna_q import DynaQ, Settings, agent_for, interact

EPISODES = 50
SLACK = 2  # steps that a path may have more than the shortest
BONUS = 1e-3  # kappa, where the maze changes
SMALL_BONUS = 1e-4  # where it does not


def changing(planning_steps: int, bonus: float) -> Settings:
    return Settings(planning_steps=planning_steps, step_size=0.7, bonus=bonus)


def greedy_path(agent: DynaQ, maze: mazes.Maze) -> float:
    """Return the steps from start to goal when the best action is always taken, or infinity."""
    state, _ = maze.reset()
    for step in range(1, maze.rows * maze.columns):
        state, _, arrived, _, _ = maze.step(agent.greedy(state))
        if arrived:
            return step
    return math.inf


@dataclass
class Learned:
    """What came of learning.

    lengths: steps of each episode. arrived: the first episode after which the greedy path is
    good, and updates: the updates until then; infinity if it never is. path: the last one.
    """

    lengths: list[int]
    arrived: float
    updates: float
    path: float


def learn(settings: Settings, seed: int, episodes: int = EPISODES) -> Learned:
    """Learn the Dyna maze."""
    maze, judge = mazes.dyna_maze(), mazes.dyna_maze()
    agent, best = agent_for(maze, settings, seed), maze.shortest() + SLACK
    found = Learned([], math.inf, math.inf, math.inf)
    length = 0
    for step in interact(agent, maze, 10**9, seed):
        length += 1
        if step.ended:
            found.lengths.append(length)
            length = 0
            found.path = greedy_path(agent, judge)
            if found.path <= best and math.isinf(found.arrived):
                found.arrived, found.updates = len(found.lengths), agent.updates
            if len(found.lengths) == episodes:
                break
    return found


def rewards(
    make: Callable[[], mazes.Maze], settings: Settings, seed: int, steps: int, change: int
) -> tuple[float, float]:
    """Return the reward before and after the change."""
    maze = make()
    agent = agent_for(maze, settings, seed)
    each = [step.reward for step in interact(agent, maze, steps, seed)]
    return sum(each[:change]), sum(each[change:])


def main() -> None:
    parser = ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seeds", type=int, default=30)
    seeds = range(parser.parse_args().seeds)
    print("Dyna maze: mean steps of episodes 1, 2, 3, 5, 10, 20, 50; median episode after which")
    print("the greedy path is good; seeds with a good path, and with the shortest, at the end")
    for name, settings in (
        ("K = 0", Settings(planning_steps=0)),
        ("K = 5", Settings(planning_steps=5)),
        ("K = 50", Settings(planning_steps=50)),
        ("K = 50, bonus", Settings(planning_steps=50, bonus=SMALL_BONUS)),
    ):
        runs = [learn(settings, seed) for seed in seeds]
        means = [
            statistics.mean(run.lengths[episode - 1] for run in runs)
            for episode in (1, 2, 3, 5, 10, 20, 50)
        ]
        median = statistics.median(run.arrived for run in runs)
        good = sum(run.path <= 14 + SLACK for run in runs)
        best = sum(run.path == 14 for run in runs)
        print(f"{name:14}", *(f"{mean:7.1f}" for mean in means), f"{median:6g}", good, best)
    for title, make, planning, steps, change in (
        ("blocking maze", mazes.blocking_maze, 10, 3000, 1000),
        ("shortcut maze", mazes.shortcut_maze, 50, 6000, 3000),
    ):
        for bonus in (0.0, BONUS):
            both = [rewards(make, changing(planning, bonus), s, steps, change) for s in seeds]
            before, after = (statistics.mean(column) for column in zip(*both, strict=True))
            print(f"{title}, bonus {bonus:g}: reward {before:.1f} before, {after:.1f} after")
    for name, settings in (
        ("Dyna-Q", Settings(planning_steps=5, step_size=0.5)),
        ("prioritised", Settings(planning_steps=5, step_size=0.5, sweep_threshold=1e-4)),
    ):
        runs = [learn(settings, seed) for seed in seeds]
        updates = statistics.median(run.updates for run in runs)
        print(f"{name}: {updates:g} updates (median) to a good path of the Dyna maze")


if __name__ == "__main__":
    main()
