# Copyright 2026 The mbrl_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Soft actor-critic: a policy from minibatches of steps, be they real or imagined.

Haarnoja et al., "Soft Actor-Critic Algorithms and Applications" (arXiv:1812.05905, 2018), with
two critics, target averaging and an automatic temperature.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from mbrl_ros.imagination.memory import Batch
from mbrl_ros.imagination.policy import Layer, Policy
from mbrl_ros.planning.planner import Setting


def configure(target: object, what: str, settings: Sequence[Setting], values: Any) -> None:
    """Make attributes of settings; raises ValueError, naming it, if one cannot be used."""
    known = {setting.name for setting in settings}
    unknown = set(values) - known
    if unknown:
        raise ValueError(
            f"{what} has no setting '{min(unknown)}'; it has {', '.join(sorted(known))}"
        )
    for setting in settings:
        value = values.get(setting.name, setting.default)
        setting.check(value)
        setattr(target, setting.name, value)


class SAC:
    """Trains one policy, in place. `updates` counts how often.

    angle_mask, lower, upper: see Policy. seed: of first weights and of all random numbers. The
    settings' values become attributes. Raises ValueError, naming it, if one cannot be used.
    """

    settings: ClassVar[tuple[Setting, ...]] = (
        Setting("hidden", 128, "Units of each hidden layer.", 1, 2048),
        Setting("layers", 2, "Hidden layers.", 1, 8),
        Setting("batch_size", 256, "Steps that an update sees.", 1, 65536),
        Setting("learning_rate", 1e-3, "Adam's, of actor, critics and temperature.", 0.0, 1.0),
        Setting("discount", 0.99, "What a reward one step later is worth.", 0.0, 1.0),
        Setting("averaging", 0.005, "Share of the critics in their target, an update.", 0.0, 1.0),
        Setting(
            "entropy",
            -1.0,
            "Entropy that the temperature aims at, an action dimension, in nats.",
            -100.0,
            0.6931,
        ),
    )
    hidden: int
    layers: int
    batch_size: int
    learning_rate: float
    discount: float
    averaging: float
    entropy: float

    def __init__(
        self,
        angle_mask: Sequence[bool],
        lower: Sequence[float],
        upper: Sequence[float],
        seed: int = 0,
        **values: Any,
    ) -> None:
        configure(self, "SAC", self.settings, values)
        self.policy = Policy(angle_mask, lower, upper, (self.hidden,) * self.layers, seed)
        self.updates = 0
        self._generator = torch.Generator().manual_seed(seed)
        self._log_temperature = torch.zeros((), requires_grad=True)
        own = [tensor for layer in self._layers() for tensor in layer]
        for tensor in own:
            tensor.requires_grad_()
        # Fused, one optimiser takes a tenth of the time of three; and Adam scales each weight's
        # step by itself, so that who shares it makes no difference.
        self._optimiser = torch.optim.Adam(
            [*own, self._log_temperature], lr=self.learning_rate, fused=True
        )
        self._target: list[Layer] = [
            (weight.detach().clone(), bias.detach().clone())
            for weight, bias in self.policy.critics
        ]

    def _layers(self) -> list[Layer]:
        return [*self.policy.actor, *self.policy.critics]

    @property
    def temperature(self) -> float:
        """What a nat of entropy is worth, in units of the reward."""
        return float(self._log_temperature.detach().exp())

    def update(self, batch: Batch) -> None:
        """Take one step on all networks' losses."""
        self._optimiser.zero_grad(set_to_none=True)
        self._loss(batch).backward()
        self._optimiser.step()
        with torch.no_grad():
            torch._foreach_lerp_(
                [tensor for layer in self._target for tensor in layer],
                [tensor for layer in self.policy.critics for tensor in layer],
                self.averaging,
            )
        self.updates += 1

    def _loss(self, batch: Batch) -> Tensor:
        """Return the sum of the losses of critics, actor and temperature (eqs. 5, 9 and 18).

        No two of them pass gradients to the same tensor, so one backward pass serves all.
        """
        policy = self.policy
        states, actions, rewards, next_states, terminated = batch.columns()
        temperature = self._log_temperature.detach().exp()
        with torch.no_grad():
            after = policy.inputs(next_states)
            chosen, density = policy.drawn(after, self._generator)
            value = policy.worth(self._target, after, chosen).amin(0) - temperature * density
            wanted = rewards + self.discount * (1.0 - terminated) * value
        inputs = policy.inputs(states)
        found = policy.worth(policy.critics, inputs, policy.normalised(actions))
        critics = 0.5 * (found - wanted).square().mean(1).sum()

        chosen, density = policy.drawn(inputs, self._generator)
        fixed = [(weight.detach(), bias.detach()) for weight, bias in policy.critics]
        actor = (temperature * density - policy.worth(fixed, inputs, chosen).amin(0)).mean()

        aim = self.entropy * policy.sizes[1]
        return critics + actor - self._log_temperature * (density.detach().mean() + aim)
