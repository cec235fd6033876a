# Copyright 2026 The mbrl_ros authors
# SPDX-License-Identifier: Apache-2.0
"""What remains true of the old after the world has changed, told by the little that is new."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from mbrl_ros.dynamics.action_map import ActionMap
from mbrl_ros.dynamics.features import FeatureMap, wrap_angle
from mbrl_ros.dynamics.model import DynamicsModel, Transitions

# Deviation of errors that are of no consequence, as a share of a dimension's usual change.
_NEGLIGIBLE = 0.02
# Prior deviations of the map of actions: of its gain from 1, of what is added, both as shares
# of the old actions' usual size.
_GAIN_PRIOR, _OFFSET_PRIOR = 1.0, 0.3
_ITERATIONS = 10
_HUBER = 3.0  # deviations from which on an error weighs less
_OUTLIER = 10.0  # deviations that an error counts as at most when a correction is judged
# The map has to explain such a share of the errors, and must not magnify or shrink by more.
_EXPLAINED, _MOST_GAIN = 0.5, 10.0
# Length scales, in root mean squared distances between inputs, and noise, among which the
# likelihood chooses. None is so long that it would reach where nothing new has been seen.
_LENGTHSCALES = (0.175, 0.35)
_NOISES = (1e-4, 1e-3, 1e-2, 1e-1)


@dataclass(frozen=True)
class Correction:
    """The new world as the old model sees it.

    actions: what has become of them. errors: what the old model still errs by then.
    """

    actions: ActionMap
    errors: ErrorModel

    def apply(self, old: Transitions) -> Transitions:
        """Return old transitions as they would go in the new world.

        An old action had the effect that another one has now; where it led is off by what the
        old model errs by now. Far from all that is new, that is nothing.
        """
        moved = replace(old, actions=self.actions.new(old.states, old.actions))
        return replace(moved, next_states=old.next_states + self.errors.mean(moved))


@dataclass(frozen=True)
class Merit:
    """How far the old model errs on steps that a correction had not seen.

    without, corrected: sums of squares, in stated deviations. errors: how many they are; those
    that are small either way are left out, for where nothing happens all models are right.
    steps: how many were judged. wrong_without, wrong_corrected: in how many of them an error was
    large.
    """

    without: float = 0.0
    corrected: float = 0.0
    errors: int = 0
    steps: int = 0
    wrong_without: int = 0
    wrong_corrected: int = 0

    def __add__(self, other: Merit) -> Merit:
        return Merit(
            self.without + other.without,
            self.corrected + other.corrected,
            self.errors + other.errors,
            self.steps + other.steps,
            self.wrong_without + other.wrong_without,
            self.wrong_corrected + other.wrong_corrected,
        )


def merit(model: DynamicsModel, found: Correction, fresh: Transitions) -> Merit:
    """Judge a correction of an old model by steps that came after it was found."""
    deviation = _deviation(model, fresh, fresh)
    unchanged = ActionMap.identity(model.features)
    errors = torch.stack(
        [
            _errors(model, fresh, unchanged),
            _errors(model, fresh, found.actions) + found.errors.mean(fresh),
        ]
    )
    # A single one is limited, so that no outlier decides.
    squares = (errors / deviation).square().clamp_max(_OUTLIER**2)
    large = squares > _HUBER**2
    notable = large.any(0)
    without, corrected = (float(each[notable].sum()) for each in squares)
    wrong = [int(each.any(1).sum()) for each in large]
    return Merit(without, corrected, int(notable.sum()), len(fresh), *wrong)


class ErrorModel:
    """A Gaussian process (zero mean, one kernel for all) of an old model's errors."""

    def __init__(self, features: FeatureMap, data: Transitions, errors: Tensor, scale: Tensor):
        self._features, self._scale = features, scale
        inputs = self._inputs(data)
        self._size = errors.square().mean(0).sqrt() + 1e-12
        targets = errors / self._size
        squares = torch.cdist(inputs, inputs).square()
        best = -torch.inf
        for lengthscale in _LENGTHSCALES:
            width = lengthscale * (2.0 * inputs.shape[1]) ** 0.5
            kernel = torch.exp(-0.5 * squares / width**2)
            for noise in _NOISES:
                identity = torch.eye(len(inputs), dtype=inputs.dtype)
                factor, failed = torch.linalg.cholesky_ex(kernel + noise * identity)
                if failed:
                    continue
                solved = torch.cholesky_solve(targets, factor)
                likelihood = float(
                    -0.5 * (targets * solved).sum()
                    - targets.shape[1] * factor.diagonal().log().sum()
                )
                if likelihood > best:
                    best = likelihood
                    self.chosen = lengthscale, noise
                    self._points, self._weights, self._width = inputs, solved, width

    def _inputs(self, data: Transitions) -> Tensor:
        return self._features.inputs(data.states, data.actions) / self._scale

    def mean(self, data: Transitions) -> Tensor:
        """Return the expected errors (N, D) of steps; zero far from where errors were seen."""
        squares = torch.cdist(self._inputs(data), self._points).square()
        kernel = torch.exp(-0.5 * squares / self._width**2)
        return (kernel @ self._weights) * self._size


