# Copyright 2026 The mbrl_ros authors
# SPDX-License-Identifier: Apache-2.0
"""What is said to hold a robot back."""

import math

import pytest
import torch

from mbrl_ros.planning.limits import Leisure, Limits, time_to_plan

PERIOD = 50_000_000
HORIZON = 10
WEIGHTS = [6.0, 4.0]


@pytest.fixture
def limits(cartpole):
    return Limits(cartpole, HORIZON)


def live(limits, ticks=200, missed=0.0, hurried=0.0, promised=1.0, realised=1.0, off=0.5, by=0.01):
    """Run ticks of which some are missed or hurried; steps of 0.1 are predicted `off` by `by`.

    promised, realised: costs of a horizon. off: in predicted deviations; by: in SI units.
    """
    for tick in range(ticks):
        stamp = tick * PERIOD
        state = [0.1 * tick, 0.1 * tick, math.remainder(0.1 * tick, 2.0 * math.pi), 0.1 * tick]
        limits.arrived(stamp, state, realised / HORIZON)
        limits.ticked(0.03, int(tick % 100 < 100 * missed), tick % 100 < 100 * hurried)
        if limits.due(stamp):
            start = torch.tensor(state)
            variance = torch.full((4,), (by / off) ** 2)
            limits.expect(stamp + PERIOD, start, start + 0.1 + by, variance, promised)
    return limits.verdict(WEIGHTS)


@pytest.mark.parametrize(
    ("run", "limited_by", "words"),
    [
        ({}, "none", ""),
        ({"missed": 0.1}, "planner", "planner too slow: 10 % of the ticks missed"),
        ({"hurried": 0.8}, "planner", "80 % with less than was asked for, a plan takes 30 of 50"),
        ({"hurried": 0.3}, "none", ""),
        ({"realised": 3.0}, "model", "plans promise a cost of 1, the robot gets 3"),
        ({"realised": 0.2}, "none", ""),
        ({"off": 5.0, "by": 0.05}, "model", "off by 5.0 predicted deviations, 50 % of its size"),
        ({"off": 5.0, "by": 0.001}, "none", ""),  # surprising, but of no concern
        ({"off": 0.5, "by": 0.05}, "none", ""),  # wide of the mark, as predicted
        ({"missed": 0.1, "realised": 3.0}, "planner", "planner too slow"),
        ({"ticks": 10, "realised": 3.0}, "none", ""),  # too early to tell
    ],
)
def test_what_limits_a_robot_is_told_by_what_came_of_its_plans(limits, run, limited_by, words):
    verdict = live(limits, **run)
    assert verdict.limited_by == limited_by
    assert words in verdict.text
    assert bool(verdict.text) == (limited_by != "none")


def test_the_numbers_are_those_of_the_run(limits):
    verdict = live(limits, hurried=0.25, promised=2.0, realised=2.5, off=2.0)
    assert verdict.hurried_share == 0.25
    assert verdict.prediction_error == pytest.approx(2.0, rel=1e-3)
    assert verdict.promised_cost == pytest.approx(2.0)
    assert verdict.realised_cost == pytest.approx(2.5)


def test_costs_within_the_goals_tolerances_are_of_no_concern(limits, cartpole):
    edge = sum(w * g.tolerance**2 for w, g in zip(WEIGHTS, cartpole.goal, strict=True))
    small = HORIZON * edge * 0.1
    assert live(limits, promised=small, realised=5.0 * small).limited_by == "none"


def test_plans_for_another_goal_promise_nothing(limits):
    assert live(limits, realised=3.0).limited_by == "model"
    limits.forget_promises()
    verdict = limits.verdict(WEIGHTS)
    assert verdict.limited_by == "none"
    assert math.isnan(verdict.promised_cost)


def test_only_a_few_predictions_a_second_are_watched(limits):
    assert sum(limits.due(tick * PERIOD) for tick in range(200)) == 50


def test_a_plan_has_no_longer_than_its_tick():
    assert time_to_plan(0.03, age=0.0, period=0.05) == 0.03
    assert time_to_plan(0.03, age=0.02, period=0.05) == pytest.approx(0.025)
    # However late its state has come, some planning is done.
    assert time_to_plan(0.03, age=0.049, period=0.05) == pytest.approx(0.0075)
    # A slow sensor is no reason to hurry.
    assert time_to_plan(0.03, age=0.2, period=0.05) == 0.03


def test_work_that_never_fits_between_two_ticks_is_tried_ever_more_rarely():
    leisure, tried = Leisure(), []
    for tick in range(300):
        if leisure.allows(0.01):
            tried.append(tick)
            leisure.took(0.05, 0.01)
    assert len(tried) == 8
    assert not leisure.allows(0.0)
    assert leisure.allows(0.06)  # a plan was quick


def test_work_that_was_late_once_is_soon_done_again():
    leisure = Leisure()
    leisure.took(0.05, 0.03)
    allowed = []
    for _ in range(10):
        allowed.append(leisure.allows(0.03))
        if allowed[-1]:
            leisure.took(0.02, 0.03)
    assert allowed == 2 * [False] + 8 * [True]
