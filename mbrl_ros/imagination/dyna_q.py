# Copyright 2026 The mbrl_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Tabular Q-learning that also learns from a model: Dyna-Q, Dyna-Q+, prioritised sweeping.

After Sutton and Barto, "Reinforcement Learning: An Introduction" (2nd edition, 2018), chapter 8.
"""

from __future__ import annotations

import heapq
import math
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from pydantic import TypeAdapter, ValidationError
from torch import Tensor

from mbrl_ros.dynamics.snapshot import SnapshotError, pack, unseal, write

FORMAT = "mbrl_ros.dyna_q.1"
MODELS = ("deterministic", "stochastic")
MAX_PAIRS = 1_000_000

# (reward, next state, whether the episode ended there)
Outcome = tuple[float, int, bool]


@dataclass(frozen=True)
class Settings:
    """How a `DynaQ` learns.

    planning_steps: updates from the model after each real step, K; 0: plain Q-learning.
    step_size: alpha, in (0, 1]. discount: gamma, in [0, 1]. exploration: epsilon, the share of
    actions chosen at random. bonus: kappa >= 0 of Dyna-Q+ (section 8.3): planning adds kappa
    sqrt(tau) to the reward of what was not tried for tau real steps; 0: Dyna-Q.
    model: `deterministic` believes the last outcome of a state and action, `stochastic` counts
    all that were seen and expects their mean. sweep_threshold: None, or theta >= 0 of
    prioritised sweeping (section 8.4): only what would change by more than that is updated, the
    largest change first.
    Raises ValueError, naming the setting, if one cannot be used.
    """

    planning_steps: int = 10
    step_size: float = 0.1
    discount: float = 0.95
    exploration: float = 0.1
    bonus: float = 0.0
    model: str = "deterministic"
    sweep_threshold: float | None = None

    def __post_init__(self) -> None:
        if self.planning_steps < 0:
            raise ValueError(f"planning_steps is {self.planning_steps}, expected at least 0")
        if not 0.0 < self.step_size <= 1.0:
            raise ValueError(f"step_size is {self.step_size}, expected more than 0, at most 1")
        for name, share in (("discount", self.discount), ("exploration", self.exploration)):
            if not 0.0 <= share <= 1.0:
                raise ValueError(f"{name} is {share}, expected 0 to 1")
        for name, size in (("bonus", self.bonus), ("sweep_threshold", self.sweep_threshold)):
            if size is not None and not 0.0 <= size < math.inf:
                raise ValueError(f"{name} is {size}, expected a finite number, at least 0")
        if self.model not in MODELS:
            raise ValueError(f"model is '{self.model}', expected one of {', '.join(MODELS)}")
        if self.sweep_threshold is not None and self.planning_steps == 0:
            raise ValueError(
                "sweep_threshold is set, but planning_steps is 0: prioritised sweeping learns by "
                "planning only; expected planning_steps of at least 1"
            )
        if self.sweep_threshold is not None and self.bonus > 0.0:
            raise ValueError(
                f"bonus is {self.bonus} and sweep_threshold is set: the bonus grows with time "
                "everywhere, and no queue would notice; expected one of them only"
            )


_SETTINGS = TypeAdapter(Settings)


class DynaQ:
    """Action values of S states and A actions, and a model of what follows each pair.

    `act` chooses, `learn` takes in what came of it and plans. The same seed and the same
    experience give the same values. steps: real steps so far; updates: of single values, real
    and imagined.
    """

    def __init__(
        self, states: int, actions: int, settings: Settings | None = None, seed: int = 0
    ) -> None:
        for name, size in (("states", states), ("actions", actions)):
            if size < 1:
                raise ValueError(f"{name} is {size}, expected at least 1")
        if states * actions > MAX_PAIRS:
            raise ValueError(
                f"a table of {states} states and {actions} actions has {states * actions} "
                f"entries, expected at most {MAX_PAIRS}; deep_dyna_q does without a table"
            )
        self.states, self.actions = states, actions
        self.settings = Settings() if settings is None else settings
        self.steps = self.updates = 0
        # Of their own, so that agents who plan more or less act alike until they know more.
        self._acting, self._planning = random.Random(seed), random.Random(seed)
        # Plain lists and numbers: NumPy is several times as slow for single values.
        self._values = [[0.0] * actions for _ in range(states)]
        # A pair is state * A + action. The model: how often each outcome of a pair was seen.
        self._model: dict[int, dict[Outcome, int]] = {}
        self._pairs: list[int] = []  # the model's, in the order in which they came
        self._last_tried = [0] * (states * actions)  # the step; 0: never
        self._leading_to: dict[int, set[int]] = {}  # state -> pairs that the model leads there
        self._queue: list[tuple[float, int]] = []  # (-priority, pair); some out of date
        self._priority: dict[int, float] = {}  # of what is in the queue

    @property
    def values(self) -> np.ndarray:
        """The action values, a copy (S, A)."""
        return np.array(self._values)

    def greedy(self, state: int) -> int:
        """Return the best action; the first of several."""
        values = self._values[state]
        return values.index(max(values))

    def act(self, state: int) -> int:
        """Return an action, epsilon-greedy; of several that are best, a random one."""
        if self._acting.random() < self.settings.exploration:
            return self._acting.randrange(self.actions)
        values = self._values[state]
        best = max(values)
        if values.count(best) == 1:
            return values.index(best)
        return self._acting.choice([i for i, value in enumerate(values) if value == best])

    # -- learning ---------------------------------------------------------------------------

    def learn(
        self, state: int, action: int, reward: float, next_state: int, terminated: bool
    ) -> None:
        """Learn from one real step, then from `planning_steps` imagined ones.

        terminated: whether nothing follows next_state, rather than that time was up.
        Raises ValueError if a number is not one of the table's or the reward is not finite.
        """
        for name, number, size in (
            ("state", state, self.states),
            ("action", action, self.actions),
            ("next_state", next_state, self.states),
        ):
            if not 0 <= number < size:
                raise ValueError(f"{name} is {number}, expected 0 to {size - 1}")
        if not math.isfinite(reward):
            raise ValueError(f"reward is {reward}, expected a finite number")
        self.steps += 1
        pair = state * self.actions + action
        outcome = (float(reward), int(next_state), bool(terminated))
        self._remember(pair, outcome)
        if self.settings.sweep_threshold is not None:
            self._sweep(pair)
            return
        self._move(pair, self._target(outcome))
        for imagined in self._planning.choices(self._pairs, k=self.settings.planning_steps):
            self._move(imagined, self._expected(imagined) + self._bonus(imagined))

    def _remember(self, pair: int, outcome: Outcome) -> None:
        """Add an outcome to the model."""
        if pair not in self._model:
            # Dyna-Q+ also plans what was never tried in a state: at first it is thought to
            # lead back there without a reward (the footnote in section 8.3).
            first = pair - pair % self.actions
            untried = range(first, first + self.actions) if self.settings.bonus > 0.0 else (pair,)
            for new in untried:
                self._model[new] = {(0.0, pair // self.actions, False): 1}
                self._pairs.append(new)
        known = self._model[pair]
        if self._last_tried[pair] == 0 or self.settings.model == "deterministic":
            for _, state, _ in known:
                self._leading_to.get(state, set()).discard(pair)
            known.clear()
        known[outcome] = known.get(outcome, 0) + 1
        self._leading_to.setdefault(outcome[1], set()).add(pair)
        self._last_tried[pair] = self.steps

    def _move(self, pair: int, target: float) -> None:
        """Move the value of a pair towards the target."""
        values, action = self._values[pair // self.actions], pair % self.actions
        values[action] += self.settings.step_size * (target - values[action])
        self.updates += 1

    def _target(self, outcome: Outcome) -> float:
        reward, state, terminated = outcome
        return reward if terminated else reward + self.settings.discount * max(self._values[state])

    def _expected(self, pair: int) -> float:
        """Return the target that the model expects."""
        outcomes = self._model[pair]
        if len(outcomes) == 1:
            return self._target(next(iter(outcomes)))
        total = sum(count * self._target(outcome) for outcome, count in outcomes.items())
        return total / sum(outcomes.values())

    def _bonus(self, pair: int) -> float:
        if self.settings.bonus == 0.0:
            return 0.0
        return self.settings.bonus * math.sqrt(self.steps - self._last_tried[pair])

    # -- prioritised sweeping ---------------------------------------------------------------

    def _sweep(self, pair: int) -> None:
        """Update what would change most, then see what that changes before it."""
        self._enqueue(pair)
        for _ in range(self.settings.planning_steps):
            while self._queue and self._priority.get(self._queue[0][1]) != -self._queue[0][0]:
                heapq.heappop(self._queue)  # out of date
            if not self._queue:
                return
            _, pair = heapq.heappop(self._queue)
            del self._priority[pair]
            self._move(pair, self._expected(pair))
            self._enqueue(pair)  # a step size below 1 leaves a part of the error
            for before in self._leading_to.get(pair // self.actions, ()):
                self._enqueue(before)

    def _enqueue(self, pair: int) -> None:
        value = self._values[pair // self.actions][pair % self.actions]
        priority = abs(self._expected(pair) - value)
        assert self.settings.sweep_threshold is not None
        if priority > max(self.settings.sweep_threshold, self._priority.get(pair, 0.0)):
            self._priority[pair] = priority
            heapq.heappush(self._queue, (-priority, pair))

    # -- files ------------------------------------------------------------------------------

    def snapshot(self) -> dict[str, Tensor]:
        """Return values and model as tensors, for `restored`.

        Neither the state of the random numbers is kept, nor the queue of prioritised sweeping.
        """
        rows = [
            (pair, *outcome, count)
            for pair in self._pairs
            for outcome, count in self._model[pair].items()
        ]
        pairs, rewards, states, terminated, counts = zip(*rows, strict=True) if rows else [()] * 5
        return {
            "values": torch.tensor(self._values, dtype=torch.float64),
            "last_tried": torch.tensor(self._last_tried).view(self.states, self.actions),
            "pairs": torch.tensor(pairs, dtype=torch.int64),
            "rewards": torch.tensor(rewards, dtype=torch.float64),
            "next_states": torch.tensor(states, dtype=torch.int64),
            "terminated": torch.tensor(terminated, dtype=torch.int64),
            "counts": torch.tensor(counts, dtype=torch.int64),
        }

    @staticmethod
    def restored(
        tensors: Mapping[str, Tensor], steps: int, settings: Settings | None = None, seed: int = 0
    ) -> DynaQ:
        """Return the agent that a snapshot is of, after so many real steps.

        Raises ValueError, saying what is wrong, unless it is one.
        """
        _check(tensors, steps)
        states, actions = tensors["values"].shape
        agent = DynaQ(states, actions, settings, seed)
        agent.steps = steps
        agent._values = tensors["values"].tolist()
        agent._last_tried = tensors["last_tried"].flatten().tolist()
        names = ("pairs", "rewards", "next_states", "terminated", "counts")
        columns = (tensors[name].tolist() for name in names)
        for pair, reward, state, end, count in zip(*columns, strict=True):
            if pair not in agent._model:
                agent._pairs.append(pair)
            agent._model.setdefault(pair, {})[(reward, state, bool(end))] = count
            agent._leading_to.setdefault(state, set()).add(pair)
        return agent

    def save(self, path: Path) -> None:
        """Write the snapshot and the settings to a safetensors file; OSError if that fails."""
        settings = {n: str(v) for n, v in asdict(self.settings).items() if v is not None}
        metadata = {"format": FORMAT, "steps": str(self.steps), **settings}
        write(path, pack(self.snapshot(), metadata))

    @staticmethod
    def load(path: Path, seed: int = 0) -> DynaQ:
        """Return what a file holds, to go on from there.

        Raises OSError if the file cannot be read, SnapshotError, saying why, if it is damaged
        or not of this kind.
        """
        data = path.read_bytes()
        try:
            metadata = unseal(data, FORMAT)
            steps = int(metadata.pop("steps", "-1"))
            del metadata["format"]
            settings = _settings(metadata)
            return DynaQ.restored(safetensors.torch.load(data), steps, settings, seed)
        except ValueError as error:
            raise SnapshotError(f"{path}: {error}") from None


def _settings(texts: dict[str, str]) -> Settings:
    unknown = set(texts) - {field.name for field in fields(Settings)}
    if unknown:
        raise ValueError(f"has the unknown settings {', '.join(sorted(unknown))}")
    try:
        return _SETTINGS.validate_strings(texts)
    except ValidationError as error:
        problem = error.errors(include_url=False)[0]
        where = "".join(f"{part}: " for part in problem["loc"])
        raise ValueError(f"settings are not valid: {where}{problem['msg']}") from None


def _check(tensors: Mapping[str, Tensor], steps: int) -> None:
    """Raise ValueError, saying what is wrong, unless the tensors are those of a table."""
    whole, real = torch.int64, torch.float64
    expected = {
        "values": (real, 2),
        "last_tried": (whole, 2),
        "pairs": (whole, 1),
        "rewards": (real, 1),
        "next_states": (whole, 1),
        "terminated": (whole, 1),
        "counts": (whole, 1),
    }
    if set(tensors) != set(expected):
        raise ValueError(f"holds {sorted(tensors)}, expected {sorted(expected)}")
    for name, (dtype, dimensions) in expected.items():
        found = tensors[name]
        if found.dtype != dtype or found.ndim != dimensions:
            raise ValueError(
                f"'{name}' is {found.dtype} of {found.ndim} dimensions, "
                f"expected {dtype} of {dimensions}"
            )
        like = "values" if dimensions == 2 else "pairs"
        if found.shape != tensors[like].shape:
            raise ValueError(f"'{name}' and '{like}' differ in shape")
        if not found.isfinite().all():
            raise ValueError(f"'{name}' holds a value that is not finite")
    values = tensors["values"]
    for name, least, most in (
        ("last_tried", 0, steps),
        ("pairs", 0, values.numel() - 1),
        ("next_states", 0, len(values) - 1),
        ("terminated", 0, 1),
        ("counts", 1, max(steps, 1)),
    ):
        outside = (tensors[name] < least) | (tensors[name] > most)
        if outside.any():
            raise ValueError(f"'{name}' holds a value outside {least} to {most}")
    tried = set(torch.nonzero(tensors["last_tried"].flatten())[:, 0].tolist())
    if not tried <= set(tensors["pairs"].tolist()):
        raise ValueError("'last_tried' has a pair that the model does not have")


# -- Gymnasium --------------------------------------------------------------------------------


class Numbering:
    """Numbers 0 to size - 1 for rows of whole numbers.

    starts, sizes: of each number of a row, where it begins and how many values it has. single:
    a row is a plain number.
    """

    def __init__(self, starts: Sequence[int], sizes: Sequence[int], single: bool = False) -> None:
        self._single = single
        self._starts, self._shape = np.array(starts), tuple(sizes)
        self.size = math.prod(self._shape)

    @staticmethod
    def of(space: Any) -> Numbering:
        """Return that of a Gymnasium space; ValueError unless it is Discrete or MultiDiscrete."""
        from gymnasium.spaces import Discrete, MultiDiscrete

        if not isinstance(space, Discrete | MultiDiscrete):
            raise ValueError(f"the space is {space}, expected one Discrete or MultiDiscrete")
        single = isinstance(space, Discrete)
        sizes: Any = space.n if isinstance(space, Discrete) else space.nvec
        return Numbering(np.ravel(space.start).tolist(), np.ravel(sizes).tolist(), single)

    def number(self, value: Any) -> int:
        """Return the number of a row; ValueError for one that has none."""
        if self._single:
            return int(value) - int(self._starts[0])
        return int(np.ravel_multi_index(tuple(np.ravel(value) - self._starts), self._shape))

    def value(self, number: int) -> Any:
        """Return the row that has this number."""
        if self._single:
            return number + int(self._starts[0])
        return np.array(np.unravel_index(number, self._shape)) + self._starts


@dataclass(frozen=True)
class RealStep:
    """What one real step brought; ended: whether the episode did."""

    reward: float
    ended: bool


def agent_for(environment: Any, settings: Settings | None = None, seed: int = 0) -> DynaQ:
    """Make an agent for a Gymnasium environment; ValueError if a space is not discrete."""
    states = Numbering.of(environment.observation_space).size
    return DynaQ(states, Numbering.of(environment.action_space).size, settings, seed)


def interact(agent: DynaQ, environment: Any, steps: int, seed: int = 0) -> Iterator[RealStep]:
    """Let an agent learn in a Gymnasium environment, episode after episode.

    Yields each real step after the agent has learned from it. seed: of the environment.
    """
    observations = Numbering.of(environment.observation_space)
    actions = Numbering.of(environment.action_space)
    observation, _ = environment.reset(seed=seed)
    state = observations.number(observation)
    for _ in range(steps):
        action = agent.act(state)
        observation, reward, terminated, truncated, _ = environment.step(actions.value(action))
        following = observations.number(observation)
        agent.learn(state, action, float(reward), following, terminated)
        ended = bool(terminated or truncated)
        yield RealStep(float(reward), ended)
        state = observations.number(environment.reset()[0]) if ended else following
