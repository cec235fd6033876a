# Copyright 2026 The mbrl_ros authors
# SPDX-License-Identifier: Apache-2.0
"""The state estimator: which messages make the state of a tick, and how."""

import math
import random

import numpy as np
import pytest
from pydantic import TypeAdapter
from scipy.linalg import solve_discrete_are
from scipy.spatial.transform import Rotation

from mbrl_ros.robots import RobotSpec, load_robot
from mbrl_ros.robots.estimator import SensorError, StateEstimator
from mbrl_ros.robots.messages import rates
from mbrl_ros.robots.velocity_filter import VelocityFilter

MILLISECOND = 1_000_000
SECOND = 1000 * MILLISECOND


def reading(position=0.0, angle=0.0, velocity=0.0):
    return {
        "position/cart_slider": position,
        "position/pole_hinge": angle,
        "velocity/cart_slider": velocity,
        "velocity/pole_hinge": 0.0,
    }


@pytest.fixture
def estimator(cartpole):
    return StateEstimator(cartpole)


def add(estimator, milliseconds, *values, arrived=0.0, now=None):
    """Give a message; return (milliseconds, state) if it completes one."""
    moment = None if now is None else round(now * MILLISECOND)
    stamp = round(milliseconds * MILLISECOND)
    return shown(estimator.add("joint_states", stamp, reading(*values), arrived, moment))


def shown(estimate):
    return estimate and (estimate.stamp / MILLISECOND, estimate.values)


# -- one sensor, no clock ------------------------------------------------------------------


def test_a_message_at_the_tick_completes_it(estimator):
    assert add(estimator, 0, 0.1) == (0, [0.1, 0.0, 0.0, 0.0])
    assert add(estimator, 20, 0.2) is None
    assert add(estimator, 50, 0.3) == (50, [0.3, 0.0, 0.0, 0.0])


def test_values_are_interpolated_to_the_tick(estimator):
    add(estimator, 0)
    assert add(estimator, 48, 0.3, 3.0, 1.0) is None
    tick, state = add(estimator, 53, 0.8, 3.0 - 2.0 * math.pi + 0.25, 2.0)
    assert tick == 50
    # The pole turned past pi by 0.25 rad in 5 ms.
    assert state == pytest.approx([0.5, 1.4, 3.1, 0.0])


def test_nothing_is_interpolated_over_a_silence(estimator):
    add(estimator, 0)
    assert add(estimator, 410, 4.0) is None
    assert add(estimator, 449, 4.0) is None
    assert add(estimator, 451, 5.0) == (450, [pytest.approx(4.5), 0.0, 0.0, 0.0])


def test_ticks_without_a_message_are_left_out_and_counted(estimator):
    add(estimator, 0)
    assert add(estimator, 160)[0] == 150
    assert estimator.skipped == 2


def test_a_repeated_tick_is_answered_again(estimator):
    assert add(estimator, 50, 0.1) == add(estimator, 50, 0.1)
    # As of a simulation that was reset while its clock stood still.
    assert add(estimator, 50, 0.7) == (50, [0.7, 0.0, 0.0, 0.0])
    assert (estimator.states, estimator.duplicates) == (1, 2)


def test_messages_out_of_order_change_nothing_but_a_count(cartpole):
    rng, expected, found = random.Random(0), [], []
    ordered, mixed = StateEstimator(cartpole), StateEstimator(cartpole)
    for step in range(200):
        value = math.sin(0.1 * step)
        expected.append(add(ordered, 11 * step, value))
        found.append(add(mixed, 11 * step, value))
        if step and rng.random() < 0.3:
            assert add(mixed, 11 * step - rng.randint(1, 100), 9.9) is None
            if rng.random() < 0.5:
                repeated = add(mixed, 11 * step, value)
                assert repeated in (None, found[-1])
    assert found == expected
    assert mixed.late > 30
    assert mixed.duplicates > 10


