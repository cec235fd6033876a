# Copyright 2026 The mbrl_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Tabular Dyna-Q as a policy of a discrete robot."""

import math

import pytest
import safetensors.torch
import torch

from mbrl_ros.dynamics.model import Transitions
from mbrl_ros.dynamics.snapshot import SnapshotError, pack, unseal
from mbrl_ros.imagination.snapshot import FORMAT, decode
from mbrl_ros.imagination.tables import TablePolicy, TabularDynaQ, decode_table
from mbrl_ros.robots import load_robot
from mbrl_ros.sim.plant import make_plant

pytest.importorskip("gymnasium")


def cell(plant):
    return torch.tensor([[plant.readings()["observation"]["0"]]], dtype=torch.float64)


def live(robot, learner, steps, seed=0):
    """Let a learner act in the robot's plant and learn; return how long its episodes were."""
    plant, generator = make_plant(robot), torch.Generator().manual_seed(seed)
    lengths = [0]
    for step in range(steps):
        before = cell(plant)
        if step % 10 == 0:
            learner.train(None, 1)
            learner.adopt()
            policy, _ = decode_table(learner.snapshot(), robot)
        action = policy.sample(before, generator)
        plant.step(action[0].tolist(), 1)
        reward = torch.tensor([[plant.reward]], dtype=torch.float64)
        learner.observe(
            Transitions(before, action.double(), cell(plant), reward, torch.zeros(1).long())
        )
        lengths[-1] += 1
        if plant.ended:
            plant.reset()
            lengths.append(0)
    return lengths[:-1]


def walk(robot, policy):
    """Return how many of its best actions lead to the goal."""
    plant = make_plant(robot)
    for step in range(100):
        if plant.ended:
            return step
        plant.step(policy.act(cell(plant))[0].tolist(), 1)
    return math.inf


@pytest.fixture(scope="module")
def maze():
    return load_robot("dyna_maze")


@pytest.fixture(scope="module")
def learned(maze):
    learner = TabularDynaQ(maze, seed=1)
    lengths = live(maze, learner, 1500, seed=1)
    assert min(lengths) == 14
    assert learner.train(None, 1)
    assert not learner.train(None, 1)  # nothing is new
    learner.adopt()
    return learner


def test_a_table_learns_the_shortest_way(maze, learned):
    policy, info = decode_table(learned.snapshot(100, 200), maze)
    assert walk(maze, policy) == 14
    assert (info.kind, info.steps, info.generation) == ("dyna_q", 1500, 151)
    assert (info.effective_from, info.next_effective_from) == (100, 200)
    assert policy.value(torch.tensor([[8.0]])).tolist() == [0.0]  # nothing follows from the goal
    assert policy.value(torch.tensor([[17.0]])).item() == pytest.approx(1.0, abs=0.1)


def test_what_knows_nothing_acts_at_random(maze):
    learner = TabularDynaQ(maze)
    policy, info = decode_table(learner.snapshot(), maze)
    assert (info.updates, info.steps) == (0, 0)
    generator = torch.Generator().manual_seed(0)
    states = torch.full((4000, 1), 18.0)
    counts = policy.sample(states, generator)[:, 0].long().bincount(minlength=4)
    assert len(counts) == 4  # never the safe command
    assert counts.min() > 800


def test_a_share_of_actions_is_random(maze, learned):
    policy, _ = decode_table(learned.snapshot(), maze)
    states = torch.full((4000, 1), 17.0)  # the goal is above
    actions = policy.sample(states, torch.Generator().manual_seed(0))
    assert (actions == 0.0).double().mean().item() == pytest.approx(0.925, abs=0.02)


def test_a_learner_goes_on_from_a_snapshot(maze, learned):
    again = TabularDynaQ(maze, exploration=0.0)
    again.start_from(learned.snapshot())
    assert again.updates == learned.updates
    assert live(maze, again, 42) == [14, 14, 14]
    again.forget()
    assert again.updates == again.steps == 0
    assert decode(again.snapshot(), maze)[1].updates == 0


def test_the_same_seed_learns_the_same(maze):
    one, two, other = (TabularDynaQ(maze, seed=seed) for seed in (3, 3, 4))
    for learner, seed in ((one, 3), (two, 3), (other, 4)):
        live(maze, learner, 1000, seed)
    tables = [
        decode_table(learner.snapshot(), maze)[0].tensors["values"]
        for learner in (one, two, other)
    ]
    assert torch.equal(tables[0], tables[1])
    assert not torch.equal(tables[0], tables[2])


def test_what_a_table_cannot_be_for_is_refused(cartpole, maze):
    with pytest.raises(ValueError, match="'cartpole' has continuous actions; a table needs discr"):
        TablePolicy(cartpole)
    with pytest.raises(ValueError, match=r"step_size is 2\.0, expected"):
        TabularDynaQ(maze, step_size=2.0)
    learner = TabularDynaQ(maze)
    one = torch.ones(1, 1, dtype=torch.float64)
    for state, action, reason in ((0.5, 1.0, "whole"), (1.0, 4.0, "invalid"), (60.0, 0.0, "inv")):
        new = Transitions(state * one, action * one, one, one, torch.zeros(1).long())
        with pytest.raises(ValueError, match=reason):
            learner.observe(new)


def test_a_snapshot_that_is_no_table_of_this_robot_is_refused(maze, learned):
    data = learned.snapshot()
    tensors, metadata = safetensors.torch.load(data), unseal(data, FORMAT)
    few = {"values": torch.zeros(5, 4).double(), "last_tried": torch.zeros(5, 4).long()}
    empty = {name: tensors[name][:0] for name in tensors if tensors[name].ndim == 1}
    share = {"exploration": tensors["exploration"]}
    for changed, reason in (
        (share | {"exploration": torch.tensor([1.5]).double()}, "exploration is"),
        (empty | few | share, "the table has 5 states and 4 actions, expected 54 and 4"),
        ({"values": torch.full((54, 4), math.nan).double()}, "not finite"),
        ({"next_states": tensors["next_states"] + 54}, "next_states"),
    ):
        with pytest.raises(SnapshotError, match=reason):
            decode(pack(tensors | changed, metadata), maze)
    with pytest.raises(SnapshotError, match="does not fit the robot"):
        decode(pack(tensors, metadata | {"kind": "sac"}), maze)
