# Copyright 2026 The mbrl_ros authors
# SPDX-License-Identifier: Apache-2.0
"""What a robot file says, in words, and what in it deserves a second thought."""

from __future__ import annotations

from collections.abc import Mapping

from mbrl_ros.robots.spec import (
    TWIST,
    ActionDimension,
    Bounds,
    RobotError,
    RobotSpec,
    StateDimension,
)
from mbrl_ros.sim.plant import make_plant

_ALIGN = {
    "interpolate": "interpolated to the tick",
    "latest": "newest before the tick",
    "predict": "carried on to the tick",
}
_NOT_SI = {"deg", "degree", "degrees", "°", "deg/s", "mm", "cm", "km", "km/h", "rpm", "g", "kN"}


def check_terms(robot: RobotSpec) -> None:
    """Raise RobotError if a cost term of a package cannot be used, as the planner would find.

    Costs the time that it takes to load PyTorch, but only if there are such terms.
    """
    if not robot.cost.terms:
        return
    from mbrl_ros.planning.objective import Objective

    try:
        Objective(robot)
    except ValueError as error:
        raise RobotError(f"cost.terms: {error}") from None


def explain(robot: RobotSpec) -> list[str]:
    """Return lines that say where the state comes from, what goes out, and what for."""
    lines = [f"{robot.name}: {robot.description or 'no description'}"]
    lines.append(f"  {robot.control_rate:g} ticks a second, one every {1e3 * robot.period:g} ms")
    if robot.delay:
        lines.append(f"  about {1e3 * robot.delay:g} ms from a command to its effect")
    lines.append("reads")
    for topic, sensor in robot.sensors.items():
        frame = f", frame {sensor.frame}" if sensor.frame else ""
        lines.append(
            f"  {topic} ({sensor.type}), {_ALIGN[sensor.align]}, "
            f"stale after {sensor.timeout:g} s{frame}"
        )
        own = [dimension for dimension in robot.state if dimension.sensor == topic]
        names = {dimension.name for dimension in own}
        derived = [dimension for dimension in robot.state if dimension.derivative_of in names]
        lines += [_state_line(dimension) for dimension in own + derived]
    command = robot.command
    frame = f", frame {command.frame}" if command.frame else ""
    lines += ["sends", f"  {command.topic} ({command.type}{frame})"]
    lines += [_action_line(dimension) for dimension in command.dimensions]
    lines += ["pursues", *_goal_lines(robot), *_cost_lines(robot)]
    if robot.success is not None:
        success = robot.success
        place = "every goal dimension within its tolerance"
        if success.dimension is not None:
            place = f"{success.dimension} within {success.tolerance:g} of its goal"
        lines.append(f"  solved: {place} for {success.hold:g} s ({success.label})")
    plant = robot.simulation.plant if robot.simulation is not None else None
    lines.append(f"simulated by plant {plant}" if plant else "not simulated: sim:=false only")
    return lines


def warnings(robot: RobotSpec) -> list[str]:
    """Return what is allowed, but may not be what was meant or is not safe."""
    found = []
    for action in robot.command.dimensions:
        what = f"command '{action.name}'"
        if action.slew is None and not action.discrete:
            found.append(
                f"{what} has no slew: it may jump from {action.bounds[0]:g} to "
                f"{action.bounds[1]:g}{_unit(action.unit)} at once"
            )
        position = _position(robot, action)
        if position:
            found.append(
                f"{what} {position} when anything fails, the robot moves to its safe value "
                f"{action.safe:g}{_unit(action.unit)}; see that the way there is free"
            )
        if action.unit in _NOT_SI:
            found.append(f"{what} is in {action.unit}; ROS uses SI units (REP-103)")
    for state in robot.state:
        found += _state_warnings(robot, state)
    if all(dimension.safe_range is None for dimension in robot.state):
        found.append(
            "no state dimension has a safe_range: the guard does not stop a robot that goes "
            "where it must not be"
        )
    for goal in robot.goal:
        state = robot.state[robot.state_names.index(goal.dimension)]
        for name, limits in (("limits", state.limits), ("safe_range", state.safe_range)):
            if limits and (goal.bounds[0] < limits[0] or goal.bounds[1] > limits[1]):
                found.append(
                    f"goal '{goal.dimension}' may be set to {_span(goal.bounds)}, which reaches "
                    f"beyond its {name} {_span(limits)}"
                )
        if not robot.cost.goal.get(goal.dimension) and not robot.cost.terms:
            found.append(
                f"goal '{goal.dimension}' has no weight in cost.goal: nothing draws it there"
            )
    if robot.goal and robot.success is None:
        found.append("there is no success section: a run never counts as solved")
    if not (robot.cost.effort or robot.cost.rate or robot.discrete):
        found.append("cost has neither effort nor rate: commands may be as wild as bounds allow")
    for topic, sensor in robot.sensors.items():
        if sensor.timeout < robot.period:
            found.append(
                f"sensor {topic}: its timeout of {sensor.timeout:g} s is shorter than a control "
                f"period of {robot.period:g} s"
            )
    for topic in (*robot.sensors, robot.command.topic):
        if topic.startswith("/"):
            found.append(f"topic {topic} begins with /: a namespace does not move it")
    if robot.simulation is not None:
        try:
            make_plant(robot, seed=0)
        except RobotError as error:
            found.append(f"sim:=true would not start: {error}")
    if robot.command.type == TWIST:
        found.append(
            f"{TWIST} carries no time, so that the robot cannot tell an old command; prefer a "
            "TwistStamped where it takes one"
        )
    return found


