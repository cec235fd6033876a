# Copyright 2026 The mbrl_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Which nodes run with which parameters, as data.

`launch/mpc.launch.py` and the `mbrl` command both read it, so they start the same graph.
"""

from __future__ import annotations

import json
import math
import os
import re
import signal
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import yaml

from mbrl_ros.errors import reason
from mbrl_ros.kinds import MODELS, PLANNERS
from mbrl_ros.process import BAD_CONFIGURATION
from mbrl_ros.resources import config_directory
from mbrl_ros.robots.explain import check_terms
from mbrl_ros.robots.spec import GYMNASIUM, RobotError, RobotSpec, load_robot, robot_names
from mbrl_ros.yaml_file import YamlFileError, read_mapping

DISCOVERY_VARIABLE = "ROS_AUTOMATIC_DISCOVERY_RANGE"

ParameterValue = bool | int | float | str | list[float] | list[str]


class ArgumentError(ValueError):
    """A launch argument that cannot be used; the message says what could."""


@dataclass(frozen=True)
class Argument:
    """One launch argument; its value travels as text.

    choices: what it may be besides its default; empty for anything.
    """

    name: str
    default: str
    description: str
    choices: tuple[str, ...] = ()


@dataclass(frozen=True)
class NodeProcess:
    """One process of the graph.

    executable: its name under `lib/mbrl_ros`, and of its module in `mbrl_ros.nodes`.
    parameters: set after the files. on_death: what must run when this process has died
    without a chance to end cleanly (see `replacement`).
    """

    executable: str
    parameters: dict[str, ParameterValue]
    parameter_files: tuple[Path, ...] = ()
    namespace: str = ""
    log_level: str = "info"
    remappings: tuple[tuple[str, str], ...] = (("diagnostics", "/diagnostics"),)
    on_death: NodeProcess | None = field(default=None)

    def replacement(self, exit_status: int) -> NodeProcess | None:
        """Return what must run after this process has ended so, if anything.

        One that refused its configuration, or was told to end before it could listen to that,
        never did anything that would have to be undone.
        """
        harmless = (0, BAD_CONFIGURATION, -signal.SIGTERM)
        return None if exit_status in harmless else self.on_death


ARGUMENTS: tuple[Argument, ...] = (
    Argument(
        "robot",
        "cartpole",
        "Name of a shipped robot, path of a robot's YAML file, or gym/ENVIRONMENT_ID.",
    ),
    Argument(
        "sim",
        "true",
        "true: simulate the robot and use its clock. false: real hardware, system time, "
        "stricter limits, a guard that starts disarmed.",
        ("true", "false"),
    ),
    Argument("model", "gp", "Kind of dynamics model that is learned.", tuple(MODELS.names())),
    Argument(
        "planner",
        "",
        "Kind of planner; empty: as params_file:= or the robot's tuning file says, else mppi.",
        tuple(PLANNERS.names()),
    ),
    Argument(
        "optimize",
        "none",
        "How the planner rolls candidates out. none: in float32, the same on every machine. auto: "
        "measure at start, take a GPU, compiled code or bfloat16 where that is faster. compile, "
        "cuda: through torch.compile, or on a GPU as one CUDA graph, where that works.",
        ("none", "auto", "compile", "cuda"),
    ),
    Argument(
        "controller",
        "mpc",
        "mpc: plan at every tick. policy: act by reflex, by a policy that is trained meanwhile, "
        "and plan while there is none for the goal. mpc+policy: plan, helped by that policy.",
        ("mpc", "policy", "mpc+policy"),
    ),
    Argument("model_file", "", "Saved model to start from; empty: none."),
    Argument("policy_file", "", "Saved policy to start from; empty: none."),
    Argument(
        "experience",
        "",
        "Directory in which every transition is stored, and from which the learner goes on; "
        "empty: none.",
    ),
    Argument("goal", "", "First goal, such as [0.5, 0.0]; empty: as the robot's file says."),
    Argument(
        "pace",
        "realtime",
        "Of the simulation. lockstep: each period waits for its command, so that a run repeats "
        "exactly on any machine.",
        ("realtime", "lockstep"),
    ),
    Argument(
        "part",
        "all",
        "Of the stack. robot: what must not wait for a network; workstation: the learners and the "
        "monitor, on another machine of the same ROS graph.",
        ("all", "robot", "workstation"),
    ),
    Argument("seed", "0", "Seed of all random numbers."),
    Argument("duration", "0.0", "Robot seconds after which the run ends; 0.0: no end."),
    Argument("report", "", "JSON file for the summary of the run; empty: none."),
    Argument("picture", "", "PNG file for a picture of the run; empty: none."),
    Argument("second_goal", "", "Goal to move to after three quarters of the duration."),
    Argument("namespace", "", "Namespace of all nodes and topics."),
    Argument("params_file", "", "ROS parameter file that overrides the shipped ones."),
    Argument(
        "log_level", "info", "Least severe messages shown.", ("debug", "info", "warn", "error")
    ),
)

# The guard ends first, so that the safe command goes out while the robot still listens; the
# monitor ends last, so that it sees the others' last numbers.
NODES = (
    "command_guard",
    "mpc_planner",
    "policy_controller",
    "dynamics_learner",
    "policy_learner",
    "state_estimator",
    "simulator",
    "run_monitor",
)

# Who runs what when a stack is split over two machines, and the arguments that are of no effect
# without the nodes of the other.
PARTS = {
    "all": NODES,
    "robot": (
        "command_guard",
        "mpc_planner",
        "policy_controller",
        "state_estimator",
        "simulator",
    ),
    "workstation": ("dynamics_learner", "policy_learner", "run_monitor"),
}
_ELSEWHERE = {
    "all": (),
    "robot": ("model_file", "policy_file", "experience", "report", "picture", "second_goal"),
    "workstation": (),
}
# A table learns at once from every step.
_TABLE: dict[str, ParameterValue] = {
    "policy": "dyna_q",
    "first_update": 2,
    "update_every": 1,
    "first_policy": 0,
    "publish_rate": 100.0,
}
# A link that is broken for so many seconds does not end the part on the other side.
_LINK_PATIENCE = 1e9


def environment(given: Mapping[str, str]) -> dict[str, str]:
    """Return the environment variables that a run needs beyond those already set.

    A simulation has the robot's own topic names: unless told otherwise, or split over two
    machines, it stays on this one, so that it cannot drive a real robot on the network.
    """
    values = _complete(given)
    alone = values["sim"] == "true" and values["part"] == "all"
    if alone and DISCOVERY_VARIABLE not in os.environ:
        return {DISCOVERY_VARIABLE: "LOCALHOST"}
    return {}


def parse_arguments(given: list[str]) -> dict[str, str]:
    """Turn `name:=value` words into launch arguments.

    Raises ArgumentError for a word of another form, an unknown name or a name given twice.
    """
    values: dict[str, str] = {}
    known = [argument.name for argument in ARGUMENTS]
    for word in given:
        name, separator, value = word.partition(":=")
        if not separator:
            raise ArgumentError(f"'{word}' is not a launch argument; expected name:=value")
        if name not in known:
            raise ArgumentError(
                f"unknown launch argument '{name}'; expected one of {', '.join(known)}"
            )
        if name in values:
            raise ArgumentError(f"launch argument '{name}' is given twice")
        values[name] = value
    return values


def processes(given: Mapping[str, str]) -> list[NodeProcess]:
    """Return the processes of a run, in the order in which they must end.

    Raises ArgumentError, naming argument, value and what is accepted, if one cannot be used.
    """
    values = _complete(given)
    try:
        robot = load_robot(values["robot"])
        check_terms(robot)
    except RobotError as error:
        raise ArgumentError(f"robot:={values['robot']}: {error}") from None
    if robot.discrete:
        _check_discrete(values)
    simulated = values["sim"] == "true"
    lockstep = values["pace"] == "lockstep"
    if lockstep and not simulated:
        raise ArgumentError("pace:=lockstep needs sim:=true; hardware does not wait")
    if lockstep and values["part"] != "all":
        raise ArgumentError(
            "pace:=lockstep needs part:=all; a simulation that waits for the network shows nothing"
        )
    for name in _ELSEWHERE[values["part"]]:
        if values[name]:
            raise ArgumentError(
                f"{name}:={values[name]} is of no effect with part:={values['part']}; "
                "give it to the other part"
            )
    with_policy = values["controller"] != "mpc"
    if values["policy_file"] and not with_policy:
        raise ArgumentError(
            f"policy_file:={values['policy_file']} is of no effect with controller:=mpc; give "
            "controller:=policy or controller:=mpc+policy"
        )
    if simulated and robot.simulation is None:
        raise ArgumentError(f"robot '{robot.name}' has no simulation section; use sim:=false")
    seed = _integer("seed", values["seed"])
    duration = _seconds("duration", values["duration"])
    goal = _goal("goal", values["goal"], robot.goal_default)
    second_goal = _goal("second_goal", values["second_goal"], goal)
    for name, candidate in (("goal", goal), ("second_goal", second_goal)):
        problem = robot.check_goal(candidate)
        if problem:
            raise ArgumentError(f"{name}:={values[name]}: {problem}")
    if values["model_file"]:
        _check_model_file(values["model_file"], values["model"], robot)
    if values["policy_file"]:
        _check_policy_file(values["policy_file"], robot)
    _check_experience(values["experience"])
    for name in ("report", "picture"):
        _check_output(name, values[name])
    if not re.fullmatch(r"/?([A-Za-z_]\w*(/[A-Za-z_]\w*)*)?", values["namespace"]):
        raise ArgumentError(
            f"namespace:={values['namespace']}: expected letters, digits, _ and / such as left/arm"
        )
    if values["second_goal"] and not duration:
        raise ArgumentError("second_goal needs a duration; it comes after three quarters of it")

    robot_path = values["robot"]
    if robot_path not in robot_names() and not robot_path.startswith(GYMNASIUM):
        robot_path = str(Path(robot_path).absolute())
    common: dict[str, ParameterValue] = {"robot": robot_path, "use_sim_time": simulated}
    repeated = ("model", "controller", "pace", "sim")
    settings = {name: values[name] for name in repeated} | {"seed": seed}
    left_out = ["policy_controller"]
    if robot.discrete:
        left_out = ["mpc_planner", "dynamics_learner"]
    if not with_policy:
        left_out.append("policy_learner")
    if not simulated:
        left_out.append("simulator")
    names = [name for name in PARTS[values["part"]] if name not in left_out]
    hearing = ("dynamics_learner", "mpc_planner", "policy_learner", "run_monitor")
    learning = ("dynamics_learner", "policy_learner")
    own: dict[str, dict[str, ParameterValue]] = {
        "simulator": {
            "pace": values["pace"],
            "duration": duration,
            "seed": seed,
            "listeners": [name for name in learning if name not in left_out],
        },
        "state_estimator": {"lockstep": lockstep},
        "command_guard": {
            "armed": simulated,
            "lockstep": lockstep,
            "listeners": [name for name in hearing if name not in left_out],
            "commanded_file": _commanded_file(values["namespace"]),
        },
        "mpc_planner": {
            "model": values["model"],
            "controller": values["controller"],
            "goal": goal,
            "seed": seed,
            "lockstep": lockstep,
            "optimize": values["optimize"],
        },
        "policy_controller": {"seed": seed, "lockstep": lockstep},
        "dynamics_learner": {
            "model": values["model"],
            "seed": seed,
            "lockstep": lockstep,
            "model_file": _absolute(values["model_file"]),
            "experience": _absolute(values["experience"]),
        },
        "policy_learner": {
            "model": values["model"],
            "seed": seed,
            "lockstep": lockstep,
            "goal": goal,
            "policy_file": _absolute(values["policy_file"]),
            "save_folder": _absolute(values["experience"]),
        },
        "run_monitor": {
            "duration": duration,
            "report": _absolute(values["report"]),
            "picture": _absolute(values["picture"]),
            "goal": goal,
            "second_goal": second_goal,
            "second_goal_after": 0.75 * duration if values["second_goal"] else 0.0,
            "settings": json.dumps(settings),
        },
    }
    if robot.discrete:
        own["policy_learner"] |= _TABLE
    if values["part"] == "workstation":
        own["run_monitor"]["stall_timeout"] = _LINK_PATIENCE
    if values["planner"]:
        own["mpc_planner"]["planner"] = values["planner"]
    files = [config_directory() / f"{name}.yaml" for name in NODES]
    files.append(config_directory() / "tuning" / f"{robot.name}.yaml")
    if not simulated:
        files.append(config_directory() / "hardware.yaml")
    if values["params_file"]:
        files.append(_parameter_file(values["params_file"]))
    existing = tuple(path for path in files if path.is_file())
    remappings = NodeProcess.remappings
    namespace = values["namespace"].strip("/")
    if simulated and namespace:
        # Two simulations side by side must not move each other's clock.
        remappings = (*remappings, ("/clock", f"/{namespace}/clock"))

    def process(name: str, **extra: ParameterValue) -> NodeProcess:
        return NodeProcess(
            executable=name,
            parameters=common | own[name] | extra,
            parameter_files=existing,
            namespace=values["namespace"],
            log_level=values["log_level"],
            remappings=remappings,
            on_death=process(name, safe_command_only=True)
            if name == "command_guard" and not extra
            else None,
        )

    return [process(name) for name in names]


def _check_discrete(values: Mapping[str, str]) -> None:
    """Refuse what there is not for a robot of discrete actions."""
    if values["controller"] != "policy":
        raise ArgumentError(
            f"controller:={values['controller']}: robot:={values['robot']} has discrete actions "
            "(docs/robots.md, whole numbers), which mpc_planner cannot plan; give "
            "controller:=policy"
        )
    for name in ("model_file", "experience"):
        if values[name]:
            raise ArgumentError(
                f"{name}:={values[name]} is of no effect with robot:={values['robot']}: its "
                "actions are discrete, and no dynamics model is learned; policy_file:= is taken"
            )


def _complete(given: Mapping[str, str]) -> dict[str, str]:
    values = {argument.name: argument.default for argument in ARGUMENTS} | dict(given)
    for argument in ARGUMENTS:
        value = values[argument.name]
        if argument.choices and value not in (argument.default, *argument.choices):
            raise ArgumentError(
                f"{argument.name}:={value} is not known; expected one of "
                f"{', '.join(argument.choices)}"
            )
    return values


def _integer(name: str, text: str) -> int:
    try:
        value = int(text)
    except ValueError:
        value = -1
    if not 0 <= value < 2**31:
        raise ArgumentError(f"{name}:={text}: expected a whole number from 0 to {2**31 - 1}")
    return value


def _seconds(name: str, text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not (math.isfinite(value) and value >= 0.0):
        raise ArgumentError(f"{name}:={text}: expected seconds, 0.0 or more")
    return value


def _goal(name: str, text: str, default: list[float]) -> list[float]:
    if not text:
        return default
    try:
        values = yaml.safe_load(text)
        return [float(value) for value in values]
    except (yaml.YAMLError, TypeError, ValueError):
        raise ArgumentError(
            f"{name}:={text}: expected numbers in brackets, such as [0.5, 0.0]"
        ) from None


def _commanded_file(namespace: str) -> str:
    """Return a path of this run's own: the launching process and the namespace name it."""
    name = f"mbrl_ros-{os.getpid()}-{namespace.strip('/').replace('/', '-')}.commanded"
    return str(Path(tempfile.gettempdir()) / name)


