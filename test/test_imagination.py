# Copyright 2026 The mbrl_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Rollouts through a model, soft actor-critic, and both together."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from mbrl_ros.dynamics.features import FeatureMap
from mbrl_ros.dynamics.model import DynamicsModel, Transitions
from mbrl_ros.dynamics.snapshot import SnapshotError, write
from mbrl_ros.imagination import mbpo
from mbrl_ros.imagination.mbpo import MBPO
from mbrl_ros.imagination.memory import Batch, Memory
from mbrl_ros.imagination.policy import Policy, activations, squashed
from mbrl_ros.imagination.rollouts import Horizon, Imagination
from mbrl_ros.imagination.sac import SAC
from mbrl_ros.imagination.snapshot import decode, describe, encode, guide_of, load
from mbrl_ros.kinds import MODELS


class Walk(DynamicsModel):
    """A point that moves by its action; its reward is its action; its novelty where it is."""

    kind = "walk"
    transitions = 1

    def __init__(self, noise=0.0):
        super().__init__(FeatureMap([False], 1, 1))
        self.noise = noise

    def update(self, new):
        """Know all already."""

    def outputs(self, states, actions):
        return torch.cat([actions, actions], 1), torch.full((len(states), 2), self.noise**2)

    def novelty(self, states, actions):
        return states[:, 0]

    def snapshot(self):
        return {}

    def restore(self, tensors):
        """Nothing to take over."""


def forward(states):
    return torch.ones(len(states), 1)


def batch_of(count, states=1, actions=1):
    generator = torch.Generator().manual_seed(0)

    def draw(*shape):
        return torch.rand(*shape, generator=generator)

    return Batch.of(
        draw(count, states), draw(count, actions), draw(count), draw(count, states), draw(count)
    )


# -- memory -----------------------------------------------------------------------------------


def test_a_batch_gives_back_what_it_was_made_of():
    states, after = torch.arange(6.0).view(3, 2), torch.arange(6.0, 12.0).view(3, 2)
    actions, rewards = torch.tensor([[1.0], [2.0], [3.0]]), torch.tensor([4.0, 5.0, 6.0])
    batch = Batch.of(states, actions, rewards, after, torch.tensor([False, False, True]))
    expected = (states, actions, rewards, after, torch.tensor([0.0, 0.0, 1.0]))
    for found, wanted in zip(batch.columns(), expected, strict=True):
        assert torch.equal(found, wanted)


@pytest.mark.parametrize("sizes", [(3, 4, 2), (10, 1), (25,), (4, 4)])
def test_a_memory_keeps_the_newest_steps(sizes):
    steps, memory = batch_of(sum(sizes)), Memory(1, 1, 8)
    begin = 0
    for size in sizes:
        memory.append(steps[begin : begin + size])
        begin += size
    assert len(memory) == min(8, len(steps))
    drawn = memory.draw(400, torch.Generator().manual_seed(0))
    assert {float(row[0]) for row in drawn.rows} == {float(row[0]) for row in steps.rows[-8:]}


def test_an_empty_memory_is_refused():
    with pytest.raises(ValueError, match="empty"):
        Memory(1, 1, 8).draw(1)
    with pytest.raises(ValueError, match="capacity is 0"):
        Memory(1, 1, 0)


# -- rollouts ---------------------------------------------------------------------------------


def test_rollouts_follow_the_model_for_as_many_steps_as_asked():
    found = Imagination(Walk(), propagation="mean").rollouts(forward, torch.zeros(5, 1), 4)
    states, actions, rewards, after, terminated = found.columns()
    assert torch.equal(states[:, 0], torch.arange(4.0).repeat_interleave(5))
    assert torch.equal(after, states + 1.0)
    assert torch.equal(actions, torch.ones(20, 1))
    assert torch.equal(rewards, torch.ones(20))  # the learned one
    assert not terminated.any()


