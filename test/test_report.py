# Copyright 2026 The mbrl_ros authors
# SPDX-License-Identifier: Apache-2.0
"""What a run came to."""

import json
import math

import pytest

from mbrl_ros.report import RunRecord, draw
from mbrl_ros.robots import load_robot

PLANNER = {
    "planner": "cem",
    "plan_ms_median": "20.5",
    "plan_ms_p99": "30.25",
    "plan_ms_max": "40",
    "deadline_misses": "3",
}
LEARNER = {"transitions": "77", "update_ms_median": "110", "one_step_error": "nan"}


@pytest.fixture
def record(cartpole):
    return RunRecord(cartpole, [0.0, 0.0], duration=10.0)


def live(record, angle_at, seconds, position_at=lambda time: 0.0, start=0):
    """Feed `seconds` of a run in which the pole angle is a function of time."""
    for tick in range(start, round(seconds * 20)):
        time = tick / 20
        record.add_command(100.0 + time, [1.0])
        record.add_state(100.0 + time, [position_at(time), 0.0, angle_at(time), 0.0])


def test_solved_is_the_first_moment_that_lasted(record):
    live(record, lambda t: 0.1 if 1.0 <= t < 2.5 or 4.0 <= t < 7.0 else 3.0, 9.0)
    summary = record.summary(PLANNER, LEARNER)
    assert summary["solved_at_s"] == 4.0
    assert summary["at_goal_since_s"] is None
    assert summary["interaction_s"] == 8.95
    assert summary["ticks"] == 180


def test_never_solved_is_null(record):
    live(record, lambda t: 0.1 if int(t) % 2 else 3.0, 9.0)
    summary = json.loads(json.dumps(record.summary({}, {})))
    assert summary["solved_at_s"] is None
    assert summary["plan_ms"] == {"median": None, "p99": None, "max": None}
    assert summary["transitions"] is None
    assert any("never" in line for line in record.tell(summary))


def test_the_report_quotes_the_nodes(record):
    summary = record.summary(PLANNER, LEARNER)
    assert summary["plan_ms"] == {"median": 20.5, "p99": 30.25, "max": 40.0}
    assert (summary["deadline_misses"], summary["transitions"]) == (3, 77)
    assert summary["planner"] == "cem"
    assert summary["learner_update_ms"] == 110.0
    assert summary["one_step_error"] is None


def test_what_lockstep_does_not_measure_is_not_told_as_good_news(record):
    live(record, lambda t: 0.0, 3.0)
    summary = record.summary(PLANNER | {"limited_by": "model"}, LEARNER)
    assert summary["limited_by"] == "model"
    assert any("3 deadline misses" in line for line in record.tell(summary))
    lines = record.tell(summary | {"pace": "lockstep"})
    assert any("deadline misses are not counted in lockstep" in line for line in lines)


def test_nothing_counts_before_the_first_action_or_after_the_duration(record):
    record.add_state(99.0, [0.0, 0.0, 0.0, 0.0])
    assert record.now == 0.0
    live(record, lambda t: 0.0, 15.0)
    assert record.ended
    assert record.now == pytest.approx(10.0)
    assert record.ticks == 200


def test_the_first_command_may_come_after_the_state_that_it_answers(record):
    for stamp in (99.95, 100.0, 100.05):
        record.add_state(stamp, [stamp, 0.0, 3.0, 0.0])
    record.add_command(100.0, [1.0])
    record.add_state(100.1, [100.1, 0.0, 3.0, 0.0])
    assert record.ticks == 3
    assert [state[0] for state in record.states] == [100.0, 100.05, 100.1]


def test_goal_changes_are_timed(record):
    live(record, lambda t: 0.0, 3.0)
    record.change_goal([0.8, 0.0])
    live(record, lambda t: 0.0, 6.0, lambda t: min(0.8, 0.4 * (t - 3.0)), start=60)
    change = record.summary(PLANNER, LEARNER)["goal_changes"][0]
    assert change["goal"] == [0.8, 0.0]
    assert change["reached_after_s"] == pytest.approx(0.65 / 0.4, abs=0.11)


def test_episodes_are_counted_by_the_ticks_that_resets_leave_out(record):
    assert record.summary(PLANNER, LEARNER)["episode_steps"] is None  # there is no reward
    walked = RunRecord(load_robot("dyna_maze"), [], duration=math.inf)
    for tick in (*range(31), *range(32, 47), *range(48, 50)):
        walked.add_command(0.1 * tick, [0.0])
        walked.add_state(0.1 * tick, [0.0])
    summary = walked.summary(PLANNER, LEARNER)
    assert summary["episode_steps"] == [30, 14]
    words = "2 episodes: the first of 30 steps, the shortest of 14, the last of 14"
    assert words in walked.tell(summary)


def test_a_run_is_drawn(record, tmp_path):
    live(record, lambda t: math.remainder(2.0 * t, 2.0 * math.pi), 9.0)
    draw(record, tmp_path / "run.png")
    assert (tmp_path / "run.png").stat().st_size > 10_000
