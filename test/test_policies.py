# Copyright 2026 The mbrl_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Policies that are trained while the robot runs, and the planner that acts by them."""

import math
import time

import pytest
import torch
from rclpy.node import Node
from rclpy.parameter import Parameter as RosParameter
from rclpy.parameter_client import AsyncParameterClient
from sensor_msgs.msg import JointState
from stack import LATEST, Diagnosis, Listener, matched, node, wait_for
from std_msgs.msg import UInt8MultiArray

from mbrl_ros.dynamics.model import Transitions, make_model
from mbrl_ros.dynamics.snapshot import describe as describe_model
from mbrl_ros.dynamics.snapshot import encode as encode_model
from mbrl_ros.imagination.acting import PolicyInForce
from mbrl_ros.imagination.sac import SAC
from mbrl_ros.imagination.snapshot import describe, encode
from mbrl_ros.ros.conversions import bytes_message, named_values
from mbrl_ros.ros.qos import LATCHED, STREAM

PERIOD = 50_000_000


def a_policy(robot, goal=(0.0, 0.0), seed=5, updates=7):
    """Return a policy that has learned nothing, and what says that it has."""
    lower, upper = zip(*(d.bounds for d in robot.command.dimensions), strict=True)
    learner = SAC(robot.angle_mask, lower, upper, seed=seed, hidden=8)
    learner.updates = updates
    return learner.policy, describe(robot, learner, goal, generation=1)


# -- which policy acts ------------------------------------------------------------------------


def test_a_policy_acts_only_for_its_own_goal(cartpole):
    policies = PolicyInForce(cartpole, lockstep=False)
    here, there = [0.0, 0.0], [0.5, 0.0]
    assert policies.at(0, [here]) is None
    assert policies.absence == "no policy yet"
    policy, info = a_policy(cartpole)
    policies.add(info, policy)
    assert policies.at(0, [here]) is policy
    assert not policies.absence
    assert policies.at(0, [[0.1, 2.0 * math.pi]]) is policy  # within the tolerances
    for goals in ([there], [here, there]):
        assert policies.at(0, goals) is None
        assert policies.outdated
    assert policies.absence == "the policy is for goal [0, 0], not [0, 0]"
    assert policies.at(0, [there]) is None
    assert policies.absence == "the policy is for goal [0, 0], not [0.5, 0]"


def test_a_policy_that_has_learned_nothing_does_not_act(cartpole):
    policies = PolicyInForce(cartpole, lockstep=True)
    assert policies.overdue(0)
    policy, info = a_policy(cartpole, updates=0)
    policies.add(info, policy)
    assert policies.at(0, [[0.0, 0.0]]) is None
    assert policies.info is None
    assert not policies.outdated


# -- the planner ------------------------------------------------------------------------------


@pytest.fixture
def listener():
    with Listener() as listening:
        yield listening


def a_model(robot):
    """Return the message of a model that knows a little."""
    model = make_model("gp", robot)
    data = torch.randn(30, 9, generator=torch.Generator().manual_seed(0)).double()
    model.update(Transitions(0.3 * data[:, :4], data[:, 4:5], 0.3 * data[:, :4] + 0.01))
    return bytes_message(encode_model(model, describe_model(robot, model, math.nan)))


def test_the_planner_acts_by_a_policy_for_its_goal_and_plans_without(listener, tmp_path, cartpole):
    actions = {}
    listener.node.create_subscription(
        JointState,
        "action",
        lambda m: actions.setdefault(m.header.stamp.nanosec, list(m.position)),
        LATEST,
    )
    guard = Node("command_guard", context=listener.node.context)
    guard.create_subscription(JointState, "action", lambda message: None, LATEST)
    states = listener.node.create_publisher(JointState, "state", STREAM)
    models = listener.node.create_publisher(UInt8MultiArray, "model", LATCHED)
    policies = listener.node.create_publisher(UInt8MultiArray, "policy", LATCHED)
    client = AsyncParameterClient(listener.node, "mpc_planner")
    diagnosis = Diagnosis(listener, "mpc_planner")
    policy, info = a_policy(cartpole)
    ticks = iter(range(1, 1000))

    def reflex(position):
        """Whether the action in a state is the policy's."""
        stamp, state = next(ticks) * PERIOD, [position, 0.1, 1.0, -0.2]

        def answered():
            states.publish(named_values(stamp, cartpole.state_names, state))
            time.sleep(0.1)
            return stamp in actions

        wait_for(answered, "an action", 30.0)
        return abs(actions[stamp][0] - float(policy.act(torch.tensor([state])))) < 1e-5

    def said(words):
        wait_for(lambda: words in diagnosis.text, words, 20.0)

    few = ("samples:=30", "horizon:=5", "exploration_duration:=0.0", "delay_compensation:=false")
    with node(tmp_path, "mpc_planner", "controller:=policy", *few) as planner:
        for publisher in (states, models, policies):
            matched(publisher)
        models.publish(a_model(cartpole))
        assert not reflex(0.0)
        said("planning, as no policy yet")

        policies.publish(bytes_message(b"not a policy"))
        wait_for(lambda: "policy refused, the old one stays" in planner.output, "the refusal")
        policies.publish(bytes_message(encode(policy, info)))
        wait_for(lambda: reflex(0.0), "the policy", 20.0)
        assert reflex(0.3)
        said("acting by reflex")
        assert diagnosis.values["rejected_policies"] == "1"
        assert diagnosis.values["policy_updates"] == "7"
        assert int(diagnosis.values["mpc_ticks"]) >= 1

        answers = []
        client.set_parameters([RosParameter("goal", value=[0.6, 0.0])], answers.append)
        wait_for(lambda: answers, "the answer", 10.0)
        assert not reflex(0.1)
        said("planning, as the policy is for goal [0, 0], not [0.6, 0]")
        policies.publish(bytes_message(encode(*a_policy(cartpole, (0.6, 0.0)))))
        wait_for(lambda: reflex(0.2), "the new policy", 20.0)
    guard.destroy_node()
