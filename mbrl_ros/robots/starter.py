# Copyright 2026 The mbrl_ros authors
# SPDX-License-Identifier: Apache-2.0
"""A robot file to start from: written from what was found of the robot, and a few answers."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from xml.etree import ElementTree

import yaml

from mbrl_ros.robots.spec import (
    COMMAND_FIELDS,
    FLOAT64_MULTI_ARRAY,
    IMU,
    JOINT_FIELDS,
    JOINT_STATE,
    JOINT_TRAJECTORY,
    ODOMETRY,
    POSE_STAMPED,
    TWIST,
    TWIST_STAMPED,
    RobotError,
    RobotSpec,
    load_robot,
)

# Asks a person: question and default in, answer out.
Ask = Callable[[str, str], str]

_RATE = 20.0  # control rate where nothing speaks against it, Hz
_TYPE_ORDER = (JOINT_STATE, ODOMETRY, IMU, POSE_STAMPED, FLOAT64_MULTI_ARRAY)
_UNITS = {"position": "rad", "velocity": "rad/s", "effort": "N m"}
_LINEAR_UNITS = {"position": "m", "velocity": "m/s", "effort": "N"}
_POSITION_UNITS = ("rad", "m")
_PI = 3.141592653589793
_EXPAND_XACRO = "expand it first: xacro FILE > robot.urdf"


class StarterError(ValueError):
    """No file can be written; the message says what was missing."""


@dataclass(frozen=True)
class Joint:
    """What a URDF says of a joint that moves.

    lower, upper: end stops, none for one that turns freely. effort, velocity: limits or 0.
    interface: field that its controller commands, "" if unknown. driven: false if it is known
    to have no motor.
    """

    name: str
    linear: bool = False
    lower: float | None = None
    upper: float | None = None
    effort: float = 0.0
    velocity: float = 0.0
    interface: str = ""
    driven: bool = True


@dataclass(frozen=True)
class FoundSensor:
    """A topic that something is measured on: keys of a message's values, messages a second."""

    topic: str
    type: str
    keys: tuple[str, ...]
    rate: float = 0.0


@dataclass(frozen=True)
class Found:
    """What is known of a robot. commands: topics that it listens to, by topic."""

    name: str
    sensors: tuple[FoundSensor, ...]
    commands: dict[str, str] = field(default_factory=dict)
    joints: dict[str, Joint] = field(default_factory=dict)


def plain_name(name: str) -> str:
    """Return a name as a robot file accepts it."""
    plain = re.sub(r"[^a-z0-9]+", "_", name.lower()).strip("_")
    return plain if plain[:1].isalpha() else f"robot_{plain}".rstrip("_")


def read_urdf(path: Path) -> Found:
    """Return the joints of a URDF, with what a ros2_control tag says of them.

    Raises StarterError if that is no URDF or nothing in it moves, OSError if it cannot be read.
    """
    root = _parse(path)
    commanded = _interfaces(root, "command_interface")
    measured = _interfaces(root, "state_interface")
    joints = {}
    for element in root.findall("joint"):
        kind, name = element.get("type", ""), element.get("name", "")
        if kind not in ("revolute", "continuous", "prismatic") or not name:
            continue
        if element.find("mimic") is not None:
            continue
        limit = element.find("limit")
        lower, upper = _end_stops(path, kind, name, limit)
        known = commanded.get(name, [])
        joints[name] = Joint(
            name,
            kind == "prismatic",
            lower,
            upper,
            abs(_limit(path, name, limit, "effort")),
            abs(_limit(path, name, limit, "velocity")),
            known[0] if known else "",
            driven=bool(known) or not commanded,
        )
    if not any(joint.driven for joint in joints.values()):
        raise StarterError(f"{path}: has no joint that moves and can be commanded")
    keys = tuple(f"{kind}/{name}" for name in joints for kind in _readable(measured.get(name, [])))
    sensor = FoundSensor("joint_states", JOINT_STATE, keys)
    return Found(root.get("name") or "robot", (sensor,), joints=joints)


