# Copyright 2026 The mbrl_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Which processes run with which parameters."""

import ast
import signal
from pathlib import Path

import pytest

from mbrl_ros import bringup
from mbrl_ros.bringup import ArgumentError, parse_arguments, processes
from mbrl_ros.dynamics.model import make_model
from mbrl_ros.dynamics.snapshot import describe, encode
from mbrl_ros.imagination.online import ImaginedSAC
from mbrl_ros.kinds import MODELS, PLANNERS
from mbrl_ros.process import BAD_CONFIGURATION
from mbrl_ros.resources import share_directory
from mbrl_ros.robots import load_robot


def by_name(**arguments):
    return {process.executable: process for process in processes(arguments)}


def test_the_defaults_simulate_the_cart_pole():
    graph = by_name()
    assert next(iter(graph)) == "command_guard"
    assert list(graph)[-1] == "run_monitor"
    assert set(graph) == set(bringup.NODES) - {"policy_controller", "policy_learner"}
    assert all(process.parameters["use_sim_time"] is True for process in graph.values())
    assert graph["command_guard"].parameters["armed"] is True
    assert graph["mpc_planner"].parameters["goal"] == [0.0, 0.0]


def test_hardware_differs_in_clock_limits_and_arming_only():
    simulated, real = by_name(), by_name(sim="false")
    assert set(simulated) - set(real) == {"simulator"}
    assert all(process.parameters["use_sim_time"] is False for process in real.values())
    assert real["command_guard"].parameters["armed"] is False
    for name, process in real.items():
        assert process.parameter_files[-1].name == "hardware.yaml"
        same = {"use_sim_time", "armed", "settings"}
        for key, value in process.parameters.items():
            assert key in same or simulated[name].parameters[key] == value


def test_lockstep_reaches_every_node_that_keeps_to_it():
    graph = by_name(pace="lockstep")
    assert graph["simulator"].parameters["pace"] == "lockstep"
    for name in ("command_guard", "mpc_planner", "dynamics_learner"):
        assert graph[name].parameters["lockstep"] is True


def test_a_dead_guard_is_replaced_by_one_that_only_stops():
    guard = by_name(namespace="left")["command_guard"]
    assert guard.replacement(0) is None
    assert guard.replacement(BAD_CONFIGURATION) is None
    assert guard.replacement(-signal.SIGTERM) is None
    replacement = guard.replacement(-9)
    assert replacement is not None
    assert replacement.executable == "command_guard"
    assert replacement.namespace == "left"
    assert replacement.parameters["safe_command_only"] is True
    assert replacement.on_death is None


def test_one_seed_seeds_everything():
    graph = by_name(seed="7")
    assert graph["mpc_planner"].parameters["seed"] == 7
    assert graph["dynamics_learner"].parameters["seed"] == 7
    assert graph["simulator"].parameters["seed"] == 7


def test_paths_do_not_depend_on_the_folder(cartpole_file, tmp_path, monkeypatch):
    path = cartpole_file()
    monkeypatch.chdir(tmp_path)
    graph = by_name(robot=path.name, report="run.json")
    assert graph["simulator"].parameters["robot"] == str(path)
    assert graph["run_monitor"].parameters["report"] == str(tmp_path / "run.json")


def test_later_files_win(tmp_path):
    own = tmp_path / "own.yaml"
    own.write_text("/**/mpc_planner: {ros__parameters: {samples: 100}}\n", "utf-8")
    files = by_name(params_file=str(own), sim="false")["mpc_planner"].parameter_files
    assert files[-1] == own


def test_files_choose_the_planner_unless_the_command_line_does():
    assert "planner" not in by_name()["mpc_planner"].parameters
    assert by_name(planner="cem")["mpc_planner"].parameters["planner"] == "cem"


