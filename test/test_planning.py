# Copyright 2026 The mbrl_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Noise, objective, planners and delay compensation, on a model that is known exactly."""

import dataclasses
import math
import time

import numpy as np
import pytest
import scipy.linalg
import torch
from cart import STEP, Cart
from pydantic import TypeAdapter

from mbrl_ros.benchmarks.plants import CartPole
from mbrl_ros.kinds import COSTS, PLANNERS
from mbrl_ros.planning.delay import DelayCompensation
from mbrl_ros.planning.mppi import MPPI
from mbrl_ros.planning.noise import coloured_noise, random_actions
from mbrl_ros.planning.objective import CostError, Objective, Steps
from mbrl_ros.planning.planner import (
    PlanningError,
    Problem,
    actions_in_force,
    make_planner,
)
from mbrl_ros.robots.guard import CommandLimiter
from mbrl_ros.robots.spec import Cost


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


@pytest.mark.parametrize("horizon", [1, 2, 56])
def test_noise_of_short_and_long_horizons_is_made_alike(horizon, monkeypatch):
    """Short ones come from a matrix product, long ones from Fourier transforms."""
    short = coloured_noise(1.0, horizon, 7, 2, torch.Generator().manual_seed(3))
    monkeypatch.setattr("mbrl_ros.planning.noise._MATRIX", 0)
    long = coloured_noise(1.0, horizon, 7, 2, torch.Generator().manual_seed(3))
    assert torch.allclose(short, long, atol=1e-5)


def test_random_actions_are_smooth_bounded_and_repeatable():
    actions = random_actions([-2.0], [6.0], 0.3, 500, seed=1)
    assert torch.equal(actions, random_actions([-2.0], [6.0], 0.3, 500, seed=1))
    assert not torch.equal(actions, random_actions([-2.0], [6.0], 0.3, 500, seed=2))
    assert float(actions.min()) >= -2.0
    assert float(actions.max()) <= 6.0
    assert float(torch.diff(actions, dim=0).std()) < 1.2 * float(actions.std())


# -- objective -----------------------------------------------------------------------------


def at(state, action=0.0, before=0.0, goal=(0.0, 0.0)):
    state, actions = torch.tensor(state), torch.tensor([[action], [before]])
    return Steps(state, actions[0], state, actions[1], torch.tensor(goal))


def with_cost(robot, **terms):
    """Return the robot with a cost of nothing but these terms."""
    cost = TypeAdapter(Cost).validate_python({"goal": {}} | terms)
    return dataclasses.replace(robot, cost=cost)


def test_cost_is_the_sum_of_its_terms(objective):
    cost = objective.stage_cost(at([1.7, 2.0, math.pi, 3.0], 5.0, goal=(0.7, 0.0)))
    goal = 6.0 * 1.0**2 + 4.0 * 4.0  # half a turn away: chord 2
    others = 0.05 * 2.0**2 + 0.02 * 3.0**2 + 0.02 * 5.0**2
    assert float(cost) == pytest.approx(goal + others + 100.0 * 0.2**2, rel=1e-5)


def test_angles_wrap_in_the_cost(objective):
    near = objective.stage_cost(at([0.0, 0.0, -3.0, 0.0], goal=(0.0, 3.0)))
    far = objective.stage_cost(at([0.0, 0.0, 2.0, 0.0], goal=(0.0, 3.0)))
    assert near < far


def test_changing_the_action_costs_by_its_rate(cartpole):
    objective = Objective(with_cost(cartpole, rate={"cart_force": 2.0}))
    assert float(objective.stage_cost(at([0.0] * 4, 3.0, 1.0))) == pytest.approx(8.0)
    actions = torch.tensor([1.0, 4.0, 4.0]).view(3, 1, 1)
    cost = objective.cost(torch.zeros(4, 1, 4), actions, torch.zeros(2), torch.tensor([-1.0]))
    assert float(cost) == pytest.approx(2.0 * (4.0 + 9.0))


def test_the_end_of_a_plan_and_a_moving_goal_count(cartpole):
    objective = Objective(with_cost(cartpole, terminal={"cart_position": 5.0}))
    states = torch.zeros(4, 1, 4)
    states[3, 0, 0] = 1.0
    args = (states, torch.zeros(3, 1, 1))
    assert float(objective.cost(*args, torch.zeros(2), torch.zeros(1))) == pytest.approx(5.0)
    moving = torch.tensor([[0.0, 0.0], [0.0, 0.0], [1.0, 0.0]])
    assert float(objective.cost(*args, moving, torch.zeros(1))) == 0.0
    tracking = Objective(with_cost(cartpole, goal={"cart_position": 2.0}))
    assert float(tracking.cost(*args, moving, torch.zeros(1))) == 0.0
    assert float(tracking.cost(*args, torch.zeros(2), torch.zeros(1))) == pytest.approx(2.0)