def _parse(path: Path) -> ElementTree.Element:
    """Return the <robot> element of a URDF."""
    try:
        root = ElementTree.fromstring(path.read_bytes())
    except (ElementTree.ParseError, LookupError, ValueError) as error:  # of encodings, the last
        raise StarterError(
            f"{path}: not valid XML: {error}; of a xacro file, {_EXPAND_XACRO}"
        ) from None
    for element in root.iter():
        # A tag with a namespace is {ADDRESS}NAME here; xacro has had several addresses.
        space, _, tag = element.tag.rpartition("}")
        if "xacro" in space:
            raise StarterError(
                f"{path}: expected a URDF, found a xacro file, with <xacro:{tag}>; {_EXPAND_XACRO}"
            )
    if root.tag != "robot":
        raise StarterError(f"{path}: expected a URDF, a <robot> element, found <{root.tag}>")
    return root


def _interfaces(root: ElementTree.Element, tag: str) -> dict[str, list[str]]:
    """Return the interfaces that ros2_control has of each of its joints."""
    found: dict[str, list[str]] = {}
    for control in root.iter("ros2_control"):
        for joint in control.iter("joint"):
            names = [interface.get("name", "") for interface in joint.iter(tag)]
            known = [name for name in names if name in JOINT_FIELDS]
            found.setdefault(joint.get("name", ""), []).extend(known)
    return found


def _readable(measured: Sequence[str]) -> list[str]:
    """Return what joint_states tells of a joint; both, if its state interfaces do not say."""
    kinds = ["position", "velocity"]
    return [kind for kind in kinds if kind in measured] or kinds


def _end_stops(
    path: Path, kind: str, name: str, limit: ElementTree.Element | None
) -> tuple[float | None, float | None]:
    if kind == "continuous":
        return None, None
    lower, upper = (_limit(path, name, limit, key) for key in ("lower", "upper"))
    if lower < upper:
        return lower, upper
    found = "no <limit>" if limit is None else f"the limits lower {lower:g}, upper {upper:g}"
    free = "; if it turns without end, its type is continuous" if kind == "revolute" else ""
    raise StarterError(
        f"{path}: joint '{name}' has {found}; the URDF specification requires a <limit> of a "
        f"{kind} joint, and it moves from lower to upper (each 0 where left out): expected lower "
        f"< upper{free}"
    )


def _limit(path: Path, name: str, limit: ElementTree.Element | None, key: str) -> float:
    text = "0" if limit is None else limit.get(key, "0")
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise StarterError(
            f"{path}: joint '{name}': limit {key} is {text!r}, expected a number; of a xacro "
            f"file, {_EXPAND_XACRO}"
        )
    return value


def write(name: str, found: Found, ask: Ask) -> str:
    """Return the text of a robot file; what cannot be known is asked.

    Raises StarterError, with what was expected, if nothing is measured, or an answer is of no
    use.
    """
    sensors = _choose_sensors(found, ask)
    plain = _plain_names([*_joint_names(sensors), *(sensor.topic for sensor in sensors)])
    states: list[dict[str, Any]] = []
    for sensor in sensors:
        states += _state_entries(sensor, found, plain, {entry["name"] for entry in states})
    used = {entry["sensor"] for entry in states if "sensor" in entry}
    sensors = [sensor for sensor in sensors if sensor.topic in used]
    topic, type_ = _choose_command(found, ask)
    actions = _action_entries(type_, sensors, found, ask)
    goals = _choose_goals(states, ask)
    rates = [sensor.rate for sensor in sensors if sensor.rate]
    likely = min(_RATE, max(1.0, math.floor(min(rates)))) if rates else _RATE
    rate = _number(ask("control rate in Hz (not above that of the sensors)", f"{likely:g}"))
    guessed = bool(command_guess(found, topic))
    return _text(name, rate, sensors, states, topic, type_, guessed, actions, goals)


def check(text: str, path: Path) -> RobotSpec:
    """Return the robot that `text` describes, which is to be written to `path`.

    Raises StarterError if it cannot be used.
    """
    with TemporaryDirectory() as folder:
        draft = Path(folder) / path.name
        draft.write_text(text, "utf-8")
        try:
            return load_robot(str(draft))
        except RobotError as error:
            reason = str(error).replace(str(draft), str(path))
            raise StarterError(
                f"nothing was written, because it could not be used: {reason}"
            ) from None


def command_guess(found: Found, topic: str) -> str:
    """Return what a person must know of a command topic that was only guessed, or nothing."""
    likely, _ = _likely_command(found)
    if found.commands or topic != likely:
        return ""
    return (
        f"no topic that takes commands was found: {topic} and its type are a guess; change them "
        "to what the robot listens to"
    )


