# Copyright 2026 The mbrl_ros authors
# SPDX-License-Identifier: Apache-2.0
"""What remains true of the old after the world has changed, told by the little that is new."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from mbrl_ros.dynamics.action_map import ActionMap
from mbrl_ros.dynamics.model import DynamicsModel, Transitions
from mbrl_ros.dynamics.normaliser import Normaliser

# Deviation of errors that are of no consequence, as a share of a dimension's usual change.
_NEGLIGIBLE = 0.02
# Prior deviations of the map of actions: of its gain from 1, of what is added, both as shares
# of the old actions' usual size.
_GAIN_PRIOR, _OFFSET_PRIOR = 1.0, 0.3
_ITERATIONS = 10
_HUBER = 3.0  # deviations from which on an error weighs less
_OUTLIER = 10.0  # deviations that an error counts as at most when a correction is judged
# n new steps a feature leave about (this / n)^2 of the usual squared change unexplained.
_ALONE = 4
# The map has to explain such a share of the errors, so nearly all (where more than the motors has
# changed, what is linear in `ErrorModel` tells it better), and must not magnify or shrink by more.
_EXPLAINED, _MOST_GAIN = 0.9, 10.0
# Variances of errors that are alike near each other (with length scales, in root mean squared
# distances between inputs), of those that are linear in a group of regressors, and of noise,
# among which the likelihood chooses. No length scale is so long that it would reach where nothing
# new has been seen.
_NEAR = ((0.0, 1.0), (0.1, 0.175), (0.1, 0.35), (1.0, 0.175), (1.0, 0.35))
_LINEAR = (0.0, 0.1, 1.0, 10.0)
_NOISES = (1e-4, 1e-3, 1e-2, 1e-1, 0.5)
_SWEEPS = 2  # through all of them, one at a time
# Share of the usual squared change below which errors are believed where they were seen only.
_SLIGHT = 0.01


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
        old model errs by now.
        """
        moved = replace(old, actions=self.actions.new(old.states, old.actions))
        return replace(moved, next_states=old.next_states + self.errors.mean(moved))


@dataclass(frozen=True)
class Merit:
    """How far the old model errs on steps that a correction had not seen.

    without, corrected: sums of squares, in stated deviations. errors: how many they are; those
    that are small either way are left out, for where nothing happens all models are right.
    steps: how many were judged. missed_without, missed_corrected: sum over steps of the share of
    the usual squared change that is missed; who knows nothing misses about one a step.
    missed_alone: what would be expected of as many new steps alone as each correction rested on.
    """

    without: float = 0.0
    corrected: float = 0.0
    errors: int = 0
    steps: int = 0
    missed_without: float = 0.0
    missed_corrected: float = 0.0
    missed_alone: float = 0.0

    def __add__(self, other: Merit) -> Merit:
        return Merit(
            self.without + other.without,
            self.corrected + other.corrected,
            self.errors + other.errors,
            self.steps + other.steps,
            self.missed_without + other.missed_without,
            self.missed_corrected + other.missed_corrected,
            self.missed_alone + other.missed_alone,
        )


def merit(model: DynamicsModel, found: Correction, usual: Tensor, fresh: Transitions) -> Merit:
    """Judge a correction of an old model by steps that came after it was found.

    usual (D,): see `usual_change`.
    """
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
    notable = squares.amax(0) > _HUBER**2
    without, corrected = (float(each[notable].sum()) for each in squares)
    missed = (errors.square() / (usual + 1e-18)).clamp_max(1.0).mean(2).sum(1)
    alone = min(_ALONE * model.features.size / found.errors.steps, 1.0) ** 2
    return Merit(
        without,
        corrected,
        int(notable.sum()),
        len(fresh),
        missed_without=float(missed[0]),
        missed_corrected=float(missed[1]),
        missed_alone=len(fresh) * alone,
    )


