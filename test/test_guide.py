# Copyright 2026 The mbrl_ros authors
# SPDX-License-Identifier: Apache-2.0
"""A policy that helps to plan, on a cart for which the best policy and its value are known."""

import dataclasses
import math

import numpy as np
import pytest
import scipy.linalg
import torch
from cart import STEP, Cart
from pydantic import TypeAdapter

from mbrl_ros.imagination.policy import Policy
from mbrl_ros.kinds import PLANNERS
from mbrl_ros.planning.guide import PolicyGuide
from mbrl_ros.planning.objective import Objective
from mbrl_ros.planning.planner import PlanningError, Problem, actions_in_force, make_planner
from mbrl_ros.robots.spec import Cost

SCALE = 0.1  # reward a unit of stage cost
BOUNDS = ([-10.0], [10.0])
KINDS = PLANNERS.built_in()
SAMPLING = [kind for kind in KINDS if kind != "ilqr"]
A, B = np.array([[1.0, STEP], [0.0, 1.0]]), np.array([[STEP * STEP], [STEP]])
Q, R = np.diag([6.0, 0.05]), np.array([[0.02]])


class Regulator:
    """The linear-quadratic regulator of that cart: the best policy, and what it costs."""

    sizes = (4, 1)
    lower, upper = torch.tensor(BOUNDS[0]), torch.tensor(BOUNDS[1])

    def __init__(self):
        value = scipy.linalg.solve_discrete_are(A, B, Q, R)
        self.gain = torch.from_numpy(np.linalg.solve(R + B.T @ value @ B, B.T @ value @ A))
        self.cost = torch.from_numpy(value - Q)  # the state itself has been paid for

    def act(self, states):
        return torch.clamp(-(states[:, :2] @ self.gain.to(states).T), self.lower, self.upper)

    def value(self, states):
        x = states[:, :2]
        return -SCALE * (x @ self.cost.to(x) * x).sum(1)


@pytest.fixture
def robot(cartpole):
    """Return the cart-pole with a quadratic cost, for which the regulator is right."""
    cost = {
        "goal": {"cart_position": 6.0},
        "state": {"cart_velocity": 0.05},
        "effort": {"cart_force": 0.02},
    }
    return dataclasses.replace(cartpole, cost=TypeAdapter(Cost).validate_python(cost))


def problem(position=1.0, goal=(0.0, 0.0), **settings):
    state = torch.tensor([position, 0.0, 0.0, 0.0])
    return Problem(state, torch.tensor(goal), torch.zeros(1), **settings)


def watched(planner):
    """Return where all candidates (H, N, A) that a planner judges are noted."""
    noted, update = [], planner.update

    def note(search, candidates, costs):
        noted.append(candidates.clone())
        return update(search, candidates, costs)

    planner.update = note
    return noted


def guided(kind, robot, guide=None, **settings):
    """Return a planner with a policy at its side."""
    planner = make_planner(kind, robot, **settings)
    planner.guide = PolicyGuide(Regulator(), SCALE) if guide is None else guide
    return planner


def followed(state, horizon, delay_fraction=0.0, gain=1.0):
    """Return what the regulator does from a state on, (H, A), where forces are `gain` times."""
    policy, actions, before = Regulator(), [], torch.zeros(1)
    for _ in range(horizon):
        action = policy.act(state[None])[0]
        in_force = actions_in_force(before, action[None, None], delay_fraction)[0]
        state = Cart().predict(state[None], gain * in_force)[0][0]
        actions.append(action)
        before = action
    return torch.stack(actions)


