# Copyright 2026 The mbrl_ros authors
# SPDX-License-Identifier: Apache-2.0
"""How well and how fast models predict, next to those of other libraries on the same data."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, astuple, dataclass, field, fields
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from rich.box import SIMPLE_HEAD
from rich.table import Table

from mbrl_ros.benchmarks.logs import (
    INSTALL,
    TASKS,
    BenchmarkError,
    Log,
    MissingPackage,
    check_names,
    load_log,
    log_path,
    transitions,
)
from mbrl_ros.benchmarks.timing import one_thread, seconds
from mbrl_ros.dynamics.evaluation import LEVELS, Evaluation, evaluate
from mbrl_ros.dynamics.gp import GaussianProcess
from mbrl_ros.dynamics.model import DynamicsModel, Transitions, make_model

HORIZONS = (1, 10, 30)  # steps
ROWS = 500  # predicted at once for predict_ms
LEVEL = 0.9  # of the interval whose coverage is measured

OWN = "mbrl_ros"
OWN_KINDS = ("gp", "svgp", "ensemble", "mlp")
# Kinds that remember what is new at `update` and learn from it in `improve`.
_TRAINED_KINDS = ("ensemble", "mlp")


@dataclass(frozen=True)
class Peer:
    """A model of another library: which kind it is compared to, where it is, how to get it."""

    kind: str
    module: str
    attribute: str
    install: str


PEERS = {
    "gpytorch": Peer("gp", "mbrl_ros.benchmarks.gpytorch_gp", "GPyTorchGP", INSTALL),
    "mbrl-lib": Peer(
        "ensemble",
        "mbrl_ros.benchmarks.mbrl_lib_ensemble",
        "MbrlLibEnsemble",
        f"{INSTALL} and pip install --no-deps mbrl==0.2.0",
    ),
}
LIBRARIES = (OWN, *PEERS)


@dataclass(frozen=True)
class Effort:
    """How much a run may cost.

    all_episodes: train and test on all of a log, or on the first few of it only. training_s:
    seconds after which no further slice of training begins. fit_steps: of Adam, for GPyTorch.
    starts: of open-loop predictions. updates, predictions: how many are timed.
    """

    all_episodes: bool
    training_s: float
    fit_steps: int
    starts: int
    updates: int
    predictions: int


QUICK = Effort(False, training_s=3.0, fit_steps=100, starts=20, updates=5, predictions=15)
FULL = Effort(True, training_s=60.0, fit_steps=200, starts=200, updates=20, predictions=50)


@dataclass(frozen=True)
class Row:
    """What one model of one library comes to on one task at one horizon.

    horizon: steps. nrmse: see `Evaluation.nrmse_all`. coverage90: the share of the truth, over
    all dimensions, within the central 90 % interval; at one step of the predicted Gaussian,
    later of particles. update_ms: of taking in one transition; predict_ms: of the mean of ROWS
    one-step predictions; medians.
    """

    task: str
    kind: str
    library: str
    horizon: int
    nrmse: float
    coverage90: float
    update_ms: float
    predict_ms: float

    def plain(self) -> dict[str, Any]:
        """Return the row as JSON can hold it: a number that is not finite as None."""
        return {
            key: None if isinstance(value, float) and not math.isfinite(value) else value
            for key, value in asdict(self).items()
        }


@dataclass
class _Entrant:
    kind: str
    library: str
    model: DynamicsModel
    evaluation: Evaluation | None = None
    update_s: list[float] = field(default_factory=list)
    predict_s: list[float] = field(default_factory=list)

    @property
    def label(self) -> str:
        return f"{self.library} {self.kind}"


@one_thread()
def run(
    tasks: Sequence[str] = tuple(TASKS),
    libraries: Sequence[str] = LIBRARIES,
    effort: Effort = FULL,
    seed: int = 0,
    logs: Path | None = None,
    say: Callable[[str], None] = lambda line: None,
) -> list[Row]:
    """Train and measure every model of the libraries on every task.

    logs: a folder with logs; what is missing there is made. say: told what is being done, and
    what is left out because a package is missing.
    Raises BenchmarkError for unknown names, unusable logs, or if nothing is left to measure.
    """
    check_names("task", tasks, TASKS)
    check_names("library", libraries, LIBRARIES)
    peers = {name: loaded for name in libraries if (loaded := load_peer(name, say)) is not None}
    rows: list[Row] = []
    for task in tasks:
        try:
            log = _log(task, seed, logs)
        except MissingPackage as error:
            say(f"{task}: left out: {error}")
            continue
        if not effort.all_episodes:
            log = log.first(TASKS[task].quick_training, TASKS[task].quick_test)
        rows += _measure(task, log, OWN in libraries, peers, effort, seed, say)
    if not rows:
        raise BenchmarkError("there is nothing left to measure; see what was left out above")
    return rows


def load_peer(library: str, say: Callable[[str], None]) -> Any:
    """Return the model class of another library, or None, having said why, if it is missing."""
    peer = PEERS.get(library)
    if peer is None:
        return None
    try:
        return getattr(import_module(peer.module), peer.attribute)
    except ImportError as error:
        say(f"{library}: left out, it cannot be imported ({error}); install: {peer.install}")
        return None


def _log(task: str, seed: int, logs: Path | None) -> Log:
    if logs is not None and log_path(logs, task).exists():
        return load_log(log_path(logs, task), TASKS[task].robot())
    return TASKS[task].log(seed)


def _measure(
    task: str,
    log: Log,
    own: bool,
    peers: dict[str, Any],
    effort: Effort,
    seed: int,
    say: Callable[[str], None],
) -> list[Row]:
    # What is taken in one by one comes from an episode that was not trained on.
    data, later = transitions(log.training[:-1]), transitions(log.training[-1:])
    say(f"{task}: {len(data)} transitions, tested on {sum(map(len, log.test))}")
    entrants = _trained(log, data, own, peers, effort, seed, say)
    for entrant in entrants:
        begin = time.perf_counter()
        entrant.evaluation = evaluate(
            entrant.model,
            log.test,
            log.robot,
            horizon=max(HORIZONS),
            starts=effort.starts,
            seed=seed,
        )
        say(
            f"{task}: {entrant.label} evaluated by {entrant.evaluation.propagation} "
            f"in {time.perf_counter() - begin:.1f} s"
        )
    _time_predictions(entrants, transitions(log.test), effort.predictions, seed)
    _time_updates(entrants, later, effort.updates)
    return [row for entrant in entrants for row in _rows(task, entrant)]


def _trained(
    log: Log,
    data: Transitions,
    own: bool,
    peers: dict[str, Any],
    effort: Effort,
    seed: int,
    say: Callable[[str], None],
) -> list[_Entrant]:
    """Make and train all models; peers get the points and the time that our own had."""
    entrants: list[_Entrant] = []
    points, ensemble_s = GaussianProcess(log.features).max_points, effort.training_s
    for kind in OWN_KINDS if own else ():
        model = make_model(kind, log.robot, seed)
        spent = seconds(partial(_train, model, data, effort.training_s))
        say(f"{log.robot.name}: {OWN} {kind} trained for {spent:.1f} s")
        entrants.append(_Entrant(kind, OWN, model))
        if kind == "ensemble":
            ensemble_s = spent
    if "gpytorch" in peers:
        gp = peers["gpytorch"](log.features, points, effort.fit_steps, seed)
        spent = seconds(partial(gp.update, data))
        say(f"{log.robot.name}: gpytorch gp trained for {spent:.1f} s on {points} points")
        entrants.append(_Entrant("gp", "gpytorch", gp))
    if "mbrl-lib" in peers:
        ensemble = peers["mbrl-lib"](log.features, seed)
        spent = seconds(partial(ensemble.train, data, ensemble_s))
        say(f"{log.robot.name}: mbrl-lib ensemble trained for {spent:.1f} s")
        entrants.append(_Entrant("ensemble", "mbrl-lib", ensemble))
    return entrants


def _train(model: DynamicsModel, data: Transitions, limit_s: float) -> None:
    """Train until the model expects no more of it or the time is up."""
    begin = time.perf_counter()
    model.update(data)
    while model.improve() and time.perf_counter() - begin < limit_s:
        pass


def _time_predictions(entrants: list[_Entrant], rows: Transitions, rounds: int, seed: int) -> None:
    """Time the mean of ROWS predictions; the entrants take turns, so that all see the same."""
    generator = torch.Generator().manual_seed(seed)
    chosen = torch.randint(len(rows), (ROWS,), generator=generator)
    states, actions = rows.states[chosen].float(), rows.actions[chosen].float()[None]
    for entrant in entrants:  # the first call makes buffers and caches
        entrant.model.rollout(states, actions)
    for _ in range(rounds):
        for entrant in entrants:
            call = partial(entrant.model.rollout, states, actions)
            entrant.predict_s.append(seconds(call))


def _time_updates(entrants: list[_Entrant], later: Transitions, rounds: int) -> None:
    """Time taking in one transition, entrants taking turns.

    Our networks only remember what is new; until a slice of training nothing of it shows in
    what they predict, so that is timed with them.
    """
    for i in range(min(rounds, len(later))):
        new = later[i : i + 1]
        for entrant in entrants:
            spent = seconds(partial(entrant.model.update, new))
            if entrant.library == OWN and entrant.kind in _TRAINED_KINDS:
                spent += seconds(entrant.model.improve)
            entrant.update_s.append(spent)


def _rows(task: str, entrant: _Entrant) -> list[Row]:
    evaluation = entrant.evaluation
    assert evaluation is not None
    level = LEVELS.index(LEVEL)
    return [
        Row(
            task=task,
            kind=entrant.kind,
            library=entrant.library,
            horizon=horizon,
            nrmse=float(evaluation.nrmse_all[horizon - 1]),
            coverage90=float(
                evaluation.one_step_coverage[level].mean()
                if horizon == 1
                else evaluation.coverage[level, horizon - 1].mean()
            ),
            update_ms=1e3 * statistics.median(entrant.update_s),
            predict_ms=1e3 * statistics.median(entrant.predict_s),
        )
        for horizon in HORIZONS
    ]


def table(rows: Sequence[Row]) -> Table:
    """Lay rows out for the terminal, within 80 columns."""
    result = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    formats = ("{}", "{}", "{}", "{}", "{:.4f}", "{:.3f}", "{:.2f}", "{:.2f}")
    for i, column in enumerate(fields(Row)):
        result.add_column(column.name, justify="right" if i > 2 else "left", no_wrap=True)
    for row, following in zip(rows, [*rows[1:], None], strict=True):
        result.add_row(
            *(text.format(value) for text, value in zip(formats, astuple(row), strict=True)),
            end_section=following is not None and following.task != row.task,
        )
    return result
