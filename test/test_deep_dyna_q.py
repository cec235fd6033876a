# Copyright 2026 The mbrl_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Dyna-Q with networks, and DQN, its case without a model."""

import math

import numpy as np
import pytest
import safetensors.torch
import torch

from mbrl_ros.dynamics.ensemble import Ensemble
from mbrl_ros.dynamics.features import FeatureMap
from mbrl_ros.dynamics.model import DynamicsModel
from mbrl_ros.dynamics.snapshot import SnapshotError, pack, unseal
from mbrl_ros.imagination.deep_dyna_q import FORMAT, DeepDynaQ, train
from mbrl_ros.imagination.dyna_q import DynaQ
from mbrl_ros.imagination.episodes import evaluate

LENGTH = 4
SMALL = {"hidden": 32, "batch_size": 64, "learning_rate": 3e-3, "discount": 0.9, "averaging": 0.05}


class Corridor:
    """Walk back (0) or forth (1) from 0 to LENGTH, where a reward of 1 waits and it ends."""

    def reset(self, seed=None):
        self.at = 0.0
        return np.array([self.at]), {}

    def step(self, action):
        self.at = max(self.at + 2 * action - 1, 0.0)
        arrived = self.at >= LENGTH
        return np.array([self.at]), float(arrived), arrived, False, {}


class Known(DynamicsModel):
    """The corridor itself."""

    kind = "known"

    def update(self, new):
        assert ((new.actions == 0.0) | (new.actions == 1.0)).all()
        assert (new.actions.sum(1) == 1.0).all()
        after = self.predict(new.states, new.actions)[0]
        assert torch.equal(after, new.next_states)
        self.transitions += len(new)

    def outputs(self, states, actions):
        change = (states + actions[:, 1:] - actions[:, :1]).clamp_min(0.0) - states
        return change, torch.zeros_like(change)

    def snapshot(self):
        return {}

    def restore(self, tensors):
        pass


def reward(states, actions, after):
    return (after[:, 0] >= LENGTH).float()


def arrived(states, actions, after):
    return after[:, 0] >= LENGTH


def true_values():
    """Return what both actions are worth at 0, 1, 2, 3."""
    best = [0.9 ** (LENGTH - 1 - at) for at in range(LENGTH)]
    return torch.tensor(
        [
            [0.9 * best[max(at - 1, 0)], 1.0 if at == LENGTH - 1 else 0.9 * best[at + 1]]
            for at in range(LENGTH)
        ]
    )


def error(agent):
    places = torch.arange(LENGTH, dtype=torch.float32)[:, None]
    return float((agent.values(places) - true_values()).abs().max())


@pytest.mark.parametrize("target", ["double", "single"])
def test_dqn_finds_what_actions_are_worth(target):
    agent = DeepDynaQ(1, 2, target=target, warmup=100, exploration=1.0, **SMALL)
    for _ in train(agent, Corridor(), 800, seed=0):
        pass
    assert error(agent) < 0.1
    assert evaluate(agent.greedy, Corridor(), 2, seed=0) == [1.0, 1.0]


def test_a_model_saves_real_steps():
    settings = {"warmup": 50, "exploration": 1.0, "rollout_interval": 5, **SMALL}
    model = Known(FeatureMap([False], 2))
    agents = {
        "dyna": DeepDynaQ(1, 2, model, reward, arrived, planning_updates=15, **settings),
        "dqn": DeepDynaQ(1, 2, **settings),
    }
    for agent in agents.values():
        for _ in train(agent, Corridor(), 150, seed=0):
            pass
    assert error(agents["dyna"]) < 0.1 < 0.5 * error(agents["dqn"])
    assert model.transitions == 150  # a lesson every 50 steps


def test_an_ensemble_and_a_learned_reward_serve_too():
    model = Ensemble(FeatureMap([False], 2, rewards=1), members=2, hidden=(16,), steps=5)
    agent = DeepDynaQ(1, 2, model, termination=arrived, warmup=50, slices=2, **SMALL)
    for _ in train(agent, Corridor(), 120, seed=0):
        pass
    assert model.transitions == 100
    assert agent.values(torch.zeros(1, 1)).isfinite().all()


