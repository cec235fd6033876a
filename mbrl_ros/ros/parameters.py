# Copyright 2026 The mbrl_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Parameters as declarations: name, default, range, description, in one place a node."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rcl_interfaces.msg import FloatingPointRange, IntegerRange, ParameterDescriptor
from rclpy.exceptions import (
    InvalidParameterTypeException,
    InvalidParameterValueException,
    ParameterUninitializedException,
)
from rclpy.node import Node
from rclpy.parameter import Parameter as RosParameter

if TYPE_CHECKING:  # it comes with torch, which the guard does without
    from mbrl_ros.planning.planner import Setting


class ParameterError(ValueError):
    """A parameter value that the node cannot start with; the message names it."""


@dataclass(frozen=True)
class Parameter:
    """One declaration.

    default: its value and, by it, its type. minimum, maximum: accepted range of a number,
    edges included. fixed: cannot be changed after the start.
    """

    name: str
    default: bool | int | float | str | list[float] | list[int] | list[str]
    description: str
    minimum: float | None = None
    maximum: float | None = None
    fixed: bool = True

    def descriptor(self) -> ParameterDescriptor:
        """Return what rclpy enforces and tools show."""
        descriptor = ParameterDescriptor(
            description=self.description,
            read_only=self.fixed,
            # An empty list has no type of its own; its node checks what it is set to.
            dynamic_typing=self.default == [],
        )
        low, high = self.minimum, self.maximum
        if isinstance(self.default, float) and (low is not None or high is not None):
            descriptor.floating_point_range = [
                FloatingPointRange(
                    from_value=-1e308 if low is None else float(low),
                    to_value=1e308 if high is None else float(high),
                )
            ]
        elif isinstance(self.default, int) and (low is not None or high is not None):
            descriptor.integer_range = [
                IntegerRange(
                    from_value=-(2**31) if low is None else int(low),
                    to_value=2**31 if high is None else int(high),
                    step=1,
                )
            ]
        return descriptor


ROBOT = Parameter(
    "robot", "cartpole", "Name of a shipped robot, path of its YAML file, or gym/ENVIRONMENT_ID."
)


def from_setting(setting: Setting, prefix: str = "") -> Parameter:
    """Return the parameter `prefix` + name that a setting of a planner or policy is in ROS."""
    description, name = setting.description, prefix + setting.name
    if setting.choices:
        words = f"{description} One of: {', '.join(setting.choices)}."
        return Parameter(name, setting.default, words)
    return Parameter(name, setting.default, description, setting.least, setting.most)


def declare(node: Node, parameters: Sequence[Parameter]) -> dict[str, Any]:
    """Declare all parameters on the node and return their values.

    Raises ParameterError, naming parameter, value and what is accepted, if one set from
    outside cannot be used.
    """
    values: dict[str, Any] = {}
    given = getattr(node, "_parameter_overrides", {})
    for parameter in parameters:
        if parameter.name in given and _is_float(parameter.default):
            given[parameter.name] = as_float(given[parameter.name])
        try:
            declared: RosParameter[Any] = node.declare_parameter(
                parameter.name, parameter.default, parameter.descriptor()
            )
        except (
            InvalidParameterTypeException,
            InvalidParameterValueException,
            ParameterUninitializedException,
        ) as error:
            kind = type(parameter.default).__name__
            raise ParameterError(
                f"parameter '{parameter.name}': {error}; expected {kind}{_range(parameter)}"
            ) from None
        # An empty list in a parameter file arrives as nothing at all.
        empty = declared.value is None and parameter.default == []
        values[parameter.name] = [] if empty else declared.value
    return values


def _is_float(default: object) -> bool:
    values = default if isinstance(default, list) else [default]
    return any(isinstance(value, float) for value in values)


def as_float(given: RosParameter[Any]) -> RosParameter[Any]:
    """Return a parameter, whole numbers in it as floats: who types [1, 0] means [1.0, 0.0]."""
    kinds = RosParameter.Type
    if given.type_ == kinds.INTEGER:
        return RosParameter(given.name, kinds.DOUBLE, float(given.value))
    if given.type_ == kinds.INTEGER_ARRAY:
        return RosParameter(given.name, kinds.DOUBLE_ARRAY, [float(v) for v in given.value])
    return given


def _range(parameter: Parameter) -> str:
    if parameter.minimum is None and parameter.maximum is None:
        return ""
    low = "-inf" if parameter.minimum is None else parameter.minimum
    high = "inf" if parameter.maximum is None else parameter.maximum
    return f" in [{low}, {high}]"
