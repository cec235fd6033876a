# Copyright 2026 The mbrl_ros authors
# SPDX-License-Identifier: Apache-2.0
"""The guard's rules: no command outside the bounds, the slew limit or the time-out, ever."""

import math
import random

import pytest

from mbrl_ros.robots import load_robot
from mbrl_ros.robots.guard import CommandGuard, GuardStatus


@pytest.fixture
def guard(cartpole):
    return CommandGuard(cartpole, timeout=0.125, armed=True)


@pytest.fixture
def slow_guard(cartpole_file):
    robot = load_robot(str(cartpole_file(command__dimensions__0__slew=100.0)))
    return CommandGuard(robot, timeout=0.125, armed=True)


def test_actions_are_clamped(guard):
    assert guard.accept([3.0], 0.0) == [3.0]
    assert guard.accept([1e300], 0.05) == [10.0]
    assert guard.accept([-11.0], 0.1) == [-10.0]


@pytest.mark.parametrize("action", [[math.nan], [math.inf], [-math.inf], [], [1.0, 2.0]])
def test_bad_actions_are_refused_with_a_reason(guard, action):
    reason = guard.accept(action, 0.0)
    assert isinstance(reason, str)
    assert "cart_force" in reason or "expected 1" in reason
    assert guard.rejected == 1
    assert guard.watch(1.0) is None  # nothing was ever sent: nothing to take back


def test_silence_brings_the_safe_command_until_the_next_action(guard):
    guard.accept([5.0], 0.0)
    assert guard.watch(0.12) is None
    assert guard.watch(0.13) == [0.0]
    assert guard.status is GuardStatus.TIMEOUT
    assert guard.watch(0.18) == [0.0]
    assert guard.accept([4.0], 0.2) == [4.0]
    assert guard.status is GuardStatus.ACTIVE
    assert guard.timeouts == 1


def test_refused_actions_do_not_keep_the_guard_quiet(guard):
    guard.accept([5.0], 0.0)
    guard.accept([math.nan], 0.1)
    assert guard.watch(0.13) == [0.0]


def test_a_clock_that_goes_back_does_not_put_the_time_out_off(guard):
    guard.accept([5.0], 1000.0)
    assert guard.watch(1.0) is None
    assert guard.watch(1.2) == [0.0]


def test_stop_latches(guard):
    guard.accept([5.0], 0.0)
    guard.stop()
    assert guard.watch(0.01) == [0.0]
    assert isinstance(guard.accept([5.0], 0.05), str)
    assert guard.watch(0.1) == [0.0]
    guard.arm()
    assert guard.accept([5.0], 0.15) == [5.0]


def test_a_disarmed_guard_sends_nothing(cartpole):
    guard = CommandGuard(cartpole, timeout=0.125, armed=False)
    assert isinstance(guard.accept([5.0], 0.0), str)
    assert guard.watch(1.0) is None
    guard.arm()
    assert guard.accept([5.0], 1.0) == [5.0]


def test_slew_limit_holds_for_actions_and_time_outs(slow_guard):
    assert slow_guard.accept([10.0], 0.0) == [5.0]  # one period away from the safe command
    assert slow_guard.accept([10.0], 0.02) == pytest.approx([7.0])
    assert slow_guard.watch(0.15) == pytest.approx([0.0])
    assert slow_guard.release() == [0.0]


def test_nothing_gets_past_the_limits(slow_guard):
    """Random actions, good and bad, at random times."""
    generator = random.Random(0)
    values = [0.0, 1.0, -10.0, 10.0, 1e9, -1e9, 1e308, math.nan, math.inf, -math.inf]
    now, sent_at, sent = 0.0, -0.05, 0.0
    for _ in range(20_000):
        now += generator.choice([0.0, 1e-4, 0.01, 0.05, 0.2])
        if generator.random() < 0.3:
            command = slow_guard.watch(now)
        else:
            size = generator.choice([0, 1, 1, 1, 2])
            command = slow_guard.accept([generator.choice(values) for _ in range(size)], now)
        if isinstance(command, list):
            assert -10.0 <= command[0] <= 10.0
            assert abs(command[0] - sent) <= 100.0 * (now - sent_at) + 1e-9
            sent_at, sent = now, command[0]
        elif command is None and slow_guard.status is GuardStatus.ACTIVE:
            assert now - sent_at <= 0.125
