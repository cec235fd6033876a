# Copyright 2026 The mbrl_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Logs of simulated robots that models are trained and judged on, and their files."""

from __future__ import annotations

import math
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from mbrl_ros.dynamics.features import FeatureMap
from mbrl_ros.dynamics.model import Transitions
from mbrl_ros.planning.noise import coloured_noise
from mbrl_ros.robots import RobotSpec, load_robot
from mbrl_ros.sim.mujoco_plant import MujocoPlant

INSTALL = "pip install 'mbrl_ros[bench]'"

_SCALES = (0.2, 0.7)  # of the random actions, as shares of half their range
_SHORTEST = 40  # steps; what an end stop cuts shorter than this is drawn again

# (state (D,), step) -> action (A,), within its bounds or not
_Policy = Callable[[list[float], int], list[float]]


class BenchmarkError(ValueError):
    """A benchmark that cannot be run as asked; the message says why and what to do."""


@dataclass(frozen=True)
class Episode:
    """T steps from one start: states (T + 1, D), actions (T, A) in force between them; float64."""

    states: Tensor
    actions: Tensor

    def transitions(self) -> Transitions:
        """Return the T transitions."""
        return Transitions(self.states[:-1], self.actions, self.states[1:])


@dataclass(frozen=True)
class Log:
    """Episodes of one task, to learn from and, apart from them, to be judged by.

    angles (D,): which state dimensions wrap at +-pi.
    """

    task: str
    angles: tuple[bool, ...]
    training: tuple[Episode, ...]
    test: tuple[Episode, ...]

    @property
    def features(self) -> FeatureMap:
        """Return what models see of states and actions."""
        return FeatureMap(self.angles, self.training[0].actions.shape[1])

    def first(self, training: int, test: int) -> Log:
        """Return the log of the first so many episodes of either part."""
        return replace(self, training=self.training[:training], test=self.test[:test])


@dataclass(frozen=True)
class Task:
    """How a log is made.

    make: (number of episodes, seed) -> (angles, episodes). training, test: how many episodes;
    quick_training, quick_test: how many of them `--quick` uses.
    """

    name: str
    make: Callable[[int, int], tuple[tuple[bool, ...], list[Episode]]]
    training: int
    test: int
    quick_training: int
    quick_test: int

    def log(self, seed: int = 0) -> Log:
        """Make the log of this seed; the same seed gives the same log.

        Raises BenchmarkError or RobotError if the simulator cannot be imported.
        """
        angles, episodes = self.make(self.training + self.test, seed)
        test = self.test
        return Log(self.name, angles, tuple(episodes[test:]), tuple(episodes[:test]))


# -- robots of this package -----------------------------------------------------------------


def _cartpole(count: int, seed: int) -> tuple[tuple[bool, ...], list[Episode]]:
    """Every other episode swings the pole up, so that all of the state space is seen."""

    def policy(noise: Tensor, index: int) -> _Policy:
        def act(state: list[float], step: int) -> list[float]:
            position, velocity, angle, rate = state
            force = float(noise[step, 0]) - 3.0 * position - velocity  # stay on the rail
            if index % 2:
                # Push with the swing while the pole has less energy than upright at rest;
                # see Astrom and Furuta, "Swinging up a pendulum by energy control" (2000).
                energy = rate * rate / 6.0 + 9.81 / 2.0 * (math.cos(angle) - 1.0)
                with_swing = math.copysign(1.0, rate * math.cos(angle))
                force += 8.0 * with_swing * max(-1.0, min(1.0, energy))
            return [force]

        return act

    return _simulated(load_robot("cartpole"), policy, count, 100, seed)


def _arm2(count: int, seed: int) -> tuple[tuple[bool, ...], list[Episode]]:
    def policy(noise: Tensor, index: int) -> _Policy:
        def act(state: list[float], step: int) -> list[float]:
            # A weak spring keeps the elbow off its end stops.
            return [float(noise[step, 0]), float(noise[step, 1]) - 0.3 * state[1]]

        return act

    return _simulated(load_robot("arm2"), policy, count, 100, seed)


def _simulated(
    robot: RobotSpec,
    make_policy: Callable[[Tensor, int], _Policy],
    count: int,
    steps: int,
    seed: int,
) -> tuple[tuple[bool, ...], list[Episode]]:
    """Drive a plant; an episode ends before it touches an end stop, as it does for a learner."""
    plant = MujocoPlant(robot)
    substeps = round(robot.period / plant.time_step)
    bounds = [dimension.bounds for dimension in robot.command.dimensions]
    generator = torch.Generator().manual_seed(seed)
    episodes: list[Episode] = []
    while len(episodes) < count:
        policy = make_policy(_noise(bounds, steps, generator), len(episodes))
        plant.reset()
        states, actions = [_state(robot, plant)], []
        for step in range(steps):
            wished = policy(states[-1], step)
            action = [
                max(low, min(high, value))
                for value, (low, high) in zip(wished, bounds, strict=True)
            ]
            plant.step(action, substeps)
            state = _state(robot, plant)
            if not robot.within_limits(state):
                break
            states.append(state)
            actions.append(action)
        if len(actions) >= _SHORTEST:
            episodes.append(Episode(torch.tensor(states).double(), torch.tensor(actions).double()))
    return tuple(robot.angle_mask), episodes


