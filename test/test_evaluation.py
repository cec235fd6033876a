# Copyright 2026 The mbrl_ros authors
# SPDX-License-Identifier: Apache-2.0
"""The evaluation of models, against systems whose errors are known beforehand."""

import json
import math

import numpy as np
import pytest
import torch

from mbrl_ros.dynamics.dataset import Trajectory
from mbrl_ros.dynamics.evaluation import LEVELS, evaluate
from mbrl_ros.dynamics.features import wrap_angle
from mbrl_ros.dynamics.model import DynamicsModel, make_model
from mbrl_ros.offline.evaluation_report import draw, table
from mbrl_ros.offline.training import fit

NOISE = torch.tensor([0.02, 0.1, 0.05, 0.2]).double()
DRIFT = torch.tensor([0.1, 0.0, 0.4, 0.0]).double()  # the pole goes round and round


class KnownModel(DynamicsModel):
    """The cart-pole of `trajectory`, known but for a bias and its opinion of the noise."""

    kind = "known"

    def __init__(self, features, bias=0.0, confidence=1.0):
        super().__init__(features)
        self.bias, self.confidence = bias, confidence

    def update(self, new):
        raise NotImplementedError

    def outputs(self, states, actions):
        change = torch.zeros_like(states) + DRIFT + self.bias
        change[:, 1] += 0.1 * actions[:, 0]
        variance = torch.zeros_like(states) + (NOISE / self.confidence) ** 2
        return change, variance

    def snapshot(self):
        return {}

    def restore(self, tensors):
        pass


def trajectory(steps, noise=NOISE, seed=0):
    generator = torch.Generator().manual_seed(seed)
    actions = torch.randn(steps, 1, generator=generator, dtype=torch.float64)
    states = [torch.zeros(4).double()]
    for action in actions:
        random = noise * torch.randn(4, generator=generator, dtype=torch.float64)
        state = states[-1] + DRIFT + random
        state[1] += 0.1 * action[0]
        state[2] = wrap_angle(state[2])
        states.append(state)
    stamps = 50_000_000 * torch.arange(steps + 1)
    return Trajectory(stamps, torch.stack(states), actions, torch.zeros(steps, 0).double())


@pytest.fixture(scope="module")
def features(cartpole):
    return make_model("gp", cartpole).features


def test_a_perfect_model_has_no_error_and_never_diverges(cartpole, features):
    found = evaluate(KnownModel(features), [trajectory(100, 0.0 * NOISE)], cartpole, horizon=30)
    assert found.nrmse.max() < 1e-9  # though the angle wraps on the way
    assert found.one_step_error < 1e-9
    assert found.divergence_time(0.5) is None
    assert found.nrmse_unchanged[-1] > 0.3
    assert (found.steps, found.starts, found.propagation) == (100, 71, "ts1")


def test_errors_of_a_biased_model_grow_as_the_bias_does(cartpole, features):
    bias = torch.tensor([0.5, 0.0, 0.0, 0.0]).double()
    found = evaluate(
        KnownModel(features, bias), [trajectory(100, 0.0 * NOISE)], cartpole, horizon=20
    )
    assert found.rmse[:, 0] == pytest.approx([0.5 * k for k in range(1, 21)])
    assert found.rmse[:, 1:].max() < 1e-9
    assert found.one_step_rmse[0] == pytest.approx(0.5)
    # The cart's true positions are 0, 0.1, ..., 10.
    scale = np.std([0.1 * i for i in range(101)])
    assert found.scale[0] == pytest.approx(scale)
    assert found.nrmse[:, 0] == pytest.approx(found.rmse[:, 0] / scale)
    assert found.nrmse_all == pytest.approx(found.nrmse[:, 0] / 2.0)
    steps = math.floor(0.5 * scale / 0.5) + 1
    assert found.divergence_time(0.5, "cart_position") == pytest.approx(0.05 * steps)
    assert found.divergence_time(0.5, "pole_angle") is None


def test_the_scale_of_an_angle_does_not_see_the_wrap(cartpole, features):
    """Hanging still at pi is a small spread, not one of two pi."""
    piece = trajectory(60, 0.0 * NOISE)
    angle = wrap_angle(math.pi + 0.1 * torch.sin(torch.arange(61).double()))
    piece.states[:, 2] = angle
    found = evaluate(KnownModel(features), [piece], cartpole, horizon=5)
    assert found.scale[2] == pytest.approx(0.1 / math.sqrt(2.0), rel=0.1)
    given = torch.tensor([1.0, 2.0, 3.0, 4.0]).double()
    other = evaluate(KnownModel(features), [piece], cartpole, horizon=5, scale=given)
    assert other.nrmse == pytest.approx(found.rmse / given.numpy())


def test_a_model_that_knows_the_noise_covers_as_it_says(cartpole, features):
    """At every horizon, by the Gaussian as well as by particles."""
    pieces = [trajectory(400, seed=seed) for seed in range(5)]
    found = evaluate(KnownModel(features), pieces, cartpole, horizon=10, starts=500)
    for i, level in enumerate(LEVELS):
        assert found.one_step_coverage[i] == pytest.approx(level, abs=0.04)
        assert found.coverage[i].mean(-1) == pytest.approx(level, abs=0.05)
    growth = found.rmse / (NOISE.numpy() * np.sqrt(np.arange(1, 11))[:, None])
    assert growth == pytest.approx(1.0, abs=0.15)


