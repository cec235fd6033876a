# Copyright 2026 The mbrl_ros authors
# SPDX-License-Identifier: Apache-2.0
"""One learned model as the bytes of one safetensors file, and back."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import safetensors.torch
from pydantic import AfterValidator, ConfigDict, Field, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass
from torch import Tensor

import mbrl_ros
from mbrl_ros.dynamics.model import DynamicsModel, make_model
from mbrl_ros.errors import reason
from mbrl_ros.robots.spec import RobotSpec, load_robot, robot_names

FORMAT = "mbrl_ros.model.2"
MAX_BYTES = 16 * 1024 * 1024

_CHECKSUM = "checksum"
_UNSET = "0" * 64  # stands in the file while its SHA-256 is taken


class SnapshotError(ValueError):
    """Bytes that are not a usable model of this robot; the message says why."""


def _not_negative(value: float) -> float:
    if value < 0.0:
        raise ValueError("expected a number >= 0, or nan for: not known")
    return value


def _iso_time(text: str) -> str:
    # pydantic's own would take a bare number for seconds since 1970.
    if datetime.fromisoformat(text).tzinfo is None:
        raise ValueError("expected an ISO 8601 time with its offset from UTC")
    return text


Text = Annotated[str, Field(max_length=10_000)]
Natural = Annotated[int, Field(ge=0)]
IsoTime = Annotated[str, Field(max_length=100), AfterValidator(_iso_time)]
Error = Annotated[float, AfterValidator(_not_negative)]


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class SnapshotInfo:
    """What a snapshot says about itself.

    kind, robot, control_rate (Hz), state, action (names, by commas), reward (whether the model
    predicts one), left_out (names of state dimensions that are no inputs of it): must agree with
    the model that restores it.
    transitions: how many it was trained on. one_step_error: see `model.one_step_error`, of data
    that it was not trained on; nan if not known. data: where they came from. training_seconds:
    how long it was trained. The stamps, in nanoseconds of robot time, say from which tick on
    this model may be used, and from which tick on its successor may; a run in lockstep keeps
    to them, so that it repeats exactly. version: of the package that wrote it. delay: seconds
    from when a command is sent to when it is in force, under which the data were paired.
    widening: see `DynamicsModel`.
    """

    kind: Text
    robot: Text
    control_rate: Annotated[float, Field(gt=0.0, allow_inf_nan=False)]
    state: Text
    action: Text
    reward: bool
    transitions: Natural
    one_step_error: Error
    data: Text
    training_seconds: Annotated[float, Field(ge=0.0, allow_inf_nan=False)]
    effective_from: Natural
    next_effective_from: Natural
    created_at: IsoTime
    version: Text
    format: Text
    delay: Annotated[float, Field(ge=0.0, allow_inf_nan=False)]
    widening: Annotated[float, Field(ge=1.0, allow_inf_nan=False)]
    left_out: Text = ""


_INFO = TypeAdapter(SnapshotInfo)
_HEADER = TypeAdapter(dict[str, object])
_METADATA = TypeAdapter(dict[str, str])


def describe(
    robot: RobotSpec,
    model: DynamicsModel,
    one_step_error: float,
    effective_from: int = 0,
    next_effective_from: int = 0,
    training_seconds: float = 0.0,
    data: str = "live",
    delay: float = 0.0,
    widening: float = 1.0,
) -> SnapshotInfo:
    """Say what a snapshot of this model of this robot says about itself."""
    return SnapshotInfo(
        kind=model.kind,
        robot=robot.name,
        control_rate=robot.control_rate,
        state=",".join(robot.state_names),
        action=",".join(robot.action_names),
        reward=robot.reward is not None,
        transitions=model.transitions,
        one_step_error=one_step_error,
        data=data,
        training_seconds=training_seconds,
        effective_from=effective_from,
        next_effective_from=next_effective_from,
        created_at=datetime.now(UTC).isoformat(timespec="seconds"),
        version=mbrl_ros.__version__,
        format=FORMAT,
        delay=delay,
        widening=widening,
        left_out=_left_out(robot),
    )


def _left_out(robot: RobotSpec) -> str:
    return ",".join(dimension.name for dimension in robot.state if not dimension.model_input)


def encode(model: DynamicsModel, info: SnapshotInfo) -> bytes:
    """Return the bytes of a safetensors file that holds the model and its description."""
    return pack(
        model.snapshot(), {field.name: str(getattr(info, field.name)) for field in fields(info)}
    )


def pack(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> bytes:
    """Return the bytes of a safetensors file, sealed by a checksum in its metadata.

    It is the SHA-256 of the whole file with 64 zeros in its place, so that it covers every
    byte: a header that was damaged but still parses is refused as well as damaged values.
    """
    data = safetensors.torch.save(
        {name: tensor.contiguous() for name, tensor in tensors.items()},
        {**metadata, _CHECKSUM: _UNSET},
    )
    found = _entry(_UNSET)
    return data.replace(found, _entry(hashlib.sha256(data).hexdigest()), 1)


def decode(data: bytes, model: DynamicsModel, robot: RobotSpec) -> SnapshotInfo:
    """Restore `model` from the bytes of a snapshot.

    Raises SnapshotError, leaving `model` as it was, if they are too many, not a snapshot,
    damaged, of another robot or kind, of wrong shape, or hold values that are not finite.
    """
    info = read_info(data)
    check(info, model.kind, robot)
    try:
        model.restore(safetensors.torch.load(data))
    except Exception as error:
        raise SnapshotError(f"snapshot does not fit the model: {error}") from None
    model.transitions, model.widening = info.transitions, info.widening
    return info


def check(info: SnapshotInfo, kind: str, robot: RobotSpec) -> None:
    """Raise SnapshotError if a snapshot is not of this kind of model or of this robot."""
    expected = {
        "kind": kind,
        "robot": robot.name,
        "control_rate": robot.control_rate,
        "state": ",".join(robot.state_names),
        "action": ",".join(robot.action_names),
        "reward": robot.reward is not None,
    }
    if info.left_out != _left_out(robot):
        raise SnapshotError(
            f"the snapshot has model_input: false for [{info.left_out}], the robot's file for "
            f"[{_left_out(robot)}]; expected the same"
        )
    for name, value in expected.items():
        if getattr(info, name) != value:
            raise SnapshotError(
                f"snapshot's {name} is '{getattr(info, name)}', expected '{value}'"
            )


def read_info(data: bytes) -> SnapshotInfo:
    """Return what the bytes of a snapshot say about it.

    Raises SnapshotError if they are too many, not a snapshot, damaged, or if what they say is
    not complete and valid.
    """
    try:
        return _INFO.validate_strings(unseal(data, FORMAT))
    except ValidationError as error:
        raise _invalid(error) from None


def unseal(data: bytes, expected: str) -> dict[str, str]:
    """Return the metadata of a file that `pack` made, without the checksum.

    Raises SnapshotError if the bytes are too many, no such file, of a format other than the
    expected, or damaged.
    """
    if len(data) > MAX_BYTES:
        raise SnapshotError(f"snapshot has {len(data)} bytes, at most {MAX_BYTES} are accepted")
    # The format: 8 bytes of header length, then JSON whose __metadata__ maps text to text.
    length = int.from_bytes(data[:8], "little")
    if len(data) < 8 or length > len(data) - 8:
        raise SnapshotError("snapshot is truncated or not a safetensors file")
    try:
        header = _HEADER.validate_json(data[8 : 8 + length])
        metadata = _METADATA.validate_python(header.get("__metadata__"))
    except ValidationError as error:
        raise _invalid(error) from None
    if metadata.get("format") != expected:
        raise SnapshotError(
            f"snapshot's format is '{metadata.get('format')}', expected '{expected}'"
        )
    checksum = metadata.pop(_CHECKSUM, "")
    blank = data.replace(_entry(checksum), _entry(_UNSET), 1)
    if hashlib.sha256(blank).hexdigest() != checksum:
        raise SnapshotError("snapshot is damaged: its checksum does not match")
    return metadata


def _invalid(error: ValidationError) -> SnapshotError:
    problem = error.errors(include_url=False)[0]
    where = "".join(f"{part}: " for part in problem["loc"])
    return SnapshotError(f"snapshot's description is not valid: {where}{problem['msg']}")


def load(path: Path, robot: str | None = None) -> tuple[DynamicsModel, RobotSpec]:
    """Return the model that a file holds, and its robot.

    robot: name or YAML file; None: the shipped one that the snapshot names. Raises OSError if
    the file cannot be read, ValueError, saying why, if it or the robot cannot be used.
    """
    data = path.read_bytes()
    try:
        info = read_info(data)
        if robot is None and info.robot not in robot_names():
            raise SnapshotError(
                f"snapshot is of robot '{info.robot}', which is not one of the shipped ones "
                f"({', '.join(robot_names())}); give its YAML file with --robot"
            )
        spec = load_robot(robot or info.robot)
        model = make_model(info.kind, spec)
        decode(data, model, spec)
    except SnapshotError as error:
        raise SnapshotError(f"{path}: {error}") from None
    return model, spec


def write(path: Path, data: bytes) -> None:
    """Write a snapshot to a file: all of it or, when that fails, nothing.

    Raises OSError if it cannot be written, SnapshotError if it could not be read again.
    """
    if len(data) > MAX_BYTES:
        raise SnapshotError(f"snapshot has {len(data)} bytes, at most {MAX_BYTES} are accepted")
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_bytes(data)
    temporary.replace(path)


def write_new(path: Path, data: bytes) -> Path:
    """Write a snapshot to the path, or with the first number behind its name that is free.

    Returns where it was written; raises as `write` does.
    """
    number, free = 1, path
    while free.exists():
        number += 1
        free = path.with_stem(f"{path.stem}-{number}")
    write(free, data)
    return free


def saved(path: Path, data: bytes, nothing: str) -> tuple[bool, str]:
    """Write a snapshot as `write_new`; return whether that went well, and where to or why not.

    nothing: why there is nothing to write where data are empty.
    """
    try:
        if not data:
            raise OSError(nothing)
        return True, str(write_new(path, data))
    except OSError as error:
        return False, f"{path}: {reason(error)}"


def _entry(checksum: str) -> bytes:
    """Return how the checksum stands in the header."""
    return f'"{_CHECKSUM}":"{checksum}"'.encode()