# With particles that noise moves, or not in float32, a policy acts apart from the rollout of all.
@pytest.mark.parametrize(
    "settings", [{}, {"propagation": "ts1", "particles": 3}, {"precision": "bfloat16"}]
)
@pytest.mark.parametrize("delay_fraction", [0.0, 0.6])
@pytest.mark.parametrize("kind", SAMPLING)
def test_what_the_policy_does_is_among_the_candidates_of_every_iteration(
    robot, kind, delay_fraction, settings
):
    planner = guided(kind, robot, samples=60, horizon=12, policy_share=0.2, **settings)
    noted = watched(planner)
    now = problem(delay_fraction=delay_fraction)
    planner.plan(now, Cart(deviation=0.1), None)
    wanted = followed(now.state, 12, delay_fraction)
    assert len(noted) == planner.iterations
    for candidates in noted:
        distance = (candidates - wanted[:, None]).abs().amax((0, 2))
        assert distance[-12] < 1e-5
        # The others of the share begin near to it.
        proposed = candidates[:, -12:]
        assert float((proposed[0] - wanted[0]).abs().mean()) < 3.0
        assert len(torch.unique(proposed[0])) > 1


@pytest.mark.parametrize("kind", SAMPLING)
def test_where_a_policy_acts_makes_no_difference_to_the_plan(robot, kind):
    settings = {"samples": 60, "horizon": 6}
    together = guided(kind, robot, **settings).plan(problem(), Cart(), None)
    apart = guided(kind, robot, precision="bfloat16", **settings).plan(problem(), Cart(), None)
    assert torch.allclose(together.actions, apart.actions, atol=1e-4)
    assert together.cost == pytest.approx(apart.cost, rel=1e-4)


class Pair(Cart):
    """By `pathwise` one of two carts, the second with half of the mass; counts predictions."""

    planning_propagation = "pathwise"
    rows = 0

    def outputs(self, states, actions):
        self.rows += len(states)
        return super().outputs(states, actions)

    def stepper(self, propagation, count, generator=None):
        step = super().stepper("mean", count)
        gain = 1.0 + (torch.arange(count) % 2)[:, None]
        return step if propagation == "mean" else lambda state, force: step(state, gain * force)


@pytest.mark.parametrize(("propagation", "gain"), [("mean", 1.0), ("auto", 2.0)])
def test_a_policy_acts_on_what_it_proposes_leads_to_itself(robot, propagation, gain):
    """Without predictions of its own."""
    planner = guided("mppi", robot, samples=66, horizon=6, iterations=1, propagation=propagation)
    noted, model = watched(planner), Pair()
    planner.plan(problem(), model, None)
    wanted = followed(problem().state, 6, gain=gain)
    assert torch.allclose(noted[0][:, 59], wanted, atol=1e-5)  # the first of seven
    assert model.rows == 6 * (66 + 1)  # of all candidates, and of the plan


@pytest.mark.parametrize("kind", SAMPLING)
def test_a_policy_with_gradients_can_help(robot, kind):
    policy = Regulator()
    policy.gain.requires_grad_()
    plan = guided(kind, robot, PolicyGuide(policy, SCALE), samples=60).plan(
        problem(), Cart(), None
    )
    assert not plan.actions.requires_grad


@pytest.mark.parametrize("kind", SAMPLING)
def test_plans_with_a_policy_are_a_function_of_the_seed(robot, kind):
    planner, model = guided(kind, robot, samples=50, horizon=6), Cart()
    noted = watched(planner)
    first, again = (planner.plan(problem(seed=3), model, None) for _ in range(2))
    assert torch.equal(first.actions, again.actions)
    assert torch.equal(noted[0], noted[planner.iterations])
    planner.plan(problem(seed=4), model, None)
    assert not torch.equal(noted[0][:, -4:], noted[2 * planner.iterations][:, -4:])


@pytest.mark.parametrize("kind", KINDS)
def test_a_policy_comes_and_goes_between_two_ticks(robot, kind):
    sizes = {} if kind == "ilqr" else {"samples": 50}
    plain = make_planner(kind, robot, horizon=6, **sizes)
    planner, model = guided(kind, robot, horizon=6, **sizes), Cart()
    planner.guide = None
    last = planner.plan(problem(seed=1), model, None)
    assert torch.equal(last.actions, plain.plan(problem(seed=1), model, None).actions)
    planner.guide = PolicyGuide(Regulator(), SCALE)
    helped = planner.plan(problem(seed=2), model, last)
    alone = plain.plan(problem(seed=2), model, last)
    assert not torch.equal(helped.actions, alone.actions)
    planner.guide = None
    assert torch.equal(planner.plan(problem(seed=2), model, last).actions, alone.actions)


