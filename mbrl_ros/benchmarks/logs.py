# Copyright 2026 The mbrl_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Logs of simulated robots that models are trained and judged on, and their files."""

from __future__ import annotations

import math
import zipfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import reduce
from operator import add
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mbrl_ros.dynamics.dataset import Trajectory
from mbrl_ros.dynamics.features import FeatureMap
from mbrl_ros.dynamics.model import Transitions
from mbrl_ros.errors import reason
from mbrl_ros.planning.noise import coloured_noise
from mbrl_ros.robots.spec import (
    ActionDimension,
    Command,
    Cost,
    GoalDimension,
    RobotError,
    RobotSpec,
    Sensor,
    StateDimension,
    Success,
    load_robot,
)
from mbrl_ros.sim.mujoco_plant import MujocoPlant

INSTALL = "pip install 'mbrl_ros[bench]'"
_ANEW = "make it anew with: mbrl bench logs"

_SCALES = (0.2, 0.7)  # of the random actions, as shares of half their range
_SHORTEST = 40  # steps; what an end stop cuts shorter than this is drawn again

# (state (D,), step) -> action (A,), within its bounds or not
_Policy = Callable[[list[float], int], list[float]]


class BenchmarkError(ValueError):
    """A benchmark that cannot be run as asked; the message says why and what to do."""


class MissingPackage(BenchmarkError):  # noqa: N818
    """A package that a part of a benchmark needs is not installed."""


@dataclass(frozen=True)
class Log:
    """Episodes of one robot, to learn from and, apart from them, to be judged by."""

    robot: RobotSpec
    training: tuple[Trajectory, ...]
    test: tuple[Trajectory, ...]

    @property
    def features(self) -> FeatureMap:
        """Return what models see of states and actions."""
        return FeatureMap.of(self.robot)

    def first(self, training: int, test: int) -> Log:
        """Return the log of the first so many episodes of either part."""
        return replace(self, training=self.training[:training], test=self.test[:test])


def transitions(episodes: Sequence[Trajectory]) -> Transitions:
    """Put the transitions of episodes behind one another."""
    return reduce(add, (episode.transitions() for episode in episodes))


@dataclass(frozen=True)
class Task:
    """How the log of a robot is made.

    episodes: (robot, number, seed) -> trajectories. training, test: how many there are;
    quick_training, quick_test: how many of them `--quick` uses.
    """

    name: str
    robot: Callable[[], RobotSpec]
    episodes: Callable[[RobotSpec, int, int], list[Trajectory]]
    training: int
    test: int
    quick_training: int
    quick_test: int

    def log(self, seed: int = 0) -> Log:
        """Make the log of this seed; the same seed gives the same log.

        Raises MissingPackage if the simulator cannot be imported.
        """
        robot = self.robot()
        try:
            episodes = self.episodes(robot, self.training + self.test, seed)
        except RobotError as error:  # our robots are fine, so it is MuJoCo that is missing
            raise MissingPackage(str(error)) from None
        return Log(robot, tuple(episodes[self.test :]), tuple(episodes[: self.test]))


# -- robots of this package -----------------------------------------------------------------


def _cartpole(robot: RobotSpec, count: int, seed: int) -> list[Trajectory]:
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

    return _simulated(robot, policy, count, 100, seed)


def _arm2(robot: RobotSpec, count: int, seed: int) -> list[Trajectory]:
    def policy(noise: Tensor, index: int) -> _Policy:
        def act(state: list[float], step: int) -> list[float]:
            # A weak spring keeps the elbow off its end stops.
            return [float(noise[step, 0]), float(noise[step, 1]) - 0.3 * state[1]]

        return act

    return _simulated(robot, policy, count, 100, seed)


def _simulated(
    robot: RobotSpec,
    make_policy: Callable[[Tensor, int], _Policy],
    count: int,
    steps: int,
    seed: int,
) -> list[Trajectory]:
    """Drive a plant; an episode ends before it touches an end stop, as it does for a learner."""
    plant = MujocoPlant(robot)
    substeps = round(robot.period / plant.time_step)
    bounds = [dimension.bounds for dimension in robot.command.dimensions]
    generator = torch.Generator().manual_seed(seed)
    episodes: list[Trajectory] = []
    while len(episodes) < count:
        policy = make_policy(excitation(bounds, steps, generator), len(episodes))
        plant.reset()
        states: list[list[float]] = [_state(robot, plant)]
        actions: list[list[float]] = []
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
            episodes.append(
                make_episode(robot, torch.tensor(states).double(), torch.tensor(actions).double())
            )
    return episodes


