# Copyright 2026 The mbrl_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Train a model from recorded data, to be used as `model_file:=FILE`."""

from __future__ import annotations

import time
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from mbrl_ros.dynamics import snapshot
from mbrl_ros.dynamics.model import DynamicsModel, Transitions, make_model, one_step_error
from mbrl_ros.offline.sources import Source
from mbrl_ros.robots.spec import RobotSpec


def fit(
    model: DynamicsModel, data: Transitions, max_seconds: float, progress: bool = False
) -> float:
    """Show a model all of `data`, then improve it until that is no longer expected to help.

    max_seconds: after which no further slice of training begins. progress: show a bar on
    standard error. Returns the seconds that it took. Raises ValueError for values that are
    not finite.
    """
    begin = time.monotonic()
    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), disable=not progress) as bars:
        bar = bars.add_task(f"training on {len(data)} transitions", total=max_seconds)
        model.update(data)
        slices, more = 0, True
        while more and time.monotonic() - begin < max_seconds:
            more = model.improve()
            slices += 1
            bars.update(
                bar,
                completed=min(time.monotonic() - begin, max_seconds),
                description=f"training, slice {slices}",
            )
        bars.update(bar, completed=max_seconds)
    return time.monotonic() - begin


def train(
    kind: str,
    robot: RobotSpec,
    training: Source,
    held_out: Source,
    path: Path,
    max_seconds: float,
    seed: int = 0,
    progress: bool = False,
) -> DynamicsModel:
    """Train a new model of `kind` and write its snapshot to `path`.

    held_out: data for the error that the snapshot states; may be empty. Raises ValueError if
    the kind is unknown or cannot learn from the data, OSError if the file cannot be written.
    """
    model = make_model(kind, robot, seed)
    seconds = fit(model, training.transitions(), max_seconds, progress)
    error = one_step_error(model, held_out.transitions()) if held_out.runs else float("nan")
    info = snapshot.describe(
        robot, model, error, training_seconds=seconds, data=training.description
    )
    data = snapshot.encode(model, info)
    snapshot.decode(data, make_model(kind, robot, seed), robot)  # what cannot be read is refused
    snapshot.write(path, data)
    return model
