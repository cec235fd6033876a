# Copyright 2026 The mbrl_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Noise, objective, MPPI and delay compensation, on a model that is known exactly."""

import math

import pytest
import torch

from mbrl_ros.dynamics.features import FeatureMap
from mbrl_ros.dynamics.model import DynamicsModel
from mbrl_ros.planning.delay import DelayCompensation
from mbrl_ros.planning.mppi import MPPI
from mbrl_ros.planning.noise import coloured_noise, random_actions
from mbrl_ros.planning.objective import Objective
from mbrl_ros.planning.planner import (
    PlanningError,
    Problem,
    actions_in_force,
    make_planner,
)

STEP = 0.05


class Cart(DynamicsModel):
    """A 1 kg cart without a pole; `poison` spoils predictions where the action exceeds it."""

    kind = "cart"

    def __init__(self, poison=math.inf):
        super().__init__(FeatureMap([False, False, True, False], 1))
        self.poison = poison

    def update(self, data):
        raise NotImplementedError

    def outputs(self, states, actions):
        force = actions[:, 0]
        velocity = states[:, 1] + STEP * force
        position = states[:, 0] + STEP * velocity
        position = torch.where(force > self.poison, torch.nan, position)
        after = torch.stack([position, velocity, states[:, 2], states[:, 3]], -1)
        return after - states, torch.zeros_like(after)

    def snapshot(self):
        return {}

    def restore(self, tensors):
        pass


@pytest.fixture
def objective(cartpole):
    return Objective(cartpole)


def problem(position=0.0, goal=0.5, seed=0, **settings):
    return Problem(
        torch.tensor([position, 0.0, 0.0, 0.0]),
        torch.tensor([goal, 0.0]),
        torch.zeros(1),
        seed=seed,
        **settings,
    )


# -- noise ---------------------------------------------------------------------------------


@pytest.mark.parametrize("exponent", [0.0, 1.0, 2.0])
def test_noise_has_unit_variance_and_its_colour(exponent):
    generator = torch.Generator().manual_seed(0)
    noise = coloured_noise(exponent, 64, 4000, 2, generator)
    assert noise.shape == (64, 4000, 2)
    assert float(noise.square().mean()) == pytest.approx(1.0, abs=0.05)
    power = torch.fft.rfft(noise, dim=0).abs().square().mean((1, 2))[2:20]
    slope = torch.diff(power.log()).sum() / math.log(19 / 2)
    assert float(slope) == pytest.approx(-exponent, abs=0.25)


def test_random_actions_are_smooth_bounded_and_repeatable():
    actions = random_actions([-2.0], [6.0], 0.3, 500, seed=1)
    assert torch.equal(actions, random_actions([-2.0], [6.0], 0.3, 500, seed=1))
    assert not torch.equal(actions, random_actions([-2.0], [6.0], 0.3, 500, seed=2))
    assert float(actions.min()) >= -2.0
    assert float(actions.max()) <= 6.0
    assert float(torch.diff(actions, dim=0).std()) < 1.2 * float(actions.std())


# -- objective -----------------------------------------------------------------------------


def test_cost_is_the_sum_of_its_terms(objective):
    state = torch.tensor([1.7, 2.0, math.pi, 3.0])
    cost = objective.stage_cost(state, torch.tensor([5.0]), torch.tensor([0.7, 0.0]))
    goal = 6.0 * 1.0**2 + 4.0 * 4.0  # half a turn away: chord 2
    others = 0.05 * 2.0**2 + 0.02 * 3.0**2 + 0.02 * 5.0**2
    assert float(cost) == pytest.approx(goal + others + 100.0 * 0.2**2, rel=1e-5)


def test_angles_wrap_in_the_cost(objective):
    goal = torch.tensor([0.0, 3.0])
    near = objective.stage_cost(torch.tensor([0.0, 0.0, -3.0, 0.0]), torch.zeros(1), goal)
    far = objective.stage_cost(torch.tensor([0.0, 0.0, 2.0, 0.0]), torch.zeros(1), goal)
    assert near < far


# -- MPPI ----------------------------------------------------------------------------------


def test_closed_loop_reaches_the_goal(objective):
    planner, model, plan = MPPI(objective, [-10.0], [10.0], samples=200), Cart(), None
    state = torch.zeros(4)
    for tick in range(60):
        problem_now = Problem(state, torch.tensor([0.5, 0.0]), torch.zeros(1), seed=tick)
        plan = planner.plan(problem_now, model, plan)
        state = model.predict(state[None], plan.actions[:1])[0][0]
    assert float(state[0]) == pytest.approx(0.5, abs=0.05)
    assert float(state[1].abs()) < 0.2


def test_planning_is_a_function_of_its_inputs(objective):
    planner, model = MPPI(objective, [-10.0], [10.0], samples=100), Cart()
    first = planner.plan(problem(), model, None)
    kept = first.actions.clone()
    again, other = planner.plan(problem(), model, None), planner.plan(problem(seed=1), model, None)
    assert torch.equal(first.actions, again.actions)
    assert not torch.equal(first.actions, other.actions)
    planner.plan(problem(seed=2), model, first)
    assert torch.equal(first.actions, kept)


