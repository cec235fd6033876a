# Copyright 2026 The mbrl_ros authors
# SPDX-License-Identifier: Apache-2.0
"""What a robot lived through, on disk, so that neither a crash nor a restart loses it."""

from __future__ import annotations

import json
import sqlite3
import time
from pathlib import Path

import numpy as np
import torch

from mbrl_ros.dynamics.model import Transitions
from mbrl_ros.robots.spec import RobotSpec

FORMAT = "mbrl_ros.experience.1"
FILE_NAME = "experience.sqlite3"

_TABLES = """
CREATE TABLE IF NOT EXISTS about (description TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS transitions (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    recorded_at REAL NOT NULL,
    state BLOB NOT NULL,
    action BLOB NOT NULL,
    next_state BLOB NOT NULL
);
"""


class ExperienceError(ValueError):
    """An experience directory that cannot be used; the message says why."""


class Experience:
    """Transitions of one robot in one SQLite file, oldest first.

    Each `append` is one transaction in a write-ahead log: once it has returned, killing the
    process loses nothing of it, and no moment of being killed leaves the file unreadable. (A
    loss of power may take the last transactions, but not the file.) Beyond `capacity`
    transitions the oldest are deleted, so the size is bounded. Values are little-endian
    float64; recorded_at is Unix time.

    Raises ExperienceError if the directory or the file cannot be used, or the file belongs to
    another robot.
    """

    def __init__(self, directory: Path, robot: RobotSpec, capacity: int = 1_000_000) -> None:
        self.path = directory / FILE_NAME
        self._capacity = capacity
        self._sizes = (len(robot.state), len(robot.command.dimensions), len(robot.state))
        expected = {
            "format": FORMAT,
            "robot": robot.name,
            "state": robot.state_names,
            "action": robot.action_names,
        }
        try:
            directory.mkdir(parents=True, exist_ok=True)
            self._database = sqlite3.connect(self.path, isolation_level=None)
            self._database.execute("PRAGMA journal_mode = WAL")
            self._database.execute("PRAGMA synchronous = NORMAL")
            self._database.executescript(_TABLES)
            found = self._database.execute("SELECT description FROM about").fetchone()
            if found is None:
                self._database.execute("INSERT INTO about VALUES (?)", (json.dumps(expected),))
            elif json.loads(found[0]) != expected:
                raise ExperienceError(
                    f"{self.path} holds experience of {found[0]}, "
                    f"expected {json.dumps(expected)}; choose another directory"
                )
        except (OSError, sqlite3.Error, json.JSONDecodeError) as error:
            raise ExperienceError(f"{self.path}: cannot be used: {error}") from None

    def __len__(self) -> int:
        return int(self._database.execute("SELECT COUNT(*) FROM transitions").fetchone()[0])

    def append(self, new: Transitions) -> None:
        """Store transitions; once this returns they outlive the process.

        Raises ExperienceError, having stored none of them, if the disk refuses.
        """
        columns = (new.states, new.actions, new.next_states)
        rows = [
            (time.time(), *(column[i].numpy().astype("<f8").tobytes() for column in columns))
            for i in range(len(new))
        ]
        try:
            with self._database:
                self._database.execute("BEGIN")
                self._database.executemany(
                    "INSERT INTO transitions (recorded_at, state, action, next_state) "
                    "VALUES (?, ?, ?, ?)",
                    rows,
                )
                self._database.execute(
                    "DELETE FROM transitions WHERE id <= (SELECT MAX(id) FROM transitions) - ?",
                    (self._capacity,),
                )
        except sqlite3.Error as error:
            raise ExperienceError(f"{self.path}: cannot be written: {error}") from None

    def load(self, newest: int | None = None) -> Transitions:
        """Return the `newest` transitions (None: all), oldest first.

        Raises ExperienceError if the file cannot be read, or a row is not of this robot's
        sizes or not finite.
        """
        try:
            rows = self._database.execute(
                "SELECT state, action, next_state FROM transitions ORDER BY id DESC LIMIT ?",
                (-1 if newest is None else newest,),
            ).fetchall()[::-1]
        except sqlite3.Error as error:
            raise ExperienceError(f"{self.path}: cannot be read: {error}") from None
        columns = []
        for column, size in enumerate(self._sizes):
            data = b"".join(row[column] for row in rows)
            if any(len(row[column]) != 8 * size for row in rows):
                raise ExperienceError(f"{self.path}: a row does not hold {size} numbers")
            values = np.frombuffer(data, "<f8").astype(np.float64).reshape(-1, size)
            columns.append(torch.from_numpy(values))
        transitions = Transitions(*columns)
        if not transitions.isfinite():
            raise ExperienceError(f"{self.path}: holds a value that is not finite")
        return transitions

    def close(self) -> None:
        """Write the log back into the file and close it."""
        self._database.close()
