# Copyright 2026 The mbrl_ros authors
# SPDX-License-Identifier: Apache-2.0
"""How late commands take effect, found from what the robot did."""

import math
import random
from itertools import pairwise

import pytest
import torch

from mbrl_ros.dynamics.dataset import TransitionRecorder
from mbrl_ros.dynamics.delay import MAX_PERIODS, ActionHistory, DelayEstimator, Steps
from mbrl_ros.dynamics.features import FeatureMap

PERIOD = 50_000_000  # nanoseconds
FINE = 50  # integration steps in it
SENT = 0.3  # of a period after its state a command is sent


class Pendulum:
    """A driven pendulum, commands in force `periods` late; angle and velocity, a little noisy.

    dry_friction in rad/s^2.
    """

    def __init__(self, periods, seed=0, noise=0.0, excitation=3.0, angle=2.0, dry_friction=0.0):
        self.actions = ActionHistory(1000)
        self.states = []
        self.periods = periods
        self._random = random.Random(seed)
        self._noise, self.excitation = noise, excitation
        self._dry_friction = dry_friction
        self._angle, self._velocity = angle, 0.0
        self._waiting = []
        self._force = 0.0
        self._time = 0

    def run(self, ticks):
        for _ in range(ticks):
            angle = math.remainder(self._angle, 2.0 * math.pi)
            values = (
                value + self._random.gauss(0.0, self._noise) for value in (angle, self._velocity)
            )
            self.states.append((self._time, list(values)))
            # Feedback as well as noise, as of a planner.
            action = -0.5 * self._velocity + self._random.gauss(0.0, self.excitation)
            sent = self._time + round(SENT * PERIOD)
            self.actions.add(sent, [action])
            self._waiting.append((sent + self.periods * PERIOD, action))
            for _ in range(FINE):
                while self._waiting and self._waiting[0][0] <= self._time:
                    self._force = self._waiting.pop(0)[1]
                self._step(PERIOD / FINE * 1e-9)
                self._time += PERIOD // FINE

    def _step(self, seconds):
        gravity, damping = 9.81 * math.sin(self._angle), 0.1 * self._velocity
        velocity = self._velocity + seconds * (gravity - damping + 4.0 * self._force)
        slowed = max(abs(velocity) - seconds * self._dry_friction, 0.0)
        self._velocity = math.copysign(slowed, velocity)
        self._angle += seconds * self._velocity

    @property
    def steps(self):
        return self.newest(len(self.states))

    def newest(self, count):
        pairs = pairwise(self.states[-count:])
        return Steps.of((before[0], after[0], before[1], after[1]) for before, after in pairs)


def estimator(first_guess=0.0):
    return DelayEstimator(FeatureMap([True, False], 1), PERIOD, first_guess)


@pytest.mark.parametrize("count", [30, 300])
@pytest.mark.parametrize("periods", [0.0, 0.5, 1.5, 2.5])
def test_a_delay_is_found_from_what_the_robot_did(periods, count):
    for seed in range(3):
        robot, delay = Pendulum(periods, seed, noise=0.005), estimator()
        robot.run(count)
        for _ in range(3):  # looks that agree
            robot.run(5)
            delay.update(robot.steps, robot.actions)
        assert delay.delay / PERIOD == pytest.approx(periods, abs=0.2)


def test_a_delay_is_found_of_a_robot_whose_heading_models_do_not_see():
    robot = Pendulum(1.5, seed=0, noise=0.005)
    features = FeatureMap([True, True, False], 1, input_mask=[False, True, True])
    delay = DelayEstimator(features, PERIOD)
    robot.run(100)
    for _ in range(3):
        robot.run(5)
        turned = [
            (stamp, [math.remainder(3.0 * state[0], 2.0 * math.pi), *state])
            for stamp, state in robot.states
        ]
        steps = Steps.of((b[0], a[0], b[1], a[1]) for b, a in pairwise(turned))
        delay.update(steps, robot.actions)
    assert delay.delay / PERIOD == pytest.approx(1.5, abs=0.2)


