# Copyright 2026 The mbrl_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Dyna-Q with networks for its tables: a Q-network, a replay memory and a learned model.

The Q-network is that of Mnih et al., "Human-level control through deep reinforcement learning"
(Nature, 2015), with the target of van Hasselt et al., "Deep Reinforcement Learning with Double
Q-learning" (AAAI 2016). Without a model it is DQN on real steps alone, the same code in all else.
The model sees actions as one-hot vectors.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import safetensors.torch
import torch
from torch import Tensor
from torch.nn.functional import one_hot, smooth_l1_loss

from mbrl_ros.dynamics.model import PROPAGATIONS, DynamicsModel
from mbrl_ros.dynamics.snapshot import SnapshotError, pack, unseal, write
from mbrl_ros.imagination.episodes import Values
from mbrl_ros.imagination.memory import Batch, Memory, Reward
from mbrl_ros.imagination.policy import Layer, networks
from mbrl_ros.imagination.rollouts import Imagination, Termination
from mbrl_ros.imagination.sac import configure
from mbrl_ros.planning.planner import Setting

FORMAT = "mbrl_ros.deep_dyna_q.1"
_LEAST_RATE = 1e-3  # of discounting, in the unit of values


class DeepDynaQ:
    """An agent: observe real steps, learn the model, imagine, learn what actions are worth.

    dimensions: D, of the state. actions: A, how many there are to choose from. model: learns the
    dynamics (and the reward, if no function is given for it), its features having A action
    dimensions; None: DQN. reward, termination: see `Imagination`. seed: of all random numbers.
    scales: a usual size of each state dimension, which the network divides by; None: all 1.
    The settings' values become attributes. Raises ValueError, naming it, if one cannot be used.
    """

    settings: ClassVar[tuple[Setting, ...]] = (
        Setting("hidden", 128, "Units of each hidden layer.", 1, 2048),
        Setting("layers", 2, "Hidden layers.", 1, 8),
        Setting("batch_size", 256, "Steps that an update sees.", 1, 65536),
        Setting("learning_rate", 1e-3, "Adam's.", 0.0, 1.0),
        Setting("discount", 0.99, "What a reward one step later is worth.", 0.0, 1.0),
        Setting("averaging", 0.005, "Share of the network in its target, an update.", 0.0, 1.0),
        Setting(
            "target",
            "double",
            "Who chooses the action whose value is the target: the network, or its target.",
            choices=("double", "single"),
        ),
        Setting("updates", 1, "Updates on real steps a real step.", 0, 1000),
        Setting("planning_updates", 5, "Updates on imagined steps a real step, K.", 0, 1000),
        Setting("warmup", 200, "Real steps with random actions before learning.", 1, 1e6),
        Setting("capacity", 100_000, "Real steps that are remembered.", 1, 100_000_000),
        Setting("exploration", 0.05, "Share of random actions in the end.", 0.0, 1.0),
        Setting("exploration_steps", 500, "Real steps until then, from all at random.", 1, 1e9),
        Setting("model_interval", 50, "Real steps between two lessons of the model.", 1, 1e6),
        Setting("slices", 5, "Slices of training a lesson of the model, at most.", 0, 100_000),
        Setting("rollout_interval", 10, "Real steps between two rounds of rollouts.", 1, 1e6),
        Setting("rollouts", 100, "Rollouts a round, from states visited.", 1, 1_000_000),
        Setting("horizon", 20, "Steps of a rollout.", 1, 100_000),
        Setting("imagined", 20_000, "Imagined steps that are remembered.", 1, 100_000_000),
        Setting("imagined_exploration", 0.3, "Share of random imagined actions.", 0.0, 1.0),
        Setting("propagation", "ts1", "See DynamicsModel.rollout.", choices=PROPAGATIONS),
    )
    hidden: int
    layers: int
    batch_size: int
    learning_rate: float
    discount: float
    averaging: float
    target: str
    updates: int
    planning_updates: int
    warmup: int
    capacity: int
    exploration: float
    exploration_steps: int
    model_interval: int
    slices: int
    rollout_interval: int
    rollouts: int
    horizon: int
    imagined: int
    imagined_exploration: float
    propagation: str

    def __init__(
        self,
        dimensions: int,
        actions: int,
        model: DynamicsModel | None = None,
        reward: Reward | None = None,
        termination: Termination | None = None,
        seed: int = 0,
        scales: Sequence[float] | None = None,
        **values: Any,
    ) -> None:
        for name, size in (("dimensions", dimensions), ("actions", actions)):
            if size < 1:
                raise ValueError(f"{name} is {size}, expected at least 1")
        configure(self, "deep Dyna-Q", self.settings, values)
        sizes = (dimensions, actions)
        if model is not None:
            seen = (model.features.state_dimensions, model.features.action_dimensions)
            if seen != sizes:
                raise ValueError(
                    f"the model has {seen[0]} state and {seen[1]} action dimensions, expected "
                    f"{dimensions} and {actions}, one for each action"
                )
        scales = (1.0,) * dimensions if scales is None else tuple(scales)
        if len(scales) != dimensions or not all(0.0 < scale < math.inf for scale in scales):
            raise ValueError(f"scales are {scales}, expected {dimensions} positive finite numbers")
        self.sizes = sizes
        self._scales = torch.tensor(scales)
        # The network predicts values in units of what a reward of 1 at every step adds up to:
        # its weights need not grow before they can say anything.
        self._unit = 1.0 / max(1.0 - self.discount, _LEAST_RATE)
        self.model = model
        self.steps = 0  # real ones so far
        self._begin = 0  # of them, those before it was loaded: none of them is remembered
        self._imagination = None
        if model is not None:
            self._imagination = Imagination(
                model, reward, termination, self.propagation, seed=seed
            )
        self._real, self._imagined = Memory(*sizes, self.capacity), Memory(*sizes, self.imagined)
        self._new: list[Batch] = []  # what the model has not learned from yet
        self._random = random.Random(seed)
        self._generator = torch.Generator().manual_seed(seed)
        self._network = self._new_network()
        self._target_network = [(w.detach().clone(), b.detach().clone()) for w, b in self._network]
        self._optimiser = torch.optim.Adam(
            [tensor for layer in self._network for tensor in layer],
            lr=self.learning_rate,
            fused=True,
        )

    def _new_network(self) -> list[Layer]:
        widths = (self.sizes[0], *(self.hidden,) * self.layers, self.sizes[1])
        layers = []
        for before, after in pairwise(widths):
            limit = before**-0.5  # as PyTorch initialises linear layers
            pair = torch.empty(1, before, after), torch.empty(1, 1, after)
            for tensor in pair:
                tensor.uniform_(-limit, limit, generator=self._generator).requires_grad_()
            layers.append(pair)
        return layers

    # -- acting -----------------------------------------------------------------------------

    @torch.no_grad()
    def values(self, states: Tensor) -> Tensor:
        """Return what each action is worth in states (N, D): (N, A), float32."""
        return self._unit * self._evaluated(self._network, states)

    def _evaluated(self, network: list[Layer], states: Tensor) -> Tensor:
        return networks(network, states.float() / self._scales)[0]

    def greedy(self, state: Values) -> int:
        """Return the best action in state (D,)."""
        return int(self.values(torch.as_tensor(state)[None]).argmax())

    def explore(self, state: Values) -> int:
        """Return an action to learn from in state (D,), epsilon-greedy."""
        done = min(max(self.steps - self.warmup, 0) / self.exploration_steps, 1.0)
        if self._random.random() < 1.0 + done * (self.exploration - 1.0):
            return self._random.randrange(self.sizes[1])
        return self.greedy(state)

    def _imagined_actions(self, states: Tensor) -> Tensor:
        chosen = self.values(states).argmax(1)
        others = torch.randint(self.sizes[1], chosen.shape, generator=self._generator)
        at_random = torch.rand(chosen.shape, generator=self._generator) < self.imagined_exploration
        return one_hot(torch.where(at_random, others, chosen), self.sizes[1]).float()

    # -- learning ---------------------------------------------------------------------------

    def observe(
        self, state: Values, action: int, reward: float, after: Values, terminated: bool
    ) -> None:
        """Remember a real step: state (D,), action and what came of them.

        terminated: whether the episode ended there for good, not merely by its time.
        Raises ValueError if a value is not finite or there is no such action.
        """
        dimensions, actions = self.sizes
        if not 0 <= action < actions:
            raise ValueError(f"action is {action}, expected 0 to {actions - 1}")
        choice = np.zeros(actions)
        choice[action] = 1.0
        row = np.concatenate([state, choice, [reward], after, [terminated]])
        if row.shape != (2 * dimensions + actions + 2,) or not np.isfinite(row).all():
            raise ValueError(
                f"a step is not of {dimensions} state dimensions, or holds a value that is not "
                "finite"
            )
        step = Batch(torch.from_numpy(row[None]).float(), *self.sizes)
        self._real.append(step)
        if self.model is not None:
            self._new.append(step)
        self.steps += 1

    def learn(self) -> None:
        """Do what is due after a real step: teach the model, imagine, update the network."""
        since = self.steps - self._begin - self.warmup
        if since < 0:
            return
        for _ in range(self.updates):
            self._update(self._real.draw(self.batch_size, self._generator))
        if self._imagination is None:
            return
        if since % self.model_interval == 0:
            self._imagination.teach(self._new, self.slices)
            self._new = []
        if since % self.rollout_interval == 0:
            starts = self._real.draw(self.rollouts, self._generator).states
            self._imagined.append(
                self._imagination.rollouts(self._imagined_actions, starts, self.horizon)
            )
        if len(self._imagined):
            for _ in range(self.planning_updates):
                self._update(self._imagined.draw(self.batch_size, self._generator))

    # -- files ------------------------------------------------------------------------------

    def save(self, path: Path) -> None:
        """Write network, scales and settings to a safetensors file.

        Neither the steps that are remembered are kept, nor the model. Raises OSError if the file
        cannot be written, SnapshotError if it would be too large to be read again.
        """
        tensors = {"scales": self._scales}
        for i, (weight, bias) in enumerate(self._network):
            tensors |= {f"weight{i}": weight.detach(), f"bias{i}": bias.detach()}
        settings = {s.name: str(getattr(self, s.name)) for s in self.settings}
        write(path, pack(tensors, {"format": FORMAT, "steps": str(self.steps), **settings}))

    @classmethod
    def load(
        cls,
        path: Path,
        model: DynamicsModel | None = None,
        reward: Reward | None = None,
        termination: Termination | None = None,
        seed: int = 0,
    ) -> DeepDynaQ:
        """Return the agent of a file; it learns on once it has seen `warmup` real steps again.

        model, reward, termination, seed: as for a new agent. Raises OSError if the file cannot
        be read, SnapshotError, saying why, if it is damaged or not of this kind, ValueError if
        the model does not fit.
        """
        data = path.read_bytes()
        try:
            metadata = unseal(data, FORMAT)
            steps = int(metadata.pop("steps", "-1"))
            if steps < 0:
                raise ValueError(f"steps is {steps}, expected at least 0")
            del metadata["format"]
            values = _values(metadata, cls.settings)
            tensors = safetensors.torch.load(data)
            sizes = _check(tensors, values["hidden"], values["layers"])
            scales = tensors["scales"].tolist()
            agent = cls(*sizes, seed=seed, scales=scales, **values)
        except ValueError as error:
            raise SnapshotError(f"{path}: {error}") from None
        if model is not None:
            agent = cls(*sizes, model, reward, termination, seed, scales, **values)
        agent.steps = agent._begin = steps
        with torch.no_grad():
            for network in (agent._network, agent._target_network):
                for i, (weight, bias) in enumerate(network):
                    weight.copy_(tensors[f"weight{i}"])
                    bias.copy_(tensors[f"bias{i}"])
        return agent

    def _update(self, batch: Batch) -> None:
        """Take one step on the squared temporal difference, by Huber's loss."""
        states, actions, rewards, after, terminated = batch.columns()
        with torch.no_grad():
            worth = self._evaluated(self._target_network, after)
            judge = self._evaluated(self._network, after) if self.target == "double" else worth
            following = worth.gather(1, judge.argmax(1, keepdim=True))[:, 0]
            wanted = rewards / self._unit + self.discount * (1.0 - terminated) * following
        found = (self._evaluated(self._network, states) * actions).sum(1)
        self._optimiser.zero_grad(set_to_none=True)
        smooth_l1_loss(found, wanted).backward()  # type: ignore[no-untyped-call]
        self._optimiser.step()
        with torch.no_grad():
            torch._foreach_lerp_(
                [tensor for layer in self._target_network for tensor in layer],
                [tensor for layer in self._network for tensor in layer],
                self.averaging,
            )