def test_a_reward_function_replaces_the_learned_reward():
    imagination = Imagination(Walk(), reward=lambda s, a, n: 10.0 * s[:, 0] + n[:, 0])
    rewards = imagination.rollouts(forward, torch.zeros(1, 1), 3).columns()[2]
    assert torch.equal(rewards, torch.tensor([1.0, 12.0, 23.0]))


def test_an_imagined_episode_ends_where_the_termination_function_says():
    imagination = Imagination(Walk(), termination=lambda s, a, n: n[:, 0] >= 3.0)
    starts = torch.tensor([[0.0], [2.0]])
    states, _, _, _, terminated = imagination.rollouts(forward, starts, 10).columns()
    assert states[:, 0].tolist() == [0.0, 2.0, 1.0, 2.0]
    assert terminated.tolist() == [0.0, 1.0, 0.0, 1.0]


def test_rollouts_are_cut_off_where_the_model_is_unsure():
    imagination = Imagination(Walk(), max_novelty=2.5)
    starts = torch.tensor([[0.0], [2.0], [5.0]])
    states, _, _, _, terminated = imagination.rollouts(forward, starts, 10).columns()
    assert states[:, 0].tolist() == [0.0, 2.0, 1.0, 2.0]
    assert not terminated.any()  # nothing ended: the value goes on
    nothing = imagination.rollouts(forward, starts[2:], 10)
    assert [len(column) for column in nothing.columns()] == [0] * 5


@pytest.mark.parametrize("kind", ["gp", "ensemble"])
def test_models_tell_where_rollouts_should_be_cut_off(kind):
    model = MODELS.load(kind)(FeatureMap([False], 1, 1), seed=0)
    generator = torch.Generator().manual_seed(0)
    states, actions, noise = (torch.rand(200, 1, generator=generator).double() for _ in range(3))
    after = states + 0.5 * actions + 0.01 * noise
    model.update(Transitions(states, actions, after, actions))
    for _ in range(5):
        model.improve()
    starts = torch.zeros(20, 1)
    free = Imagination(model).rollouts(forward, starts, 12)
    cut = Imagination(model, max_novelty=1.0).rollouts(forward, starts, 12)
    assert len(free) == 240
    assert 20 <= len(cut) < 200  # half a unit a step leads out of what is known in two steps
    assert cut.states.max() < free.states.max()


def test_a_prediction_that_is_not_finite_is_left_out():
    def act(states):
        return torch.where(states > 0.5, math.inf, 1.0)

    states = Imagination(Walk()).rollouts(act, torch.zeros(1, 1), 5).states
    assert states.tolist() == [[0.0]]


def test_imagined_angles_stay_within_half_a_turn():
    model = Walk()
    model.features = FeatureMap([True], 1, 1)
    after = Imagination(model).rollouts(forward, torch.zeros(1, 1), 5).columns()[3]
    assert torch.allclose(after[3, 0], torch.tensor(4.0 - 2.0 * math.pi))


@pytest.mark.parametrize("kind", ["gp", "ensemble"])
@pytest.mark.parametrize("propagation", ["mean", "ts1", "tsinf", "pathwise"])
def test_rollouts_repeat_by_seed_under_every_propagation(kind, propagation):
    model = MODELS.load(kind)(FeatureMap([False], 1, 1), seed=0)
    generator = torch.Generator().manual_seed(0)
    states, actions = (torch.rand(40, 1, generator=generator).double() for _ in range(2))
    model.update(Transitions(states, actions, states + 0.1 * actions, actions))
    model.improve()
    first, again, other = (
        Imagination(model, propagation=propagation, seed=seed).rollouts(
            forward, torch.zeros(7, 1), 3
        )
        for seed in (1, 1, 2)
    )
    assert first.rows.shape == (21, 5)
    assert torch.equal(first.rows, again.rows)
    assert torch.equal(first.rows, other.rows) == (
        propagation == "mean" or (kind == "ensemble" and propagation == "pathwise")
    )