def _unique(names: Iterable[str]) -> list[str]:
    """Return the names, with a number after each that was there before."""
    found: list[str] = []
    for name in names:
        free, number = name, 1
        while free in found:
            number += 1
            free = f"{name}_{number}"
        found.append(free)
    return found


def _plain_names(names: Iterable[str]) -> dict[str, str]:
    """Return names as a robot file accepts them, for different names different ones."""
    different = list(dict.fromkeys(names))
    return dict(zip(different, _unique(map(plain_name, different)), strict=True))


def _joint_names(sensors: Iterable[FoundSensor]) -> list[str]:
    """Return the joints whose positions or velocities are measured."""
    names = [
        name
        for sensor in sensors
        if sensor.type == JOINT_STATE
        for kind, _, name in (key.partition("/") for key in sensor.keys)
        if kind in ("position", "velocity")
    ]
    return list(dict.fromkeys(names))


def _choose_sensors(found: Found, ask: Ask) -> list[FoundSensor]:
    if not found.sensors:
        raise StarterError(
            "no sensor was heard: expected a topic of one of the types "
            f"{', '.join(_TYPE_ORDER)}; is the robot's driver running, in this ROS_DOMAIN_ID?"
        )
    known = {s.topic: s for s in sorted(found.sensors, key=lambda s: _TYPE_ORDER.index(s.type))}
    if len(known) == 1:
        return list(known.values())
    answer = ask("sensor topics to use, by commas", ",".join(known))
    return [known[topic] for topic in _names(answer, known, "sensor topic")]


def _state_entries(
    sensor: FoundSensor, found: Found, plain: Mapping[str, str], taken: set[str]
) -> list[dict[str, Any]]:
    """Return the dimensions that are likely wanted of a sensor, but for names already taken.

    plain: what joints and topics are called in the file.
    """
    entries: list[dict[str, Any]] = []

    def add(name: str, unit: str, **more: Any) -> None:
        if name not in taken:
            entries.append({"name": name, "sensor": sensor.topic, **more, "unit": unit})

    def derive(name: str, base: str, unit: str) -> None:
        if name not in taken and base not in taken:
            entries.append({"name": name, "derivative_of": base, "filter": "kalman", "unit": unit})

    if sensor.type == JOINT_STATE:
        for name in _joint_names([sensor]):
            joint = found.joints.get(name, Joint(name))
            units = _LINEAR_UNITS if joint.linear else _UNITS
            position, velocity = f"{plain[name]}_position", f"{plain[name]}_velocity"
            if f"position/{name}" in sensor.keys:
                more: dict[str, Any] = {"joint": name, "field": "position"}
                if joint.lower is not None and joint.upper is not None:
                    more["limits"] = [joint.lower, joint.upper]
                elif name in found.joints:
                    more["angle"] = True
                add(position, units["position"], **more)
            if f"velocity/{name}" in sensor.keys:
                add(velocity, units["velocity"], joint=name, field="velocity")
            else:
                derive(velocity, position, units["velocity"])
    elif sensor.type in (ODOMETRY, POSE_STAMPED):
        add("x", "m", field="position.x")
        add("y", "m", field="position.y")
        add("yaw", "rad", field="orientation.yaw", angle=True)
        if sensor.type == ODOMETRY:
            add("speed", "m/s", field="linear_velocity.x")
            add("turn_rate", "rad/s", field="angular_velocity.z")
        else:
            derive("x_velocity", "x", "m/s")
            derive("y_velocity", "y", "m/s")
            derive("turn_rate", "yaw", "rad/s")
    elif sensor.type == IMU:
        add("turn_rate", "rad/s", field="angular_velocity.z")
    else:
        for key in sensor.keys:
            add(f"{plain[sensor.topic]}_{key}", "1", index=int(key))
    return entries


def _choose_command(found: Found, ask: Ask) -> tuple[str, str]:
    commands = dict(sorted(found.commands.items()))
    if commands:
        # What drives a base comes first.
        likely = next((t for t in commands if t.rpartition("/")[2] == "cmd_vel"), min(commands))
        if len(commands) == 1:
            return likely, commands[likely]
        (topic,) = _names(
            ask(f"command topic, one of {', '.join(commands)}", likely), commands, "command topic"
        )
        return topic, commands[topic]
    likely, likely_type = _likely_command(found)
    topic = ask("command topic (none was found)", likely).strip()
    (type_,) = _names(
        ask(f"its type, one of {', '.join(COMMAND_FIELDS)}", likely_type), COMMAND_FIELDS, "type"
    )
    return topic, type_