# What no file can tell; said once after a check.
UNKNOWN_LIVE = "not checked: what the robot does when commands stop"
UNKNOWN = (
    "not checked (--live compares with the robot that runs now): topics, joints, rates, stamps; "
    "and what the robot does when commands stop"
)


def _position(robot: RobotSpec, action: ActionDimension) -> str:
    """Return what makes a command a position, or lets it be one; nothing if it is none."""
    if action.field == "position":
        return "is a position:"
    alike = [state.name for state in robot.state if state.unit == action.unit]
    if action.field is None and action.unit in ("rad", "m") and alike:
        return f"is in {action.unit}, as state '{alike[0]}' is: if it is a position,"
    return ""


def _state_warnings(robot: RobotSpec, state: StateDimension) -> list[str]:
    found = []
    what = f"state '{state.name}'"
    free = state.joint is not None and state.field == "position" and state.limits is None
    if state.unit == "rad" and free and not state.angle:
        found.append(
            f"{what} is in rad and has neither angle: true nor limits: should it turn freely, "
            "say angle: true"
        )
    if state.unit == "m" and free and state.safe_range is None:
        found.append(
            f"{what} has neither limits nor a safe_range: should its travel end somewhere, say "
            "where, or neither planner nor guard knows"
        )
    if state.unit in _NOT_SI:
        found.append(f"{what} is in {state.unit}; ROS uses SI units (REP-103)")
    if state.derivative_of and state.filter == "difference" and robot.control_rate > 50.0:
        found.append(
            f"{what} is a difference over {1e3 * robot.period:g} ms, which makes much of a "
            "sensor's noise; filter: kalman makes less"
        )
    return found


def _state_line(dimension: StateDimension) -> str:
    if dimension.derivative_of is not None:
        source = f"derivative of {dimension.derivative_of} ({dimension.filter})"
    elif dimension.joint is not None:
        source = f"{dimension.field} of joint {dimension.joint}"
    else:
        source = dimension.field or f"value at index {dimension.index}"
    more = _scale(dimension.scale) + (", an angle that wraps" if dimension.angle else "")
    if dimension.limits is not None:
        more += f", end stops at {_span(dimension.limits)}"
    if dimension.safe_range is not None:
        more += f", the guard stops the robot outside {_span(dimension.safe_range)}"
    if not dimension.model_input:
        more += ", no input of models"
    if dimension.discrete:
        more += ", whole numbers"
    return f"    {dimension.name} [{dimension.unit}]: {source}{more}"


def _action_line(dimension: ActionDimension) -> str:
    place = dimension.field or "next value"
    if dimension.joint is not None:
        place += f" of joint {dimension.joint}"
    place += _scale(dimension.scale)
    slew = f"at most {dimension.slew:g} a second" if dimension.slew else "no slew limit"
    jerk = f", jerk {dimension.jerk:g}" if dimension.jerk else ""
    how = "whole numbers" if dimension.discrete else slew + jerk
    return (
        f"    {dimension.name} [{dimension.unit}]: {place}, {_span(dimension.bounds)}, "
        f"safe {dimension.safe:g}, {how}"
    )


def _scale(scale: float) -> str:
    return "" if scale == 1.0 else f", {scale:g} each"


def _goal_lines(robot: RobotSpec) -> list[str]:
    if not robot.goal:
        return [f"  no goal, a learned reward on {robot.reward}" if robot.reward else "  no goal"]
    units = {dimension.name: dimension.unit for dimension in robot.state}
    return [
        f"  goal {goal.dimension}: {goal.default:g} at first, {_span(goal.bounds)} accepted, "
        f"reached within {goal.tolerance:g}{_unit(units[goal.dimension])}"
        for goal in robot.goal
    ]


def _cost_lines(robot: RobotSpec) -> list[str]:
    cost = robot.cost

    def weighted(weights: Mapping[str, float]) -> str:
        return ", ".join(f"{weight:g} x {name}" for name, weight in weights.items())

    parts = [
        ("squared distance to the goal", weighted(cost.goal)),
        ("squared state", weighted(cost.state)),
        ("squared command", weighted(cost.effort)),
        ("squared change of command", weighted(cost.rate)),
        ("squared distance to the goal at the end of a plan", weighted(cost.terminal)),
        (
            "soft bounds",
            ", ".join(f"{b.dimension} {_span(b.bounds)}" for b in cost.soft_bounds),
        ),
        ("obstacles", str(len(cost.obstacles)) if cost.obstacles else ""),
        ("learned reward", f"-{cost.reward:g} x {robot.reward}" if cost.reward else ""),
        (
            "exploration",
            f"weight {cost.exploration.weight:g}, halved every {cost.exploration.half_life:g} "
            "transitions"
            if cost.exploration
            else "",
        ),
        ("terms of other packages", ", ".join(cost.terms)),
    ]
    return [f"  cost, {name}: {text}" for name, text in parts if text]


def _unit(unit: str) -> str:
    return "" if unit in ("", "1") else f" {unit}"


def _span(bounds: Bounds) -> str:
    return f"{bounds[0]:g} to {bounds[1]:g}"