def test_a_robot_that_hardly_moves_is_no_evidence():
    robot, delay = (
        Pendulum(1.5, seed=78, noise=0.02, excitation=0.02, angle=0.02),
        estimator(0.075),
    )
    robot.run(25)
    for _ in range(30):
        robot.run(5)
        delay.update(robot.steps, robot.actions)
    assert delay.changed == 0


@pytest.mark.parametrize("excitation", [0.02, 0.2])
def test_dry_friction_that_holds_a_robot_which_comes_to_rest_is_no_evidence(excitation):
    """As of one that balances well: what little it does any delay may explain."""
    for seed in range(3):
        robot, delay = Pendulum(0.0, seed, dry_friction=1.0), estimator()
        robot.run(100)
        robot.excitation = excitation
        for _ in range(120):
            robot.run(5)
            delay.update(robot.newest(300), robot.actions)
        assert delay.changed == 0


def test_a_delay_that_changes_is_followed_and_one_that_does_not_stays():
    robot, delay = Pendulum(0.5, noise=0.005), estimator()
    found = []
    for periods in (0.5, 0.5, 0.5, 2.0, 2.0, 2.0):
        robot.periods = periods
        for _ in range(10):
            robot.run(30)
            delay.update(robot.steps, robot.actions)
        found.append(delay.delay / PERIOD)
    assert found[0] == found[1] == found[2] == pytest.approx(0.5, abs=0.2)
    assert found[-2] == found[-1] == pytest.approx(2.0, abs=0.2)


@pytest.mark.parametrize(
    ("ticks", "settings"),
    [(200, {"noise": 100.0}), (200, {"excitation": 0.0}), (20, {})],
    ids=["too noisy", "hardly steered", "too short"],
)
def test_without_evidence_the_first_guess_stays(ticks, settings):
    robot, delay = Pendulum(1.5, **settings), estimator(first_guess=0.04)
    robot.run(ticks)
    for _ in range(3):
        assert not delay.update(robot.steps, robot.actions)
    assert (delay.delay, delay.changed) == (40_000_000, 0)


def test_a_delay_beyond_all_that_is_looked_at_is_not_exceeded():
    robot, delay = Pendulum(6.0), estimator()
    for _ in range(20):
        robot.run(20)
        delay.update(robot.steps, robot.actions)
    assert 0 <= delay.delay <= MAX_PERIODS * PERIOD


def test_actions_are_averaged_over_the_time_that_they_held():
    history = ActionHistory(2)
    for stamp, value in ((0, 1.0), (10, 3.0), (30, 5.0)):
        history.add(stamp, [value])
    assert history.average(5, 15) == [2.0]
    assert history.average(0, 40) == pytest.approx([(10 + 60 + 50) / 40])
    assert history.average(35, 36) == [5.0]
    for stamp in range(40, 60):
        history.add(stamp, [0.0])
    assert not history.covers(0)
    assert history.covers(59)
    assert len(history) <= 4


def test_states_are_paired_with_the_actions_in_force_after_the_delay(cartpole):
    recorder = TransitionRecorder(cartpole)
    recorder.delay = 3 * PERIOD // 2
    forces = [float(tick) for tick in range(8)]
    for tick, force in enumerate(forces):
        recorder.add_state(tick * PERIOD, [0.1 * tick, 0.0, 0.0, 0.0])
        recorder.add_action(tick * PERIOD, [force])
    paired = recorder.take()
    # Tick 2 is the first during all of which it is known what was in force.
    assert paired.stamps.tolist() == [PERIOD * tick for tick in range(3, 8)]
    assert paired.actions[:, 0].tolist() == [0.5, 1.5, 2.5, 3.5, 4.5]
    # What turns out to have been paired wrongly is paired again.
    recorder.delay = 0
    again = recorder.take_again()
    assert again.stamps.tolist() == paired.stamps.tolist()
    assert again.actions[:, 0].tolist() == [2.0, 3.0, 4.0, 5.0, 6.0]
    assert torch.equal(again.states, paired.states)
    assert len(recorder.take()) == 0
