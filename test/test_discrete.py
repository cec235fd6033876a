# Copyright 2026 The mbrl_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Robots whose states and actions are whole numbers: their files, guard, estimator and plant."""

import json
import re
import time

import pytest
import torch
import yaml
from rclpy.node import Node
from sensor_msgs.msg import JointState
from stack import LATEST, Diagnosis, Listener, launch, matched, node, wait_for
from std_msgs.msg import UInt8MultiArray

from mbrl_ros.bringup import PARTS, ArgumentError, processes
from mbrl_ros.dynamics.dataset import TransitionRecorder
from mbrl_ros.dynamics.model import Transitions
from mbrl_ros.imagination.tables import TabularDynaQ
from mbrl_ros.resources import config_directory
from mbrl_ros.robots import RobotError, load_robot
from mbrl_ros.robots.estimator import SensorError, StateEstimator
from mbrl_ros.robots.explain import explain, warnings
from mbrl_ros.robots.guard import CommandGuard, RefusedError, Stamped
from mbrl_ros.robots.guarded import load_guarded
from mbrl_ros.ros.conversions import bytes_message, named_values
from mbrl_ros.ros.qos import LATCHED, STREAM
from mbrl_ros.sim.plant import make_plant

pytest.importorskip("gymnasium")

# From the start down, past the first wall, and up to the goal.
PATH = [1, 1, 2, 2, 2, 0, 2, 2, 2, 2, 2, 0, 0, 0]


@pytest.fixture
def maze_file(tmp_path):
    """Return a function that writes the maze's file with entries of one part changed."""

    def write(part=(), **changes):
        path = config_directory() / "robots" / "dyna_maze.yaml"
        data = yaml.safe_load(path.read_text("utf-8"))
        target = data
        for key in part:
            target = target[key]
        target.update(changes)
        written = tmp_path / "maze.yaml"
        written.write_text(yaml.safe_dump(data), "utf-8")
        return str(written)

    return write


CELL = ("state", 0)
MOVE = ("command", "dimensions", 0)
MIXED = [
    {"name": "gear", "unit": "1", "bounds": [1, 2], "safe": 1, "discrete": True},
    {"name": "motor", "unit": "N", "bounds": [-1.0, 1.0]},
]
SLOPE = [
    {"name": "cell", "unit": "1", "sensor": "observation", "index": 0, "discrete": True}
    | {"safe_range": [0, 53]},
    {"name": "speed", "unit": "1", "derivative_of": "cell"},
]


# -- the robot file --------------------------------------------------------------------------


def test_the_maze_is_a_discrete_robot_and_the_cart_pole_none(cartpole):
    maze = load_robot("dyna_maze")
    assert maze.discrete
    assert not cartpole.discrete
    assert warnings(maze) == []
    text = "\n".join(explain(maze))
    assert "move [1]: next value, 0 to 3, safe 4, whole numbers" in text
    assert "cell [1]: value at index 0, the guard stops the robot outside 0 to 53, whole" in text


@pytest.mark.parametrize(
    ("part", "changes", "expected"),
    [
        (MOVE, {"bounds": [0, 3.5]}, r"'move', bounds and safe: 3\.5 is no whole number"),
        (MOVE, {"safe": 0.5}, r"'move', bounds and safe: 0\.5 is no whole number"),
        (MOVE, {"slew": 1.0}, r"'move': discrete: true sends .*leave out slew, jerk and scale"),
        (MOVE, {"scale": 2.0}, r"'move': discrete: true sends"),
        (("command",), {"dimensions": MIXED}, r"expected it of all dimensions of the command"),
        (CELL, {"safe_range": None}, r"'cell': discrete: true needs safe_range: \[LOWEST, HIGH"),
        (CELL, {"safe_range": [0, 0.5]}, r"'cell', safe_range: 0\.5 is no whole number"),
        (CELL, {"scale": 2.0}, r"'cell': discrete: true takes the number as it is sent"),
        (CELL, {"discrete": False}, r"expected it of all dimensions of the command and of the st"),
        ((), {"state": SLOPE}, r"derivative_of cell, which is discrete"),
    ],
)
def test_what_does_not_go_with_whole_numbers_is_refused(maze_file, part, changes, expected):
    with pytest.raises(RobotError) as refusal:
        load_robot(maze_file(part, **changes))
    assert re.search(expected, str(refusal.value), re.DOTALL), refusal.value


# -- guard and estimator ---------------------------------------------------------------------