def test_a_restart_is_followed_and_told(estimator):
    add(estimator, 2000, 1.0)
    assert add(estimator, 970, 2.0) is None
    assert add(estimator, 1000, 3.0) == (1000, [3.0, 0.0, 0.0, 0.0])
    assert estimator.leaps == 1
    assert estimator.take_notices() == [
        "stamps of joint_states went back: -1.03 s; estimation begins anew"
    ]
    assert estimator.take_notices() == []


def test_a_sensor_whose_own_clock_went_back_a_little_is_followed(estimator):
    add(estimator, 1000, 1.0)
    states = [add(estimator, 500 + 10 * i, 2.0) for i in range(20)]
    assert states[15] == (650, [2.0, 0.0, 0.0, 0.0])


def test_angles_are_wrapped(estimator):
    _, state = add(estimator, 0, 0.0, 3.0 * math.pi + 0.1)
    assert state[2] == pytest.approx(0.1 - math.pi)


def test_values_that_are_not_finite_are_refused_and_the_last_state_stays(estimator):
    add(estimator, 0, 0.1)
    for value in (math.nan, math.inf):
        with pytest.raises(SensorError, match=rf"position of joint 'cart_slider' is {value}"):
            add(estimator, 50, value)
    assert estimator.rejected == 2
    assert estimator.last_state == [0.1, 0.0, 0.0, 0.0]
    assert add(estimator, 60, 0.16) == (50, [pytest.approx(0.15), 0.0, 0.0, 0.0])


def test_a_missing_joint_is_named(estimator):
    wrong = {"position/wheel": 0.0}
    with pytest.raises(SensorError, match=r"position of joint 'cart_slider'; it has position/wh"):
        estimator.add("joint_states", 0, wrong, 0.0)


def test_silent_sensors_are_missing(estimator):
    assert estimator.missing(0.0) == ["joint_states"]
    assert estimator.silence("joint_states", 0.0) is None
    add(estimator, 0, arrived=10.0)
    assert estimator.missing(10.2) == []
    assert estimator.missing(10.3) == ["joint_states"]
    assert estimator.silence("joint_states", 10.3) == pytest.approx(0.3)


# -- with a clock --------------------------------------------------------------------------


def wake(estimator, milliseconds):
    estimate = estimator.advance(round(milliseconds * MILLISECOND))
    return estimate and (estimate.stamp / MILLISECOND, estimate.values, estimate.measured)


def feed(estimator, begin, end, step=10, lag=2.0, velocity=1.0):
    """Give messages of a cart that moves at `velocity` metres per second."""
    states = []
    for stamp in np.arange(begin, end, step):
        position = velocity * stamp / 1000.0
        states.append(add(estimator, stamp, position, 0.0, velocity, now=stamp + lag))
    return [state for state in states if state is not None]


def test_a_late_tick_is_predicted_until_the_time_out(estimator):
    """Messages every 10 ms, 2 ms under way; the last one is of 6095 ms."""
    assert len(feed(estimator, 5005, 6100)) == 21
    last = 6050
    completed = []
    for now in range(6097, 6600):
        found = wake(estimator, now)
        if found is not None:
            assert not found[2]
            # Usual arrival and half a period are waited for, and no longer than a period.
            assert found[0] + 25 <= now <= found[0] + 50
            assert found[1] == pytest.approx([found[0] / 1000.0, 1.0, 0.0, 0.0])
            assert found[0] == last + 50
            last = found[0]
            completed.append(last)
    assert completed == [6100, 6150, 6200, 6250, 6300]
    assert estimator.predicted == 5


def test_what_comes_late_by_habit_is_waited_for(estimator):
    """A way of 120 ms from stamp to arrival: later than half a period, but known."""
    begun = feed(estimator, 5005, 6100, lag=120.0)
    assert [tick for tick, _ in begun] == list(range(5050, 6100, 50))
    for now in range(6216, 6225):
        assert wake(estimator, now) is None
    assert estimator.predicted == 0


