# Copyright 2026 The mbrl_ros authors
# SPDX-License-Identifier: Apache-2.0
"""The guard's rules: no command outside the bounds, the slew limit or the time-out, ever."""

import math
import sys
from pathlib import Path

import pytest

from mbrl_ros.robots import load_robot
from mbrl_ros.robots.guard import CommandGuard, CommandLimiter, GuardStatus, RefusedError, Stamped
from mbrl_ros.robots.guarded import guarded, load_guarded
from mbrl_ros.robots.spec import ActionDimension

sys.path.insert(0, str(Path(__file__).parents[1] / "bench"))
from fuzz_guard import fuzz_rules

PERIOD = 0.05
STATE = {"cart_position": 0.1, "cart_velocity": 0.0, "pole_angle": 3.0, "pole_velocity": 0.0}


class Driver:
    """Feeds a guard with states and actions whose stamps are the time at which they come."""

    def __init__(self, robot, armed=True, state_timeout=0.2):
        self.guard = CommandGuard(guarded(robot), 0.125, state_timeout, armed)
        self._state_at = -1.0

    def state(self, now, **changes):
        values = STATE | changes
        stamp = round(now * 1e9)
        self.guard.take_state(Stamped(stamp, list(values), list(values.values())), stamp, now)
        self._state_at = now

    def act(self, action, now, age=0.0, names=("cart_force",), fresh_state=True):
        if fresh_state and now != self._state_at:
            self.state(now)
        clock = round(now * 1e9)
        message = Stamped(clock - round(age * 1e9), list(names), action)
        return self.guard.take_action(message, clock, now)

    def refused(self, reason, *args, **kwargs):
        with pytest.raises(RefusedError) as caught:
            self.act(*args, **kwargs)
        assert caught.value.reason == reason
        return str(caught.value)


@pytest.fixture
def driver(cartpole):
    return Driver(cartpole)


@pytest.fixture
def slow(cartpole_file):
    return Driver(load_robot(str(cartpole_file(command__dimensions__0__slew=100.0))))


# -- actions ---------------------------------------------------------------------------------


def test_actions_are_clamped(driver):
    assert driver.act([3.0], 0.0) == [3.0]
    assert driver.act([1e300], 0.05) == [10.0]
    assert driver.act([-11.0], 0.1) == [-10.0]
    assert driver.guard.accepted == 3


@pytest.mark.parametrize(
    ("action", "names", "reason", "text"),
    [
        ([math.nan], ["cart_force"], "not_finite", "cart_force = nan is not finite"),
        ([-math.inf], ["cart_force"], "not_finite", "cart_force = -inf is not finite"),
        ([], [], "wrong_size", "0 names and 0 positions, expected 1 of each"),
        ([], ["cart_force"], "wrong_size", "1 names and 0 positions, expected 1 of each"),
        ([1.0, 2.0], ["cart_force", "b"], "wrong_size", "2 names and 2 positions"),
        ([1.0], ["thrust"], "wrong_names", "action has ['thrust'], expected ['cart_force']"),
    ],
)
def test_bad_actions_are_refused_with_a_reason_and_counted(driver, action, names, reason, text):
    assert text in driver.refused(reason, action, 0.0, names=names)
    assert driver.guard.action.refused[reason] == 1
    assert driver.guard.action.faults == 1
    assert driver.guard.watch(1.0) is None  # nothing was ever sent: nothing to take back


def test_a_name_that_comes_twice_is_refused(cartpole_file):
    dimensions = [
        {"name": name, "unit": "N", "bounds": [-1.0, 1.0], "safe": 0.0}
        for name in ("left", "right")
    ]
    changes = {"command__dimensions": dimensions, "cost__effort": {}, "cost__rate": {}}
    driver = Driver(load_robot(str(cartpole_file(**changes))))
    driver.refused("duplicate_names", [0.5, 0.5], 0.0, names=["left", "left"])
    assert driver.act([0.5, -0.5], 0.0, names=["right", "left"]) == [-0.5, 0.5]


def test_actions_of_another_time_are_refused(driver):
    assert driver.act([1.0], 10.0) == [1.0]
    driver.refused("repeated", [1.0], 10.0, fresh_state=False)
    driver.refused("out_of_order", [1.0], 10.05, age=0.1)
    driver.refused("too_old", [1.0], 12.0, age=0.3)
    driver.refused("in_future", [1.0], 13.0, age=-0.6)
    assert driver.guard.action.faults == 3  # a repetition is none
    assert driver.act([1.0], 14.0) == [1.0]
    assert driver.act([1.0], 1.0) == [1.0]  # a new time


