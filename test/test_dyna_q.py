# Copyright 2026 The mbrl_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Dyna-Q and its relatives, on the mazes of the book and on other discrete environments."""

import dataclasses
import math
import statistics

import numpy as np
import pytest
import safetensors.torch
import torch

pytest.importorskip("gymnasium")

import gymnasium
import maze_figures

from mbrl_ros.dynamics.snapshot import SnapshotError, pack, unseal
from mbrl_ros.imagination import mazes
from mbrl_ros.imagination.dyna_q import FORMAT, DynaQ, Numbering, Settings, agent_for, interact

SEEDS = range(8)


@pytest.fixture(scope="module")
def learned():
    """Return runs in the Dyna maze, by the number of planning steps."""
    return {
        k: [maze_figures.learn(Settings(planning_steps=k), seed, 25) for seed in SEEDS]
        for k in (0, 5, 50)
    }


# -- mazes ------------------------------------------------------------------------------------


def test_shortest_paths_are_those_of_the_book():
    assert mazes.dyna_maze().shortest() == 14
    for make, before, after in ((mazes.blocking_maze, 10, 16), (mazes.shortcut_maze, 16, 10)):
        maze = make(change=1)
        assert maze.shortest() == before
        maze.step(0)
        assert maze.shortest() == after
        maze.reset()
        assert maze.shortest() == after


def test_a_maze_is_a_gymnasium_environment_with_walls(recwarn):
    from gymnasium.utils.env_checker import check_env

    check_env(mazes.dyna_maze(), skip_render_check=True)
    maze = mazes.Maze([(0, ("S#G", "..."))], render_mode="ansi")
    assert maze.reset(seed=0)[0] == 0
    up, down, right, left = range(4)
    assert [maze.step(move)[0] for move in (right, up, left)] == [0, 0, 0]
    assert [maze.step(move)[:3] for move in (down, right, right)] == [
        (3, 0.0, False),
        (4, 0.0, False),
        (5, 0.0, False),
    ]
    assert maze.render() == "S#G\n..@"
    assert maze.step(up)[:3] == (2, 1.0, True)


@pytest.mark.parametrize(
    ("phases", "reason"),
    [
        ([], "start at another step than 0"),
        ([(5, ("SG",))], "start at another step than 0"),
        ([(0, ("SG",)), (9, ("SG",)), (5, ("SG",))], "expected rising steps"),
        ([(0, ("S.",))], "0 cells 'G'"),
        ([(0, ("SG", "."))], "rows do in length"),
        ([(0, ("SG.",)), (1, ("S.G",))], "differ in start or goal"),
    ],
)
def test_mazes_that_make_no_sense_are_refused(phases, reason):
    with pytest.raises(ValueError, match=reason):
        mazes.Maze(phases)


# -- what the book shows ----------------------------------------------------------------------


def test_more_planning_takes_fewer_real_episodes(learned):
    arrived = {k: statistics.median(run.arrived for run in runs) for k, runs in learned.items()}
    assert arrived[50] < arrived[5] < arrived[0]
    second, all_but_first = (
        {k: sum(sum(run.lengths[1:end]) for run in runs) for k, runs in learned.items()}
        for end in (2, 25)
    )
    assert second[50] < 0.5 * second[5] < 0.25 * second[0]
    assert all_but_first[50] < all_but_first[5] < 0.5 * all_but_first[0]
    # Nothing can be planned before the goal was seen once.
    first = {k: [run.lengths[0] for run in runs] for k, runs in learned.items()}
    assert first[0] == first[5] == first[50]


def test_the_shortest_path_is_found(learned):
    assert sum(run.path == 14 for run in learned[50]) >= 4
    assert all(run.path >= 14 for runs in learned.values() for run in runs)
    # Dyna-Q may settle for a detour; the bonus makes it look further.
    settings = Settings(planning_steps=50, bonus=maze_figures.SMALL_BONUS)
    assert all(maze_figures.learn(settings, seed, 50).path == 14 for seed in SEEDS)


@pytest.mark.parametrize(
    ("make", "planning", "steps", "change"),
    [(mazes.blocking_maze, 10, 3000, 1000), (mazes.shortcut_maze, 50, 6000, 3000)],
)
def test_the_bonus_pays_after_a_change(make, planning, steps, change):
    after = {}
    for bonus in (0.0, maze_figures.BONUS):
        settings = maze_figures.changing(planning, bonus)
        runs = [maze_figures.rewards(make, settings, s, steps, change) for s in SEEDS[:4]]
        after[bonus] = statistics.mean(reward for _, reward in runs)
    assert after[maze_figures.BONUS] > 1.2 * after[0.0]