@pytest.mark.parametrize(
    ("shape", "inside", "edge", "clear"),
    [
        ({"shape": "circle", "radius": 0.5}, (1.0, 2.0), (1.5, 2.0), (1.8, 2.0)),
        ({"shape": "box", "size": [1.0, 2.0]}, (1.0, 2.0), (1.5, 2.3), (1.3, 3.3)),
    ],
)
def test_obstacles_cost_from_their_margin_on(cartpole, shape, inside, edge, clear):
    obstacle = {
        "plane": ["cart_position", "cart_velocity"],
        "center": [1.0, 2.0],
        "weight": 4.0,
        "margin": 0.25,
    }
    objective = Objective(with_cost(cartpole, obstacles=[obstacle | shape]))

    def cost(place):
        return float(objective.stage_cost(at([*place, 0.0, 0.0])))

    assert cost(clear) == 0.0
    assert cost(edge) == pytest.approx(4.0 * 0.25**2, rel=1e-3)
    assert cost(inside) == pytest.approx(4.0 * 0.75**2, rel=1e-3)


def test_a_barrier_rises_towards_the_bound_and_stays_finite_beyond(cartpole):
    bound = {"dimension": "cart_position", "bounds": [-1.0, 1.0], "weight": 1.0}
    objective = Objective(
        with_cost(cartpole, soft_bounds=[bound | {"kind": "barrier", "margin": 0.4}])
    )
    places = torch.linspace(0.0, 1.5, 60)
    costs = [float(objective.stage_cost(at([float(x), 0.0, 0.0, 0.0]))) for x in places]
    assert all(cost == 0.0 for cost, x in zip(costs, places, strict=True) if x <= 0.6)
    rising = [cost for cost, x in zip(costs, places, strict=True) if x > 0.61]
    assert rising == sorted(rising)
    assert math.isfinite(rising[-1])


def test_terms_of_other_packages_add_up_and_are_watched(cartpole, monkeypatch):
    class Price:
        def __init__(self, robot, factor):
            self.factor = factor

        def __call__(self, steps):
            return self.factor * steps.actions[..., 0].abs()

    def load(name):
        wrong = {
            "shape": lambda robot: lambda steps: steps.actions,
            "nan": lambda robot: lambda steps: steps.actions[..., 0] / 0.0 * 0.0,
        }
        return wrong.get(name, Price)

    monkeypatch.setattr(COSTS, "load", load)
    objective = Objective(with_cost(cartpole, terms={"price": {"factor": 3.0}}))
    assert float(objective.stage_cost(at([0.0] * 4, -2.0))) == pytest.approx(6.0)
    with pytest.raises(ValueError, match=r"'shape' returned .* one cost a step"):
        Objective(with_cost(cartpole, terms={"shape": {}}))
    with pytest.raises(ValueError, match="'nan' is not finite"):
        Objective(with_cost(cartpole, terms={"nan": {}}))
    monkeypatch.undo()
    with pytest.raises(ValueError, match="unknown cost term 'price'"):
        Objective(with_cost(cartpole, terms={"price": {}}))


# -- planners ------------------------------------------------------------------------------

KINDS = PLANNERS.built_in()
SAMPLING = [kind for kind in KINDS if kind != "ilqr"]


@pytest.mark.parametrize("kind", KINDS)
def test_closed_loop_reaches_the_goal(cartpole, kind):
    samples = {} if kind == "ilqr" else {"samples": 200}
    planner, model, plan = make_planner(kind, cartpole, **samples), Cart(), None
    state = torch.zeros(4)
    for tick in range(60):
        problem_now = Problem(state, torch.tensor([0.5, 0.0]), torch.zeros(1), seed=tick)
        plan = planner.plan(problem_now, model, plan)
        state = model.predict(state[None], plan.actions[:1])[0][0]
    # Random shooting is the yardstick, not a controller.
    loose = 4.0 if kind == "random_shooting" else 1.0
    assert float(state[0]) == pytest.approx(0.5, abs=0.05 * loose)
    assert float(state[1].abs()) < 0.2 * loose


@pytest.mark.parametrize("kind", SAMPLING)
def test_planning_is_a_function_of_its_inputs(cartpole, kind):
    planner, model = make_planner(kind, cartpole, samples=100), Cart()
    first = planner.plan(problem(), model, None)
    kept = first.actions.clone()
    again, other = planner.plan(problem(), model, None), planner.plan(problem(seed=1), model, None)
    assert torch.equal(first.actions, again.actions)
    assert not torch.equal(first.actions, other.actions)
    planner.plan(problem(seed=2), model, first)
    assert torch.equal(first.actions, kept)


