# Copyright 2026 The mbrl_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Policies that are trained while the robot runs, and the planner that acts by them."""

import math
import time
from dataclasses import replace

import pytest
import torch
from rcl_interfaces.msg import ParameterEvent
from rclpy.node import Node
from rclpy.parameter import Parameter as RosParameter
from rclpy.parameter_client import AsyncParameterClient
from sensor_msgs.msg import JointState
from stack import LATEST, Diagnosis, Listener, matched, node, wait_for
from std_msgs.msg import UInt8MultiArray
from std_srvs.srv import Trigger

from mbrl_ros.dynamics.features import FeatureMap
from mbrl_ros.dynamics.model import DynamicsModel, Transitions, make_model
from mbrl_ros.dynamics.snapshot import SnapshotError
from mbrl_ros.dynamics.snapshot import describe as describe_model
from mbrl_ros.dynamics.snapshot import encode as encode_model
from mbrl_ros.imagination.acting import PolicyInForce
from mbrl_ros.imagination.online import ImaginedSAC
from mbrl_ros.imagination.sac import SAC
from mbrl_ros.imagination.snapshot import decode, describe, encode, goal_of, load
from mbrl_ros.robots import load_robot
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


# -- training ---------------------------------------------------------------------------------

POINT = """
name: point
control_rate: 10.0
sensors: {places: {type: std_msgs/msg/Float64MultiArray}}
state: [{name: place, sensor: places, index: 0, unit: m}]
command:
  topic: commands
  type: std_msgs/msg/Float64MultiArray
  dimensions: [{name: push, unit: m, bounds: [-1.0, 1.0]}]
goal: [{dimension: place, bounds: [-1.0, 1.0], tolerance: 0.15}]
cost: {goal: {place: 1.0}}
"""
SMALL = {"hidden": 16, "batch_size": 64, "learning_rate": 5e-3, "discount": 0.8, "horizon": 3}


class Push(DynamicsModel):
    """A point that half an action moves."""

    kind = "push"
    transitions = 1

    def __init__(self):
        super().__init__(FeatureMap([False], 1))

    def update(self, new):
        """Know all already."""

    def outputs(self, states, actions):
        return 0.5 * actions, torch.full_like(actions, 1e-8)

    def snapshot(self):
        return {}

    def restore(self, tensors):
        """Nothing to take over."""


@pytest.fixture
def point(tmp_path):
    path = tmp_path / "point.yaml"
    path.write_text(POINT, "utf-8")
    return load_robot(str(path))


def pushes(count, seed=0):
    """Return real steps of the point, pushed at random."""
    draw = torch.rand(count, 2, generator=torch.Generator().manual_seed(seed)).double() * 2.0 - 1.0
    states, actions = draw[:, :1], draw[:, 1:]
    return Transitions(states, actions, states + 0.5 * actions)


def wishes(data, robot):
    """Return the actions of a snapshot's policy at -0.6, 0 and 0.6."""
    policy, _ = decode(data, robot)
    return policy.act(torch.tensor([[-0.6], [0.0], [0.6]]))[:, 0].tolist()


def test_a_policy_is_trained_for_one_goal_and_then_for_another(point):
    learner = ImaginedSAC(point, seed=0, **SMALL)
    learner.observe(pushes(20))
    assert learner.train(Push(), 400)
    assert learner.adopted_updates == 0
    learner.adopt()
    first = learner.snapshot(5, 7)
    info = decode(first, point)[1]
    assert (info.kind, info.goal, info.generation, info.steps) == ("sac", "0.0", 1, 20)
    assert (info.effective_from, info.next_effective_from) == (5, 7)
    left, middle, right = wishes(first, point)
    assert left > 0.5
    assert abs(middle) < 0.3
    assert right < -0.5

    learner.pursue([0.6])
    assert learner.trained == 0
    learner.train(Push(), 400)
    assert wishes(learner.snapshot(), point) == wishes(first, point)  # until it is adopted
    learner.adopt()
    second = learner.snapshot()
    assert goal_of(decode(second, point)[1]) == [0.6]
    assert wishes(second, point)[1] > 0.5
    assert abs(wishes(second, point)[2]) < 0.3


def test_values_are_in_units_of_the_first_costs(point):
    learner = ImaginedSAC(point, **SMALL)
    steps = pushes(50)
    learner.observe(steps)
    learner.train(Push(), 1)
    learner.adopt()
    info = decode(learner.snapshot(), point)[1]
    assert info.reward_scale == pytest.approx(1.0 / float(steps.next_states.square().mean()))


