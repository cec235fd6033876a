# Copyright 2026 The mbrl_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Learning while the robot runs: what is held out, and which model may replace which."""

import math

import pytest
import torch
from pendulum import pendulum

from mbrl_ros.dynamics.features import FeatureMap
from mbrl_ros.dynamics.gp import GaussianProcess
from mbrl_ros.dynamics.model import Transitions
from mbrl_ros.dynamics.online import OnlineLearner

SECOND = 1_000_000_000


def experience(count, seed=0, begin=0):
    """Return steps of a pendulum with a stamp every tenth of a second."""
    data = pendulum(count, seed)
    stamps = SECOND // 10 * torch.arange(begin, begin + count)
    return Transitions(*data.tensors(), stamps)


@pytest.fixture
def learner():
    return OnlineLearner(lambda: GaussianProcess(FeatureMap([True, False], 1)), 10 * SECOND)


def cycle(learner, data):
    learner.learn(data)
    learner.improve()
    better = learner.better
    if better:
        learner.adopt()
    return better


def test_some_of_the_newest_are_held_out_and_learned_from_later(learner):
    for begin in range(0, 600, 50):
        learner.learn(experience(50, seed=begin))
    # One in ten of 600 is held out, but for the newest 20 of those.
    assert learner.model.transitions == 600 - 20


def test_models_that_learn_from_a_steady_world_replace_each_other(learner):
    replaced = [cycle(learner, experience(20, seed, 20 * seed)) for seed in range(8)]
    assert all(replaced[:4])
    assert learner.adopted.transitions > 100
    quality = learner.quality()
    assert quality.transitions == 101  # of the last ten seconds
    assert quality.one_step_error < 0.1
    assert 0.7 < quality.coverage90 <= 1.0


def test_a_model_that_got_worse_does_not_replace_a_better_one(learner):
    for seed in range(4):
        assert cycle(learner, experience(50, seed))
    learned = learner.adopted.transitions
    states = pendulum(5).states
    before = learner.adopted.predict(states, states[:, :1])[0]
    # Training that went astray.
    learner.model = GaussianProcess(learner.model.features)
    learner.model.update(pendulum(10, seed=77))
    assert not learner.better
    assert learner.adopted.transitions == learned
    assert torch.equal(learner.adopted.predict(states, states[:, :1])[0], before)


def test_quality_falls_when_the_world_changes_and_the_model_follows(learner):
    """The motor pulls the other way all of a sudden."""
    for seed in range(4):
        cycle(learner, experience(50, seed, 50 * seed))
    before = learner.quality().one_step_error
    replaced = 0
    for seed in range(4, 8):
        data = experience(50, seed, 50 * seed)
        other = pendulum(50, seed)
        turned = data.next_states.clone()
        turned[:, 1] -= 4.0 * 0.05 * other.actions[:, 0]
        changed = Transitions(data.states, data.actions, turned, data.rewards, data.stamps)
        learner.learn(changed)
        if seed == 4:
            assert learner.quality().one_step_error > 3.0 * before
            assert learner.better
        learner.improve()
        if learner.better:
            replaced += 1
            learner.adopt()
    assert replaced >= 2


def test_what_is_refused_changes_nothing(learner):
    cycle(learner, experience(50))
    known = learner.model.transitions
    spoilt = experience(10, seed=3)
    spoilt.states[4, 0] = math.nan
    with pytest.raises(ValueError, match="not finite"):
        learner.learn(spoilt)
    assert learner.model.transitions == known
    assert learner.quality().transitions == 0


def test_a_learner_forgets(learner):
    cycle(learner, experience(50))
    learner.forget()
    assert learner.model.transitions == learner.adopted.transitions == 0
    assert math.isnan(learner.quality().one_step_error)
    assert cycle(learner, experience(30, seed=1))