@pytest.mark.parametrize("kind", ["cem", "icem", "mppi", "random_shooting"])
def test_cost_falls_with_samples_and_iterations(cartpole, kind):
    def cost(samples, iterations):
        planner = make_planner(kind, cartpole, samples=samples, iterations=iterations)
        return sum(planner.plan(problem(seed=s), Cart(), None).cost for s in range(10))

    assert cost(1000, 1) < cost(25, 1)
    assert cost(100, 5) < cost(100, 1)


@pytest.mark.parametrize("kind", KINDS)
def test_actions_stay_within_the_bounds(objective, kind):
    planner = PLANNERS.load(kind)(objective, [-1.0], [2.0])
    plan = planner.plan(problem(goal=1.2), Cart(), None)
    assert float(plan.actions.min()) >= -1.0
    assert float(plan.actions.max()) <= 8.0
    assert plan.actions.shape == (25, 1)
    assert plan.states.shape == (26, 4)
    states = Cart().rollout(plan.states[:1], plan.actions[:, None])[:, 0]
    assert torch.allclose(plan.states, states, atol=1e-5)
    cost = objective.cost(
        plan.states[:, None], plan.actions[:, None], torch.tensor([1.2, 0.0]), torch.zeros(1)
    )
    assert plan.cost == pytest.approx(float(cost), rel=1e-4)


def test_the_effective_sample_size_is_kept(objective):
    for goal in (0.01, 1.2):
        planner = MPPI(objective, [-10.0], [10.0], samples=400, effective_share=0.1)
        plan = planner.plan(problem(goal=goal), Cart(), None)
        assert plan.effective_samples == pytest.approx(40.0, rel=0.05)


@pytest.mark.parametrize("kind", SAMPLING)
def test_predictions_that_are_not_finite_are_discarded(cartpole, kind):
    planner = make_planner(kind, cartpole, samples=200)
    plan = planner.plan(problem(), Cart(poison=4.0), None)
    assert 0 < plan.discarded < 200 * planner.iterations
    assert math.isfinite(plan.cost)
    with pytest.raises(PlanningError, match="all 200 predicted trajectories"):
        planner.plan(problem(), Cart(poison=-math.inf), None)


def test_ilqr_refuses_to_start_from_nonsense(cartpole):
    with pytest.raises(PlanningError, match="not finite"):
        make_planner("ilqr", cartpole).plan(problem(), Cart(poison=-math.inf), None)


def test_ilqr_equals_the_riccati_solution(cartpole):
    """The cart alone is linear, its cost quadratic: one iteration solves it."""
    weights = {"goal": {"cart_position": 6.0}, "state": {"cart_velocity": 0.05}}
    robot = with_cost(cartpole, **weights, effort={"cart_force": 0.02})
    objective = Objective(robot)
    planner = PLANNERS.load("ilqr")(objective, [-1e3], [1e3], horizon=400, iterations=3)
    found = planner.plan(problem(position=0.3, goal=0.0), Cart(), None)

    a = np.array([[1.0, STEP], [0.0, 1.0]])
    b = np.array([[STEP * STEP], [STEP]])
    q, r = np.diag([6.0, 0.05]), np.array([[0.02]])
    value = scipy.linalg.solve_discrete_are(a, b, q, r)
    gain = np.linalg.solve(r + b.T @ value @ b, b.T @ value @ a)
    x = np.array([np.float32(0.3), 0.0])
    # What the planner minimises leaves out the state that it starts from.
    assert found.cost == pytest.approx(float(x @ value @ x - x @ q @ x), rel=1e-6)
    for action in found.actions[:50, 0]:
        assert float(action) == pytest.approx(float(-gain[0] @ x), rel=1e-6, abs=1e-6)
        x = a @ x - b[:, 0] * (gain[0] @ x)


def test_ilqr_keeps_to_the_bounds_at_the_optimum(objective):
    """Compared with a thousand iterations of projected gradient descent."""
    planner = PLANNERS.load("ilqr")(objective, [-1.0], [1.0], horizon=15, iterations=30)
    late = problem(goal=0.4, delay_fraction=0.3)
    found = planner.plan(late, Cart(), None)
    actions = torch.zeros(15, 1, 1, requires_grad=True)
    optimiser = torch.optim.Adam([actions], lr=0.02)
    for _ in range(1000):
        optimiser.zero_grad()
        in_force = actions_in_force(late.previous_action, actions, 0.3)
        states = Cart().rollout(late.state[None], in_force)
        objective.cost(states, actions, late.goal, late.previous_action).sum().backward()
        optimiser.step()
        actions.data.clamp_(-1.0, 1.0)
    assert float(found.actions.abs().max()) == 1.0
    assert torch.allclose(found.actions, actions.detach()[:, 0], atol=2e-2)


def with_slew(robot, slew):
    """Return the robot with a slew limit (per second) of its one action."""
    dimension = dataclasses.replace(robot.command.dimensions[0], slew=slew)
    command = dataclasses.replace(robot.command, dimensions=(dimension,))
    return dataclasses.replace(robot, command=command)


