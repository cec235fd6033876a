# Copyright 2026 The mbrl_ros authors
# SPDX-License-Identifier: Apache-2.0
"""GPyTorch's exact GP as a dynamics model, used as its tutorials do."""

from __future__ import annotations

import warnings

import gpytorch
import torch
from gpytorch.utils.warnings import NumericalWarning
from torch import Tensor

from mbrl_ros.benchmarks.peer import Peer
from mbrl_ros.dynamics.features import FeatureMap
from mbrl_ros.dynamics.model import Step, Transitions
from mbrl_ros.dynamics.normaliser import Normaliser

REFIT_STEPS = 20  # of Adam at each later batch of data, from where it was
LEARNING_RATE = 0.1


class GPyTorchGP(Peer):
    """One independent ExactGP an output, as a batch: ARD RBF kernel, Gaussian likelihood.

    max_points: how many transitions it holds: the newest, and of those before a random choice.
    fit_steps: steps of Adam at the first `update`. In float32, GPyTorch's default, in which it
    is twice as fast as in float64 and as accurate. data: the transitions that it holds.
    """

    kind = "gp"

    def __init__(
        self, features: FeatureMap, max_points: int, fit_steps: int = 200, seed: int = 0
    ) -> None:
        super().__init__(features)
        self._max_points = max_points
        self._fit_steps = fit_steps
        self._generator = torch.Generator().manual_seed(seed)
        self.data = Transitions.empty(features)
        self._model: _BatchGP | None = None
        self._inputs = Normaliser.identity(features.size)
        self._targets = Normaliser.identity(features.outputs)

    def update(self, new: Transitions) -> None:
        """Choose the points, refit the hyper-parameters and condition on them anew."""
        kept = self._max_points - min(len(new), self._max_points)
        order = torch.randperm(len(self.data), generator=self._generator)[:kept]
        fresh = torch.randperm(len(new), generator=self._generator)[: self._max_points]
        self.data = self.data[order] + new[fresh]
        inputs = self.features.inputs(self.data.states, self.data.actions)
        targets = self.features.deltas(self.data.states, self.data.next_states)
        self._inputs, self._targets = Normaliser.of(inputs), Normaliser.of(targets)
        self._fit(
            self._inputs.normalise(inputs).float().expand(self.features.outputs, -1, -1),
            self._targets.normalise(targets).float().T.contiguous(),
            REFIT_STEPS if self.transitions else self._fit_steps,
        )
        self.transitions += len(new)

    def _fit(self, inputs: Tensor, targets: Tensor, steps: int) -> None:
        """Fit on inputs (D, n, F), targets (D, n)."""
        likelihood = gpytorch.likelihoods.GaussianLikelihood(
            batch_shape=torch.Size([len(targets)])
        )
        model = _BatchGP(inputs, targets, likelihood)
        if self._model is not None:
            model.load_state_dict(self._model.state_dict())
        model.train()
        likelihood.train()
        optimiser = torch.optim.Adam(model.parameters(), lr=LEARNING_RATE)
        objective = gpytorch.mlls.ExactMarginalLogLikelihood(likelihood, model)
        for _ in range(steps):
            optimiser.zero_grad()
            loss = -objective(model(inputs), targets).sum()
            loss.backward()
            optimiser.step()
        model.eval()
        likelihood.eval()
        self._model = model
        self.outputs(self.data.states[:1], self.data.actions[:1])  # fills its caches

    def outputs(self, states: Tensor, actions: Tensor) -> tuple[Tensor, Tensor]:
        """Predict one step; the variance includes the noise."""
        with torch.no_grad(), gpytorch.settings.fast_pred_var(), warnings.catch_warnings():
            # It may say of a variance that rounding made it negative, and that it was put right.
            warnings.simplefilter("ignore", NumericalWarning)
            prediction = self._latent(states, actions)
            noise = self._model.likelihood.noise if self._model else 0.0
            mean = self._targets.restore(prediction.mean.T)
            variance = (prediction.variance + noise).T * self._targets.scale.square()
        return mean.to(states.dtype), variance.to(states.dtype)

    def stepper(
        self, propagation: str, count: int, generator: torch.Generator | None = None
    ) -> Step:
        """By `mean` only the mean is asked for, which GPyTorch computes when it is read."""
        if propagation != "mean":
            return super().stepper(propagation, count, generator)

        def step(states: Tensor, actions: Tensor) -> Tensor:
            with torch.no_grad(), gpytorch.settings.fast_pred_var():
                mean = self._latent(states, actions).mean.T
            return states + self._targets.restore(mean).to(states.dtype)

        return step

    def _latent(
        self, states: Tensor, actions: Tensor
    ) -> gpytorch.distributions.MultivariateNormal:
        """Return the posterior of the function at normalised inputs, a batch of D."""
        if self._model is None:
            raise ValueError("this model has seen no data; call update first")
        inputs = self._inputs.normalise(self.features.inputs(states.double(), actions.double()))
        return self._model(inputs.float().expand(self.features.outputs, -1, -1))


class _BatchGP(gpytorch.models.ExactGP):
    def __init__(
        self, inputs: Tensor, targets: Tensor, likelihood: gpytorch.likelihoods.GaussianLikelihood
    ) -> None:
        super().__init__(inputs, targets, likelihood)
        batch = torch.Size([len(targets)])
        self.mean_module = gpytorch.means.ConstantMean(batch_shape=batch)
        self.covar_module = gpytorch.kernels.ScaleKernel(
            gpytorch.kernels.RBFKernel(ard_num_dims=inputs.shape[-1], batch_shape=batch),
            batch_shape=batch,
        )

    def forward(self, inputs: Tensor) -> gpytorch.distributions.MultivariateNormal:
        return gpytorch.distributions.MultivariateNormal(
            self.mean_module(inputs), self.covar_module(inputs)
        )