def test_the_horizon_rises_linearly():
    horizon = Horizon(first=1, last=25, begin=100, end=340)
    found = [horizon.at(step) for step in (0, 100, 110, 220, 340, 10_000)]
    assert found == [1, 1, 2, 13, 25, 25]
    assert Horizon(3, 3).at(0) == 3


@pytest.mark.parametrize(
    ("values", "named"),
    [({"first": 0}, "first"), ({"last": 0}, "last"), ({"begin": 5, "end": 4}, "end")],
)
def test_a_bad_horizon_is_refused_by_name(values, named):
    with pytest.raises(ValueError, match=f"horizon's {named}"):
        Horizon(**values)


def test_bad_rollouts_are_refused():
    with pytest.raises(ValueError, match="unknown propagation 'ts2'"):
        Imagination(Walk(), propagation="ts2")
    with pytest.raises(ValueError, match="max_novelty is 0"):
        Imagination(Walk(), max_novelty=0.0)
    model = Walk()
    model.features = FeatureMap([False], 1, 0)
    with pytest.raises(ValueError, match="nothing to maximise"):
        Imagination(model)


# -- policy and soft actor-critic -------------------------------------------------------------


def test_actions_stay_within_their_bounds_and_repeat_by_seed():
    policy = Policy([False, True], [-1.0, 0.3], [2.0, 0.7], seed=0)
    states = 1e3 * torch.randn(500, 2, generator=torch.Generator().manual_seed(0))
    drawn = [policy.sample(states, torch.Generator().manual_seed(3)) for _ in range(2)]
    assert torch.equal(*drawn)
    for actions in (policy.act(states.double()), drawn[0]):
        assert actions.dtype == torch.float32
        assert ((actions >= policy.lower) & (actions <= policy.upper)).all()
    assert policy.value(states).shape == (500,)


def test_a_policy_sees_no_seam_in_an_angle():
    policy = Policy([True], [-1.0], [1.0], seed=0)
    ends = policy.act(torch.tensor([[math.pi], [-math.pi]]))
    assert torch.allclose(ends[0], ends[1], atol=1e-5)


def test_densities_of_actions_integrate_to_one():
    policy = Policy([False], [-1.0], [1.0], seed=4)
    state = torch.tensor([[0.7]])
    inputs = policy.inputs(state).expand(20_000, -1)
    actions, density = policy.drawn(inputs, torch.Generator().manual_seed(0))
    # The mean of 1 / (2 density) over its own draws is the share of [-1, 1] that it covers.
    assert float((0.5 * (-density).exp()).mean()) == pytest.approx(1.0, abs=0.05)
    assert ((actions > -1.0) & (actions < 1.0)).all()


def one_step_problem(count):
    """Return steps of episodes that end at once, the reward being highest for action = state."""
    generator = torch.Generator().manual_seed(0)
    states, actions = (2.0 * torch.rand(count, 1, generator=generator) - 1.0 for _ in range(2))
    rewards = -4.0 * (actions - states).square()[:, 0]
    return Batch.of(states, 2.0 * actions, rewards, states, torch.ones(count))


def test_sac_solves_a_problem_of_one_step():
    learner = SAC([False], [-2.0], [2.0], seed=0, hidden=32, batch_size=64, learning_rate=5e-3)
    steps = one_step_problem(2000)
    memory, generator = Memory(1, 1, 2000), torch.Generator().manual_seed(0)
    memory.append(steps)
    states = torch.linspace(-0.9, 0.9, 19)[:, None]
    before = (learner.policy.act(states) - 2.0 * states).abs().mean()
    for _ in range(400):
        learner.update(memory.draw(learner.batch_size, generator))
    after = (learner.policy.act(states) - 2.0 * states).abs().mean()
    assert learner.updates == 400
    assert before > 0.5
    assert after < 0.15
    assert learner.policy.value(states).abs().mean() < 0.15  # nothing comes after
    assert 0.0 < learner.temperature < 1.0


