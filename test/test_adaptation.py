# Copyright 2026 The mbrl_ros authors
# SPDX-License-Identifier: Apache-2.0
"""A world that changes: when it is noticed, and what is kept of what was known."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from pendulum import STEP, pendulum
from typer.testing import CliRunner

from mbrl_ros import cli
from mbrl_ros.benchmarks import adapt
from mbrl_ros.dynamics.action_map import ActionMap
from mbrl_ros.dynamics.adaptation import correct
from mbrl_ros.dynamics.change import ChangeDetector
from mbrl_ros.dynamics.experience import Experience
from mbrl_ros.dynamics.features import FeatureMap
from mbrl_ros.dynamics.gp import GaussianProcess
from mbrl_ros.dynamics.model import Transitions, one_step_error
from mbrl_ros.dynamics.online import OnlineLearner
from mbrl_ros.kinds import MODELS
from mbrl_ros.robots import load_robot

SECOND = 1_000_000_000
FEATURES = FeatureMap([True, False], 1)


# Enough for a pendulum, and fast.
FAST = {"fit_points": 60, "fit_steps": 10}


def world(count, seed, gain=1.0, friction=0.0, begin=0):
    """Return steps of a pendulum whose motor and bearing are not what they were."""
    data = pendulum(count, seed)
    velocity = data.states[:, 1:]
    # What was learned as one torque now takes another.
    told = (data.actions + friction * velocity) / gain
    stamps = SECOND // 10 * torch.arange(begin, begin + count)
    return replace(data, actions=told, stamps=stamps)


def learner_of(kind, adapt=True, batches=6, **options):
    learner = OnlineLearner(
        lambda: MODELS.load(kind)(FEATURES, **options), 60 * SECOND, adapt=adapt
    )
    for seed in range(batches):
        learner.learn(world(50, seed, begin=50 * seed))
        for _ in range(2 if "gp" in kind else 25):
            learner.improve()
        learner.adopt()
    return learner


def go_on(learner, updates, **changed):
    for seed in range(updates):
        learner.learn(world(5, 1000 + seed, begin=300 + 5 * seed, **changed))
        learner.improve()
        if learner.better:
            learner.adopt()


# -- noticing ---------------------------------------------------------------------------------


def errors(count, size=1.0, seed=0):
    generator = np.random.default_rng(seed)
    return size * generator.normal(size=(count, 2)), generator.normal(size=(count, 2))


def watch(detector, rows, stated=1.0):
    """Return the number of the first transition that raised an alarm, and its verdict."""
    for i, (error, change) in enumerate(zip(*rows, strict=True)):
        age = detector.add(0.01 * error, np.full(2, 1e-4 * stated), change)
        if age is not None:
            return i, age
    return None


def test_errors_as_large_as_stated_are_no_change():
    assert watch(ChangeDetector(2), errors(10_000)) is None


def test_errors_that_are_of_no_consequence_are_no_change():
    # Ten deviations, but a hundredth of what changes in a step.
    assert watch(ChangeDetector(2), errors(5_000), stated=0.01) is None


def test_a_change_is_noticed_soon_and_dated():
    detector = ChangeDetector(2)
    assert watch(detector, errors(500)) is None
    noticed, age = watch(detector, errors(100, size=25.0, seed=1))
    assert noticed < 15
    assert noticed - 1 <= age <= noticed + 3  # the first transition after the change


def test_one_outlier_is_no_change():
    detector, (noise, change) = ChangeDetector(2), errors(2_000)
    noise[::50] = 100.0
    assert watch(detector, (noise, change)) is None


def test_a_model_that_has_long_been_too_sure_is_not_contradicted():
    rows = errors(5_000, size=12.0)
    rows = (
        np.concatenate([np.linspace(1.0, 12.0, 2_000)[:, None] * errors(2_000)[0], rows[0]]),
        np.concatenate([errors(2_000)[1], rows[1]]),
    )
    assert watch(ChangeDetector(2), rows) is None


# -- what is kept -----------------------------------------------------------------------------


def test_a_map_of_actions_and_its_inverse():
    generator = torch.Generator().manual_seed(0)
    features = FeatureMap([True, False], 2)
    actions = ActionMap(
        features,
        torch.tensor([[0.5, 0.1], [0.0, -1.0]]).double(),
        torch.randn(2, 3, generator=generator).double(),
        torch.tensor([0.3, 0.0]).double(),
    )
    states = torch.randn(7, 2, generator=generator).double()
    new = torch.randn(7, 2, generator=generator).double()
    old = actions.old(states, new)
    assert torch.allclose(actions.new(states, old), new)
    later = replace(actions, gain=2.0 * actions.gain)
    assert torch.allclose(
        actions.old(states, later.after(actions).old(states, new)), later.old(states, new)
    )


@pytest.mark.parametrize(
    ("changed", "gain", "feedback"),
    [({"gain": 0.5}, 0.5, 0.0), ({"gain": -1.0}, -1.0, 0.0), ({"friction": 0.4}, 1.0, -0.4)],
)
def test_what_has_become_of_the_actuators_is_found_from_a_few_steps(changed, gain, feedback):
    model, old = GaussianProcess(FEATURES, **FAST), world(300, 1)
    model.update(old)
    model.improve()
    found = correct(model, old, world(20, 2, **changed))
    assert float(found.actions.gain[0, 0]) == pytest.approx(gain, abs=0.03)
    assert float(found.actions.feedback[0, 0]) == pytest.approx(feedback, abs=0.03)
    # Old experience becomes what it would have been.
    corrected = found.apply(old)
    expected = world(300, 1, **changed)
    assert (corrected.actions - expected.actions).abs().max() < 0.3
    assert (corrected.next_states - expected.next_states).abs().max() < 0.05


def test_where_no_actuator_explains_it_old_steps_are_corrected_near_new_ones_only():
    model, old = GaussianProcess(FEATURES, **FAST), world(300, 1)
    model.update(old)
    model.improve()
    new = world(300, 2)
    upright = new.states[:, 0].abs() < 0.3
    pushed = new.next_states.clone()
    pushed[:, 0] += 0.3  # no torque turns a pendulum at once
    found = correct(model, old, replace(new, next_states=pushed)[upright])
    moved = found.apply(old).next_states - old.next_states
    near, far = old.states[:, 0].abs() < 0.2, old.states[:, 0].abs() > 2.5
    assert moved[near, 0].median() > 0.2
    assert moved[far, 0].abs().median() < 0.1


def test_what_is_off_in_proportion_is_corrected_where_nothing_new_has_been_seen():
    """As with a mass that is other than it was: every step is longer by a half."""

    def longer(data):
        change = FEATURES.deltas(data.states, data.next_states)
        return replace(data, next_states=data.states + 1.5 * change)

    model, old = GaussianProcess(FEATURES, **FAST), world(300, 1)
    model.update(old)
    model.improve()
    new = longer(world(200, 2))
    found = correct(model, old, new[new.states[:, 0] > 1.0][:25])
    elsewhere = old[old.states[:, 0] < 0.0]
    expected = longer(elsewhere).next_states
    left = FEATURES.deltas(expected, found.apply(elsewhere).next_states)
    before = FEATURES.deltas(expected, elsewhere.next_states)
    assert (left.square().mean(0).sqrt() < 0.2 * before.square().mean(0).sqrt()).all()


def test_what_happens_by_itself_and_what_the_action_adds_may_be_off_differently():
    """As with a pole of another length and mass: no map of actions says that."""

    def other(data):
        by_itself = pendulum_after(data.states, torch.zeros_like(data.actions))
        whole = FEATURES.deltas(data.states, data.next_states)
        effect = whole - by_itself
        return replace(data, next_states=data.states + 0.7 * by_itself + 1.6 * effect)

    def pendulum_after(states, torque):
        speed = 9.81 * torch.sin(states[:, :1]) - 0.1 * states[:, 1:] + torque
        after = states[:, 1:] + STEP * speed
        return torch.cat([STEP * after, after - states[:, 1:]], 1)

    model, old = GaussianProcess(FEATURES), world(300, 1)
    model.update(old)
    for _ in range(3):
        model.improve()
    new = other(world(200, 2))
    found = correct(model, old, new[new.states[:, 0] > 0.0][:40])
    elsewhere = old[old.states[:, 0] < -0.5]
    expected = other(elsewhere).next_states
    left = FEATURES.deltas(expected, found.apply(elsewhere).next_states)
    before = FEATURES.deltas(expected, elsewhere.next_states)
    assert (left.square().mean(0).sqrt() < 0.25 * before.square().mean(0).sqrt()).all()


@pytest.mark.parametrize("kind", ["gp", "svgp", "mlp", "ensemble"])
def test_every_kind_knows_the_new_world_after_a_few_steps(kind):
    options = FAST if "gp" in kind else {"hidden": (32, 32), "members": 2}
    if kind == "mlp":
        del options["members"]
    learner, stubborn = learner_of(kind, **options), learner_of(kind, adapt=False, **options)
    changed = {"gain": -0.5}
    test = world(200, 99, **changed)
    before = one_step_error(learner.adopted, world(200, 99))
    wrong = one_step_error(learner.adopted, test)
    for one in (learner, stubborn):
        go_on(one, updates=3, **changed)
    assert (learner.changes, stubborn.changes) == (1, 0)
    assert wrong > 0.3
    assert one_step_error(learner.adopted, test) < 1.5 * before + 0.02
    assert one_step_error(stubborn.adopted, test) > 5.0 * one_step_error(learner.adopted, test)


@pytest.mark.parametrize("kind", ["gp", "svgp", "mlp", "ensemble"])
def test_every_kind_can_start_from_nothing(kind):
    learner = OnlineLearner(lambda: MODELS.load(kind)(FEATURES), 60 * SECOND)
    learner.start_from(MODELS.load(kind)(FEATURES))
    assert len(learner.model.remembered()) == 0


@pytest.mark.parametrize(("force", "changes"), [(0.3, 0), (0.5, 1)])
def test_dry_friction_that_holds_a_resting_robot_is_not_believed_of_one_that_moves(force, changes):
    """As a motor without force would be; what is slight beside the robot's life is no change."""
    learner = learner_of("gp", batches=3, **FAST)
    test = world(200, 99)
    before = one_step_error(learner.adopted, test)
    generator = torch.Generator().manual_seed(0)
    for begin in range(150, 250, 5):
        states = 0.001 * torch.randn(5, 2, generator=generator).double()
        states[:, 0] += torch.pi
        actions = force * torch.randn(5, 1, generator=generator).double()
        stamps = SECOND // 10 * torch.arange(begin, begin + 5)
        learner.learn(Transitions(states, actions, states, stamps=stamps))
        learner.improve()
        if learner.better:
            learner.adopt()
    assert learner.changes == changes
    assert one_step_error(learner.adopted, test) < 1.5 * before + 0.02


