# Copyright 2026 The mbrl_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Learns a robot's dynamics and controls it by model-predictive control.

ros2 launch mbrl_ros mpc.launch.py robot:=cartpole sim:=true
"""

from launch import LaunchContext, LaunchDescription
from launch.actions import (
    DeclareLaunchArgument,
    EmitEvent,
    OpaqueFunction,
    RegisterEventHandler,
    SetEnvironmentVariable,
)
from launch.event_handlers import OnProcessExit
from launch.events import Shutdown
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
    actions = []
    for process in bringup.processes(values):
        shutdown = EmitEvent(event=Shutdown(reason=f"{process.executable} has ended"))
        node = make_node(process)
        if process.on_death is None:
            on_exit = [shutdown]
        else:
            last_word = make_node(process.on_death)
            on_exit = [
                last_word,
                RegisterEventHandler(OnProcessExit(target_action=last_word, on_exit=[shutdown])),
            ]
        actions.append(RegisterEventHandler(OnProcessExit(target_action=node, on_exit=on_exit)))
        actions.append(node)
    return actions


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
