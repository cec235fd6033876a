# Copyright 2026 The mbrl_ros authors
# SPDX-License-Identifier: Apache-2.0
"""The loop of planners that draw candidates: propose, roll out, score, update."""

from __future__ import annotations

import math
import time
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from mbrl_ros.dynamics.model import PRECISIONS, PROPAGATIONS, DynamicsModel
from mbrl_ros.planning.noise import coloured_noise
from mbrl_ros.planning.objective import Objective
from mbrl_ros.planning.planner import (
    EAGER,
    Plan,
    Planner,
    PlanningError,
    Problem,
    Setting,
    Way,
    actions_in_force,
)

RISKS = ("mean", "deviation", "cvar")
OPTIMIZATIONS = ("none", "auto", "compile", "cuda")
# Where time is short, candidates are left out by whole parts of all of them, so that buffers
# are made for few sizes only.
_PARTS = 8
# Rehearsals to measure by, and the share of the time that makes another way worth it.
_REHEARSALS = 5
_WORTH_IT = 0.8
# How much each new measurement of time a candidate counts.
_GAIN = 0.2
_POLICY_COLOUR = 1.0  # of the noise around a policy's actions: pink


@dataclass(frozen=True)
class Search:
    """Where candidates are drawn: around mean (H, A), with deviation (H, A).

    elites (H, E, A): good candidates so far, or None. guided: how many candidates, the last
    ones, are not drawn but proposed by a policy.
    """

    mean: Tensor
    deviation: Tensor
    elites: Tensor | None = None
    guided: int = 0


@dataclass(frozen=True)
class Update:
    """What an iteration came to: where to search next, and the actions (H, A) to send.

    effective_samples: how many candidates share the weight.
    """

    search: Search
    actions: Tensor
    effective_samples: float


