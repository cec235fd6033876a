# Copyright 2026 The mbrl_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Gaussian-process dynamics: one exact GP an output, fitted online.

Notation follows Rasmussen and Williams, "Gaussian Processes for Machine Learning" (2006):
squared-exponential kernel with one length scale an input (ARD, eq. 5.1), prediction by
eqs. 2.25 and 2.26, marginal-likelihood gradient by eq. 5.9. Everything lives in normalised
space: inputs and targets (changes of state) have unit variance over the data.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from mbrl_ros.dynamics.features import FeatureMap
from mbrl_ros.dynamics.model import DynamicsModel, Transitions

# Medians and spreads of the log-normal hyper-parameter priors (MAP): smooth functions of
# unit-variance inputs that explain most of a unit-variance target.
_LENGTHSCALE_PRIOR = (math.log(2.0), 1.0)
_SIGNAL_PRIOR = (0.0, 1.0)
_NOISE_PRIOR = (math.log(0.01), 1.5)
_NOISE_FLOOR = 1e-4  # variance; keeps the factor well conditioned and float32 safe
_SCALE_FLOOR = 1e-6  # a constant dimension is not blown up
# Tensors of a snapshot that grow with the data: along which axis, and as long as which other.
_COUNTED = {
    "inputs": (0, "inputs"),
    "targets": (0, "inputs"),
    "weights": (1, "inputs"),
    "memory_states": (0, "memory_states"),
    "memory_actions": (0, "memory_states"),
    "memory_next_states": (0, "memory_states"),
}
_JITTERS = (0.0, 1e-6, 1e-4, 1e-2)


