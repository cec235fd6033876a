# Copyright 2026 The mbrl_ros authors
# SPDX-License-Identifier: Apache-2.0
"""The state estimator: which messages make the state of a tick."""

import math

import pytest

from mbrl_ros.robots.estimator import SensorError, StateEstimator

MILLISECOND = 1_000_000


def fields(position=0.0, angle=0.0, velocity=0.0):
    return {
        "position/cart_slider": position,
        "position/pole_hinge": angle,
        "velocity/cart_slider": velocity,
        "velocity/pole_hinge": 0.0,
    }


@pytest.fixture
def estimator(cartpole):
    return StateEstimator(cartpole)


def add(estimator, milliseconds, *values, now=0.0):
    return estimator.add("joint_states", milliseconds * MILLISECOND, fields(*values), now)


def test_the_first_message_at_or_after_a_tick_makes_its_state(estimator):
    assert add(estimator, 0, 0.1) == (0, [0.1, 0.0, 0.0, 0.0])
    assert add(estimator, 20, 0.2) is None
    assert add(estimator, 49, 0.3) is None
    assert add(estimator, 51, 0.4) == (50 * MILLISECOND, [0.4, 0.0, 0.0, 0.0])


def test_ticks_without_a_message_are_left_out(estimator):
    add(estimator, 0)
    stamp, _ = add(estimator, 170)
    assert stamp == 150 * MILLISECOND


def test_a_repeated_tick_is_answered_again(estimator):
    assert add(estimator, 50, 0.1) == add(estimator, 50, 0.1)


def test_late_messages_are_ignored_and_a_restart_is_followed(estimator):
    add(estimator, 1000, 1.0)
    assert add(estimator, 970, 2.0) is None
    assert add(estimator, 0, 3.0) == (0, [3.0, 0.0, 0.0, 0.0])


def test_angles_are_wrapped(estimator):
    _, state = add(estimator, 0, 0.0, 3.0 * math.pi + 0.1)
    assert state[2] == pytest.approx(0.1 - math.pi)


def test_values_that_are_not_finite_are_refused_and_the_last_state_stays(estimator):
    add(estimator, 0, 0.1)
    with pytest.raises(SensorError, match=r"position of joint 'cart_slider' is nan"):
        add(estimator, 50, math.nan)
    assert estimator.rejected == 1
    assert estimator.last_state == [0.1, 0.0, 0.0, 0.0]
    assert add(estimator, 60, 0.2) == (50 * MILLISECOND, [0.2, 0.0, 0.0, 0.0])


def test_a_missing_joint_is_named(estimator):
    wrong = {"position/wheel": 0.0}
    with pytest.raises(SensorError, match=r"position of joint 'cart_slider'; it has position/wh"):
        estimator.add("joint_states", 0, wrong, 0.0)


def test_silent_sensors_are_missing(estimator):
    assert estimator.missing(0.0) == ["joint_states"]
    add(estimator, 0, now=10.0)
    assert estimator.missing(10.2) == []
    assert estimator.missing(10.3) == ["joint_states"]
