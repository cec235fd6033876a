# Copyright 2026 The mbrl_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Tasks of continuous actions for the comparison of sample efficiency, and their agents."""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mbrl_ros.benchmarks.control_tasks import TASKS as CONTROL_TASKS
from mbrl_ros.benchmarks.control_tasks import start_of
from mbrl_ros.benchmarks.logs import MissingPackage, half_cheetah_environment
from mbrl_ros.benchmarks.plants import CartPole
from mbrl_ros.benchmarks.sample_efficiency import Agent, Task
from mbrl_ros.dynamics.features import FeatureMap, wrap_angle
from mbrl_ros.dynamics.model import Transitions, make_model
from mbrl_ros.imagination.episodes import evaluate as evaluate_episodes
from mbrl_ros.imagination.mbpo import MBPO, evaluate, interact
from mbrl_ros.imagination.memory import Reward
from mbrl_ros.kinds import MODELS
from mbrl_ros.planning.guide import PolicyGuide
from mbrl_ros.planning.objective import Objective, Steps
from mbrl_ros.planning.planner import Plan, Problem, make_planner
from mbrl_ros.robots.spec import RobotSpec, load_robot

EVALUATED = 1_000_000  # from this seed on, apart from those that agents learn with
_MOST_COST = 30.0  # of a step of the swing-up; the rail goes on for ever, its cost must not

Values = NDArray[np.float64]


class SwingUp:
    """The cart-pole's robot file as an environment, with Gymnasium's `reset` and `step`.

    The plant is that of `mbrl bench control`; the reward is a tenth of the negative stage cost of
    the robot's file, -3 at least. At 10 Hz, at which random actions get the pole moving; an
    episode takes 50 steps (5 s).
    """

    rate = 10.0  # Hz
    reward_scale = 0.1  # reward a unit of stage cost
    steps = 50

    def __init__(self) -> None:
        self.task = CONTROL_TASKS["cartpole"]
        self.robot = replace(self.task.robot(), control_rate=self.rate)
        self._plant = CartPole(self.robot)
        self._plant.substeps = 2
        self._objective = Objective(self.robot)
        self._goal = torch.tensor(self.task.goal)
        self._random = np.random.default_rng(0)
        self._state, self._left = torch.zeros(4).double(), 0

    def reset(self, seed: int | None = None) -> tuple[Values, dict[str, Any]]:
        """Let the pole hang down, nearly at rest."""
        if seed is not None:
            self._random = np.random.default_rng(seed)
        self._state = start_of(self.task, int(self._random.integers(2**31)))
        self._left = self.steps
        return self._state.numpy(), {}

    def step(self, action: Values) -> tuple[Values, float, bool, bool, dict[str, Any]]:
        """Advance by one period."""
        before, move = self._state[None], torch.from_numpy(np.asarray(action, float))[None]
        after = self._plant.step(before, move)
        after[:, 2] = wrap_angle(after[:, 2])
        self._state = after[0]
        self._left -= 1
        reward = float(self.reward(before, move, after))
        return self._state.numpy(), reward, False, self._left == 0, {}

    def reward(self, states: Tensor, actions: Tensor, next_states: Tensor) -> Tensor:
        """Return the reward (N,) of steps."""
        goal = self._goal.to(states)
        cost = self._objective.stage_cost(Steps(states, actions, next_states, actions, goal))
        return -self.reward_scale * cost.clamp_max(_MOST_COST)


class UpTime(SwingUp):
    """The same, but rewarded as it is judged: by the seconds that the pole is up.

    Up is what the robot's file calls a success, as long as the cart is on its rail.
    """

    def step(self, action: Values) -> tuple[Values, float, bool, bool, dict[str, Any]]:
        """Advance by one period."""
        state, _, terminated, truncated, info = super().step(action)
        low, high = self.robot.state[0].limits or (-np.inf, np.inf)
        up = (
            self.robot.succeeds(state.tolist(), self.robot.goal_default)
            and low <= state[0] <= high
        )
        return state, up / self.rate, terminated, truncated, info


def _gymnasium(name: str) -> Any:
    try:
        import gymnasium
    except ImportError as error:
        raise MissingPackage(
            f"it needs Gymnasium, which cannot be imported ({error}); "
            "install it with: pip install 'mbrl_ros[bench]'"
        ) from None
    return gymnasium.make(name)


@dataclass(frozen=True)
class Setup:
    """What an agent is told of a task.

    make: makes the environment. angle_mask (D,), lower, upper (A,): of its states and actions.
    reward: makes the reward function of an environment, where agents know it; None: they learn
    it. judge: makes the environment of evaluations, if its rewards are others. sac: settings of
    SAC, alike for all agents. every: real steps between two evaluations. episodes: of an
    evaluation.
    """

    make: Callable[[], Any]
    angle_mask: Sequence[bool]
    lower: Sequence[float]
    upper: Sequence[float]
    sac: Mapping[str, Any]
    every: int
    episodes: int
    reward: Callable[[Any], Reward] | None = None
    warmup: int = 200
    judge: Callable[[], Any] | None = None

    def judged(self) -> Any:
        """Make the environment of evaluations."""
        return (self.judge or self.make)()