class ErrorModel:
    """A Gaussian process (zero mean, one kernel for all) of what an old model errs by.

    Errors may be alike for steps that are near each other, and linear in inputs and in what the
    old model predicts: a mass that is other than it was is felt everywhere, in proportion. What
    happens by itself and what the action adds count apart as well, because a motor, a mass and a
    length change them in different proportions.

    model: the old one. actions: what has become of actions. old: the transitions that it was
    learned from, with actions of now. new: where it errs. local: only those that are near each
    other are alike. likelihood: of these errors, its logarithm up to a constant.
    """

    def __init__(
        self,
        model: DynamicsModel,
        actions: ActionMap,
        old: Transitions,
        new: Transitions,
        local: bool = False,
    ) -> None:
        self._model, self._actions, self._local = model, actions, local
        self._resting = old.actions.mean(0)
        self._of_old = [] if local else [Normaliser.of(own) for own in self._columns(old)]
        self._all_inputs = Normaliser.of(torch.cat([self._inputs(old), self._inputs(new)]))
        self._new, self._regressors = self._normalised(new)
        errors = -_errors(model, new, actions)
        self._size = errors.square().mean(0).sqrt() + 1e-12
        self.steps = len(new)  # that it rests on
        self._fit(errors / self._size)
        self.likelihood -= len(new) * float(self._size.log().sum())

    def _fit(self, targets: Tensor) -> None:
        """Choose variances one after the other, by the likelihood of targets (n, D)."""
        squares = torch.cdist(self._new, self._new).square()
        products = [regressors @ regressors.T for regressors in self._regressors]
        identity = torch.eye(len(targets), dtype=targets.dtype)
        # Of what is near, of each group of regressors, of noise: places among the options.
        options = (_NEAR, *([_LINEAR] * len(products)), _NOISES)
        chosen = [0, *([1] * len(products)), 3]
        self.likelihood = -torch.inf

        def attempt(places: list[int]) -> None:
            near, linear, noise = _NEAR[places[0]], places[1:-1], _NOISES[places[-1]]
            variances = [_LINEAR[place] for place in linear]
            kernel = self._kernel(squares, products, near, variances) + noise * identity
            factor, failed = torch.linalg.cholesky_ex(kernel)
            if failed:
                return
            solved = torch.cholesky_solve(targets, factor)
            likelihood = float(
                -0.5 * (targets * solved).sum() - targets.shape[1] * factor.diagonal().log().sum()
            )
            if likelihood > self.likelihood:
                self.likelihood, self._weights = likelihood, solved
                self._chosen = near, variances
                chosen[:] = places

        attempt(list(chosen))
        for _ in range(_SWEEPS):
            for which in (-1, *range(1, len(options) - 1), 0):
                for place in range(len(options[which])):
                    if place != chosen[which]:
                        places = list(chosen)
                        places[which] = place
                        attempt(places)

    def share(self, usual: Tensor) -> float:
        """Return how large the squared errors are beside the usual squared changes (D,)."""
        return _share(self._size.square(), usual)

    def mean(self, data: Transitions) -> Tensor:
        """Return the expected errors (N, D) of steps."""
        inputs, regressors = self._normalised(data)
        squares = torch.cdist(inputs, self._new).square()
        products = [
            some @ those.T for some, those in zip(regressors, self._regressors, strict=True)
        ]
        return (self._kernel(squares, products, *self._chosen) @ self._weights) * self._size

    def _kernel(
        self,
        squares: Tensor,
        products: list[Tensor],
        near: tuple[float, float],
        linear: list[float],
    ) -> Tensor:
        variance, lengthscale = near
        width = lengthscale * (2.0 * self._new.shape[1]) ** 0.5
        kernel = variance * torch.exp(-0.5 * squares / width**2)
        for share, product in zip(linear, products, strict=True):
            kernel += share * product
        return kernel

    def _inputs(self, data: Transitions) -> Tensor:
        return self._model.features.inputs(data.states, data.actions)

    def _columns(self, data: Transitions) -> list[Tensor]:
        """Return groups of regressors: inputs, and changes by the old model.

        Those are of the whole step, of the step with the action at rest, and their difference.
        """

        def predicted(actions: Tensor) -> Tensor:
            told = self._actions.old(data.states, actions)
            after = self._model.predict_mean(data.states, told)
            return self._model.features.deltas(data.states, after)

        whole = predicted(data.actions)
        resting = predicted(self._resting.expand_as(data.actions))
        return [self._inputs(data), whole, resting, whole - resting]

    def _normalised(self, data: Transitions) -> tuple[Tensor, list[Tensor]]:
        """Return inputs (N, F), and groups as large together as one number of variance one.

        There is no group if all that counts is local.
        """
        inputs = self._all_inputs.normalise(self._inputs(data))
        if self._local:
            return inputs, []
        columns = self._columns(data)
        groups = [old.normalise(own) for old, own in zip(self._of_old, columns, strict=True)]
        groups[0] = torch.cat([groups[0], torch.ones(len(data), 1).to(groups[0])], 1)
        return inputs, [group / group.shape[1] ** 0.5 for group in groups]


def correct(model: DynamicsModel, old: Transitions, new: Transitions) -> Correction:
    """Find how the world of `new` differs from that of a model that was learned from `old`.

    Neither may be empty.
    """
    unchanged = ActionMap.identity(model.features)
    squares = _errors(model, new, unchanged).square().mean(0)
    # What holds back a robot that rests, dry friction, looks like a motor without force.
    slight = _share(squares, usual_change(model, old)) < _SLIGHT
    simple = Correction(unchanged, ErrorModel(model, unchanged, old, new, local=slight))
    if slight:
        return simple
    actions = _actions(model, old, new, _deviation(model, old, new))
    if actions is unchanged:
        return simple
    moved = replace(old, actions=actions.new(old.states, old.actions))
    found = Correction(actions, ErrorModel(model, actions, moved, new))
    # The map has as many coefficients more, each of which costs (Schwarz, "Estimating the
    # Dimension of a Model", 1978).
    coefficients = new.actions.shape[1] * (model.features.size + 1)
    price = 0.5 * coefficients * math.log(new.states.numel())
    return found if found.errors.likelihood - price > simple.errors.likelihood else simple


def usual_change(model: DynamicsModel, data: Transitions) -> Tensor:
    """Return the mean squared change (D,) of each state dimension in one step."""
    return model.features.deltas(data.states, data.next_states).square().mean(0)


def _share(squares: Tensor, usual: Tensor) -> float:
    """Return how large squared errors (D,) are beside the usual squared changes (D,)."""
    return float((squares / (usual + 1e-18)).mean())


def _deviation(model: DynamicsModel, usual: Transitions, data: Transitions) -> Tensor:
    """Return the deviations (N, D) in which errors on `data` are counted."""
    change = usual_change(model, usual)
    _, variance = model.predict(data.states, data.actions)
    return (variance + _NEGLIGIBLE**2 * change + 1e-18).sqrt()


def _errors(model: DynamicsModel, data: Transitions, actions: ActionMap) -> Tensor:
    """Return predicted less true next states, (N, D)."""
    mean = model.predict_mean(data.states, actions.old(data.states, data.actions))
    return model.features.deltas(data.next_states, mean)


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
