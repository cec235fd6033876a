# Copyright 2026 The mbrl_ros authors
# SPDX-License-Identifier: Apache-2.0
"""What a robot lived through, on disk, so that neither a crash nor a restart loses it."""

from __future__ import annotations

import sqlite3
import time
from dataclasses import asdict, dataclass
from itertools import groupby
from pathlib import Path

import numpy as np
import torch
from pydantic import ConfigDict, TypeAdapter
from pydantic.dataclasses import dataclass as validated_dataclass

from mbrl_ros.dynamics.model import Transitions
from mbrl_ros.errors import reason
from mbrl_ros.robots.spec import NANOSECONDS, RobotSpec

FORMAT = "mbrl_ros.experience.2"
FILE_NAME = "experience.sqlite3"

# Of files in which nothing has changed, and of older ones, it may be missing.
_CHANGES = "CREATE TABLE IF NOT EXISTS changes (first INTEGER NOT NULL)"
_TABLES = (
    "CREATE TABLE about (description TEXT NOT NULL)",
    "CREATE TABLE runs (id INTEGER PRIMARY KEY AUTOINCREMENT, started_at REAL NOT NULL)",
    """
    CREATE TABLE transitions (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        run INTEGER NOT NULL,
        stamp INTEGER NOT NULL,
        state BLOB NOT NULL,
        action BLOB NOT NULL,
        next_state BLOB NOT NULL,
        reward BLOB NOT NULL
    )
    """,
)


class ExperienceError(ValueError):
    """An experience directory that cannot be used; the message says why."""


@validated_dataclass(frozen=True, config=ConfigDict(extra="forbid", allow_inf_nan=False))
class Description:
    """Whose experience a file holds; all of it must agree with the robot that adds to it.

    control_rate: Hz. state, action: names of the D and A dimensions. rewards: R, 0 or 1.
    """

    format: str
    robot: str
    control_rate: float
    state: tuple[str, ...]
    action: tuple[str, ...]
    rewards: int

    @property
    def period_nanoseconds(self) -> int:
        """The control period in the unit of stamps."""
        return round(NANOSECONDS / self.control_rate)


_DESCRIPTION = TypeAdapter(Description)


def describe(robot: RobotSpec) -> Description:
    """Say what a file with experience of this robot says about itself."""
    return Description(
        format=FORMAT,
        robot=robot.name,
        control_rate=robot.control_rate,
        state=tuple(robot.state_names),
        action=tuple(robot.action_names),
        rewards=int(robot.reward is not None),
    )


@dataclass(frozen=True)
class Run:
    """What one process recorded: when it began (Unix time, seconds) and its transitions."""

    started_at: float
    transitions: Transitions