def test_the_guard_passes_choices_and_refuses_all_else():
    guard = CommandGuard(load_guarded("dyna_maze"), 0.25, 0.4, armed=True)

    def act(value, now):
        stamp = round(now * 1e9)
        guard.take_state(Stamped(stamp, ["cell"], [18.0]), stamp, now)
        return guard.take_action(Stamped(stamp, ["move"], [value]), stamp, now)

    assert act(2.0, 0.1) == [2.0]
    for i, value in enumerate((0.5, -1.0, 4.0, 1e300)):
        with pytest.raises(RefusedError, match="is none of the choices 0 to 3") as refusal:
            act(value, 0.2 + 0.01 * i)
        assert refusal.value.reason == "no_choice"
    assert guard.action.refused["no_choice"] == guard.action.faults == 4
    assert act(0.0, 0.3) == [0.0]
    assert guard.watch(0.6) == [4.0]  # nothing came in time: stay


def test_a_cell_is_held_between_messages_and_must_be_whole():
    estimator = StateEstimator(load_robot("dyna_maze"))

    def add(milliseconds, cell):
        return estimator.add("observation", round(1e6 * milliseconds), {"0": cell}, 0.0, None)

    assert add(0, 18.0).values == [18.0]
    assert add(60, 27.0) is None
    assert add(160, 28.0).values == [27.0]
    with pytest.raises(SensorError, match=r"value at index 0 is 27\.5, expected a whole number"):
        add(210, 27.5)


def test_a_step_is_that_of_the_choice_in_force_last():
    """In real time a command comes a little after the state that it answers."""
    recorder = TransitionRecorder(load_robot("dyna_maze"))
    for tick, (cell, move) in enumerate([(18, 1), (27, 1), (36, 2)]):
        recorder.add_state(tick * 100_000_000, [float(cell)])
        recorder.add_reward(tick * 100_000_000, 0.0)
        recorder.add_action(tick * 100_000_000 + (5_000_000 if tick else 0), [float(move)])
    recorder.add_state(300_000_000, [37.0])
    recorder.add_reward(300_000_000, 0.0)
    recorder.add_action(305_000_000, [2.0])
    steps = recorder.take()
    assert steps.states[:, 0].tolist() == [18.0, 27.0, 36.0]
    assert steps.actions[:, 0].tolist() == [1.0, 1.0, 2.0]


# -- the plant -------------------------------------------------------------------------------


def test_the_walker_reaches_the_goal_by_the_shortest_path():
    plant = make_plant(load_robot("dyna_maze"))
    assert plant.readings() == {"observation": {"0": 18.0}}
    plant.step([4.0], 1)  # stay
    assert (plant.readings(), plant.reward) == ({"observation": {"0": 18.0}}, 0.0)
    for i, move in enumerate(PATH):
        assert not plant.ended
        plant.step([float(move)], 1)
        assert plant.reward == float(i == 13)
    assert plant.ended
    assert plant.readings() == {"observation": {"0": 8.0}}
    plant.reset()
    assert plant.readings() == {"observation": {"0": 18.0}}


def test_an_environment_with_discrete_spaces_needs_no_file():
    robot = load_robot("gym/Taxi-v4")
    assert robot.discrete
    (state,), (action,) = robot.state, robot.command.dimensions
    assert (state.safe_range, action.bounds, action.safe) == ((0.0, 499.0), (0.0, 5.0), 6.0)
    plants = [make_plant(robot, seed=seed) for seed in (0, 0, 1)]
    starts = [plant.readings()["observation"]["0"] for plant in plants]
    assert starts[0] == starts[1] != starts[2]
    plants[0].step([4.0], 1)  # picks up where there is no passenger
    assert plants[0].reward in (-1.0, -10.0)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"environment": "lost"}, "'lost' cannot be made"),
        ({"environment": "CartPole-v1"}, "has observation space Box"),
        ({"environment": "Taxi-v4"}, r"expected one dimension with .* bounds: \[0, 5\]"),
        ({"environment": "dyna_maze", "options": {"color": 1}}, "maze 'dyna_maze' cannot be made"),
    ],
)
def test_an_environment_that_does_not_fit_is_refused(maze_file, changes, expected):
    robot = load_robot(maze_file(("simulation",), settings=changes))
    with pytest.raises(RobotError, match=expected):
        make_plant(robot)


# -- the graph -------------------------------------------------------------------------------