def correct(model: DynamicsModel, old: Transitions, new: Transitions) -> Correction:
    """Find how the world of `new` differs from that of a model that was learned from `old`.

    Neither may be empty.
    """
    features = model.features
    deviation = _deviation(model, old, new)
    actions = _actions(model, old, new, deviation)
    moved = actions.new(old.states, old.actions)
    inputs = torch.cat(
        [features.inputs(old.states, moved), features.inputs(new.states, new.actions)]
    )
    scale = inputs.std(0)
    scale = torch.where(scale > 1e-6, scale, torch.ones_like(scale))
    return Correction(actions, ErrorModel(features, new, -_errors(model, new, actions), scale))


def _deviation(model: DynamicsModel, usual: Transitions, data: Transitions) -> Tensor:
    """Return the deviations (N, D) in which errors on `data` are counted."""
    change = model.features.deltas(usual.states, usual.next_states).square().mean(0)
    _, variance = model.predict(data.states, data.actions)
    return (variance + _NEGLIGIBLE**2 * change + 1e-18).sqrt()


def _errors(model: DynamicsModel, data: Transitions, actions: ActionMap) -> Tensor:
    """Return predicted less true next states, (N, D)."""
    mean = model.predict(data.states, actions.old(data.states, data.actions))[0]
    errors = mean - data.next_states
    angles = model.features.angles
    errors[:, angles] = wrap_angle(errors[:, angles])
    return errors


def _actions(
    model: DynamicsModel, old: Transitions, new: Transitions, deviation: Tensor
) -> ActionMap:
    """Return the map of actions under which the model errs least on `new`, if that is much less.

    By Gauss and Newton's method, with Huber's weights and a normal prior around no change.
    """
    features, size = model.features, new.actions.shape[1]
    unchanged = ActionMap.identity(features)
    known = features.inputs(old.states, old.actions).square().mean(0).sqrt().clamp_min(1e-9)
    force = known[-size:]  # what is usual of each action
    # Of each coefficient, in whose unit one is an old action as large as usual.
    feedback_unit = force[:, None] / known[None, :-size]
    gain_unit = force[:, None] / force[None, :]
    spread = torch.cat(
        [_GAIN_PRIOR * gain_unit, _OFFSET_PRIOR * feedback_unit, _OFFSET_PRIOR * force[:, None]], 1
    ).flatten()
    start = torch.cat([unchanged.gain, unchanged.feedback, unchanged.offset[:, None]], 1)

    def split(values: Tensor) -> ActionMap:
        table = values.view(size, -1)
        return ActionMap(features, table[:, :size], table[:, size:-1], table[:, -1])

    def cost(values: Tensor) -> tuple[Tensor, Tensor]:
        scaled = _errors(model, new, split(values)) / deviation
        huber = torch.where(
            scaled.abs() < _HUBER,
            0.5 * scaled.square(),
            _HUBER * (scaled.abs() - 0.5 * _HUBER),
        )
        return huber.sum() + 0.5 * ((values - start.flatten()) / spread).square().sum(), scaled

    columns = torch.cat(
        [
            new.actions,
            features.inputs(new.states, new.actions)[:, :-size],
            torch.ones(len(new), 1).double(),
        ],
        1,
    )
    values = start.flatten()
    best, scaled = before, _ = cost(values)
    for _ in range(_ITERATIONS):
        told = split(values).old(new.states, new.actions)
        slopes = model.linearise(new.states, told)[1] / deviation[:, :, None]  # (N, D, A)
        design = (slopes[..., None] * columns[:, None, None, :]).flatten(2).flatten(0, 1)
        weight = (_HUBER / scaled.abs().clamp_min(_HUBER)).flatten()
        normal = design.T @ (weight[:, None] * design) + torch.diag(spread**-2)
        slope = design.T @ (weight * scaled.flatten()) + (values - start.flatten()) / spread**2
        moved = values - torch.linalg.solve(normal, slope)
        reached, errors = cost(moved)
        if not reached < best:
            break
        values, best, scaled = moved, reached, errors
    found = split(values)
    stretched = torch.linalg.svdvals(found.gain / gain_unit)
    usable = stretched.max() < _MOST_GAIN and stretched.min() > 1.0 / _MOST_GAIN
    return found if usable and best < (1.0 - _EXPLAINED) * before else unchanged
