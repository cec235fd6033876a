# Copyright 2026 The mbrl_ros authors
# SPDX-License-Identifier: Apache-2.0
"""How far a model can be trusted: its error and its own opinion of it, against the horizon.

The model is run open loop: from a true state it predicts the next ones from the actions that
were really applied, without seeing another true state. That is what a planner relies on.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mbrl_ros.dynamics.dataset import Trajectory
from mbrl_ros.dynamics.features import FeatureMap
from mbrl_ros.dynamics.model import DynamicsModel, Transitions, one_step_error
from mbrl_ros.robots.spec import RobotSpec

LEVELS = (0.5, 0.9, 0.95)  # of the central intervals whose coverage is measured
THRESHOLDS = (0.5, 1.0)  # of the nRMSE, beyond which a prediction counts as diverged
# The smallest number of particles of which one in twenty lies outside an interval that the
# smallest and the largest of them make.
MIN_PARTICLES = 39
_ONE_STEP_BATCH = 1000

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Evaluation:
    """What `evaluate` found. D state dimensions, horizons of k = 1..H steps, L levels.

    Open loop, over S starts:
    rmse (H, D): root mean square error of the `mean` rollout after k steps, in units.
    nrmse (H, D): the same over `scale` (D,), the standard deviation of the true states.
    nrmse_all (H,): root mean square of `nrmse` over the dimensions.
    nrmse_unchanged (H,): the same as `nrmse_all`, of predicting that nothing changes.
    coverage (L, H, D): how often the truth lay within the central interval of that level
    that particles under `propagation` span.

    One step, over all N steps: one_step_rmse (D,), one_step_nrmse (D,);
    one_step_coverage (L, D) of the intervals of the predicted Gaussian; one_step_error as
    `model.one_step_error`; reward_rmse: NaN for robots without a reward.

    An error that is not finite counts as infinite, and a truth as outside such particles.
    """

    names: list[str]
    units: list[str]
    period: float
    steps: int
    starts: int
    propagation: str
    particles: int
    levels: list[float]
    scale: Array
    rmse: Array
    nrmse: Array
    nrmse_all: Array
    nrmse_unchanged: Array
    coverage: Array
    one_step_rmse: Array
    one_step_nrmse: Array
    one_step_coverage: Array
    one_step_error: float
    reward_rmse: float

    @property
    def horizons(self) -> Array:
        """The horizons (H,) in seconds."""
        return np.arange(1, len(self.nrmse_all) + 1, dtype=np.float64) * self.period

    def divergence_time(self, threshold: float, dimension: str | None = None) -> float | None:
        """Return the first horizon, in seconds, at which the nRMSE exceeds `threshold`.

        Of one dimension or (None) over all; None if it does not within the horizons evaluated.
        """
        column = self.names.index(dimension) if dimension is not None else None
        errors = self.nrmse_all if column is None else self.nrmse[:, column]
        beyond = np.flatnonzero(errors > threshold)
        return float(self.horizons[beyond[0]]) if len(beyond) else None

    def to_json(self) -> str:
        """Return all of it, the horizons and the divergence times as JSON; not finite: null."""
        values = {field.name: _plain(getattr(self, field.name)) for field in fields(self)}
        values["horizons_s"] = _plain(self.horizons)
        values["divergence_s"] = {
            str(threshold): {
                name or "all": self.divergence_time(threshold, name)
                for name in (None, *self.names)
            }
            for threshold in THRESHOLDS
        }
        return json.dumps(values, indent=2)


def evaluate(
    model: DynamicsModel,
    trajectories: Sequence[Trajectory],
    robot: RobotSpec,
    *,
    horizon: int = 40,
    propagation: str | None = None,
    particles: int = MIN_PARTICLES,
    starts: int = 100,
    scale: Tensor | None = None,
    seed: int = 0,
) -> Evaluation:
    """Measure a model against what really happened.

    horizon: H steps. starts: at most how many starting points, spread evenly over all that
    have H steps behind them in their trajectory, so that every horizon is measured on the same
    ones. propagation: how particles carry the uncertainty (see `DynamicsModel.rollout`); None: the
    first of tsinf, pathwise and ts1 that the kind offers. Under ts1 and tsinf a particle holds
    the noise of observation. Under pathwise it does not, and particles may share a function:
    the intervals are then of what the model does not know alone, and cover too little.

    The central interval of level p reaches from quantile (1 - p) / 2 to (1 + p) / 2 of the
    particles, taken at rank quantile x (particles + 1) (Weibull's rule): of exchangeable
    particles and truth the expected coverage is then p, whatever their number.
    scale: (D,), what counts as large (see `state_scale`); None: that of these trajectories.
    Give that of all data if these are a part in which the robot hardly moves. Errors of angles
    go the shorter way round.

    Raises ValueError if no trajectory has `horizon` steps, for fewer than 39 particles, or if
    the kind does not offer the propagation.
    """
    if particles < MIN_PARTICLES:
        raise ValueError(
            f"particles is {particles}, expected at least {MIN_PARTICLES}: fewer cannot span "
            "an interval of 95 %"
        )
    if horizon < 1 or starts < 1:
        raise ValueError(f"horizon is {horizon} and starts {starts}, expected at least 1")
    begins, actions, truth = _cut(trajectories, horizon, starts)
    propagation = propagation or _offered(model)
    features = model.features
    data = Transitions(
        torch.cat([piece.states[:-1] for piece in trajectories]),
        torch.cat([piece.actions for piece in trajectories]),
        torch.cat([piece.states[1:] for piece in trajectories]),
        torch.cat([piece.rewards for piece in trajectories]),
    )
    if scale is None:
        scale = state_scale(trajectories, features)

    with torch.no_grad():
        mean = model.rollout(begins, actions).double()[1:]
        particle_states = model.rollout(
            begins.repeat_interleave(particles, 0),
            actions.repeat_interleave(particles, 1),
            propagation,
            torch.Generator().manual_seed(seed),
        ).double()[1:]
        one_mean, one_variance, rewards = _one_step(model, data)
        share = one_step_error(model, data)

    rmse = _rms(features.deltas(truth, mean), 1)
    unchanged = _rms(features.deltas(truth, begins.expand_as(truth)), 1)
    grouped = particle_states.reshape(horizon, len(begins), particles, -1)
    one_error = features.deltas(data.next_states, one_mean)
    one_rmse = _rms(one_error, 0)
    return Evaluation(
        names=robot.state_names,
        units=[dimension.unit for dimension in robot.state],
        period=robot.period,
        steps=len(data),
        starts=len(begins),
        propagation=propagation,
        particles=particles,
        levels=list(LEVELS),
        scale=scale.numpy(),
        rmse=rmse.numpy(),
        nrmse=(rmse / scale).numpy(),
        nrmse_all=_rms(rmse / scale, -1).numpy(),
        nrmse_unchanged=_rms(unchanged / scale, -1).numpy(),
        coverage=_particle_coverage(grouped, truth, features),
        one_step_rmse=one_rmse.numpy(),
        one_step_nrmse=(one_rmse / scale).numpy(),
        one_step_coverage=_gaussian_coverage(one_error, one_variance),
        one_step_error=share,
        reward_rmse=float(_rms(rewards - data.rewards, 0)) if features.rewards else math.nan,
    )


def state_scale(trajectories: Sequence[Trajectory], features: FeatureMap) -> Tensor:
    """Return the standard deviation (D,) of all states, of angles about their circular mean."""
    states = torch.cat([piece.states for piece in trajectories])
    centre = states.mean(0)
    for i in features.angles:
        centre[i] = torch.atan2(states[:, i].sin().mean(), states[:, i].cos().mean())
    return _rms(features.deltas(centre, states), 0).clamp_min(1e-9)


def horizon_steps(trajectories: Sequence[Trajectory], seconds: float, period: float) -> int:
    """Return `seconds` in steps, at least one and at most what the longest trajectory has."""
    longest = max((len(piece) for piece in trajectories), default=0)
    return max(1, min(round(seconds / period), longest))


def _cut(
    trajectories: Sequence[Trajectory], horizon: int, starts: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Choose starting states (S, D), actions (H, S, A) and true states (H, S, D) from there."""
    possible = [
        (piece, begin) for piece in trajectories for begin in range(len(piece) - horizon + 1)
    ]
    if not possible:
        longest = max((len(piece) for piece in trajectories), default=0)
        raise ValueError(
            f"no trajectory has {horizon} consecutive steps, the longest has {longest}; "
            "evaluate over a shorter horizon or on more data"
        )
    count = min(starts, len(possible))
    chosen = [possible[i] for i in np.linspace(0, len(possible) - 1, count).round().astype(int)]
    return (
        torch.stack([piece.states[i] for piece, i in chosen]),
        torch.stack([piece.actions[i : i + horizon] for piece, i in chosen], 1),
        torch.stack([piece.states[i + 1 : i + 1 + horizon] for piece, i in chosen], 1),
    )


def _offered(model: DynamicsModel) -> str:
    for propagation in ("tsinf", "pathwise"):
        try:
            model.stepper(propagation, 1, torch.Generator())
        except ValueError:
            continue
        return propagation
    return "ts1"


def _one_step(model: DynamicsModel, data: Transitions) -> tuple[Tensor, Tensor, Tensor]:
    """Return mean and variance (N, D) of the next states and the mean rewards (N, R)."""
    size = model.features.state_dimensions
    parts = [
        (part, *model.outputs(part.states, part.actions))
        for part in (data[i : i + _ONE_STEP_BATCH] for i in range(0, len(data), _ONE_STEP_BATCH))
    ]
    means = torch.cat([part.states + mean[:, :size] for part, mean, _ in parts])
    variances = torch.cat([variance[:, :size] for _, _, variance in parts])
    return means, variances, torch.cat([mean[:, size:] for _, mean, _ in parts])


def _rms(values: Tensor, axis: int) -> Tensor:
    return values.square().mean(axis).sqrt().nan_to_num(math.inf, math.inf)


def _particle_coverage(particles: Tensor, truth: Tensor, features: FeatureMap) -> Array:
    """Coverage (L, H, D) of truth (H, S, D) by particles (H, S, P, D)."""
    # About a point in their midst: the interval of an angle may reach across pi.
    centre = particles.mean(2)
    angles = features.angles
    centre[..., angles] = torch.atan2(
        particles[..., angles].sin().mean(2), particles[..., angles].cos().mean(2)
    )
    spread = features.deltas(centre[:, :, None], particles).numpy()
    found = features.deltas(centre, truth).numpy()
    coverage = []
    for level in LEVELS:
        tail = 0.5 * (1.0 - level)
        low, high = np.quantile(spread, [tail, 1.0 - tail], axis=2, method="weibull")
        with np.errstate(invalid="ignore"):
            coverage.append(((low <= found) & (found <= high)).mean(1))
    return np.stack(coverage)


def _gaussian_coverage(error: Tensor, variance: Tensor) -> Array:
    """Coverage (L, D) of errors (N, D) by the central intervals of N(0, variance)."""
    within = torch.erf(error.abs() / (2.0 * variance).sqrt())
    return np.stack([(within <= level).double().mean(0).numpy() for level in LEVELS])


def _plain(value: Any) -> Any:
    """Return what JSON can hold: arrays as lists, numbers that are not finite as None."""
    if isinstance(value, np.ndarray):
        return _plain(value.tolist())
    if isinstance(value, list):
        return [_plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