# -- time-outs -------------------------------------------------------------------------------


def test_silence_brings_the_safe_command_until_the_next_action(driver):
    guard = driver.guard
    driver.act([5.0], 0.0)
    assert guard.watch(0.12) is None
    assert guard.watch(0.13) == [0.0]
    assert guard.status is GuardStatus.TIMEOUT
    assert guard.watch(0.18) == [0.0]
    assert driver.act([4.0], 0.2) == [4.0]
    assert guard.status is GuardStatus.ACTIVE
    assert guard.timeouts == 1


def test_refused_actions_do_not_keep_the_guard_quiet(driver):
    driver.act([5.0], 0.0)
    driver.refused("not_finite", [math.nan], 0.1)
    assert driver.guard.watch(0.13) == [0.0]


def test_without_a_fresh_state_nothing_passes(driver):
    assert "no state has come" in driver.refused("not_ready", [5.0], 0.0, fresh_state=False)
    assert driver.guard.watch(0.0) is None
    assert driver.act([5.0], 0.05) == [5.0]
    for now in (0.1, 0.15, 0.2):
        assert driver.act([5.0], now, fresh_state=False) == [5.0]
    assert "the last state is too old" in driver.refused(
        "not_ready", [5.0], 0.26, fresh_state=False
    )
    assert driver.guard.watch(0.26) == [0.0]
    assert driver.guard.status is GuardStatus.STALE_STATE
    assert driver.act([5.0], 0.3) == [5.0]


def test_a_state_counts_from_its_stamp_on(driver):
    message = Stamped(round(0.85e9), list(STATE), list(STATE.values()))
    driver.guard.take_state(message, round(1e9), 1.0)
    driver.act([5.0], 1.04, fresh_state=False)
    driver.refused("not_ready", [5.0], 1.06, fresh_state=False)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [({"pole_angle": math.nan}, "not_finite"), ({"height": 1.0}, "wrong_size")],
)
def test_a_bad_state_is_none(driver, changes, reason):
    with pytest.raises(RefusedError) as caught:
        driver.state(0.0, **changes)
    assert caught.value.reason == reason
    driver.refused("not_ready", [1.0], 0.0, fresh_state=False)


def test_a_clock_that_goes_back_does_not_put_the_time_out_off(driver):
    driver.act([5.0], 1000.0)
    assert driver.guard.watch(1.0) is None
    assert driver.guard.watch(1.21) == [0.0]


def test_where_the_robot_waits_for_commands_no_state_is_missed(cartpole):
    driver = Driver(cartpole, state_timeout=math.inf)
    assert driver.act([5.0], 100.0, age=50.0, fresh_state=False) == [5.0]


# -- arming, stopping, safe ranges -----------------------------------------------------------


def test_stop_latches(driver):
    guard = driver.guard
    driver.act([5.0], 0.0)
    guard.stop()
    assert guard.watch(0.01) == [0.0]
    assert "stopped by ~/stop" in driver.refused("not_ready", [5.0], 0.05)
    assert guard.watch(0.1) == [0.0]
    assert guard.arm(0.1) is None
    assert guard.watch(0.11) == [0.0]  # kept up until an action takes over
    assert driver.act([5.0], 0.15) == [5.0]


def test_a_disarmed_guard_sends_nothing_and_arms_only_when_all_its_inputs_are_fresh(cartpole):
    driver = Driver(cartpole, armed=False)
    guard = driver.guard
    assert guard.arm(0.0) == "not armed: no state has come; no action has come"
    driver.state(0.5)
    assert guard.arm(0.5) == "not armed: no action has come"
    assert "disarmed: call ~/arm" in driver.refused("not_ready", [5.0], 1.0)
    assert guard.arm(1.15) == "not armed: the last action is too old"
    assert guard.arm(2.0) == "not armed: the last state is too old; the last action is too old"
    assert guard.watch(2.0) is None
    assert guard.status is GuardStatus.DISARMED
    driver.refused("not_ready", [5.0], 3.0)
    assert guard.arm(3.05) is None
    assert guard.status is GuardStatus.WAITING
    assert guard.watch(3.06) is None
    assert driver.act([5.0], 3.1) == [5.0]


