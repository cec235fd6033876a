# Copyright 2026 The mbrl_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Learning while the robot runs: what is learned from, and which model deserves to be used."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from math import nan, sqrt

import torch
from torch import Tensor

from mbrl_ros.dynamics.action_map import ActionMap
from mbrl_ros.dynamics.adaptation import Correction, Merit, correct, merit, usual_change
from mbrl_ros.dynamics.change import ChangeDetector
from mbrl_ros.dynamics.model import DynamicsModel, Transitions

_HELD_OUT_EVERY = 10  # one transition in so many is held out
_HELD_OUT = 20  # of them the newest so many judge; older ones are learned from
# How much less each counts than the next newer one, so that a changed world soon counts most.
_FADING = 0.8
# Nats a dimension by which the model in training may seem worse than the one in use: so few
# transitions tell no better.
_TOLERANCE = 0.1
# After a change: transitions that are enough to learn from them as from any other, and factor
# by which they grow until what is known from before is corrected once more.
_SETTLED = 200
_GROWTH = 1.2
# Once so many errors have come after a correction, it must have made them smaller: otherwise the
# world has not changed, the model has only been wrong about it. To ask for more would forfeit what
# is right in the correction of a young or foreign model, as when simulation gives way to hardware.
_PROVEN = 40
# Judged steps that tell whether the old is of any use, which is given up if it has left more
# unexplained, corrected or not, than as many new steps alone would have: so much of it together
# would outweigh what is new. If it leaves less than this share of the usual squared change, the
# world has not changed; if a correction has more to correct, what it makes of the old is doubtful.
_TELLING, _UPHELD = 10, 0.1
# Share of the usual squared change below which errors that a map of actions leaves are none:
# scales and noise that were found in the old suit the new as well.
_SAME = 3e-3
# Transitions from which on a model can be contradicted: before, it is only being learned.
_YOUNG = 100
# By which factor the noise is widened at most, share of the way that a transition moves it, and
# the factor below which there is none.
_WIDEST, _NARROWING, _NARROW = 100.0, 0.1, 1.5
_NINETY_PERCENT = 1.6449  # half width of a normal distribution's central 90 %, in deviations


@dataclass(frozen=True)
class Quality:
    """How well the model in use has predicted lately, transitions that it had not seen.

    transitions: how many. one_step_error: as `model.one_step_error`. coverage90: how often the
    truth lay within the central 90 % interval, over all dimensions. NaN without transitions.
    """

    transitions: int
    one_step_error: float
    coverage90: float