def largest_step(actions, previous):
    return float(torch.cat([previous[None], actions]).diff(dim=0).abs().max())


@pytest.mark.parametrize("kind", KINDS)
def test_plans_change_no_faster_than_the_guard_allows(cartpole, kind):
    robot, model = with_slew(cartpole, 40.0), Cart()
    planner, reach = make_planner(kind, robot), 40.0 * STEP
    now = dataclasses.replace(problem(goal=1.2), previous_action=torch.tensor([-9.0]))
    plan = planner.plan(now, model, None)
    assert 0.5 * reach < largest_step(plan.actions, now.previous_action) < reach + 1e-5
    states = model.rollout(plan.states[:1], plan.actions[:, None])[:, 0]
    assert torch.allclose(plan.states, states, atol=1e-5)
    # What is carried on was made for another action before, as the guard had its own mind.
    elsewhere = dataclasses.replace(now, previous_action=torch.tensor([8.0]), seed=1)
    plan = planner.refine(elsewhere, model, planner.plan(elsewhere, model, plan))
    assert largest_step(plan.actions, elsewhere.previous_action) < reach + 1e-5
    assert float(plan.actions.abs().max()) <= 10.0


def test_only_actions_with_a_slew_limit_are_held_to_one(cartpole):
    free = make_planner("mppi", cartpole)
    actions = torch.tensor([[30.0], [-30.0], [2.0]])
    assert free.hold_to_limits(actions, torch.zeros(1))[:, 0].tolist() == [10.0, -10.0, 2.0]
    objective = Objective(cartpole)
    one = MPPI(objective, [-10.0, -1.0], [10.0, 1.0], largest_change=[2.0, math.inf])
    actions = torch.tensor([[30.0, -30.0], [-30.0, 0.5], [0.5, 30.0]])
    held = one.hold_to_limits(actions, torch.tensor([3.0, 0.0]))
    assert held.tolist() == [[5.0, -1.0], [3.0, 0.5], [1.0, 1.0]]


def test_ilqr_keeps_to_the_slew_limit_at_the_optimum(objective):
    """Compared with projected gradient descent on the changes of the action."""
    planner = PLANNERS.load("ilqr")(
        objective, [-10.0], [10.0], largest_change=[0.4], horizon=15, iterations=30
    )
    late = dataclasses.replace(
        problem(goal=0.4, delay_fraction=0.3), previous_action=torch.tensor([-1.0])
    )
    found = planner.plan(late, Cart(), None)
    changes = torch.zeros(15, 1, 1, requires_grad=True)
    optimiser = torch.optim.Adam([changes], lr=0.02)
    for _ in range(1000):
        optimiser.zero_grad()
        actions = late.previous_action + changes.cumsum(0)
        in_force = actions_in_force(late.previous_action, actions, 0.3)
        states = Cart().rollout(late.state[None], in_force)
        objective.cost(states, actions, late.goal, late.previous_action).sum().backward()
        optimiser.step()
        changes.data.clamp_(-0.4, 0.4)
    assert largest_step(found.actions, late.previous_action) == pytest.approx(0.4, abs=1e-6)
    best = late.previous_action + changes.detach().cumsum(0)[:, 0]
    assert torch.allclose(found.actions, best, atol=3e-2)