def test_kinds_of_other_packages_can_be_chosen(tmp_path, monkeypatch):
    """An installed package is a folder with metadata; its code is loaded only when used."""
    metadata = tmp_path / "other-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Name: other\nVersion: 1.0\n", "utf-8")
    (metadata / "entry_points.txt").write_text(
        "[mbrl_ros.planners]\ncalm = calm:Calm\n[mbrl_ros.dynamics]\ngp = calm:Calm\n", "utf-8"
    )
    (tmp_path / "calm.py").write_text("class Calm:\n    pass\n", "utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert PLANNERS.names() == sorted(["calm", *PLANNERS.built_in()])
    assert PLANNERS.load("calm").__name__ == "Calm"
    assert MODELS.load("gp").__name__ == "GaussianProcess"


@pytest.mark.parametrize("words", [["seed:=1", "seed:=2"], ["seed=1"], ["sed:=1"]])
def test_words_that_are_not_arguments_are_refused(words):
    with pytest.raises(ArgumentError):
        parse_arguments(words)


def test_values_may_hold_the_separator():
    assert parse_arguments(["robot:=a:=b"]) == {"robot": "a:=b"}


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ({"report": "/nowhere/run.json"}, "there is no folder /nowhere"),
        ({"picture": "/tmp"}, "picture:=/tmp: is a folder"),
        ({"namespace": "a b"}, "namespace:=a b: expected letters"),
        ({"namespace": "/left/1arm"}, "expected letters"),
        ({"model_file": "/tmp"}, "model_file:=/tmp: is a folder; expected the path"),
        ({"model_file": "/nowhere/a.model"}, "there is no such file; `mbrl train` writes one"),
        ({"experience": "/dev/null"}, "experience:=/dev/null: /dev/null is a file"),
        ({"experience": "/dev/null/lived"}, "/dev/null is a file; expected a folder"),
        ({"optimize": "fully"}, "optimize:=fully is not known; expected one of none, auto"),
    ],
)
def test_arguments_that_would_fail_later_are_refused_now(arguments, reason):
    with pytest.raises(ArgumentError, match=reason):
        processes(arguments)


def test_how_to_optimize_reaches_the_planner():
    assert by_name()["mpc_planner"].parameters["optimize"] == "none"
    assert by_name(optimize="auto")["mpc_planner"].parameters["optimize"] == "auto"


def test_a_misspelt_node_in_a_parameter_file_is_refused(tmp_path):
    own = tmp_path / "own.yaml"
    own.write_text("/**/mpc_planer: {ros__parameters: {samples: 100}}\n", "utf-8")
    with pytest.raises(ArgumentError, match=r"unknown node '/\*\*/mpc_planer'; expected one of"):
        processes({"params_file": str(own)})


def test_a_parameter_that_is_set_twice_is_refused(tmp_path):
    own = tmp_path / "own.yaml"
    own.write_text("/**/mpc_planner: {ros__parameters: {samples: 9, samples: 1}}\n", "utf-8")
    with pytest.raises(ArgumentError, match="'samples' is said twice"):
        processes({"params_file": str(own)})


def test_a_simulation_stays_on_this_machine_unless_told_otherwise(monkeypatch):
    monkeypatch.delenv(bringup.DISCOVERY_VARIABLE, raising=False)
    assert bringup.environment({}) == {bringup.DISCOVERY_VARIABLE: "LOCALHOST"}
    assert bringup.environment({"sim": "false"}) == {}
    monkeypatch.setenv(bringup.DISCOVERY_VARIABLE, "SUBNET")
    assert bringup.environment({}) == {}


def test_the_stack_splits_over_two_machines():
    robot, workstation = by_name(part="robot"), by_name(part="workstation")
    assert "dynamics_learner" in workstation
    assert {"command_guard", "mpc_planner", "state_estimator", "simulator"} == set(robot)
    assert robot.keys() | workstation.keys() == set(by_name())
    assert not robot.keys() & workstation.keys()
    assert "simulator" not in by_name(part="robot", sim="false")
    # The guard still ends first, and the monitor last.
    assert next(iter(robot)) == "command_guard"
    assert list(workstation)[-1] == "run_monitor"
    for name, process in by_name().items():
        halves = robot | workstation
        same = process.parameters.items() <= halves[name].parameters.items()
        assert same or name == "command_guard"  # whose file is named after the launcher


