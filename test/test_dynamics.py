# Copyright 2026 The mbrl_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Making models, their snapshots and which of them counts."""

import dataclasses
import math
from datetime import UTC, datetime, timedelta

import pytest
import torch
from fuzz_snapshots import fuzz

import mbrl_ros
from mbrl_ros.dynamics.model import Transitions, make_model
from mbrl_ros.dynamics.snapshot import (
    MAX_BYTES,
    SnapshotError,
    decode,
    describe,
    encode,
    pack,
    read_info,
    write,
)
from mbrl_ros.dynamics.succession import Succession


def test_unknown_kinds_are_refused(cartpole):
    with pytest.raises(ValueError, match=r"unknown model 'magic'; expected one of .*gp"):
        make_model("magic", cartpole)


# -- snapshots -----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def cartpole_model(cartpole):
    generator = torch.Generator().manual_seed(0)
    states = torch.randn(50, 4, generator=generator, dtype=torch.float64)
    actions = torch.randn(50, 1, generator=generator, dtype=torch.float64)
    model = make_model("gp", cartpole)
    model.update(Transitions(states, actions, states + 0.1 * torch.cos(states) * actions))
    return model


def test_a_snapshot_predicts_alike(cartpole, cartpole_model):
    data = encode(cartpole_model, describe(cartpole, cartpole_model, 0.1, 5, 6))
    restored = make_model("gp", cartpole)
    info = decode(data, restored, cartpole)
    assert (info.transitions, info.effective_from, info.next_effective_from) == (50, 5, 6)
    states, actions = torch.randn(9, 4), torch.randn(9, 1)
    for mine, theirs in zip(
        restored.predict(states, actions), cartpole_model.predict(states, actions), strict=True
    ):
        assert torch.equal(mine, theirs)
    assert torch.equal(
        restored.rollout(states, actions[None]), cartpole_model.rollout(states, actions[None])
    )


def test_a_model_that_knows_nothing_travels_too(cartpole):
    model = make_model("gp", cartpole)
    restored = make_model("gp", cartpole)
    info = decode(encode(model, describe(cartpole, model, float("nan"))), restored, cartpole)
    assert info.transitions == 0
    mean, _ = restored.predict(torch.ones(1, 4), torch.ones(1, 1))
    assert torch.equal(mean, torch.ones(1, 4))


def test_foreign_snapshots_are_refused(cartpole, cartpole_model, cartpole_file):
    from mbrl_ros.robots import load_robot

    other = load_robot(str(cartpole_file(name="other")))
    data = encode(cartpole_model, describe(other, cartpole_model, 0.1))
    with pytest.raises(SnapshotError, match="robot is 'other', expected 'cartpole'"):
        decode(data, make_model("gp", cartpole), cartpole)
    with pytest.raises(SnapshotError, match="at most"):
        decode(bytes(MAX_BYTES + 1), make_model("gp", cartpole), cartpole)


def test_a_snapshot_says_what_it_is(cartpole, cartpole_model):
    described = describe(cartpole, cartpole_model, 0.1, training_seconds=2.5, data="bag: a")
    info = read_info(encode(cartpole_model, described))
    assert info == described
    assert (info.kind, info.robot, info.control_rate) == ("gp", "cartpole", 20.0)
    assert (info.training_seconds, info.data, info.reward) == (2.5, "bag: a", False)
    assert info.version == mbrl_ros.__version__
    age = datetime.now(UTC) - datetime.fromisoformat(info.created_at)
    assert timedelta(0) <= age < timedelta(minutes=5)


@pytest.mark.parametrize(
    ("name", "value", "problem"),
    [
        ("format", "mbrl_ros.model.1", "format is 'mbrl_ros.model.1', expected"),
        ("transitions", "-1", "transitions: .*greater than or equal to 0"),
        ("one_step_error", "-0.5", "one_step_error: .*expected a number >= 0"),
        ("created_at", "2026-11-24T12:00:00", "created_at: .*ISO 8601"),
        ("created_at", "yesterday", "created_at: .*isoformat"),
        ("reward", "perhaps", "reward: .*valid boolean"),
        ("control_rate", "50.0", "control_rate is '50.0', expected '20.0'"),
        ("kind", None, "kind: .*required"),
        ("more", "1", "more: Unexpected keyword argument"),
    ],
)
def test_what_a_snapshot_says_is_checked(cartpole, cartpole_model, name, value, problem):
    info = describe(cartpole, cartpole_model, 0.1)
    metadata = {key: str(text) for key, text in dataclasses.asdict(info).items()}
    if value is None:
        del metadata[name]
    else:
        metadata[name] = value
    with pytest.raises(SnapshotError, match=problem):
        decode(pack(cartpole_model.snapshot(), metadata), make_model("gp", cartpole), cartpole)


def test_damaged_snapshots_never_reach_the_model():
    """Every one of them is refused, and changes nothing; see bench/fuzz_snapshots.py."""
    counts = fuzz("gp", cases=390, seed=0)
    assert sum(count[True] for count in counts.values()) == 390
    assert not any(count[False] for count in counts.values())


def test_a_file_is_written_whole_or_not_at_all(tmp_path, cartpole, cartpole_model):
    path = tmp_path / "model.safetensors"
    write(path, encode(cartpole_model, describe(cartpole, cartpole_model, 0.1)))
    assert read_info(path.read_bytes()).transitions == 50
    with pytest.raises(SnapshotError, match="at most"):
        write(path, bytes(MAX_BYTES + 1))
    assert read_info(path.read_bytes()).transitions == 50
    assert list(tmp_path.iterdir()) == [path]


def test_snapshots_with_values_that_are_not_finite_are_refused(cartpole, cartpole_model):
    spoilt = make_model("gp", cartpole)
    spoilt.restore(cartpole_model.snapshot())
    spoilt.snapshot()["weights"][0, 0] = math.nan
    data = encode(spoilt, describe(cartpole, spoilt, 0.1))
    with pytest.raises(SnapshotError, match="'weights' holds a value that is not finite"):
        decode(data, make_model("gp", cartpole), cartpole)


# -- succession ----------------------------------------------------------------------------


def received(cartpole, effective_from, next_effective_from):
    model = make_model("gp", cartpole)
    return describe(cartpole, model, 0.1, effective_from, next_effective_from), model


def test_in_lockstep_a_model_counts_from_its_tick_on_and_is_waited_for(cartpole):
    models = Succession(lockstep=True)
    assert models.empty
    assert models.at(0) is None
    first, second = received(cartpole, 0, 100), received(cartpole, 100, 150)
    models.add(*first)
    assert not models.empty
    assert models.at(0) is first[1]
    assert models.at(50) is first[1]
    assert models.at(100) is None  # its successor is due
    models.add(*second)
    assert models.at(50) is first[1]  # early
    assert models.at(100) is second[1]
    assert models.info is second[0]


def test_in_real_time_the_newest_model_counts(cartpole):
    models = Succession(lockstep=False)
    for effective_from in (0, 100):
        newest = received(cartpole, effective_from, effective_from + 10)
        models.add(*newest)
    assert models.at(20) is newest[1]
    assert models.at(999) is newest[1]
