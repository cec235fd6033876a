# Copyright 2026 The mbrl_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Experience on disk: kept through restarts and kills, refused when it is not ours."""

import math
import random
import signal
import sqlite3
import subprocess
import sys
import time

import pytest
import torch

from mbrl_ros.dynamics.experience import FILE_NAME, Experience, ExperienceError
from mbrl_ros.dynamics.model import Transitions
from mbrl_ros.robots import load_robot


def transitions(first, count):
    """Return steps whose values count up, so that each can be told from the others."""
    number = torch.arange(first, first + count, dtype=torch.float64)[:, None]
    return Transitions(number.expand(-1, 4) + 0.25, number, number.expand(-1, 4) + 0.5)


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
    with pytest.raises(ExperienceError, match=r'holds experience of .*"cartpole".*expected'):
        Experience(tmp_path, other)


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