def test_cost_falls_with_samples_and_iterations(objective):
    def cost(samples, iterations):
        planner = MPPI(objective, [-10.0], [10.0], samples=samples, iterations=iterations)
        return sum(planner.plan(problem(seed=s), Cart(), None).cost for s in range(10))

    assert cost(1000, 1) < cost(25, 1)
    assert cost(100, 5) < cost(100, 1)


def test_actions_stay_within_the_bounds(objective):
    plan = MPPI(objective, [-1.0], [2.0], samples=100).plan(problem(goal=1.2), Cart(), None)
    assert float(plan.actions.min()) >= -1.0
    assert float(plan.actions.max()) <= 2.0
    assert plan.actions.shape == (25, 1)
    assert plan.states.shape == (26, 4)


def test_the_effective_sample_size_is_kept(objective):
    for goal in (0.01, 1.2):
        planner = MPPI(objective, [-10.0], [10.0], samples=400, effective_share=0.1)
        plan = planner.plan(problem(goal=goal), Cart(), None)
        assert plan.effective_samples == pytest.approx(40.0, rel=0.05)


def test_predictions_that_are_not_finite_are_discarded(objective):
    planner = MPPI(objective, [-10.0], [10.0], samples=200)
    plan = planner.plan(problem(), Cart(poison=4.0), None)
    assert 0 < plan.discarded < 200
    assert math.isfinite(plan.cost)
    with pytest.raises(PlanningError, match="all 200 predicted trajectories"):
        planner.plan(problem(), Cart(poison=-math.inf), None)


def test_a_spent_time_budget_leaves_one_iteration(objective):
    planner = MPPI(objective, [-10.0], [10.0], samples=50, iterations=20)
    hurried = planner.plan(problem(time_budget=1e-9), Cart(), None)
    once = MPPI(objective, [-10.0], [10.0], samples=50).plan(problem(), Cart(), None)
    assert torch.equal(hurried.actions, once.actions)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"samples": 0}, "samples is 0"),
        ({"horizon": 0}, "horizon is 0"),
        ({"iterations": -1}, "iterations is -1"),
        ({"noise": 0.0}, "noise is 0.0"),
        ({"least_noise": 0.9}, "least_noise is 0.9"),
        ({"effective_share": 0.0}, "effective_share is 0.0"),
    ],
)
def test_settings_that_cannot_be_used_are_named(cartpole, settings, message):
    with pytest.raises(ValueError, match=message):
        make_planner("mppi", cartpole, **settings)


def test_unknown_planners_are_refused(cartpole):
    with pytest.raises(ValueError, match=r"unknown planner 'magic'; expected one of .*mppi"):
        make_planner("magic", cartpole)


# -- delay ---------------------------------------------------------------------------------


def test_actions_in_force_mix_with_the_one_before():
    actions = torch.tensor([[[2.0]], [[4.0]]])
    mixed = actions_in_force(torch.tensor([8.0]), actions, 0.25)
    assert mixed[:, 0, 0].tolist() == [0.25 * 8.0 + 0.75 * 2.0, 0.25 * 2.0 + 0.75 * 4.0]
    assert actions_in_force(torch.tensor([8.0]), actions, 0.0) is actions


def test_delay_is_followed_and_bounded():
    delay = DelayCompensation(STEP, [0.0])
    assert delay.delay == 0.0
    for _ in range(100):
        delay.observe(0.02)
    assert delay.delay == pytest.approx(0.02)
    delay.observe(1e9)
    assert delay.delay <= 0.02 + 0.1 * 4.0 * STEP


@pytest.mark.parametrize("periods", [0.4, 1.0, 1.4, 2.6])
def test_prediction_over_the_delay_is_where_the_robot_will_be(periods):
    """Simulate in fine steps a cart whose commands come late; the plan must start on it."""
    fine = 20
    sent = [3.0, -2.0, 5.0, -4.0, 1.0]
    delay = DelayCompensation(STEP, [0.0])
    delay.observe(periods * STEP)
    for force in sent:
        delay.sent([force])
    start, before, fraction = delay.start_of_plan(torch.zeros(4), Cart())

    whole, position, velocity = math.floor(periods), 0.0, 0.0
    for i in range(whole * fine):
        # Tick 0 is now; the action of tick k is in force from (k + periods) on.
        newest = math.floor((i + 0.5) / fine - periods)
        force = sent[len(sent) + newest]
        velocity += STEP / fine * force
        position += STEP / fine * velocity
    assert float(before[0]) == sent[-1]
    assert fraction == pytest.approx(periods - whole)
    assert float(start[1]) == pytest.approx(velocity, abs=1e-5)
    assert float(start[0]) == pytest.approx(position, abs=0.03)