@pytest.mark.parametrize("kind", ["mppi", "mppi+ilqr"])
def test_a_pole_whose_motor_is_slow_stays_up_while_its_goal_jumps(cartpole, kind):
    """Through the true dynamics; the guard cuts what is too fast."""
    robot = with_slew(cartpole, 40.0)
    planner, plant = make_planner(kind, robot), CartPole(robot)
    limiter = CommandLimiter(robot.command.dimensions[0], robot.period)
    state, sent, plan = torch.zeros(4).double(), torch.zeros(1), None
    for tick in range(60):
        goal = torch.tensor([0.8 if tick // 6 % 2 else -0.8, 0.0])
        now = Problem(state.float(), goal, sent, seed=tick)
        plan = planner.plan(now, plant, plan)
        wished = float(plan.actions[0])
        sent = torch.tensor([limiter.step(wished, tick * robot.period)])
        assert float(sent) == pytest.approx(wished, abs=1e-4)
        state = plant.step(state[None], sent[None].double())[0]
        plan = planner.refine(now, plant, plan)
        assert abs(float(state[2])) < 0.6


@pytest.mark.parametrize("kind", ["icem", "mppi"])
def test_polishing_lowers_the_cost(cartpole, kind):
    def cost(kind, **settings):
        planner = make_planner(kind, cartpole, samples=50, **settings)
        return sum(planner.plan(problem(seed=s), Cart(), None).cost for s in range(10))

    assert cost(f"{kind}+ilqr", polish_iterations=2) < cost(kind)


@pytest.mark.parametrize("kind", ["icem+ilqr", "mppi+ilqr"])
@pytest.mark.parametrize("moving", [False, True])
def test_what_the_next_plan_starts_from_is_refined_between_ticks(cartpole, kind, moving):
    goal = torch.tensor([0.5, 0.0])
    if moving:
        goal = goal * torch.linspace(0.0, 1.0, 15)[:, None]
    settings = {"horizon": 15, "samples": 20}
    planner = make_planner(kind, cartpole, **settings)
    now = dataclasses.replace(problem(), goal=goal)
    plan = planner.plan(now, Cart(), None)
    refined = planner.refine(now, Cart(), plan)
    assert torch.equal(refined.actions[0], plan.actions[0])  # which has been sent

    def cost_to_come(plan):
        later = goal if goal.ndim == 1 else torch.cat([goal[1:], goal[-1:]])
        actions = plan.shifted().actions[:, None]
        states = Cart().rollout(plan.states[1][None], actions)
        objective = planner.objective
        return float(objective.cost(states, actions, later, plan.actions[0]).sum())

    assert cost_to_come(refined) < cost_to_come(plan)
    idle = make_planner(kind, cartpole, **settings, refine_iterations=0)
    assert idle.refine(now, Cart(), plan) is plan


def test_icem_carries_its_elite_to_the_next_tick(cartpole):
    planner = make_planner("icem", cartpole, samples=100)
    first = planner.plan(problem(), Cart(), None)
    assert first.elites.shape[0] == 25
    again = planner.plan(problem(seed=1), Cart(), first)
    forgetful = dataclasses.replace(first, elites=None)
    assert not torch.equal(again.actions, planner.plan(problem(seed=1), Cart(), forgetful).actions)
    # Its population falls by a quarter an iteration.
    assert again.samples == 100 + 80 + 64 + 51


class Slippery(Cart):
    """A cart that is never quite as fast as predicted."""

    def stepper(self, propagation, count, generator=None):
        plain = super().stepper("mean", count)

        def step(states, actions):
            after = plain(states, actions)
            after[:, 1] += 0.3 * torch.randn(count, generator=generator)
            return after

        return plain if propagation == "mean" else step


@pytest.mark.parametrize(("risk", "weight"), [("mean", 0.0), ("deviation", 1.0), ("cvar", 0.25)])
def test_plans_over_particles_weigh_the_risk(cartpole, risk, weight):
    planner = make_planner(
        "icem",
        cartpole,
        samples=60,
        propagation="ts1",
        particles=8,
        risk=risk,
        risk_weight=weight,
    )
    plan = planner.plan(problem(), Slippery(), None)
    assert math.isfinite(plan.cost)
    costs = torch.tensor([[1.0, 2.0, 3.0, 6.0], [0.0, math.nan, 0.0, 0.0]])
    expected = {"mean": 3.0, "deviation": 3.0 + float(costs[0].std()), "cvar": 6.0}[risk]
    found = planner._risked(costs)
    assert float(found[0]) == pytest.approx(expected)
    assert found[1].isnan()


class Coarse(Cart):
    """A cart whose predictions are rounded and compiled on demand; each way takes its time.

    Seconds by float32, bfloat16, compiled, and of a whole plan on the GPU; None: it does not work.
    """

    def __init__(self, plain, rounded, compiled, cuda=None):
        super().__init__()
        self.slow = {
            "float32": plain,
            "bfloat16": rounded,
            "float32 compile": compiled,
            "float32 cuda": cuda,
            "bfloat16 cuda": rounded,
        }
        self.asked = []

    def engines(self, propagation):
        return ("compile", "cuda")

    def rollout(
        self,
        states,
        actions,
        propagation="mean",
        generator=None,
        precision="float32",
        engine="eager",
    ):
        way = precision if engine == "eager" else f"{precision} {engine}"
        self.asked.append((states.shape[0], way))
        if self.slow[way] is None:
            raise RuntimeError("no compiler\nand a long story")
        time.sleep(self.slow[way])
        return super().rollout(states, actions, propagation, generator)


@pytest.mark.parametrize(
    ("precision", "optimize", "seconds", "expected", "remark"),
    [
        ("float32", "none", (0.02, 0.0, 0.0), "float32", ""),
        ("bfloat16", "none", (0.0, 0.02, 0.0), "bfloat16", ""),
        ("float32", "auto", (0.02, 0.0, 0.01), "bfloat16", "rolled out in bfloat16 (a step"),
        ("float32", "auto", (0.0, 0.02, 0.02), "float32", "rolled out in float32 (a step"),
        ("float32", "auto", (0.02, 0.02, 0.0), "float32 compile", "in float32, compiled (a"),
        ("float32", "auto", (0.02, 0.0, None), "bfloat16", "RuntimeError: no compiler"),
        ("float32", "compile", (0.0, 0.0, 0.01), "float32 compile", "in float32, compiled (a"),
        ("float32", "compile", (0.0, 0.0, None), "float32", "RuntimeError: no compiler"),
        ("float32", "cuda", (0.0, 0.0, 0.0, 0.01), "float32 cuda", "in float32 on the GPU (a"),
        ("float32", "cuda", (0.0, 0.0, 0.0, None), "float32", "CUDA does not work here"),
    ],
)
def test_candidates_are_rolled_out_in_the_way_that_is_wanted_or_pays(
    cartpole, precision, optimize, seconds, expected, remark
):
    model = Coarse(*seconds)
    planner = make_planner(
        "mppi", cartpole, samples=20, iterations=1, precision=precision, optimize=optimize
    )
    remarks = planner.prepare(model)
    assert remark in "; ".join(remarks)
    assert "long story" not in "; ".join(remarks)
    assert planner.prepare(model) == []  # said once, chosen once
    model.asked.clear()
    planner.plan(problem(), model, None)
    # The plan itself is predicted in full.
    assert model.asked == [(20, expected), (1, "float32")]


def test_nothing_is_compiled_on_a_tick(cartpole):
    """Other numbers of rows than the one prepared for would have to be."""
    model = Coarse(0.0, 0.0, 0.0)
    planner = make_planner("mppi", cartpole, samples=80, optimize="compile")
    planner.prepare(model)
    model.asked.clear()
    hurried = planner.plan(problem(time_budget=1e-9), model, None)
    assert (hurried.samples, hurried.hurried) == (10, True)
    assert model.asked[0] == (10, "float32")


def test_a_gpu_is_taken_only_where_there_is_one_and_it_pays(cartpole, monkeypatch):
    for there, seconds, expected in (
        (False, 0.0, "float32"),
        (True, 0.0, "float32 cuda"),
        (True, 0.2, "float32"),  # 0.1 a step
    ):
        monkeypatch.setattr(torch.cuda, "is_available", lambda there=there: there)
        model = Coarse(0.02, 0.1, 0.1, seconds)
        planner = make_planner("mppi", cartpole, samples=20, horizon=2, optimize="auto")
        planner.prepare(model)
        model.asked.clear()
        planner.plan(problem(), model, None)
        assert model.asked[0] == (20, expected)


def test_a_gpu_is_given_as_many_rows_as_were_recorded(cartpole):
    model = Coarse(0.0, 0.0, 0.0, 0.0)
    planner = make_planner("mppi", cartpole, samples=80, optimize="cuda")
    planner.prepare(model)
    model.asked.clear()
    hurried = planner.plan(problem(time_budget=1e-9), model, None)
    assert (hurried.samples, hurried.hurried) == (10, True)
    assert model.asked[0] == (80, "float32 cuda")


@pytest.mark.parametrize(
    ("optimize", "what"), [("compile", "compile"), ("cuda", "roll out on a GPU")]
)
def test_a_model_that_has_nothing_to_optimize_runs_as_it_is(cartpole, optimize, what):
    planner = make_planner("mppi", cartpole, samples=20, optimize=optimize)
    expected = f"optimize: {optimize}: model 'cart' has nothing to {what}"
    assert planner.prepare(Cart()) == [expected]
    assert math.isfinite(planner.plan(problem(), Cart(), None).cost)


def test_samples_are_left_out_where_time_is_short(cartpole):
    planner = make_planner("mppi", cartpole, samples=400, iterations=1)
    assert planner.plan(problem(), Cart(), None).samples == 400
    planner._seconds = 1e-3  # as if it had measured that a candidate takes a millisecond
    assert planner.plan(problem(time_budget=0.24), Cart(), None).samples == 200
    planner._seconds = 1.0
    assert planner.plan(problem(time_budget=0.2), Cart(), None).samples == 50


def test_a_spent_time_budget_leaves_one_iteration(objective):
    planner = MPPI(objective, [-10.0], [10.0], samples=80, iterations=20)
    hurried = planner.plan(problem(time_budget=1e-9), Cart(), None)
    assert (hurried.iterations, hurried.samples) == (1, 10)
    assert planner.plan(problem(), Cart(), None).iterations == 20


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"samples": 0}, "samples is 0"),
        ({"horizon": 0}, "horizon is 0"),
        ({"iterations": -1}, "iterations is -1"),
        ({"noise": 0.0}, "noise is 0.0"),
        ({"colour": 1.0}, "'mppi' has no setting 'colour'; it has samples"),
        ({"propagation": "magic"}, "propagation is 'magic', expected auto, mean, ts1"),
        ({"particles": 3}, "particles is 3, expected 1"),
        ({"propagation": "ts1", "risk": "cvar", "risk_weight": 0.0}, "risk_weight is 0.0"),
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


