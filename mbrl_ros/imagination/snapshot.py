# Copyright 2026 The mbrl_ros authors
# SPDX-License-Identifier: Apache-2.0
"""One policy as the bytes of one safetensors file, and back; by the rules of models' snapshots."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Protocol

import safetensors.torch
from pydantic import ConfigDict, Field, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass
from torch import Tensor

import mbrl_ros
from mbrl_ros.dynamics.snapshot import IsoTime, Natural, SnapshotError, Text, pack, unseal
from mbrl_ros.imagination.policy import Policy
from mbrl_ros.kinds import POLICIES
from mbrl_ros.planning.guide import PolicyGuide
from mbrl_ros.robots.spec import RobotSpec

FORMAT = "mbrl_ros.policy.2"


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class PolicyInfo:
    """What a policy's snapshot says about itself.

    kind: its name in the registry. robot, control_rate (Hz), state, action (names, by commas):
    must agree with the robot that it is to move. goal: what it was trained to reach, by commas; a
    policy keeps its goal for good.
    reward_scale: it was trained on rewards of - reward_scale x stage cost.
    steps: real ones that it learned from. updates: how many it had; 0: it knows nothing, and only
    announces that there is a learner. discount: of its values. temperature: what a nat of entropy
    is worth in them. generation: how many the learner has taken into use so far, with this one.
    effective_from, next_effective_from: see SnapshotInfo.
    version: of the package that wrote it.
    """

    kind: Text
    robot: Text
    control_rate: Annotated[float, Field(gt=0.0, allow_inf_nan=False)]
    state: Text
    action: Text
    goal: Text
    reward_scale: Annotated[float, Field(gt=0.0, allow_inf_nan=False)]
    steps: Natural
    updates: Natural
    discount: Annotated[float, Field(ge=0.0, le=1.0)]
    temperature: Annotated[float, Field(gt=0.0, allow_inf_nan=False)]
    generation: Natural
    effective_from: Natural
    next_effective_from: Natural
    created_at: IsoTime
    version: Text
    format: Text


class Trained(Protocol):
    """What trains a policy, as far as its snapshot tells of it; see PolicyInfo."""

    discount: float

    @property
    def updates(self) -> int:
        """How many updates the policy has had."""

    @property
    def temperature(self) -> float:
        """What a nat of entropy is worth in the policy's values."""


class Kept(Protocol):
    """A policy, as far as a file is concerned."""

    def snapshot(self) -> dict[str, Tensor]:
        """Return all that it is made of."""


_INFO = TypeAdapter(PolicyInfo)
_AGREE = ("robot", "control_rate", "state", "action")


def describe(
    robot: RobotSpec,
    learner: Trained,
    goal: Sequence[float] = (),
    steps: int = 0,
    reward_scale: float = 1.0,
    kind: str = "sac",
    generation: int = 0,
) -> PolicyInfo:
    """Say what a snapshot of this learner's policy says about itself; see PolicyInfo."""
    return PolicyInfo(
        kind=kind,
        robot=robot.name,
        control_rate=robot.control_rate,
        state=",".join(robot.state_names),
        action=",".join(robot.action_names),
        goal=",".join(repr(float(value)) for value in goal),
        reward_scale=reward_scale,
        steps=steps,
        updates=learner.updates,
        discount=learner.discount,
        temperature=learner.temperature,
        generation=generation,
        effective_from=0,
        next_effective_from=0,
        created_at=datetime.now(UTC).isoformat(timespec="seconds"),
        version=mbrl_ros.__version__,
        format=FORMAT,
    )


def encode(policy: Kept, info: PolicyInfo) -> bytes:
    """Return the bytes of a safetensors file that holds the policy and its description."""
    return pack(
        policy.snapshot(), {field.name: str(getattr(info, field.name)) for field in fields(info)}
    )


def decode(data: bytes, robot: RobotSpec) -> tuple[Policy, PolicyInfo]:
    """Return the policy that the bytes of a snapshot hold, and what it says about itself.

    Raises SnapshotError if they are too many, not a policy, damaged, of an unknown kind, another
    robot, other action bounds or a goal that this robot cannot have, of wrong shape, or hold
    values that are not finite.
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
    try:
        goal = goal_of(info)
        unusable = robot.check_goal(goal) if goal else None
        if unusable is not None:
            raise ValueError(unusable)
        policy: Policy = POLICIES.load(info.kind).new_policy(robot)
        policy.restore(safetensors.torch.load(data))
    except Exception as error:
        raise SnapshotError(f"policy does not fit the robot: {error}") from None
    return policy, info


def guide_of(policy: Policy, info: PolicyInfo) -> PolicyGuide:
    """Return the guide for planners that a policy is, with what its snapshot says."""
    return PolicyGuide(policy, info.reward_scale, tuple(goal_of(info)) or None)


def goal_of(info: PolicyInfo) -> list[float]:
    """Return the goal (G,) that a policy was trained for; empty: it was trained for none.

    Raises ValueError if it is not a list of numbers.
    """
    return [float(value) for value in info.goal.split(",")] if info.goal else []


def load(path: Path, robot: RobotSpec) -> tuple[Policy, PolicyInfo]:
    """Return the policy that a file holds; see `decode`. Raises OSError if it can't be read."""
    try:
        return decode(path.read_bytes(), robot)
    except SnapshotError as error:
        raise SnapshotError(f"{path}: {error}") from None