def test_prioritised_sweeping_needs_fewer_updates():
    settings = Settings(planning_steps=5, step_size=0.5)
    swept = dataclasses.replace(settings, sweep_threshold=1e-4)
    usual, fewer = (
        statistics.median(maze_figures.learn(s, seed, 25).updates for seed in SEEDS)
        for s in (settings, swept)
    )
    assert math.isfinite(usual)
    assert fewer < 0.3 * usual


# -- a world of chance ------------------------------------------------------------------------


def optimal_values(environment, discount):
    """Value iteration on the transition table that Gymnasium's toy environments have."""
    table = environment.unwrapped.P
    values = np.zeros((len(table), len(table[0])))
    for _ in range(1000):
        best = values.max(1)
        values = np.array(
            [
                [
                    sum(p * (r + (0.0 if end else discount * best[s])) for p, s, r, end in ways)
                    for ways in table[state].values()
                ]
                for state in table
            ]
        )
    return values


@pytest.mark.parametrize("threshold", [None, 1e-3])
def test_the_stochastic_model_converges_where_the_deterministic_one_cannot(threshold):
    ice = gymnasium.make("FrozenLake-v1", is_slippery=True)
    table, true = ice.unwrapped.P, optimal_values(ice, 0.9)
    error = {}
    for model in ("deterministic", "stochastic"):
        settings = Settings(
            planning_steps=5,
            step_size=0.5 if threshold else 0.05,  # real steps are noise, which it averages
            discount=0.9,
            model=model,
            sweep_threshold=threshold,
        )
        agent = DynaQ(16, 4, settings)
        generator = np.random.default_rng(0)
        for state, action in generator.integers((16, 4), size=(15_000, 2)).tolist():
            ways = table[state][action]
            chances = [chance for chance, *_ in ways]
            _, after, reward, ended = ways[generator.choice(len(ways), p=chances)]
            agent.learn(state, action, float(reward), after, ended)
        error[model] = np.abs(agent.values - true).max()
    assert error["stochastic"] < 0.1
    assert error["deterministic"] > 3.0 * error["stochastic"]


# -- any discrete environment -----------------------------------------------------------------


class Dial(gymnasium.Env):
    """Two hands, each turned by an action of its own; the goal is both at 4."""

    observation_space = gymnasium.spaces.MultiDiscrete([3, 4], start=[2, 1])
    action_space = gymnasium.spaces.MultiDiscrete([2, 2])

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.hands = np.array([2, 1])
        return self.hands.copy(), {}

    def step(self, action):
        assert self.action_space.contains(action)
        self.hands = np.minimum(self.hands + action, 4)
        done = bool((self.hands == 4).all())
        return self.hands.copy(), -1.0, done, False, {}


def test_spaces_of_several_numbers_are_flattened():
    numbering = Numbering.of(Dial.observation_space)
    assert numbering.size == 12
    values = [numbering.value(n) for n in range(12)]
    assert all(Dial.observation_space.contains(value) for value in values)
    assert [numbering.number(value) for value in values] == list(range(12))
    shifted = Numbering.of(gymnasium.spaces.Discrete(3, start=-1))
    assert [shifted.value(n) for n in range(3)] == [-1, 0, 1]
    assert shifted.number(np.int64(-1)) == 0
    agent = agent_for(Dial(), Settings(planning_steps=20, step_size=0.5, discount=1.0))
    for _ in interact(agent, Dial(), 400):
        pass
    assert agent.values.max(1)[numbering.number([2, 1])] == pytest.approx(-3.0, abs=0.01)
    with pytest.raises(ValueError, match="expected one Discrete or MultiDiscrete"):
        Numbering.of(gymnasium.spaces.Box(0.0, 1.0))


# -- repeatable, durable, and strict ----------------------------------------------------------


def after_some_steps(settings, seed=0):
    maze = mazes.dyna_maze()
    agent = agent_for(maze, settings, seed)
    for _ in interact(agent, maze, 2500, seed):
        pass
    return agent


def test_the_same_seed_learns_the_same():
    settings = Settings(planning_steps=5)
    first, again, other = (after_some_steps(settings, seed) for seed in (1, 1, 2))
    assert np.array_equal(first.values, again.values)
    assert not np.array_equal(first.values, other.values)