def test_a_model_that_is_only_young_is_not_contradicted():
    learner = OnlineLearner(lambda: GaussianProcess(FEATURES, **FAST), 60 * SECOND)
    for seed in range(60):
        # Ever farther from where it began.
        data = world(5, seed, begin=5 * seed)
        near = replace(data, states=data.states * min(0.1 + seed / 50, 1.0))
        after = near.states[:, 1] + 0.05 * (
            9.81 * torch.sin(near.states[:, 0]) - 0.1 * near.states[:, 1] + near.actions[:, 0]
        )
        turned = near.states[:, 0] + 0.05 * after
        learner.learn(replace(near, next_states=torch.stack([turned, after], 1)))
        learner.improve()
        if learner.better:
            learner.adopt()
    assert learner.changes == 0


def test_uncertainty_is_wide_after_a_change_and_narrow_again_when_the_model_proves_right():
    learner = learner_of("gp", **FAST)
    assert (learner.widening, learner.adapting) == (1.0, False)
    go_on(learner, updates=2, gain=-1.0)
    assert learner.changes == 1
    assert learner.adapting
    widest = learner.widening
    assert widest > 5.0
    states, actions = torch.zeros(1, 2).double(), torch.zeros(1, 1).double()
    plain = learner.adopted.predict(states, actions)[1]
    learner.adopted.widening = widest
    assert (learner.adopted.predict(states, actions)[1] > plain).all()
    learner.adopted.widening = 1.0
    go_on(learner, updates=45, gain=-1.0)
    assert (learner.widening, learner.adapting) == (1.0, False)
    assert learner.changes == 1


