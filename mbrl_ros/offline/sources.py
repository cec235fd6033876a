# Copyright 2026 The mbrl_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Recorded data of a robot, from wherever it lies."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from mbrl_ros.dynamics.dataset import Trajectory, trajectories
from mbrl_ros.dynamics.experience import Experience
from mbrl_ros.dynamics.model import Transitions
from mbrl_ros.offline.bags import read_bag
from mbrl_ros.robots.spec import RobotSpec


@dataclass(frozen=True)
class Source:
    """Runs of one robot, oldest first, and in words where they come from."""

    runs: list[Transitions]
    description: str

    def __len__(self) -> int:
        return sum(len(run) for run in self.runs)

    def split(self, share: float) -> tuple[Source, Source]:
        """Return all but the last `share` (0 to 1) of the steps, and those."""
        remaining = len(self) - round(share * len(self))
        early, late = [], []
        for run in self.runs:
            early.append(run[:remaining])
            late.append(run[remaining:])
            remaining = max(0, remaining - len(run))
        return (
            Source([run for run in early if len(run)], self.description),
            Source([run for run in late if len(run)], self.description),
        )

    def transitions(self) -> Transitions:
        """Return all runs as one; there is at least one."""
        return sum(self.runs[1:], self.runs[0])

    def trajectories(self, robot: RobotSpec) -> list[Trajectory]:
        """Return the stretches of consecutive steps."""
        period = robot.period_nanoseconds
        return [piece for run in self.runs for piece in trajectories(run, period)]


def load(
    robot: RobotSpec,
    bags: Sequence[Path],
    experience: Path | None,
    namespace: str | None = None,
    tell: Callable[[str], None] = print,
) -> Source:
    """Read what `bags` or the directory `experience` hold; `tell` hears what was found.

    Raises ValueError unless exactly one of the two is given, BagError or ExperienceError if
    something cannot be used.
    """
    if bool(bags) == (experience is not None):
        raise ValueError("give either --bag DIR (once or several times) or --experience DIR")
    if experience is not None:
        store = Experience(experience, None)
        try:
            store.check(robot)
            runs = [run.transitions for run in store.runs()]
        finally:
            store.close()
        source = Source(runs, f"experience {experience.name}")
        if not runs:
            raise ValueError(f"{experience}: no experience is stored in it yet")
        tell(f"{experience}: {len(source)} transitions in {len(runs)} runs")
        return source
    recordings = []
    for path in bags:
        recordings.append(read_bag(path, robot, namespace, progress=True))
        tell(f"{path}: {recordings[-1]}")
    names = ", ".join(path.name for path in bags)
    return Source([recording.transitions for recording in recordings], f"bag {names}")