def test_the_next_wake_is_when_a_tick_is_overdue(estimator):
    feed(estimator, 5005, 6100)
    now = 6097 * MILLISECOND
    wakes = 0
    while now < 6600 * MILLISECOND:
        at = estimator.next_wake(now)
        assert now < at <= now + 51 * MILLISECOND
        assert wake(estimator, (at - 1) / MILLISECOND) is None
        wakes += wake(estimator, at / MILLISECOND) is not None
        now = at
    assert wakes == 5


def test_a_clock_that_leaps_is_followed(estimator):
    for leap in (-3000, 3000):
        feed(estimator, 7000, 7100)
        states = feed(estimator, 7100 + leap, 7200 + leap)
        assert states[-1][0] == 7150 + leap
        estimator.advance(7200 * MILLISECOND)
    notices = estimator.take_notices()
    assert "the clock went back: -2.99 s" in notices[0]
    assert "the clock leapt forward" in notices[1]
    assert estimator.leaps == len(notices)


def test_stamps_that_are_not_of_this_clock_are_told(estimator):
    with pytest.raises(SensorError, match=r"its stamp is 7\.00 s ahead of this machine's clock"):
        add(estimator, 9000, now=2000)
    assert feed(estimator, 5000, 5500, lag=2000.0)[0][0] == 5000
    assert estimator.behind() == {"joint_states": pytest.approx(2.0)}


# -- alignment -----------------------------------------------------------------------------


def two_sensors(cartpole_file, align, **entries):
    """Return the cart-pole with its position on `joint_states`, all else on `slow`."""
    slow = {"type": "sensor_msgs/msg/JointState", "align": align} | entries
    changes = {f"state__{i}__sensor": "slow" for i in (1, 2, 3)}
    return load_robot(str(cartpole_file(sensors__slow=slow, **changes)))


