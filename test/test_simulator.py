# Copyright 2026 The mbrl_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Node `simulator` over real DDS: every sensor and command type, and a world that changes."""

import math
from itertools import pairwise

import pytest
from geometry_msgs.msg import TwistStamped
from rclpy.node import Node
from rclpy.parameter import Parameter as RosParameter
from rclpy.parameter_client import AsyncParameterClient
from sensor_msgs.msg import JointState
from stack import LATEST, Listener, Process, node, wait_for
from std_msgs.msg import Float64MultiArray
from std_srvs.srv import Trigger

from mbrl_ros.robots import load_robot
from mbrl_ros.ros.conversions import (
    MESSAGES,
    command_message,
    read_sensor,
    sensor_stamp,
    to_nanoseconds,
)
from mbrl_ros.ros.qos import STREAM
from mbrl_ros.sim.plant import make_plant


@pytest.fixture
def listener():
    with Listener() as listening:
        yield listening


class Drive:
    """A simulator in lockstep, and what its sensors said by stamp."""

    def __init__(self, listener, folder, robot, *parameters):
        self.robot = load_robot(robot)
        self.readings = {topic: {} for topic in self.robot.sensors}
        self.rewards = {}
        self.node = listener.node
        for topic, sensor in self.robot.sensors.items():
            self.node.create_subscription(
                MESSAGES[sensor.type],
                topic,
                lambda message, topic=topic: self.readings[topic].setdefault(
                    sensor_stamp(message), read_sensor(message)
                ),
                STREAM,
            )
        if self.robot.reward:
            self.node.create_subscription(JointState, self.robot.reward, self._on_reward, STREAM)
        command = self.robot.command
        self.commands = self.node.create_publisher(MESSAGES[command.type], command.topic, LATEST)
        words = ["--ros-args"]
        for parameter in (f"robot:={robot}", "pace:=lockstep", *parameters):
            words += ["-p", parameter]
        self.process = Process(folder, "mbrl_ros.nodes.simulator", words)

    def _on_reward(self, message):
        self.rewards[to_nanoseconds(message.header.stamp)] = message.position[0]

    def __enter__(self):
        wait_for(lambda: self.commands.get_subscription_count() > 0, "the simulator")
        wait_for(lambda: all(self.readings.values()), "the first messages")
        return self

    def __exit__(self, *_):
        self.process.__exit__()

    def command(self, *action, times=1):
        """Send a command again and again, waiting each time for all sensors to answer."""
        for _ in range(times):
            before = {topic: len(found) for topic, found in self.readings.items()}
            self.commands.publish(command_message(self.robot, 0, action))
            wait_for(
                lambda before=before: all(
                    len(self.readings[topic]) > count for topic, count in before.items()
                ),
                "the answer of the sensors",
                10.0,
            )

    def stamps(self, topic):
        """Return in which periods the sensor spoke."""
        return [round(stamp / self.robot.period_nanoseconds, 3) for stamp in self.readings[topic]]


@pytest.mark.parametrize(
    ("robot", "action"),
    [("diff_drive", (0.5, 0.4)), ("quadrotor2d", (10.0, 0.3)), ("arm2", (1.0, -0.3))],
)
def test_messages_carry_what_the_plant_reads(listener, tmp_path, robot, action):
    """Of every tick, within what a quaternion rounds off."""
    with Drive(listener, tmp_path, robot) as drive:
        drive.command(*action, times=5)
        plant = make_plant(drive.robot)
        steps = round(drive.robot.period / plant.time_step)
        for tick in range(1, 6):
            plant.step(action, steps)
            for topic, reading in plant.readings().items():
                found = drive.readings[topic][tick * drive.robot.period_nanoseconds]
                assert {k: found[k] for k in reading} == pytest.approx(reading, abs=1e-9)


def test_an_environments_rewards_and_resets_come_through(listener, tmp_path):
    """After the 200th step of an episode one tick is left out, and the next begins elsewhere."""
    pytest.importorskip("gymnasium")
    with Drive(listener, tmp_path, "gym/Pendulum-v1", "seed:=4") as drive:
        drive.command(0.5, times=203)
        plant = make_plant(drive.robot, seed=4)
        period = drive.robot.period_nanoseconds
        for tick in range(1, 201):
            plant.step([0.5], 1)
            assert drive.readings["observation"][tick * period] == plant.readings()["observation"]
        assert drive.stamps("observation") == [*range(201), 202, 203, 204]
        plant.reset()
        found = drive.readings["observation"][202 * period]
        assert found == plant.readings()["observation"]
        wait_for(lambda: len(drive.rewards) == 202, "the rewards")
        assert sorted(drive.rewards) == [t * period for t in (*range(1, 201), 203, 204)]
        assert all(-17.0 < reward < 0.0 for reward in drive.rewards.values())


def test_sensors_are_silent_until_those_who_learn_hear_rewards(listener, tmp_path):
    """A reward that is lost in lockstep would be waited for, for ever. The log says for whom."""
    heard = []
    listener.node.create_subscription(
        Float64MultiArray, "observation", lambda message: heard.append(message), STREAM
    )
    parameters = ("robot:=dyna_maze", "pace:=lockstep", "listeners:=[a_learner, a_monitor]")
    there = Node("a_monitor", context=listener.node.context)
    there.create_subscription(JointState, "reward", lambda message: None, STREAM)
    missing = "waiting for nodes that have to listen: a_learner on {}; start them"
    others = ("robot:=dyna_maze", "lockstep:=true", "listeners:=[a_learner]")
    with (
        node(tmp_path, "simulator", *parameters) as simulator,
        node(tmp_path, "command_guard", *others) as guard,
    ):
        wait_for(lambda: missing.format("/reward") in simulator.output, "the warning")
        assert not heard  # otherwise it would have said the same every 0.1 s
        wait_for(lambda: missing.format("/applied_action") in guard.output, "that of the guard")
        learner = Node("a_learner", context=listener.node.context)
        learner.create_subscription(JointState, "reward", lambda message: None, STREAM)
        wait_for(lambda: heard, "the first message")
        learner.destroy_node()
    there.destroy_node()


