# Copyright 2026 The mbrl_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Makes recordings of a simulated cart-pole, as `ros2 bag record` would have."""

import random
from dataclasses import dataclass, field

import numpy as np
from rosbags.rosbag2 import StoragePlugin, Writer
from rosbags.typesys import Stores, get_typestore

from mbrl_ros.dynamics.dataset import TransitionRecorder
from mbrl_ros.robots.estimator import StateEstimator
from mbrl_ros.sim.mujoco_plant import MujocoPlant

MILLISECOND = 1_000_000
SECOND = 1000 * MILLISECOND
HARDWARE_START = 1_700_000_000 * SECOND  # the stamps of a robot that uses Unix time

JOINT_STATE = "sensor_msgs/msg/JointState"
COMMAND = "std_msgs/msg/Float64MultiArray"
CLOCK = "rosgraph_msgs/msg/Clock"


@dataclass
class Drive:
    """A cart-pole driven at random: (stamp, names, position, velocity) and (stamp, force)."""

    sensors: list = field(default_factory=list)
    commands: list = field(default_factory=list)

    def live(self, robot):
        """Return the transitions that the live stack would have made of it."""
        estimator, recorder = StateEstimator(robot), TransitionRecorder(robot)
        for stamp, names, position, velocity in self.sensors:
            values = {
                f"{field}/{name}": value
                for field, column in (("position", position), ("velocity", velocity))
                for name, value in zip(names, column, strict=True)
            }
            state = estimator.add("joint_states", stamp, values, 0.0)
            if state is not None:
                recorder.add_state(state.stamp, state.values)
        for stamp, force in self.commands:
            recorder.add_action(stamp, [force])
        return recorder.take()


def drive(robot, seconds, start=HARDWARE_START, seed=0):
    """Sensors at 100 Hz with jitter, commands at 20 Hz some milliseconds after each tick."""
    generator, plant, result = random.Random(seed), MujocoPlant(robot), Drive()
    step = round(plant.time_step * SECOND)
    force = wander = 0.0
    next_sensor, next_command = 0, 5 * MILLISECOND
    for now in range(0, round(seconds * SECOND), step):
        if now >= next_sensor:
            position, velocity, _ = plant.joint_state()
            result.sensors.append((start + now, plant.joint_names, position, velocity))
            jitter = generator.randint(-2, 2) * MILLISECOND
            next_sensor = (now // (10 * MILLISECOND) + 1) * 10 * MILLISECOND + jitter
        if now >= next_command:
            (position, _), (velocity, _), _ = plant.joint_state()
            wander = 0.7 * wander + generator.gauss(0.0, 4.0)
            force = max(-10.0, min(10.0, wander - 6.0 * position - 2.0 * velocity))
            result.commands.append((start + now, force))
            tick = (now // (50 * MILLISECOND) + 1) * 50 * MILLISECOND
            next_command = tick + generator.randint(2, 8) * MILLISECOND
        plant.step([force], 1)
    return result


def write_bag(
    path,
    drive,
    storage=StoragePlugin.MCAP,
    namespace="",
    ahead=0,
    pace=1.0,
    clock=False,
    types=(JOINT_STATE, COMMAND),
    leave_out=(),
    more=(),
):
    """Record a drive.

    ahead: nanoseconds by which the recorder's clock is ahead of the robot's; pace: its seconds
    for each of the robot's; clock: with /clock. leave_out: topics that are not in the bag.
    more: empty topics that are in it too.
    """
    store = get_typestore(Stores.ROS2_JAZZY)
    types_ = {f"{namespace}/joint_states": types[0]}
    types_[f"{namespace}/effort_controller/commands"] = types[1]
    types_.update(dict.fromkeys(more, JOINT_STATE))
    if clock:
        types_["/clock"] = CLOCK
    begin = drive.sensors[0][0] if drive.sensors else 0
    generator = random.Random(1)

    def logged(stamp):
        way = generator.randint(0, MILLISECOND)
        return begin + ahead + round(pace * (stamp - begin)) + way

    def time(stamp):
        return store.types["builtin_interfaces/msg/Time"](
            sec=stamp // SECOND, nanosec=stamp % SECOND
        )

    def header(stamp):
        return store.types["std_msgs/msg/Header"](stamp=time(stamp), frame_id="")

    messages = []
    for stamp, names, position, velocity in drive.sensors:
        message = store.types[JOINT_STATE](
            header=header(stamp),
            name=list(names),
            position=np.array(position),
            velocity=np.array(velocity),
            effort=np.zeros(0),
        )
        at = logged(stamp)
        messages.append((at, f"{namespace}/joint_states", message))
        if clock:
            messages.append((at + 1, "/clock", store.types[CLOCK](clock=time(stamp))))
    layout = store.types["std_msgs/msg/MultiArrayLayout"](dim=[], data_offset=0)
    for stamp, force in drive.commands:
        message = store.types[COMMAND](layout=layout, data=np.array([force]))
        messages.append((logged(stamp), f"{namespace}/effort_controller/commands", message))
    with Writer(path, version=9, storage_plugin=storage) as writer:
        connections = {
            topic: writer.add_connection(topic, type_, typestore=store)
            for topic, type_ in types_.items()
            if topic not in leave_out
        }
        for at, topic, message in sorted(messages, key=lambda entry: entry[0]):
            if topic in connections and message.__msgtype__ == types_[topic]:
                raw = store.serialize_cdr(message, message.__msgtype__)
                writer.write(connections[topic], at, raw)
    return path