class Experience:
    """Transitions of one robot in one SQLite file, oldest first.

    Each `append` is one transaction in a write-ahead log: once it has returned, killing the
    process loses nothing of it, and no moment of being killed leaves the file unreadable. (A
    loss of power may take the last transactions, but not the file.) Beyond `capacity`
    transitions the oldest are deleted, so the size is bounded. What is appended through one
    object is one run. Values are little-endian float64; stamps are nanoseconds of robot time.

    robot: whose experience to store and to expect; None: whatever an existing file holds, to
    be read only. Raises ExperienceError if the directory or the file cannot be used, there is
    none to be read, or the file belongs to another robot or another version of the format.
    """

    def __init__(
        self, directory: Path, robot: RobotSpec | None, capacity: int = 1_000_000
    ) -> None:
        self.path = directory / FILE_NAME
        self._capacity = capacity
        self._run: int | None = None  # begins with the first append
        if robot is None and not self.path.is_file():
            raise ExperienceError(
                f"{self.path}: no such file; expected a directory that was given as experience:="
            )
        try:
            if robot is not None:
                directory.mkdir(parents=True, exist_ok=True)
            self._database = sqlite3.connect(self.path, isolation_level=None)
            self.description = self._open(robot)
            if robot is not None:
                self.check(robot)
        except (OSError, sqlite3.Error) as error:
            raise ExperienceError(f"{self.path}: cannot be used: {reason(error)}") from None
        about = self.description
        self._sizes = (len(about.state), len(about.action), len(about.state), about.rewards)

    def _open(self, robot: RobotSpec | None) -> Description:
        """Make a new file, or check that an old one is ours."""
        if robot is None:
            self._database.execute("PRAGMA query_only = ON")
        else:
            self._database.execute("PRAGMA journal_mode = WAL")
            self._database.execute("PRAGMA synchronous = NORMAL")
            self._create(describe(robot))
        row = self._database.execute("SELECT description FROM about").fetchone()
        text = "nothing" if row is None else str(row[0])
        try:
            found = _DESCRIPTION.validate_json(text)
            if found.format != FORMAT:
                raise ValueError
        except ValueError:  # pydantic's ValidationError is one
            raise ExperienceError(
                f"{self.path} is described by {text}, expected format {FORMAT}; files of another "
                "version are not converted: choose another directory"
            ) from None
        return found

    def check(self, robot: RobotSpec) -> None:
        """Raise ExperienceError, saying what differs, if this is not experience of `robot`."""
        for name, value in asdict(describe(robot)).items():
            found = getattr(self.description, name)
            if found != value:
                raise ExperienceError(
                    f"{self.path} holds experience whose {name} is {found}, expected {value}; "
                    "choose another directory"
                )

    def _create(self, about: Description) -> None:
        """Make the tables, unless the file has some: all at once, or a kill leaves none."""
        self._database.execute("BEGIN IMMEDIATE")
        if self._database.execute("SELECT 1 FROM sqlite_master").fetchone() is None:
            for table in _TABLES:
                self._database.execute(table)
            text = _DESCRIPTION.dump_json(about).decode()
            self._database.execute("INSERT INTO about VALUES (?)", (text,))
        self._database.execute("COMMIT")

    def __len__(self) -> int:
        return int(self._database.execute("SELECT COUNT(*) FROM transitions").fetchone()[0])

    def append(self, new: Transitions) -> None:
        """Store transitions; once this returns they outlive the process.

        Raises ExperienceError, having stored none of them, if the disk refuses.
        """
        columns = [tensor.numpy().astype("<f8") for tensor in new.tensors()]
        stamps = new.stamps.tolist()
        try:
            with self._database:
                self._database.execute("BEGIN IMMEDIATE")
                run = self._run or self._begin_run()
                self._database.executemany(
                    "INSERT INTO transitions (run, stamp, state, action, next_state, reward) "
                    "VALUES (?, ?, ?, ?, ?, ?)",
                    [
                        (run, stamps[i], *(column[i].tobytes() for column in columns))
                        for i in range(len(new))
                    ],
                )
                self._database.execute(
                    "DELETE FROM transitions WHERE id <= (SELECT MAX(id) FROM transitions) - ?",
                    (self._capacity,),
                )
        except sqlite3.Error as error:
            raise ExperienceError(f"{self.path}: cannot be written: {error}") from None
        self._run = run

    def _begin_run(self) -> int:
        # Runs of which nothing is left go, so that restarts do not add up.
        self._database.execute(
            "DELETE FROM runs WHERE id < (SELECT run FROM transitions ORDER BY id LIMIT 1)"
        )
        cursor = self._database.execute("INSERT INTO runs (started_at) VALUES (?)", (time.time(),))
        assert cursor.lastrowid is not None
        return cursor.lastrowid

    def mark_change(self, stamp: int) -> None:
        """Note that the world of this run has been another one since the step of that stamp.

        Of no effect if no such step is stored. Raises ExperienceError if the disk refuses.
        """
        try:
            with self._database:
                self._database.execute("BEGIN IMMEDIATE")
                self._database.execute(_CHANGES)
                self._database.execute(
                    "INSERT INTO changes SELECT id FROM transitions "
                    "WHERE run = ? AND stamp >= ? ORDER BY id LIMIT 1",
                    (self._run, stamp),
                )
        except sqlite3.Error as error:
            raise ExperienceError(f"{self.path}: cannot be written: {error}") from None

    def worlds(self, newest: int | None = None) -> list[Transitions]:
        """Return the `newest` transitions (None: all), split where the world changed.

        Oldest first; raises as `load`.
        """
        transitions = self.load(newest)
        try:
            self._database.execute("SELECT 1 FROM changes")
        except sqlite3.Error:
            return [transitions]
        later = [
            int(row[0])
            for row in self._database.execute(
                "SELECT (SELECT COUNT(*) FROM transitions WHERE id >= first) FROM changes "
                "ORDER BY first"
            )
        ]
        begins = [0, *(len(transitions) - count for count in later if count < len(transitions))]
        ends = [*begins[1:], len(transitions)]
        return [transitions[b:e] for b, e in zip(begins, ends, strict=True) if e > b]

    def load(self, newest: int | None = None) -> Transitions:
        """Return the `newest` transitions (None: all), oldest first.

        Raises ExperienceError if the file cannot be read, or a row is not of this robot's
        sizes or not finite.
        """
        return self._load(newest)[0]

    def runs(self, newest: int | None = None) -> list[Run]:
        """Return the `newest` transitions (None: all) by run, oldest first; raises as `load`."""
        transitions, numbers = self._load(newest)
        try:
            started = dict(self._database.execute("SELECT id, started_at FROM runs").fetchall())
        except sqlite3.Error as error:
            raise ExperienceError(f"{self.path}: cannot be read: {error}") from None
        runs, begin = [], 0
        for number, group in groupby(numbers):
            end = begin + len(list(group))
            runs.append(Run(started.get(number, 0.0), transitions[begin:end]))
            begin = end
        return runs

    def _load(self, newest: int | None) -> tuple[Transitions, list[int]]:
        try:
            rows = self._database.execute(
                "SELECT state, action, next_state, reward, stamp, run FROM transitions "
                "ORDER BY id DESC LIMIT ?",
                (-1 if newest is None else newest,),
            ).fetchall()[::-1]
        except sqlite3.Error as error:
            raise ExperienceError(f"{self.path}: cannot be read: {error}") from None
        columns = []
        for column, size in enumerate(self._sizes):
            if any(len(row[column]) != 8 * size or type(row[4]) is not int for row in rows):
                raise ExperienceError(
                    f"{self.path}: a row does not hold {size} numbers and a stamp"
                )
            data = b"".join(row[column] for row in rows)
            values = np.frombuffer(data, "<f8").astype(np.float64).reshape(len(rows), size)
            columns.append(torch.from_numpy(values))
        columns.append(torch.tensor([row[4] for row in rows], dtype=torch.int64))
        transitions = Transitions(*columns)
        if not transitions.isfinite():
            raise ExperienceError(f"{self.path}: holds a value that is not finite")
        return transitions, [row[5] for row in rows]

    def close(self) -> None:
        """Write the log back into the file and close it."""
        self._database.close()
