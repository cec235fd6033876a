# Copyright 2026 The mbrl_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Braking before end stops, on a cart whose model may be wrong."""

import math
from dataclasses import replace

import pytest
import torch
from cart import STEP, Cart

from mbrl_ros.dynamics.model import Transitions
from mbrl_ros.planning.planner import Plan, Problem
from mbrl_ros.planning.stops import EndStops
from mbrl_ros.robots.guard import CommandLimiter

RAIL = 1.8
FULL = 10.0


def heeded(robot, position, velocity, wished, model=None, **settings):
    state = torch.tensor([position, velocity, 0.0, 0.0])
    problem = Problem(state, torch.zeros(2), torch.zeros(1), **settings)
    return float(
        EndStops(robot).nearest(model or Cart(), problem, torch.tensor([wished]), stamp=0, ahead=0)
    )


@pytest.mark.parametrize("side", [1.0, -1.0])
@pytest.mark.parametrize(("mass", "wind"), [(1.0, 0.0), (1.5, 0.0), (1.0, 3.0), (0.5, 0.0)])
def test_a_cart_driven_at_its_stop_brakes_in_time_though_the_model_is_wrong(
    cartpole, side, mass, wind
):
    """wind: newtons that push towards the stop and that the model knows nothing of."""
    stops, state = EndStops(cartpole), torch.zeros(4)
    for tick in range(200):
        stamp = tick * cartpole.period_nanoseconds
        stops.observe(stamp, state.tolist())
        problem = Problem(state, torch.zeros(2), torch.zeros(1))
        action = float(stops.nearest(Cart(), problem, torch.tensor([side * FULL]), stamp, ahead=0))
        change = STEP * (action + side * wind) / mass
        state = torch.tensor(
            [state[0] + STEP * (state[1] + 0.5 * change), state[1] + change, 0.0, 0.0]
        )
        assert abs(float(state[0])) < RAIL
    assert abs(float(state[0])) > 1.4  # it goes near: nothing else is forbidden
    assert stops.braked > 0


def with_slew(robot, slew):
    dimension = replace(robot.command.dimensions[0], slew=slew)
    return replace(robot, command=replace(robot.command, dimensions=(dimension,)))


@pytest.mark.parametrize("side", [1.0, -1.0])
@pytest.mark.parametrize("slew", [100.0, 40.0, 20.0])
def test_a_cart_whose_force_changes_slowly_brakes_in_time(cartpole, side, slew):
    robot = with_slew(cartpole, slew)
    stops, state, sent = EndStops(robot), torch.zeros(4), torch.zeros(1)
    limiter = CommandLimiter(robot.command.dimensions[0], robot.period)
    farthest = 0.0
    for tick in range(200):
        stamp = tick * robot.period_nanoseconds
        stops.observe(stamp, state.tolist())
        problem = Problem(state, torch.zeros(2), sent)
        wished = torch.tensor([side * FULL])
        action = stops.nearest(Cart(), problem, wished, stamp, ahead=0)
        sent = torch.tensor([limiter.step(float(action), tick * robot.period)])
        assert float(sent) == pytest.approx(float(action), abs=1e-4)  # nothing is cut
        state = Cart().predict(state[None], sent[None])[0][0]
        farthest = max(farthest, abs(float(state[0])))
    assert 1.0 < farthest < RAIL
    assert stops.braked > 0


@pytest.mark.parametrize(
    ("position", "velocity", "wished"),
    [(0.0, 0.0, FULL), (0.0, 3.0, FULL), (1.75, -0.5, -FULL), (-1.7, 1.0, FULL)],
)
def test_an_action_that_leaves_room_stays_as_it_is(cartpole, position, velocity, wished):
    assert heeded(cartpole, position, velocity, wished) == wished


def test_it_changes_no_more_than_it_has_to(cartpole):
    slightly = heeded(cartpole, 0.9, 3.0, FULL)
    assert -FULL < slightly < FULL
    assert heeded(cartpole, 1.5, 3.0, FULL) == -FULL


def test_what_the_model_does_not_know_is_kept_free(cartpole):
    assert heeded(cartpole, 0.8, 2.0, FULL) == FULL
    assert heeded(cartpole, 0.8, 2.0, FULL, Cart(deviation=1.0)) < FULL


def test_predictions_that_have_erred_towards_the_stop_are_corrected(cartpole):
    period, model, wished = cartpole.period_nanoseconds, Cart(), torch.tensor([FULL])
    far = Problem(torch.zeros(4), torch.zeros(2), torch.zeros(1))
    near = replace(far, state=torch.tensor([0.9, 2.0, 0.0, 0.0]))
    for error, changed in ((0.5, True), (-0.5, False)):
        stops = EndStops(cartpole)
        for tick in range(10):
            stops.nearest(model, far, wished, tick * period, ahead=2)
            # Half a metre a second away from what the tick three before had to expect.
            stops.observe(tick * period, [0.0, STEP * FULL + error, 0.0, 0.0])
        action = stops.nearest(model, near, wished, 10 * period, ahead=2)
        assert (float(action) < FULL) == changed