def make_episode(robot: RobotSpec, states: Tensor, actions: Tensor) -> Trajectory:
    """Make a trajectory of states (T + 1, D) and actions (T, A) that begins at time zero."""
    stamps = torch.arange(len(states)) * robot.period_nanoseconds
    return Trajectory(stamps, states, actions, actions.new_zeros(len(actions), 0))


def excitation(
    bounds: list[tuple[float, float]], steps: int, generator: torch.Generator
) -> Tensor:
    """Draw pink noise (steps, A) of a scale and around a middle that are drawn as well."""
    low, high = torch.tensor(bounds).T
    least, most = _SCALES
    scale = least + (most - least) * torch.rand(1, generator=generator)
    noise = coloured_noise(1.0, steps, 1, len(bounds), generator)[:, 0]
    return (low + high) / 2.0 + scale * noise * (high - low) / 2.0


def _state(robot: RobotSpec, plant: MujocoPlant) -> list[float]:
    (values,) = plant.readings().values()
    return [values[entry.key] for entry in robot.state]


# -- Gymnasium ------------------------------------------------------------------------------


# Of HalfCheetah-v5, in the order of its observations and actions.
_CHEETAH_PLACES = ("height", "pitch", "bthigh", "bshin", "bfoot", "fthigh", "fshin", "ffoot")
_CHEETAH_RATES = ("forward_velocity", *(f"{place}_velocity" for place in _CHEETAH_PLACES))
_CHEETAH_MOTORS = _CHEETAH_PLACES[2:]


def _half_cheetah_robot() -> RobotSpec:
    """HalfCheetah-v5 as it is: 17 observations, none of which wraps, 6 actions in [-1, 1]."""
    places = [
        StateDimension(name, "m" if name == "height" else "rad", "joint_states", name, "position")
        for name in _CHEETAH_PLACES
    ]
    rates = [
        StateDimension(name, "m/s" if i < 2 else "rad/s", "joint_states", name, "velocity")
        for i, name in enumerate(_CHEETAH_RATES)
    ]
    motors = [ActionDimension(f"{name}_motor", "1", (-1.0, 1.0)) for name in _CHEETAH_MOTORS]
    return RobotSpec(
        name="half_cheetah",
        control_rate=20.0,
        sensors={"joint_states": Sensor("sensor_msgs/msg/JointState")},
        state=(*places, *rates),
        command=Command("commands", "std_msgs/msg/Float64MultiArray", tuple(motors)),
        goal=(GoalDimension("forward_velocity", (0.0, 10.0), 0.5),),
        cost=Cost(goal={"forward_velocity": 1.0}),
        success=Success(2.0, "forward_velocity", 0.5),
    )


def half_cheetah_environment() -> Any:
    """Make HalfCheetah-v5; raises MissingPackage if that cannot be."""
    try:
        import gymnasium
        import mujoco
    except ImportError as error:
        raise MissingPackage(
            f"it needs Gymnasium and MuJoCo, which cannot be imported ({error}); "
            f"install them with: {INSTALL}"
        ) from None
    # MuJoCo would write a log file about an attribute in Gymnasium's model.
    before = mujoco.get_mju_user_warning()
    mujoco.set_mju_user_warning(lambda message: None)
    environment = gymnasium.make("HalfCheetah-v5")
    mujoco.set_mju_user_warning(before)
    return environment


def _half_cheetah(robot: RobotSpec, count: int, seed: int) -> list[Trajectory]:
    environment = half_cheetah_environment()
    steps = 200
    bounds = [dimension.bounds for dimension in robot.command.dimensions]
    generator = torch.Generator().manual_seed(seed)
    episodes = []
    for index in range(count):
        actions = excitation(bounds, steps, generator).clamp(-1.0, 1.0).double()
        observation, _ = environment.reset(seed=seed if index == 0 else None)
        states = [observation]
        for action in actions.numpy():
            observation, *_ = environment.step(action)
            states.append(observation)
        episodes.append(make_episode(robot, torch.from_numpy(np.array(states)), actions))
    environment.close()
    return episodes


