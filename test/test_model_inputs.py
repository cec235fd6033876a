# Copyright 2026 The mbrl_ros authors
# SPDX-License-Identifier: Apache-2.0
"""State dimensions that models do not see, because how the robot moves does not depend on them."""

import math

import pytest
import torch
from pendulum import STEP, pendulum

from mbrl_ros.dynamics.features import FeatureMap, wrap_angle
from mbrl_ros.dynamics.gp import GaussianProcess
from mbrl_ros.dynamics.model import DynamicsModel, Transitions, make_model
from mbrl_ros.dynamics.moment_matching import propagate_moments
from mbrl_ros.dynamics.snapshot import SnapshotError, decode, describe, encode
from mbrl_ros.kinds import MODELS
from mbrl_ros.resources import config_directory
from mbrl_ros.robots import RobotError, load_robot
from mbrl_ros.robots.explain import explain

KINDS = ["gp", "svgp", "ensemble"]
ELSEWHERE = torch.tensor([100.0, 2.0, 0.0, 0.0])  # as far as the model sees, the same


def free_pendulum(count, seed=0):
    """Return steps of a pendulum on a turntable on a cart: (place, heading, angle, velocity).

    Place and heading change with its velocity, and it is the same pendulum everywhere.
    """
    data = pendulum(count, seed)
    generator = torch.Generator().manual_seed(seed + 1)
    where = torch.randn(count, 2, generator=generator).double()
    where[:, 1] = wrap_angle(where[:, 1])
    after = where + STEP * data.next_states[:, 1:]
    after[:, 1] = wrap_angle(after[:, 1])
    return Transitions(
        torch.cat([where, data.states], 1), data.actions, torch.cat([after, data.next_states], 1)
    )


@pytest.fixture
def robot(cartpole_file):
    return load_robot(str(cartpole_file(state__0__model_input=False)))


@pytest.fixture(scope="module", params=KINDS)
def learned(request):
    features = FeatureMap([False, True, True, False], 1, input_mask=[False, False, True, True])
    model = MODELS.load(request.param)(features, seed=0)
    model.update(free_pendulum(150))
    model.improve()
    return model


def test_inputs_are_those_of_the_mask():
    features = FeatureMap([False, True, True, False], 1, input_mask=[False, False, True, True])
    states, actions = torch.tensor([[5.0, 1.0, math.pi / 2, 3.0]]), torch.tensor([[7.0]])
    expected = torch.tensor([3.0, 1.0, 0.0, 7.0])
    assert features.size == 4
    assert torch.allclose(features.inputs(states, actions)[0], expected, atol=1e-6)
    inputs, deltas = features.example(
        states[0].double().numpy(), actions[0].numpy(), states[0].double().numpy() + 6.0
    )
    assert torch.allclose(torch.from_numpy(inputs).float(), expected, atol=1e-6)
    assert deltas == pytest.approx([6.0, 6.0 - 2 * math.pi, 6.0 - 2 * math.pi, 6.0])


def test_angles_are_inputs_or_not_one_by_one():
    features = FeatureMap([True, True], 1, input_mask=[False, True])
    inputs = features.inputs(torch.tensor([[1.0, 0.0]]), torch.tensor([[7.0]]))
    assert torch.equal(inputs, torch.tensor([[0.0, 1.0, 7.0]]))
    nothing = FeatureMap([True, False], 1, input_mask=[False, False])
    assert torch.equal(
        nothing.inputs(torch.ones(1, 2), torch.tensor([[7.0]]))[0], torch.tensor([7.0])
    )


def test_what_is_learned_in_one_place_holds_everywhere(learned):
    test = free_pendulum(50, seed=5)
    mean, variance = learned.predict(test.states, test.actions)
    moved, as_sure = learned.predict(test.states + ELSEWHERE, test.actions)
    assert torch.allclose(
        learned.features.deltas(mean + ELSEWHERE, moved), torch.zeros(50, 4).double(), atol=1e-9
    )
    assert torch.allclose(variance, as_sure)
    error = learned.features.deltas(test.next_states, mean)
    changes = learned.features.deltas(test.states, test.next_states)
    assert error.square().mean() < 0.05 * changes.square().mean()