def _likely_command(found: Found) -> tuple[str, str]:
    """Return the topic and type to guess where no topic was found."""
    driven = (joint for joint in found.joints.values() if joint.driven)
    interface = next((joint.interface or _likely_interface(joint) for joint in driven), "")
    if interface:
        return f"{interface}_controller/commands", FLOAT64_MULTI_ARRAY
    return "cmd_vel", TWIST_STAMPED


def _action_entries(
    type_: str, sensors: Sequence[FoundSensor], found: Found, ask: Ask
) -> list[dict[str, Any]]:
    if type_ in (TWIST, TWIST_STAMPED):
        entries = [("speed_command", "m/s", 0.5), ("turn_command", "rad/s", 1.0)]
        fields = ("linear.x", "angular.z")
        return [
            {"name": name, "field": place, "unit": unit} | _bounds(name, unit, -most, most, ask)
            for (name, unit, most), place in zip(entries, fields, strict=True)
        ]
    measured = _joint_names(sensors)
    joints = [name for name in measured if found.joints.get(name, Joint(name)).driven]
    # A Float64MultiArray names no joint: there it is only what the action is called.
    likely = ",".join(joints) or ("motor" if type_ == FLOAT64_MULTI_ARRAY else "")
    answer = ask("commanded joints, by commas, in the controller's order", likely)
    if not answer.strip():
        raise StarterError(
            f"a {type_} names the joints that it commands, and none could be seen: expected their "
            "names in answer to the question for them (--yes asks nothing), such as "
            "left_wheel,right_wheel"
        )
    names = _names(answer, None, "joint")
    # A joint is called the same in state and command.
    plain = _plain_names([*measured, *names])
    called = _unique(plain[name] for name in names)
    known = [found.joints.get(name, Joint(name)) for name in names]
    likely = known[0].interface or _likely_interface(known[0])
    if type_ == JOINT_TRAJECTORY:
        likely = "position"
    (interface,) = _names(
        ask(f"what is commanded of them, one of {', '.join(JOINT_FIELDS)}", likely),
        JOINT_FIELDS,
        "interface",
    )
    entries_ = []
    for joint, short in zip(known, called, strict=True):
        unit = (_LINEAR_UNITS if joint.linear else _UNITS)[interface]
        name = f"{short}_{interface}_command"
        entry: dict[str, Any] = {"name": name}
        if type_ != FLOAT64_MULTI_ARRAY:
            entry |= {"joint": joint.name, "field": interface}
        most = {"effort": joint.effort, "velocity": joint.velocity}.get(interface, _PI) or 1.0
        low, high = -most, most
        if interface == "position" and joint.lower is not None and joint.upper is not None:
            low, high = joint.lower, joint.upper
        entries_.append(entry | {"unit": unit} | _bounds(name, unit, low, high, ask))
    return entries_


def _likely_interface(joint: Joint) -> str:
    return "effort" if joint.effort or not joint.velocity else "velocity"


def _bounds(name: str, unit: str, low: float, high: float, ask: Ask) -> dict[str, Any]:
    answer = ask(f"lowest and highest {name} in {unit}, by a comma", f"{low:g},{high:g}")
    values = [_number(part) for part in answer.split(",")]
    if len(values) != 2 or not values[0] < values[1]:
        raise StarterError(f"'{answer}': expected two increasing numbers, such as -1.0,1.0")
    low, high = values
    return {
        "bounds": [low, high],
        "safe": _safe(unit, low, high),
        "slew": float(f"{2.0 * (high - low):.3g}"),
    }


def _safe(unit: str, low: float, high: float) -> float:
    """Return zero or what is nearest to it, but no end stop for a robot to move to."""
    if unit in _POSITION_UNITS and not low < 0.0 < high:
        return float(f"{0.5 * (low + high):.12g}")
    return min(max(0.0, low), high)