def run_two(robot, milliseconds=1000):
    """Joint states every 10 ms, the slow sensor every 70; a value is its stamp in seconds."""
    estimator, states = StateEstimator(robot), {}
    for now in range(5000, 5000 + milliseconds):
        found = [estimator.advance(now * MILLISECOND)]
        for sensor, step, phase in (("joint_states", 10, 3), ("slow", 70, 5)):
            if now % step == phase:
                stamp = now * MILLISECOND
                values = reading(now / 1000.0, 0.0, now / 1000.0)
                values["position/pole_hinge"] = now / 1000.0 - 5.0
                values["velocity/pole_hinge"] = 1.0
                found.append(estimator.add(sensor, stamp, values, 0.0, stamp))
        states.update({e.stamp // MILLISECOND: e.values for e in found if e is not None})
    return estimator, states


def test_latest_is_the_newest_message_before_the_tick(cartpole_file):
    estimator, states = run_two(two_sensors(cartpole_file, "latest"))
    assert sorted(states) == list(range(5050, 5951, 50))
    for tick, (position, velocity, angle, _) in states.items():
        newest = max(stamp for stamp in range(5000, tick + 1) if stamp % 70 == 5)
        assert position == pytest.approx(tick / 1000.0)  # that sensor is interpolated
        assert velocity == newest / 1000.0
        assert angle == pytest.approx(newest / 1000.0 - 5.0)
    assert estimator.predicted == 0


def test_prediction_carries_what_has_a_velocity_on_to_the_tick(cartpole_file):
    estimator, states = run_two(two_sensors(cartpole_file, "predict"))
    assert sorted(states) == list(range(5050, 5951, 50))
    for tick, (_, velocity, angle, _) in states.items():
        assert angle == pytest.approx(tick / 1000.0 - 5.0)
        assert velocity < tick / 1000.0  # nothing is known of its change
    assert estimator.predicted == 0


def test_interpolation_waits_for_the_slow_sensor(cartpole_file):
    estimator, states = run_two(two_sensors(cartpole_file, "interpolate"), 3000)
    for tick, (position, velocity, angle, _) in states.items():
        assert velocity == pytest.approx(tick / 1000.0)
        assert position == pytest.approx(tick / 1000.0)
        assert angle == pytest.approx(math.remainder(tick / 1000.0 - 5.0, 2.0 * math.pi))
    assert estimator.predicted == 0
    # Some messages of the slow sensor complete two ticks, of which only the newer counts.
    assert len(states) >= 40


def test_a_silent_sensor_ends_the_states_though_another_goes_on(cartpole_file):
    robot = two_sensors(cartpole_file, "latest", timeout=0.2)
    estimator, now, last = StateEstimator(robot), 5000, 0
    for now in range(5000, 6000, 5):
        stamp = now * MILLISECOND
        estimator.add("joint_states", stamp, reading(), now / 1000.0, stamp)
        if now <= 5500:
            estimator.add("slow", stamp, reading(), now / 1000.0, stamp)
        if estimator.advance(stamp) or estimator.states:
            last = estimator.states
    assert last == 15  # 5000 to 5700 ms
    assert estimator.missing(now / 1000.0) == ["slow"]


def test_lockstep_waits_for_every_sensor_at_every_tick(cartpole_file):
    for align in ("interpolate", "latest", "predict"):
        estimator = StateEstimator(two_sensors(cartpole_file, align), lockstep=True)
        for tick in range(0, 1000, 50):
            first, second = ("joint_states", "slow") if tick % 100 else ("slow", "joint_states")
            stamp = tick * MILLISECOND
            assert estimator.add(first, stamp, reading(tick), 0.0) is None
            if tick == 500:  # nothing hurries a simulation
                assert estimator.add(first, stamp, reading(tick), 0.0) is None
            estimate = estimator.add(second, stamp, reading(tick), 0.0)
            assert (estimate.stamp, estimate.values[0], estimate.measured) == (stamp, tick, True)


# -- other messages ------------------------------------------------------------------------


def test_rates_of_an_odometry_are_those_of_a_body_that_moves_so():
    """Compared with SciPy's rotations and a small step."""
    generator, step = np.random.default_rng(0), 1e-6
    for _ in range(50):
        angles = generator.uniform([-3.0, -1.2, -3.0], [3.0, 1.2, 3.0])
        linear, angular = generator.normal(size=(2, 3))
        values = {f"position.{axis}": 0.0 for axis in "xyz"}
        for name, vector in (("linear", linear), ("angular", angular)):
            values |= {f"{name}_velocity.{a}": v for a, v in zip("xyz", vector, strict=True)}
        names = ("roll", "pitch", "yaw")
        values |= {f"orientation.{n}": v for n, v in zip(names, angles, strict=True)}
        found = rates("nav_msgs/msg/Odometry", values)
        now = Rotation.from_euler("xyz", angles)
        after = (now * Rotation.from_rotvec(step * angular)).as_euler("xyz")
        moved = now.apply(linear)
        for name, change in zip(names, after - angles, strict=True):
            change = math.remainder(change, 2.0 * math.pi)
            assert found[f"orientation.{name}"] == pytest.approx(change / step, abs=1e-4)
        for axis, speed in zip("xyz", moved, strict=True):
            assert found[f"position.{axis}"] == pytest.approx(speed, abs=1e-9)


# -- velocities that are not measured ------------------------------------------------------


def pose_robot(filter_, **entries):
    """Return a robot of which a camera sees place and heading only."""

    def derivative(name, of):
        return {"name": name, "unit": "1", "derivative_of": of, "filter": filter_} | entries

    return TypeAdapter(RobotSpec).validate_python(
        {
            "name": "seen",
            "control_rate": 20.0,
            "sensors": {"pose": {"type": "geometry_msgs/msg/PoseStamped"}},
            "state": [
                {"name": "x", "sensor": "pose", "field": "position.x", "unit": "m"},
                {
                    "name": "yaw",
                    "sensor": "pose",
                    "field": "orientation.yaw",
                    "unit": "rad",
                    "angle": True,
                },
                derivative("vx", "x"),
                derivative("turn_rate", "yaw"),
            ],
            "command": {
                "topic": "cmd_vel",
                "type": "geometry_msgs/msg/Twist",
                "dimensions": [
                    {"name": "u", "unit": "m/s", "bounds": [-1.0, 1.0], "field": "linear.x"}
                ],
            },
            "cost": {"state": {"x": 1.0}},
        }
    )


def see(robot, seconds, interval, noise=0.0, lockstep=False):
    """See a robot that turns through pi again and again while it oscillates along x."""
    rng, estimator = random.Random(1), StateEstimator(robot, lockstep)
    states, stamp = {}, 0
    while stamp < seconds * SECOND:
        t = stamp / SECOND
        values = {
            "position.x": math.sin(2.0 * t) + rng.gauss(0.0, noise),
            "orientation.yaw": math.remainder(2.0 * t, 2.0 * math.pi) + rng.gauss(0.0, noise),
        }
        estimate = estimator.add("pose", stamp, values, 0.0)
        if estimate is not None:
            states[estimate.stamp / SECOND] = estimate.values
        stamp += interval * MILLISECOND
    return states


@pytest.mark.parametrize("filter_", ["difference", "kalman"])
@pytest.mark.parametrize("interval", [50, 13])
def test_velocities_are_derived(filter_, interval):
    states = see(pose_robot(filter_), 20.0, interval)
    assert states[0.0][2:] == [0.0, 0.0]
    # Either lags by less than a period, of a motion that accelerates by 4 m/s^2 at most.
    for t, (_, _, velocity, turn_rate) in states.items():
        if t > 1.0:
            assert velocity == pytest.approx(2.0 * math.cos(2.0 * t), abs=0.2)
            assert turn_rate == pytest.approx(2.0, abs=0.01)


def test_the_kalman_filter_is_calmer_than_the_difference_where_the_sensor_is_noisy():
    errors = {}
    for filter_, entries in (("difference", {}), ("kalman", {"time_constant": 0.1})):
        states = see(pose_robot(filter_, **entries), 30.0, 10, noise=0.01)
        errors[filter_] = [(state[3] - 2.0) ** 2 for t, state in states.items() if t > 1.0]
    assert np.mean(errors["kalman"]) < 0.25 * np.mean(errors["difference"])


def test_a_derived_velocity_carries_a_prediction_on():
    robot = pose_robot("kalman")
    estimator = StateEstimator(robot)
    for now in range(5000, 6000, 10):
        values = {"position.x": now / 1000.0, "orientation.yaw": 0.0}
        estimator.add("pose", now * MILLISECOND, values, 0.0, now * MILLISECOND)
    found = None
    for now in range(5991, 6060):
        found = found or estimator.advance(now * MILLISECOND)
    assert (found.stamp, found.measured) == (6 * SECOND, False)
    assert found.values == pytest.approx([6.0, 0.0, 1.0, 0.0], abs=1e-3)


def test_the_filter_has_the_gain_of_the_stationary_riccati_equation():
    """Compared with SciPy's solution, through the response to one unit step of position."""
    tau, step = 0.2, 0.05
    q = tau**-4
    transition = np.array([[1.0, step], [0.0, 1.0]])
    process = q * np.array([[step**3 / 3.0, step**2 / 2.0], [step**2 / 2.0, step]])
    seen = np.array([[1.0], [0.0]])
    noise = np.array([[1.0 / step]])
    ahead = solve_discrete_are(transition.T, seen, process, noise)
    gain = ahead[1, 0] / (ahead[0, 0] + noise[0, 0])
    velocity_filter = VelocityFilter(tau, angle=False)
    for i in range(400):
        assert velocity_filter.update(i * 50 * MILLISECOND, 0.0) == 0.0
    assert velocity_filter.update(400 * 50 * MILLISECOND, 1.0) == pytest.approx(gain, rel=1e-9)


@pytest.mark.parametrize("step", [5, 20])
def test_the_filter_follows_in_its_time_constant_however_often_it_is_told(step):
    """Its response to a step of velocity is that of a Butterworth filter of second order."""
    velocity_filter, tau = VelocityFilter(0.5, angle=False), 500
    response = {}
    for milliseconds in range(-5000, 5000, step):
        position = max(milliseconds, 0) / 1000.0
        stamp = (milliseconds + 5000) * MILLISECOND
        response[milliseconds] = velocity_filter.update(stamp, position)
    decay = 1.0 / math.sqrt(2.0)
    expected = 1.0 - math.exp(-decay) * (math.cos(decay) + math.sin(decay))
    assert response[tau] == pytest.approx(expected, abs=0.03)
    assert max(response.values()) == pytest.approx(1.043, abs=0.01)
    assert response[4000] == pytest.approx(1.0, abs=1e-3)


@pytest.mark.parametrize("align", ["interpolate", "latest", "predict"])
@pytest.mark.parametrize("seed", range(5))
def test_whatever_the_network_does_states_are_ordered_and_true(cartpole_file, align, seed):
    """Jitter, loss, overtaking, repetition and a way of 0 to 60 ms, on a clock."""
    robot = load_robot(str(cartpole_file(sensors__joint_states__align=align)))
    rng, estimator, arrivals = random.Random(seed), StateEstimator(robot), []
    for index in range(1000):
        stamp = 5000 * MILLISECOND + index * 10 * MILLISECOND + rng.randint(-4, 4) * MILLISECOND
        while rng.random() > 0.1:  # lost, once or several times
            arrivals.append((stamp + rng.randint(0, 60) * MILLISECOND, stamp))
            if rng.random() > 0.05:
                break
    wakes = [(t * MILLISECOND, None) for t in range(5000, 15_000, 7)]
    last, measured, worst = -1, 0, 0.0
    for now, stamp in sorted(arrivals + wakes, key=lambda pair: pair[0]):
        if stamp is None:
            estimate = estimator.advance(now)
        else:
            t = stamp / SECOND
            values = reading(math.sin(t), math.remainder(3.0 * t, 2.0 * math.pi), math.cos(t))
            values["velocity/pole_hinge"] = 3.0
            estimate = estimator.add("joint_states", stamp, values, now / SECOND, now)
        if estimate is None or estimate.stamp == last:
            continue
        assert estimate.stamp > last
        last = estimate.stamp
        t = last / SECOND
        measured += estimate.measured
        error = abs(estimate.values[0] - math.sin(t))
        turned = abs(math.remainder(estimate.values[2] - 3.0 * t, 2.0 * math.pi))
        # A value that is held is as old as the way and a loss or two make it.
        worst = max(worst, error, turned / 3.0)
    assert estimator.leaps == 0
    assert measured == estimator.states - estimator.predicted
    assert estimator.states > 180
    assert estimator.predicted < 20
    assert worst < (0.12 if align == "latest" else 0.01)
    assert estimator.late > 100


def test_states_are_in_the_units_of_the_robot_and_not_of_its_sensors(crane):
    """A trolley at 0.3 m/s, counted in millimetres; a swing of 0.1 rad, in degrees."""
    estimator = StateEstimator(crane, lockstep=True)
    for tick in range(20):
        millimetres, degrees = 300.0 * 0.1 * tick, math.degrees(0.1)
        estimate = estimator.add(
            "crane/encoders", tick * 100 * MILLISECOND, {"0": millimetres, "1": degrees}, 0.0
        )
    trolley, trolley_speed, swing, swing_speed = estimate.values
    assert trolley == pytest.approx(0.57)
    assert trolley_speed == pytest.approx(0.3, rel=0.01)
    assert swing == pytest.approx(0.1)
    assert swing_speed == pytest.approx(0.0, abs=0.01)