@pytest.mark.parametrize("propagation", ["mean", "ts1", "tsinf"])
def test_rollouts_move_along(learned, propagation):
    generator = torch.Generator().manual_seed(0)
    actions = torch.randn(8, 6, 1, generator=generator)
    start = torch.tensor([0.3, 0.5, -0.4, 1.0]).expand(6, -1)
    paths = [
        learned.rollout(begin, actions, propagation, torch.Generator().manual_seed(1))
        for begin in (start, start + ELSEWHERE)
    ]
    apart = learned.features.deltas(paths[0] + ELSEWHERE, paths[1])
    assert torch.allclose(apart, torch.zeros(9, 6, 4), atol=1e-3)
    if propagation == "mean":
        slow = start.double()
        for action in actions.double():
            slow = learned.predict(slow, action)[0]
        assert torch.allclose(
            learned.features.deltas(slow, paths[0][-1].double()),
            torch.zeros(6, 4).double(),
            atol=2e-2,
        )


def test_slopes_are_those_of_the_prediction(learned):
    data = free_pendulum(20, seed=3)
    expected = DynamicsModel.linearise(learned, data.states, data.actions)  # by autograd
    found = learned.linearise(data.states, data.actions)
    for mine, wanted in zip(found, expected, strict=True):
        assert torch.allclose(mine, wanted, atol=1e-6)
    # What comes of a place is that place, and of where it is nothing else depends on it.
    assert torch.allclose(found[0][:, :, :2], torch.eye(4)[:, :2].double().expand(20, 4, 2))


def test_uncertainty_of_a_place_adds_up():
    features = FeatureMap([False, True, True, False], 1, input_mask=[False, False, True, True])
    model = GaussianProcess(features, seed=0)
    model.update(free_pendulum(100))
    model.improve()
    sure, unsure = torch.diag(torch.tensor([0.0, 0.0, 0.01, 0.01])), torch.zeros(4, 4)
    unsure[0, 0] = 4.0
    mean, actions = torch.tensor([0.0, 0.0, 0.3, 1.0]), torch.zeros(3, 1)
    means, covariances = propagate_moments(model, mean, sure, actions)
    again, wider = propagate_moments(model, mean, sure + unsure, actions)
    assert torch.allclose(means, again)
    assert torch.allclose(wider, covariances + unsure.double())


def test_a_model_of_other_inputs_is_refused(robot, cartpole, cartpole_file):
    other = load_robot(str(cartpole_file(state__1__model_input=False)))
    model = make_model("gp", robot)
    model.update(Transitions(torch.randn(9, 4), torch.randn(9, 1), torch.randn(9, 4)))
    data = encode(model, describe(robot, model, 0.1))
    assert decode(data, make_model("gp", robot), robot).left_out == "cart_position"
    with pytest.raises(
        SnapshotError, match=r"model_input: false for \[cart_position\], the robot's file for \[\]"
    ):
        decode(data, make_model("gp", cartpole), cartpole)
    with pytest.raises(SnapshotError, match=r"for \[cart_position\], .* for \[cart_velocity\]"):
        decode(data, make_model("gp", other), other)


def test_a_check_says_what_models_do_not_see(robot):
    line = next(line for line in explain(robot) if "cart_position [m]" in line)
    assert line.endswith(", no input of models")


def test_tables_see_every_dimension(tmp_path):
    text = (config_directory() / "robots" / "dyna_maze.yaml").read_text("utf-8")
    path = tmp_path / "maze.yaml"
    path.write_text(
        text.replace(
            "discrete: true, safe_range", "discrete: true, model_input: false, safe_range"
        ),
        "utf-8",
    )
    with pytest.raises(RobotError, match="tables see every dimension; leave out model_input"):
        load_robot(str(path))
