# Copyright 2026 The mbrl_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Writes docs/parameters.md from the declarations of the nodes.

python -m mbrl_ros.ros.parameter_page > docs/parameters.md
"""

from __future__ import annotations

import importlib

from mbrl_ros.bringup import ARGUMENTS, NODES
from mbrl_ros.ros.parameters import Parameter

_HEAD = """# Launch arguments and parameters

Written by `python -m mbrl_ros.ros.parameter_page > docs/parameters.md` from the declarations in
the code; a test compares the two.

A value outside its range, of another type, or that does not fit the robot is refused with the
reason: at start the node ends, later the change is not made. Launch arguments win over parameter
files; `params_file:=` wins over the shipped files in `config/`.

## Launch arguments of mpc.launch.py

| argument | default | choices | meaning |
| --- | --- | --- | --- |
"""

_COLUMNS = """| parameter | default | range | meaning |
| --- | --- | --- | --- |
"""

_GOAL = """
`mpc_planner` also has `goal` and `goal_weights`, arrays of numbers in the order of the robot's
`goal:` section, and the read-only `goal_names`. They, `waypoints`, `waypoint_dwell` and
`goal_trajectory` can be changed at any time and act at the next tick, without a new start of the
plan; of goal, way points and trajectory the one that was set last counts.
"""


def page() -> str:
    """Return the page as Markdown."""
    text = _HEAD
    for argument in ARGUMENTS:
        choices = ", ".join(argument.choices)
        default = f"`{argument.default}`" if argument.default else "empty"
        text += f"| `{argument.name}` | {default} | {choices} | {argument.description} |\n"
    for name in NODES:
        text += f"\n## {name}\n\n{_COLUMNS}"
        module = importlib.import_module(f"mbrl_ros.nodes.{name}")
        for parameter in module.PARAMETERS:
            text += _row(parameter)
        if name == "mpc_planner":
            text += _GOAL
    return text


def _row(parameter: Parameter) -> str:
    low, high = parameter.minimum, parameter.maximum
    if low is None and high is None:
        span = ""
    elif high is None:
        span = f"at least {low:g}"
    else:
        span = f"{low:g} to {high:g}"
    default = str(parameter.default)
    if isinstance(parameter.default, bool):
        default = default.lower()
    shown = f"`{default}`" if default not in ("", "[]") else "empty"
    return f"| `{parameter.name}` | {shown} | {span} | {parameter.description} |\n"


if __name__ == "__main__":
    print(page(), end="")