def test_leaving_the_safe_range_stops_the_robot_until_it_is_back_and_armed(cartpole_file):
    driver = Driver(load_robot(str(cartpole_file(state__0__safe_range=[-1.5, 1.5]))))
    guard = driver.guard
    driver.act([5.0], 0.0)
    driver.state(0.05, cart_position=1.5)
    assert guard.status is GuardStatus.ACTIVE
    driver.state(0.1, cart_position=1.51)
    assert guard.status is GuardStatus.STOPPED
    outside = "cart_position = 1.51 is outside its safe range [-1.5, 1.5]"
    assert outside in guard.text
    assert guard.watch(0.1) == [0.0]
    driver.refused("not_ready", [5.0], 0.12, fresh_state=False)
    assert guard.arm(0.13) == f"not armed: {outside}"
    driver.state(0.15, cart_position=1.4)
    assert outside in driver.refused("not_ready", [5.0], 0.16)  # back, but not armed
    assert guard.arm(0.17) is None
    assert driver.act([5.0], 0.2) == [5.0]


# -- limits ----------------------------------------------------------------------------------


def test_slew_limit_holds_for_actions_and_time_outs(slow):
    assert slow.act([10.0], 0.0) == [5.0]  # one period away from the safe command
    assert slow.act([10.0], 0.02) == pytest.approx([7.0])
    assert slow.guard.watch(0.15) == pytest.approx([2.0])  # no more than one period at a time
    assert slow.guard.watch(0.16) == pytest.approx([1.0])
    assert slow.guard.watch(0.2) == [0.0]
    assert slow.guard.release() == [0.0]


def limiter(**changes):
    settings = {"name": "force", "unit": "N", "bounds": (-1.0, 1.0), "safe": 0.0}
    return CommandLimiter(ActionDimension(**(settings | changes)), PERIOD)


def test_jerk_limits_the_change_of_the_rate_and_arrives_without_overshoot():
    limited = limiter(slew=2.0, jerk=10.0)
    sent, rate = 0.0, 0.0
    values = []
    for step in range(1, 100):
        value = limited.step(0.7 if step < 40 else -5.0, step * PERIOD)
        assert abs((value - sent) / PERIOD - rate) <= 10.0 * PERIOD + 1e-9
        sent, rate = value, (value - sent) / PERIOD
        values.append(value)
    assert max(values) <= 0.7
    assert values[38] == pytest.approx(0.7, abs=1e-3)
    assert min(values) >= -1.0
    assert values[-1] == pytest.approx(-1.0, abs=1e-2)


@pytest.mark.parametrize("jerk", [1e-300, 1e-3, 1.0, 1e6, 1e308])
def test_bounds_hold_with_any_jerk(jerk):
    limited = limiter(bounds=(-1e308, 1e308), jerk=jerk)
    for step in range(200):
        assert abs(limited.step((-1.0) ** (step // 20) * 1e308, step * PERIOD)) <= 1e308
    small = limiter(jerk=jerk)
    for step in range(200):
        assert abs(small.step((-1.0) ** (step // 20) * 3.0, step * PERIOD)) <= 1.0


def test_the_way_to_the_safe_command_takes_no_heed_of_jerk_and_ends_at_rest():
    limited = limiter(slew=2.0, jerk=10.0)
    for step in range(30):
        limited.step(1.0, step * PERIOD)
    assert limited.value == pytest.approx(1.0, abs=1e-2)
    before = limited.value
    assert limited.step(0.0, 1.5, hurry=True) == pytest.approx(before - 2.0 * PERIOD)
    value = limited.value
    assert value < limited.step(1.0, 1.55) <= value + 10.0 * PERIOD**2 + 1e-9


def test_nothing_gets_past_the_limits():
    """Random messages at random times; the checks are those of the long run in bench/."""
    result = fuzz_rules(messages=20_000, seed=0)
    assert result.violations == []
    assert result.outputs > 5_000
    assert result.good > 2_000
    assert min(result.sent.values()) > 100


# -- the robot's file ------------------------------------------------------------------------


def test_the_guard_learns_of_the_robot_what_its_file_says(cartpole_file):
    path = cartpole_file(state__0__safe_range=[-1.5, 1.5], command__dimensions__0__slew=100.0)
    expected, robot = guarded(load_robot(str(path))), load_guarded(str(path))
    assert (robot.name, robot.period) == (expected.name, expected.period)
    assert robot.state_names == expected.state_names == list(STATE)
    assert robot.safe_ranges["cart_position"] == [-1.5, 1.5]
    dimension = robot.command.dimensions[0]
    assert (dimension.name, dimension.safe, dimension.slew) == ("cart_force", 0.0, 100.0)
    assert robot.command.topic == expected.command.topic


def test_a_robot_that_cannot_be_used_is_refused_with_the_reason():
    with pytest.raises(ValueError, match="unknown robot 'hexapod'; expected one of"):
        load_guarded("hexapod")
