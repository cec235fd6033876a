# Copyright 2026 The mbrl_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Experience on disk: kept through restarts and kills, refused when it is not ours."""

import dataclasses
import math
import random
import signal
import sqlite3
import subprocess
import sys
import time

import pytest
import torch

from mbrl_ros.dynamics.dataset import trajectories
from mbrl_ros.dynamics.experience import FILE_NAME, Experience, ExperienceError
from mbrl_ros.dynamics.model import Transitions
from mbrl_ros.robots import load_robot


def transitions(first, count):
    """Return steps whose values count up, so that each can be told from the others."""
    number = torch.arange(first, first + count, dtype=torch.float64)[:, None]
    stamps = 50_000_000 * torch.arange(first + 1, first + count + 1)
    states = number.expand(-1, 4)
    return Transitions(states + 0.25, number, states + 1.25, stamps=stamps)


def test_what_is_stored_comes_back_in_order(tmp_path, cartpole):
    experience = Experience(tmp_path / "new" / "folder", cartpole)
    experience.append(transitions(0, 3))
    experience.append(transitions(3, 2))
    experience.close()
    again = Experience(tmp_path / "new" / "folder", cartpole)
    loaded, expected = again.load(), transitions(0, 5)
    assert len(again) == 5
    assert torch.equal(loaded.states, expected.states)
    assert torch.equal(loaded.actions, expected.actions)
    assert torch.equal(loaded.next_states, expected.next_states)
    assert torch.equal(loaded.stamps, expected.stamps)
    assert loaded.rewards.shape == (5, 0)
    assert again.load(newest=2).actions[:, 0].tolist() == [3.0, 4.0]


def test_an_empty_store_loads_empty(tmp_path, cartpole):
    loaded = Experience(tmp_path, cartpole).load()
    assert loaded.states.shape == (0, 4)
    assert loaded.actions.shape == (0, 1)


def test_the_oldest_go_beyond_the_capacity(tmp_path, cartpole):
    experience = Experience(tmp_path, cartpole, capacity=10)
    for first in range(0, 40, 4):
        experience.append(transitions(first, 4))
    assert experience.load().actions[:, 0].tolist() == [float(i) for i in range(30, 40)]


def test_experience_of_another_robot_is_refused(tmp_path, cartpole, cartpole_file):
    Experience(tmp_path, cartpole).close()
    other = load_robot(str(cartpole_file(name="other")))
    with pytest.raises(ExperienceError, match="whose robot is cartpole, expected other"):
        Experience(tmp_path, other)
    faster = load_robot(str(cartpole_file(control_rate=50.0)))
    with pytest.raises(ExperienceError, match=r"whose control_rate is 20.0, expected 50.0"):
        Experience(tmp_path, faster)


def test_files_of_another_version_are_refused_and_stay_as_they_are(tmp_path, cartpole):
    path = tmp_path / FILE_NAME
    with sqlite3.connect(path) as database:
        database.execute("CREATE TABLE about (description TEXT NOT NULL)")
        database.execute("""INSERT INTO about VALUES ('{"format": "mbrl_ros.experience.1"}')""")
    database.close()
    for robot in (cartpole, None):
        with pytest.raises(ExperienceError, match=r"mbrl_ros\.experience\.1.*expected format"):
            Experience(tmp_path, robot)
    database = sqlite3.connect(path)
    assert database.execute("SELECT name FROM sqlite_master").fetchall() == [("about",)]
    database.close()


def test_a_reader_needs_no_robot_and_changes_nothing(tmp_path, cartpole):
    with pytest.raises(ExperienceError, match="no such file"):
        Experience(tmp_path / "none", None)
    assert not (tmp_path / "none").exists()
    Experience(tmp_path, cartpole).append(transitions(0, 3))
    reader = Experience(tmp_path, None)
    assert reader.description.robot == "cartpole"
    assert reader.description.period_nanoseconds == 50_000_000
    assert len(reader.load()) == 3
    with pytest.raises(ExperienceError, match="cannot be written"):
        reader.append(transitions(3, 1))