class OnlineLearner:
    """Trains one model without end, and keeps a copy of the last one that was adopted.

    make: returns a model that knows nothing. window: nanoseconds that `quality` looks back.
    Some of the newest transitions are held out, and learned from only later: on those the model
    in training must do as well as the adopted one before it may replace it.
    """

    def __init__(self, make: Callable[[], DynamicsModel], window: int, adapt: bool = True) -> None:
        self._make = make
        self.adapt = adapt
        self._window = window
        self._seen = 0
        self._recent: deque[tuple[int, Tensor]] = deque()
        self.model = make()  # in training
        self.adopted = make()  # in use
        features = self.model.features
        self._nothing = Transitions.empty(features)
        self._held_out = self._nothing
        self._start = (self.model.snapshot(), 0)
        self._latest = self._nothing
        self._detector = ChangeDetector(features.state_dimensions)
        self.changes = 0  # of the world, since the start
        self.false_alarms = 0  # changes that were taken back, because nothing came of them
        self.changed_since = 0  # stamp of the first transition after the last of them
        self.correction: Correction | None = None  # after the last of them, the newest
        self.widening = 1.0  # for the adopted model, see DynamicsModel
        self._adaptation: _Adaptation | None = None  # since the last of them

    def start_from(self, model: DynamicsModel) -> None:
        """Go on from a model that has learned already."""
        self.model = model
        self._start = (model.snapshot(), model.transitions)
        self._note(model.remembered())
        self.adopt()

    def restart(self) -> None:
        """Go back to the model of `start_from`, because what came since was not as it seemed."""
        tensors, transitions = self._start
        self.forget()
        if transitions:
            for model in (self.model, self.adopted):
                model.restore(tensors)
                model.transitions = transitions
            self._note(self.model.remembered())

    def forget(self) -> None:
        """Start again from a model that knows nothing."""
        self.model, self.adopted = self._make(), self._make()
        self._held_out, self._seen = self._nothing, 0
        self._latest, self._adaptation, self.widening = self._nothing, None, 1.0
        self._detector.forget()
        self._recent.clear()

    def learn(self, new: Transitions) -> None:
        """Judge the adopted model by new transitions, then learn from them.

        Raises ValueError, having learned nothing, if the model refuses them.
        """
        alarm = self._judge(new)
        latest = self._latest + new
        if alarm is not None and self._adaptation is None:
            before = new[: max(len(new) - alarm, 0)]
            self.model.update(before)
            self._latest = latest[-_SETTLED:]
            self.change(latest[-alarm:])
            return
        numbers = torch.arange(self._seen, self._seen + len(new))
        held_out = numbers % _HELD_OUT_EVERY == _HELD_OUT_EVERY - 1
        waiting = self._held_out + new[held_out]
        released = max(len(waiting) - _HELD_OUT, 0)
        self.model.update(new[~held_out] + waiting[:released])
        self._held_out = waiting[released:]
        self._seen += len(new)
        self._latest = latest[-_SETTLED:]
        if self._adaptation is not None and len(new):
            self._adapt_further(new, alarm is not None)

    def change(self, new: Transitions) -> None:
        """Take it that the world has been another one since the first of the transitions `new`.

        What was known before is corrected by them, see `adaptation.correct`, and again when
        there are more.
        """
        known = self.model.remembered()
        old = known[~_contained(known, new)]
        if len(old) == 0 or len(new) == 0:
            return
        before = self._make()
        before.restore(self.model.snapshot())
        before.transitions = self.model.transitions
        unchanged = ActionMap.identity(before.features)
        if len(old) < len(known):
            # What has been learned since is of the new world.
            before.relearn(old, self._nothing, unchanged)
        self.changes += 1
        self.changed_since = int(new.stamps[0])
        self._adaptation = _Adaptation(before, old, new, unchanged)
        half = len(new) // 2
        if half >= _TELLING:
            self.correction = correct(before, old, new[:half])
            self._adaptation.merit = merit(
                before, self.correction, self._adaptation.usual, new[half:]
            )
        if self.adopted.transitions:
            self.widening = max(self.widening, float(_overrun(self.adopted, new).mean()))
        self._revise()

    def _adapt_further(self, new: Transitions, alarmed: bool) -> None:
        adaptation = self._adaptation
        assert adaptation is not None
        adaptation.new = adaptation.new + new
        assert self.correction is not None
        proven = self.proven
        adaptation.merit += merit(adaptation.before, self.correction, adaptation.usual, new)
        if self.proven and not proven and not adaptation.holds:
            latest = adaptation.new[-_TELLING:]
            lately = merit(adaptation.before, self.correction, adaptation.usual, latest)
            # However badly it is corrected so far, an old model that still errs as much is wrong.
            if lately.missed_without < _UPHELD * lately.steps:
                self._take_back()
                return
        count = len(adaptation.new)
        outdone = adaptation.outdone and not adaptation.anew
        if alarmed or outdone or count >= min(_GROWTH * adaptation.used, _SETTLED):
            self._revise()

    def _revise(self) -> None:
        """Learn from the new, and from the old as the new corrects it, unless that is given up."""
        adaptation = self._adaptation
        assert adaptation is not None
        new, given_up = adaptation.new, adaptation.anew
        adaptation.used = len(new)
        adaptation.anew = given_up or adaptation.outdone
        self._detector.restart()
        if not adaptation.anew:
            self._correct(adaptation)
        elif not given_up:
            self.model = self._make()
            self.model.update(new)
            self._held_out = self._nothing
        if len(new) >= _SETTLED:
            self._adaptation = None

    def _correct(self, adaptation: _Adaptation) -> None:
        """Learn anew from the old as the new corrects it, and from the new."""
        old, new = adaptation.old, adaptation.new
        telling = torch.linspace(0, len(new) - 1, min(len(new), _SETTLED)).long()
        found = correct(adaptation.before, old, new[telling])
        # The model in training has taken over the last map already.
        actions = found.actions.after(adaptation.actions)
        self.correction, adaptation.actions = found, found.actions
        known, strange = found.apply(old), new
        share = found.errors.share(adaptation.usual)
        if share < _SAME:
            known, strange = known + new, self._nothing
        if not self.model.relearn(known, strange, actions, doubtful=share > _UPHELD):
            self.model = self._make()
            self.model.update(new)
        self._held_out = self._nothing

    @property
    def proven(self) -> bool:
        """Whether the last change of the world will not be taken back any more."""
        return self._adaptation is None or self._adaptation.merit.errors >= _PROVEN

    def _take_back(self) -> None:
        """Go on as if there had been no alarm."""
        adaptation = self._adaptation
        assert adaptation is not None
        self.model = adaptation.before
        self.model.update(adaptation.new)
        self.changes -= 1
        self.false_alarms += 1
        self.correction, self._adaptation, self.widening = None, None, 1.0
        self._held_out = self._nothing
        self._detector.excuse()

    @property
    def adapting(self) -> bool:
        """Whether the world has changed so lately that this is not settled yet."""
        return self._adaptation is not None or self.widening > 1.0

    def improve(self) -> bool:
        """Train for one slice; return whether more is expected to help."""
        return self.model.improve()

    @property
    def better(self) -> bool:
        """Whether the model in training does as well as the adopted one on what both never saw.

        By the likelihood of what happened, which an overconfident model forfeits as well as a
        wrong one.
        """
        if len(self._held_out) == 0 or not self.adopted.transitions:
            return True
        age = torch.arange(len(self._held_out) - 1, -1, -1).double()
        weights = _FADING**age / (_FADING**age).sum()
        surprises = [
            float(weights @ _surprise(model, self._held_out))
            for model in (self.model, self.adopted)
        ]
        return surprises[0] <= surprises[1] + _TOLERANCE

    def adopt(self) -> None:
        """Take a copy of the model in training for the one in use."""
        adopted = self._make()
        adopted.restore(self.model.snapshot())
        adopted.transitions = self.model.transitions
        self.adopted = adopted

    def quality(self) -> Quality:
        """Return how the adopted models have done within the window."""
        rows = [row for _, row in list(self._recent)]
        if not rows:
            return Quality(0, nan, nan)
        error, change, inside = torch.stack(rows, dim=1)
        return Quality(len(rows), _relative(error, change), float(inside.mean()))

    def _judge(self, new: Transitions) -> int | None:
        """Note how the adopted model predicts; return since when the world seems changed."""
        if len(new) == 0 or not new.isfinite():
            return None
        alarm = None
        if self.adapt and self.adopted.transitions >= _YOUNG:
            alarm = self._watch(new)
            self._narrow(new)
        else:
            self._note(new)
        if self.adopted.transitions:
            rows = torch.stack(_residuals(self.adopted, new), dim=1)
            self._recent.extend(zip(new.stamps.tolist(), rows, strict=True))
        oldest = int(new.stamps[-1]) - self._window
        while self._recent and self._recent[0][0] < oldest:
            self._recent.popleft()
        return alarm

    def _note(self, data: Transitions) -> None:
        """Tell the detector what the robot does, where it has nothing to judge."""
        self._detector.note(self.model.features.deltas(data.states, data.next_states).numpy())

    def _watch(self, new: Transitions) -> int | None:
        error, variance = _predicted(self.adopted, new)
        change = self.model.features.deltas(new.states, new.next_states)
        alarm = None
        rows = zip(error.numpy(), variance.numpy(), change.numpy(), strict=True)
        for later, row in zip(range(len(new) - 1, -1, -1), rows, strict=True):
            age = self._detector.add(*row)
            if age is not None:
                alarm = age + later
        return alarm

    def _narrow(self, new: Transitions) -> None:
        """Widen the noise as far as lately needed, after a change, until it is right as it is."""
        if self.widening == 1.0:
            return
        for needed in _overrun(self.adopted, new).tolist():
            self.widening += _NARROWING * (needed - self.widening)
        if self.widening < _NARROW:
            self.widening = 1.0


