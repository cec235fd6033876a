# Copyright 2026 The mbrl_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Goals, way points and trajectories."""

import math

import pytest
import torch

from mbrl_ros.planning.goals import Goals

SECOND = 1_000_000_000


@pytest.fixture
def goals(cartpole):
    return Goals(cartpole)


def at(goals, seconds, position=0.0, horizon=4):
    return goals.at(round(seconds * SECOND), [position, 0.0, 0.0, 0.0], horizon)


def test_a_goal_stays_until_another_comes(goals):
    assert at(goals, 0.0) == [0.0, 0.0]
    goals.set_goal([0.5, 0.25])
    assert at(goals, 1.0) == [0.5, 0.25]


def test_waypoints_are_visited_in_order_once_the_robot_has_dwelt(goals):
    goals.dwell = 1.0
    goals.set_waypoints([0.5, 0.0, -0.5, 0.0, 1.0, 0.0])
    assert at(goals, 0.0, 0.0) == [0.5, 0.0]
    assert at(goals, 1.0, 0.45) == [0.5, 0.0]  # arrived
    assert at(goals, 1.5, 0.0) == [0.5, 0.0]  # and left again: the second starts anew
    assert at(goals, 2.0, 0.5) == [0.5, 0.0]
    assert (goals.left, goals.waypoint) == (2, "1 of 3")
    assert at(goals, 3.0, 0.5) == [-0.5, 0.0]
    goals.dwell = 0.0
    assert at(goals, 3.1, -0.5) == [1.0, 0.0]
    assert (goals.left, goals.waypoint) == (0, "3 of 3")
    assert at(goals, 9.0, 1.0) == [1.0, 0.0]


def test_a_trajectory_is_linear_and_seen_ahead(goals, cartpole):
    goals.set_trajectory([0.0, 0.0, 0.0, 1.0, 1.0, 0.5])
    first = torch.tensor(at(goals, 7.0))
    ahead = torch.tensor([0.05, 0.1, 0.15, 0.2])  # a period of 0.05 s a step
    assert torch.allclose(first, torch.stack([ahead, 0.5 * ahead], 1))
    later = torch.tensor(at(goals, 7.5))
    assert torch.allclose(later[0], torch.tensor([0.55, 0.275]))
    assert goals.goal == pytest.approx([0.5, 0.25])
    assert at(goals, 60.0) == [[1.0, 0.5]] * 4


def test_what_was_set_last_counts(goals):
    goals.set_waypoints([0.5, 0.0, -0.5, 0.0])
    goals.set_goal([0.2, 0.0])
    assert at(goals, 0.0, 0.2) == pytest.approx([0.2, 0.0])
    goals.set_trajectory([0.0, 0.3, 0.0])
    assert at(goals, 0.0)[0] == pytest.approx([0.3, 0.0])
    goals.set_waypoints([])
    assert at(goals, 0.0) == pytest.approx([0.3, 0.0])  # stays where it is


@pytest.mark.parametrize(
    ("method", "values", "message"),
    [
        ("set_goal", [0.0], "goal has 1 values, expected 2"),
        ("set_goal", [9.0, 0.0], "outside"),
        ("set_waypoints", [0.1, 0.0, 0.2], "waypoints has 3 values, expected a multiple of 2"),
        ("set_waypoints", [0.1, math.nan], "waypoints holds a value that is not finite"),
        ("set_waypoints", [0.1, 0.0, 7.0, 0.0], "outside"),
        ("set_trajectory", [0.0, 0.1], "goal_trajectory has 2 values, expected a multiple of 3"),
        ("set_trajectory", [1.0, 0.1, 0.0, 1.0, 0.2, 0.0], "do not increase"),
    ],
)
def test_what_cannot_be_used_is_refused_and_changes_nothing(goals, method, values, message):
    goals.set_waypoints([0.5, 0.0, -0.5, 0.0])
    with pytest.raises(ValueError, match=message):
        getattr(goals, method)(values)
    assert at(goals, 0.0, 0.5) == [-0.5, 0.0]


def test_goal_weights_are_checked(cartpole):
    assert cartpole.check_goal_weights([1, 0.0]) == [1.0, 0.0]
    with pytest.raises(ValueError, match="goal_weights has 1 values, expected 2"):
        cartpole.check_goal_weights([1.0])
    with pytest.raises(ValueError, match=r"goal weight of pole_angle is -1\.0"):
        cartpole.check_goal_weights([1.0, -1.0])