def test_two_machines_need_the_network(monkeypatch):
    monkeypatch.delenv(bringup.DISCOVERY_VARIABLE, raising=False)
    assert bringup.environment({"part": "robot"}) == {}


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ({"part": "robot", "report": "run.json"}, "report:=run.json is of no effect with part"),
        ({"part": "robot", "experience": "here"}, "experience:=here is of no effect with part"),
        ({"part": "workstation", "pace": "lockstep"}, "pace:=lockstep needs part:=all"),
        ({"part": "laptop"}, "part:=laptop is not known; expected one of all, robot"),
    ],
)
def test_what_cannot_be_split_is_refused(arguments, reason):
    with pytest.raises(ArgumentError, match=reason):
        processes(arguments)


def test_a_model_of_another_robot_is_refused_before_anything_starts(tmp_path):
    robot = load_robot("arm2")
    model = make_model("gp", robot)
    path = tmp_path / "model.safetensors"
    path.write_bytes(encode(model, describe(robot, model, 0.1)))
    assert by_name(robot="arm2", model_file=str(path))
    for arguments, reason in (
        ({"robot": "cartpole"}, "robot is 'arm2', expected 'cartpole'"),
        ({"robot": "arm2", "model": "mlp"}, "kind is 'gp', expected 'mlp'"),
    ):
        with pytest.raises(ArgumentError, match=reason):
            processes({**arguments, "model_file": str(path)})
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(ArgumentError, match="safetensors: snapshot is"):
        processes({"robot": "arm2", "model_file": str(path)})


@pytest.mark.parametrize("controller", ["policy", "mpc+policy"])
def test_a_policy_is_trained_only_where_it_is_used(controller):
    without, graph = by_name(), by_name(controller=controller, pace="lockstep", seed="3")
    assert "policy_learner" not in without
    learner = graph["policy_learner"].parameters
    assert (learner["lockstep"], learner["seed"], learner["goal"]) == (True, 3, [0.0, 0.0])
    assert graph["mpc_planner"].parameters["controller"] == controller
    assert "policy_learner" in graph["command_guard"].parameters["listeners"]
    assert "policy_learner" not in without["command_guard"].parameters["listeners"]
    assert list(graph)[-1] == "run_monitor"
    assert "policy_learner" in by_name(controller=controller, part="workstation")
    assert "policy_learner" not in by_name(controller=controller, part="robot")
    assert "policy_learner" in by_name(controller=controller, sim="false")


def test_a_saved_policy_must_be_of_use_and_of_this_robot(tmp_path):
    robot = load_robot("arm2")
    path = tmp_path / "policy.safetensors"
    path.write_bytes(ImaginedSAC(robot).snapshot())
    given = {"robot": "arm2", "policy_file": str(path)}
    learner = by_name(controller="policy", **given)["policy_learner"]
    assert learner.parameters["policy_file"] == str(path)
    for arguments, reason in (
        (given, "is of no effect with controller:=mpc"),
        (given | {"controller": "policy", "part": "robot"}, "no effect with part:=robot"),
        (given | {"controller": "policy", "robot": "cartpole"}, "robot is 'arm2', expected"),
        (given | {"controller": "policy", "policy_file": "/nowhere"}, "there is no such file"),
    ):
        with pytest.raises(ArgumentError, match=reason):
            processes(arguments)


def test_second_goal_needs_an_end():
    with pytest.raises(ArgumentError, match="second_goal needs a duration"):
        processes({"second_goal": "[0.5, 0.0]"})


def test_the_launch_file_takes_all_from_bringup():
    """The launch packages may be missing here, so it is read, not run."""
    path = Path(share_directory() / "launch" / "mpc.launch.py")
    tree = ast.parse(path.read_text("utf-8"))
    names = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    assert {"ARGUMENTS", "processes"} <= names
    functions = {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
    assert "generate_launch_description" in functions


def test_the_parameter_page_is_up_to_date():
    from mbrl_ros.ros.parameter_page import page

    written = (share_directory() / "docs" / "parameters.md").read_text("utf-8")
    assert written == page(), "run: python -m mbrl_ros.ros.parameter_page > docs/parameters.md"
