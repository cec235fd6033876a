# Copyright 2026 The mbrl_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Pairing states with the actions that were in force between them."""

import math

import pytest
import torch

from mbrl_ros.dynamics.dataset import TransitionRecorder, trajectories
from mbrl_ros.dynamics.model import Transitions
from mbrl_ros.robots import load_robot

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
    assert taken.stamps.tolist() == [50 * MILLISECOND, 100 * MILLISECOND]
    assert taken.rewards.shape == (2, 0)
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


def test_nothing_is_learned_while_something_else_than_the_planner_steers(recorder):
    for tick in range(8):
        state(recorder, 50 * tick, 0.1 * tick)
        recorder.add_action(50 * tick * MILLISECOND, [float(tick)], steered=tick not in (3, 4))
    assert actions(recorder) == [0.0, 1.0, 2.0, 5.0, 6.0]
    assert (recorder.steps, recorder.skipped, recorder.unsteered) == (7, 2, 2)
    observed, _ = recorder.observed(100)
    assert (observed.begins // (50 * MILLISECOND)).tolist() == [0, 1, 2, 5, 6]
    recorder.delay = 50 * MILLISECOND  # commands were in force a period later
    assert recorder.take_again().actions[:, 0].tolist() == [0.0, 1.0, 5.0]


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
    assert (recorder.steps, recorder.skipped) == (5, 2)


def test_missed_ticks_are_counted_as_soon_as_they_are_known(recorder):
    """The planner waits, in lockstep, for an update that must not wait for its action."""
    for milliseconds in (0, 50):
        state(recorder, milliseconds)
        action(recorder, milliseconds, 1.0)
    state(recorder, 400)
    assert (recorder.steps, recorder.skipped) == (8, 7)
    assert recorder.last_stamp == 400 * 1_000_000
    assert len(recorder.take()) == 1


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


@pytest.fixture
def rewarded(cartpole_file):
    return TransitionRecorder(load_robot(str(cartpole_file(reward="reward"))))


def reward(recorder, milliseconds, value):
    return recorder.add_reward(milliseconds * MILLISECOND, value)


def test_a_step_waits_for_the_reward_of_its_end(rewarded):
    state(rewarded, 0)
    action(rewarded, 0, 1.0)
    state(rewarded, 50)
    reward(rewarded, 50, 5.0)
    assert action(rewarded, 50, 2.0) == 1  # the reward came first
    state(rewarded, 100)
    assert action(rewarded, 100, 3.0) == 0
    assert reward(rewarded, 100, 6.0) == 1  # the reward came last
    taken = rewarded.take()
    assert taken.rewards.tolist() == [[5.0], [6.0]]
    assert taken.actions[:, 0].tolist() == [1.0, 2.0]
    assert rewarded.unrewarded == 0


def test_a_step_whose_reward_is_overtaken_is_skipped(rewarded):
    for tick in range(4):
        state(rewarded, 50 * tick)
        action(rewarded, 50 * tick, float(tick))
        if tick in (1, 3):
            reward(rewarded, 50 * tick, float(tick))
    assert (rewarded.steps, rewarded.skipped, rewarded.unrewarded) == (3, 1, 1)
    taken = rewarded.take()
    assert taken.rewards.tolist() == [[1.0], [3.0]]
    assert taken.actions[:, 0].tolist() == [0.0, 2.0]


def test_rewards_that_stop_coming_do_not_stop_the_recorder(rewarded):
    for tick in range(20):
        state(rewarded, 50 * tick)
        action(rewarded, 50 * tick, 1.0)
    assert rewarded.kept == 0
    assert rewarded.unrewarded == rewarded.skipped == rewarded.steps >= 15


def test_rewards_that_are_not_finite_are_skipped(rewarded):
    for tick in range(3):
        state(rewarded, 50 * tick)
        action(rewarded, 50 * tick, 1.0)
        reward(rewarded, 50 * tick, math.nan if tick == 1 else 1.0)
    assert (rewarded.steps, rewarded.skipped, rewarded.unrewarded) == (2, 1, 0)


def test_rewards_go_on_after_time_has_gone_backwards(rewarded):
    for _ in range(2):
        for tick in range(4):
            state(rewarded, 50 * tick)
            action(rewarded, 50 * tick, 1.0)
            reward(rewarded, 50 * tick, float(tick))
    assert rewarded.take().rewards[:, 0].tolist() == [1.0, 2.0, 3.0] * 2


def test_trajectories_of_steps_without_stamps_are_single_steps():
    steps = Transitions(*(torch.zeros(3, size).double() for size in (4, 1, 4)))
    assert [len(piece) for piece in trajectories(steps, 50 * MILLISECOND)] == [1, 1, 1]
    assert trajectories(steps[:0], 50 * MILLISECOND) == []
