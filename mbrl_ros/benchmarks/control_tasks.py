# Copyright 2026 The mbrl_ros authors
# SPDX-License-Identifier: Apache-2.0
"""What robots are to do in the benchmark of planners, and where the models' logs come from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from mbrl_ros.benchmarks import logs
from mbrl_ros.benchmarks.plants import Arm, CartPole, DiffDrive, HalfCheetah, TrueDynamics
from mbrl_ros.dynamics.dataset import Trajectory
from mbrl_ros.robots.spec import (
    ActionDimension,
    Command,
    Cost,
    GoalDimension,
    Obstacle,
    RobotSpec,
    Sensor,
    StateDimension,
    Success,
    load_robot,
)


@dataclass(frozen=True)
class ControlTask:
    """One episode of a robot, and how its dynamics are learned.

    true: makes the plant. log: what models learn from. learned: kind of model that suits the
    robot. start (D,), spread: mean and standard deviation of the state that an episode starts
    from. goal (G,) in force throughout. steps: of an episode. horizon: of plans, in steps.
    budgets: trajectories that a plan of the planners that sample may evaluate, in all.
    """

    name: str
    robot: Callable[[], RobotSpec]
    true: Callable[[RobotSpec], TrueDynamics]
    log: logs.Task
    learned: str
    start: tuple[float, ...]
    spread: float
    goal: tuple[float, ...]
    steps: int
    horizon: int
    budgets: tuple[int, ...]


# -- differential drive -----------------------------------------------------------------------

_PLANE = ("x", "y")


def _diff_drive() -> RobotSpec:
    """Describe a differential drive that is to go three metres, around two pillars and a box."""

    def state(name: str, field: str, unit: str, angle: bool = False) -> StateDimension:
        return StateDimension(name, unit, "joint_states", name, field, angle=angle)

    def pillar(x: float, y: float, radius: float) -> Obstacle:
        return Obstacle("circle", _PLANE, (x, y), weight=200.0, margin=0.3, radius=radius)

    return RobotSpec(
        name="diff_drive",
        control_rate=10.0,
        sensors={"joint_states": Sensor("sensor_msgs/msg/JointState")},
        state=(
            state("x", "position", "m"),
            state("y", "position", "m"),
            state("yaw", "position", "rad", angle=True),
            state("speed", "velocity", "m/s"),
            state("turn_rate", "velocity", "rad/s"),
        ),
        command=Command(
            "commands",
            "std_msgs/msg/Float64MultiArray",
            (
                ActionDimension("speed_command", "m/s", (-0.5, 1.0)),
                ActionDimension("turn_command", "rad/s", (-2.0, 2.0)),
            ),
        ),
        goal=(
            GoalDimension("x", (-5.0, 5.0), 0.1, 3.0),
            GoalDimension("y", (-5.0, 5.0), 0.1),
        ),
        cost=Cost(
            goal={"x": 1.0, "y": 1.0},
            effort={"speed_command": 0.02, "turn_command": 0.02},
            rate={"speed_command": 0.1, "turn_command": 0.02},
            obstacles=(
                pillar(1.1, 0.05, 0.35),
                pillar(2.0, -0.6, 0.3),
                Obstacle("box", _PLANE, (2.0, 0.7), weight=200.0, margin=0.3, size=(0.5, 0.4)),
            ),
        ),
        success=Success(1.0, "x", 0.1),
    )


def _drives(robot: RobotSpec, count: int, seed: int) -> list[Trajectory]:
    """Drive about at random."""
    plant, generator = DiffDrive(robot), torch.Generator().manual_seed(seed)
    bounds = [dimension.bounds for dimension in robot.command.dimensions]
    low, high = torch.tensor(bounds).T
    episodes = []
    for _ in range(count):
        actions = torch.clamp(logs.excitation(bounds, 60, generator), low, high).double()
        start = torch.randn(1, len(robot.state), generator=generator).double()
        start = start * torch.tensor([1.0, 1.0, 2.0, 0.0, 0.0])
        states = plant.rollout(start, actions[:, None])[:, 0]
        episodes.append(logs.make_episode(robot, states, actions))
    return episodes


# -- HalfCheetah ------------------------------------------------------------------------------


def _running_cheetah() -> RobotSpec:
    """Return HalfCheetah-v5; its cost is the negative of the environment's reward.

    But for one thing: the velocity is that at the end of each step, not the mean over it.
    """
    robot = logs.TASKS["half_cheetah"].robot()
    effort = dict.fromkeys(robot.action_names, 0.1)
    terms = {"linear": {"forward_velocity": -1.0}}
    return replace(robot, cost=Cost(goal={}, effort=effort, terms=terms))


_BUDGETS = (60, 200, 600)
_SMOOTH_BUDGETS = (*_BUDGETS, 1800)  # as long as iLQR takes to polish
TASKS = {
    task.name: task
    for task in (
        ControlTask(
            "cartpole",
            lambda: load_robot("cartpole"),
            CartPole,
            logs.TASKS["cartpole"],
            "gp",
            start=(0.0, 0.0, torch.pi, 0.0),
            spread=0.02,
            goal=(0.0, 0.0),
            steps=100,
            horizon=25,
            budgets=_SMOOTH_BUDGETS,
        ),
        ControlTask(
            "arm2",
            lambda: load_robot("arm2"),
            Arm,
            logs.TASKS["arm2"],
            "gp",
            start=(0.0, 0.0, 0.0, 0.0),
            spread=0.05,
            goal=(1.5, 1.0),
            steps=50,
            horizon=25,
            budgets=_SMOOTH_BUDGETS,
        ),
        ControlTask(
            "diff_drive",
            _diff_drive,
            DiffDrive,
            logs.Task("diff_drive", _diff_drive, _drives, 20, 5, 8, 2),
            "gp",
            start=(0.0, 0.0, 0.0, 0.0, 0.0),
            spread=0.03,
            goal=(3.0, 0.0),
            steps=70,
            horizon=25,
            budgets=_BUDGETS,
        ),
        ControlTask(
            "half_cheetah",
            _running_cheetah,
            HalfCheetah,
            logs.TASKS["half_cheetah"],
            "ensemble",
            start=(0.0,) * 17,
            spread=0.05,
            goal=(0.0,),
            steps=50,
            horizon=20,
            budgets=(30, 100, 300),
        ),
    )
}


def start_of(task: ControlTask, seed: int) -> Tensor:
    """Return the state (D,) that episode `seed` starts from, float64."""
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(len(task.start), generator=generator, dtype=torch.float64)
    return torch.tensor(task.start, dtype=torch.float64) + task.spread * noise
