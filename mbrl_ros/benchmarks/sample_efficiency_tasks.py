# Copyright 2026 The mbrl_ros authors
# SPDX-License-Identifier: Apache-2.0
"""The tasks of the comparison of sample efficiency, and the agents that learn them."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from mbrl_ros.benchmarks import continuous_tasks
from mbrl_ros.benchmarks.logs import INSTALL, MissingPackage
from mbrl_ros.benchmarks.sample_efficiency import Agent, Task
from mbrl_ros.dynamics.ensemble import Ensemble
from mbrl_ros.dynamics.features import FeatureMap
from mbrl_ros.imagination.deep_dyna_q import DeepDynaQ, train
from mbrl_ros.imagination.dyna_q import DynaQ, Settings, agent_for, interact
from mbrl_ros.imagination.episodes import evaluate

_LONGEST = 200  # steps of an episode that is evaluated in a maze
_EVALUATIONS = 60  # of each run in the Dyna maze
_EVERY, _EPISODES = 250, 10  # steps between evaluations of CartPole-v1, and episodes of each
_CARTPOLE_SCALES = (2.4, 2.0, 0.2, 2.0)  # m, m/s, rad, rad/s
_JUDGE_SEED = 1_000_000  # of the episodes of evaluations
_MARKS = 100  # points of each run in a maze that changes


def _maze(name: str) -> Any:
    """Return a maze of mbrl_ros.imagination.mazes."""
    try:
        from mbrl_ros.imagination import mazes
    except ImportError as error:
        raise MissingPackage(str(error)) from None
    return getattr(mazes, name)()


def discounted_return(agent: DynaQ, maze: Any) -> float:
    """Return the discounted return of the greedy policy from the start; 0 if it goes astray."""
    state, _ = maze.reset()
    for step in range(_LONGEST):
        state, reward, terminated, _, _ = maze.step(agent.greedy(state))
        if terminated:
            return float(reward) * agent.settings.discount**step
    return 0.0


def _paths(settings: Settings) -> Agent:
    """Evaluate the greedy policy now and then while an agent learns the Dyna maze."""

    def learn(steps: int, seed: int) -> Iterator[tuple[int, float]]:
        maze, judge = _maze("dyna_maze"), _maze("dyna_maze")
        agent, every = agent_for(maze, settings, seed), max(steps // _EVALUATIONS, 1)
        yield 0, discounted_return(agent, judge)
        for step, _ in enumerate(interact(agent, maze, steps, seed), 1):
            if step % every == 0:
                yield step, discounted_return(agent, judge)

    return learn


def _gains(name: str, settings: Settings) -> Agent:
    """Add up the rewards while an agent learns a maze that changes."""

    def learn(steps: int, seed: int) -> Iterator[tuple[int, float]]:
        maze, total = _maze(name), 0.0
        agent, every = agent_for(maze, settings, seed), max(steps // _MARKS, 1)
        yield 0, 0.0
        for step, real in enumerate(interact(agent, maze, steps, seed), 1):
            total += real.reward
            if step % every == 0:
                yield step, total

    return learn


def _planning(steps: int) -> Settings:
    return Settings(planning_steps=steps, step_size=0.1)


def _changing(planning_steps: int, bonus: float) -> Settings:
    return Settings(planning_steps=planning_steps, step_size=0.7, bonus=bonus)


# -- CartPole-v1 ------------------------------------------------------------------------------


def _fell(states: Tensor, actions: Tensor, after: Tensor) -> Tensor:
    """Return where CartPole-v1 ends an episode: the cart is off the track, or the pole down."""
    return (after[:, 0].abs() > 2.4) | (after[:, 2].abs() > math.radians(12.0))


def _one_a_step(states: Tensor, actions: Tensor, after: Tensor) -> Tensor:
    return torch.ones(len(states))


def _cartpole(imagining: bool, **settings: Any) -> Agent:
    """Evaluate the greedy policy now and then while an agent learns CartPole-v1."""

    def learn(steps: int, seed: int) -> Iterator[tuple[int, float]]:
        environment, judge = _gymnasium("CartPole-v1"), _gymnasium("CartPole-v1")
        model = None
        if imagining:
            features = FeatureMap([False] * 4, action_dimensions=2)
            model = Ensemble(features, hidden=(64, 64), seed=seed)
        agent = DeepDynaQ(
            4, 2, model, _one_a_step, _fell, seed, scales=_CARTPOLE_SCALES, **settings
        )
        for step in train(agent, environment, steps, seed):
            if step % _EVERY == 0:
                found = evaluate(agent.greedy, judge, _EPISODES, _JUDGE_SEED)
                yield step, statistics.mean(found)

    return learn


def _gymnasium(name: str) -> Any:
    try:
        import gymnasium
    except ImportError as error:
        raise MissingPackage(
            f"it needs Gymnasium, which cannot be imported ({error}); install it with: {INSTALL}"
        ) from None
    return gymnasium.make(name)


TASKS = {
    task.name: task
    for task in (
        Task(
            "dyna-maze",
            "discounted return of the greedy policy",
            steps=6000,
            quick_steps=3000,
            seeds=30,
            agents={
                "q-learning": _paths(_planning(0)),
                "dyna-q-5": _paths(_planning(5)),
                "dyna-q-50": _paths(_planning(50)),
            },
            target=0.95**15,  # two steps more than the shortest path
        ),
        Task(
            "blocking-maze",
            "cumulative reward",
            steps=3000,
            quick_steps=3000,
            seeds=30,
            agents={
                "dyna-q": _gains("blocking_maze", _changing(10, 0.0)),
                "dyna-q+": _gains("blocking_maze", _changing(10, 1e-3)),
            },
            change=1000,
        ),
        Task(
            "shortcut-maze",
            "cumulative reward",
            steps=6000,
            quick_steps=6000,
            seeds=30,
            agents={
                "dyna-q": _gains("shortcut_maze", _changing(50, 0.0)),
                "dyna-q+": _gains("shortcut_maze", _changing(50, 1e-3)),
            },
            change=3000,
        ),
        Task(
            "cartpole-v1",
            "mean return of the greedy policy",
            steps=3000,
            quick_steps=1500,
            seeds=5,
            agents={
                "dqn": _cartpole(imagining=False),
                # As many updates as deep Dyna-Q: what is left is what the model is worth.
                "dqn-6-updates": _cartpole(imagining=False, updates=6),
                "deep-dyna-q": _cartpole(imagining=True),
            },
            target=475.0,
        ),
        *continuous_tasks.TASKS,
    )
}
