# Copyright 2026 The mbrl_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Damage a snapshot in many ways; none may be accepted, nor change the model that refuses it.

python bench/fuzz_snapshots.py --cases 10000 --kind gp
"""

from __future__ import annotations

import json
import random
import sys
from argparse import ArgumentParser
from collections import Counter
from collections.abc import Callable

import safetensors.torch
import torch
from rich.console import Console
from rich.progress import track

from mbrl_ros.dynamics.model import DynamicsModel, Transitions, make_model
from mbrl_ros.dynamics.snapshot import SnapshotError, decode, describe, encode, pack
from mbrl_ros.kinds import MODELS
from mbrl_ros.robots import RobotSpec, load_robot

Damage = Callable[[bytes, random.Random], bytes]


def experience(robot: RobotSpec, count: int, seed: int) -> Transitions:
    """Return made-up but learnable steps."""
    generator = torch.Generator().manual_seed(seed)
    sizes = (len(robot.state), len(robot.command.dimensions))
    states, actions = (
        torch.randn(count, size, generator=generator, dtype=torch.float64) for size in sizes
    )
    rewards = states[:, : int(robot.reward is not None)]
    change = 0.1 * torch.cos(states) * actions.sum(-1, keepdim=True)
    return Transitions(states, actions, states + change, rewards)


# -- bytes that are not the ones that were written -------------------------------------------


def random_bytes(data: bytes, generator: random.Random) -> bytes:
    return generator.randbytes(generator.randrange(2 * len(data)))


def truncated(data: bytes, generator: random.Random) -> bytes:
    return data[: generator.randrange(len(data))]


def bits_flipped(data: bytes, generator: random.Random) -> bytes:
    damaged = bytearray(data)
    for position in generator.sample(range(len(data)), generator.choice((1, 1, 1, 2, 8))):
        damaged[position] ^= 1 << generator.randrange(8)
    return bytes(damaged)


def header_bits_flipped(data: bytes, generator: random.Random) -> bytes:
    length = 8 + int.from_bytes(data[:8], "little")
    return bits_flipped(data[:length], generator) + data[length:]


def bytes_inserted(data: bytes, generator: random.Random) -> bytes:
    position = generator.randrange(len(data) + 1)
    return data[:position] + generator.randbytes(generator.randint(1, 9)) + data[position:]


def bytes_deleted(data: bytes, generator: random.Random) -> bytes:
    position = generator.randrange(len(data))
    return data[:position] + data[position + generator.randint(1, 9) :]


def block_zeroed(data: bytes, generator: random.Random) -> bytes:
    begin = generator.randrange(len(data))
    end = min(len(data), begin + generator.choice((1, 8, 512, 4096)))
    zeros = bytes(end - begin)
    # As after a loss of power; a block that was zero before is not damaged.
    return data[:begin] + zeros + data[end:] if data[begin:end] != zeros else data[:begin]


# -- files with a checksum that is right -----------------------------------------------------


def unpack(data: bytes) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    header = data[8 : 8 + int.from_bytes(data[:8], "little")]
    metadata = json.loads(header)["__metadata__"]
    del metadata["checksum"]
    return safetensors.torch.load(data), metadata


def values_not_finite(data: bytes, generator: random.Random) -> bytes:
    tensors, metadata = unpack(data)
    name = generator.choice([n for n, t in tensors.items() if t.numel() and t.is_floating_point()])
    value = generator.choice((float("nan"), float("inf"), -float("inf")))
    tensors[name].view(-1)[generator.randrange(tensors[name].numel())] = value
    return pack(tensors, metadata)


def wrong_shape(data: bytes, generator: random.Random) -> bytes:
    tensors, metadata = unpack(data)
    name = generator.choice([n for n, t in tensors.items() if t.ndim and t.numel()])
    tensor = tensors[name]
    axis = generator.randrange(tensor.ndim)
    tensors[name] = generator.choice(
        (
            tensor.narrow(axis, 0, tensor.shape[axis] - 1),
            torch.cat([tensor, tensor.narrow(axis, 0, 1)], axis),
            tensor[None],
            tensor.flatten()[:0],
        )
    )
    return pack(tensors, metadata)


def wrong_type(data: bytes, generator: random.Random) -> bytes:
    tensors, metadata = unpack(data)
    name = generator.choice(sorted(tensors))
    types = {torch.float16, torch.int32, torch.uint8, torch.bool} - {tensors[name].dtype}
    tensors[name] = tensors[name].to(generator.choice(sorted(types, key=str)))
    return pack(tensors, metadata)


def wrong_names(data: bytes, generator: random.Random) -> bytes:
    tensors, metadata = unpack(data)
    name = generator.choice(sorted(tensors))
    if generator.random() < 0.7:
        tensor = tensors.pop(name)
        if generator.random() < 0.5:
            tensors[name + "_"] = tensor
    else:
        tensors["more"] = torch.zeros(3)
    return pack(tensors, metadata)


def wrong_metadata(data: bytes, generator: random.Random) -> bytes:
    tensors, metadata = unpack(data)
    name = generator.choice([*sorted(metadata), "more"])
    too_long = "x" * 20_000
    if name in ("data", "version"):  # any text will do, but some text there must be
        value = generator.choice((None, too_long))
    elif name == "left_out":  # may be empty, and is missing in files of earlier versions
        value = generator.choice(("magic", "[]", too_long))
    else:
        value = generator.choice(("", "magic", "-1", "\0", "2026-13-45", "[]", too_long))
    optional = name in ("left_out", "more")
    if value is None or (not optional and generator.random() < 0.3):
        del metadata[name]
    else:
        metadata[name] = value
    return pack(tensors, metadata)


def foreign(data: bytes, generator: random.Random) -> bytes:
    tensors = {f"layer.{i}": torch.randn(3, 4) for i in range(generator.randrange(4))}
    metadata = generator.choice((None, {}, {"format": "pt"}))
    if generator.random() < 0.5:
        tensors = unpack(data)[0]
    return safetensors.torch.save(tensors, metadata)


DAMAGES: tuple[Damage, ...] = (
    random_bytes,
    truncated,
    bits_flipped,
    header_bits_flipped,
    bytes_inserted,
    bytes_deleted,
    block_zeroed,
    values_not_finite,
    wrong_shape,
    wrong_type,
    wrong_names,
    wrong_metadata,
    foreign,
)


def survives(damaged: bytes, model: DynamicsModel, robot: RobotSpec, probe: Transitions) -> bool:
    """Whether `model` refuses `damaged` and is in every respect what it was before."""
    before = {name: tensor.clone() for name, tensor in model.snapshot().items()}
    expected, count = model.predict(probe.states, probe.actions), model.transitions
    try:
        decode(damaged, model, robot)
    except SnapshotError:
        after = model.snapshot()
        found = model.predict(probe.states, probe.actions)
        return (
            model.transitions == count
            and set(before) == set(after)
            and all(torch.equal(before[name], after[name]) for name in before)
            and all(torch.equal(*pair) for pair in zip(found, expected, strict=True))
        )
    return False


def fuzz(kind: str, cases: int, seed: int) -> dict[str, Counter[bool]]:
    """Return, by kind of damage, how many cases were survived."""
    torch.set_num_threads(1)
    robot, generator = load_robot("cartpole"), random.Random(seed)
    sender, receiver = make_model(kind, robot, seed=1), make_model(kind, robot, seed=2)
    sender.update(experience(robot, 60, 1))
    receiver.update(experience(robot, 60, 2))
    data, probe = encode(sender, describe(robot, sender, 0.1)), experience(robot, 5, 3)
    counts: dict[str, Counter[bool]] = {damage.__name__: Counter() for damage in DAMAGES}
    for case in track(range(cases), "damaging", console=Console(stderr=True), transient=True):
        damage = DAMAGES[case % len(DAMAGES)]
        damaged = damage(data, generator)
        counts[damage.__name__][survives(damaged, receiver, robot, probe)] += 1
    decode(data, receiver, robot)  # what is not damaged is accepted, or the test were worthless
    return counts


def main() -> int:
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("--cases", type=int, default=10_000)
    parser.add_argument("--kind", default="gp", help=f"one of {', '.join(MODELS.names())}")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    counts = fuzz(options.kind, options.cases, options.seed)
    for name, count in counts.items():
        print(f"{name:22} {count[True]:6d} refused, {count[False]:d} not")
    failures = sum(count[False] for count in counts.values())
    print(f"{options.kind}: {options.cases - failures} of {options.cases} damaged ones refused")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
