# Copyright 2026 The mbrl_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Soft actor-critic: a policy from minibatches of steps, be they real or imagined.

Haarnoja et al., "Soft Actor-Critic Algorithms and Applications" (arXiv:1812.05905, 2018), with
two critics, target averaging and an automatic temperature.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from mbrl_ros.imagination.memory import Batch
from mbrl_ros.imagination.policy import LOG_DEVIATION, Layer, Policy, activations, squashed
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
        # All that is trained lies in one tensor, and its gradient in another, so that the
        # optimiser and the target's averaging are one operation each.
        policy = self.policy
        shapes = [tensor.shape for layer in (*policy.actor, *policy.critics) for tensor in layer]
        own = [tensor for layer in (*policy.actor, *policy.critics) for tensor in layer]
        self._trained = torch.cat([*(tensor.flatten() for tensor in own), torch.zeros(1)])
        self._trained.grad = torch.zeros_like(self._trained)
        self._log_temperature = self._trained[-1]
        # Adam scales each weight's step by itself: who shares it makes no difference.
        self._optimiser = torch.optim.Adam([self._trained], lr=self.learning_rate, fused=True)
        layers = _layers(self._trained, shapes)
        count = len(policy.actor)
        policy.actor, policy.critics = layers[:count], layers[count:]
        gradients = _layers(self._trained.grad, shapes)
        self._actor_gradient, self._critics_gradient = gradients[:count], gradients[count:]
        begin = sum(shape.numel() for shape in shapes[: 2 * count])
        self._averaged = self._trained[begin:-1]
        self._target_values = self._averaged.clone()
        self._target = _layers(self._target_values, shapes[2 * count :])

    def start_from(self, policy: Policy, temperature: float, updates: int) -> None:
        """Go on from a policy that has been trained already; what it was trained with.

        Raises ValueError if its layers are of other sizes.
        """
        pairs = [
            (own, new)
            for mine, others in (
                (self.policy.actor, policy.actor),
                (self.policy.critics, policy.critics),
                (self._target, policy.critics),
            )
            for own_layer, new_layer in zip(mine, others, strict=False)
            for own, new in zip(own_layer, new_layer, strict=True)
        ]
        if len(policy.actor) != len(self.policy.actor) or any(
            own.shape != new.shape for own, new in pairs
        ):
            found = [weight.shape[2] for weight, _ in policy.actor[:-1]]
            raise ValueError(
                f"policy has hidden layers of {found} units, expected "
                f"{[self.hidden] * self.layers}: set hidden and layers alike"
            )
        for own, new in pairs:
            own.copy_(new)
        self._log_temperature.fill_(math.log(temperature))
        self.updates = updates

    @property
    def temperature(self) -> float:
        """What a nat of entropy is worth, in units of the reward."""
        return float(self._log_temperature.exp())

    @torch.no_grad()
    def update(self, batch: Batch) -> None:
        """Take one step down all networks' losses."""
        self.gradient(batch)
        self._optimiser.step()
        self._target_values.lerp_(self._averaged, self.averaging)
        self.updates += 1

    @torch.no_grad()
    def gradient(self, batch: Batch) -> Tensor:
        """Return the gradient of the sum of all losses by all that is trained.

        Of critics, actor and temperature (eqs. 5, 9 and 18): first the actor's layers, then the
        critics', weight and bias in turn, last the temperature's logarithm. Derived by hand,
        because of these small networks automatic differentiation takes most of the time.
        """
        policy, count = self.policy, len(batch)
        states, actions, rewards, next_states, terminated = batch.columns()
        temperature = self._log_temperature.exp()
        # The actor on next states, then on states.
        inputs = policy.inputs(torch.cat([next_states, states]))
        acting = activations(policy.actor, inputs)
        noise = torch.randn(2 * count, policy.sizes[1], generator=self._generator)
        chosen, density = squashed(acting[-1][0], noise)
        value = policy.worth(self._target, inputs[:count], chosen[:count]).amin(0)
        value -= temperature * density[:count]
        wanted = rewards + self.discount * (1.0 - terminated) * value
        # The critics on what was done, then on what the actor would do.
        moves = torch.cat([policy.normalised(actions), chosen[count:]])
        judging = activations(policy.critics, torch.cat([inputs[count:].repeat(2, 1), moves], 1))
        found = judging[-1][..., 0]

        error = found[:, :count] - wanted
        lesser = found[0, count:] <= found[1, count:]
        slope = torch.cat([error, -torch.stack([lesser, ~lesser]).float()], 1) / count
        slope = _backward(policy.critics, judging, slope[..., None], self._critics_gradient, count)
        by_action = slope[:, count:, inputs.shape[1] :].sum(0)
        # Through a = tanh(u), u = mean + deviation * noise; the density's derivative by u is 2 a.
        share, own = temperature / count, chosen[count:]
        by_raw = by_action * (1.0 - own.square()) + 2.0 * share * own
        log_deviation = acting[-1][0, count:, policy.sizes[1] :]
        lowest, highest = LOG_DEVIATION
        free = (log_deviation > lowest) & (log_deviation < highest)
        by_deviation = (by_raw * noise[count:] * log_deviation.exp() - share) * free
        slope = torch.cat([by_raw, by_deviation], 1)[None]
        _backward(policy.actor, [x[:, count:] for x in acting], slope, self._actor_gradient, count)

        aim = self.entropy * policy.sizes[1]
        assert self._trained.grad is not None
        self._trained.grad[-1] = -(density[count:].mean() + aim)
        return self._trained.grad


def _backward(
    layers: Sequence[Layer],
    entering: Sequence[Tensor],
    slope: Tensor,
    gradients: Sequence[Layer],
    count: int,
) -> Tensor:
    """Write the gradient by M networks' layers, of their first `count` rows only.

    entering: see `activations`. slope (M, N, out): of the loss by what comes out. Returns the
    slope (M, N, in) of the loss by the inputs.
    """
    for i in range(len(layers) - 1, -1, -1):
        weight, bias = gradients[i]
        torch.bmm(entering[i][:, :count].mT, slope[:, :count], out=weight)
        torch.sum(slope[:, :count], 1, keepdim=True, out=bias)
        slope = torch.bmm(slope, layers[i][0].mT)
        if i:
            slope *= entering[i] > 0.0
    return slope


def _layers(values: Tensor, shapes: Sequence[torch.Size]) -> list[Layer]:
    """Return layers whose weights and biases lie one after the other in values, as views."""
    views, begin = [], 0
    for shape in shapes:
        views.append(values[begin : begin + shape.numel()].view(shape))
        begin += shape.numel()
    return list(zip(views[::2], views[1::2], strict=True))