def _choose_goals(states: Sequence[dict[str, Any]], ask: Ask) -> list[dict[str, Any]]:
    by_name = {entry["name"]: entry for entry in states}
    places = [
        name
        for name, entry in by_name.items()
        if entry.get("field") in ("position", "position.x", "position.y")
    ]
    likely = places or list(by_name)[:1]
    answer = ask(f"dimensions to reach a goal in, of {', '.join(by_name)}", ",".join(likely))
    goals = []
    for name in _names(answer, by_name, "dimension"):
        entry = by_name[name]
        low, high = (-_PI, _PI) if entry["unit"] == "rad" else (-1.0, 1.0)
        if "limits" in entry:  # a tenth off each end stop
            low, high = entry["limits"]
            low, high = low + 0.1 * (high - low), high - 0.1 * (high - low)
        low, high = float(f"{low:.4g}"), float(f"{high:.4g}")
        default = min(max(0.0, low), high)
        goals.append(
            {"dimension": name, "default": default, "bounds": [low, high], "tolerance": 0.1}
        )
    return goals


def _names(answer: str, known: Any, what: str) -> list[str]:
    names = [name.strip() for name in answer.split(",") if name.strip()]
    for name in names:
        if known is not None and name not in known:
            raise StarterError(f"unknown {what} '{name}'; expected one of {', '.join(known)}")
    if not names:
        raise StarterError(f"expected at least one {what}")
    return names


def _number(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise StarterError(f"'{text}' is not a number")
    return value


def _flow(entry: dict[str, Any]) -> str:
    dumped = yaml.safe_dump(entry, default_flow_style=True, sort_keys=False, width=10_000)
    return str(dumped.strip())


def _lines(entries: Sequence[dict[str, Any]], indent: int) -> str:
    return "\n".join(f"{' ' * indent}- {_flow(entry)}" for entry in entries)


def _text(
    name: str,
    rate: float,
    sensors: Sequence[FoundSensor],
    states: Sequence[dict[str, Any]],
    topic: str,
    type_: str,
    guessed: bool,
    actions: Sequence[dict[str, Any]],
    goals: Sequence[dict[str, Any]],
) -> str:
    names = [goal["dimension"] for goal in goals]
    speeds = [e["name"] for e in states if "/s" in e["unit"] and e["name"] not in names]
    listed = "\n".join(
        f"  {_flow({sensor.topic: {'type': sensor.type, 'timeout': 0.25}})[1:-1]}"
        + (f"  # {sensor.rate:.0f} messages a second" if sensor.rate else "")
        for sensor in sensors
    )
    planar = {"x", "y", "yaw"} <= {entry["name"] for entry in states}
    frame = "  frame: base_link\n" if type_ == TWIST_STAMPED else ""
    change = "  # a guess, as none was found: change topic and type to what the robot listens to\n"
    positions = any(entry["unit"] in _POSITION_UNITS for entry in actions)
    moves = "    # the robot moves to safe when anything fails: see that the way there is free\n"
    cost = {
        "goal": dict.fromkeys(names, 1.0),
        "state": dict.fromkeys(speeds, 0.05),
        "effort": {entry["name"]: 0.01 for entry in actions},
        "rate": {entry["name"]: 0.01 for entry in actions},
    }
    weights = "\n".join(
        f"  {term + ':':<8}{_flow(values)}" for term, values in cost.items() if values
    )
    return f"""\
# All that the stack is told about this robot; how it moves is learned while it runs. Written by
# `mbrl robot new`: everything is a guess until you have read it. docs/robots.md describes every
# entry. Units are SI, angles are radians (REP-103), positions are in the frame of the sensor.
name: {name}
description: ""               # one sentence for people

control_rate: {rate:g}        # Hz: state, plan and command once per period
delay: 0.0                    # s from when a command is sent to when it moves the robot, if known

sensors:                      # topic (relative to the namespace): what it carries
  # timeout: s without a message until the robot is stopped
  # align: interpolate (default), latest or predict: how values come to be those of a tick
{listed}

state:                        # one entry a state dimension, in order
  # angle: true for a joint that turns freely; limits: [lower, upper] for end stops
  # safe_range: [lower, upper] makes the guard stop the robot outside it
  # model_input: false where how the robot moves does not depend on it
{_lines(states, 2)}

command:
{change if guessed else ""}  topic: {topic}
  type: {type_}
{frame}  dimensions:
    # safe: sent when anything fails; slew: largest change per second
{moves if positions else ""}{_lines(actions, 4)}

goal:                         # what `goal` means, in order, and where it starts
{_lines(goals, 2)}

cost:                         # stage cost: the sum of these terms
{weights}

success:                      # when a run counts as solved
  hold: 2.0                   # s at the goal without leaving its tolerances
""" + ("\nplanar: {x: x, y: y, yaw: yaw}  # lets RViz set the goal\n" if planar else "")