# -- terms of other packages ---------------------------------------------------------------


def plugged(monkeypatch, cartpole, term):
    """Return the cart-pole with a cost term of another package."""
    monkeypatch.setattr(COSTS, "load", lambda name: lambda robot: term)
    return dataclasses.replace(
        cartpole, cost=dataclasses.replace(cartpole.cost, terms={"theirs": {}})
    )


def poisoned(steps):
    cost = torch.zeros_like(steps.states[..., 0])
    return torch.where(steps.actions[..., 0] > 8.0, torch.nan, cost)


@pytest.mark.parametrize("kind", ["random_shooting", "cem", "icem", "mppi", "icem+ilqr"])
def test_candidates_whose_cost_is_no_number_are_left_out(monkeypatch, cartpole, kind):
    planner = make_planner(kind, plugged(monkeypatch, cartpole, poisoned), samples=200)
    plan = planner.plan(problem(goal=0.2), Cart(), None)
    assert plan.discarded > 0
    assert math.isfinite(plan.cost)
    assert float(plan.actions.max()) <= 8.0


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (lambda steps: torch.zeros(3), r"cost term 'theirs' returned \[3\]"),
        (lambda steps: 0.0, "cost term 'theirs' returned float"),
        (lambda steps: steps.actions[..., 7], "cost term 'theirs' failed: IndexError"),
    ],
)
def test_a_term_that_breaks_while_running_is_named(monkeypatch, cartpole, bad, message):
    broken = False

    def term(steps):
        return bad(steps) if broken else torch.zeros_like(steps.states[..., 0])

    planner = make_planner("mppi", plugged(monkeypatch, cartpole, term), samples=20)
    planner.plan(problem(), Cart(), None)
    broken = True
    with pytest.raises(CostError, match=message):
        planner.plan(problem(), Cart(), None)
    with pytest.raises(CostError, match=message):
        make_planner("mppi", plugged(monkeypatch, cartpole, term), samples=20)