@pytest.mark.parametrize(
    "settings",
    [
        Settings(planning_steps=5, bonus=1e-3, model="stochastic"),
        Settings(planning_steps=5, sweep_threshold=1e-4),
    ],
)
def test_a_file_holds_all_that_learning_goes_on_from(tmp_path, settings):
    agent = after_some_steps(settings)
    agent.save(tmp_path / "agent.safetensors")
    # Loaded twice: what random numbers had come to is not kept.
    one, two = (DynaQ.load(tmp_path / "agent.safetensors", seed=3) for _ in range(2))
    assert one.settings == settings
    assert one.steps == agent.steps
    assert np.array_equal(one.values, agent.values)
    one.save(tmp_path / "again.safetensors")
    first, second = ((tmp_path / f"{n}.safetensors").read_bytes() for n in ("agent", "again"))
    kept, again = safetensors.torch.load(first), safetensors.torch.load(second)
    assert kept.keys() == again.keys()
    assert all(torch.equal(kept[name], again[name]) for name in kept)
    assert unseal(first, FORMAT) == unseal(second, FORMAT)
    for loaded in (one, two):
        loaded.learn(0, 1, 1.0, 9, False)
    assert np.array_equal(one.values, two.values)
    assert not np.array_equal(one.values, agent.values)


def test_an_agent_that_knows_nothing_can_be_kept(tmp_path):
    DynaQ(3, 2).save(tmp_path / "agent.safetensors")
    loaded = DynaQ.load(tmp_path / "agent.safetensors")
    assert loaded.values.shape == (3, 2)
    assert not loaded.values.any()


def test_files_that_are_not_right_are_refused(tmp_path):
    path = tmp_path / "agent.safetensors"
    after_some_steps(Settings(planning_steps=1)).save(path)
    data = path.read_bytes()
    tensors, metadata = safetensors.torch.load(data), unseal(data, FORMAT)

    def refused(content, reason):
        path.write_bytes(content)
        with pytest.raises(SnapshotError, match=reason):
            DynaQ.load(path)

    refused(data[:100], "truncated")
    refused(data[:-1] + bytes([data[-1] ^ 1]), "checksum does not match")
    refused(pack(tensors, {**metadata, "format": "mbrl_ros.model.2"}), "expected 'mbrl_ros.dyna")
    refused(pack(tensors, {**metadata, "step_size": "2.0"}), "step_size is 2.0")
    refused(pack(tensors, {**metadata, "step_size": "much"}), "settings are not valid: step_size")
    refused(pack(tensors, {**metadata, "speed": "2.0"}), "unknown settings speed")
    refused(pack(tensors, {**metadata, "steps": "few"}), "few")
    for name, change, reason in (
        ("values", lambda t: t * math.nan, "'values' holds a value that is not finite"),
        ("values", lambda t: t.float(), "'values' is torch.float32"),
        ("values", lambda t: t[:10], "differ in shape"),
        ("counts", lambda t: t * 0, "'counts' holds a value outside 1 to"),
        ("next_states", lambda t: t + 54, "'next_states' holds a value outside 0 to 53"),
        ("last_tried", lambda t: torch.ones_like(t), "a pair that the model does not have"),
    ):
        refused(pack({**tensors, name: change(tensors[name])}, metadata), reason)
    del tensors["counts"]
    refused(pack(tensors, metadata), "expected \\['counts'")


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"planning_steps": -1}, "planning_steps is -1, expected at least 0"),
        ({"step_size": 0.0}, "step_size is 0.0, expected more than 0"),
        ({"step_size": math.nan}, "step_size is nan"),
        ({"discount": 1.1}, "discount is 1.1, expected 0 to 1"),
        ({"exploration": -0.1}, "exploration is -0.1, expected 0 to 1"),
        ({"bonus": math.inf}, "bonus is inf, expected a finite number"),
        ({"sweep_threshold": -1.0}, "sweep_threshold is -1.0"),
        ({"model": "neural"}, "model is 'neural', expected one of deterministic, stochastic"),
        ({"sweep_threshold": 0.1, "planning_steps": 0}, "planning_steps is 0"),
        ({"sweep_threshold": 0.1, "bonus": 0.1}, "bonus is 0.1 and sweep_threshold is set"),
    ],
)
def test_settings_that_cannot_be_used_are_refused_by_name(settings, reason):
    with pytest.raises(ValueError, match=reason):
        Settings(**settings)


def test_steps_and_tables_that_cannot_be_are_refused():
    with pytest.raises(ValueError, match="actions is 0, expected at least 1"):
        DynaQ(3, 0)
    with pytest.raises(ValueError, match="has 4000000 entries, expected at most 1000000"):
        DynaQ(1_000_000, 4)
    agent = DynaQ(3, 2)
    for step, reason in (
        ((3, 0, 0.0, 0, False), "state is 3, expected 0 to 2"),
        ((0, -1, 0.0, 0, False), "action is -1, expected 0 to 1"),
        ((0, 0, 0.0, 7, False), "next_state is 7"),
        ((0, 0, math.nan, 0, False), "reward is nan"),
    ):
        with pytest.raises(ValueError, match=reason):
            agent.learn(*step)
    assert agent.steps == 0
    assert not agent.values.any()
