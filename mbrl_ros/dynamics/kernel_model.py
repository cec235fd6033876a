# Copyright 2026 The mbrl_ros authors
# SPDX-License-Identifier: Apache-2.0
"""What Gaussian-process models share: data, hyper-parameters, fast prediction, snapshots.

K is the number of outputs, F of inputs, n of points that predictions rest on. Everything lives
in normalised space: inputs and targets (changes of state, rewards) have unit variance over the
data. Numbers of equations refer to Rasmussen and Williams, "Gaussian Processes for Machine
Learning" (2006).
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mbrl_ros.dynamics.action_map import ActionMap
from mbrl_ros.dynamics.calibration import (
    PersistentNoise,
    noise_factor,
    noise_persistence,
)
from mbrl_ros.dynamics.compact_mean import CompactMean, MeanRollout
from mbrl_ros.dynamics.features import FeatureMap
from mbrl_ros.dynamics.hyperparameters import Hyperparameters
from mbrl_ros.dynamics.log_kernel import KernelInputs, log_kernel
from mbrl_ros.dynamics.model import PROPAGATIONS, DynamicsModel, Step, Transitions
from mbrl_ros.dynamics.normaliser import Normaliser
from mbrl_ros.dynamics.posterior import Posterior

# Functions that `pathwise` draws at most, and the random features of each one's prior.
_FUNCTIONS = 16
_RANDOM_FEATURES = 512
# Numbers of rows that buffers are kept for: a planner's samples, one for delay compensation, ...
_FAST_SIZES = 4
# Slices of training after which nothing is expected of more, if nothing new has come.
_PATIENCE = 10
# The newest transitions by whose errors the noise is judged.
_JUDGED = 1000
# Change of a logarithm in one slice below which a hyper-parameter counts as found.
_FOUND = 0.02
# Inputs whose kernel is held as a whole while points are chosen, which is several times as fast.
_HELD_WHOLE = 1000
# New transitions that tell scales, and noise above all, well enough to begin with.
_TELLING = 60
# Tensors of a snapshot that must be.
_POSITIVE = ("input_scale", "target_scale", "noise_factor")
# Tensors of a snapshot that grow with the data: along which axes, and as long as which other.
_COUNTED: dict[str, tuple[tuple[int, ...], str]] = {
    "inputs": ((0,), "inputs"),
    "targets": ((0,), "inputs"),
    "weights": ((1,), "inputs"),
    "memory_states": ((0,), "memory_states"),
    "memory_actions": ((0,), "memory_states"),
    "memory_next_states": ((0,), "memory_states"),
    "memory_rewards": ((0,), "memory_states"),
}


class KernelModel(DynamicsModel):
    """K independent Gaussian processes over the same inputs.

    max_points: how many points predictions rest on. memory: how many transitions are
    remembered. fit_points, fit_steps: size of the subset, half of it random, and number of Adam
    steps that one `improve` spends on the hyper-parameters. seed: of that subset.
    """

    def __init__(
        self,
        features: FeatureMap,
        max_points: int,
        memory: int,
        fit_points: int,
        fit_steps: int,
        seed: int,
    ) -> None:
        super().__init__(features)
        for name, value in (("max_points", max_points), ("fit_points", fit_points)):
            if value < 2:
                raise ValueError(f"{name} is {value}, expected 2 or more")
        self.max_points = max_points
        self.memory = memory
        self.fit_points = fit_points
        self.fit_steps = fit_steps
        self._generator = torch.Generator().manual_seed(seed)
        self._memory = Transitions.empty(features)
        self._newest: list[Transitions] = []  # remembered as well
        self._hyperparameters = Hyperparameters.prior(features.outputs, features.size)
        self._fitted = False
        self._slices = 0  # of training since something new came
        self._input = Normaliser.identity(features.size)
        self._target = Normaliser.identity(features.outputs)
        self._inputs = torch.zeros(0, features.size).double()
        self._targets = torch.zeros(0, features.outputs).double()
        # Alpha of eq. 2.25; None: to be made when somebody predicts.
        self._made_weights: Tensor | None = torch.zeros(features.outputs, 0).double()
        # How the noise that was fitted is put right by what was held out.
        self._noise_factor = torch.ones(features.outputs).double()
        self._persistence = torch.zeros(features.outputs).double()
        self._forget_made()

    # -- learning ---------------------------------------------------------------------------

    def update(self, new: Transitions) -> None:
        """Condition on new experience as well, with the hyper-parameters that there are."""
        new.check_finite()
        if len(new) == 0:
            return
        before = dict(vars(self))  # tensors are replaced by learning, never written into
        try:
            if len(self._inputs) and self._extend(new):
                self._newest = [*self._newest, new]
            else:
                self._rebuild(self._remembering(new), steps=0)
        except Exception:
            vars(self).update(before)
            raise
        self.transitions += len(new)
        self._slices = 0
        self._forget_made()

    def improve(self) -> bool:
        """Fit the hyper-parameters a little further; choose the points again."""
        if self._remembered_count < 2:
            return False
        before = dict(vars(self))
        try:
            # A model that knows nothing yet takes more steps to find its scales.
            steps = self.fit_steps if self._fitted else 5 * self.fit_steps
            moved = self._rebuild(self._remembering(), steps)
        except Exception:
            vars(self).update(before)
            raise
        self._fitted = True
        self._slices += 1
        self._forget_made()
        return moved > _FOUND and self._slices < _PATIENCE

    def remembered(self) -> Transitions:
        """Return the transitions that it still learns from."""
        return self._remembering()

    def relearn(
        self, known: Transitions, new: Transitions, actions: ActionMap, doubtful: bool = False
    ) -> bool:
        """Condition on these alone, with hyper-parameters that suit `new`, if there is any.

        These are sought from the priors on, in `new` only, for `improve` to go on from: with the
        noise of a simulation, which has none, real steps next to those of before would have to be
        explained by ever shorter length scales. Of what is doubtful no more is kept than makes
        half of the points, spread over all of it, which also leaves training less to do.
        """
        before = dict(vars(self))
        try:
            if len(new) > 1:
                self._forget_scales()
                spread = torch.linspace(0, len(new) - 1, min(len(new), _TELLING)).long()
                self._rebuild(new[spread], 5 * self.fit_steps)
                self._fitted = True
            half = self.max_points // 2
            if doubtful and len(known) > half:
                known = known[_spread(self._normalised(known)[0], half).sort().values]
            self._rebuild(known + new, steps=0)
        except Exception:
            vars(self).update(before)
            raise
        self._slices = 0
        self._forget_made()
        return True

    def _forget_made(self) -> None:
        """Forget what has been made for predictions of what was known before."""
        self._fast: dict[int, _FastKernel] = {}  # by number of rows
        self._inverses: list[tuple[float, Tensor]] | None = None  # of the factors
        self._compact: CompactMean | None = None
        self._rollouts: dict[tuple[int, str], MeanRollout] = {}  # by number of rows and device

    def _forget_scales(self) -> None:
        """Go back to the priors of the hyper-parameters, in the units of what comes next."""
        self._hyperparameters = Hyperparameters.prior(self.features.outputs, self.features.size)
        self._inputs, self._targets = self._inputs[:0], self._targets[:0]

    def _rebuild(self, data: Transitions, steps: int) -> float:
        """Normalise and choose anew, after `steps` of fitting; return how far those went."""
        self._memory, self._newest = data, []
        if len(data) < 2:
            return 0.0  # too few to tell their scale
        inputs, targets = self._examples(data)
        old_input, old_target = self._input, self._target
        self._input, self._target = Normaliser.of(inputs), Normaliser.of(targets)
        if len(self._inputs):
            # The same functions in the new units: what is predicted does not jump.
            self._hyperparameters = self._hyperparameters.rescaled(
                self._input.scale / old_input.scale, self._target.scale / old_target.scale
            )
        inputs, targets = self._normalised(data)
        moved = 0.0
        if steps:
            subset = self._subset(inputs)
            fitted = self._hyperparameters.fitted(inputs[subset], targets[subset], steps)
            moved = self._hyperparameters.distance(fitted)
            self._hyperparameters = fitted
        # Not at every step, because choosing costs more than a few points too many.
        if len(data) > 1.25 * self.memory:
            kept = self._remembered(inputs)
            self._memory, inputs, targets = data[kept], inputs[kept], targets[kept]
        chosen = self._condition(inputs, targets)
        newest = slice(max(len(inputs) - _JUDGED, 0), None)
        self._calibrate(
            self._memory[newest], inputs[newest], targets[newest], chosen - newest.start
        )
        return moved

    def _subset(self, inputs: Tensor) -> Tensor:
        """Choose which of inputs (N, F) hyper-parameters are fitted to, `fit_points` at most.

        One half is spread over all of them, because by chance alone nearly all would be of what
        the robot does most, and scales found while it hardly moves do not fit larger motions.
        """
        count = len(inputs)
        if count <= self.fit_points:
            return torch.arange(count)
        spread = _spread(inputs, self.fit_points // 2)
        others = torch.ones(count, dtype=torch.bool)
        others[spread] = False
        shuffled = torch.randperm(count, generator=self._generator)
        return torch.cat([spread, shuffled[others[shuffled]]])[: self.fit_points]

    def _calibrate(
        self, data: Transitions, inputs: Tensor, targets: Tensor, chosen: Tensor
    ) -> None:
        """Scale the noise, and say how it persists, by errors on consecutive rows of data.

        chosen: which rows predictions rest on; rows before the first are negative.
        """
        error, unknown = self._held_out_errors(inputs, targets, chosen)
        noise = self._hyperparameters.noise.expand_as(error)
        self._noise_factor = noise_factor(error, unknown, noise)
        pairs = (data.next_states[:-1] == data.states[1:]).all(1)
        variance = unknown + self._noise_factor * noise
        self._persistence = noise_persistence(error, variance, pairs)

    def _held_out_errors(
        self, inputs: Tensor, targets: Tensor, chosen: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return errors at inputs (N, F), and the variance of what is not known there, (N, K)."""
        mean, unknown = self._predict(inputs)
        return mean.T - targets, unknown.T

    @property
    def _noise(self) -> Tensor:
        """Variance of the noise, put right, (K,)."""
        return self._hyperparameters.noise * self._noise_factor * self.widening

    def _remembering(self, *more: Transitions) -> Transitions:
        """Return all that is remembered, and more."""
        data = self._memory
        for new in (*self._newest, *more):
            data = data + new
        return data

    @property
    def _remembered_count(self) -> int:
        return len(self._memory) + sum(len(new) for new in self._newest)

    def _examples(self, data: Transitions) -> tuple[Tensor, Tensor]:
        """Return inputs (N, F) and targets (N, K) as they are."""
        changes = self.features.deltas(data.states, data.next_states)
        inputs = self.features.inputs(data.states, data.actions)
        targets = torch.cat([changes, data.rewards], dim=1) if data.rewards.shape[1] else changes
        return inputs.double(), targets.double()

    def _normalised(self, data: Transitions) -> tuple[Tensor, Tensor]:
        inputs, targets = self._examples(data)
        return self._input.normalise(inputs), self._target.normalise(targets)

    @abstractmethod
    def _extend(self, new: Transitions) -> bool:
        """Take new transitions in without starting again; return False where that is due."""

    @property
    def _weights(self) -> Tensor:
        """Weights (K, n) of the kernel at the points in the mean."""
        if self._made_weights is None:
            self._made_weights = self._make_weights()
        return self._made_weights

    @abstractmethod
    def _make_weights(self) -> Tensor:
        """Return the weights (K, n)."""

    @abstractmethod
    def _condition(self, inputs: Tensor, targets: Tensor) -> Tensor:
        """Make predictions rest on normalised inputs (N, F) and targets (N, K).

        Returns the indices of the rows that were chosen as points.
        """

    def _remembered(self, inputs: Tensor) -> Tensor:
        """Choose which of too many transitions, by inputs (N, F), are remembered."""
        return self._informative(inputs, self.memory)

    def _informative(self, inputs: Tensor, keep: int) -> Tensor:
        """Choose `keep` of inputs (N, F): greedily the one least explained by the chosen.

        This is pivoted Cholesky of the kernel, averaged over the outputs; it bounds what the
        left-out points could still have told (Foster et al., JMLR 2009).
        """
        count = len(inputs)
        if count <= keep:
            return torch.arange(count)
        column = self._columns(inputs)
        remaining = np.ones(count)
        rows = np.zeros((keep, count))
        chosen = np.zeros(keep, int)
        for i in range(keep):
            pivot = chosen[i] = int(remaining.argmax())
            row = column(pivot) - rows[:i, pivot] @ rows[:i]
            rows[i] = row / math.sqrt(max(remaining[pivot], 1e-12))
            remaining -= np.square(rows[i])
            np.maximum(remaining, 0.0, out=remaining)
            remaining[chosen[: i + 1]] = -1.0
        return torch.from_numpy(np.sort(chosen))

    def _columns(self, inputs: Tensor) -> Callable[[int], NDArray[np.float64]]:
        """Return what gives a column (N,) of the mean correlation of the outputs at inputs."""
        share = 1.0 / (self._hyperparameters.signal * self.features.outputs)
        if len(inputs) > _HELD_WHOLE:
            points, weights = inputs.numpy(), share.numpy()
            return lambda i: weights @ self._hyperparameters.cross(points, points[i])
        kernel = self._hyperparameters.kernel(inputs, inputs)
        whole = torch.tensordot(share, kernel, 1).numpy()
        return lambda i: whole[i]

    # -- prediction -------------------------------------------------------------------------

    def outputs(self, states: Tensor, actions: Tensor) -> tuple[Tensor, Tensor]:
        """Predict one step; the variance includes the noise (eqs. 2.25 and 2.26)."""
        dtype = states.dtype
        inputs = self._input.normalise(self.features.inputs(states, actions).double())
        mean, unknown = self._predict(inputs)
        scaled = (unknown + self._noise[:, None]).T * self._target.scale.square()
        return self._target.restore(mean.T).to(dtype), scaled.to(dtype)

    def _predict(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        """Return mean and variance without noise (K, N) at inputs (N, F), all normalised."""
        hyperparameters = self._hyperparameters
        variance = hyperparameters.signal[:, None].expand(-1, len(inputs))
        mean = torch.zeros_like(variance)
        if len(self._inputs):
            cross = hyperparameters.kernel(self._inputs, inputs)
            mean = (self._weights[:, None, :] @ cross)[:, 0]
            for sign, lower in self._explaining():
                solved = torch.linalg.solve_triangular(lower, cross, upper=False)
                variance = variance - sign * solved.square().sum(1)
        return mean, variance.clamp_min(0.0)

    def predict_mean(self, states: Tensor, actions: Tensor) -> Tensor:
        """Predict one step, its mean only."""
        return states + self._mean(states, actions)[:, : self.features.state_dimensions]

    def linearise(self, states: Tensor, actions: Tensor) -> tuple[Tensor, Tensor]:
        """Return the mean's Jacobians in closed form; see DynamicsModel.linearise."""
        size = self.features.state_dimensions
        inputs = self._input.normalise(self.features.inputs(states, actions).double())
        kernel = self._hyperparameters.kernel(self._inputs, inputs)[:size]
        weighted = (self._weights[:size, :, None] * kernel).mT  # (D, N, n)
        slopes = weighted @ self._inputs - weighted.sum(2)[:, :, None] * inputs
        slopes *= torch.exp(-2.0 * self._hyperparameters.log_lengthscale[:size])[:, None, :]
        slopes *= self._target.scale[:size, None, None] / self._input.scale
        by_state, by_action = self.features.chain(states, slopes.transpose(0, 1))
        by_state.diagonal(dim1=1, dim2=2).add_(1.0)  # what changes is added to the state
        return by_state.to(states.dtype), by_action.to(states.dtype)

    def reward(self, states: Tensor, actions: Tensor) -> Tensor:
        """Predict the reward of one step; see DynamicsModel.reward."""
        if not self.features.rewards:
            return super().reward(states, actions)  # which says why not
        return self._mean(states, actions)[:, -1]

    def novelty(self, states: Tensor, actions: Tensor) -> Tensor:
        """Return the information gain of a step; see DynamicsModel.novelty."""
        size, noise = self.features.state_dimensions, self._noise[:, None]
        if len(self._inputs) == 0 or states.requires_grad or actions.requires_grad:
            inputs = self._input.normalise(self.features.inputs(states, actions).double())
            gain = torch.log1p(self._predict(inputs)[1] / noise)
        else:
            self._fast_kernel(len(states))(states.float(), actions.float())
            gain = torch.log1p(self._unknown(len(states)) / noise[:size].float())
        return 0.5 * gain[:size].sum(0).to(states.dtype)

    def _mean(self, states: Tensor, actions: Tensor) -> Tensor:
        """Return the mean outputs (N, K)."""
        inputs = self._input.normalise(self.features.inputs(states, actions).double())
        mean = torch.zeros(len(self._weights), len(inputs), dtype=torch.float64)
        if len(self._inputs):
            cross = self._hyperparameters.kernel(self._inputs, inputs)
            mean = (self._weights[:, None, :] @ cross)[:, 0]
        return self._target.restore(mean.T).to(states.dtype)

    @abstractmethod
    def _explaining(self) -> list[tuple[float, Tensor]]:
        """Return signs and lower factors L (K, n, n) of the variance that the points explain.

        It is the sum of sign * |L^-1 k|^2, k being the kernel at the points (eq. 2.26).
        """

    @abstractmethod
    def _function_weights(self, prior: Tensor, generator: torch.Generator | None) -> Tensor:
        """Turn P functions drawn from the prior, (K, n, P) at the points, into posterior ones.

        Returns the weights (K, n, P) of the kernel at the points that are to be added to them
        (Matheron's rule; Wilson et al., JMLR 2021, eq. 11).
        """

    def posterior(self) -> Posterior:
        """Return what predictions rest on, for those who compute with it themselves."""
        inverses = [(sign, torch.cholesky_inverse(lower)) for sign, lower in self._explaining()]
        explaining = torch.stack([sign * inverse for sign, inverse in inverses]).sum(0)
        return replace(self.mean_posterior(), explaining=explaining)

    def mean_posterior(self) -> Posterior:
        """Return the same without what only the variance needs: `explaining` is empty."""
        return Posterior(
            self._input,
            self._target,
            self._inputs,
            self._weights,
            torch.zeros(0),
            self._hyperparameters,
            self._noise,
        )

    def engines(self, propagation: str) -> tuple[str, ...]:
        """Return `cuda` where no sample is drawn; see DynamicsModel.engines."""
        return ("cuda",) if propagation == "mean" else ()

    def stepper(
        self, propagation: str, count: int, generator: torch.Generator | None = None
    ) -> Step:
        """Advance in float32; by `mean` on as few points as tell it (see CompactMean)."""
        if len(self._inputs) == 0 or propagation not in PROPAGATIONS:
            return super().stepper("mean" if propagation in PROPAGATIONS else propagation, count)
        if propagation == "mean":
            return self._mean_rollout(count).step
        fast, size = self._fast_kernel(count), self.features.state_dimensions
        if propagation == "pathwise":
            return self._pathwise(fast, generator)

        deviation = self._noise[:size].sqrt().float()
        persistence = self._persistence[:size].float() * (propagation == "tsinf")
        noise = PersistentNoise(count, persistence, generator)
        # What the model does not know is drawn once a particle by `tsinf`, else at every step.
        once = torch.randn(count, size, generator=generator)

        def sample(states: Tensor, actions: Tensor) -> Tensor:
            after = fast.mean(states, actions)
            unknown = self._unknown(count).T
            drawn = once
            if propagation == "ts1":
                drawn = torch.randn(count, size, generator=generator)
            return after + fast.scale * (drawn * unknown.sqrt() + deviation * noise.draw())

        return sample

    def _fast_kernel(self, count: int) -> _FastKernel:
        """Return the kernel of so many rows, made once and kept until something is learned."""
        if count not in self._fast:
            if len(self._fast) >= _FAST_SIZES:
                self._fast = {}
            self._fast[count] = _FastKernel(self, count)
        return self._fast[count]

    def _mean_rollout(self, count: int, device: str = "cpu") -> MeanRollout:
        """Return what rolls out so many rows by the mean, kept likewise."""
        key = (count, device)
        if key not in self._rollouts:
            if len(self._rollouts) >= _FAST_SIZES:
                self._rollouts = {}
            if self._compact is None:
                posterior, size = self.mean_posterior(), self.features.state_dimensions
                self._compact = CompactMean.of(posterior, size)
            self._rollouts[key] = MeanRollout(self._compact, self.features, count, device)
        return self._rollouts[key]

    def _unknown(self, count: int) -> Tensor:
        """Return the variance without noise (D, N) where the kernel of N rows was last taken."""
        size, fast = self.features.state_dimensions, self._fast_kernel(count)
        if self._inverses is None:
            self._inverses = []
            for sign, lower in self._explaining():
                identity = torch.eye(lower.shape[-1], dtype=lower.dtype).expand_as(lower[:size])
                inverse = torch.linalg.solve_triangular(lower[:size], identity, upper=False)
                self._inverses.append((sign, inverse.mT.float().contiguous()))
        unknown = self._hyperparameters.signal[:size, None].float().expand(-1, count)
        for sign, inverse in self._inverses:
            unknown = unknown - sign * torch.bmm(fast.kernel, inverse).square_().sum(2)
        return unknown.clamp_min_(0.0)

    def _pathwise(self, fast: _FastKernel, generator: torch.Generator | None) -> Step:
        """Follow functions drawn from the posterior: row i the i-th, modulo their number.

        A function is one of the prior, by random Fourier features (Rahimi and Recht, NIPS
        2007), corrected at the points.
        """
        size, count = self.features.state_dimensions, fast.count
        functions = min(count, _FUNCTIONS)
        hyperparameters = self._hyperparameters

        def normal(*shape: int) -> Tensor:
            return torch.randn(*shape, generator=generator, dtype=torch.float64)

        outputs = self.features.outputs
        frequencies = normal(outputs, self.features.size, _RANDOM_FEATURES)
        frequencies = frequencies * torch.exp(-hyperparameters.log_lengthscale)[:, :, None]
        phases = torch.rand(
            outputs, 1, _RANDOM_FEATURES, generator=generator, dtype=torch.float64
        ) * (2.0 * math.pi)
        amplitudes = normal(outputs, _RANDOM_FEATURES, functions)
        amplitudes *= (2.0 * hyperparameters.signal / _RANDOM_FEATURES).sqrt()[:, None, None]
        prior = torch.cos(self._inputs @ frequencies + phases) @ amplitudes
        weights = self._function_weights(prior, generator)[:size].float()
        frequencies, phases, amplitudes = (
            tensor[:size].float() for tensor in (frequencies, phases, amplitudes)
        )
        function = (torch.arange(count) % functions).expand(size, -1)[:, :, None]

        def step(states: Tensor, actions: Tensor) -> Tensor:
            values = torch.bmm(fast(states, actions), weights)
            values += torch.cos(fast.inputs @ frequencies + phases) @ amplitudes
            own = values.gather(2, function)[:, :, 0]
            return torch.addcmul(states + fast.shift, own.T, fast.scale)

        return step

    def rollout(
        self,
        states: Tensor,
        actions: Tensor,
        propagation: str = "mean",
        generator: torch.Generator | None = None,
        precision: str = "float32",
        engine: str = "eager",
    ) -> Tensor:
        """Predict trajectories in float32; see DynamicsModel.rollout."""
        states, actions = states.float(), actions.float()
        if propagation == "mean" and len(self._inputs):
            if engine == "cuda":
                return self._mean_rollout(len(states), "cuda").recorded_rollout(states, actions)
            return self._mean_rollout(len(states)).rollout(states, actions)
        return super().rollout(states, actions, propagation, generator)

    # -- snapshots --------------------------------------------------------------------------

    def snapshot(self) -> dict[str, Tensor]:
        """Return all that predictions and further learning need."""
        memory = self._remembering()
        return {
            "inputs": self._inputs,
            "targets": self._targets,
            "weights": self._weights,
            "log_lengthscale": self._hyperparameters.log_lengthscale,
            "log_signal": self._hyperparameters.log_signal,
            "log_noise": self._hyperparameters.log_noise,
            "input_mean": self._input.mean,
            "input_scale": self._input.scale,
            "target_mean": self._target.mean,
            "target_scale": self._target.scale,
            "noise_factor": self._noise_factor,
            "noise_persistence": self._persistence,
            "memory_states": memory.states,
            "memory_actions": memory.actions,
            "memory_next_states": memory.next_states,
            "memory_rewards": memory.rewards,
        }

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Take over a snapshot of the same dimensions; finite float64 throughout."""
        own = self.snapshot()
        if set(tensors) != set(own):
            raise ValueError(f"holds {sorted(tensors)}, expected {sorted(own)}")
        for name, found in tensors.items():
            shape = list(own[name].shape)
            # How many points there are is the snapshot's choice, alike in all that share it.
            axes, same_as = _COUNTED.get(name, ((), name))
            for axis in axes:
                shape[axis] = len(tensors[same_as]) if tensors[same_as].ndim else -1
            if list(found.shape) != shape or found.dtype != torch.float64:
                raise ValueError(
                    f"'{name}' is {found.dtype} {list(found.shape)}, "
                    f"expected torch.float64 {shape}"
                )
            if not found.isfinite().all():
                raise ValueError(f"'{name}' holds a value that is not finite")
            if name in _POSITIVE and not (found > 0.0).all():
                raise ValueError(f"'{name}' holds a value that is not positive")
            if name == "noise_persistence" and not ((found >= 0.0) & (found < 1.0)).all():
                raise ValueError(f"'{name}' holds a value that is not in [0, 1)")
        # Copies, because a snapshot's tensors may share the memory of the file.
        own = {name: tensor.clone() for name, tensor in tensors.items()}
        parts = ("states", "actions", "next_states", "rewards")
        self._memory, self._newest = Transitions(*(own[f"memory_{part}"] for part in parts)), []
        self._hyperparameters = Hyperparameters(
            own["log_lengthscale"], own["log_signal"], own["log_noise"]
        )
        self._input = Normaliser(own["input_mean"], own["input_scale"])
        self._target = Normaliser(own["target_mean"], own["target_scale"])
        self._inputs, self._targets = own["inputs"], own["targets"]
        self._made_weights = own["weights"]
        self._noise_factor, self._persistence = own["noise_factor"], own["noise_persistence"]
        self._fitted = len(self._inputs) > 0
        self._forget_made()


def _spread(inputs: Tensor, count: int) -> Tensor:
    """Choose `count` of inputs (N, F): the mean's nearest, then ever the farthest from the chosen.

    Gonzalez, "Clustering to minimize the maximum intercluster distance" (1985).
    """
    chosen = torch.zeros(count, dtype=torch.long)
    chosen[0] = (inputs - inputs.mean(0)).square().sum(1).argmin()
    distance = torch.full((len(inputs),), math.inf, dtype=inputs.dtype)
    for i in range(1, count):
        newest = (inputs - inputs[chosen[i - 1]]).square().sum(1)
        distance = torch.minimum(distance, newest)
        chosen[i] = distance.argmax()
    return chosen


class _FastKernel:
    """The kernel between N rows and a model's points, and the mean, in float32.

    Into buffers made once.
    """

    def __init__(self, model: KernelModel, count: int) -> None:
        posterior, features = model.mean_posterior(), model.features
        points, outputs = posterior.points, features.state_dimensions
        self.count = count
        rows = [log_kernel(posterior.hyperparameters, k, points).T for k in range(outputs)]
        self._matrix = torch.stack(rows).float().contiguous()  # (D, 2F + 1, n)
        self._inputs = KernelInputs(features, posterior.input, count)
        self.inputs = self._inputs.inputs.T  # (N, F), normalised
        self.kernel = torch.empty(outputs, count, len(points))
        self._weights = posterior.weights[:outputs, :, None].float().contiguous()
        self.scale = posterior.target.scale[:outputs].float()
        self.shift = posterior.target.mean[:outputs].float()

    def mean(self, states: Tensor, actions: Tensor) -> Tensor:
        """Return the mean next states (N, D)."""
        mean = torch.bmm(self(states, actions), self._weights)[:, :, 0]
        return torch.addcmul(states + self.shift, mean.T, self.scale)

    def __call__(self, states: Tensor, actions: Tensor) -> Tensor:
        """Return the kernel (D, N, n) of states (N, D) and actions (N, A)."""
        rows = self._inputs.of(states.T, actions.T).T.expand(len(self._matrix), -1, -1)
        torch.bmm(rows, self._matrix, out=self.kernel)
        return self.kernel.exp_()