def test_a_change_that_makes_matters_worse_is_taken_back():
    """The robot is shoved for 15 steps: no other world, although it looks like one."""
    learner, stubborn = learner_of("gp", **FAST), learner_of("gp", adapt=False, **FAST)
    alarmed = False
    for seed in range(40):
        data = world(5, 500 + seed)
        shove = 0.5 if seed < 3 else 0.0
        for one in (learner, stubborn):
            one.learn(replace(data, next_states=data.next_states + shove))
            one.improve()
            if one.better:
                one.adopt()
        alarmed |= learner.changes == 1
    assert alarmed
    assert (learner.changes, learner.adapting) == (0, False)
    assert learner.false_alarms > 0
    found, expected = (one_step_error(one.adopted, world(200, 99)) for one in (learner, stubborn))
    assert found < 1.2 * expected + 0.02


def misleading(update, jump, size=5):
    """Return steps in one sector of angles, which jump the other way than those before them."""
    data = world(400, 700 + update, begin=300 + size * update)
    sector = (data.states[:, 0] - (0.7 * (update % 8) - 2.8)).abs() < 0.3
    data = data[sector][:size]
    return replace(data, next_states=data.next_states + (-1.0) ** update * torch.tensor(jump))


def test_what_holds_nowhere_is_given_up():
    """Whatever a correction learns from some steps misleads it about the next."""
    learner = learner_of("gp", **FAST)
    for update in range(11):
        learner.learn(misleading(update, [0.4, 0.0]))  # no torque turns a pendulum at once
        learner.improve()
        if learner.better:
            learner.adopt()
    assert (learner.changes, learner.false_alarms) == (1, 0)
    assert len(learner.model.remembered()) <= 55  # of 300 that were known before, none


