# Copyright 2026 The mbrl_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Features, the Gaussian process and its snapshots."""

import dataclasses
import math
from datetime import UTC, datetime, timedelta

import pytest
import torch
from fuzz_snapshots import fuzz

import mbrl_ros
from mbrl_ros.dynamics.features import FeatureMap, wrap_angle
from mbrl_ros.dynamics.gp import GaussianProcess
from mbrl_ros.dynamics.model import Transitions, make_model, one_step_error
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

STEP = 0.05


def pendulum(count, seed=0):
    """Return random steps of a damped pendulum: states (angle, velocity), action torque."""
    generator = torch.Generator().manual_seed(seed)
    angle = math.pi * (2.0 * torch.rand(count, generator=generator, dtype=torch.float64) - 1.0)
    velocity = 4.0 * torch.randn(count, generator=generator, dtype=torch.float64)
    torque = 2.0 * torch.randn(count, generator=generator, dtype=torch.float64)
    states = torch.stack([angle, velocity], -1)
    after = velocity + STEP * (9.81 * torch.sin(angle) - 0.1 * velocity + torque)
    turned = wrap_angle(angle + STEP * after)
    return Transitions(states, torque[:, None], torch.stack([turned, after], -1))


@pytest.fixture
def features():
    return FeatureMap([True, False], 1)


@pytest.fixture(scope="module")
def learned():
    model = GaussianProcess(FeatureMap([True, False], 1), seed=1)
    model.update(pendulum(150))
    return model


def test_angles_enter_as_sine_and_cosine(features):
    inputs = features.inputs(torch.tensor([[math.pi / 2, 3.0]]), torch.tensor([[7.0]]))
    assert torch.allclose(inputs, torch.tensor([[3.0, 1.0, 0.0, 7.0]]), atol=1e-6)


def test_deltas_go_the_shorter_way_round(features):
    deltas = features.deltas(torch.tensor([[3.1, 0.0]]), torch.tensor([[-3.1, 1.0]]))
    assert torch.allclose(deltas, torch.tensor([[2 * math.pi - 6.2, 1.0]]))


def test_gp_learns_a_pendulum(learned):
    assert one_step_error(learned, pendulum(300, seed=9)) < 0.03
    assert learned.transitions == 150


def test_gp_knows_what_it_does_not_know(learned):
    known = pendulum(150)
    _, near = learned.predict(known.states, known.actions)
    _, far = learned.predict(torch.tensor([[0.0, 80.0]]), torch.tensor([[40.0]]))
    assert (far > 20.0 * near.mean(0)).all()


def test_gp_intervals_cover_the_truth(learned):
    test = pendulum(300, seed=3)
    mean, variance = learned.predict(test.states, test.actions)
    error = mean - test.next_states
    error[:, 0] = wrap_angle(error[:, 0])
    inside = error.abs() < 1.645 * variance.sqrt()
    assert inside.double().mean() > 0.8


def test_more_data_helps_up_to_the_points_kept(features):
    test = pendulum(300, seed=9)
    errors = []
    for count in (10, 40, 160, 640):
        model = GaussianProcess(features, max_points=150, seed=1)
        model.update(pendulum(count))
        errors.append(one_step_error(model, test))
    assert errors == sorted(errors, reverse=True)
    assert len(model.snapshot()["inputs"]) == 150


def test_the_points_kept_cover_the_data(features):
    """Many alike and a few unlike: the few must not be dropped."""
    data = pendulum(400)
    crowd = Transitions(
        *(part[:1].repeat(400, 1) for part in (data.states, data.actions)),
        data.next_states[:1].repeat(400, 1),
    )
    rare = data[torch.arange(20)]
    both = Transitions(
        torch.cat([rare.states, crowd.states]),
        torch.cat([rare.actions, crowd.actions]),
        torch.cat([rare.next_states, crowd.next_states]),
    )
    model = GaussianProcess(features, max_points=30, seed=0)
    model.update(both)
    assert one_step_error(model, rare) < 0.2


def test_rollout_agrees_with_repeated_prediction(learned):
    generator = torch.Generator().manual_seed(2)
    actions = torch.randn(20, 7, 1, generator=generator)
    start = torch.tensor([0.3, -1.0]).expand(7, -1)
    fast = learned.rollout(start, actions)
    slow = super(GaussianProcess, learned).rollout(start.double(), actions.double())
    assert fast.shape == (21, 7, 2)
    # Single precision, whose error grows along the trajectory.
    assert torch.allclose(fast[1].double(), slow[1], atol=1e-3)
    assert torch.allclose(fast.double(), slow, atol=2e-2)


def test_updates_repeat_exactly(features):
    models = [GaussianProcess(features, seed=4) for _ in range(2)]
    for model in models:
        for count in (20, 40, 80):
            model.update(pendulum(count))
    first, second = (model.snapshot() for model in models)
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda t: Transitions(
            t.states[:1].repeat(60, 1),
            t.actions[:1].repeat(60, 1),
            t.next_states[:1].repeat(60, 1),
        ),
        lambda t: Transitions(t.states * torch.tensor([1.0, 0.0]), t.actions, t.next_states),
        lambda t: Transitions(
            t.states * torch.tensor([1.0, 1e4]),
            t.actions * 1e4,
            t.next_states * torch.tensor([1.0, 1e4]),
        ),
        lambda t: t[:2],
    ],
    ids=["duplicates", "constant dimension", "large units", "two points"],
)
def test_gp_survives_awkward_data(features, spoil):
    data = spoil(pendulum(60))
    model = GaussianProcess(features, seed=0)
    model.update(data)
    mean, variance = model.predict(data.states, data.actions)
    assert mean.isfinite().all()
    assert (variance > 0.0).all()


def test_gp_refuses_values_that_are_not_finite(features):
    data = pendulum(30)
    data.states[3, 1] = math.nan
    with pytest.raises(ValueError, match="not finite"):
        GaussianProcess(features).update(data)
    with pytest.raises(ValueError, match="at least 2 transitions, got 0"):
        GaussianProcess(features).update(pendulum(30)[:0])


def test_memory_is_bounded_and_old_experience_stays(features):
    """A long time at rest must not push out what was learned in motion."""
    model, moving = GaussianProcess(features, max_points=60, seed=0), pendulum(60)
    model.update(moving)
    zeros = torch.zeros(25, 2, dtype=torch.float64)
    for _ in range(20):
        model.update(Transitions(zeros, zeros[:, :1], zeros))
    assert model.transitions == 60 + 20 * 25
    assert len(model.snapshot()["inputs"]) == 60
    assert one_step_error(model, moving) < 0.3


def test_an_update_that_fails_leaves_the_model_as_it_was(features, monkeypatch):
    model = GaussianProcess(features, seed=0)
    model.update(pendulum(60))
    before, states = model.snapshot(), torch.ones(3, 2)
    predicted = model.predict(states, states[:, :1])

    def fail(_covariance):
        raise ValueError("not positive definite")

    monkeypatch.setattr("mbrl_ros.dynamics.gp._cholesky", fail)
    with pytest.raises(ValueError, match="not positive definite"):
        model.update(pendulum(30, seed=5))
    monkeypatch.undo()
    after = model.snapshot()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert model.transitions == 60
    for mine, theirs in zip(model.predict(states, states[:, :1]), predicted, strict=True):
        assert torch.equal(mine, theirs)


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
