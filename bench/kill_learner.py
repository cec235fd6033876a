# Copyright 2026 The mbrl_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Kill a process that stores experience, again and again, and look for what is missing.

python bench/kill_learner.py --kills 1000

Each writer goes on in the same directory as fast as it can, storing a few transitions at a time
and saying so, as the learner does, until SIGKILL hits it at a random moment, also while it opens
the file. Afterwards everything that was said to be stored must be there, in order, and nothing
in part. The writers are forked from a process that has imported everything already.
"""

from __future__ import annotations

import os
import random
import signal
import sqlite3
import sys
import tempfile
import time
from argparse import ArgumentParser
from collections import Counter
from contextlib import closing
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import track

from mbrl_ros.dynamics.experience import Experience
from mbrl_ros.dynamics.model import Transitions
from mbrl_ros.robots import RobotSpec, load_robot

BATCHES = (1, 1, 1, 5, 50)  # the learner stores one at a time, or what came in while it was busy


def numbered(robot: RobotSpec, first: int, count: int) -> Transitions:
    """Return transitions that count up in every value."""
    numbers = torch.arange(first, first + count, dtype=torch.float64)[:, None]
    states, actions = (
        numbers.expand(count, size).contiguous()
        for size in (len(robot.state), len(robot.command.dimensions))
    )
    stamps = robot.period_nanoseconds * (numbers[:, 0].long() + 1)
    return Transitions(states, actions, states + 1.0, stamps=stamps)


def write_until_killed(directory: Path, robot: RobotSpec, capacity: int, report: int) -> None:
    """Store transitions for ever; write the number of the next one to `report` after each."""
    experience = Experience(directory, robot, capacity)
    last = experience.load(newest=1).actions
    number, generator = int(last[0, 0]) + 1 if len(last) else 0, random.Random(os.getpid())
    while True:
        count = generator.choice(BATCHES)
        experience.append(numbered(robot, number, count))
        number += count
        os.write(report, number.to_bytes(8, "little"))


def run_writer(directory: Path, robot: RobotSpec, capacity: int, seconds: float) -> int:
    """Let a writer live so long; return the number that it last reported, 0 if none."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            write_until_killed(directory, robot, capacity, writing)
        finally:
            os._exit(1)
    os.close(writing)
    os.set_blocking(reading, False)
    end, reports = time.monotonic() + seconds, b""
    while True:
        remaining = end - time.monotonic()
        time.sleep(max(0.0, min(remaining, 0.01)))
        if remaining <= 0.0:
            os.kill(child, signal.SIGKILL)
            _, status = os.waitpid(child, 0)
        try:
            while chunk := os.read(reading, 65_536):
                reports += chunk
        except BlockingIOError:
            pass
        if remaining <= 0.0:
            break
    os.close(reading)
    if not os.WIFSIGNALED(status):
        raise RuntimeError("the writer ended by itself; see its message above")
    return int.from_bytes(reports[-8:], "little")


def problem(directory: Path, robot: RobotSpec, capacity: int, reported: int) -> str | None:
    """Say what is wrong with the stored experience, None if nothing is."""
    with closing(Experience(directory, robot, capacity)) as experience:
        stored = experience.load()
        numbers = [int(number) for number in stored.actions[:, 0].tolist()]
        if numbers != list(range(numbers[0], numbers[0] + len(numbers))) if numbers else False:
            return "out of order, doubled or with gaps"
        following = numbers[-1] + 1 if numbers else 0
        if following < reported:
            return f"{reported - following} that were reported stored are missing"
        if len(numbers) != min(following, capacity):
            return f"{len(numbers)} stored, expected {min(following, capacity)}"
        expected = numbered(robot, numbers[0] if numbers else 0, len(numbers))
        columns = zip(
            (*stored.tensors(), stored.stamps), (*expected.tensors(), expected.stamps), strict=True
        )
        if not all(torch.equal(*pair) for pair in columns):
            return "values differ from what was written"
    return None


def intact(directory: Path) -> bool:
    with closing(sqlite3.connect(directory / "experience.sqlite3")) as database:
        return database.execute("PRAGMA integrity_check").fetchall() == [("ok",)]


def main() -> int:
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=1000)
    parser.add_argument("--longest", type=float, default=0.3, help="seconds that a writer lives")
    parser.add_argument("--capacity", type=int, default=5000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    torch.set_num_threads(1)  # before any fork: a thread would not live on in the child
    robot, generator = load_robot("cartpole"), random.Random(options.seed)
    problems: Counter[str] = Counter()
    reported = silent = 0
    with tempfile.TemporaryDirectory() as folder:
        directory = Path(folder)
        console = Console(stderr=True)
        for kill in track(range(options.kills), "killing", console=console, transient=True):
            seconds = (
                options.longest * generator.random() ** 2
            )  # many die while they open the file
            found = run_writer(directory, robot, options.capacity, seconds)
            silent += found == 0
            reported = max(reported, found)
            trouble = problem(directory, robot, options.capacity, reported)
            if trouble is None and kill % 10 == 9 and not intact(directory):
                trouble = "PRAGMA integrity_check finds damage"
            if trouble is not None:
                problems[trouble] += 1
        size = sum(file.stat().st_size for file in directory.iterdir())
    print(
        f"{options.kills} kills, {silent} of them before the first report; {reported} transitions "
        f"reported stored, the last {options.capacity} kept in {size / 1e6:.1f} MB"
    )
    for trouble, count in problems.items():
        print(f"after {count} kills: {trouble}")
    if not problems:
        print("after each kill all that was reported stored was there, whole and in order")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