def test_an_old_model_that_still_errs_does_not_come_back():
    """Corrections do worse than nothing, but without them nothing is right either."""
    generator = torch.Generator().manual_seed(0)

    def noisy(data):  # so that no error is large beyond all comparison
        noise = torch.randn(data.next_states.shape, generator=generator).double()
        return replace(data, next_states=data.next_states + noise * torch.tensor([0.0025, 0.05]))

    learner = OnlineLearner(lambda: GaussianProcess(FEATURES, **FAST), 60 * SECOND)
    for seed in range(6):
        learner.learn(noisy(world(50, seed, begin=50 * seed)))
        learner.improve()
        learner.adopt()
    for update in range(8):
        learner.learn(noisy(misleading(update, [0.015, 0.3])))
        learner.improve()
        if learner.better:
            learner.adopt()
    assert learner.proven
    assert learner.adapting
    assert (learner.changes, learner.false_alarms) == (1, 0)


def test_a_second_change_is_another_one():
    learner = learner_of("gp", **FAST)
    go_on(learner, updates=45, gain=0.5)
    go_on(learner, updates=8, gain=1.0)
    assert learner.changes == 2
    assert one_step_error(learner.adopted, world(200, 99)) < 0.05


def test_a_kind_that_cannot_learn_anew_starts_from_nothing():
    class Plain(GaussianProcess):
        def relearn(self, known, new, actions, doubtful=False):
            return False

    learner = OnlineLearner(lambda: Plain(FEATURES, **FAST), 60 * SECOND)
    for seed in range(6):
        learner.learn(world(50, seed))
        learner.improve()
        learner.adopt()
    go_on(learner, updates=20, gain=-1.0)
    assert learner.changes == 1
    assert learner.model.transitions < 200
    assert one_step_error(learner.adopted, world(200, 99, gain=-1.0)) < 0.3


# -- what is stored ---------------------------------------------------------------------------


def test_experience_remembers_where_the_world_changed(tmp_path):
    robot = load_robot("cartpole")

    def steps(count, begin):
        rows = torch.arange(begin, begin + count)[:, None].double()
        return Transitions(
            rows.expand(-1, 4).clone(),
            rows,
            rows.expand(-1, 4).clone(),
            stamps=SECOND * torch.arange(begin, begin + count),
        )

    experience = Experience(tmp_path, robot)
    experience.append(steps(30, 0))
    assert [len(world) for world in experience.worlds()] == [30]
    experience.append(steps(20, 30))
    experience.mark_change(stamp=SECOND * 25)
    experience.mark_change(stamp=SECOND * 99)  # there is no such step
    experience.close()
    again = Experience(tmp_path, robot)
    again.append(steps(10, 0))  # another run, whose clock starts again
    worlds = again.worlds()
    assert [len(world) for world in worlds] == [25, 35]
    assert worlds[1].states[0, 0] == 25.0
    assert [len(world) for world in again.worlds(newest=20)] == [20]


# -- the benchmark ----------------------------------------------------------------------------


def test_recovery_is_when_costs_stay_near_those_of_the_informed():
    informed = torch.ones(100).double()
    costs = informed.clone()
    assert adapt.recovery(costs, informed, 0.1) == 0.0
    costs[:30] = 5.0
    assert adapt.recovery(costs, informed, 0.1) == pytest.approx(3.0)
    costs[95:] = 5.0
    assert adapt.recovery(costs, informed, 0.1) is None


def test_the_benchmark_of_adaptation(tmp_path, monkeypatch):
    monkeypatch.setattr(
        adapt, "QUICK", adapt.Effort(("slippery_patch",), seeds=1, known=200, seconds=4.0)
    )
    file = tmp_path / "rows.json"
    picture = tmp_path / "costs.png"
    result = CliRunner().invoke(
        cli.app, ["bench", "adapt", "--quick", "--json", str(file), "--plot", str(picture)]
    )
    assert result.exit_code == 0, result.output
    rows = json.loads(file.read_text("utf-8"))
    assert [row["variant"] for row in rows] == list(adapt.VARIANTS)
    assert all(list(row) == ["change", "variant", "seed", "recovery_s", "cost"] for row in rows)
    cost = {row["variant"]: row["cost"] for row in rows}
    assert len(set(cost.values())) == 4  # what they did about it was not the same
    assert rows[-1]["recovery_s"] == 0.0
    assert picture.stat().st_size > 1000