@dataclass
class _Adaptation:
    """A change of the world that is being learned.

    before: model of the old world. old, new: transitions of either. actions: the map that
    the model in training has taken over. used: how many of the new ones that rests on. merit:
    of the corrections so far. anew: whether the old has been given up, and only the new counts.
    """

    before: DynamicsModel
    old: Transitions
    new: Transitions
    actions: ActionMap
    used: int = 0
    merit: Merit = field(default_factory=Merit)
    anew: bool = False

    @property
    def usual(self) -> Tensor:
        """What usually changed in a step of the old world, (D,)."""
        return usual_change(self.before, self.old)

    @property
    def outdone(self) -> bool:
        """Whether what is new, alone, tells more than the old model, as it was or corrected."""
        merit = self.merit
        missed = min(merit.missed_without, merit.missed_corrected)
        return merit.steps >= _TELLING and missed > merit.missed_alone

    @property
    def holds(self) -> bool:
        """Whether what has been made of the change does better than nothing."""
        if self.anew:
            return self.merit.missed_without >= _UPHELD * self.merit.steps
        return self.merit.corrected <= self.merit.without


def _contained(data: Transitions, others: Transitions) -> Tensor:
    """Return which of the transitions are among the others, (N,)."""
    rows, wanted = (
        [row.tobytes() for row in torch.cat([d.states, d.actions], 1).numpy()]
        for d in (data, others)
    )
    known = set(wanted)
    return torch.tensor([row in known for row in rows], dtype=torch.bool)