def test_values_look_as_far_ahead_as_the_discount_says():
    """A reward of 1 for ever is worth 1 / (1 - discount), but for the entropy's bonus."""
    learner = SAC(
        [False],
        [-1.0],
        [1.0],
        hidden=16,
        batch_size=64,
        learning_rate=0.01,
        discount=0.8,
        averaging=0.05,
        entropy=-3.0,
    )
    states, generator = torch.zeros(64, 1), torch.Generator().manual_seed(0)
    actions = torch.rand(64, 1, generator=generator)
    batch = Batch.of(states, actions, torch.ones(64), states, torch.zeros(64))
    for _ in range(600):
        learner.update(batch)
    assert float(learner.policy.value(states[:1])) == pytest.approx(5.0, abs=0.5)


def test_gradients_are_those_of_the_losses():
    """By automatic differentiation of the losses as the paper writes them."""
    learner = SAC([False, True], [-1.0, 0.0], [2.0, 1.0], seed=3, hidden=8, batch_size=32)
    batch = batch_of(32, states=2, actions=2)
    for _ in range(5):  # so that the target lags behind
        learner.update(batch)
    policy, count, temperature = learner.policy, len(batch), learner.temperature
    states, actions, rewards, after, terminated = batch.columns()
    generator = torch.Generator()
    generator.set_state(learner._generator.get_state())
    noise = torch.randn(2 * count, 2, generator=generator)
    found = learner.gradient(batch)

    def leaves(layers):
        return [tuple(t.detach().clone().requires_grad_() for t in layer) for layer in layers]

    actor, critics = leaves(policy.actor), leaves(policy.critics)
    chosen, density = squashed(activations(actor, policy.inputs(after))[-1][0], noise[:count])
    value = policy.worth(learner._target, policy.inputs(after), chosen).amin(0)
    wanted = rewards + learner.discount * (1.0 - terminated) * (value - temperature * density)
    inputs = policy.inputs(states)
    judged = policy.worth(critics, inputs, policy.normalised(actions))
    loss = 0.5 * (judged - wanted.detach()).square().mean(1).sum()
    chosen, density = squashed(activations(actor, inputs)[-1][0], noise[count:])
    loss = (
        loss
        + (temperature * density - policy.worth(policy.critics, inputs, chosen).amin(0)).mean()
    )
    loss.backward()
    expected = [t.grad.flatten() for layer in (*actor, *critics) for t in layer]
    expected.append(-(density.detach().mean(0, keepdim=True) + 2 * learner.entropy))
    assert torch.allclose(found, torch.cat(expected), atol=1e-6, rtol=1e-4)


def test_training_repeats_by_seed():
    def trained(seed):
        learner = SAC([False], [-2.0], [2.0], seed=seed, hidden=8, batch_size=16)
        for _ in range(5):
            learner.update(one_step_problem(16))
        return learner.policy.snapshot()

    first, again, other = trained(1), trained(1), trained(2)
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["actor_weight_0"], other["actor_weight_0"])


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"discount": 1.5}, "discount is 1.5"),
        ({"hidden": 0}, "hidden is 0"),
        ({"layers": 9}, "layers is 9"),
        ({"learning_rate": -1.0}, "learning_rate is -1"),
        ({"batch_size": float("nan")}, "batch_size is nan"),
        ({"gamma": 0.9}, "no setting 'gamma'"),
    ],
)
def test_a_bad_setting_of_sac_is_refused_by_name(values, named):
    with pytest.raises(ValueError, match=named):
        SAC([False], [-1.0], [1.0], **values)


@pytest.mark.parametrize(("lower", "upper"), [([1.0], [1.0]), ([0.0], [math.inf]), ([0.0], [])])
def test_bad_action_bounds_are_refused(lower, upper):
    with pytest.raises(ValueError, match="action bounds"):
        Policy([False], lower, upper)


