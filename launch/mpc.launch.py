# Copyright 2026 The mbrl_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Learns a robot's dynamics and controls it by model-predictive control.

ros2 launch mbrl_ros mpc.launch.py robot:=cartpole sim:=true
"""

from functools import partial

from launch import LaunchContext, LaunchDescription
from launch.actions import (
    DeclareLaunchArgument,
    EmitEvent,
    LogInfo,
    OpaqueFunction,
    RegisterEventHandler,
    SetEnvironmentVariable,
)
from launch.event_handlers import OnProcessExit
from launch.events import Shutdown
from launch.events.process import ProcessExited
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import Node

from mbrl_ros import bringup


def make_node(process: bringup.NodeProcess, **options: object) -> Node:
    """Return the launch action of one process."""
    return Node(
        package="mbrl_ros",
        executable=process.executable,
        name=process.executable,
        namespace=process.namespace,
        parameters=[*map(str, process.parameter_files), process.parameters],
        remappings=list(process.remappings),
        arguments=["--ros-args", "--log-level", process.log_level],
        output="screen",
        **options,
    )


def start(context: LaunchContext) -> list:
    """Return the actions for the argument values of this launch."""
    values = {
        argument.name: LaunchConfiguration(argument.name).perform(context)
        for argument in bringup.ARGUMENTS
    }
    variables = bringup.environment(values)
    actions: list = [SetEnvironmentVariable(name, value) for name, value in variables.items()]
    for process in bringup.processes(values):
        node = make_node(process)
        handler = OnProcessExit(target_action=node, on_exit=partial(end_run, process))
        actions += [RegisterEventHandler(handler), node]
    return actions


def end_run(
    process: bringup.NodeProcess, event: ProcessExited, context: LaunchContext
) -> list | None:
    """Return the actions for the end of a process: every node is required."""
    if context.is_shutdown:
        return None
    reason = f"{process.executable} ended with exit status {event.returncode}"
    shutdown = [
        LogInfo(msg=f"stopping: {reason}"),
        EmitEvent(event=Shutdown(reason=reason)),
    ]
    replacement = process.replacement(event.returncode)
    if replacement is None:
        return shutdown
    last_word = make_node(replacement)
    handler = OnProcessExit(target_action=last_word, on_exit=shutdown)
    return [RegisterEventHandler(handler), last_word]


def generate_launch_description() -> LaunchDescription:
    """Declare every argument of `bringup`, then start what it says."""
    declared = []
    for argument in bringup.ARGUMENTS:
        options = {"choices": list(argument.choices)} if argument.choices else {}
        declared.append(
            DeclareLaunchArgument(
                argument.name,
                default_value=argument.default,
                description=argument.description,
                **options,
            )
        )
    return LaunchDescription(
        [
            SetEnvironmentVariable("PYTHONUNBUFFERED", "1"),
            *declared,
            OpaqueFunction(function=start),
        ]
    )