def learner(
    setup: Setup, model: str | None, most: int = 1_000_000, every: int = 0, **settings: Any
) -> Agent:
    """Return an agent that evaluates its policy now and then while it learns.

    model: the kind that it imagines with; None: it learns from real steps alone. most: steps
    after which it ends in any case. every: see Setup; 0: as it is there. settings: of MBPO.
    """

    def learn(steps: int, seed: int) -> Iterator[tuple[int, float]]:
        environment, judge = setup.make(), setup.judged()
        agent = new_agent(setup, model, environment, seed, **settings)
        interval = every or setup.every
        for _ in interact(agent, environment, min(steps, most), seed):
            if agent.steps % interval == 0:
                found = evaluate(agent.policy, judge, setup.episodes, EVALUATED)
                yield agent.steps, statistics.mean(found)

    return learn


def new_agent(
    setup: Setup, model: str | None, environment: Any, seed: int, **settings: Any
) -> MBPO:
    """Make the agent of one run; see `learner`."""
    known = None if setup.reward is None else setup.reward(environment)
    features = FeatureMap(setup.angle_mask, len(setup.lower), int(known is None))
    return MBPO(
        setup.angle_mask,
        setup.lower,
        setup.upper,
        None if model is None else MODELS.load(model)(features, seed=seed),
        known,
        sac=setup.sac,
        seed=seed,
        **({"warmup": setup.warmup} | settings),
    )


def planner(
    setup: Setup,
    robot: Callable[[], RobotSpec],
    most: int,
    episodes: int,
    kind: str = "gp",
    method: str = "mppi",
    random: int = 50,
    interval: int = 25,
    slices: int = 2,
    every: int = 50,
    policy: Mapping[str, Any] | None = None,
    trusted: int = 0,
    reward_scale: float = 1.0,
    **planning: Any,
) -> Agent:
    """Return an agent that plans every action through a model which it learns meanwhile.

    Judged as policies are: now and then it plans whole episodes apart, from which it does not
    learn. robot: whose cost is planned with; that of a Gymnasium environment is its reward,
    learned. most: steps after which it ends in any case. episodes: of an evaluation, fewer than
    of a policy, as it takes longer. kind, method: of the model and of the planner, whose settings
    are `planning`. random: first steps, with random actions. interval: steps between two lessons
    of the model, of so many slices of training. every: steps between two evaluations. policy:
    settings of an MBPO agent whose policy learns from what the model imagines, and guides the
    plans after so many steps (`trusted`); None: no policy. reward_scale: of its rewards, see
    PolicyGuide.
    """

    def learn(steps: int, seed: int) -> Iterator[tuple[int, float]]:
        environment, judge, spec = setup.make(), setup.judged(), robot()
        helper, model = None, make_model(kind, spec, seed)
        if policy is not None:
            lessons = {"warmup": random, "model_interval": interval, "slices": slices}
            helper = new_agent(setup, kind, environment, seed, **lessons, **policy)
            assert helper.model is not None
            model = helper.model
        search = make_planner(method, spec, **planning)
        generator = torch.Generator().manual_seed(seed)
        goal, safe = torch.tensor(spec.goal_default), torch.tensor(spec.safe_action)

        def thinker(seeds: Iterator[int]) -> Callable[[Values], Values]:
            """Return what plans the actions of one episode, each from the plan before."""
            plan: Plan | None = None

            def act(state: Values) -> Values:
                nonlocal plan
                before = safe if plan is None else plan.actions[0]
                now = torch.as_tensor(np.array(state, np.float32))
                plan = search.plan(Problem(now, goal, before, seed=next(seeds)), model, plan)
                return plan.actions[0].double().numpy()

            return act

        def value() -> float:
            returns = []
            for episode in range(EVALUATED, EVALUATED + episodes):
                act = thinker(itertools.count(episode * 1000))
                returns += evaluate_episodes(act, judge, 1, episode)
            return statistics.mean(returns)

        seeds = itertools.count(seed * 10**6)
        state, _ = environment.reset(seed=seed)
        act = thinker(seeds)
        if helper is not None:
            helper.begin(state)
        new = Transitions.empty(model.features)
        for step in range(1, min(steps, most) + 1):
            if step <= random:
                share = torch.rand(len(safe), generator=generator)
                action = torch.lerp(search.lower, search.upper, share).double().numpy()
            else:
                action = act(state)
            after, reward, terminated, truncated, _ = environment.step(action)
            if helper is not None:
                helper.observe(state, action, reward, after, terminated)
                helper.learn()
                if step == trusted:
                    search.guide = PolicyGuide(helper.policy, reward_scale)
            else:
                columns = (state, action, after, [reward] * model.features.rewards)
                rows = (torch.tensor(np.array(c, float)[None]) for c in columns)
                new = new + Transitions(*rows)
                if step % interval == 0:
                    model.update(new)
                    new = Transitions.empty(model.features)
                    for _ in range(slices):
                        model.improve()
            state = after
            if step % every == 0:
                yield step, value()
            if terminated or truncated:
                act = thinker(seeds)
                state, _ = environment.reset()
                if helper is not None:
                    helper.begin(state)

    return learn