TASKS = {
    task.name: task
    for task in (
        Task("cartpole", lambda: load_robot("cartpole"), _cartpole, 30, 10, 8, 4),
        Task("arm2", lambda: load_robot("arm2"), _arm2, 30, 10, 8, 4),
        Task("half_cheetah", _half_cheetah_robot, _half_cheetah, 50, 10, 6, 3),
    )
}


# -- files ----------------------------------------------------------------------------------


def log_path(folder: Path, task: str) -> Path:
    """Return where the log of a task lies in a folder of logs."""
    return folder / f"{task}.npz"


def write_logs(folder: Path, tasks: Sequence[str], seed: int, say: Callable[[str], None]) -> None:
    """Make the logs of the tasks and write them into a folder.

    say: told what was written. Raises BenchmarkError for an unknown task, a missing package or
    a folder that cannot be written.
    """
    check_names("task", tasks, TASKS)
    for task in tasks:
        log, path = TASKS[task].log(seed), log_path(folder, task)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            save_log(log, path)
        except OSError as error:
            raise BenchmarkError(f"log {path}: cannot be written: {reason(error)}") from None
        training, test = sum(map(len, log.training)), sum(map(len, log.test))
        say(f"{path}: {training} transitions to train on, {test} to test on")


def check_names(what: str, names: Iterable[str], known: Iterable[str]) -> None:
    """Raise BenchmarkError for a name that is not known."""
    for name in names:
        if name not in known:
            raise BenchmarkError(f"unknown {what} '{name}'; expected one of {', '.join(known)}")


def save_log(log: Log, path: Path) -> None:
    """Write a log as npz.

    The episodes lie behind one another, those for the test first: states (sum of T + 1, D),
    actions (sum of T, A), lengths (episodes,) the Ts, test () how many are for the test.
    """
    episodes = (*log.test, *log.training)
    np.savez_compressed(
        path,
        states=torch.cat([episode.states for episode in episodes]).numpy(),
        actions=torch.cat([episode.actions for episode in episodes]).numpy(),
        lengths=np.array([len(episode) for episode in episodes]),
        test=np.array(len(log.test)),
    )


def load_log(path: Path, robot: RobotSpec) -> Log:
    """Read what `save_log` wrote.

    Raises BenchmarkError if the file cannot be read or does not hold a log of this robot.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in ("states", "actions", "lengths", "test")}
        states = torch.from_numpy(arrays["states"].astype(np.float64))
        actions = torch.from_numpy(arrays["actions"].astype(np.float64))
        lengths = [int(length) for length in arrays["lengths"].ravel()]
        test = int(arrays["test"])
    except (OSError, EOFError, KeyError, TypeError, ValueError, zipfile.BadZipFile) as error:
        raise BenchmarkError(f"log {path}: cannot be read: {reason(error)}; {_ANEW}") from None
    steps, sizes = sum(lengths), (len(robot.state), len(robot.action_names))
    expected = ((steps + len(lengths), sizes[0]), (steps, sizes[1]))
    if (states.shape, actions.shape) != expected or min(lengths, default=0) < 1:
        raise BenchmarkError(
            f"log {path}: states {tuple(states.shape)} and actions {tuple(actions.shape)}, "
            f"expected {expected[0]} and {expected[1]} for {len(lengths)} episodes of "
            f"{robot.name}; {_ANEW}"
        )
    if not 0 < test < len(lengths):
        raise BenchmarkError(
            f"log {path}: {test} episodes for the test, expected 1 to {len(lengths) - 1}; {_ANEW}"
        )
    if not (states.isfinite().all() and actions.isfinite().all()):
        raise BenchmarkError(f"log {path}: holds a value that is not finite; {_ANEW}")
    parts = zip(
        states.split([length + 1 for length in lengths]), actions.split(lengths), strict=True
    )
    episodes = [make_episode(robot, *part) for part in parts]
    return Log(robot, tuple(episodes[test:]), tuple(episodes[:test]))
