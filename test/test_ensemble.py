# Copyright 2026 The mbrl_ros authors
# SPDX-License-Identifier: Apache-2.0
"""The ensemble of networks, the single network, and what they remember."""

import math
import random
import shutil

import pytest
import torch

from mbrl_ros.dynamics.ensemble import MLP, Ensemble
from mbrl_ros.dynamics.features import FeatureMap
from mbrl_ros.dynamics.model import PROPAGATIONS, Transitions, make_model, one_step_error
from mbrl_ros.dynamics.replay import Replay
from mbrl_ros.dynamics.snapshot import SnapshotError, decode, describe, encode
from mbrl_ros.planning.planner import make_planner
from mbrl_ros.robots.spec import load_robot

STEP = 0.05
NOISE = (0.01, 0.1)  # standard deviations of what disturbs the angle and the velocity
SMALL = {"hidden": (48, 48), "batch_size": 64, "steps": 20, "patience": 20}


def pendulum(count, seed=0, noise=(0.0, 0.0), rewards=0):
    """Return `count` consecutive steps of a driven pendulum: (angle, velocity), torque."""
    generator = random.Random(seed)
    angle, velocity, torque, rows = 1.0, 0.0, 0.0, []
    for _ in range(count):
        torque = 0.9 * torque + generator.gauss(0.0, 3.0)
        row = [angle, velocity, torque]
        velocity += STEP * (9.81 * math.sin(angle) - 0.3 * velocity + torque)
        angle = math.remainder(angle + STEP * velocity + generator.gauss(0.0, noise[0]), math.tau)
        velocity += generator.gauss(0.0, noise[1])
        rows.append([*row, angle, velocity, math.cos(angle) - 0.01 * torque**2])
    columns = torch.tensor(rows, dtype=torch.float64)
    return Transitions(
        columns[:, :2], columns[:, 2:3], columns[:, 3:5], columns[:, 5 : 5 + rewards]
    )


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """Small products only lose by being shared out, above all on a busy machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def features(rewards=0):
    return FeatureMap([True, False], 1, rewards)


def train(model, slices=1000):
    return any(not model.improve() for _ in range(slices))


def make(kind=Ensemble, rewards=0, **options):
    return kind(features(rewards), **(SMALL | options))


def trained(kind=Ensemble, count=600, slices=60, **options):
    model = make(kind, **options)
    model.update(pendulum(count))
    train(model, slices)
    return model


@pytest.fixture(scope="module")
def learned():
    return trained()


@pytest.fixture(scope="module")
def noisy():
    model = make()
    model.update(pendulum(2000, noise=NOISE))
    train(model, 60)
    return model


# -- learning ------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["ensemble", "mlp"])
def test_kinds_are_made_by_name(cartpole, kind):
    model = make_model(kind, cartpole, seed=3, hidden=(8,))
    assert model.kind == kind
    assert model.transitions == 0


@pytest.mark.parametrize("kind", [Ensemble, MLP])
def test_before_training_it_predicts_no_change_and_much_doubt(kind):
    model, data = make(kind), pendulum(300)
    for _ in range(2):
        mean, variance = model.predict(data.states, data.actions)
        assert torch.allclose(mean, data.states, atol=1e-6)
        model.update(data)
    change = model.features.deltas(data.states, data.next_states)
    assert (variance > 3.0 * change.square().mean(0)).all()


def test_without_experience_there_is_nothing_to_improve():
    model = make()
    assert not model.improve()
    model.update(pendulum(30)[:0])
    assert not model.improve()
    assert model.transitions == 0


@pytest.mark.parametrize("kind", [Ensemble, MLP])
def test_it_learns_a_pendulum(kind):
    model = trained(kind)
    assert model.transitions == 600
    assert one_step_error(model, pendulum(300, seed=9)) < 0.05


def test_training_ends_and_new_experience_starts_it_again():
    model = make(patience=3)
    model.update(pendulum(100, noise=NOISE))
    assert train(model)
    before = model.snapshot()
    assert not model.improve()
    assert all(torch.equal(before[name], tensor) for name, tensor in model.snapshot().items())
    model.update(pendulum(100, seed=1))
    assert model.improve()


@pytest.mark.parametrize("kind", [Ensemble, MLP])
def test_what_cannot_be_known_is_not_learned_by_heart(kind):
    """Pure noise: the best weights by held-out data predict hardly anything."""
    generator = torch.Generator().manual_seed(0)

    def noise(count):
        states = torch.randn(count, 2, generator=generator, dtype=torch.float64)
        change = torch.randn(count, 2, generator=generator, dtype=torch.float64)
        return Transitions(states, states[:, :1], states + change)

    model = kind(FeatureMap([False, False], 1), **SMALL)
    model.update(noise(200))
    assert train(model)
    assert one_step_error(model, noise(1000)) < 1.1


def test_learning_as_it_comes_is_as_good_as_all_at_once(learned):
    model, data = make(), pendulum(600)
    for begin in range(0, 600, 20):
        model.update(data[begin : begin + 20])
        train(model, 4)
    test = pendulum(300, seed=9)
    assert one_step_error(model, test) < 2.0 * one_step_error(learned, test) + 0.01


def test_a_long_rest_does_not_push_out_what_was_learned_in_motion():
    model, moving = make(capacity=2000), pendulum(600)
    model.update(moving)
    train(model, 40)
    zeros = torch.zeros(50, 2).double()
    for _ in range(20):
        model.update(Transitions(zeros, zeros[:, :1], zeros))
        model.improve()
    assert one_step_error(model, moving) < 0.1


def test_training_repeats_exactly():
    first, second = (trained(slices=5).snapshot() for _ in range(2))
    assert all(torch.equal(first[name], second[name]) for name in first)
    other = trained(slices=5, seed=1).snapshot()
    assert not torch.equal(first["weight_0"], other["weight_0"])


@pytest.mark.parametrize("kind", [Ensemble, MLP])
def test_new_normalisers_leave_predictions_as_they_are(kind):
    model, test = trained(kind, slices=10), pendulum(200, seed=5)
    before = model.outputs(test.states, test.actions)
    moved = torch.tensor([0.3, 40.0])
    model.update(Transitions(7.0 * test.states + moved, 30.0 * test.actions, test.next_states))
    after = model.outputs(test.states, test.actions)
    for old, new in zip(before, after, strict=True):
        assert torch.allclose(old, new, rtol=1e-2, atol=1e-3 * float(old.abs().max()))


def test_a_start_at_rest_does_no_harm():
    """At rest scales are tiny; weights that suit them must not be what motion starts from."""
    model, data = make(), pendulum(600)
    still = Transitions(1e-4 * data.states, 1e-4 * data.actions, 1e-4 * data.next_states)
    model.update(still[:100])
    train(model, 10)
    model.update(data)
    train(model, 60)
    assert one_step_error(model, pendulum(300, seed=9)) < 0.05


def test_a_snapshot_taken_is_not_changed_by_further_learning():
    model = trained(slices=5)
    taken = model.snapshot()
    copy = {name: tensor.clone() for name, tensor in taken.items()}
    model.update(pendulum(100, seed=4))
    train(model, 5)
    assert all(torch.equal(copy[name], taken[name]) for name in copy)
    assert not torch.equal(model.snapshot()["weight_0"], taken["weight_0"])


def test_losses_over_several_steps_lead_to_good_trajectories():
    model = trained(loss_steps=3, slices=60)
    test = pendulum(300, seed=9)
    actions = test.actions[:10, None]
    predicted = model.rollout(test.states[:1], actions)[-1]
    error = model.features.deltas(predicted, test.states[10:11])
    assert error.abs().max() < 0.1


def test_several_steps_are_only_counted_where_they_are_consecutive():
    every_other = torch.arange(0, 600, 2)
    snapshots = []
    for loss_steps in (1, 3):
        model = make(loss_steps=loss_steps)
        model.update(pendulum(600)[every_other])
        train(model, 2)
        snapshots.append(model.snapshot())
    one, three = snapshots
    assert all(torch.equal(one[name], three[name]) for name in one)


def test_rewards_are_learned_and_required():
    model = make(rewards=1)
    model.update(pendulum(800, rewards=1))
    train(model, 60)
    test = pendulum(300, seed=9, rewards=1)
    mean, variance = model.outputs(test.states, test.actions)
    assert mean.shape == variance.shape == (300, 3)
    error = model.reward(test.states, test.actions) - test.rewards[:, 0]
    assert error.std() < 0.2 * test.rewards.std()
    with pytest.raises(ValueError, match="transitions have 0 rewards, expected 1"):
        model.update(pendulum(10))


def test_values_that_are_not_finite_or_too_large_are_refused(learned):
    before = learned.snapshot()
    for value, reason in ((math.nan, "not finite"), (1e200, "too large")):
        data = pendulum(30)
        data.states[3, 1] = value
        with pytest.raises(ValueError, match=reason):
            learned.update(data)
    assert learned.transitions == 600
    assert all(torch.equal(before[name], tensor) for name, tensor in learned.snapshot().items())


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("members", 0),
        ("members", 100),
        ("hidden", ()),
        ("hidden", (8, 0)),
        ("recent_share", 1.5),
        ("steps", -1),
    ],
)
def test_options_that_cannot_be_used_are_refused(option, value):
    with pytest.raises(ValueError, match=option):
        Ensemble(features(), **{option: value})


def test_training_that_diverges_starts_again_from_what_was_good():
    model, test = trained(slices=20), pendulum(300, seed=9)
    error = one_step_error(model, test)
    model._weights["weight_1"].data.fill_(math.nan)
    model.update(pendulum(100, seed=2))
    train(model, 20)
    assert one_step_error(model, test) <= 1.1 * error


@pytest.mark.parametrize("kind", [Ensemble, MLP])
@pytest.mark.parametrize("count", [1, 2, 15, 60])
def test_little_or_constant_data_is_survived(kind, count):
    model, still = make(kind), torch.ones(count, 2).double()
    model.update(Transitions(still, still[:, :1], still))
    train(model, 3)
    mean, variance = model.predict(still, still[:, :1])
    assert torch.allclose(mean, still, atol=1e-2)
    assert (variance > 0.0).all()
    assert variance.isfinite().all()


# -- uncertainty ---------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [Ensemble, MLP])
def test_intervals_cover_what_they_say_after_one_step(kind):
    model = make(kind)
    model.update(pendulum(2000, noise=NOISE))
    train(model, 60)
    test = pendulum(2000, seed=3, noise=NOISE)
    mean, variance = model.predict(test.states, test.actions)
    error = model.features.deltas(mean, test.next_states)
    inside = (error.abs() < 1.645 * variance.sqrt()).double().mean(0)
    assert ((inside > 0.84) & (inside < 0.96)).all()
    assert torch.allclose(variance.mean(0).sqrt(), torch.tensor(NOISE).double(), rtol=0.3)


def test_intervals_cover_what_they_say_after_ten_steps(noisy):
    test, particles, horizon = pendulum(6000, seed=3, noise=NOISE), 50, 10
    starts = torch.arange(0, 5980, 10)
    actions = torch.stack([test.actions[starts + k] for k in range(horizon)])
    final = noisy.rollout(
        test.states[starts].repeat_interleave(particles, 0),
        actions.repeat_interleave(particles, 1),
        "tsinf",
        torch.Generator().manual_seed(0),
    )[-1].view(len(starts), particles, 2)
    error = noisy.features.deltas(final.mean(1), test.states[starts + horizon])
    inside = (error.abs() < 1.645 * final.std(1)).double().mean(0)
    assert ((inside > 0.84) & (inside < 0.96)).all()


def test_noise_is_told_from_place_to_place():
    """Still where the state is negative, noisy where it is positive."""
    generator = torch.Generator().manual_seed(0)
    states = 4.0 * torch.rand(3000, 1, generator=generator, dtype=torch.float64) - 2.0
    noise = torch.randn(3000, 1, generator=generator, dtype=torch.float64)
    change = 0.1 * states + torch.where(states > 0.0, 0.2, 0.02) * noise
    model = Ensemble(FeatureMap([False], 1), **SMALL)
    model.update(Transitions(states, torch.zeros_like(states), states + change))
    train(model, 60)
    _, variance = model.predict(torch.tensor([[-1.0], [1.0]]), torch.zeros(2, 1))
    assert variance[1] > 20.0 * variance[0]


def test_it_knows_what_it_does_not_know(learned):
    known = pendulum(300)
    _, near = learned.predict(known.states, known.actions)
    _, far = learned.predict(torch.tensor([[0.0, 60.0]]), torch.tensor([[80.0]]))
    assert (far > 20.0 * near.mean(0)).all()


def test_predictions_can_be_differentiated(learned):
    states, actions = torch.tensor([[0.3, -1.0]]).double(), torch.tensor([[0.5]]).double()
    jacobian = torch.autograd.functional.jacobian(
        lambda action: learned.predict(states, action)[0], actions
    )
    step = 0.05
    ahead, behind = (learned.predict(states, actions + d)[0] for d in (step, -step))
    assert torch.allclose(jacobian[0, :, 0, 0], ((ahead - behind) / (2 * step))[0], atol=1e-3)


# -- propagation ---------------------------------------------------------------------------


def start_and_actions(count, horizon=8):
    generator = torch.Generator().manual_seed(2)
    actions = torch.randn(horizon, 1, 1, generator=generator).expand(-1, count, -1)
    return torch.tensor([[0.3, -1.0]]).expand(count, -1), actions


def test_the_mean_rollout_is_repeated_prediction(learned):
    states, actions = start_and_actions(7)
    slow = [states.double()]
    for action in actions.double():
        slow.append(learned.predict(slow[-1], action)[0])
    fast = learned.rollout(states, actions)
    assert fast.shape == (9, 7, 2)
    assert torch.allclose(fast.double(), torch.stack(slow), atol=1e-4)


def test_pathwise_each_row_follows_its_member(learned):
    """Row i follows member i % 5; as many rows as there are, in whatever company."""
    states, actions = start_and_actions(12)
    paths = learned.rollout(states, actions, "pathwise")[-1]
    assert torch.allclose(paths[:5], paths[5:10], atol=1e-6)
    assert torch.allclose(paths[:2], paths[10:], atol=1e-6)
    assert len({tuple(path.tolist()) for path in paths[:5]}) == 5
    few = learned.rollout(states[:3], actions[:, :3], "pathwise")[-1]
    assert torch.allclose(few, paths[:3], atol=1e-6)
    first = learned.rollout(states[:5], actions[:1, :5], "pathwise")[1].mean(0)
    mean = learned.predict(states[:1], actions[0, :1])[0][0]
    assert torch.allclose(first, mean, atol=1e-5)


@pytest.mark.parametrize("propagation", ["ts1", "tsinf"])
def test_one_step_of_particles_has_the_predicted_moments(noisy, propagation):
    states, actions = start_and_actions(20_000, horizon=1)
    generator = torch.Generator().manual_seed(0)
    sampled = noisy.rollout(states, actions, propagation, generator)[1]
    mean, variance = noisy.predict(states[:1], actions[0, :1])
    assert torch.allclose(sampled.mean(0), mean[0], atol=3e-3)
    assert torch.allclose(sampled.std(0), variance[0].sqrt(), rtol=0.05)


def test_of_what_it_does_not_know_tsinf_keeps_more_than_ts1():
    """Far from the data the members disagree; a particle that keeps its member strays more."""
    model = trained(count=100, slices=10)
    states, actions = start_and_actions(2000, horizon=20)
    spread = {
        propagation: model.rollout(
            states + torch.tensor([0.0, 10.0]),
            actions,
            propagation,
            torch.Generator().manual_seed(0),
        )[-1].std(0)
        for propagation in ("ts1", "tsinf")
    }
    assert spread["tsinf"][1] > 1.2 * spread["ts1"][1]


@pytest.mark.parametrize("propagation", PROPAGATIONS)
@pytest.mark.parametrize("kind", [Ensemble, MLP])
def test_rollouts_repeat_and_agree_with_the_stepper(kind, propagation):
    model = trained(kind, count=100, slices=3)
    states, actions = start_and_actions(7)
    runs = [
        model.rollout(states, actions, propagation, torch.Generator().manual_seed(5))
        for _ in range(2)
    ]
    assert torch.equal(*runs)
    step = model.stepper(propagation, 7, torch.Generator().manual_seed(5))
    for action, following in zip(actions, runs[0][1:], strict=True):
        states = step(states, action)
        assert torch.equal(states, following)


@pytest.mark.parametrize("propagation", PROPAGATIONS)
def test_rounded_rollouts_stay_close(noisy, propagation):
    states, actions = start_and_actions(50, horizon=10)
    full, rounded = (
        noisy.rollout(
            states, actions, propagation, torch.Generator().manual_seed(5), precision=precision
        )
        for precision in ("float32", "bfloat16")
    )
    assert rounded.dtype == torch.float32
    assert not torch.equal(full, rounded)
    moved = (full - states).square().mean().sqrt()
    assert float((full - rounded).square().mean().sqrt() / moved) < 0.02


def test_novelty_is_the_members_disagreement():
    model = trained(slices=30)
    states = torch.tensor([[0.5, 0.0], [0.5, 60.0]])
    actions = torch.tensor([[0.0], [40.0]])
    found = model.novelty(states, actions)
    assert found.shape == (2,)
    assert 0.0 <= float(found[0]) < float(found[1])  # where nobody has ever been
    assert float(make().novelty(states, actions).abs().max()) == 0.0  # nobody has learned yet
    with pytest.raises(ValueError, match="model 'mlp' cannot tell what it does not know"):
        make(MLP).novelty(states, actions)


@pytest.mark.compiler
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler")
def test_compiled_rollouts_agree_and_outlive_the_model(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    model = trained(slices=5)
    states, actions = start_and_actions(7, horizon=3)
    eager = model.rollout(states, actions, "pathwise")
    compiled = model.rollout(states, actions, "pathwise", engine="compile")
    assert torch.allclose(eager, compiled, atol=1e-4)
    programs = torch._dynamo.utils.counters["stats"]["unique_graphs"]
    model.improve()
    restored = make()
    restored.restore(model.snapshot())
    again = restored.rollout(states, actions, "pathwise", engine="compile")
    assert torch.allclose(again, restored.rollout(states, actions, "pathwise"), atol=1e-4)
    # Weights are arguments: the next model takes over what was compiled.
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == programs


@pytest.mark.compiler
def test_without_a_compiler_planning_goes_on_and_says_so(tmp_path, monkeypatch):
    from torch._inductor import config

    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(config.cpp, "cxx", ("/no/such/compiler",))
    monkeypatch.setattr(config, "force_disable_caches", True)
    robot = load_robot("cartpole")
    model = make_model("ensemble", robot, hidden=(8, 8))
    planner = make_planner("mppi", robot, samples=11, horizon=3, optimize="compile")
    remarks = planner.prepare(model)
    assert any("torch.compile does not work here" in remark for remark in remarks)
    assert planner._way.engine == "eager"


def test_learning_shows_in_the_next_rollout():
    """Buffers are kept between rollouts, predictions are not."""
    model = trained(slices=5)
    states, actions = start_and_actions(7)
    before = model.rollout(states, actions)
    for _ in range(5):
        model.improve()
    after = model.rollout(states, actions)
    assert not torch.equal(before, after)
    restored = make(seed=3)
    restored.rollout(states, actions)
    restored.restore(model.snapshot())
    assert torch.equal(restored.rollout(states, actions), after)


def test_unknown_propagations_are_refused(learned):
    with pytest.raises(ValueError, match=r"unknown propagation 'magic'; expected one of mean"):
        learned.stepper("magic", 3)


# -- snapshots -----------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [Ensemble, MLP])
def test_a_snapshot_predicts_alike_whatever_the_options(kind):
    model = trained(kind, slices=5)
    restored = kind(features(), hidden=(7, 7, 7, 7), seed=8)
    restored.restore(model.snapshot())
    states, actions = start_and_actions(7)
    for mine, theirs in zip(
        restored.outputs(states, actions[0]), model.outputs(states, actions[0]), strict=True
    ):
        assert torch.equal(mine, theirs)
    for propagation in PROPAGATIONS:
        generators = (torch.Generator().manual_seed(1) for _ in range(2))
        mine, theirs = (
            m.rollout(states, actions, propagation, g)
            for m, g in zip((restored, model), generators, strict=True)
        )
        assert torch.equal(mine, theirs)


def test_learning_goes_on_from_a_snapshot():
    model = trained(slices=20)
    restored = make(seed=3)
    restored.restore(model.snapshot())
    restored.transitions = model.transitions
    assert not restored.improve()
    test = pendulum(300, seed=9)
    before = one_step_error(restored, test)
    restored.update(pendulum(600, seed=7))
    assert one_step_error(restored, test) == pytest.approx(before, rel=0.05)
    train(restored, 60)
    assert one_step_error(restored, test) < 0.8 * before


def test_snapshots_travel_as_bytes(cartpole):
    model = make_model("ensemble", cartpole, hidden=(8,))
    restored = make_model("ensemble", cartpole)
    info = decode(encode(model, describe(cartpole, model, 0.1)), restored, cartpole)
    assert info.kind == "ensemble"
    with pytest.raises(SnapshotError, match="kind is 'ensemble', expected 'mlp'"):
        decode(
            encode(model, describe(cartpole, model, 0.1)), make_model("mlp", cartpole), cartpole
        )


def replaced(name, change):
    def spoil(tensors):
        return tensors | {name: change(tensors[name].clone())}

    return spoil


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda t: {n: v for n, v in t.items() if n != "bias_1"}, "expected"),
        (lambda t: {n: v for n, v in t.items() if not n.startswith("weight")}, "0 layers"),
        (lambda t: t | {"other": torch.ones(1)}, "expected"),
        (lambda t: t | {"weight_7": torch.ones(5, 48, 4)}, "layers"),
        (replaced("weight_0", lambda w: w[:, :-1]), r"'weight_0' is .*expected"),
        (replaced("weight_1", lambda w: w[:3]), r"'weight_1' is .*expected"),
        (replaced("weight_1", lambda w: w.double()), "expected torch.float32"),
        (replaced("weight_1", lambda w: w[0]), "layers"),
        (replaced("weight_0", lambda w: w.repeat(20, 1, 1)), "members 1 to 64"),
        (replaced("weight_0", lambda w: w.repeat(1, 1, 50)), "units, expected 1 to 2048"),
        (replaced("bias_0", lambda b: b / 0.0), "'bias_0' holds a value that is not finite"),
        (replaced("input_variance", lambda v: v - 100.0), "negative"),
        (replaced("noise_factor", lambda v: 0.0 * v), "not positive"),
        (replaced("noise_persistence", lambda v: v + 1.0), "not in"),
        (replaced("target_mean", lambda v: v.float()), "expected torch.float64"),
    ],
)
def test_snapshots_that_do_not_fit_never_reach_the_model(learned, spoil, reason):
    model = make(hidden=(5,))
    before = model.snapshot()
    with pytest.raises(ValueError, match=reason):
        model.restore(spoil(learned.snapshot()))
    after = model.snapshot()
    assert all(torch.equal(before[name], after[name]) for name in before)


# -- replay --------------------------------------------------------------------------------


def rows(begin, end):
    """Return rows numbered from `begin` up to `end`, each leading to the next."""
    number = torch.arange(begin, end, dtype=torch.float64)[:, None]
    return [number, 10.0 * number], number + 1.0


def test_replay_keeps_the_newest():
    replay = Replay((1, 1), 320, 2)
    for begin in range(0, 1000, 7):
        replay.append(*rows(begin, begin + 7))
    assert len(replay) == 320
    kept, done = replay.columns(replay.newest(1000))
    assert kept[:, 0].tolist() == list(range(1001 - 320, 1001))
    assert torch.equal(done, 10.0 * kept)


def test_replay_knows_what_follows_what():
    replay = Replay((1, 1), 64, 1)
    for begin, end in ((0, 50), (50, 60), (70, 80)):
        replay.append(*rows(begin, end))
    slots = replay.newest(64)
    after, follows = replay.after(slots)
    numbers, following = replay.columns(slots)[0][:, 0], replay.columns(after)[0][:, 0]
    assert torch.equal(follows, following == numbers + 1.0)
    assert int(follows.sum()) == 62  # neither over the gap, nor from the newest to the oldest


def test_replay_members_see_different_samples():
    replay = Replay((1, 1), 1000, 3)
    generator = torch.Generator().manual_seed(0)
    for begin in range(0, 640, 10):
        replay.append(*rows(begin, begin + 10), generator)
    drawn = replay.draw(20_000, 100, 0.5, generator)
    assert drawn.shape == (3, 20_000)
    numbers = replay.columns(drawn)[0][..., 0]
    for mine in numbers:
        assert 0.55 < len(mine.unique()) / 640 < 0.72  # 1 - 1 / e
        assert (mine >= 512).double().mean() == pytest.approx(0.6, abs=0.05)
    assert not torch.equal(numbers[0].unique(), numbers[1].unique())
