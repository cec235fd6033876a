# Copyright 2026 The mbrl_ros authors
# SPDX-License-Identifier: Apache-2.0
"""mbrl-lib's ensemble of Gaussian MLPs as a dynamics model, set up as its PETS tutorial does."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import mbrl.models
import mbrl.types
import mbrl.util.common
import mbrl.util.replay_buffer
import numpy as np
import torch
from torch import Tensor

from mbrl_ros.benchmarks.peer import Peer
from mbrl_ros.dynamics.features import FeatureMap
from mbrl_ros.dynamics.model import Step, Transitions

MEMBERS = 5
LAYERS = 3
HIDDEN = 200
BATCH = 32
LEARNING_RATE = 1e-3
WEIGHT_DECAY = 5e-5
VALIDATION_SHARE = 0.05
LEAKY_RELU = {"_target_": "torch.nn.LeakyReLU", "negative_slope": 0.01}
_CAPACITY = 100_000  # transitions


class MbrlLibEnsemble(Peer):
    """GaussianMLP in a OneDTransitionRewardModel, trained by ModelTrainer.

    Angles enter as sine and cosine through the library's obs_process_fn. An `update` stores the
    data and trains for one epoch on all of it, the smallest step that ModelTrainer offers;
    `train` goes on for a given time and ends with the weights that validated best.
    """

    kind = "ensemble"

    def __init__(
        self,
        features: FeatureMap,
        seed: int = 0,
        activation: Mapping[str, Any] = LEAKY_RELU,
    ) -> None:
        super().__init__(features)
        torch.manual_seed(seed)  # the library initialises and shuffles from the global generator
        network = mbrl.models.GaussianMLP(
            features.size,
            features.outputs,
            "cpu",
            num_layers=LAYERS,
            ensemble_size=MEMBERS,
            hid_size=HIDDEN,
            propagation_method="fixed_model",
            activation_fn_cfg=dict(activation),
        )
        self._model = mbrl.models.OneDTransitionRewardModel(
            network,
            target_is_delta=True,
            normalize=True,
            learned_rewards=False,
            obs_process_fn=self._process,
        )
        self._trainer = mbrl.models.ModelTrainer(
            self._model, optim_lr=LEARNING_RATE, weight_decay=WEIGHT_DECAY
        )
        self._buffer = mbrl.util.replay_buffer.ReplayBuffer(
            _CAPACITY,
            (features.state_dimensions,),
            (features.action_dimensions,),
            rng=np.random.default_rng(seed),
        )

    def wrapped(self, propagation: str) -> mbrl.models.Model:
        """Return the library's model, by its own name of a propagation."""
        self._model.set_propagation_method(propagation)
        return self._model

    def update(self, new: Transitions) -> None:
        """Store the data and train for one epoch."""
        self._store(new)
        self._trainer.train(*self._iterators(0.0), num_epochs=1, evaluate=False, silent=True)

    def train(self, new: Transitions, seconds: float) -> None:
        """Store the data and train for so many seconds, to within an epoch; for one at least."""
        end = time.perf_counter() + seconds
        self._store(new)
        iterators = self._iterators(VALIDATION_SHARE)
        epochs = 1
        while epochs > 0:
            begin = time.perf_counter()
            self._trainer.train(*iterators, num_epochs=epochs, silent=True)
            now = time.perf_counter()
            # Half of what fits at this pace, so that a changing pace does little harm.
            fitting = (end - now) / ((now - begin) / epochs)
            epochs = int(fitting) if fitting < 10.0 else int(0.5 * fitting)

    def _store(self, new: Transitions) -> None:
        states = new.states.numpy()
        following = states + self.features.deltas(new.states, new.next_states).numpy()
        self._buffer.add_batch(
            states,
            new.actions.numpy(),
            following,
            np.zeros(len(new)),
            np.zeros(len(new), dtype=bool),
            np.zeros(len(new), dtype=bool),
        )
        self._model.update_normalizer(self._buffer.get_all())
        self.transitions += len(new)

    def _iterators(self, validation_share: float) -> tuple[Any, Any]:
        return mbrl.util.common.get_basic_buffer_iterators(
            self._buffer, BATCH, validation_share, ensemble_size=MEMBERS
        )

    def outputs(self, states: Tensor, actions: Tensor) -> tuple[Tensor, Tensor]:
        """Predict one step: mean and variance of the mixture of the members."""
        self._model.set_propagation_method(None)
        unused = torch.zeros(len(states))
        batch = mbrl.types.TransitionBatch(
            states.float(), actions.float(), states.float(), unused, unused, unused
        )
        (means, log_variances), _ = self._model.get_output_and_targets(batch)
        variance = log_variances.exp().mean(0) + means.var(0, unbiased=False)
        return means.mean(0).to(states.dtype), variance.to(states.dtype)

    def stepper(
        self, propagation: str, count: int, generator: torch.Generator | None = None
    ) -> Step:
        """`mean`, `ts1` and `tsinf` are the library's expectation, random and fixed model."""
        methods = {"mean": "expectation", "ts1": "random_model", "tsinf": "fixed_model"}
        if propagation not in methods:
            return super().stepper(propagation, count, generator)
        # The library wants as many rows for each member.
        rows = -(-count // MEMBERS) * MEMBERS
        generator = generator or torch.Generator()
        self._model.set_propagation_method("fixed_model")
        known = self._model.reset(torch.zeros(rows, self.features.state_dimensions), generator)

        @torch.no_grad()
        def step(states: Tensor, actions: Tensor) -> Tensor:
            self._model.set_propagation_method(methods[propagation])
            following, *_ = self._model.sample(
                _padded(actions.float(), rows),
                {**known, "obs": _padded(states.float(), rows)},
                deterministic=propagation == "mean",
                rng=generator,
            )
            return following[:count].to(states.dtype)

        return step

    def _process(self, states: Tensor | np.ndarray) -> Tensor | np.ndarray:
        """Map states (..., D) to what models see of them, of the type that came."""
        given = torch.as_tensor(states)
        inputs = self.features.inputs(given, given[..., :0])
        return inputs if isinstance(states, Tensor) else inputs.numpy()


def _padded(values: Tensor, rows: int) -> Tensor:
    return torch.cat([values, values[-1:].expand(rows - len(values), -1)])
