# Copyright 2026 The mbrl_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Pairing states with the actions that were in force between them."""

import math

import pytest

from mbrl_ros.dynamics.dataset import TransitionRecorder

MILLISECOND = 1_000_000


@pytest.fixture
def recorder(cartpole):
    return TransitionRecorder(cartpole)


def state(recorder, milliseconds, position=0.0):
    return recorder.add_state(milliseconds * MILLISECOND, [position, 0.0, 0.0, 0.0])


def action(recorder, milliseconds, force):
    return recorder.add_action(milliseconds * MILLISECOND, [force])


def actions(recorder):
    return recorder.take().actions[:, 0].tolist()


def test_in_lockstep_each_action_fills_its_step(recorder):
    for tick, force in enumerate([1.0, 2.0, 3.0]):
        state(recorder, 50 * tick, 0.1 * tick)
        action(recorder, 50 * tick, force)
    assert recorder.kept == 2
    taken = recorder.take()
    assert taken.actions[:, 0].tolist() == [1.0, 2.0]
    assert taken.states[:, 0].tolist() == pytest.approx([0.0, 0.1])
    assert taken.next_states[:, 0].tolist() == pytest.approx([0.1, 0.2])
    assert len(recorder.take()) == 0
    assert recorder.kept == 2


def test_a_late_action_shares_the_step_with_the_one_before(recorder):
    action(recorder, 0, 1.0)
    state(recorder, 50)
    action(recorder, 80, 6.0)
    state(recorder, 100)
    assert recorder.kept == 0  # an action of this step could still come
    assert action(recorder, 125, 0.0) == 1
    assert actions(recorder) == pytest.approx([0.6 * 1.0 + 0.4 * 6.0])


def test_the_order_of_arrival_does_not_matter(cartpole):
    events = [
        ("s", 0, 0.0),
        ("a", 20, 1.0),
        ("s", 50, 0.0),
        ("a", 80, 2.0),
        ("s", 100, 0.0),
        ("a", 120, 3.0),
    ]
    found = []
    for order in (
        events,
        sorted(events, key=lambda event: event[0]),
        sorted(events, key=lambda event: event[0], reverse=True),
    ):
        recorder = TransitionRecorder(cartpole)
        for kind, milliseconds, value in order:
            (state if kind == "s" else action)(recorder, milliseconds, value)
        found.append(actions(recorder))
    assert found[0] == found[1] == found[2] == pytest.approx([0.4 * 2.0 + 0.6 * 1.0])


def test_nothing_is_learned_before_the_first_action(recorder):
    for tick in range(4):
        state(recorder, 50 * tick)
    action(recorder, 150, 1.0)
    state(recorder, 200)
    action(recorder, 200, 1.0)
    assert recorder.steps == 1


@pytest.mark.parametrize("value", [math.nan, 1.9])
def test_unusable_steps_count_but_are_not_kept(recorder, value):
    for tick in range(4):
        state(recorder, 50 * tick, value if tick == 2 else 0.0)
        action(recorder, 50 * tick, 1.0)
    assert (recorder.steps, recorder.skipped, recorder.kept) == (3, 2, 1)


def test_a_missed_tick_is_skipped(recorder):
    for milliseconds in (0, 50, 150, 200, 250):
        state(recorder, milliseconds)
        action(recorder, milliseconds, 1.0)
    assert (recorder.steps, recorder.skipped) == (4, 1)


def test_time_going_backwards_keeps_what_is_complete(recorder):
    for tick in range(3):
        state(recorder, 50 * tick)
        action(recorder, 50 * tick, 1.0)
    state(recorder, 0)
    action(recorder, 0, 2.0)
    state(recorder, 50)
    action(recorder, 50, 2.0)
    assert actions(recorder) == [1.0, 1.0, 2.0]


def test_one_stream_without_the_other_takes_no_memory(recorder):
    """As when a guard on hardware stays disarmed for hours."""
    for tick in range(5000):
        state(recorder, 50 * tick)
    for tick in range(5000, 5010):
        state(recorder, 50 * tick)
        action(recorder, 50 * tick, 1.0)
    assert recorder.steps == 9
    assert actions(recorder) == [1.0] * 9
    assert len(recorder._states) + len(recorder._actions) < 2500