def test_curvature_that_is_no_number_makes_no_plan(monkeypatch, cartpole):
    """The slope of a distance is nothing at the place itself."""

    def distance(steps):
        values = torch.cat([steps.states, steps.starts, steps.actions, steps.before], -1)
        return values.square().sum(-1).sqrt()

    planner = make_planner("ilqr", plugged(monkeypatch, cartpole, distance), starts=0)
    rest = Problem(torch.zeros(4), torch.zeros(2), torch.zeros(1))
    with pytest.raises(PlanningError, match="curvature of the cost"):
        planner.plan(rest, Cart(), None)


# -- exploration ---------------------------------------------------------------------------


class Curious(Cart):
    """A cart that would learn most from fast steps to the right."""

    transitions = 10

    def novelty(self, states, actions):
        return torch.sigmoid(states[:, 1])


def exploring(robot, weight, half_life=100.0):
    cost = TypeAdapter(Cost).validate_python(
        {"goal": {}, "exploration": {"weight": weight, "half_life": half_life}}
    )
    return dataclasses.replace(robot, cost=cost)


@pytest.mark.parametrize("kind", ["mppi", "icem", "ilqr"])
@pytest.mark.parametrize("particles", [1, 4])
def test_plans_lead_to_where_most_is_to_be_learned(cartpole, kind, particles):
    settings = {} if kind == "ilqr" else {"samples": 60}
    if particles > 1 and settings:
        settings |= {"particles": particles, "propagation": "ts1"}
    planner = make_planner(kind, exploring(cartpole, 1.0), **settings)
    plan = planner.plan(problem(), Curious(), None)
    assert float(plan.states[-1, 1]) > 1.0
    assert plan.cost < 0.0


def test_exploration_fades_with_the_transitions_seen_until_it_is_not_looked_at(cartpole):
    objective = Objective(exploring(cartpole, 2.0, half_life=50.0))
    states, actions = torch.ones(7, 3, 4), torch.zeros(6, 3, 1)
    model = Curious()

    def cost(transitions):
        model.transitions = transitions
        return objective.cost(states, actions, torch.zeros(2), torch.zeros(1), model)

    nats = float(torch.sigmoid(torch.tensor(1.0)))
    assert cost(0).tolist() == [0.0] * 3  # a model that knows nothing tells nothing
    assert torch.allclose(cost(50), torch.full((3,), -2.0 * 0.5 * 6 * nats))
    assert torch.allclose(cost(100), torch.full((3,), -2.0 * 0.25 * 6 * nats))
    model.novelty = None
    assert cost(500).tolist() == [0.0] * 3


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
    assert delay.until_sent <= 0.02 + 0.1 * 4.0 * STEP
    delay.actuation = 1e9
    assert delay.delay == pytest.approx(4.0 * STEP)