def test_training_for_a_goal_repeats_by_seed(point):
    def trained(seed):
        learner = ImaginedSAC(point, seed=seed, **SMALL)
        learner.observe(pushes(10))
        learner.train(Push(), 30)
        learner.observe(pushes(10, seed=1))
        learner.train(Push(), 30)
        learner.adopt()
        return wishes(learner.snapshot(), point)

    assert trained(1) == trained(1)
    assert trained(1) != trained(2)


def test_training_waits_for_steps_and_for_a_model(point):
    learner, model = ImaginedSAC(point, **SMALL), Push()
    learner.pursue([0.3])
    assert not learner.train(model, 10)
    learner.observe(pushes(5))
    model.transitions = 0
    assert not learner.train(model, 10)
    assert learner.updates == 0
    with pytest.raises(ValueError, match="not finite"):
        learner.observe(Transitions(*(torch.full((1, 1), math.nan).double() for _ in range(3))))
    assert learner.steps == 5
    learner.observe_again(pushes(3))
    assert learner.steps == 3


def test_a_learner_goes_on_from_a_saved_policy_and_forgets(point):
    learner = ImaginedSAC(point, seed=0, **SMALL)
    learner.observe(pushes(20))
    learner.train(Push(), 300)
    learner.adopt()
    data = learner.snapshot()
    other = ImaginedSAC(point, seed=9, **SMALL)
    other.start_from(data)
    assert wishes(other.snapshot(), point) == wishes(data, point)
    assert (other.updates, other.adopted_updates) == (300, 300)
    assert other.details() == pytest.approx(learner.details())
    other.observe(pushes(20))
    other.train(Push(), 20)
    assert other.updates == 320
    other.forget()
    assert (other.updates, other.adopted_updates) == (0, 0)
    wider = ImaginedSAC(point, **SMALL | {"hidden": 32})
    with pytest.raises(SnapshotError, match=r"layers of \[16, 16\] units, expected \[32, 32\]"):
        wider.start_from(data)


def test_a_learner_that_could_not_send_its_policy_is_refused(point):
    with pytest.raises(ValueError, match="too large to be sent"):
        ImaginedSAC(point, hidden=2048)
    with pytest.raises(ValueError, match="horizon is 0"):
        ImaginedSAC(point, horizon=0)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"kind": "magic"}, "unknown policy 'magic'"),
        ({"goal": "here"}, "could not convert"),
        ({"goal": "9.0"}, "goal place = 9.0 is outside"),
        ({"goal": "0.0,0.0"}, "goal has 2 values"),
    ],
)
def test_a_policy_with_a_wrong_description_is_refused(point, changes, reason):
    policy, info = a_policy(point, goal=(0.0,))
    with pytest.raises(SnapshotError, match=reason):
        decode(encode(policy, replace(info, **changes)), point)


# -- the planner ------------------------------------------------------------------------------


@pytest.fixture
def listener():
    with Listener() as listening:
        yield listening


def a_model(robot):
    """Return the message of a model that knows a little."""
    model = make_model("gp", robot)
    data = torch.randn(30, 9, generator=torch.Generator().manual_seed(0)).double()
    states, actions = 0.3 * data[:, :4], 5.0 * data[:, 4:5]
    rates = [states[:, 1], actions[:, 0], states[:, 3], -actions[:, 0]]
    model.update(Transitions(states, actions, states + 0.05 * torch.stack(rates, 1)))
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

        wait_for(answered, "an action")
        return abs(actions[stamp][0] - float(policy.act(torch.tensor([state])))) < 1e-5

    def said(words):
        wait_for(lambda: words in diagnosis.text, words)

    few = ("samples:=30", "horizon:=5", "exploration_duration:=0.0", "delay_compensation:=false")
    few += ("brake_for_limits:=true",)
    with node(tmp_path, "mpc_planner", "controller:=policy", *few) as planner:
        for publisher in (states, models, policies):
            matched(publisher)
        models.publish(a_model(cartpole))
        assert not reflex(0.0)
        said("planning, as no policy yet")

        policies.publish(bytes_message(b"not a policy"))
        wait_for(lambda: "policy refused, the old one stays" in planner.output, "the refusal")
        policies.publish(bytes_message(encode(policy, info)))
        wait_for(lambda: reflex(0.0), "the policy")
        assert reflex(0.3)
        said("acting by reflex")
        assert diagnosis.values["braked_actions"] == "0"
        assert not reflex(1.79)  # a hand's breadth from the end of the rail
        wait_for(lambda: diagnosis.values["braked_actions"] != "0", "braking")
        assert diagnosis.values["rejected_policies"] == "1"
        assert diagnosis.values["policy_updates"] == "7"
        assert int(diagnosis.values["mpc_ticks"]) >= 1

        answers = []
        client.set_parameters([RosParameter("goal", value=[0.6, 0.0])], answers.append)
        wait_for(lambda: answers, "the answer")
        assert not reflex(0.1)
        said("planning, as the policy is for goal [0, 0], not [0.6, 0]")
        policies.publish(bytes_message(encode(*a_policy(cartpole, (0.6, 0.0)))))
        wait_for(lambda: reflex(0.2), "the new policy")
    guard.destroy_node()