class SamplingPlanner(Planner):
    """Draws candidates a few times, each time nearer to the good ones; a kind says how.

    Every candidate is rolled out as `particles` particles; `risk` makes one cost of theirs.
    """

    settings: ClassVar[tuple[Setting, ...]] = (
        Setting("samples", 500, "Candidate trajectories an iteration.", 1, 1_000_000),
        *Planner.settings,
        Setting(
            "propagation",
            "auto",
            "How a rollout carries the model's uncertainty, see docs/architecture.md; auto: as "
            "suits the model.",
            choices=("auto", *PROPAGATIONS),
        ),
        Setting(
            "particles", 1, "Particles a candidate; 1 with propagation `auto` or `mean`.", 1, 1000
        ),
        Setting(
            "risk",
            "mean",
            "One cost of many particles: their mean, the mean plus `risk_weight` deviations, or "
            "the mean of the worst share of `risk_weight` (cvar).",
            choices=RISKS,
        ),
        Setting("risk_weight", 0.5, "See `risk`.", 0.0, 100.0),
        Setting(
            "precision",
            "float32",
            "What candidates are rolled out in; bfloat16: hidden layers of networks with 8 bits, "
            "about twice as fast on processors that have such products. The plan itself is always "
            "predicted in float32.",
            choices=PRECISIONS,
        ),
        Setting(
            "optimize",
            "none",
            "auto: measure once, when the first model comes, and roll candidates out on the GPU, "
            "compiled or in bfloat16 if that is faster by a fifth, so that runs on two machines "
            "may differ. compile, cuda: through torch.compile, or on the GPU as one CUDA graph, "
            "if that works. none: as `precision` says.",
            choices=OPTIMIZATIONS,
        ),
        Setting(
            "policy_share",
            0.1,
            "Share of the candidates that a policy proposes, where there is one.",
            0.0,
            0.9,
        ),
        Setting(
            "policy_noise",
            0.3,
            "Widest noise around what it does, as a share of half the range; the first candidate "
            "has none.",
            0.0,
            10.0,
        ),
    )
    samples: int
    propagation: str
    particles: int
    risk: str
    risk_weight: float
    precision: str
    optimize: str
    policy_share: float
    policy_noise: float

    def __init__(
        self, objective: Objective, lower: Sequence[float], upper: Sequence[float], **values: Any
    ) -> None:
        super().__init__(objective, lower, upper, **values)
        if self.propagation in ("auto", "mean") and self.particles > 1:
            raise ValueError(
                f"particles is {self.particles}, expected 1 with propagation {self.propagation}"
            )
        if self.risk == "cvar" and not 0.0 < self.risk_weight <= 1.0:
            raise ValueError(
                f"risk_weight is {self.risk_weight}, expected a share above 0 and up to 1"
            )
        self._seconds = math.nan  # that one candidate takes
        self._guiding_seconds = 0.0  # that a policy takes to propose
        self._way = Way(self.precision)
        self._is_chosen = self.optimize == "none"

    def search(self, last: Plan | None) -> Search:
        """Return where the first candidates of a tick are drawn."""
        mean = self._start(last)
        elites = None if last is None else last.shifted().elites
        return Search(mean, torch.zeros_like(mean), elites)

    @abstractmethod
    def propose(
        self, search: Search, count: int, iteration: int, generator: torch.Generator
    ) -> Tensor:
        """Return about `count` candidate action sequences (H, N, A)."""

    @abstractmethod
    def update(self, search: Search, candidates: Tensor, costs: Tensor) -> Update:
        """Learn from an iteration.

        candidates (H, N, A) lie within bounds and slew limits; costs (N,) are infinite for
        discarded ones, finite for at least one.
        """

    @torch.no_grad()
    def plan(self, problem: Problem, model: DynamicsModel, last: Plan | None) -> Plan:
        """Iterate as often, with as many candidates, as the time budget allows."""
        begin = time.perf_counter()
        generator = torch.Generator().manual_seed(problem.seed)
        search, update = self.search(last), None
        discarded = evaluated = iterations = 0
        proposed = torch.empty(self.horizon, 0, self.action_dimensions)
        is_guided, hurried = self._is_guided(problem)
        for iteration in range(self.iterations):
            count = self._affordable(problem.time_budget - (time.perf_counter() - begin))
            hurried = hurried or count < self.samples
            if count == 0:
                if update is not None:
                    break
                count = -(-self.samples // _PARTS)  # the least that can be called planning
            guided = min(math.ceil(self.policy_share * count), count - 1)
            led = guided if is_guided and iteration == 0 else 0
            if led:
                proposed = self._policy_noise(led, generator)
            proposed = proposed[:, :guided]
            search = replace(search, guided=proposed.shape[1])
            candidates = self.propose(search, count - search.guided, iteration, generator)
            self.hold_to_limits(candidates, problem.previous_action)
            if search.guided:
                candidates = torch.cat([candidates, proposed], 1)
            costs = self._costs(problem, model, candidates, led, generator)
            proposed = candidates[:, candidates.shape[1] - search.guided :]
            finite = costs.isfinite()
            discarded += int((~finite).sum())
            evaluated += len(costs)
            iterations += 1
            if not finite.any():
                raise PlanningError(
                    f"all {len(costs)} predicted trajectories hold values that are not finite"
                )
            update = self.update(search, candidates, torch.where(finite, costs, torch.inf))
            mean = self.hold_to_limits(update.search.mean.clone(), problem.previous_action)
            search = replace(update.search, mean=mean)
        assert update is not None
        actions = self.hold_to_limits(update.actions.clone(), problem.previous_action)
        states = self._rollout(problem, model, actions[:, None])
        cost = self._score(problem, model, states, actions[:, None])
        if not (cost.isfinite().all() and states.isfinite().all()):
            raise PlanningError("the planned trajectory holds values that are not finite")
        return Plan(
            actions,
            states[:, 0],
            float(cost[0]),
            update.effective_samples,
            discarded,
            iterations,
            evaluated,
            search.elites,
            hurried,
        )

    def prepare(self, model: DynamicsModel) -> list[str]:
        """Let a new model make its buffers for all candidates, and for one trajectory.

        Unless `optimize` is `none`, the first call also finds out how to roll them out, which
        takes as long as a compiler does.
        """
        remarks = super().prepare(model)
        if not self._is_chosen:
            remarks += self._choose(model)
            self._is_chosen = True
        self._rehearse(model, self._rows, self._propagation(model), self._way)
        if self.guide is not None and self.policy_share and not self._rolls_together(model):
            self._rehearse(model, math.ceil(self.policy_share * self.samples))
        return remarks

    @property
    def _rows(self) -> int:
        return self.samples * self.particles

    def _choose(self, model: DynamicsModel) -> list[str]:
        """Choose the way to roll candidates out; say which, and why not another."""
        offered = model.engines(self._propagation(model))
        if self.optimize in offered:
            offered = (self.optimize,)
        elif self.optimize != "auto":
            able = {"compile": "compile", "cuda": "roll out on a GPU"}[self.optimize]
            return [f"optimize: {self.optimize}: model '{model.kind}' has nothing to {able}"]
        elif not torch.cuda.is_available():
            offered = tuple(engine for engine in offered if engine != "cuda")
        # From the most exact to the one that must be worth the most.
        ways = [Way(self.precision, engine) for engine in ("eager", *offered)]
        if self.optimize == "auto":
            rounded = PRECISIONS[PRECISIONS.index(self.precision) + 1 :]
            ways += [
                Way(p, way.engine) for p in rounded for way in ways if way.engine != "compile"
            ]
        taken, remarks = {}, []
        for way in ways:
            try:
                taken[way] = self._measure(model, way)
            except Exception as error:  # whatever a compiler or a driver may raise
                if way.engine == "eager":
                    raise
                cause = str(error).strip().partition("\n")[0]
                name = {"compile": "torch.compile", "cuda": "CUDA"}[way.engine]
                remarks.append(
                    f"optimize: {name} does not work here, going on without: "
                    f"{type(error).__name__}: {cause}"
                )
        for way, seconds in taken.items():
            wanted = self.optimize == way.engine
            if wanted or (self.optimize == "auto" and seconds < _WORTH_IT * taken[self._way]):
                self._way = way
        times = ", ".join(f"{way} {1e3 * seconds:.2f} ms" for way, seconds in taken.items())
        remarks.append(
            f"optimize: {self._rows} candidates are rolled out in {self._way} (a step: {times})"
        )
        return remarks

    def _measure(self, model: DynamicsModel, way: Way) -> float:
        """Return the least seconds of a few rehearsals, after one that makes what it needs."""
        propagation = self._propagation(model)
        self._rehearse(model, self._rows, propagation, way)
        return min(self._rehearse(model, self._rows, propagation, way) for _ in range(_REHEARSALS))

    def _propagation(self, model: DynamicsModel) -> str:
        return model.planning_propagation if self.propagation == "auto" else self.propagation

    def _affordable(self, seconds: float) -> int:
        """Return how many candidates can be evaluated in so many seconds."""
        if math.isinf(seconds):
            return self.samples
        if math.isnan(self._seconds):
            return -(-self.samples // _PARTS)  # to measure with
        parts = min(math.floor(seconds / (self._seconds * self.samples) * _PARTS), _PARTS)
        return max(self.samples * parts // _PARTS, 0)

    def _is_guided(self, problem: Problem) -> tuple[bool, bool]:
        """Return whether a policy proposes candidates, and whether there is no time for it."""
        goal = problem.goal[-1] if problem.goal.ndim == 2 else problem.goal
        if self.guide is None or self.policy_share == 0.0 or not self.guide.holds(goal):
            return False, False
        if self._guiding_seconds > 0.5 * problem.time_budget:
            self._guiding_seconds *= 1.0 - _GAIN  # one slow measurement must not last for ever
            return False, True
        return True, False

    def _policy_noise(self, count: int, generator: torch.Generator) -> Tensor:
        """Return deviations (H, K, A) from what the policy does, from none to the widest."""
        scale = torch.linspace(0.0, self.policy_noise, count)[:, None] * self.half_range
        return scale * coloured_noise(
            _POLICY_COLOUR, self.horizon, count, self.action_dimensions, generator
        )

    def _rolls_together(self, model: DynamicsModel) -> bool:
        """Return whether the rollout that a policy leads, see `_lead`, serves all candidates.

        Not where they are moved by noise, which nobody can foresee.
        """
        noiseless = self._propagation(model) in ("mean", "pathwise")
        return self._way == EAGER and self.particles == 1 and noiseless

    def _lead(
        self,
        problem: Problem,
        model: DynamicsModel,
        actions: Tensor,
        led: int,
        propagation: str = "mean",
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Roll out actions (H, N, A): trajectories (H + 1, N, D).

        The last `led` of them hold deviations from what a policy does in these, and are
        overwritten with what it does: its actions and these deviations, within bounds and slew
        limits.
        """
        assert self.guide is not None
        act, seconds = self.guide.policy.act, 0.0
        step = model.stepper(propagation, actions.shape[1], generator)
        states = [problem.state.expand(actions.shape[1], -1)]
        before, late = problem.previous_action, problem.delay_fraction
        for action in actions:
            begin = time.perf_counter()
            proposed = action[-led:]
            proposed += act(states[-1][-led:])
            self.hold_to_limits(proposed[None], before[-led:] if before.ndim == 2 else before)
            seconds += time.perf_counter() - begin
            in_force = torch.lerp(action, before, late) if late else action
            states.append(step(states[-1], in_force))
            before = action
        # From where a prediction is not a number on, neither is what the policy does there; even a
        # candidate without weight must hold numbers.
        proposed = actions[:, -led:]
        torch.clamp(proposed.nan_to_num_(), self.lower, self.upper, out=proposed)
        self._guiding_seconds += (_GAIN if self._guiding_seconds else 1.0) * (
            seconds - self._guiding_seconds
        )
        return torch.stack(states)

    def _costs(
        self,
        problem: Problem,
        model: DynamicsModel,
        candidates: Tensor,
        led: int,
        generator: torch.Generator,
    ) -> Tensor:
        """Roll out and score candidates (H, N, A): costs (N,), not finite where a particle is.

        led: how many of them, the last ones, a policy has yet to propose, see `_lead`.
        """
        begin = time.perf_counter()
        particles = candidates
        if led and self._rolls_together(model):
            propagation = self._propagation(model)
            states = self._lead(problem, model, candidates, led, propagation, generator)
        else:
            if led:
                self._lead(problem, model, candidates[:, -led:], led)
            if self.particles > 1:
                particles = candidates.repeat_interleave(self.particles, dim=1)
            states = self._predict(problem, model, particles, generator)
        costs = self._score(problem, model, states, particles)
        # Cost terms need not look at every dimension; what is not finite once stays so.
        costs = torch.where(states[-1].isfinite().all(1), costs, torch.nan)
        if self.particles > 1:
            costs = self._risked(costs.view(-1, self.particles))
        seconds = (time.perf_counter() - begin) / candidates.shape[1]
        if math.isnan(self._seconds):
            self._seconds = seconds
        self._seconds += _GAIN * (seconds - self._seconds)
        return costs

    def _predict(
        self, problem: Problem, model: DynamicsModel, particles: Tensor, generator: torch.Generator
    ) -> Tensor:
        """Roll out particles, actions (H, N, A), in the way that was chosen: (H + 1, N, D)."""
        way, rows = self._way, particles.shape[1]
        if way.engine == "compile" and rows != self._rows:
            way = Way(way.precision)  # compiling takes seconds: not on a tick
        elif way.engine == "cuda" and rows < self._rows:  # nor is there time for another graph
            particles = torch.nn.functional.pad(particles, (0, 0, 0, self._rows - rows))
        propagation = self._propagation(model)
        return self._rollout(problem, model, particles, propagation, generator, way)[:, :rows]

    def _score(
        self, problem: Problem, model: DynamicsModel, states: Tensor, actions: Tensor
    ) -> Tensor:
        return self.objective.cost(states, actions, problem.goal, problem.previous_action, model)

    def _risked(self, costs: Tensor) -> Tensor:
        """Return one cost (N,) of costs (N, P)."""
        if self.risk == "mean":
            return costs.mean(1)
        if self.risk == "deviation":
            return costs.mean(1) + self.risk_weight * costs.std(1)
        worst = max(round(self.risk_weight * costs.shape[1]), 1)
        # A cost that is not a number must not be sorted away.
        chosen = costs.topk(worst, dim=1).values.mean(1)
        return torch.where(costs.isfinite().all(1), chosen, torch.nan)

    def _rollout(
        self,
        problem: Problem,
        model: DynamicsModel,
        actions: Tensor,
        propagation: str = "mean",
        generator: torch.Generator | None = None,
        way: Way = EAGER,
    ) -> Tensor:
        in_force = actions_in_force(problem.previous_action, actions, problem.delay_fraction)
        start = problem.state.expand(actions.shape[1], -1)
        return way.rollout(model, start, in_force, propagation, generator)