# -- the agent --------------------------------------------------------------------------------


class Cart:
    """A point on a line, pushed by its action towards 0; an episode takes 20 steps."""

    def reset(self, seed=None):
        if seed is not None:
            self._random = np.random.default_rng(seed)
        self._place, self._left = self._random.uniform(-1.0, 1.0), 20
        return np.array([self._place]), {}

    def step(self, action):
        self._place += 0.5 * float(action[0])
        self._left -= 1
        return np.array([self._place]), -(self._place**2), False, self._left == 0, {}


def agent_of(model=None, seed=0, **values):
    sac = {"hidden": 16, "batch_size": 64, "learning_rate": 5e-3, "discount": 0.9}
    defaults = {
        "warmup": 20,
        "model_interval": 20,
        "rollout_interval": 5,
        "updates": 5,
        "slices": 1,
    }
    values = defaults | values
    return MBPO([False], [-1.0], [1.0], model, sac=sac, seed=seed, **values)


def train(agent, environment, steps, seed):
    for _ in mbpo.interact(agent, environment, steps, seed):
        pass


def new_gp(rewards=1):
    return MODELS.load("gp")(FeatureMap([False], 1, rewards), seed=0)


@pytest.mark.parametrize("starts", ["visited", "initial"])
def test_an_agent_learns_from_imagined_steps_and_a_learned_reward_alone(starts):
    # No real step is shown to the policy: dynamics and reward are what the GP made of them.
    agent = agent_of(new_gp(), real_share=0.0, starts=starts, horizon=3, rollouts=64)
    before = np.mean(mbpo.evaluate(agent.policy, Cart(), 5, seed=100))
    ends = [found is not None for found in mbpo.interact(agent, Cart(), 120, seed=0)]
    after = np.mean(mbpo.evaluate(agent.policy, Cart(), 5, seed=100))
    assert agent.steps == 120
    assert ends == ([False] * 19 + [True]) * 6
    assert before < -2.0
    assert after > -1.0


def test_an_agent_without_a_model_learns_from_real_steps():
    agent = agent_of(updates=4)
    train(agent, Cart(), 160, seed=0)
    assert agent.sac.updates == 4 * 141
    assert np.mean(mbpo.evaluate(agent.policy, Cart(), 5, seed=100)) > -1.0


def test_an_agent_repeats_by_seed():
    def trained(seed):
        agent = agent_of(new_gp(), seed=seed, horizon=2, rollouts=8, updates=1)
        train(agent, Cart(), 40, seed=3)
        return agent.policy.snapshot()["actor_weight_0"]

    assert torch.equal(trained(1), trained(1))
    assert not torch.equal(trained(1), trained(2))


def test_the_reward_function_is_what_is_maximised_where_there_is_one():
    model = new_gp(rewards=0)

    def to_the_right(states, actions, after):
        return after[:, 0].clamp(-2.0, 2.0)

    sac = {"hidden": 16, "batch_size": 64, "learning_rate": 5e-3, "discount": 0.5}
    agent = MBPO(
        [False],
        [-1.0],
        [1.0],
        model,
        to_the_right,
        sac=sac,
        warmup=20,
        slices=1,
        updates=10,
        real_share=0.0,
        rollouts=64,
    )
    train(agent, Cart(), 60, seed=0)
    assert agent.policy.act(torch.zeros(1, 1))[0, 0] > 0.5


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"real_share": 1.5}, "real_share is 1.5"),
        ({"updates": -1}, "updates is -1"),
        ({"starts": "anywhere"}, "starts is 'anywhere'"),
        ({"propagation": "ts2"}, "propagation is 'ts2'"),
        ({"horizon": 0}, "horizon is 0"),
        ({"horizon_begin": 9, "horizon_end": 5}, "horizon's end is 5"),
        ({"speed": 1}, "no setting 'speed'"),
    ],
)
def test_a_bad_setting_of_the_agent_is_refused_by_name(values, named):
    with pytest.raises(ValueError, match=named):
        agent_of(new_gp(), **values)