# -- the learner ------------------------------------------------------------------------------


def test_the_learner_follows_the_goal_saves_and_starts_from_its_file(listener, tmp_path, point):
    states = listener.node.create_publisher(JointState, "state", STREAM)
    applied = listener.node.create_publisher(JointState, "applied_action", STREAM)
    models = listener.node.create_publisher(UInt8MultiArray, "model", LATCHED)
    events = listener.node.create_publisher(ParameterEvent, "/parameter_events", STREAM)
    published = []
    listener.node.create_subscription(
        UInt8MultiArray,
        "policy",
        lambda m: published.append(decode(bytes(m.data), point)[1]),
        LATCHED,
    )
    diagnosis = Diagnosis(listener, "policy_learner")
    save, reset = (
        listener.node.create_client(Trigger, f"policy_learner/{name}")
        for name in ("save", "reset")
    )
    model = make_model("gp", point)
    model.update(pushes(30))
    message = bytes_message(encode_model(model, describe_model(point, model, math.nan)))
    ticks = iter(range(100_000))
    period = point.period_nanoseconds
    place = 0.0

    def move():
        nonlocal place
        tick = next(ticks)
        states.publish(named_values(tick * period, ["place"], [place]))
        push = math.cos(0.5 * tick)
        applied.publish(named_values(tick * period, ["push"], [push]))
        place += 0.5 * push
        time.sleep(0.02)

    def moved_until(condition):
        def met():
            move()
            return condition()

        wait_for(met, "the policy")

    quick = (
        *("policy_learner", f"robot:={tmp_path / 'point.yaml'}", "first_policy:=100"),
        *("sac.hidden:=16", "sac.batch_size:=32", "publish_rate:=20.0"),
    )
    with node(tmp_path, *quick) as learner:
        for publisher in (states, applied, models):
            matched(publisher)
        assert save.wait_for_service(20.0)
        refused = save.call(Trigger.Request())
        assert not refused.success
        assert "no policy has been published yet" in refused.message
        models.publish(bytes_message(b"not a model"))
        wait_for(lambda: "model refused, the old one stays" in learner.output, "the refusal")
        moved_until(lambda: published)
        assert published[-1].updates == 0  # it is there, but knows nothing
        models.publish(message)
        moved_until(lambda: published[-1].updates >= 100)
        assert published[-1].goal == "0.0"

        goal = RosParameter("goal", value=[0.5]).to_parameter_msg()
        events.publish(ParameterEvent(node="/mpc_planner", changed_parameters=[goal]))
        moved_until(lambda: published[-1].goal == "0.5")
        wait_for(lambda: diagnosis.text == "training for goal [0.5]", "diagnostics")
        assert diagnosis.values["rejected_models"] == "1"
        assert int(diagnosis.values["updates_for_goal"]) >= 100
        saved = save.call(Trigger.Request())
        assert saved.success
        assert saved.message == str(tmp_path / "policy.safetensors")
        reset.call(Trigger.Request())
        moved_until(lambda: published[-1].updates == 0)
    updates = load(tmp_path / "policy.safetensors", point)[1].updates
    assert updates >= 200
    published.clear()
    with node(tmp_path, *quick, f"policy_file:={saved.message}", "goal:=[0.5]") as learner:
        line = f"starting from {saved.message}: {updates} updates"
        wait_for(lambda: line in learner.output, "the start from the file")
        matched(states)
        matched(applied)
        moved_until(lambda: published)
        assert (published[-1].updates, published[-1].goal) == (updates, "0.5")