class GaussianProcess(DynamicsModel):
    """D independent exact GPs over the same inputs.

    max_points: how many transitions condition the prediction; of more, the most informative
    are used. Twice as many are remembered, chosen alike, so that an update costs the same
    however long the robot has run. fit_points, fit_steps: size of the random subset and number
    of Adam steps that one `update` spends on the hyper-parameters. seed: of that subset.
    """

    kind = "gp"

    def __init__(
        self,
        features: FeatureMap,
        max_points: int = 200,
        fit_points: int = 200,
        fit_steps: int = 20,
        seed: int = 0,
    ) -> None:
        super().__init__(features)
        self.max_points = max_points
        self.fit_points = fit_points
        self.fit_steps = fit_steps
        self._generator = torch.Generator().manual_seed(seed)
        outputs, inputs = features.state_dimensions, features.size
        self._memory = Transitions.empty(features)
        self._log_lengthscale = torch.full((outputs, inputs), _LENGTHSCALE_PRIOR[0]).double()
        self._log_signal = torch.full((outputs,), _SIGNAL_PRIOR[0]).double()
        self._log_noise = torch.full((outputs,), _NOISE_PRIOR[0]).double()
        self._input_mean = torch.zeros(inputs).double()
        self._input_scale = torch.ones(inputs).double()
        self._target_mean = torch.zeros(outputs).double()
        self._target_scale = torch.ones(outputs).double()
        self._inputs = torch.zeros(0, inputs).double()  # (n, F), normalised
        self._targets = torch.zeros(0, outputs).double()  # (n, D), normalised
        self._weights = torch.zeros(outputs, 0).double()  # alpha of eq. 2.25, (D, n)
        self._factor: Tensor | None = None  # Cholesky factor (D, n, n), made when asked for
        self._buffers: _RolloutBuffers | None = None

    # -- learning ---------------------------------------------------------------------------

    def update(self, new: Transitions) -> None:
        """Refit the hyper-parameters (warm start), choose the points, condition on them.

        Raises ValueError, leaving the model as it was, if a value is not finite or there are
        fewer than two transitions in all.
        """
        if not new.isfinite():
            raise ValueError("transitions hold a value that is not finite")
        before = dict(vars(self))  # tensors are replaced by an update, never written into
        try:
            self._update(new)
        except Exception:
            vars(self).update(before)
            raise

    def _update(self, new: Transitions) -> None:
        data = self._memory + new
        if len(data) < 2:
            raise ValueError(f"a GP needs at least 2 transitions, got {len(data)}")
        inputs = self.features.inputs(data.states, data.actions).double()
        targets = self.features.deltas(data.states, data.next_states).double()
        self._input_mean, self._input_scale = _normaliser(inputs)
        self._target_mean, self._target_scale = _normaliser(targets)
        inputs = (inputs - self._input_mean) / self._input_scale
        targets = (targets - self._target_mean) / self._target_scale

        # A model that knows nothing yet takes more steps to find its scales.
        steps = self.fit_steps if self.transitions else 5 * self.fit_steps
        subset = torch.randperm(len(inputs), generator=self._generator)[: self.fit_points]
        self._fit(inputs[subset], targets[subset], steps)
        if len(data) > 2.5 * self.max_points:
            remembered = self._informative(inputs, 2 * self.max_points)
            data, inputs, targets = data[remembered], inputs[remembered], targets[remembered]
        self._memory = data
        if len(inputs) > self.max_points:
            chosen = self._informative(inputs, self.max_points)
            inputs, targets = inputs[chosen], targets[chosen]
        self._condition(inputs, targets)
        self.transitions += len(new)

    def _fit(self, inputs: Tensor, targets: Tensor, steps: int) -> None:
        """Maximise log posterior of the hyper-parameters on inputs (n, F), targets (n, D)."""
        parameters = [
            p.clone().requires_grad_()
            for p in (self._log_lengthscale, self._log_signal, self._log_noise)
        ]
        priors = (_LENGTHSCALE_PRIOR, _SIGNAL_PRIOR, _NOISE_PRIOR)
        optimiser = torch.optim.Adam(parameters, lr=0.1)
        identity = torch.eye(len(inputs), dtype=inputs.dtype)
        for _ in range(steps):
            log_lengthscale, log_signal, log_noise = parameters
            noise = log_noise.exp() + _NOISE_FLOOR
            kernel = _kernel(inputs, inputs, log_lengthscale, log_signal)
            covariance = kernel + noise[:, None, None] * identity
            with torch.no_grad():
                factor = _cholesky(covariance)
                inverse = torch.cholesky_inverse(factor)
                weights = inverse @ targets.T[:, :, None]
                gradient = weights @ weights.mT - inverse
            # Its gradient is that of the log marginal likelihood (eq. 5.9), without
            # differentiating through the factorisation.
            objective = 0.5 * (gradient * covariance).sum()
            for parameter, (mean, spread) in zip(parameters, priors, strict=True):
                objective = objective - 0.5 * ((parameter - mean) / spread).square().sum()
            optimiser.zero_grad()
            (-objective).backward()
            optimiser.step()
        self._log_lengthscale, self._log_signal, self._log_noise = (p.detach() for p in parameters)

    def _informative(self, inputs: Tensor, keep: int) -> Tensor:
        """Choose `keep` of inputs (n, F): greedily the one least explained by the chosen.

        This is pivoted Cholesky of the kernel, averaged over the outputs; it bounds what the
        left-out points could still have told (Foster et al., JMLR 2009).
        """
        count = len(inputs)
        remaining = torch.ones(count, dtype=inputs.dtype)
        rows = torch.zeros(keep, count, dtype=inputs.dtype)
        chosen = torch.zeros(keep, dtype=torch.long)
        signal = torch.zeros_like(self._log_signal)
        for i in range(keep):
            pivot = int(remaining.argmax())
            chosen[i] = pivot
            column = _kernel(inputs[pivot : pivot + 1], inputs, self._log_lengthscale, signal)
            row = column.mean(0)[0] - rows[:i, pivot] @ rows[:i]
            rows[i] = row / remaining[pivot].clamp_min(1e-12).sqrt()
            remaining = (remaining - rows[i].square()).clamp_min(0.0)
            remaining[pivot] = -1.0
        return chosen.sort().values

    def _condition(self, inputs: Tensor, targets: Tensor) -> None:
        """Make inputs (n, F) and targets (n, D) the data that predictions rest on."""
        self._inputs, self._targets = inputs, targets
        self._factor = self._factorise()
        self._weights = torch.cholesky_solve(targets.T[:, :, None], self._factor)[:, :, 0]
        self._buffers = None

    def _factorise(self) -> Tensor:
        kernel = _kernel(self._inputs, self._inputs, self._log_lengthscale, self._log_signal)
        noise = self._log_noise.exp() + _NOISE_FLOOR
        return _cholesky(kernel + torch.diag_embed(noise[:, None].expand(-1, len(self._inputs))))

    # -- prediction -------------------------------------------------------------------------

    def outputs(self, states: Tensor, actions: Tensor) -> tuple[Tensor, Tensor]:
        """Predict one step; the variance includes the noise (eqs. 2.25 and 2.26)."""
        dtype = states.dtype
        inputs = self.features.inputs(states, actions).double()
        inputs = (inputs - self._input_mean) / self._input_scale
        variance = self._log_signal.exp() + self._log_noise.exp() + _NOISE_FLOOR
        variance = variance[:, None].expand(-1, len(inputs))
        mean = torch.zeros_like(variance)
        if len(self._inputs):
            if self._factor is None:
                self._factor = self._factorise()
            cross = _kernel(self._inputs, inputs, self._log_lengthscale, self._log_signal)
            mean = (self._weights[:, None, :] @ cross)[:, 0]
            solved = torch.linalg.solve_triangular(self._factor, cross, upper=False)
            variance = (variance - solved.square().sum(1)).clamp_min(_NOISE_FLOOR)
        delta = mean.T * self._target_scale + self._target_mean
        scaled = variance.T * self._target_scale.square()
        return delta.to(dtype), scaled.to(dtype)

    def rollout(
        self,
        states: Tensor,
        actions: Tensor,
        propagation: str = "mean",
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """In float32; by `mean`, two matrix products and one exponential a step."""
        if propagation != "mean":
            return super().rollout(states, actions, propagation, generator)
        horizon, count, _ = actions.shape
        if self._buffers is None or self._buffers.shape != (horizon, count):
            self._buffers = self._make_buffers(horizon, count)
        b = self._buffers
        plain, angles = self.features.plain, self.features.angles
        size, angle_count = self.features.size, len(angles)
        first_angle, first_action = len(plain), len(plain) + 2 * angle_count
        trajectory = torch.empty(horizon + 1, count, self.features.state_dimensions)
        trajectory[0] = states
        normalised, squared = b.augmented[:, :size], b.augmented[:, size : 2 * size]
        for step in range(horizon):
            state = trajectory[step]
            raw = b.raw
            raw[:, :first_angle] = state[:, plain]
            for i, angle in enumerate(angles):
                torch.sin(state[:, angle], out=raw[:, first_angle + i])
                torch.cos(state[:, angle], out=raw[:, first_angle + angle_count + i])
            raw[:, first_action:] = actions[step]
            torch.addcmul(b.input_shift, raw, b.input_gain, out=normalised)
            torch.mul(normalised, normalised, out=squared)
            torch.bmm(b.augmented_batch, b.kernel_matrix, out=b.kernel)
            b.kernel.exp_()
            torch.bmm(b.kernel, b.weights, out=b.mean)
            torch.addcmul(
                b.target_mean, b.mean[:, :, 0].T, b.target_scale, out=trajectory[step + 1]
            )
            trajectory[step + 1] += state
        return trajectory

    def _make_buffers(self, horizon: int, count: int) -> _RolloutBuffers:
        """Lay out the kernel so that its logarithm is one product with [z, z^2, 1]."""
        size, points = self.features.size, len(self._inputs)
        precision = torch.exp(-2.0 * self._log_lengthscale)  # (D, F)
        linear = self._inputs.T[None] * precision[:, :, None]  # (D, F, n)
        quadratic = (-0.5 * precision)[:, :, None].expand(-1, -1, points)
        constant = self._log_signal[:, None] - 0.5 * (precision @ self._inputs.square().T)
        matrix = torch.cat([linear, quadratic, constant[:, None, :]], dim=1)
        return _RolloutBuffers(
            horizon=horizon,
            raw=torch.empty(count, size),
            augmented=torch.ones(count, 2 * size + 1),
            kernel_matrix=matrix.float().contiguous(),
            kernel=torch.empty(len(matrix), count, points),
            weights=self._weights[:, :, None].float().contiguous(),
            mean=torch.empty(len(matrix), count, 1),
            input_gain=(1.0 / self._input_scale).float(),
            input_shift=(-self._input_mean / self._input_scale).float(),
            target_scale=self._target_scale.float(),
            target_mean=self._target_mean.float(),
        )

    # -- snapshots --------------------------------------------------------------------------

    def snapshot(self) -> dict[str, Tensor]:
        """Return all but the factor, which is remade: predictions and learning go on alike."""
        return {
            "inputs": self._inputs,
            "targets": self._targets,
            "weights": self._weights,
            "log_lengthscale": self._log_lengthscale,
            "log_signal": self._log_signal,
            "log_noise": self._log_noise,
            "input_mean": self._input_mean,
            "input_scale": self._input_scale,
            "target_mean": self._target_mean,
            "target_scale": self._target_scale,
            "memory_states": self._memory.states,
            "memory_actions": self._memory.actions,
            "memory_next_states": self._memory.next_states,
        }

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Take over a snapshot of the same dimensions; finite float64 throughout."""
        own = self.snapshot()
        if set(tensors) != set(own):
            raise ValueError(f"holds {sorted(tensors)}, expected {sorted(own)}")
        for name, found in tensors.items():
            shape = list(own[name].shape)
            # How many points there are is the snapshot's choice, alike in all that share it.
            counted = _COUNTED.get(name)
            if counted is not None:
                axis, same_as = counted
                shape[axis] = len(tensors[same_as]) if tensors[same_as].ndim else -1
            if list(found.shape) != shape or found.dtype != torch.float64:
                raise ValueError(
                    f"'{name}' is {found.dtype} {list(found.shape)}, "
                    f"expected torch.float64 {shape}"
                )
            if not found.isfinite().all():
                raise ValueError(f"'{name}' holds a value that is not finite")
            if name in ("input_scale", "target_scale") and not (found > 0.0).all():
                raise ValueError(f"'{name}' holds a value that is not positive")
        memory = (tensors[f"memory_{part}"] for part in ("states", "actions", "next_states"))
        self._memory = Transitions(*(part.clone() for part in memory))
        for name in own:
            if not name.startswith("memory_"):
                setattr(self, f"_{name}", tensors[name].clone())
        self._factor = None
        self._buffers = None


class _RolloutBuffers:
    """What `rollout` writes into at every step, and the model laid out for it in float32."""

    def __init__(self, horizon: int, **tensors: Tensor) -> None:
        self.raw = tensors["raw"]  # (N, F) inputs as they are
        self.augmented = tensors["augmented"]  # (N, 2F + 1): [z, z^2, 1]
        self.kernel_matrix = tensors["kernel_matrix"]  # (D, 2F + 1, n)
        self.kernel = tensors["kernel"]  # (D, N, n)
        self.weights = tensors["weights"]  # (D, n, 1)
        self.mean = tensors["mean"]  # (D, N, 1)
        self.input_gain = tensors["input_gain"]
        self.input_shift = tensors["input_shift"]
        self.target_scale = tensors["target_scale"]
        self.target_mean = tensors["target_mean"]
        self.shape = (horizon, len(self.raw))
        self.augmented_batch = self.augmented.expand(len(self.kernel_matrix), -1, -1)


def _normaliser(values: Tensor) -> tuple[Tensor, Tensor]:
    """Return mean and standard deviation of values (N, K); a constant column keeps scale 1."""
    scale = values.std(0)
    return values.mean(0), torch.where(scale > _SCALE_FLOOR, scale, torch.ones_like(scale))


def _kernel(first: Tensor, second: Tensor, log_lengthscale: Tensor, log_signal: Tensor) -> Tensor:
    """Squared-exponential kernel of (n, F) and (m, F) for each of D outputs: (D, n, m)."""
    inverse = torch.exp(-log_lengthscale)[:, None, :]
    a, b = first[None] * inverse, second[None] * inverse
    distance = a.square().sum(-1)[:, :, None] + b.square().sum(-1)[:, None, :] - 2.0 * a @ b.mT
    return torch.exp(log_signal[:, None, None] - 0.5 * distance.clamp_min(0.0))


def _cholesky(covariance: Tensor) -> Tensor:
    """Factorise (D, n, n), adding more to the diagonal until it works."""
    identity = torch.eye(covariance.shape[-1], dtype=covariance.dtype)
    for jitter in _JITTERS:
        factor, info = torch.linalg.cholesky_ex(covariance + jitter * identity)
        if not info.any():
            return factor
    raise ValueError("the covariance is not positive definite even with the largest jitter")