def _predicted(model: DynamicsModel, data: Transitions) -> tuple[Tensor, Tensor]:
    """Return errors and variances of the next states, each (N, D)."""
    mean, variance = model.predict(data.states, data.actions)
    return model.features.deltas(data.next_states, mean), variance


def _overrun(model: DynamicsModel, data: Transitions) -> Tensor:
    """Return by which factor squared errors exceed the variance stated, within bounds, (N,)."""
    error, variance = _predicted(model, data)
    return (error.square() / variance.clamp_min(1e-18)).mean(1).clamp(1.0, _WIDEST)


def _residuals(model: DynamicsModel, data: Transitions) -> tuple[Tensor, Tensor, Tensor]:
    """Return squared errors, squared changes and whether within 90 %, each (N, D)."""
    error, variance = _predicted(model, data)
    change = model.features.deltas(data.states, data.next_states)
    inside = error.abs() <= _NINETY_PERCENT * variance.sqrt()
    return error.square(), change.square(), inside.to(error.dtype)


def _surprise(model: DynamicsModel, data: Transitions) -> Tensor:
    """Return the negative log likelihood a dimension, up to a constant, (N,)."""
    error, variance = _predicted(model, data)
    variance = variance.clamp_min(1e-12)
    return 0.5 * (variance.log() + error.square() / variance).mean(1)


def _relative(error: Tensor, change: Tensor) -> float:
    return sqrt(float((error.mean(0) / change.mean(0).clamp_min(1e-12)).mean()))