def test_a_reset_by_service_leaves_out_a_tick(listener, tmp_path):
    with Drive(listener, tmp_path, "diff_drive") as drive:
        drive.command(1.0, 0.0, times=3)
        client = listener.node.create_client(Trigger, "simulator/reset")
        assert client.wait_for_service(20.0)
        future = client.call_async(Trigger.Request())
        wait_for(future.done, "the service")
        drive.command(1.0, 0.0, times=2)
        assert drive.stamps("odom") == [0, 1, 2, 3, 5, 6]
        speeds = [reading["linear_velocity.x"] for reading in drive.readings["odom"].values()]
        assert speeds[3] > speeds[4] == 0.0 < speeds[5]


def positions(drive):
    return [reading["position/cart_slider"] for reading in drive.readings["joint_states"].values()]


def test_the_world_changes_at_the_moment_that_was_set(listener, tmp_path):
    """Between two ticks, too."""
    change = ("disturbance:=motor_gain=-1.0, friction=3", "disturbance_at:=0.13")
    with Drive(listener, tmp_path, "cartpole", *change) as drive:
        drive.command(5.0, times=5)
        plant = make_plant(drive.robot)
        plant.step([5.0], 65)
        plant.disturb("motor_gain", -1.0)
        plant.disturb("friction", 3.0)
        plant.step([5.0], 125 - 65)
        assert positions(drive)[5] == plant.readings()["joint_states"]["position/cart_slider"]
        client = AsyncParameterClient(listener.node, "simulator")
        assert client.wait_for_services(20.0)
        future = client.get_parameters(["motor_gain", "friction"])
        wait_for(future.done, "the parameters")
        assert [value.double_value for value in future.result().values] == [-1.0, 3.0]


def test_changes_are_made_or_refused_while_it_runs(listener, tmp_path):
    with Drive(listener, tmp_path, "cartpole") as drive:
        client = AsyncParameterClient(listener.node, "simulator")
        assert client.wait_for_services(20.0)

        def change(name, value):
            future = client.set_parameters([RosParameter(name, value=value)])
            wait_for(future.done, "the answer")
            return future.result().results[0]

        for name, value, reason in (
            (
                "slippery_patch",
                0.5,
                "no 'slippery_patch' in this robot's world; there is friction",
            ),
            ("mass", 0.0, "out of range"),
            ("added_delay", -0.1, "out of range"),
            ("motor_gain", math.nan, ""),
        ):
            refused = change(name, value)
            assert not refused.successful
            assert reason in refused.reason
        assert change("motor_gain", 0).successful  # as people write it
        drive.command(10.0, times=4)
        assert positions(drive)[4] == pytest.approx(0.0, abs=1e-9)


def test_a_delay_holds_commands_back(listener, tmp_path):
    """By a period and a half."""
    with Drive(listener, tmp_path, "cartpole", "added_delay:=0.076") as drive:
        drive.command(10.0, times=3)
        plant = make_plant(drive.robot)
        plant.step([0.0], 38)
        plant.step([10.0], 75 - 38)
        assert positions(drive)[1] == pytest.approx(0.0, abs=1e-9)
        assert positions(drive)[3] == plant.readings()["joint_states"]["position/cart_slider"]


def test_noise_and_losses_repeat_with_the_seed(listener, tmp_path):
    bad = ("sensor_noise:=0.01", "dropped_messages:=0.3")

    def drive(seed):
        with Listener() as own, Drive(own, tmp_path, "cartpole", *bad, f"seed:={seed}") as run:
            run.command(0.0, times=20)
            return run.stamps("joint_states"), positions(run)

    first, again, other = drive(1), drive(1), drive(2)
    assert first == again
    assert first != other
    stamps, places = first
    assert 23 <= stamps[-1] <= 33
    assert all(after - before in (1, 2) for before, after in pairwise(stamps))
    deviation = math.sqrt(sum(place**2 for place in places) / len(places))
    assert 0.005 < deviation < 0.02  # the cart itself stands still


@pytest.mark.parametrize(
    ("parameters", "reason"),
    [
        (["disturbance:=gravity=3"], "unknown change 'gravity'; expected one of friction, mass,"),
        (["disturbance:=friction"], "'friction' is no change; expected such as motor_gain=0.5"),
        (["disturbance:=added_delay=2.0"], "added_delay is 2.0, expected 0 to 1"),
        (["slippery_patch:=0.5"], "no 'slippery_patch' in this robot's world"),
    ],
)
def test_worlds_that_cannot_be_stop_the_start(tmp_path, parameters, reason):
    words = ["--ros-args"]
    for parameter in parameters:
        words += ["-p", parameter]
    with Process(tmp_path, "mbrl_ros.nodes.simulator", words) as process:
        assert process.wait(60.0) == 2
        assert reason in process.output


def test_a_bad_twist_does_not_move_the_robot(listener, tmp_path):
    with Drive(listener, tmp_path, "diff_drive") as drive:
        message = TwistStamped()
        message.twist.linear.x = math.inf
        drive.commands.publish(message)
        wait_for(lambda: "dropped: expected 2 finite values" in drive.process.output, "the line")
        assert drive.stamps("odom") == [0]