@pytest.mark.parametrize("until_sent", [0.0, 0.4])
@pytest.mark.parametrize("periods", [0.0, 0.4, 1.0, 1.4, 2.6])
def test_prediction_over_the_delay_is_where_the_robot_will_be(until_sent, periods):
    """Simulate in fine steps a cart whose commands come late; the plan must start on it."""
    fine = 20
    sent = [3.0, -2.0, 5.0, -4.0, 1.0]
    delay = DelayCompensation(STEP, [0.0])
    delay.observe(until_sent * STEP)
    delay.actuation = periods * STEP
    period = round(STEP * 1e9)
    for tick, force in enumerate(sent):
        # The guard has not said yet what it made of the last one.
        published = tick * period + round(until_sent * period)
        delay.answered(tick * period, [force], published)
        if tick < len(sent) - 1:
            delay.applied(published, [force])
    now = len(sent) * period
    start, before, fraction = delay.start_of_plan(now, torch.zeros(4), Cart())

    total = periods + until_sent
    whole, position, velocity = math.floor(total), 0.0, 0.0
    for i in range(whole * fine):
        # Tick 0 is now; the action of tick k is in force from (k + total) on.
        newest = math.floor((i + 0.5) / fine - total)
        force = sent[len(sent) + newest]
        velocity += STEP / fine * force
        position += STEP / fine * velocity
    assert float(before[0]) == sent[-1]
    assert fraction == pytest.approx(total - whole, abs=1e-6)
    assert float(start[1]) == pytest.approx(velocity, abs=1e-5)
    assert float(start[0]) == pytest.approx(position, abs=0.03)


def test_what_the_guard_made_of_an_action_is_what_counts():
    delay = DelayCompensation(STEP, [0.0])
    delay.observe(STEP)
    delay.answered(0, [8.0])
    delay.applied(round(STEP * 1e9), [2.0])  # slew
    start, before, _ = delay.start_of_plan(round(STEP * 1e9), torch.zeros(4), Cart())
    assert float(before[0]) == 2.0
    assert float(start[1]) == pytest.approx(2.0 * STEP)


def test_an_action_is_known_by_its_time_even_if_the_next_has_been_given():
    """A planner that is busy hears of an action only after it has answered the next state."""
    delay = DelayCompensation(STEP, [0.0])
    period = round(STEP * 1e9)
    for tick in range(50):
        delay.answered(tick * period, [float(tick)], round((tick + 1.2) * period))
        if tick:
            delay.applied(round((tick + 0.25) * period), [tick - 1.0])
    assert delay.until_sent == pytest.approx(1.25 * STEP)
    # What the guard sends in place of an action is no answer, however late.
    delay.applied(round(53.0 * period), [0.0], steered=False)
    assert delay.until_sent == pytest.approx(1.25 * STEP)
    _, before, _ = delay.start_of_plan(53 * period, torch.zeros(4), Cart())
    assert float(before[0]) == 0.0


def test_what_was_sent_before_the_clock_went_back_is_of_another_time():
    delay = DelayCompensation(STEP, [0.0])
    period = round(STEP * 1e9)
    for first in (1000, 10):  # ticks
        for tick in range(first, first + 8):
            delay.answered(tick * period, [8.0], round((tick + 1.0) * period))
            delay.applied(round((tick + 1.0) * period), [2.0])
        delay.observe(2.0 * STEP)
        assert delay.whole_periods == 1
        now = (first + 8) * period
        start, before, _ = delay.start_of_plan(now, torch.zeros(4), Cart())
        assert (float(start[1]), float(before[0])) == pytest.approx((2.0 * STEP, 2.0))
    # The state comes first: what was in force last still is.
    start, before, _ = delay.start_of_plan(period, torch.zeros(4), Cart())
    assert (float(start[1]), float(before[0])) == pytest.approx((2.0 * STEP, 2.0))


def test_without_compensation_the_plan_starts_at_the_state_as_it_is():
    delay = DelayCompensation(STEP, [0.0], compensate=False)
    delay.observe(1.4 * STEP)
    delay.answered(0, [8.0])
    start, before, fraction = delay.start_of_plan(round(STEP * 1e9), torch.zeros(4), Cart())
    assert delay.delay == pytest.approx(1.4 * STEP)
    assert (start.tolist(), float(before[0]), fraction) == ([0.0] * 4, 8.0, 0.0)


def test_the_linear_term_weighs_values_and_refuses_what_is_unknown(cartpole):
    robot = with_cost(cartpole, terms={"linear": {"cart_velocity": -2.0, "pole_angle": 0.5}})
    found = Objective(robot).stage_cost(at([9.0, 3.0, 4.0, 9.0]))
    assert float(found) == pytest.approx(-2.0 * 3.0 + 0.5 * 4.0)
    for weights, message in (
        ({"height": 1.0}, "unknown state 'height'; expected one of cart_position"),
        ({"cart_velocity": "fast"}, "cart_velocity is 'fast', expected a number"),
    ):
        with pytest.raises(ValueError, match=message):
            Objective(with_cost(cartpole, terms={"linear": weights}))