def _values(texts: dict[str, str], settings: Sequence[Setting]) -> dict[str, Any]:
    """Return the values of settings; raises ValueError unless there is a text for each."""
    if set(texts) != {setting.name for setting in settings}:
        raise ValueError(f"has the settings {sorted(texts)}, expected those of deep Dyna-Q")
    values: dict[str, Any] = {}
    for setting in settings:
        text = texts[setting.name]
        try:
            values[setting.name] = type(setting.default)(text)
            setting.check(values[setting.name])
        except ValueError as error:
            raise ValueError(f"setting {setting.name} is '{text}': {error}") from None
    return values


def _check(tensors: dict[str, Tensor], hidden: int, layers: int) -> tuple[int, int]:
    """Return D and A of a network; raises ValueError, saying what is wrong, unless it is one."""
    names = [f"{what}{i}" for i in range(layers + 1) for what in ("weight", "bias")]
    if set(tensors) != {"scales", *names}:
        raise ValueError(f"holds {sorted(tensors)}, expected scales and {layers + 1} layers")
    dimensions, actions = len(tensors["scales"].ravel()), len(tensors[names[-1]].ravel())
    widths = (dimensions, *(hidden,) * layers, actions)
    shapes: dict[str, tuple[int, ...]] = {"scales": (dimensions,)}
    for i, (before, after) in enumerate(pairwise(widths)):
        shapes |= {f"weight{i}": (1, before, after), f"bias{i}": (1, 1, after)}
    for name, shape in shapes.items():
        found = tensors[name]
        if found.dtype != torch.float32 or tuple(found.shape) != shape:
            raise ValueError(
                f"'{name}' is {found.dtype} of shape {list(found.shape)}, "
                f"expected {torch.float32} of {list(shape)}"
            )
        if not found.isfinite().all():
            raise ValueError(f"'{name}' holds a value that is not finite")
    return dimensions, actions


def train(agent: DeepDynaQ, environment: Any, steps: int, seed: int) -> Iterator[int]:
    """Let an agent act in a Gymnasium environment and learn; yields after each real step.

    The environment's actions are Discrete from 0 on, its observations a vector. seed: of it.
    """
    state, _ = environment.reset(seed=seed)
    for step in range(1, steps + 1):
        action = agent.explore(state)
        after, reward, terminated, truncated, _ = environment.step(action)
        agent.observe(state, action, float(reward), after, bool(terminated))
        agent.learn()
        yield step
        state = environment.reset()[0] if terminated or truncated else after
