# Copyright 2026 The mbrl_ros authors
# SPDX-License-Identifier: Apache-2.0
"""One learned model as the bytes of one safetensors file, and back."""

from __future__ import annotations

from dataclasses import asdict, dataclass

import safetensors.torch
from pydantic import TypeAdapter, ValidationError

from mbrl_ros.dynamics.model import DynamicsModel
from mbrl_ros.robots.spec import RobotSpec

FORMAT = "mbrl_ros.model.1"
MAX_BYTES = 16 * 1024 * 1024


class SnapshotError(ValueError):
    """Bytes that are not a usable model of this robot; the message says why."""


@dataclass(frozen=True)
class SnapshotInfo:
    """What a snapshot says about itself.

    kind, robot, state, action: must agree with the model that restores it. transitions: how
    many it was trained on. one_step_error: see `model.one_step_error`. The stamps, in
    nanoseconds of robot time, say from which tick on this model may be used, and from which
    tick on its successor may; a run in lockstep keeps to them, so that it repeats exactly.
    """

    kind: str
    robot: str
    state: str
    action: str
    transitions: int
    one_step_error: float
    effective_from: int = 0
    next_effective_from: int = 0
    format: str = FORMAT


_INFO = TypeAdapter(SnapshotInfo)


def describe(
    robot: RobotSpec,
    model: DynamicsModel,
    one_step_error: float,
    effective_from: int = 0,
    next_effective_from: int = 0,
) -> SnapshotInfo:
    """Say what a snapshot of this model of this robot says about itself."""
    return SnapshotInfo(
        kind=model.kind,
        robot=robot.name,
        state=",".join(robot.state_names),
        action=",".join(robot.action_names),
        transitions=model.transitions,
        one_step_error=one_step_error,
        effective_from=effective_from,
        next_effective_from=next_effective_from,
    )


def encode(model: DynamicsModel, info: SnapshotInfo) -> bytes:
    """Return the bytes of a safetensors file that holds the model and its description."""
    metadata = {name: str(value) for name, value in asdict(info).items()}
    tensors = {name: tensor.contiguous() for name, tensor in model.snapshot().items()}
    return safetensors.torch.save(tensors, metadata)


def decode(data: bytes, model: DynamicsModel, robot: RobotSpec) -> SnapshotInfo:
    """Restore `model` from the bytes of a snapshot.

    Raises SnapshotError, leaving `model` as it was, if they are too many, not a snapshot, of
    another robot or kind, of wrong shape, or hold values that are not finite.
    """
    if len(data) > MAX_BYTES:
        raise SnapshotError(f"snapshot has {len(data)} bytes, at most {MAX_BYTES} are accepted")
    info = _read_info(data)
    expected = describe(robot, model, 0.0)
    for name in ("format", "kind", "robot", "state", "action"):
        if getattr(info, name) != getattr(expected, name):
            raise SnapshotError(
                f"snapshot's {name} is '{getattr(info, name)}', "
                f"expected '{getattr(expected, name)}'"
            )
    if info.transitions < 0:
        raise SnapshotError(f"snapshot's transitions is {info.transitions}, expected 0 or more")
    try:
        model.restore(safetensors.torch.load(data))
    except Exception as error:
        raise SnapshotError(f"snapshot does not fit the model: {error}") from None
    model.transitions = info.transitions
    return info


def _read_info(data: bytes) -> SnapshotInfo:
    # The format: 8 bytes of header length, then JSON whose __metadata__ maps text to text.
    try:
        length = int.from_bytes(data[:8], "little")
        if len(data) < 8 or length > len(data) - 8:
            raise SnapshotError("snapshot is truncated or not a safetensors file")
        header = TypeAdapter(dict[str, object]).validate_json(data[8 : 8 + length])
        return _INFO.validate_python(header.get("__metadata__"))
    except ValidationError as error:
        problem = error.errors(include_url=False)[0]
        where = ".".join(str(part) for part in problem["loc"])
        raise SnapshotError(
            f"snapshot's description is not valid: {where}: {problem['msg']}"
        ) from None