def test_a_model_that_learns_no_reward_is_refused_without_a_reward_function():
    with pytest.raises(ValueError, match="nothing to maximise"):
        agent_of(new_gp(rewards=0))


def test_a_step_that_is_not_finite_is_refused():
    agent = agent_of()
    with pytest.raises(ValueError, match="not finite"):
        agent.observe(np.zeros(1), np.zeros(1), math.nan, np.zeros(1), False)
    assert agent.steps == 0


# -- policies as files ------------------------------------------------------------------------


def a_policy_file(robot, goal=(0.0, 0.0)):
    lower, upper = zip(*(d.bounds for d in robot.command.dimensions), strict=True)
    learner = SAC(robot.angle_mask, lower, upper, seed=5, hidden=8)
    for _ in range(3):
        learner.update(batch_of(16, states=4))
    return learner.policy, encode(
        learner.policy, describe(robot, learner, goal, 7, reward_scale=0.1)
    )


def test_a_saved_policy_acts_and_values_alike(cartpole, tmp_path):
    policy, data = a_policy_file(cartpole)
    path = tmp_path / "policy.safetensors"
    write(path, data)
    found, info = load(path, cartpole)
    states = torch.randn(20, 4, generator=torch.Generator().manual_seed(0))
    assert torch.equal(found.act(states), policy.act(states))
    assert torch.equal(found.value(states), policy.value(states))
    assert (info.robot, info.goal, info.steps, info.updates) == ("cartpole", "0.0,0.0", 7, 3)
    guide = guide_of(found, info)
    assert (guide.reward_scale, guide.goal) == (0.1, (0.0, 0.0))
    assert torch.allclose(guide.cost_to_go(states), -10.0 * policy.value(states))


def test_a_damaged_policy_file_is_refused_wherever_it_is_damaged(cartpole):
    _, data = a_policy_file(cartpole)
    for place in range(0, len(data), 97):
        damaged = data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :]
        with pytest.raises(SnapshotError):
            decode(damaged, cartpole)
    for size in (0, 7, 100, len(data) - 1):
        with pytest.raises(SnapshotError):
            decode(data[:size], cartpole)


def test_a_policy_of_another_robot_is_refused(cartpole):
    _, data = a_policy_file(cartpole)
    with pytest.raises(SnapshotError, match="robot is 'cartpole', expected 'other'"):
        decode(data, replace(cartpole, name="other"))
    with pytest.raises(SnapshotError, match=r"control_rate is '20.0', expected '10.0'"):
        decode(data, replace(cartpole, control_rate=10.0))
    weaker = replace(cartpole.command.dimensions[0], bounds=(-5.0, 5.0))
    other = replace(cartpole, command=replace(cartpole.command, dimensions=(weaker,)))
    with pytest.raises(SnapshotError, match="bounds of actions"):
        decode(data, other)


def test_a_policy_with_a_value_that_is_not_finite_is_refused(cartpole):
    lower, upper = zip(*(d.bounds for d in cartpole.command.dimensions), strict=True)
    learner = SAC(cartpole.angle_mask, lower, upper, hidden=8)
    with torch.no_grad():
        learner.policy.actor[0][0][0, 0, 0] = math.nan
    data = encode(learner.policy, describe(cartpole, learner))
    with pytest.raises(SnapshotError, match=r"actor_weight_0.*not finite"):
        decode(data, cartpole)


def test_weights_of_the_wrong_shape_leave_a_policy_as_it_was():
    policy, other = Policy([False], [-1.0], [1.0]), Policy([False, False], [-1.0], [1.0])
    before = policy.snapshot()
    with pytest.raises(ValueError, match="actor_weight_0"):
        policy.restore(other.snapshot())
    assert all(torch.equal(policy.snapshot()[name], before[name]) for name in before)