def test_two_steps_and_the_value_are_worth_a_long_horizon(robot):
    """Two steps alone see no use in moving: the cart comes nowhere by then."""

    def first_action(kind, horizon, guide, **settings):
        planner = make_planner(kind, robot, horizon=horizon, **settings)
        planner.guide = guide
        return float(planner.plan(problem(0.3), Cart(), None).actions[0])

    guide = PolicyGuide(Regulator(), SCALE)
    far = first_action("ilqr", 300, None, iterations=10)
    assert first_action("ilqr", 2, guide, iterations=10) == pytest.approx(far, rel=1e-3)
    assert abs(first_action("ilqr", 2, None, iterations=10)) < 0.5 * abs(far)
    sampled = {"samples": 500, "iterations": 8, "policy_share": 0.0}
    assert first_action("cem", 2, guide, **sampled) == pytest.approx(far, rel=0.1)


def test_the_value_is_in_the_unit_of_the_cost_and_in_place_of_the_terminal_one(robot):
    """What is paid within the horizon and what the value says together are the same at any."""
    cost = dataclasses.replace(robot.cost, terminal={"cart_position": 100.0})
    objective, policy = Objective(dataclasses.replace(robot, cost=cost)), Regulator()
    objective.guide = PolicyGuide(policy, SCALE, goal=(0.0, 0.0))
    totals = []
    for horizon in (1, 10, 200):
        actions = followed(problem(0.3).state, horizon)[:, None]
        states = Cart().rollout(problem(0.3).state[None], actions)
        totals.append(float(objective.cost(states, actions, torch.zeros(2), torch.zeros(1))))
    assert totals == pytest.approx([float(-policy.value(problem(0.3).state[None])) / SCALE] * 3)
    # To another goal its own terminal cost counts, and so it does where there is no guide.
    elsewhere, end = torch.tensor([1.0, 0.0]), torch.zeros(1, 4)
    assert float(objective.terminal_cost(end, elsewhere)) == pytest.approx(100.0)
    objective.guide = None
    assert float(objective.terminal_cost(end, elsewhere)) == pytest.approx(100.0)


@pytest.mark.parametrize("kind", KINDS)
def test_a_policy_for_another_goal_is_left_out_of_the_plan(robot, kind):
    plain, planner = make_planner(kind, robot), make_planner(kind, robot)
    planner.guide = PolicyGuide(Regulator(), SCALE, goal=(0.0, 0.0))
    there = problem(goal=(0.5, 0.0))
    helped, alone = planner.plan(there, Cart(), None), plain.plan(there, Cart(), None)
    assert torch.equal(helped.actions, alone.actions)
    moving = torch.linspace(0.5, 0.0, planner.horizon)[:, None] * torch.tensor([1.0, 0.0])
    arriving = dataclasses.replace(there, goal=moving)
    assert not torch.equal(
        planner.plan(arriving, Cart(), None).actions, plain.plan(arriving, Cart(), None).actions
    )


@pytest.mark.parametrize("kind", ["icem+ilqr", "mppi+ilqr"])
def test_a_network_s_value_can_be_polished(cartpole, kind):
    policy = Policy(cartpole.angle_mask, *BOUNDS, hidden=(16, 16))
    kept, guide = policy.snapshot(), PolicyGuide(policy)
    planner = guided(kind, cartpole, guide, horizon=5, polish_iterations=2)
    plan = planner.plan(problem(), Cart(), None)
    states, actions = plan.states[:, None], plan.actions[:, None]
    cost = planner.objective.cost(states, actions, torch.zeros(2), torch.zeros(1))
    assert plan.cost == pytest.approx(float(cost), rel=1e-4)
    sampler = guided(kind, cartpole, guide, horizon=5)
    assert plan.cost < sampler.plan(problem(), Cart(), None).cost
    assert all(torch.equal(policy.snapshot()[name], kept[name]) for name in kept)