def _check_output(name: str, text: str) -> None:
    path = Path(text).absolute()
    if text and (path.is_dir() or not path.parent.is_dir()):
        problem = "is a folder" if path.is_dir() else f"there is no folder {path.parent}"
        raise ArgumentError(f"{name}:={text}: {problem}; expected the path of a file")


def _check_model_file(text: str, kind: str, robot: RobotSpec) -> None:
    """Refuse a model that the learner would refuse, before anything starts."""
    from mbrl_ros.dynamics.snapshot import SnapshotError, check, read_info

    try:
        check(read_info(Path(text).read_bytes()), kind, robot)
    except FileNotFoundError:
        raise ArgumentError(
            f"model_file:={text}: there is no such file; `mbrl train` writes one, and so does "
            "the learner's service ~/save"
        ) from None
    except (OSError, SnapshotError) as error:
        raise ArgumentError(f"model_file:={text}: {reason(error)}") from None


def _check_policy_file(text: str, robot: RobotSpec) -> None:
    """Refuse a policy that the learner would refuse, before anything starts."""
    from mbrl_ros.dynamics.snapshot import SnapshotError
    from mbrl_ros.imagination.snapshot import decode

    try:
        decode(Path(text).read_bytes(), robot)
    except FileNotFoundError:
        raise ArgumentError(
            f"policy_file:={text}: there is no such file; the service ~/save of policy_learner "
            "writes one"
        ) from None
    except (OSError, SnapshotError) as error:
        raise ArgumentError(f"policy_file:={text}: {reason(error)}") from None


def _check_experience(text: str) -> None:
    """Refuse a folder that could be neither used nor made."""
    if not text:
        return
    # The nearest part of the path that exists decides.
    path = Path(text).absolute()
    existing = next(part for part in (path, *path.parents) if part.exists())
    if not existing.is_dir():
        raise ArgumentError(
            f"experience:={text}: {existing} is a file; expected a folder, or one to be made"
        )
    if not os.access(existing, os.W_OK | os.X_OK):
        raise ArgumentError(f"experience:={text}: no permission to write into {existing}")


def _absolute(path: str) -> str:
    return str(Path(path).absolute()) if path else ""


def _parameter_file(text: str) -> Path:
    path = Path(text)
    try:
        data = read_mapping(path)
    except YamlFileError as error:
        raise ArgumentError(f"params_file:={text}: {error}") from None
    for key in data:
        name = str(key).rpartition("/")[2]
        if name not in (*NODES, "*", "**"):
            raise ArgumentError(
                f"params_file:={text}: unknown node '{key}'; expected one of {', '.join(NODES)}, "
                "with or without namespace, or /**"
            )
    return path.absolute()
