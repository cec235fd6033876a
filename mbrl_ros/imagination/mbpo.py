# Copyright 2026 The mbrl_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Model-based policy optimisation: a policy trained on what a learned model imagines.

Janner et al., "When to Trust Your Model: Model-Based Policy Optimization" (NeurIPS 2019). Without
a model it is soft actor-critic on real steps alone, the same code in all else.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from mbrl_ros.dynamics.model import PROPAGATIONS, DynamicsModel
from mbrl_ros.imagination.episodes import Values
from mbrl_ros.imagination.episodes import evaluate as episodes_of
from mbrl_ros.imagination.memory import Batch, Memory, Reward, draw_mixed
from mbrl_ros.imagination.policy import Policy
from mbrl_ros.imagination.rollouts import Horizon, Imagination, Termination
from mbrl_ros.imagination.sac import SAC, configure
from mbrl_ros.planning.planner import Setting


class MBPO:
    """An agent: observe real steps, learn the model, imagine, learn to act.

    angle_mask, lower, upper: of the robot's state and action, see Policy. model: learns the
    dynamics (and the reward, if no function is given for it); None: no imagination. reward,
    termination, see Imagination. sac: settings of SAC. seed: of all random numbers.
    The settings' values become attributes. Raises ValueError, naming it, if one cannot be used.
    """

    settings: ClassVar[tuple[Setting, ...]] = (
        Setting("warmup", 200, "Real steps with random actions before learning.", 1, 1_000_000),
        Setting("updates", 1, "Updates of the policy a real step.", 0, 1000),
        Setting("capacity", 1_000_000, "Real steps that are remembered.", 1, 100_000_000),
        Setting("real_share", 0.05, "Share of real steps in what the policy sees.", 0.0, 1.0),
        Setting("model_interval", 50, "Real steps between two lessons of the model.", 1, 1e6),
        Setting("slices", 20, "Slices of training a lesson of the model, at most.", 0, 100_000),
        Setting("rollout_interval", 10, "Real steps between two rounds of rollouts.", 1, 1e6),
        Setting("rollouts", 400, "Rollouts a round.", 1, 1_000_000),
        Setting(
            "starts",
            "visited",
            "Where rollouts start: at states visited (MBPO), or where episodes began (ME-TRPO).",
            choices=("visited", "initial"),
        ),
        Setting("horizon", 1, "Steps of a rollout at first.", 1, 100_000),
        Setting("horizon_last", 1, "Steps of a rollout in the end.", 1, 100_000),
        Setting("horizon_begin", 0, "Real steps from which on the horizon changes.", 0, 1e9),
        Setting("horizon_end", 0, "Real steps from which on it is `horizon_last`.", 0, 1e9),
        Setting("imagined", 50_000, "Imagined steps that are remembered.", 1, 100_000_000),
        Setting("propagation", "ts1", "See DynamicsModel.rollout.", choices=PROPAGATIONS),
        Setting(
            "max_novelty", math.inf, "Novelty from which on rollouts are cut off.", 0.0, math.inf
        ),
    )
    warmup: int
    updates: int
    capacity: int
    real_share: float
    model_interval: int
    slices: int
    rollout_interval: int
    rollouts: int
    starts: str
    horizon: int
    horizon_last: int
    horizon_begin: int
    horizon_end: int
    imagined: int
    propagation: str
    max_novelty: float

    def __init__(
        self,
        angle_mask: Sequence[bool],
        lower: Sequence[float],
        upper: Sequence[float],
        model: DynamicsModel | None = None,
        reward: Reward | None = None,
        termination: Termination | None = None,
        sac: Mapping[str, Any] | None = None,
        seed: int = 0,
        **values: Any,
    ) -> None:
        values = {"horizon_last": values.get("horizon", 1)} | values
        configure(self, "MBPO", self.settings, values)
        self.sac = SAC(angle_mask, lower, upper, seed, **(sac or {}))
        self.model = model
        self.steps = 0  # real ones so far
        self._schedule = Horizon(
            self.horizon, self.horizon_last, self.horizon_begin, self.horizon_end
        )
        sizes = self.policy.sizes
        self._real = Memory(*sizes, self.capacity)
        self._imagined = Memory(*sizes, self.imagined)
        self._initial: list[Tensor] = []  # where episodes began
        self._new: list[Batch] = []  # what the model has not learned from yet
        self._generator = torch.Generator().manual_seed(seed)
        self._imagination: Imagination | None = None
        if model is not None and self.real_share < 1.0:
            self._imagination = Imagination(
                model, reward, termination, self.propagation, self.max_novelty, seed
            )

    @property
    def policy(self) -> Policy:
        """The policy in training; copy its snapshot to keep it as it is."""
        return self.sac.policy

    # -- acting -----------------------------------------------------------------------------

    def explore(self, state: Values) -> Values:
        """Return an action (A,) to learn from, in state (D,): drawn from the policy."""
        if self.steps < self.warmup:
            lower, upper = self.policy.lower, self.policy.upper
            share = torch.rand(len(lower), generator=self._generator)
            return torch.lerp(lower, upper, share).double().numpy()
        return self.policy.sample(torch.from_numpy(state)[None], self._generator)[0].numpy()

    # -- learning ---------------------------------------------------------------------------

    def begin(self, state: Values) -> None:
        """Take note that an episode begins in state (D,)."""
        self._initial.append(torch.from_numpy(np.array(state, np.float32)))

    def observe(
        self, state: Values, action: Values, reward: float, after: Values, terminated: bool
    ) -> None:
        """Remember a real step: state (D,), action (A,) and what came of them.

        terminated: whether the episode ended there for good, not merely by its time.
        Raises ValueError if a value is not finite.
        """
        values = np.concatenate([state, action, [reward], after, [terminated]])
        if not np.isfinite(values).all():
            raise ValueError("a step holds a value that is not finite")
        step = Batch(torch.from_numpy(values[None]), *self.policy.sizes)
        self._real.append(step)
        if self._imagination is not None:
            self._new.append(step)
        self.steps += 1

    def learn(self) -> None:
        """Do what is due after a real step: teach the model, imagine, update the policy."""
        if self.steps < self.warmup:
            return
        since = self.steps - self.warmup
        if self._imagination is not None:
            if since % self.model_interval == 0:
                self._imagination.teach(self._new, self.slices)
                self._new = []
            if since % self.rollout_interval == 0:
                self._imagined.append(self._imagine(self._imagination))
        for _ in range(self.updates):
            self.sac.update(self._minibatch())

    def _imagine(self, imagination: Imagination) -> Batch:
        if self.starts == "initial":
            chosen = torch.randint(len(self._initial), (self.rollouts,), generator=self._generator)
            starts = torch.stack(self._initial)[chosen]
        else:
            starts = self._real.draw(self.rollouts, self._generator).states
        return imagination.rollouts(self._sample, starts, self._schedule.at(self.steps))

    def _sample(self, states: Tensor) -> Tensor:
        return self.policy.sample(states, self._generator)

    def _minibatch(self) -> Batch:
        return draw_mixed(
            self._real, self._imagined, self.sac.batch_size, self.real_share, self._generator
        )


def interact(agent: MBPO, environment: Any, steps: int, seed: int) -> Iterator[float | None]:
    """Let an agent act in a Gymnasium environment and learn; nothing happens until asked on.

    Yields after every step: the episode's return where one ended, else None. seed: of the
    environment.
    """
    state, _ = environment.reset(seed=seed)
    agent.begin(state)
    total = 0.0
    for _ in range(steps):
        action = agent.explore(state)
        after, reward, terminated, truncated, _ = environment.step(action)
        agent.observe(state, action, float(reward), after, bool(terminated))
        agent.learn()
        total += float(reward)
        state = after
        over = terminated or truncated
        yield total if over else None
        if over:
            total = 0.0
            state, _ = environment.reset()
            agent.begin(state)


def evaluate(policy: Policy, environment: Any, episodes: int, seed: int) -> list[float]:
    """Return the sum of rewards of each of so many episodes of the policy's likeliest actions.

    The same seed (>= 0) gives the same episodes.
    """

    def act(state: Values) -> Values:
        return policy.act(torch.from_numpy(np.asarray(state))[None])[0].numpy()

    return episodes_of(act, environment, episodes, seed)