def test_a_model_that_knows_nothing_is_not_asked(cartpole):
    model = Cart()
    model.transitions = 0
    assert heeded(cartpole, 1.5, 3.0, FULL, model) == FULL


def test_a_robot_without_limits_or_without_velocities_is_left_alone(cartpole):
    free = replace(cartpole, state=tuple(replace(d, limits=None) for d in cartpole.state))
    assert heeded(free, 1.5, 3.0, FULL) == FULL
    assert cartpole.rate_of(0) == 1
    assert cartpole.rate_of(2) == 3
    assert cartpole.rate_of(1) is None


def with_safe_range(robot, *bounds):
    """Return the robot with a safe range of its first dimension."""
    return replace(robot, state=(replace(robot.state[0], safe_range=bounds), *robot.state[1:]))


def test_a_safe_range_is_not_left_either_and_nobody_rests_at_its_end(cartpole):
    """Limits and safe range: what ends first counts."""
    assert heeded(cartpole, 0.9, 2.0, FULL) == FULL
    narrow = with_safe_range(cartpole, -2.0, 1.0)
    assert heeded(narrow, 0.9, 2.0, FULL) == -FULL
    assert heeded(narrow, -1.5, -3.0, -FULL) == FULL
    wide = with_safe_range(cartpole, -2.0, 2.0)
    assert heeded(wide, 0.9, 2.0, FULL) == FULL
    assert heeded(wide, 1.5, 3.0, FULL) == -FULL
    stops = EndStops(narrow)
    for tick in range(20):
        stops.observe(tick, [1.0, 0.0, 0.0, 0.0])
    assert not stops.resting  # the guard stops it there; moving at random would help nobody


class Rested(Cart):
    """The same from transitions; where there are none, a force does the opposite."""

    def __init__(self, data):
        super().__init__()
        self.data = data

    def remembered(self):
        return self.data

    def outputs(self, states, actions):
        return super().outputs(states, -actions)


def driven(count, force=lambda number: 3.0 * math.sin(number)):
    """Return transitions of the cart."""
    state, rows = torch.zeros(1, 4).double(), []
    for number in range(count):
        action = torch.tensor([[force(number)]]).double()
        after = state + Cart().outputs(state, action)[0]
        rows.append((state, action, after))
        state = after
    return Transitions(*(torch.cat(column) for column in zip(*rows, strict=True)))


def test_data_tell_better_than_the_model_what_actions_do(cartpole):
    assert heeded(cartpole, 1.5, 3.0, FULL, Rested(driven(40))) == -FULL
    # Too few, or always the same: nobody knows, so nobody interferes.
    assert heeded(cartpole, 1.5, 3.0, FULL, Rested(driven(5))) == FULL
    assert heeded(cartpole, 1.5, 3.0, FULL, Rested(driven(40, lambda number: 0.0))) == FULL


def test_no_tick_looks_at_the_data_of_a_model_that_was_prepared(cartpole):
    stops, model = EndStops(cartpole), Rested(driven(40))
    stops.prepare(model)
    model.data = None  # of no use any more
    near = Problem(torch.tensor([1.5, 3.0, 0.0, 0.0]), torch.zeros(2), torch.zeros(1))
    for stamp in range(2):
        assert float(stops.nearest(model, near, torch.tensor([FULL]), stamp, ahead=0)) == -FULL


def test_a_robot_that_is_driven_but_stays_at_its_stop_rests_there(cartpole):
    stops, idle = EndStops(cartpole), EndStops(cartpole)
    for tick in range(20):
        stops.observe(tick, [RAIL, 0.0, 0.0, 0.0])
        assert stops.resting == (tick >= 9)  # half a second
        idle.observe(tick, [RAIL, 0.0, 0.0, 0.0], driven=False)
        assert not idle.resting
    stops.observe(20, [1.7, -0.5, 0.0, 0.0])
    assert not stops.resting


def test_a_plan_that_was_changed_predicts_what_it_now_does(cartpole):
    state = torch.tensor([1.5, 3.0, 0.0, 0.0])
    problem = Problem(state, torch.zeros(2), torch.zeros(1), delay_fraction=0.5)
    plan = Plan(torch.full((5, 1), FULL), torch.zeros(6, 4), 0.0)
    changed = EndStops(cartpole).heed(Cart(), problem, plan, stamp=0, ahead=0)
    assert float(changed.actions[0]) == -FULL
    assert changed.actions[1:].tolist() == plan.actions[1:].tolist()
    assert float(changed.states[1, 1]) == pytest.approx(3.0 - 0.5 * STEP * FULL)
    inward = replace(problem, state=-state * torch.tensor([-1.0, 1.0, 1.0, 1.0]))
    assert EndStops(cartpole).heed(Cart(), inward, plan, stamp=0, ahead=0) is plan
