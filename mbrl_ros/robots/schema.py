# Copyright 2026 The mbrl_ros authors
# SPDX-License-Identifier: Apache-2.0
"""The JSON schema of a robot file, for editors: python -m mbrl_ros.robots.schema."""

from __future__ import annotations

import json
from typing import Any

from pydantic import TypeAdapter

from mbrl_ros.robots.spec import RobotSpec


def robot_schema() -> dict[str, Any]:
    """Return the schema; every entry of a robot file is described in it."""
    schema = TypeAdapter(RobotSpec).json_schema()
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **schema,
        "title": "mbrl_ros robot file",
    }


def main() -> None:
    """Print config/robot.schema.json."""
    print(json.dumps(robot_schema(), indent=2))


if __name__ == "__main__":
    main()