_SMALL = {"hidden": 64, "batch_size": 128, "learning_rate": 1e-3}
PENDULUM = Setup(
    lambda: _gymnasium("Pendulum-v1"), [False] * 3, [-2.0], [2.0], _SMALL, every=250, episodes=10
)
SWING_UP = Setup(
    SwingUp,
    (False, False, True, False),
    [-10.0],
    [10.0],
    {**_SMALL, "discount": 0.98},
    every=250,
    episodes=5,
    reward=lambda environment: environment.reward,
    judge=UpTime,
)
HALF_CHEETAH = Setup(
    half_cheetah_environment,
    [False] * 17,
    [-1.0] * 6,
    [1.0] * 6,
    {"hidden": 256, "batch_size": 256, "learning_rate": 3e-4},
    every=1000,
    episodes=1,
    warmup=1000,
)
# A GP of these small robots is good for long rollouts; see docs/imagination.md.
IMAGINED = {"updates": 20, "horizon": 15, "rollouts": 200, "slices": 3}
IMAGINED_MEANWHILE = {"updates": 40, "horizon": 15, "rollouts": 200}  # while a planner acts
# Of 17 states an ensemble knows little beyond a step or two.
IMAGINED_BRIEFLY = {
    "updates": 10,
    "horizon": 1,
    "horizon_last": 3,
    "horizon_begin": 2000,
    "horizon_end": 10_000,
    "rollouts": 400,
    "model_interval": 100,
    "slices": 10,
    "imagined": 100_000,
}

_pendulum_planner = partial(
    planner, PENDULUM, lambda: load_robot("gym/Pendulum-v1"), most=400, episodes=2
)

TASKS = (
    Task(
        "pendulum",
        "return of an episode",
        steps=5000,
        quick_steps=600,
        seeds=3,
        agents={
            "sac": learner(PENDULUM, None),
            "sac-imagined": learner(PENDULUM, "gp", most=800, every=50, **IMAGINED),
            "mpc-gp": _pendulum_planner(horizon=20, samples=100, iterations=1),
            # Half of the horizon and of the candidates: a policy sees the rest.
            "mpc+policy": _pendulum_planner(
                horizon=10,
                samples=50,
                iterations=1,
                policy=IMAGINED_MEANWHILE,
                trusted=100,
            ),
        },
        target=-200.0,
    ),
    Task(
        "cartpole-swing-up",
        "seconds of five that the pole is up",
        steps=12_000,
        quick_steps=600,
        seeds=3,
        agents={
            "sac": learner(SWING_UP, None),
            "sac-imagined": learner(SWING_UP, "gp", most=2000, every=50, **IMAGINED),
            "mpc-gp": planner(
                SWING_UP,
                lambda: SwingUp().robot,
                most=600,
                horizon=15,
                samples=200,
                iterations=1,
                episodes=3,
            ),
            # About half of the horizon and half of the candidates: a policy sees the rest.
            "mpc+policy": planner(
                SWING_UP,
                lambda: SwingUp().robot,
                most=500,
                horizon=8,
                samples=100,
                iterations=1,
                episodes=2,
                every=100,
                policy=IMAGINED_MEANWHILE,
                trusted=50,
                reward_scale=SwingUp.reward_scale,
            ),
        },
        target=2.0,
    ),
    Task(
        "half-cheetah",
        "return of an episode",
        steps=20_000,
        quick_steps=2000,
        seeds=3,
        agents={
            "sac": learner(HALF_CHEETAH, None),
            "sac-imagined": learner(HALF_CHEETAH, "ensemble", most=5000, **IMAGINED_BRIEFLY),
            # As in config/tuning/half_cheetah.yaml, but with the reward learned.
            "mpc-ensemble": planner(
                HALF_CHEETAH,
                lambda: load_robot("gym/HalfCheetah-v5"),
                most=5000,
                episodes=1,
                kind="ensemble",
                method="icem",
                random=500,
                interval=20,
                every=1000,
                horizon=15,
                samples=60,
                iterations=2,
                propagation="mean",
                noise=0.6,
                noise_exponent=0.25,
            ),
        },
        target=1000.0,
    ),
)