def _noise(bounds: list[tuple[float, float]], steps: int, generator: torch.Generator) -> Tensor:
    """Draw pink noise (steps, A) of a scale and around a middle that are drawn as well."""
    low, high = torch.tensor(bounds).T
    least, most = _SCALES
    scale = least + (most - least) * torch.rand(1, generator=generator)
    noise = coloured_noise(1.0, steps, 1, len(bounds), generator)[:, 0]
    return (low + high) / 2.0 + scale * noise * (high - low) / 2.0


def _state(robot: RobotSpec, plant: MujocoPlant) -> list[float]:
    fields = dict(zip(("position", "velocity", "effort"), plant.joint_state(), strict=True))
    joints = plant.joint_names
    return [fields[entry.field][joints.index(entry.joint)] for entry in robot.state]


# -- Gymnasium ------------------------------------------------------------------------------


def _half_cheetah(count: int, seed: int) -> tuple[tuple[bool, ...], list[Episode]]:
    """HalfCheetah-v5 as it is: 17 observations, none of which wraps, 6 actions."""
    try:
        import gymnasium
        import mujoco  # noqa: F401  (Gymnasium says less clearly that it is missing)
    except ImportError as error:
        raise BenchmarkError(
            f"task half_cheetah needs Gymnasium with MuJoCo, which cannot be imported ({error}); "
            f"install it with: {INSTALL}"
        ) from None
    environment = gymnasium.make("HalfCheetah-v5")
    steps, size = 200, 6
    generator = torch.Generator().manual_seed(seed)
    episodes = []
    for index in range(count):
        noise = _noise([(-1.0, 1.0)] * size, steps, generator).clamp(-1.0, 1.0)
        observation, _ = environment.reset(seed=seed if index == 0 else None)
        states, actions = [observation], noise.double().numpy()
        for action in actions:
            observation, *_ = environment.step(action)
            states.append(observation)
        episodes.append(Episode(torch.from_numpy(np.array(states)), torch.from_numpy(actions)))
    environment.close()
    return (False,) * len(states[0]), episodes


TASKS = {
    task.name: task
    for task in (
        Task("cartpole", _cartpole, training=30, test=10, quick_training=8, quick_test=4),
        Task("arm2", _arm2, training=30, test=10, quick_training=8, quick_test=4),
        Task("half_cheetah", _half_cheetah, training=50, test=10, quick_training=10, quick_test=4),
    )
}


# -- files ----------------------------------------------------------------------------------


def log_path(folder: Path, task: str) -> Path:
    """Return where the log of a task lies in a folder of logs."""
    return folder / f"{task}.npz"


def save_log(log: Log, path: Path) -> None:
    """Write a log as npz.

    The episodes lie behind one another, the test ones first: states (sum of T + 1, D),
    actions (sum of T, A), lengths (episodes,) the Ts, test: how many are for the test,
    angles (D,).
    """
    episodes = (*log.test, *log.training)
    np.savez_compressed(
        path,
        states=torch.cat([episode.states for episode in episodes]).numpy(),
        actions=torch.cat([episode.actions for episode in episodes]).numpy(),
        lengths=np.array([len(episode.actions) for episode in episodes]),
        test=np.array(len(log.test)),
        angles=np.array(log.angles),
    )


def load_log(path: Path, task: str) -> Log:
    """Read what `save_log` wrote.

    Raises BenchmarkError if the file cannot be read or does not hold a log.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {
                name: file[name] for name in ("states", "actions", "lengths", "test", "angles")
            }
    except (OSError, KeyError, ValueError, zipfile.BadZipFile) as error:
        raise BenchmarkError(
            f"log {path}: cannot be read: {error}; make it anew with: mbrl bench logs"
        ) from None
    lengths = [int(length) for length in arrays["lengths"].ravel()]
    test = int(arrays["test"])
    states, actions = torch.from_numpy(arrays["states"]), torch.from_numpy(arrays["actions"])
    expected = (sum(lengths) + len(lengths), sum(lengths))
    if (
        states.ndim != 2
        or actions.ndim != 2
        or (len(states), len(actions)) != expected
        or arrays["angles"].shape != (states.shape[1],)
        or not 0 < test < len(lengths)
        or not (states.isfinite().all() and actions.isfinite().all())
    ):
        raise BenchmarkError(
            f"log {path}: states {list(states.shape)}, actions {list(actions.shape)} and "
            f"{len(lengths)} episodes do not fit each other or are not finite; "
            "make it anew with: mbrl bench logs"
        )
    parts = zip(
        states.split([length + 1 for length in lengths]), actions.split(lengths), strict=True
    )
    episodes = [Episode(*part) for part in parts]
    angles = tuple(bool(angle) for angle in arrays["angles"])
    return Log(task, angles, tuple(episodes[test:]), tuple(episodes[:test]))