def test_the_same_seed_learns_the_same():
    def learned(seed):
        model = Ensemble(FeatureMap([False], 2), members=2, hidden=(16,), seed=seed, steps=5)
        agent = DeepDynaQ(1, 2, model, reward, arrived, seed, warmup=50, slices=2, **SMALL)
        for _ in train(agent, Corridor(), 100, seed):
            pass
        return agent.values(torch.zeros(1, 1))

    first, again, other = learned(1), learned(1), learned(2)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_what_cannot_be_used_is_refused():
    def refused(reason, *arguments, **settings):
        with pytest.raises(ValueError, match=reason):
            DeepDynaQ(*arguments, **settings)

    refused("actions is 0, expected at least 1", 1, 0)
    refused("discount is 1.5, expected 0.0 to 1.0", 1, 2, discount=1.5)
    refused("learning_rate is nan", 1, 2, learning_rate=math.nan)
    refused("target is 'triple', expected double, single", 1, 2, target="triple")
    refused("scales are \\(1.0, 0.0\\), expected 2 positive", 2, 2, scales=[1.0, 0.0])
    refused("has no setting 'speed'", 1, 2, speed=1)
    model = Known(FeatureMap([False], 1))
    refused("1 state and 1 action dimensions, expected 1 and 2", 1, 2, model)
    refused("there is nothing to maximise", 1, 1, model)
    agent = DeepDynaQ(1, 2)
    for step, reason in (
        (([0.0], 2, 0.0, [0.0], False), "action is 2, expected 0 to 1"),
        (([0.0], 1, math.nan, [0.0], False), "not finite"),
        (([0.0, 0.0], 1, 0.0, [0.0], False), "not of 1 state dimensions"),
    ):
        with pytest.raises(ValueError, match=reason):
            agent.observe(*step)
    assert agent.steps == 0


# -- files -----------------------------------------------------------------------------------


def test_an_agent_comes_back_from_its_file_and_learns_on(tmp_path):
    path = tmp_path / "agent.safetensors"
    agent = DeepDynaQ(1, 2, warmup=50, scales=[2.0], **SMALL)
    for _ in train(agent, Corridor(), 400, seed=0):
        pass
    agent.save(path)
    places = torch.arange(LENGTH, dtype=torch.float32)[:, None]
    model = Known(FeatureMap([False], 2))
    loaded = DeepDynaQ.load(path, model, reward, arrived, seed=1)
    assert torch.equal(loaded.values(places), agent.values(places))
    assert (loaded.steps, loaded.hidden, loaded.learning_rate) == (400, 32, 3e-3)
    for _ in train(loaded, Corridor(), 49, seed=1):
        pass
    assert torch.equal(loaded.values(places), agent.values(places))  # nothing to learn from yet
    for _ in train(loaded, Corridor(), 400, seed=1):
        pass
    assert error(loaded) < 0.1
    assert model.transitions > 0
    loaded.save(path)
    assert DeepDynaQ.load(path).steps == 849


def test_a_file_that_is_no_such_agent_is_refused(tmp_path):
    path = tmp_path / "agent.safetensors"
    DeepDynaQ(3, 2, hidden=8).save(path)
    data = path.read_bytes()
    tensors, metadata = safetensors.torch.load(data), unseal(data, FORMAT)

    def refused(reason, content):
        path.write_bytes(content)
        with pytest.raises(SnapshotError, match=reason) as refusal:
            DeepDynaQ.load(path)
        assert str(path) in str(refusal.value)

    refused("checksum does not match", data[:-1] + bytes([data[-1] ^ 1]))
    refused("truncated", data[:7])
    for name, text, reason in (
        ("steps", "-3", "steps is -3, expected at least 0"),
        ("hidden", "wide", "setting hidden is 'wide'"),
        ("hidden", "9", r"'weight0' is torch.float32 of shape \[1, 3, 8\], expected .* \[1, 3, 9"),
        ("layers", "3", "expected scales and 4 layers"),
        ("layers", "1000000000", "setting layers is '1000000000': .* expected 1 to 8"),
        ("discount", "1.5", "setting discount is '1.5'"),
        ("target", "triple", "setting target is 'triple'"),
        ("speed", "1", "has the settings"),
    ):
        refused(reason, pack(tensors, metadata | {name: text}))
    bad = dict(tensors, bias1=torch.full_like(tensors["bias1"], math.nan))
    refused("'bias1' holds a value that is not finite", pack(bad, metadata))
    refused("scales are", pack(dict(tensors, scales=torch.zeros(3)), metadata))
    DynaQ(3, 2).save(path)
    refused("format is 'mbrl_ros.dyna_q.1', expected 'mbrl_ros.deep_dyna_q.1'", path.read_bytes())
