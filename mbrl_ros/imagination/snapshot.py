# Copyright 2026 The mbrl_ros authors
# SPDX-License-Identifier: Apache-2.0
"""One policy as the bytes of one safetensors file, and back; by the rules of models' snapshots."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import safetensors.torch
from pydantic import ConfigDict, Field, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

import mbrl_ros
from mbrl_ros.dynamics.snapshot import IsoTime, Natural, SnapshotError, Text, pack, unseal
from mbrl_ros.imagination.policy import Policy
from mbrl_ros.imagination.sac import SAC
from mbrl_ros.planning.guide import PolicyGuide
from mbrl_ros.robots.spec import RobotSpec

FORMAT = "mbrl_ros.policy.1"


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class PolicyInfo:
    """What a policy's snapshot says about itself.

    robot, control_rate (Hz), state, action (names, by commas): must agree with the robot that it
    is to move. goal: what it was trained to reach, by commas; a policy keeps its goal for good.
    reward_scale: it was trained on rewards of - reward_scale x stage cost.
    steps: real ones that it learned from. updates: how many it had. discount: of its values.
    version: of the package that wrote it.
    """

    robot: Text
    control_rate: Annotated[float, Field(gt=0.0, allow_inf_nan=False)]
    state: Text
    action: Text
    goal: Text
    reward_scale: Annotated[float, Field(gt=0.0, allow_inf_nan=False)]
    steps: Natural
    updates: Natural
    discount: Annotated[float, Field(ge=0.0, le=1.0)]
    created_at: IsoTime
    version: Text
    format: Text


_INFO = TypeAdapter(PolicyInfo)
_AGREE = ("robot", "control_rate", "state", "action")


def describe(
    robot: RobotSpec,
    learner: SAC,
    goal: Sequence[float] = (),
    steps: int = 0,
    reward_scale: float = 1.0,
) -> PolicyInfo:
    """Say what a snapshot of this learner's policy says about itself; see PolicyInfo."""
    return PolicyInfo(
        robot=robot.name,
        control_rate=robot.control_rate,
        state=",".join(robot.state_names),
        action=",".join(robot.action_names),
        goal=",".join(repr(float(value)) for value in goal),
        reward_scale=reward_scale,
        steps=steps,
        updates=learner.updates,
        discount=learner.discount,
        created_at=datetime.now(UTC).isoformat(timespec="seconds"),
        version=mbrl_ros.__version__,
        format=FORMAT,
    )


def encode(policy: Policy, info: PolicyInfo) -> bytes:
    """Return the bytes of a safetensors file that holds the policy and its description."""
    return pack(
        policy.snapshot(), {field.name: str(getattr(info, field.name)) for field in fields(info)}
    )


def decode(data: bytes, robot: RobotSpec) -> tuple[Policy, PolicyInfo]:
    """Return the policy that the bytes of a snapshot hold, and what it says about itself.

    Raises SnapshotError if they are too many, not a policy, damaged, of another robot or other
    action bounds, of wrong shape, or hold values that are not finite.
    """
    try:
        info = _INFO.validate_strings(unseal(data, FORMAT))
    except ValidationError as error:
        problem = error.errors(include_url=False)[0]
        where = "".join(f"{part}: " for part in problem["loc"])
        raise SnapshotError(
            f"policy's description is not valid: {where}{problem['msg']}"
        ) from None
    expected = {
        "robot": robot.name,
        "control_rate": robot.control_rate,
        "state": ",".join(robot.state_names),
        "action": ",".join(robot.action_names),
    }
    for name in _AGREE:
        if getattr(info, name) != expected[name]:
            raise SnapshotError(
                f"policy's {name} is '{getattr(info, name)}', expected '{expected[name]}'"
            )
    policy = new_policy(robot)
    try:
        policy.restore(safetensors.torch.load(data))
    except Exception as error:
        raise SnapshotError(f"policy does not fit the robot: {error}") from None
    return policy, info


def guide_of(policy: Policy, info: PolicyInfo) -> PolicyGuide:
    """Return the guide for planners that a policy is, with what its snapshot says.

    Raises ValueError if the goal that it states is not a list of numbers.
    """
    goal = tuple(float(value) for value in info.goal.split(",")) if info.goal else None
    return PolicyGuide(policy, info.reward_scale, goal)


def new_policy(robot: RobotSpec) -> Policy:
    """Return a policy for a robot that knows nothing yet."""
    lower, upper = zip(*(d.bounds for d in robot.command.dimensions), strict=True)
    return Policy(robot.angle_mask, lower, upper)


def load(path: Path, robot: RobotSpec) -> tuple[Policy, PolicyInfo]:
    """Return the policy that a file holds; see `decode`. Raises OSError if it can't be read."""
    try:
        return decode(path.read_bytes(), robot)
    except SnapshotError as error:
        raise SnapshotError(f"{path}: {error}") from None
