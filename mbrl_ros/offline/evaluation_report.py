# Copyright 2026 The mbrl_ros authors
# SPDX-License-Identifier: Apache-2.0
"""An evaluation as a table and as a picture."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
from rich import box
from rich.console import Console
from rich.table import Table

from mbrl_ros.dynamics.evaluation import THRESHOLDS, Evaluation

_WIDTH = 110


def show(found: Evaluation) -> None:
    """Print the table; where there is no terminal to be filled, names are not cut."""
    console = Console()
    (console if console.is_terminal else Console(width=_WIDTH)).print(table(found))


def table(found: Evaluation) -> Table:
    """Return one row a state dimension, and one for all: errors, coverage, divergence."""
    steps = len(found.nrmse_all)
    chosen = sorted({max(1, round(steps * share)) for share in (0.25, 0.5, 1.0)})
    ends = found.horizons
    result = Table(
        title=f"{found.steps} steps; open loop from {found.starts} of them on\n"
        f"for {steps} steps of {found.period:g} s; {found.particles} particles "
        f"({found.propagation})",
        box=box.SIMPLE_HEAD,
        padding=0,
        show_edge=False,
    )
    result.add_column("", no_wrap=True)
    for header in (
        "RMSE\n1 step",
        "nRMSE\n1 step",
        *(f"nRMSE\n{ends[k - 1]:.3g} s" for k in chosen),
        "90 %\n1 step",
        f"90 %\n{ends[-1]:.3g} s",
        *(f"nRMSE\n> {threshold:g}" for threshold in THRESHOLDS),
    ):
        result.add_column(header, justify="right", no_wrap=True)
    level = found.levels.index(0.9)
    for i, name in enumerate(found.names):
        result.add_row(
            name,
            f"{found.one_step_rmse[i]:.3g} {found.units[i]}",
            f"{found.one_step_nrmse[i]:.3f}",
            *(f"{found.nrmse[k - 1, i]:.3f}" for k in chosen),
            f"{100.0 * found.one_step_coverage[level, i]:.0f} %",
            f"{100.0 * found.coverage[level, -1, i]:.0f} %",
            *(_diverged(found, threshold, name) for threshold in THRESHOLDS),
        )
    result.add_section()
    result.add_row(
        "all",
        "",
        f"{math.sqrt((found.one_step_nrmse**2).mean()):.3f}",
        *(f"{found.nrmse_all[k - 1]:.3f}" for k in chosen),
        f"{100.0 * found.one_step_coverage[level].mean():.0f} %",
        f"{100.0 * found.coverage[level, -1].mean():.0f} %",
        *(_diverged(found, threshold) for threshold in THRESHOLDS),
    )
    if math.isfinite(found.reward_rmse):
        result.add_row("reward", f"{found.reward_rmse:.3g}")
    result.caption = (
        "90 %: how often the truth lay in that interval; nRMSE > ...: from when on.\n"
        f"One-step error as a share of the change's own size: {found.one_step_error:.3f}"
    )
    return result


def draw(found: Evaluation, path: Path, title: str) -> None:
    """Write a picture: how error and coverage change with the horizon."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, (errors, coverage) = pyplot.subplots(
        2, 1, sharex=True, figsize=(9.0, 6.4), layout="constrained"
    )
    seconds = found.horizons
    for i, name in enumerate(found.names):
        errors.plot(seconds, found.nrmse[:, i], lw=1.0, label=name)
    errors.plot(seconds, found.nrmse_all, color="black", lw=2.0, label="all dimensions")
    errors.plot(
        seconds, found.nrmse_unchanged, ":", color="grey", label="predicting that nothing changes"
    )
    for threshold in THRESHOLDS:
        errors.axhline(threshold, ls="--", lw=0.8, color="tab:red")
        diverged = found.divergence_time(threshold)
        if diverged is not None:
            errors.axvline(diverged, lw=0.8, color="tab:red")
            errors.text(
                diverged,
                0.04,
                f"{diverged:.2f} s",
                color="tab:red",
                fontsize=8,
                rotation=90,
                ha="right",
                transform=errors.get_xaxis_transform(),
            )
    # The growth of an error from step to step is a slope there.
    errors.set_yscale("log")
    shown = found.nrmse[np.isfinite(found.nrmse) & (found.nrmse > 0.0)]
    errors.set_ylim(0.7 * shown.min(initial=0.1), 2.0)
    errors.set_ylabel("nRMSE, open loop")
    errors.set_title(
        f"{title}: how {found.starts} predictions drift away from what happened.\n"
        "Replanning from the measured state starts anew at the left edge at every tick.",
        fontsize=10,
    )
    errors.legend(fontsize=8, loc="lower right")
    for i, level in enumerate(found.levels):
        color = f"C{i}"
        coverage.plot(
            seconds, found.coverage[i].mean(-1), color=color, label=f"{100 * level:g} % interval"
        )
        coverage.axhline(level, ls="--", lw=0.8, color=color)
    coverage.set_ylim(0.0, 1.02)
    coverage.set_ylabel(f"share of truths inside\n({found.propagation})")
    coverage.set_xlabel("horizon [s]")
    coverage.legend(fontsize=8, loc="lower left")
    for panel in (errors, coverage):
        panel.grid(alpha=0.3)
    figure.savefig(path, dpi=110)
    pyplot.close(figure)


def _diverged(found: Evaluation, threshold: float, name: str | None = None) -> str:
    time = found.divergence_time(threshold, name)
    return f"> {found.horizons[-1]:.3g} s" if time is None else f"{time:.2f} s"
