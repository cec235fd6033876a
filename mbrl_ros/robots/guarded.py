# Copyright 2026 The mbrl_ros authors
# SPDX-License-Identifier: Apache-2.0
"""What the guard needs to know of a robot, without what it takes to read robot files.

The guard's process stays small and quick to start: the libraries that read and check a robot's
file (and, for some robots, a simulator) are loaded by a short-lived child, which hands over the
result as JSON.
"""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import asdict, dataclass
from types import SimpleNamespace
from typing import TYPE_CHECKING, cast

from mbrl_ros.units import NANOSECONDS

if TYPE_CHECKING:
    from mbrl_ros.robots.spec import Bounds, Command, RobotSpec


@dataclass(frozen=True)
class GuardedRobot:
    """The guard's part of a RobotSpec.

    period: seconds between ticks. command: has the attributes of `spec.Command`. safe_ranges: by
    name of each of the D state dimensions, in order; None where any value will do.
    """

    name: str
    period: float
    command: Command
    safe_ranges: dict[str, Bounds | None]

    @property
    def period_nanoseconds(self) -> int:
        """The period in the unit of stamps."""
        return round(self.period * NANOSECONDS)

    @property
    def state_names(self) -> list[str]:
        """Names of the D state dimensions."""
        return list(self.safe_ranges)

    @property
    def action_names(self) -> list[str]:
        """Names of the A action dimensions."""
        return [dimension.name for dimension in self.command.dimensions]


def guarded(robot: RobotSpec) -> GuardedRobot:
    """Return what the guard needs of this robot."""
    ranges = {dimension.name: dimension.safe_range for dimension in robot.state}
    return GuardedRobot(robot.name, robot.period, robot.command, ranges)


def load_guarded(robot: str) -> GuardedRobot:
    """Load a robot as `load_robot` does, by a child process.

    Raises ValueError, with the message of `load_robot`, if it cannot be used.
    """
    child = subprocess.run(
        [sys.executable, "-m", "mbrl_ros.robots.guarded", robot],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    if child.returncode != 0:
        raise ValueError(child.stderr.strip() or f"robot '{robot}' could not be loaded")
    read = json.loads(child.stdout.splitlines()[-1])
    command = SimpleNamespace(**read["command"])
    command.dimensions = [SimpleNamespace(**dimension) for dimension in command.dimensions]
    return GuardedRobot(
        read["name"], read["period"], cast("Command", command), read["safe_ranges"]
    )


def main() -> int:
    """Print the guard's part of the robot named in the first argument, as one line of JSON."""
    from mbrl_ros.robots.spec import RobotError, load_robot

    try:
        robot = guarded(load_robot(sys.argv[1]))
    except RobotError as error:
        print(error, file=sys.stderr)
        return 1
    print(json.dumps(asdict(robot)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