def test_runs_are_told_apart_and_cut_where_steps_are_missing(tmp_path, cartpole):
    """Each process is a run; both of these start at robot time zero, as in simulation."""
    first, second = Experience(tmp_path, cartpole), Experience(tmp_path, cartpole)
    first.append(transitions(0, 2))
    first.append(transitions(2, 2))
    first.append(transitions(7, 1))
    second.append(transitions(8, 2))
    runs = Experience(tmp_path, None).runs()
    assert [len(run.transitions) for run in runs] == [5, 2]
    assert 0.0 < runs[0].started_at <= runs[1].started_at
    pieces = trajectories(runs[0].transitions, cartpole.period_nanoseconds)
    assert [piece.actions[:, 0].tolist() for piece in pieces] == [[0.0, 1.0, 2.0, 3.0], [7.0]]
    assert pieces[0].stamps.tolist() == [50_000_000 * i for i in range(5)]
    assert pieces[0].states[:, 0].tolist() == [0.25, 1.25, 2.25, 3.25, 4.25]
    assert torch.equal(pieces[1].transitions().next_states, transitions(7, 1).next_states)


def test_runs_of_which_nothing_is_left_are_forgotten(tmp_path, cartpole):
    for first in range(0, 40, 4):
        Experience(tmp_path, cartpole, capacity=10).append(transitions(first, 4))
    experience = Experience(tmp_path, cartpole, capacity=10)
    assert len(experience.runs()) == 3
    with sqlite3.connect(experience.path) as database:
        assert database.execute("SELECT COUNT(*) FROM runs").fetchone()[0] <= 4


def test_rewards_are_stored_for_robots_that_have_them(tmp_path, cartpole_file, cartpole):
    robot = load_robot(str(cartpole_file(reward="reward")))
    experience = Experience(tmp_path, robot)
    new = transitions(0, 3)
    rewards = torch.tensor([[1.0], [-2.0], [0.5]]).double()
    experience.append(dataclasses.replace(new, rewards=rewards))
    assert torch.equal(experience.load().rewards, rewards)
    with pytest.raises(ExperienceError, match="whose rewards is 1, expected 0"):
        Experience(tmp_path, cartpole)


def test_files_that_are_not_experience_are_refused(tmp_path, cartpole):
    (tmp_path / FILE_NAME).write_bytes(random.Random(0).randbytes(5000))
    with pytest.raises(ExperienceError, match="cannot be used"):
        Experience(tmp_path, cartpole)
    (tmp_path / "file").write_text("")
    with pytest.raises(ExperienceError, match="cannot be used"):
        Experience(tmp_path / "file", cartpole)


@pytest.mark.parametrize("bad", [b"1234567", bytes(32 + 8)])
def test_rows_of_the_wrong_size_are_refused(tmp_path, cartpole, bad):
    experience = Experience(tmp_path, cartpole)
    experience.append(transitions(0, 2))
    with sqlite3.connect(experience.path) as database:
        database.execute("UPDATE transitions SET state = ? WHERE id = 1", (bad,))
    with pytest.raises(ExperienceError, match="a row does not hold 4 numbers"):
        experience.load()


def test_values_that_are_not_finite_are_refused(tmp_path, cartpole):
    experience = Experience(tmp_path, cartpole)
    spoilt = transitions(0, 2)
    spoilt.actions[1] = math.nan
    experience.append(spoilt)
    with pytest.raises(ExperienceError, match="not finite"):
        experience.load()


WRITER = """
import sys, pathlib, torch
from mbrl_ros.dynamics.dataset import trajectories
from mbrl_ros.dynamics.experience import Experience
from mbrl_ros.robots import load_robot
sys.path.insert(0, sys.argv[2])
from test_experience import transitions
experience = Experience(pathlib.Path(sys.argv[1]), load_robot("cartpole"))
first = len(experience)
while True:
    experience.append(transitions(first, 3))
    first += 3
    print(first, flush=True)
"""


def test_a_killed_writer_loses_nothing_that_it_reported(tmp_path, cartpole):
    """Whatever the moment: what was reported is there, in order, and the file opens."""
    generator, reported = random.Random(0), 0
    for _ in range(8):
        writer = subprocess.Popen(
            [sys.executable, "-c", WRITER, str(tmp_path), str(__file__).rpartition("/")[0]],
            stdout=subprocess.PIPE,
            text=True,
        )
        writer.stdout.readline()
        time.sleep(0.2 * generator.random())
        writer.send_signal(signal.SIGKILL)
        lines = writer.communicate()[0].split("\n")
        # The last line may be cut short by the kill.
        complete = [int(line) for line in lines[:-1] if line]
        reported = max([reported, *complete])
        stored = Experience(tmp_path, cartpole).load().actions[:, 0].tolist()
        assert stored == [float(i) for i in range(len(stored))]
        assert len(stored) % 3 == 0
        assert len(stored) >= reported