def test_the_smallest_number_of_particles_already_covers_what_it_should(cartpole, features):
    pieces = [trajectory(1000, seed=seed) for seed in range(3)]
    model = KnownModel(features)
    few, many = (
        evaluate(model, pieces, cartpole, horizon=1, starts=3000, particles=count).coverage[2]
        for count in (39, 400)
    )
    assert few.mean() == pytest.approx(0.95, abs=0.012)
    assert many.mean() == pytest.approx(0.95, abs=0.012)


def test_an_overconfident_model_is_found_out(cartpole, features):
    pieces = [trajectory(300)]
    found = evaluate(KnownModel(features, confidence=5.0), pieces, cartpole, horizon=5)
    assert found.one_step_coverage[1].max() < 0.5
    assert found.coverage[1].max() < 0.5


def test_a_model_that_blows_up_has_an_infinite_error_and_covers_nothing(cartpole, features):
    bias = torch.tensor([math.nan, 0.0, 0.0, 0.0]).double()
    found = evaluate(KnownModel(features, bias), [trajectory(60)], cartpole, horizon=5)
    assert np.isinf(found.rmse[:, 0]).all()
    assert (found.coverage[:, :, 0] == 0.0).all()
    assert found.divergence_time(0.5) == pytest.approx(0.05)
    assert json.loads(found.to_json())["rmse"][0][0] is None


def test_starts_have_the_whole_horizon_behind_them_in_one_trajectory(cartpole, features):
    """Two pieces that do not follow each other must not be joined."""
    first, second = trajectory(12, 0.0 * NOISE), trajectory(9, 0.0 * NOISE, seed=1)
    second.states[:, 0] += 1000.0
    found = evaluate(KnownModel(features), [first, second], cartpole, horizon=9)
    assert (found.starts, found.steps) == (5, 21)
    assert found.rmse.max() < 1e-9
    with pytest.raises(ValueError, match=r"no trajectory has 13 .* the longest has 12"):
        evaluate(KnownModel(features), [first, second], cartpole, horizon=13)


def test_bad_requests_are_refused(cartpole, features):
    model, pieces = KnownModel(features), [trajectory(20)]
    with pytest.raises(ValueError, match="particles is 20, expected at least 39"):
        evaluate(model, pieces, cartpole, horizon=5, particles=20)
    with pytest.raises(ValueError, match="does not offer propagation 'tsinf'"):
        evaluate(model, pieces, cartpole, horizon=5, propagation="tsinf")
    with pytest.raises(ValueError, match="no trajectory"):
        evaluate(model, [], cartpole)


def test_rewards_are_evaluated_where_there_are_any(cartpole):
    class Rewarded(KnownModel):
        def outputs(self, states, actions):
            change, variance = super().outputs(states, actions)
            reward = states[:, :1] + 0.25
            return torch.cat([change, reward], -1), torch.cat([variance, variance[:, :1]], -1)

    model = Rewarded(make_model("gp", cartpole).features)
    model.features.rewards = 1
    piece = trajectory(30)
    piece = Trajectory(piece.stamps, piece.states, piece.actions, piece.states[:-1, :1])
    found = evaluate(model, [piece], cartpole, horizon=5)
    assert found.reward_rmse == pytest.approx(0.25)


def test_the_report_holds_what_was_found(cartpole, features, tmp_path):
    bias = torch.tensor([0.5, 0.0, 0.0, 0.0]).double()
    found = evaluate(KnownModel(features, bias), [trajectory(100)], cartpole, horizon=20)
    values = json.loads(found.to_json())
    assert len(values["horizons_s"]) == len(values["nrmse_all"]) == 20
    assert values["divergence_s"]["0.5"]["cart_position"] == found.divergence_time(
        0.5, "cart_position"
    )
    assert values["divergence_s"]["1.0"]["pole_angle"] is None
    assert values["reward_rmse"] is None
    lines = table(found)
    assert {"cart_position", "pole_angle", "all"} <= set(lines.columns[0]._cells)
    draw(found, tmp_path / "evaluation.png", "known")
    assert (tmp_path / "evaluation.png").read_bytes()[:4] == b"\x89PNG"


def test_a_model_is_evaluated_on_what_it_learned(cartpole):
    """A GP on the same system: errors near the noise floor, intervals near what they say."""
    torch.set_num_threads(1)
    train, held_out = trajectory(200), trajectory(150, seed=7)
    model = make_model("gp", cartpole)
    fit(model, train.transitions(), max_seconds=60.0)
    found = evaluate(model, [held_out], cartpole, horizon=10, starts=40, propagation="ts1")
    assert found.one_step_rmse == pytest.approx(NOISE.numpy(), rel=0.4)
    assert found.one_step_coverage[1].mean() == pytest.approx(0.9, abs=0.08)
    empty = evaluate(make_model("gp", cartpole), [held_out], cartpole, horizon=10, starts=40)
    assert empty.nrmse_all == pytest.approx(empty.nrmse_unchanged, rel=1e-4)