def test_the_graph_of_a_discrete_robot_has_neither_planner_nor_model():
    arguments = {"robot": "dyna_maze", "controller": "policy", "seed": "3"}
    graph = {process.executable: process for process in processes(arguments)}
    assert list(graph) == [
        "command_guard",
        "policy_controller",
        "policy_learner",
        "state_estimator",
        "simulator",
        "run_monitor",
    ]
    assert graph["command_guard"].parameters["listeners"] == ["policy_learner", "run_monitor"]
    assert graph["policy_learner"].parameters["policy"] == "dyna_q"
    halves = [{p.executable for p in processes(arguments | {"part": part})} for part in PARTS]
    assert halves[1] == {"command_guard", "policy_controller", "state_estimator", "simulator"}
    assert halves[2] == {"policy_learner", "run_monitor"}


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ({}, "controller:=mpc: robot:=dyna_maze has discrete actions .* give controller:=policy"),
        ({"controller": "mpc+policy"}, r"controller:=mpc\+policy: robot:=dyna_maze has discrete"),
        ({"controller": "policy", "experience": "here"}, "experience:=here is of no effect"),
        ({"controller": "policy", "goal": "[1.0]"}, "goal has 1 values, expected 0"),
    ],
)
def test_what_a_discrete_robot_cannot_have_is_refused_before_anything_starts(arguments, reason):
    with pytest.raises(ArgumentError, match=reason):
        processes({"robot": "dyna_maze"} | arguments)


def test_a_state_of_no_cell_is_dropped_also_while_no_table_has_come(tmp_path):
    robot, actions = load_robot("dyna_maze"), {}
    with Listener() as listener:
        listener.node.create_subscription(
            JointState, "action", lambda m: actions.update({m.header.stamp.sec: m}), LATEST
        )
        guard = Node("command_guard", context=listener.node.context)
        guard.create_subscription(JointState, "action", lambda message: None, LATEST)
        states = listener.node.create_publisher(JointState, "state", STREAM)
        tables = listener.node.create_publisher(UInt8MultiArray, "policy", LATCHED)
        diagnosis = Diagnosis(listener, "policy_controller")

        def send(tick, cell):
            states.publish(named_values(tick * 1_000_000_000, robot.state_names, [cell]))

        with node(tmp_path, "policy_controller", "robot:=dyna_maze") as controller:
            for publisher in (states, tables):
                matched(publisher)
            for tick, cell in enumerate((2.5, float("nan"), 1e9), start=1):
                send(tick, cell)
                wait_for(
                    lambda count=str(tick): diagnosis.values.get("rejected_messages") == count,
                    "the count",
                )
            tables.publish(bytes_message(TabularDynaQ(robot).snapshot()))

            def answered():
                send(9, 2.0)
                time.sleep(0.1)
                return 9 in actions

            wait_for(answered, "an action for a cell")
            assert controller.running
            assert set(actions) == {9}
        guard.destroy_node()


def test_the_maze_is_learned_over_ros(tmp_path):
    """With this seed the first episode, at random, takes 408 steps."""
    report = tmp_path / "run.json"
    arguments = ("robot:=dyna_maze", "controller:=policy", "pace:=lockstep", "seed:=2")
    with launch(tmp_path, *arguments, "duration:=65.0", f"report:={report}") as run:
        assert run.wait(400.0) == 0, run.output
    summary = json.loads(report.read_text("utf-8"))
    steps = summary["episode_steps"]
    assert steps[0] > 200
    assert min(steps) == 14, steps
    assert max(steps[-3:]) <= 20, steps
    assert summary["transitions"] == 650 - 2 * len(steps)  # nothing is learned from a reset
    assert summary["policy_ticks"] > 600
    assert "acting by a policy" in run.output
    assert "the shortest of 14" in run.output


def test_a_table_in_a_file_goes_on_over_ros(tmp_path):
    """Without exploration each episode is the shortest, and 650 ticks of another run are saved."""
    robot = load_robot("dyna_maze")
    learner, plant = TabularDynaQ(robot), make_plant(robot)
    for move in PATH * 3:  # thrice the right way, and planning does the rest
        cell = plant.readings()["observation"]["0"]
        plant.step([float(move)], 1)
        after = plant.readings()["observation"]["0"]
        row = torch.tensor([cell, move, after, plant.reward], dtype=torch.float64).view(4, 1, 1)
        learner.observe(Transitions(row[0], row[1], row[2], row[3], torch.zeros(1).long()))
        learner.train(None, 1)
        if plant.ended:
            plant.reset()
    learner.adopt()
    path = tmp_path / "table.safetensors"
    path.write_bytes(learner.snapshot())
    settings = tmp_path / "settings.yaml"
    text = "/**/policy_learner: {ros__parameters: {dyna_q.exploration: 0.0}}"
    settings.write_text(text, "utf-8")
    report = tmp_path / "run.json"
    arguments = ("robot:=dyna_maze", "controller:=policy", "pace:=lockstep", "duration:=6.0")
    files = (f"policy_file:={path}", f"params_file:={settings}", f"report:={report}")
    with launch(tmp_path, *arguments, *files) as run:
        assert run.wait(240.0) == 0, run.output
    assert json.loads(report.read_text("utf-8"))["episode_steps"] == [14, 14, 14], run.output
