# Copyright 2026 The mbrl_ros authors
# SPDX-License-Identifier: Apache-2.0
"""The agents of continuous actions in the comparison of sample efficiency, in short."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from mbrl_ros.benchmarks import continuous_tasks
from mbrl_ros.benchmarks.continuous_tasks import SwingUp, UpTime, learner, planner
from mbrl_ros.benchmarks.sample_efficiency_tasks import TASKS

pytest.importorskip("mujoco")

SWING_UP = replace(continuous_tasks.SWING_UP, episodes=1)


def test_the_swing_up_begins_hanging_and_takes_five_seconds():
    environment = SwingUp()
    state, _ = environment.reset(seed=3)
    assert abs(state[2]) == pytest.approx(np.pi, abs=0.2)
    rewards, ends = [], []
    for _ in range(50):
        state, reward, terminated, truncated, _ = environment.step(np.array([10.0]))
        rewards.append(reward)
        ends.append(truncated)
        assert not terminated
    assert abs(state[2]) <= np.pi
    assert ends == [False] * 49 + [True]
    assert rewards[0] == pytest.approx(-1.8, abs=0.1)  # 4 of 2^2, and 0.02 of 10^2, by ten
    assert rewards[-1] == pytest.approx(-3.0)  # far beyond the rail


def test_swing_ups_repeat_by_seed():
    def states(seed):
        environment = SwingUp()
        return [environment.reset(seed=seed)[0], environment.reset()[0]]

    first, again, other = states(1), states(1), states(2)
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)
    assert not np.array_equal(first[0], first[1])


def test_upright_and_still_costs_nothing():
    environment, still = SwingUp(), torch.zeros(1, 4)
    assert float(environment.reward(still, torch.zeros(1, 1), still)) == 0.0


@pytest.mark.parametrize("model", [None, "gp"])
def test_learners_are_judged_at_the_steps_that_they_should_be(model):
    settings = {"rollouts": 8, "horizon": 2, "slices": 1, "updates": 1}
    agent = learner(SWING_UP, model, most=210, every=70, **settings)
    rows = list(agent(10_000, 0))
    assert [step for step, _ in rows] == [70, 140, 210]
    assert all(0.0 <= value <= 5.0 for _, value in rows)
    assert [step for step, _ in learner(SWING_UP, model, every=50)(100, 0)] == [50, 100]


def test_a_planner_is_judged_apart_from_what_it_learns():
    def rows(**settings):
        robot = SwingUp().robot
        agent = planner(
            SWING_UP, lambda: robot, most=100, horizon=5, samples=10, episodes=1, **settings
        )
        return list(agent(10_000, 0))

    found = rows()
    assert [step for step, _ in found] == [50, 100]
    assert all(0.0 <= value <= 5.0 for _, value in found)
    assert rows(every=100)[-1] == found[-1]  # a look at it changes nothing


def test_a_planner_learns_a_policy_that_guides_it_from_then_on():
    def rows(**settings):
        robot = SwingUp().robot
        policy = {"updates": 1, "rollouts": 8, "horizon": 2}
        agent = planner(
            SWING_UP,
            lambda: robot,
            most=90,
            horizon=3,
            samples=10,
            episodes=1,
            every=30,
            policy=policy,
            reward_scale=0.1,
            **settings,
        )
        return list(agent(10_000, 0))

    found = rows(trusted=60)
    assert [step for step, _ in found] == [30, 60, 90]
    assert found == rows(trusted=60)


def test_the_swing_up_is_judged_by_the_time_that_the_pole_is_up():
    judge = UpTime()
    judge.reset(seed=0)
    assert judge.step(np.zeros(1))[1] == 0.0
    judge._state = torch.zeros(4).double()
    assert judge.step(np.zeros(1))[1] == pytest.approx(0.1)
    judge._state = torch.tensor([3.0, 0.0, 0.0, 0.0]).double()  # upright, but beyond the rail
    assert judge.step(np.zeros(1))[1] == 0.0


def test_every_continuous_task_has_agents_with_and_without_a_model():
    for name in ("pendulum", "cartpole-swing-up"):
        assert {"sac", "sac-imagined", "mpc-gp"} <= set(TASKS[name].agents)
        assert TASKS[name].target is not None