@pytest.mark.parametrize("kind", SAMPLING)
def test_a_policy_that_leads_to_nonsense_spoils_no_plan(robot, kind):
    class Wild(Regulator):
        def act(self, states):
            return torch.full((len(states), 1), math.nan)

        def value(self, states):
            return torch.where(states[:, 1] > 0.2, torch.nan, 0.0)

    planner = guided(kind, robot, PolicyGuide(Wild()), samples=100, horizon=6)
    plan = planner.plan(problem(), Cart(poison=8.0), None)
    assert plan.actions.isfinite().all()
    assert math.isfinite(plan.cost)
    assert plan.discarded > 0
    with pytest.raises(PlanningError, match="all 100 predicted"):
        planner.plan(problem(), Cart(poison=-math.inf), None)


def test_a_policy_is_left_out_where_it_would_take_half_of_the_time(robot):
    planner, model = guided("mppi", robot, samples=80, horizon=6, policy_share=0.25), Cart()
    noted = watched(planner)
    wanted = followed(problem().state, 6)

    def helped():
        return bool(((noted[-1] - wanted[:, None]).abs().amax((0, 2)) < 1e-5).any())

    planner.plan(problem(), model, None)
    assert helped()
    planner._guiding_seconds, planner._seconds = 0.6, 1e-9  # as if it had measured that
    hurried = planner.plan(problem(time_budget=1.0), model, None)
    assert hurried.hurried
    assert not helped()
    # One slow measurement is not believed for ever.
    planner.plan(problem(time_budget=1.0), model, None)
    assert helped()


def test_fewer_candidates_keep_the_policy_s_share_and_its_own_sequence(robot):
    planner = guided("mppi", robot, samples=80, horizon=6, iterations=1, policy_share=0.25)
    noted, wanted = watched(planner), followed(problem().state, 6)
    planner._seconds, planner._guiding_seconds = 1.0, 1e-9
    assert planner.plan(problem(time_budget=10.5), Cart(), None).samples == 10
    near = (noted[0] - wanted[:, None]).abs().amax((0, 2)) < 1e-5
    assert near.tolist() == [False] * 7 + [True, False, False]


def test_held_back_candidates_are_those_that_noise_made(robot):
    """MPPI's weights of far-off noise are none of what a policy proposes."""
    last = make_planner("mppi", robot, horizon=6).plan(problem(), Cart(), None)
    plans = [
        guided("mppi", robot, horizon=6, control_weight=weight).plan(problem(), Cart(), last)
        for weight in (0.0, 1.0)
    ]
    assert not torch.equal(plans[0].actions, plans[1].actions)
    assert all(plan.actions.isfinite().all() for plan in plans)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sizes": (3, 1)}, "3 state and 1 action dimensions, expected 4 and 1"),
        ({"sizes": (4, 2)}, "4 state and 2 action dimensions, expected 4 and 1"),
        ({"upper": torch.tensor([5.0])}, r"upper action bounds are \[5.0\], expected \[10.0\]"),
    ],
)
@pytest.mark.parametrize("kind", KINDS)
def test_a_policy_of_another_robot_is_refused(robot, kind, change, message):
    planner = make_planner(kind, robot)
    kept = planner.guide = PolicyGuide(Regulator(), SCALE)
    other = Regulator()
    for name, value in change.items():
        setattr(other, name, value)
    with pytest.raises(ValueError, match=message):
        planner.guide = PolicyGuide(other)
    assert planner.guide is kept


def test_guides_that_cannot_be_used_are_refused(robot):
    for scale in (0.0, -1.0, math.nan, math.inf):
        with pytest.raises(ValueError, match=f"reward_scale is {scale}"):
            PolicyGuide(Regulator(), scale)
    with pytest.raises(ValueError, match=r"goal is \[0.5\], expected 2 numbers"):
        make_planner("mppi", robot).guide = PolicyGuide(Regulator(), goal=(0.5,))
    with pytest.raises(ValueError, match=r"policy_share is 1\.0, expected 0\.0 to 0\.9"):
        make_planner("mppi", robot, policy_share=1.0)
