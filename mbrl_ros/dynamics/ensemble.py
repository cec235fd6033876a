# Copyright 2026 The mbrl_ros authors
# SPDX-License-Identifier: Apache-2.0
"""A probabilistic ensemble of neural networks, and a single network, trained while running.

After Chua et al., "Deep Reinforcement Learning in a Handful of Trials using Probabilistic
Dynamics Models" (PETS, NeurIPS 2018): the disagreement of members that began differently and
see different bootstrap samples is what is not known, the variance that each predicts is noise.
The single network without a variance is that of Nagabandi et al., "Neural Network Dynamics for
Model-Based Deep Reinforcement Learning with Model-Free Fine-Tuning" (ICRA 2018). Networks work
in float32, from inputs and to targets of zero mean and unit variance.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import silu

from mbrl_ros.dynamics.action_map import ActionMap
from mbrl_ros.dynamics.calibration import noise_factor, noise_persistence
from mbrl_ros.dynamics.features import FeatureMap
from mbrl_ros.dynamics.model import PROPAGATIONS, DynamicsModel, Step, Transitions
from mbrl_ros.dynamics.normaliser import Moments
from mbrl_ros.dynamics.particles import FoldedNetworks, Particles, bounded_log_variance
from mbrl_ros.dynamics.replay import Replay

_LOG_VARIANCE_BOUNDS = (-12.0, 0.5)  # to begin with, of normalised targets
_BOUNDS_WEIGHT = 0.01  # how strongly the loss pulls these bounds together
# Each error weighs variance^_BETA more than its likelihood says (Seitzer et al., "On the
# Pitfalls of Heteroscedastic Uncertainty Estimation", ICLR 2022): or what is noisy at first
# is never learned.
_BETA = 0.5
_AVERAGING = 0.998  # share of the weights' moving average that a step keeps
_HELD_OUT_BLOCK, _HELD_OUT_EVERY, _HELD_OUT_PHASE = 10, 10, 2  # of 10 blocks of 10 steps one
_HELD_OUT_ROWS = 1024  # of the held-out data, at most so many judge the weights
_MOST_RESCALED = 2.0  # of a normaliser's scale, either way, since training started
_PROGRESS = 1e-3  # by which held-out loss must fall: a thousandth of the error
_IGNORANT = 10.0  # noise factor of a model that has learned nothing
_KEPT = 16  # sets of buffers for rollouts: a planner's samples, one for delay compensation, ...
_MAX_MEMBERS, _MAX_LAYERS, _MAX_WIDTH = 64, 9, 2048  # also of a snapshot

DEVICES = ("cpu", "cuda", "auto")  # to train on

Weights = dict[str, Tensor]


class Ensemble(DynamicsModel):
    """M networks of Gaussian output, batched into one set of matrices.

    Training goes in slices: `improve` takes some steps of AdamW, then judges the weights' moving
    average by held-out data. Predictions rest on the best averages so far, each member's own.
    The predicted noise is scaled, output by output, so that 90 % intervals cover 90 % of the
    held-out data.

    members: M. hidden: sizes of the hidden layers. batch_size: rows a step shows each member, a
    share `recent_share` of them from the newest `recent`. steps: of one slice. loss_steps: how
    far ahead the training loss looks, feeding predictions back. patience: slices without
    progress after which `improve` ends. capacity: how many transitions are remembered.
    learning_rate, weight_decay: AdamW's; the average makes up for a high learning rate.
    device: where it trains: `cpu`, `cuda`, or `auto`: on a GPU if there is one. What it has
    learned, and what it predicts from, stays on the CPU. A GPU rounds otherwise, so the same
    seed learns something else there.
    Raises ValueError, naming the option, if one cannot be used.
    """

    kind = "ensemble"
    # One member a candidate, not all of them: a fifth of the time.
    planning_propagation = "pathwise"
    probabilistic = True  # each member predicts a variance

    def __init__(
        self,
        features: FeatureMap,
        members: int = 5,
        hidden: Sequence[int] = (200, 200, 200),
        batch_size: int = 256,
        steps: int = 10,
        learning_rate: float = 8e-3,
        weight_decay: float = 0.05,
        recent: int = 1000,
        recent_share: float = 0.1,
        loss_steps: int = 1,
        patience: int = 100,
        capacity: int = 200_000,
        device: str = "cpu",
        seed: int = 0,
    ) -> None:
        super().__init__(features)
        self.device = _training_device(device)
        for name, value, most in (
            ("members", members, _MAX_MEMBERS),
            ("hidden layers", len(hidden), _MAX_LAYERS - 1),
            *((f"hidden[{i}]", width, _MAX_WIDTH) for i, width in enumerate(hidden)),
        ):
            if not 1 <= value <= most:
                raise ValueError(f"{name} is {value}, expected 1 to {most}")
        for name, value in (
            ("batch_size", batch_size),
            ("steps", steps),
            ("recent", recent),
            ("loss_steps", loss_steps),
            ("patience", patience),
            ("capacity", capacity),
        ):
            if value < 1:
                raise ValueError(f"{name} is {value}, expected at least 1")
        for name, share in (
            ("learning_rate", learning_rate),
            ("weight_decay", weight_decay),
            ("recent_share", recent_share),
        ):
            if not 0.0 <= share <= 1.0:
                raise ValueError(f"{name} is {share}, expected 0 to 1")
        self.batch_size, self.steps, self.loss_steps = batch_size, steps, loss_steps
        self.learning_rate, self.weight_decay = learning_rate, weight_decay
        self.recent, self.recent_share = recent, recent_share
        self.patience, self.capacity = patience, capacity
        self._generator = torch.Generator().manual_seed(seed)
        self._inputs, self._targets = Moments.none(features.size), Moments.none(features.outputs)
        # On the predicted variance; wide while nothing is known.
        self._noise_factor = torch.full((features.outputs,), _IGNORANT).double()
        self._persistence = torch.zeros(features.outputs).double()  # of noise, step to step
        self._take_over(self._initial_weights(members, hidden))

    @property
    def members(self) -> int:
        """M."""
        return len(self._best["weight_0"])

    @property
    def _layers(self) -> int:
        return sum(name.startswith("weight_") for name in self._best)

    def _initial_weights(self, members: int, hidden: Sequence[int]) -> Weights:
        """Return weights that predict the mean change and the widest variance."""
        outputs = self.features.outputs
        sizes = (self.features.size, *hidden, outputs * (2 if self.probabilistic else 1))
        weights = {}
        for i, (before, after) in enumerate(pairwise(sizes)):
            matrix = torch.zeros(members, before, after)
            if i < len(hidden):
                matrix.normal_(0.0, before**-0.5, generator=self._generator)
            weights[f"weight_{i}"] = matrix
            weights[f"bias_{i}"] = torch.zeros(members, 1, after)
        if self.probabilistic:
            for name, bound in zip(("lower", "upper"), _LOG_VARIANCE_BOUNDS, strict=True):
                weights[f"{name}_log_variance"] = torch.full((members, 1, outputs), bound)
        return weights

    def _take_over(self, weights: Weights) -> None:
        """Predict from these weights and train them further, with nothing remembered."""
        self._best = {name: tensor.clone() for name, tensor in weights.items()}
        self._kept: dict[tuple[str, int, str, str], Particles] = {}  # until predictions change
        # The output layer's weights are zero until the first step.
        self._trained = bool(weights[f"weight_{self._layers - 1}"].any())
        self._start_training(weights)
        self._training, self._held_out = self._empty_replays()
        self._seen = 0  # transitions shared out between the two
        self._stale = 0  # slices without progress
        self._trial: _Trial | None = None

    def _start_training(self, weights: Weights) -> None:
        """Train from these weights on; predictions stay until that has led to better ones."""
        there = {name: tensor.to(self.device) for name, tensor in weights.items()}
        self._average = {name: tensor.clone() for name, tensor in there.items()}
        self._weights = {n: tensor.clone().requires_grad_() for n, tensor in there.items()}
        decayed = [t for name, t in self._weights.items() if name.startswith("weight_")]
        others = [t for name, t in self._weights.items() if not name.startswith("weight_")]
        groups: list[dict[str, Any]] = [
            {"params": decayed, "weight_decay": self.weight_decay},
            {"params": others, "weight_decay": 0.0},
        ]
        self._optimiser = torch.optim.AdamW(groups, lr=self.learning_rate, fused=True)
        self._steps_taken = 0
        self._start_scales = self._scales()

    def _scales(self) -> Tensor:
        """Return the normalisers' scales, (F + D + R,)."""
        return torch.cat([self._inputs.normaliser().scale, self._targets.normaliser().scale])

    # -- learning ---------------------------------------------------------------------------

    def update(self, new: Transitions) -> None:
        """Remember new experience; of ten blocks of ten steps, one is held out.

        The normalisers follow the data, and the weights are expressed in the new ones, so that
        predictions stay as they were. (Where these change much, networks are trained afresh, to
        take over once they are better.) Raises ValueError, leaving the model as it was, if a
        value is not finite or too large, or the number of rewards is wrong.
        """
        if not new.isfinite():
            raise ValueError("transitions hold a value that is not finite")
        if new.rewards.shape[-1] != self.features.rewards:
            raise ValueError(
                f"transitions have {new.rewards.shape[-1]} rewards, "
                f"expected {self.features.rewards}"
            )
        if len(new) == 0:
            return
        values = self.features.inputs(new.states, new.actions)
        changes = self.features.deltas(new.states, new.next_states)
        targets = torch.cat([changes, new.rewards], -1)
        inputs = self._inputs.merged(self.transitions, values)
        outputs = self._targets.merged(self.transitions, targets)
        if not (inputs.variance.isfinite().all() and outputs.variance.isfinite().all()):
            raise ValueError("transitions hold values too large to take their variance")
        self._renormalise(inputs, outputs)
        self._remember(new, targets)
        self.transitions += len(new)

    def _remember(self, new: Transitions, targets: Tensor) -> None:
        """Share transitions out between training and held-out data."""
        blocks = torch.arange(self._seen, self._seen + len(new)) // _HELD_OUT_BLOCK
        held_out = blocks % _HELD_OUT_EVERY == _HELD_OUT_PHASE
        for replay, chosen in ((self._training, ~held_out), (self._held_out, held_out)):
            columns = [column[chosen] for column in (new.states, new.actions, targets)]
            replay.append(columns, new.next_states[chosen], self._generator)
        self._seen += len(new)
        self._stale, self._trial = 0, None

    def remembered(self) -> Transitions:
        """Return what it trains on, then what is held out."""
        size, parts = self.features.state_dimensions, []
        for replay in (self._training, self._held_out):
            states, actions, targets = replay.columns(replay.newest(len(replay)))
            parts.append(
                Transitions(states, actions, states + targets[:, :size], targets[:, size:])
            )
        return parts[0] + parts[1]

    @torch.no_grad()
    def relearn(
        self, known: Transitions, new: Transitions, actions: ActionMap, doubtful: bool = False
    ) -> bool:
        """Train on these alone, from networks that see each action as the old one it is now."""
        known = known + new
        changes = self.features.deltas(known.states, known.next_states)
        self._training, self._held_out = self._empty_replays()
        self._seen = 0
        self._remember(known, torch.cat([changes, known.rewards], -1))
        # Normalised inputs, as rows, times `matrix`, plus `shift`, are those of the old world.
        inputs, count = self._inputs.normaliser(), self.features.action_dimensions
        matrix = torch.eye(self.features.size).double()
        matrix[:, -count:] = torch.cat([actions.feedback, actions.gain], 1).T
        shift = torch.zeros(self.features.size).double()
        shift[-count:] = actions.offset
        shift = (inputs.mean @ matrix + shift - inputs.mean) / inputs.scale
        matrix = inputs.scale[:, None] * matrix / inputs.scale
        # A snapshot that was taken keeps what it has.
        self._best = {name: tensor.clone() for name, tensor in self._best.items()}
        for weights in (self._weights, self._average, self._best):
            first = weights["weight_0"].cpu().double()
            weights["bias_0"] += (shift @ first)[:, None].to(weights["bias_0"].device)
            weights["weight_0"].copy_(matrix @ first)
        self._kept = {}
        return True

    def _empty_replays(self) -> tuple[Replay, Replay]:
        features = self.features
        widths = (features.state_dimensions, features.action_dimensions, features.outputs)
        return (
            Replay(widths, self.capacity, self.members),
            Replay(widths, self.capacity // _HELD_OUT_EVERY, 1),
        )

    @torch.no_grad()
    def _renormalise(self, inputs: Moments, targets: Moments) -> None:
        """Take over other normalisers; predictions stay as they are.

        Weights expressed in very different ones are a bad place to train from: what was learned
        at rest, with tiny scales, has enormous weights in motion. Training then starts anew.
        """
        old_x, new_x = self._inputs.normaliser(), inputs.normaliser()
        old_y, new_y = self._targets.normaliser(), targets.normaliser()
        self._inputs, self._targets, self._kept = inputs, targets, {}
        last, size = self._layers - 1, self.features.outputs
        if not self._trained:
            # All weights of the output layer are zero: predict no change.
            self._best[f"bias_{last}"][..., :size] = (-new_y.mean / new_y.scale).float()
            self._start_scales = self._scales()
            return
        gain, shift = new_x.scale / old_x.scale, (new_x.mean - old_x.mean) / old_x.scale
        ratio, moved = old_y.scale / new_y.scale, (old_y.mean - new_y.mean) / new_y.scale
        widened = 2.0 * ratio.log()
        # A snapshot that was taken keeps what it has.
        self._best = {name: tensor.clone() for name, tensor in self._best.items()}
        for weights in (self._weights, self._average, self._best):
            first, bias = weights["weight_0"].cpu().double(), weights[f"bias_{last}"]
            factor, offset, wider = (x.to(bias.device) for x in (ratio, moved, widened))
            weights["bias_0"] += (shift @ first)[:, None].to(bias.device)
            weights["weight_0"].copy_(gain[:, None] * first)
            weights[f"weight_{last}"][..., :size] *= factor
            bias[..., :size] = bias[..., :size] * factor + offset
            if self.probabilistic:
                bias[..., size:] += wider
                weights["lower_log_variance"] += wider
                weights["upper_log_variance"] += wider
        if not self.probabilistic:
            self._noise_factor = self._noise_factor * ratio.square()
        if (self._scales() / self._start_scales).log().abs().max() > math.log(_MOST_RESCALED):
            hidden = [self._best[f"bias_{i}"].shape[-1] for i in range(last)]
            self._start_training(self._initial_weights(self.members, hidden))

    def improve(self) -> bool:
        """Take `steps` training steps from where the last slice ended, then judge the result.

        Returns False once held-out data has not been predicted better for `patience` slices and
        nothing new has come. Then, and if training has diverged, it goes on from the best weights.
        """
        if self._stale >= self.patience or len(self._training) == 0:
            return False
        for _ in range(self.steps):
            self._step()
        self._stale += 1
        if all(bool(tensor.isfinite().all()) for tensor in self._average.values()):
            self._judge()
        else:
            self._continue_from_best()
            self._optimiser.state.clear()
        if self._stale < self.patience:
            return True
        self._continue_from_best()
        return False

    @torch.no_grad()
    def _continue_from_best(self) -> None:
        for weights in (self._weights, self._average):
            for name, tensor in weights.items():
                tensor.copy_(self._best[name])

    def _step(self) -> None:
        self._optimiser.zero_grad(set_to_none=False)
        self._loss().backward()
        self._optimiser.step()
        self._steps_taken += 1
        # A young average forgets its random beginning sooner.
        keep = min(_AVERAGING, self._steps_taken / (10.0 + self._steps_taken))
        with torch.no_grad():
            torch._foreach_lerp_(
                list(self._average.values()), list(self._weights.values()), 1.0 - keep
            )
        self._trained = True

    def _loss(self) -> Tensor:
        """Loss of a minibatch: negative log likelihood, summed over the members.

        Of later steps of `loss_steps` it is the squared error of trajectories that start from
        the first step's prediction, in its standard deviations.
        """
        replay, size = self._training, self.features.state_dimensions
        count = min(self.batch_size, len(replay))
        slots = replay.draw(count, self.recent, self.recent_share, self._generator)
        states, actions, targets = replay.columns(slots)
        x, y = self._normal_inputs(states, actions), self._normal_targets(targets)
        mean, log_variance = self._forward(self._weights, x.to(self.device))
        error = mean - y.to(self.device)
        squared, weight = error.square(), torch.ones((), device=self.device)
        loss = squared.mean()
        if log_variance is not None:
            precision, emphasis = torch.exp(-log_variance), torch.exp(_BETA * log_variance)
            weight = (precision * emphasis).detach()
            loss = (emphasis.detach() * (squared * precision + log_variance)).mean()
            bounds = self._weights["upper_log_variance"] - self._weights["lower_log_variance"]
            loss = loss + 2.0 * _BOUNDS_WEIGHT * bounds.mean()
        scale = self._targets.normaliser().scale[:size].float()
        together = torch.ones(slots.shape, dtype=torch.bool)
        for _ in range(self.loss_steps - 1):
            slots, follows = replay.after(slots)
            together = together & follows
            states, actions, targets = replay.columns(slots)
            astray = error[..., :size]  # of the predicted state, normalised as its change
            x = self._normal_inputs(states + astray.cpu() * scale, actions)
            y = self._normal_targets(targets).to(self.device)
            error = self._forward(self._weights, x.to(self.device))[0] - y
            error = torch.cat([error[..., :size] + astray, error[..., size:]], -1)
            counted = weight * together[..., None].to(self.device)
            loss = loss + (error.square() * counted).mean()
        return 0.5 * self.members * loss

    def _normal_inputs(self, states: Tensor, actions: Tensor) -> Tensor:
        features = self.features.inputs(states, actions).double()
        return self._inputs.normaliser().normalise(features).float()

    def _normal_targets(self, targets: Tensor) -> Tensor:
        return self._targets.normaliser().normalise(targets).float()

    def _forward(self, weights: Mapping[str, Tensor], x: Tensor) -> tuple[Tensor, Tensor | None]:
        """Normalised inputs (M, N, F) -> normalised mean and log variance (M, N, D + R)."""
        last = self._layers - 1
        for i in range(last):
            x = silu(torch.baddbmm(weights[f"bias_{i}"], x, weights[f"weight_{i}"]))
        x = torch.baddbmm(weights[f"bias_{last}"], x, weights[f"weight_{last}"])
        if not self.probabilistic:
            return x, None
        mean, raw = x.chunk(2, -1)
        lower, upper = weights["lower_log_variance"], weights["upper_log_variance"]
        return mean, bounded_log_variance(raw, lower, upper)

    # -- judging by held-out data -----------------------------------------------------------

    @torch.no_grad()
    def _judge(self) -> None:
        """Let each member predict from its average if that predicts held-out data better."""
        self._kept = {}
        average = {name: tensor.to("cpu", copy=True) for name, tensor in self._average.items()}
        if len(self._held_out) == 0:
            self._best = average
            self._noise_factor = torch.ones_like(self._noise_factor)
            return
        if self._trial is None:
            self._trial = self._new_trial()
        trial = self._trial
        there = self._members(self._average, trial.inputs.to(self.device))
        mean, variance = (moment.cpu() for moment in there)
        loss = _held_out_loss(mean, trial.targets)
        better = loss < trial.loss
        self._best = {
            name: torch.where(better[:, None, None], average[name], tensor)
            for name, tensor in self._best.items()
        }
        trial.mean[better], trial.variance[better] = mean[better], variance[better]
        trial.loss[better] = loss[better]
        error, noise = trial.mean.mean(0) - trial.targets, trial.variance.mean(0)
        unknown = trial.mean.var(0, correction=0)
        self._noise_factor = noise_factor(error, unknown, noise, _HELD_OUT_BLOCK)
        variance = unknown + self._noise_factor * noise
        self._persistence = noise_persistence(error, variance, trial.pairs)
        if float(trial.loss.mean()) < trial.goal:
            self._stale, trial.goal = 0, float(trial.loss.mean()) - _PROGRESS

    def _new_trial(self) -> _Trial:
        """Choose held-out rows, a share of them the newest, and judge the best weights.

        Whole blocks of consecutive steps, to see how errors persist.
        """
        replay = self._held_out
        slots = replay.newest(_HELD_OUT_ROWS)
        if len(replay) > _HELD_OUT_ROWS:
            newest = round(self.recent_share * _HELD_OUT_ROWS)
            blocks = (_HELD_OUT_ROWS - newest) // _HELD_OUT_BLOCK
            starts = torch.randint(len(replay), (blocks, 1), generator=self._generator)
            others = (starts + torch.arange(_HELD_OUT_BLOCK)) % len(replay)
            slots = torch.cat([slots[_HELD_OUT_ROWS - newest :], others.reshape(-1)])
        after, follows = replay.after(slots[:-1])
        states, actions, targets = replay.columns(slots)
        inputs, targets = self._normal_inputs(states, actions), self._normal_targets(targets)
        mean, variance = self._members(self._best, inputs)
        loss = _held_out_loss(mean, targets)
        goal = float(loss.mean()) - _PROGRESS
        return _Trial(inputs, targets, follows & (after == slots[1:]), mean, variance, loss, goal)

    def _members(self, weights: Mapping[str, Tensor], x: Tensor) -> tuple[Tensor, Tensor]:
        """Normalised inputs (N, F) -> each member's mean and variance (M, N, D + R)."""
        mean, log_variance = self._forward(weights, x.expand(self.members, -1, -1))
        return mean, torch.ones_like(mean) if log_variance is None else log_variance.exp()

    # -- prediction -------------------------------------------------------------------------

    def outputs(self, states: Tensor, actions: Tensor) -> tuple[Tensor, Tensor]:
        """Predict one step by the moments of the mixture of members; differentiable."""
        mean, variance = self._members(self._best, self._normal_inputs(states, actions))
        noise = self.widening * self._noise_factor * variance.mean(0)
        variance = mean.var(0, correction=0) + noise
        targets = self._targets.normaliser()
        return (
            targets.restore(mean.mean(0).double()).to(states.dtype),
            (variance * targets.scale.square()).to(states.dtype),
        )

    def novelty(self, states: Tensor, actions: Tensor) -> Tensor:
        """Return what the members' disagreement promises; see DynamicsModel.novelty."""
        size = self.features.state_dimensions
        mean, variance = self._members(self._best, self._normal_inputs(states, actions))
        unknown = mean[..., :size].var(0, correction=0)
        noise = self._noise_factor[:size].float() * variance[..., :size].mean(0)
        return 0.5 * torch.log1p(unknown / noise).sum(-1).to(states.dtype)

    def engines(self, propagation: str) -> tuple[str, ...]:
        """Return `compile` and `cuda`; see DynamicsModel.engines."""
        return ("compile", "cuda")

    def stepper(
        self, propagation: str, count: int, generator: torch.Generator | None = None
    ) -> Step:
        """Return the step of `count` particles; see `Particles` for who moves which."""
        return self._particles(propagation, count).stepper(generator)

    def rollout(
        self,
        states: Tensor,
        actions: Tensor,
        propagation: str = "mean",
        generator: torch.Generator | None = None,
        precision: str = "float32",
        engine: str = "eager",
    ) -> Tensor:
        """Predict trajectories without gradients; `bfloat16` is for the hidden layers only."""
        particles = self._particles(propagation, len(states), precision, engine)
        return particles.rollout(states, actions, generator)

    def _particles(
        self, propagation: str, count: int, precision: str = "float32", engine: str = "eager"
    ) -> Particles:
        """Return what moves so many particles, made once and kept until something is learned."""
        if propagation not in PROPAGATIONS:
            known = ", ".join(PROPAGATIONS)
            raise ValueError(f"unknown propagation '{propagation}'; expected one of {known}")
        key = (propagation, count, precision, engine)
        if key not in self._kept:
            if len(self._kept) >= _KEPT:
                self._kept = {}
            self._kept[key] = Particles(self.features, self.folded(), *key)
        return self._kept[key]

    def folded(self) -> FoldedNetworks:
        """Return the best weights with the normalisers folded in."""
        inputs, targets = self._inputs.normaliser(), self._targets.normaliser()
        weights = [self._best[f"weight_{i}"] for i in range(self._layers)]
        biases = [self._best[f"bias_{i}"] for i in range(self._layers)]
        first = weights[0].double() / inputs.scale[:, None]
        biases[0] = (biases[0].double() - (inputs.mean @ first)[:, None]).float()
        weights[0] = first.float()
        size, outputs = self.features.state_dimensions, self.features.outputs
        scale = targets.scale[:size]
        mean_weight = (weights[-1][..., :size] * scale).float()
        mean_bias = (biases[-1][..., :size] * scale + targets.mean[:size]).float()
        noise = slice(outputs, outputs + size)  # nothing where no variance is predicted
        weights[-1] = torch.cat([mean_weight, weights[-1][..., noise]], -1)
        biases[-1] = torch.cat([mean_bias, biases[-1][..., noise]], -1)
        bounds = None
        if self.probabilistic:
            lower, upper = self._best["lower_log_variance"], self._best["upper_log_variance"]
            bounds = lower[..., :size], upper[..., :size]
        noise_scale = ((self.widening * self._noise_factor[:size]).sqrt() * scale).float()
        persistence = self._persistence[:size].float()
        return FoldedNetworks(weights, biases, noise_scale, persistence, bounds)

    # -- snapshots --------------------------------------------------------------------------

    def snapshot(self) -> dict[str, Tensor]:
        """Return what predictions rest on; not the experience, nor how training stands."""
        return self._best | self._statistics()

    def _statistics(self) -> dict[str, Tensor]:
        return {
            "input_mean": self._inputs.mean,
            "input_variance": self._inputs.variance,
            "target_mean": self._targets.mean,
            "target_variance": self._targets.variance,
            "noise_factor": self._noise_factor,
            "noise_persistence": self._persistence,
        }

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Take over a snapshot, with as many networks of such sizes as it holds.

        Training goes on from these weights, with what `update` brings from now on.
        """
        expected = {n: (list(t.shape), torch.float64) for n, t in self._statistics().items()}
        expected |= {n: (shape, torch.float32) for n, shape in self._shapes(tensors).items()}
        if set(tensors) != set(expected):
            raise ValueError(f"holds {sorted(tensors)}, expected {sorted(expected)}")
        for name, (shape, dtype) in expected.items():
            found = tensors[name]
            if list(found.shape) != shape or found.dtype != dtype:
                raise ValueError(
                    f"'{name}' is {found.dtype} {list(found.shape)}, expected {dtype} {shape}"
                )
            if not found.isfinite().all():
                raise ValueError(f"'{name}' holds a value that is not finite")
            if name in ("input_variance", "target_variance") and (found < 0.0).any():
                raise ValueError(f"'{name}' holds a value that is negative")
            if name == "noise_factor" and not (found > 0.0).all():
                raise ValueError(f"'{name}' holds a value that is not positive")
            if name == "noise_persistence" and not ((found >= 0.0) & (found < 1.0)).all():
                raise ValueError(f"'{name}' holds a value that is not in [0, 1)")
        copies = {name: tensor.clone() for name, tensor in tensors.items()}
        self._inputs = Moments(copies.pop("input_mean"), copies.pop("input_variance"))
        self._targets = Moments(copies.pop("target_mean"), copies.pop("target_variance"))
        self._noise_factor = copies.pop("noise_factor")
        self._persistence = copies.pop("noise_persistence")
        self._take_over(copies)

    def _shapes(self, tensors: Mapping[str, Tensor]) -> dict[str, list[int]]:
        """Return the shapes of all weights, given how many and how wide a snapshot has them."""
        layers = sum(name.startswith("weight_") for name in tensors)
        matrices = [tensors.get(f"weight_{i}") for i in range(layers)]
        sizes = [list(m.shape) for m in matrices if m is not None and m.ndim == 3]
        most = _MAX_MEMBERS if self.probabilistic else 1
        if not 2 <= len(sizes) == layers <= _MAX_LAYERS or not 1 <= sizes[0][0] <= most:
            raise ValueError(
                f"holds {layers} layers, the first of shape {sizes[0] if sizes else None}; "
                f"expected 2 to {_MAX_LAYERS} of shape [members, in, out], members 1 to {most}"
            )
        members, outputs = sizes[0][0], self.features.outputs
        widths = [self.features.size, *(size[2] for size in sizes[:-1])]
        if not all(1 <= width <= _MAX_WIDTH for width in widths[1:]):
            raise ValueError(f"holds layers of {widths[1:]} units, expected 1 to {_MAX_WIDTH}")
        widths.append(outputs * (2 if self.probabilistic else 1))
        shapes: dict[str, list[int]] = {}
        for i in range(layers):
            shapes[f"weight_{i}"] = [members, widths[i], widths[i + 1]]
            shapes[f"bias_{i}"] = [members, 1, widths[i + 1]]
        if self.probabilistic:
            shapes["lower_log_variance"] = shapes["upper_log_variance"] = [members, 1, outputs]
        return shapes


class MLP(Ensemble):
    """One network trained on squared error; its variance is that of held-out residuals.

    Options are those of `Ensemble`, without `members`.
    """

    kind = "mlp"
    planning_propagation = "mean"
    probabilistic = False

    def __init__(self, features: FeatureMap, seed: int = 0, **options: Any) -> None:
        super().__init__(features, members=1, seed=seed, **options)

    def novelty(self, states: Tensor, actions: Tensor) -> Tensor:
        """Refuse: nobody disagrees with a single network."""
        return DynamicsModel.novelty(self, states, actions)


@dataclass
class _Trial:
    """Held-out rows, and how the best weights predict them.

    inputs (N, F), targets (N, K), both normalised; pairs (N - 1,): whether a row's successor is
    the next step; mean, variance (M, N, K) and loss (M,) of
    each member's best; goal: the average loss that counts as progress.
    """

    inputs: Tensor
    targets: Tensor
    pairs: Tensor
    mean: Tensor
    variance: Tensor
    loss: Tensor
    goal: float


def _training_device(name: str) -> torch.device:
    """Raise ValueError if there is no such device."""
    if name not in DEVICES:
        raise ValueError(f"device is '{name}', expected {', '.join(DEVICES)}")
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda" and not torch.cuda.is_available():
        raise ValueError(
            "device is 'cuda', but PyTorch finds no GPU here; use 'cpu', or install a PyTorch "
            "with CUDA and a driver"
        )
    return torch.device(name)


def _held_out_loss(mean: Tensor, targets: Tensor) -> Tensor:
    """Half the logarithm of each member's squared error, averaged over the outputs: (M,).

    mean (M, N, K), targets (N, K). Not the likelihood: the variance over-fits long before the
    mean is as good as it gets, and it is put right by `_noise_factor`.
    """
    return 0.5 * (mean - targets).square().mean(1).clamp_min(1e-12).log().mean(-1)
