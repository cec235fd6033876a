# Copyright 2026 The mbrl_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Single nodes as processes: what they do with good and bad messages."""

import contextlib
import importlib
import json
import math
import os
import re
import signal
import subprocess
import sys
import time
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from rcl_interfaces.msg import ParameterEvent
from rclpy.parameter import Parameter as RosParameter
from rclpy.parameter_client import AsyncParameterClient
from sensor_msgs.msg import JointState
from stack import LATEST, PATIENCE, Diagnosis, Listener, Process, matched, node, wait_for
from std_msgs.msg import Float64MultiArray, UInt8MultiArray
from std_srvs.srv import SetBool, Trigger

from mbrl_ros.dynamics.experience import Experience
from mbrl_ros.dynamics.model import Transitions, make_model
from mbrl_ros.dynamics.snapshot import decode, describe, encode
from mbrl_ros.ros.conversions import UNSTEERED, bytes_message, named_values, to_nanoseconds
from mbrl_ros.ros.qos import LATCHED, STREAM
from mbrl_ros.ros.runtime import ManagedNode, run

sys.path.insert(0, str(Path(__file__).parents[1] / "bench"))
from fuzz_guard import fuzz_node

PERIOD = 50_000_000


@pytest.fixture
def listener():
    with Listener() as listening:
        yield listening


def joint_states(milliseconds, position=0.1, names=("cart_slider", "pole_hinge")):
    message = JointState(
        name=list(names), position=[position, 0.2], velocity=[0.3, 0.4], effort=[0.0, 0.0]
    )
    message.header.stamp.sec, rest = divmod(milliseconds, 1000)
    message.header.stamp.nanosec = rest * 1_000_000
    return message


def action(force, age=0.0):
    """Return an action that answers a state of `age` seconds ago."""
    return named_values(time.time_ns() - int(age * 1e9), ["cart_force"], [force])


# -- state_estimator -----------------------------------------------------------------------


def test_the_estimator_drops_what_it_cannot_use_and_says_what(listener, tmp_path):
    publisher = listener.node.create_publisher(JointState, "joint_states", STREAM)
    diagnosis = Diagnosis(listener, "state_estimator")
    with node(tmp_path, "state_estimator") as estimator:
        matched(publisher)
        wait_for(lambda: diagnosis.text == "waiting for joint_states", "the waiting line")
        publisher.publish(joint_states(0, math.nan))
        publisher.publish(joint_states(50, names=("left", "right")))
        publisher.publish(joint_states(100, 0.5))
        wait_for(lambda: listener.states, "a state")
        wait_for(lambda: diagnosis.values.get("rejected_messages") == "2", "the count")
        assert listener.states == {2 * PERIOD: [0.5, 0.3, 0.2, 0.4]}
        assert "position of joint 'cart_slider' is nan, expected a finite" in estimator.output


# -- command_guard -------------------------------------------------------------------------


STATE = {"cart_position": 0.1, "cart_velocity": 0.0, "pole_angle": 3.0, "pole_velocity": 0.0}


class Inputs:
    """What the guard subscribes to."""

    def __init__(self, listener):
        self._actions = listener.node.create_publisher(JointState, "action", LATEST)
        self._states = listener.node.create_publisher(JointState, "state", STREAM)

    def matched(self):
        matched(self._actions)
        matched(self._states)

    def state(self, age=0.0, **changes):
        values = STATE | changes
        stamp = time.time_ns() - int(age * 1e9)
        self._states.publish(named_values(stamp, list(values), list(values.values())))

    def publish(self, message, **changes):
        """Send an action, and a fresh state before it."""
        self.state(**changes)
        time.sleep(0.005)
        self._actions.publish(message)


@pytest.fixture
def guard(listener, tmp_path):
    inputs = Inputs(listener)
    with node(tmp_path, "command_guard", "armed:=true") as process:
        inputs.matched()
        yield process, inputs


def test_a_command_topic_by_which_actions_would_pass_the_guard_is_refused(tmp_path, cartpole_file):
    path = cartpole_file(command__topic="/left/action")  # which only the namespace shows
    words = ["--ros-args", "-r", "__ns:=/left", "-p", f"robot:={path}"]
    with Process(tmp_path, "mbrl_ros.nodes.command_guard", words) as guard:
        assert guard.wait() == 2
        assert "command.topic /left/action is a topic of this package's own" in guard.output


def send(listener, actions, force, expected):
    """Send an action at about the control rate until the expected command comes."""

    def came():
        actions.publish(action(force))
        time.sleep(0.03)
        return listener.commands and listener.commands[-1] == expected

    wait_for(came, f"the command {expected}")


def test_the_guard_clamps_and_goes_safe_when_actions_stop(listener, guard):
    _, actions = guard
    send(listener, actions, 25.0, [10.0])
    wait_for(lambda: listener.commands[-1] == [0.0], "the safe command")
    count = len(listener.commands)
    wait_for(lambda: len(listener.commands) > count + 3, "its repetition")
    send(listener, actions, -3.0, [-3.0])
    assert all(command in ([10.0], [0.0], [-3.0]) for command in listener.commands)


def test_the_guard_lets_no_bad_message_through(listener, guard):
    process, actions = guard
    for bad, reason in (
        (JointState(name=["cart_force"], position=[math.nan]), "cart_force = nan is not finite"),
        (JointState(name=["cart_force"], position=[math.inf]), "cart_force = inf is not finite"),
        (JointState(name=["cart_force"]), "1 names and 0 positions, expected 1"),
        (JointState(name=["thrust"], position=[1.0]), "action has ['thrust'], expected"),
    ):

        def refused(bad=bad, reason=reason):
            bad.header.stamp = action(0.0).header.stamp
            actions.publish(bad)
            time.sleep(0.03)
            return reason in process.output

        wait_for(refused, "the message")
    time.sleep(0.3)
    assert listener.commands == []


def test_the_guard_lets_no_action_of_another_time_through(listener, guard):
    process, actions = guard
    for age, words in ((0.5, "s ago, by"), (-3600.0, "s ahead of")):

        def refused(age=age, words=words):
            actions.publish(action(5.0, age))
            time.sleep(0.03)
            return words in process.output

        wait_for(refused, "the message")
    time.sleep(0.3)
    assert listener.commands == []
    overtaken = action(7.0)
    send(listener, actions, 5.0, [5.0])
    actions.publish(overtaken)
    time.sleep(0.3)
    assert [7.0] not in listener.commands


def test_without_a_state_the_guard_goes_to_the_safe_command(listener, guard):
    process, inputs = guard
    send(listener, inputs, 5.0, [5.0])

    def only_actions():
        inputs._actions.publish(action(5.0))
        time.sleep(0.03)
        return "no state in time: going to the safe command" in process.output

    wait_for(only_actions, "the message")
    wait_for(lambda: listener.commands[-1] == [0.0], "the safe command")
    send(listener, inputs, 5.0, [5.0])


def call(listener, service):
    """Call a Trigger service of the guard; return its answer."""
    client = listener.node.create_client(Trigger, f"command_guard/{service}")
    assert client.wait_for_service(PATIENCE)
    return client.call(Trigger.Request())


def test_the_guard_stops_and_arms_by_service(listener, guard):
    _, actions = guard
    applied = []
    listener.node.create_subscription(
        JointState,
        "applied_action",
        lambda m: applied.append((m.position[0], m.header.frame_id)),
        STREAM,
    )
    send(listener, actions, 5.0, [5.0])
    wait_for(lambda: (5.0, "") in applied, "the applied action")
    assert call(listener, "stop").success
    wait_for(lambda: listener.commands[-1] == [0.0], "the safe command")
    wait_for(lambda: applied[-1] == (0.0, UNSTEERED), "the mark on it")
    actions.publish(action(5.0))
    time.sleep(0.3)
    assert listener.commands[-1] == [0.0]

    def armed():
        actions.publish(action(5.0))
        return call(listener, "arm").success

    wait_for(armed, "arming")
    send(listener, actions, 5.0, [5.0])
    assert set(applied) <= {(5.0, ""), (0.0, UNSTEERED)}


def test_a_guard_on_hardware_starts_disarmed_and_arms_only_with_fresh_inputs(listener, tmp_path):
    inputs = Inputs(listener)
    with node(tmp_path, "command_guard") as process:
        inputs.matched()
        refused = call(listener, "arm")
        assert not refused.success
        assert refused.message == "not armed: no state has come; no action has come"
        inputs.publish(action(5.0))
        wait_for(lambda: "disarmed: call ~/arm" in process.output, "the refusal")
        time.sleep(0.3)
        assert "the last state is too old" in call(listener, "arm").message
        assert listener.commands == []
    time.sleep(0.3)
    assert listener.commands == []  # it never moved the robot: nothing to take back


def test_leaving_the_safe_range_stops_the_robot(listener, tmp_path, cartpole_file):
    robot = cartpole_file(state__0__safe_range=[-1.5, 1.5])
    statuses = []
    listener.node.create_subscription(
        DiagnosticStatus, "command_guard/status", statuses.append, STREAM
    )
    inputs = Inputs(listener)
    outside = "cart_position = 1.6 is outside its safe range [-1.5, 1.5]"
    with node(tmp_path, "command_guard", "armed:=true", f"robot:={robot}") as process:
        inputs.matched()
        send(listener, inputs, 5.0, [5.0])
        wait_for(lambda: any(s.message == "passing actions on" for s in statuses), "status")
        inputs.state(cart_position=1.6)
        wait_for(lambda: listener.commands[-1] == [0.0], "the safe command")
        wait_for(lambda: outside in statuses[-1].message, "its reason")
        assert outside in process.output
        values = {item.key: item.value for item in statuses[-1].values}
        assert (values["code"], values["status"]) == ("5", "STOPPED")
        assert statuses[-1].level == DiagnosticStatus.WARN
        inputs.publish(action(5.0), cart_position=1.6)
        assert outside in call(listener, "arm").message
        assert listener.commands[-1] == [0.0]


def test_arming_waits_until_the_guard_is_ready_and_says_for_what(listener, tmp_path):
    with node(tmp_path, "command_guard"):
        inputs = Inputs(listener)
        inputs.matched()
        once = Process(tmp_path, "mbrl_ros.cli", ["arm", "--timeout", "0"])
        assert once.wait() == 1
        assert once.output == "mbrl: not armed: no state has come; no action has come\n"
        vain = Process(tmp_path, "mbrl_ros.cli", ["arm", "--timeout", "0.5"])
        assert vain.wait() == 1
        assert "no action has come; gave up after 0.5 s" in vain.output
        with Process(tmp_path, "mbrl_ros.cli", ["arm", "--timeout", "60"]) as patient:
            wait_for(lambda: "waiting: not armed: no state has come" in patient.output, "the line")
            while patient.running:
                inputs.publish(action(0.0))
                time.sleep(0.03)
            assert patient.wait() == 0
            assert patient.output.splitlines()[-1] == "waiting for the first action"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_command_that_waits_ends_quietly(tmp_path, number):
    words = ["arm", "--timeout", "60", "--namespace", "nobody"]
    with Process(tmp_path, "mbrl_ros.cli", words) as waiting:
        status = Path(f"/proc/{waiting.pid}/status")

        def handles_signals():  # SIGTERM too, which Python leaves alone
            (caught,) = re.findall(r"SigCgt:\s*(\w+)", status.read_text("utf-8"))
            return int(caught, 16) >> (signal.SIGTERM - 1) & 1

        wait_for(handles_signals, "the start")
        time.sleep(1.0)
        waiting.signal(number)
        assert waiting.wait(20.0) == 128 + number
        assert waiting.output == ""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_guard_ends_by_way_of_the_slew_limit(listener, tmp_path, cartpole_file, number):
    robot = cartpole_file(command__dimensions__0__slew=20.0)
    inputs = Inputs(listener)
    with node(tmp_path, "command_guard", "armed:=true", f"robot:={robot}") as process:
        inputs.matched()
        send(listener, inputs, 8.0, [8.0])
        count = len(listener.commands)
        process.signal(number)
        assert process.wait() == 0
        wait_for(lambda: listener.commands[-1] == [0.0], "the safe command")
        steps = [
            before[0] - after[0] for before, after in pairwise(listener.commands[count - 1 :])
        ]
        assert len(steps) > 5
        assert all(-1e-9 <= step <= 20.0 * 0.05 + 1e-9 for step in steps)


def test_a_log_that_nobody_reads_does_not_stop_the_guard(listener):
    inputs = Inputs(listener)
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    with contextlib.suppress(BlockingIOError):
        while True:
            os.write(writing, b"x" * 1024)
    os.set_blocking(writing, True)
    command = [sys.executable, "-m", "mbrl_ros.nodes.command_guard", "--ros-args"]
    with subprocess.Popen(
        [*command, "-p", "armed:=true"], stdout=writing, stderr=subprocess.STDOUT
    ) as guard:
        os.close(writing)
        try:
            inputs.matched()
            send(listener, inputs, 5.0, [5.0])
            wait_for(lambda: listener.commands[-1] == [0.0], "the safe command")
            send(listener, inputs, 3.0, [3.0])
        finally:
            guard.send_signal(signal.SIGINT)
            try:
                guard.wait(10.0)
            except subprocess.TimeoutExpired:
                guard.kill()
            os.close(reading)
    assert listener.commands[-1] == [0.0]


def test_random_messages_never_get_past_the_guard():
    """The shorter form of bench/fuzz_guard.py, without the checks that need a quiet machine."""
    result = fuzz_node(messages=600, seed=1, rate=300.0, tolerance=None)
    assert result.violations == []
    assert result.outputs > 100
    assert result.sent["not_finite"] > 10


def test_the_guard_is_small_and_needs_no_planner(listener, guard):
    code = "import sys, mbrl_ros.nodes.command_guard; print(*sys.modules)"
    loaded = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout.split()
    heavy = {"torch", "mujoco", "gymnasium", "matplotlib", "scipy", "pandas", "pydantic"}
    assert "rclpy" in loaded
    assert not (heavy | {"mbrl_ros.planning.planner", "mbrl_ros.robots.spec"}) & set(loaded)
    process, inputs = guard
    send(listener, inputs, 5.0, [5.0])
    status = Path(f"/proc/{process.pid}/status").read_text("utf-8")
    resident = next(line for line in status.splitlines() if line.startswith("VmRSS:"))
    assert int(resident.split()[1]) < 80_000  # kB


# -- simulator -----------------------------------------------------------------------------


def test_the_simulator_waits_for_each_command_in_lockstep(listener, tmp_path):
    stamps = []
    listener.node.create_subscription(
        JointState,
        "joint_states",
        lambda m: stamps.append(m.header.stamp.sec * 10**9 + m.header.stamp.nanosec),
        STREAM,
    )
    commands = listener.node.create_publisher(
        Float64MultiArray, "effort_controller/commands", LATEST
    )
    with node(tmp_path, "simulator", "pace:=lockstep") as simulator:
        matched(commands)
        wait_for(lambda: stamps, "the first state")
        for bad in ([math.nan], [], [1.0, 2.0]):
            commands.publish(Float64MultiArray(data=bad))
        wait_for(lambda: "dropped: expected 1 finite values" in simulator.output, "the message")
        assert set(stamps) == {0}
        for tick in range(1, 4):
            commands.publish(Float64MultiArray(data=[1.0]))
            wait_for(lambda tick=tick: stamps[-1] == tick * PERIOD, f"tick {tick}")


# -- dynamics_learner ----------------------------------------------------------------------


@pytest.fixture
def streams(listener):
    """Return a function that sends the states and applied actions of some ticks."""
    states = listener.node.create_publisher(JointState, "state", STREAM)
    applied = listener.node.create_publisher(JointState, "applied_action", STREAM)
    names = ["cart_position", "cart_velocity", "pole_angle", "pole_velocity"]

    def send_ticks(first, count, frame=""):
        matched(states)
        matched(applied)
        for tick in range(first, first + count):
            phase = 0.3 * tick
            state = [0.5 * math.sin(phase), math.cos(phase), 0.2 * phase % 3.0, 0.6]
            states.publish(named_values(tick * PERIOD, names, state))
            action = named_values(tick * PERIOD, ["cart_force"], [math.cos(phase)])
            action.header.frame_id = frame
            applied.publish(action)
            time.sleep(0.01)

    return send_ticks


def test_a_killed_learner_goes_on_where_it_was(listener, tmp_path, cartpole, streams):
    diagnosis = Diagnosis(listener, "dynamics_learner")
    learner = ("dynamics_learner", f"experience:={tmp_path / 'lived'}")
    with node(tmp_path, *learner) as process:
        streams(0, 60)
        wait_for(lambda: int(diagnosis.values.get("stored", 0)) >= 55, "the count")
        reported = int(diagnosis.values["stored"])
        assert diagnosis.values["unstored"] == "0"
        process.signal(signal.SIGKILL)
        process.wait()
    diagnosis.values = {}
    with node(tmp_path, *learner) as process:
        wait_for(lambda: "stored transitions" in process.output, "what was learned")
        wait_for(lambda: "stored" in diagnosis.values, "diagnostics")
        assert int(diagnosis.values["stored"]) >= reported
        assert int(diagnosis.values["model_transitions"]) >= reported


def test_nothing_is_learned_while_the_guard_lets_nothing_pass(listener, tmp_path, streams):
    diagnosis = Diagnosis(listener, "dynamics_learner")

    def count(key):
        return int(diagnosis.values.get(key, 0))

    with node(tmp_path, "dynamics_learner"):
        streams(0, 40)
        wait_for(lambda: count("transitions") >= 30, "transitions")
        streams(40, 40, frame=UNSTEERED)
        wait_for(lambda: count("unsteered_steps") >= 35, "the count")
        assert count("transitions") <= 40
        streams(80, 40)
        wait_for(lambda: count("transitions") >= 70, "learning to go on")
        assert count("unsteered_steps") <= 40


def test_the_learner_stores_each_step_with_its_time_and_reward_as_it_comes(
    listener, tmp_path, cartpole_file, streams
):
    """Read by another process, without the learner being told to write anything."""
    rewards = listener.node.create_publisher(JointState, "reward", STREAM)
    robot = cartpole_file(reward="reward")
    lived = tmp_path / "lived"
    with node(tmp_path, "dynamics_learner", f"experience:={lived}", f"robot:={robot}"):
        matched(rewards)
        for tick in range(60):
            streams(tick, 1)
            if tick != 55:
                rewards.publish(named_values(tick * PERIOD, ["reward"], [10.0 * tick]))
        reader = Experience(lived, None)
        wait_for(lambda: 59 * PERIOD in reader.load().stamps, "the last step")
        stored = reader.load()
        reader.close()
    # The first ones may have been sent before the learner heard them.
    ticks = stored.stamps // PERIOD
    assert len(ticks) >= 20
    assert ticks.tolist() == [tick for tick in range(int(ticks[0]), 60) if tick != 55]
    assert stored.rewards[:, 0].tolist() == [10.0 * tick for tick in ticks.tolist()]


def test_the_learner_saves_pauses_and_resets(listener, tmp_path, cartpole, streams):
    diagnosis = Diagnosis(listener, "dynamics_learner")
    clients = {
        name: listener.node.create_client(kind, f"dynamics_learner/{name}")
        for name, kind in (("save", Trigger), ("reset", Trigger), ("pause", SetBool))
    }

    def known():
        return int(diagnosis.values.get("model_transitions", 0))

    with node(tmp_path, "dynamics_learner"):
        assert clients["save"].wait_for_service(20.0)
        refused = clients["save"].call(Trigger.Request())
        assert not refused.success
        assert "nothing has been learned yet" in refused.message
        streams(0, 40)
        wait_for(lambda: known() >= 10, "an update")
        saved = clients["save"].call(Trigger.Request())
        assert saved.success
        assert clients["pause"].call(SetBool.Request(data=True)).success
        wait_for(lambda: diagnosis.text == "paused", "the pause")
        before = known()
        streams(40, 30)
        wait_for(lambda: int(diagnosis.values["transitions"]) >= 65, "the data")
        assert known() == before
        clients["reset"].call(Trigger.Request())
        clients["pause"].call(SetBool.Request(data=False))
        streams(70, 15)
        wait_for(lambda: 0 < known() <= 60, "a model that has forgotten")
    assert saved.message == str(tmp_path / "model.safetensors")
    info = decode(
        (tmp_path / "model.safetensors").read_bytes(), make_model("gp", cartpole), cartpole
    )
    assert info.transitions >= 10
    with node(tmp_path, "dynamics_learner", f"model_file:={saved.message}") as process:
        line = f"starting from {saved.message}: {info.transitions} transitions"
        wait_for(lambda: line in process.output, "the start from the file")


# -- mpc_planner ---------------------------------------------------------------------------


def test_the_planner_refuses_bad_models_goals_and_states(listener, tmp_path, cartpole):
    models = listener.node.create_publisher(UInt8MultiArray, "model", LATCHED)
    goals = listener.node.create_publisher(JointState, "goal", LATEST)
    states = listener.node.create_publisher(JointState, "state", STREAM)
    diagnosis = Diagnosis(listener, "mpc_planner")
    with node(tmp_path, "mpc_planner", "goal:=[0.2, 0.0]") as planner:
        for publisher in (models, goals, states):
            matched(publisher)
        models.publish(bytes_message(b"not a model"))
        wait_for(lambda: "model refused, the old one stays" in planner.output, "the refusal")
        goals.publish(named_values(0, ["cart_position"], [5.0]))
        wait_for(lambda: "cart_position = 5.0 is outside" in planner.output, "the refusal")
        states.publish(named_values(0, ["height"], [1.0]))
        wait_for(lambda: "message has no 'cart_position'" in planner.output, "the refusal")
        wait_for(lambda: diagnosis.values.get("rejected_models") == "1", "diagnostics")
        assert diagnosis.values["goal"] == "0.2, 0"
        assert diagnosis.text == "waiting for the learner"
        goals.publish(named_values(0, ["cart_position"], [-0.4]))
        wait_for(lambda: diagnosis.values["goal"] == "-0.4, 0", "the good goal")
        model = make_model("gp", cartpole)
        models.publish(bytes_message(encode(model, describe(cartpole, model, math.nan))))
        wait_for(lambda: diagnosis.text == "waiting for the first state", "the good model")


_PLUG_IN = """
import torch

class Treacherous:
    def __init__(self, robot):
        pass

    def __call__(self, steps):
        cost = torch.zeros_like(steps.states[..., 0])
        place = steps.states[..., 0]
        if bool((place > 1.5).any()):
            return cost.sum()
        return torch.where(place > 0.6, torch.nan, cost)


class Numeric:
    def __init__(self, robot):
        pass

    def __call__(self, steps):
        return torch.from_numpy(abs(steps.states[..., 0].numpy()))
"""


@pytest.fixture
def cost_terms(tmp_path, monkeypatch):
    """Install another package, whose cost terms are not as they should be."""
    package = tmp_path / "package" / "terms-1.0.dist-info"
    package.mkdir(parents=True)
    (package / "METADATA").write_text("Name: terms\nVersion: 1.0\n", "utf-8")
    (package / "entry_points.txt").write_text(
        "[mbrl_ros.costs]\ntreacherous = terms:Treacherous\nnumeric = terms:Numeric\n", "utf-8"
    )
    (package.parent / "terms.py").write_text(_PLUG_IN, "utf-8")
    path = [str(package.parent), *filter(None, [os.environ.get("PYTHONPATH")])]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(path))


def taught(robot):
    """Return a model that has learned from random steps of a cart-pole."""
    model = make_model("gp", robot)
    data = torch.randn(30, 9, generator=torch.Generator().manual_seed(0)).double()
    model.update(Transitions(0.3 * data[:, :4], data[:, 4:5], 0.3 * data[:, :4] + 0.01))
    model.improve()
    return model


@pytest.mark.usefixtures("cost_terms")
def test_the_planner_falls_back_on_its_last_plan_and_then_on_the_guard(
    listener, tmp_path, cartpole, cartpole_file
):
    """A cost term of another package turns NaN beyond 0.6 m, and breaks beyond 1.5 m."""
    robot = cartpole_file(cost__terms={"treacherous": {}})

    actions = []
    listener.node.create_subscription(
        JointState, "action", lambda m: actions.append(m.position[0]), LATEST
    )
    states = listener.node.create_publisher(JointState, "state", STREAM)
    models = listener.node.create_publisher(UInt8MultiArray, "model", LATCHED)
    diagnosis = Diagnosis(listener, "mpc_planner")
    model = taught(cartpole)
    tick = 0

    def send(position, expected):
        """Send a state until it has been answered, or only once if it is not to be."""
        nonlocal tick
        tick += 1
        before = len(actions)
        state = named_values(tick * PERIOD, cartpole.state_names, [position, 0.0, 0.0, 0.0])
        states.publish(state)
        if expected:
            wait_for(lambda: len(actions) > before, f"an action for {position} m")
        return actions[-1] if expected else None

    few = ("samples:=30", "horizon:=5", "exploration_duration:=0.0")
    with (
        node(tmp_path, "mpc_planner", f"robot:={robot}", *few) as planner,
        node(tmp_path, "command_guard", "armed:=true"),
    ):
        matched(states)
        models.publish(bytes_message(encode(model, describe(cartpole, model, math.nan))))

        def answered():
            send(0.0, expected=False)
            time.sleep(0.2)
            return actions

        wait_for(answered, "the guard and the model")
        actions.clear()
        wait_for(lambda: diagnosis.values.get("phase") == "planning", "the plan")
        for _ in range(3):
            assert math.isfinite(send(1.0, expected=True))
        assert "trajectories hold values that are not finite; following the last" in planner.output
        send(1.0, expected=False)
        left = "the robot is left to the guard"
        wait_for(lambda: left in planner.output, "the message")
        wait_for(lambda: left in diagnosis.text, "the diagnostics")
        assert diagnosis.values["failed_plans"] == "4"
        assert len(actions) == 3
        send(0.0, expected=True)  # all is well again
        broken = "cost term 'treacherous' returned []"

        def named():
            send(2.0, expected=False)  # again, because messages of one place are throttled
            time.sleep(0.2)
            return broken in planner.output

        wait_for(named, "the name")
        assert planner.running


def answers(listener, robot):
    """Return what sends the state of a tick until it is answered, and returns the action."""
    actions = {}
    listener.node.create_subscription(
        JointState,
        "action",
        lambda m: actions.update({to_nanoseconds(m.header.stamp): m.position[0]}),
        LATEST,
    )
    states = listener.node.create_publisher(JointState, "state", STREAM)

    def answer_to(tick, state):
        stamp = tick * PERIOD

        def answered():
            if stamp not in actions:
                states.publish(named_values(stamp, robot.state_names, state))
                time.sleep(0.05)
            return stamp in actions

        wait_for(answered, f"an answer to tick {tick}")
        return actions[stamp]

    return answer_to


@pytest.mark.usefixtures("cost_terms")
def test_a_plan_that_cannot_be_refined_is_followed_as_it_is(
    listener, tmp_path, cartpole, cartpole_file
):
    """A cost term that works by numpy has no slope; sampling needs none."""
    robot = cartpole_file(cost__terms={"numeric": {}})
    answer_to = answers(listener, cartpole)
    models = listener.node.create_publisher(UInt8MultiArray, "model", LATCHED)
    diagnosis = Diagnosis(listener, "mpc_planner")
    model = taught(cartpole)
    few = ("planner:=mppi+ilqr", "samples:=30", "horizon:=5", "exploration_duration:=0.0")
    with (
        node(tmp_path, "mpc_planner", f"robot:={robot}", *few) as planner,
        node(tmp_path, "command_guard", "armed:=true"),
    ):
        models.publish(bytes_message(encode(model, describe(cartpole, model, math.nan))))
        for tick in range(1, 11):
            assert math.isfinite(answer_to(tick, [0.1, 0.0, 3.0, 0.0]))
        # On a busy machine some ticks have no time for it.
        wait_for(lambda: int(diagnosis.values.get("failed_refinements", 0)) > 0, "the count")
        assert diagnosis.values["failed_plans"] == "0"
        assert "plan not refined: cost term 'numeric' failed: RuntimeError" in planner.output


def test_exploration_begins_when_the_robot_can_move(listener, tmp_path, cartpole):
    """A pause between two bouts is no time to arm a robot: nothing would be learned from it."""
    answer_to = answers(listener, cartpole)
    applied = listener.node.create_publisher(JointState, "applied_action", STREAM)
    models = listener.node.create_publisher(UInt8MultiArray, "model", LATCHED)
    ignorant = make_model("gp", cartpole)
    tick = 0

    def answer():
        """Return the action that answers a new state."""
        nonlocal tick
        tick += 1
        return answer_to(tick, [0.0] * 4)

    def send(frame):
        message = named_values(tick * PERIOD, cartpole.action_names, [0.0])
        message.header.frame_id = frame
        applied.publish(message)
        time.sleep(0.2)

    with (
        node(tmp_path, "mpc_planner", "exploration_duration:=0.25"),
        node(tmp_path, "command_guard"),
    ):
        matched(applied)
        models.publish(bytes_message(encode(ignorant, describe(cartpole, ignorant, math.nan))))
        assert all(answer() != 0.0 for _ in range(12))
        send(UNSTEERED)
        assert all(answer() != 0.0 for _ in range(12))
        send("")
        moving = 0
        while answer() != 0.0:
            moving += 1
        assert moving >= 5  # a quarter of a second, and none of it spent before
        assert [answer() != 0.0 for _ in range(9)] == 4 * [False] + 5 * [True]


def test_a_busy_planner_sees_that_the_robot_rests_at_its_stop(listener, tmp_path, cartpole):
    """It hears of only every other action before the next state."""
    answer_to = answers(listener, cartpole)
    applied = listener.node.create_publisher(JointState, "applied_action", STREAM)
    models = listener.node.create_publisher(UInt8MultiArray, "model", LATCHED)
    diagnosis = Diagnosis(listener, "mpc_planner")
    model = taught(cartpole)
    few = ("samples:=30", "horizon:=5", "brake_for_limits:=true")
    with node(tmp_path, "mpc_planner", *few), node(tmp_path, "command_guard"):
        matched(applied)
        models.publish(bytes_message(encode(model, describe(cartpole, model, math.nan))))
        for tick in range(1, 41):
            answer_to(tick, [1.8, 0.0, 0.0, 0.0])
            if tick % 2:
                applied.publish(named_values(tick * PERIOD, cartpole.action_names, [1.0]))
                time.sleep(0.1)
        wait_for(lambda: diagnosis.values.get("ticks") == "40", "diagnostics")
        assert 10 <= int(diagnosis.values["mpc_ticks"]) < 20  # the rest at random


def test_whole_numbers_and_way_points_are_goals_too(listener, tmp_path):
    diagnosis = Diagnosis(listener, "mpc_planner")
    client = AsyncParameterClient(listener.node, "mpc_planner")

    def put(name, value):
        answered = []
        client.set_parameters([RosParameter(name, value=value)], answered.append)
        wait_for(lambda: answered, "the answer")
        return answered[0].result().results[0]

    with node(tmp_path, "mpc_planner", "goal:=[1, 0]"):
        wait_for(lambda: diagnosis.values.get("goal") == "1, 0", "whole numbers at start")
        assert put("goal", [0, 0]).successful
        wait_for(lambda: diagnosis.values["goal"] == "0, 0", "whole numbers later")
        assert put("goal_weights", [3, 1]).successful
        for name, value, reason in (
            ("goal", [9, 0], "goal cart_position = 9.0 is outside"),
            ("goal", ["one", "two"], "expected"),
            ("goal_weights", [1.0, 1.0, 1.0], "goal_weights has 3 values, expected 2"),
            ("waypoints", [1, 0, 1], "waypoints has 3 values, expected a multiple of 2"),
            ("waypoints", "left", "expected an array of numbers"),
        ):
            refused = put(name, value)
            assert not refused.successful
            assert reason in refused.reason
        assert put("waypoints", [1, 0, 0, 0]).successful
        wait_for(lambda: diagnosis.values["waypoint"] == "1 of 2", "the way point")


def test_the_monitor_follows_the_planners_way_points(listener, tmp_path, cartpole):
    states = listener.node.create_publisher(JointState, "state", STREAM)
    applied = listener.node.create_publisher(JointState, "applied_action", STREAM)
    points = "waypoints:=[0.5, 0.0, -0.5, 0.0]"
    with (
        node(tmp_path, "mpc_planner", points),
        node(tmp_path, "run_monitor", f"report:={tmp_path / 'run.json'}") as monitor,
    ):
        matched(applied)
        wait_for(lambda: "way point 1 of 2: [0.5, 0]" in monitor.output, "the first")
        wait_for(lambda: states.get_subscription_count() > 1, "both subscribers")
        for tick, position in enumerate((0.0, 0.2, 0.5, 0.4)):
            values = [position, 0.0, 0.0, 0.0]
            applied.publish(named_values(tick * PERIOD, cartpole.action_names, [0.0]))
            time.sleep(0.2)
            states.publish(named_values(tick * PERIOD, cartpole.state_names, values))
            time.sleep(0.2)
            reached = "way point 2 of 2: [-0.5, 0]" in monitor.output
            assert reached == (position == 0.5 or tick == 3)
        # Of a stack with another robot in the same domain, whose planner has the same name.
        events = listener.node.create_publisher(ParameterEvent, "/parameter_events", STREAM)
        matched(events)
        stranger = RosParameter("goal", value=[1.0, 2.0, 3.0]).to_parameter_msg()
        events.publish(ParameterEvent(node="/mpc_planner", changed_parameters=[stranger]))
        wait_for(lambda: "not followed, goal: goal has 3 values" in monitor.output, "a warning")
        assert monitor.running
        monitor.signal(signal.SIGINT)
        monitor.wait(20.0)
        report = json.loads((tmp_path / "run.json").read_text("utf-8"))
    assert report["goal"] == [-0.5, 0.0]
    assert report["goal_changes"][0]["reached_after_s"] is not None


def test_the_monitor_says_that_the_guard_lets_nothing_pass(listener, guard, tmp_path, cartpole):
    states = listener.node.create_publisher(JointState, "state", STREAM)
    applied = listener.node.create_publisher(JointState, "applied_action", STREAM)
    tick = 0

    def says(text):
        nonlocal tick
        tick += 120  # seconds of the robot's time, because it says something every few of them
        states.publish(named_values(tick * PERIOD, cartpole.state_names, [0.0] * 4))
        time.sleep(0.1)
        return text in monitor.output

    with node(tmp_path, "run_monitor") as monitor:
        matched(applied)
        applied.publish(named_values(0, cartpole.action_names, [0.0]))
        wait_for(lambda: says("cart_position +0.00"), "a line")
        assert "until ~/arm" not in monitor.output
        assert call(listener, "stop").success
        stopped = "pole_angle +0.00; stopped by ~/stop: safe command until ~/arm"
        wait_for(lambda: says(stopped), "that nothing passes")


def test_a_planner_that_waits_for_a_model_in_lockstep_says_so(listener, tmp_path, cartpole):
    states = listener.node.create_publisher(JointState, "state", STREAM)
    models = listener.node.create_publisher(UInt8MultiArray, "model", LATCHED)
    diagnosis = Diagnosis(listener, "mpc_planner")
    model = taught(cartpole)
    info = describe(cartpole, model, 0.1, 0, 2 * PERIOD)
    models.publish(bytes_message(encode(model, info)))
    with (
        node(tmp_path, "command_guard", "armed:=true"),
        node(tmp_path, "mpc_planner", "lockstep:=true", "samples:=20", "horizon:=4"),
    ):

        def waits() -> bool:
            for tick in range(3):
                values = named_values(tick * PERIOD, cartpole.state_names, [0.0] * 4)
                states.publish(values)
                time.sleep(0.1)
            return "waiting for the model of 0.1 s" in diagnosis.text

        wait_for(waits, "the planner's words")
        assert int(diagnosis.values["ticks"]) >= 2


def test_a_run_that_does_not_go_on_is_given_up_with_what_the_nodes_say(listener, tmp_path):
    diagnostics = listener.node.create_publisher(DiagnosticArray, "diagnostics", STREAM)
    said = DiagnosticStatus(name="dynamics_learner", message="waiting for transitions")
    with node(tmp_path, "run_monitor", "stall_timeout:=5.0") as monitor:
        matched(diagnostics)
        diagnostics.publish(DiagnosticArray(status=[said]))
        assert monitor.wait() == 1
        output = monitor.output
    assert "no new state for 5 s: giving up; dynamics_learner: waiting for transitions" in output


def test_a_node_tells_what_it_is_doing(tmp_path):
    with node(tmp_path, "dynamics_learner") as learner:
        # Before it can answer, the signal ends it.
        path = Path(f"/proc/{learner.pid}/status")

        def caught() -> int:
            (line,) = (x for x in path.read_text("utf-8").splitlines() if x.startswith("SigCgt"))
            return int(line.split()[1], 16) >> (signal.SIGUSR1 - 1) & 1

        wait_for(caught, "the handler")
        learner.signal(signal.SIGUSR1)
        wait_for(lambda: "most recent call first" in learner.output, "its threads")
        assert learner.running


@pytest.mark.parametrize(
    ("name", "parameters", "reason"),
    [
        ("mpc_planner", ["goal:=[9.0, 0.0]"], "goal cart_position = 9.0 is outside"),
        ("mpc_planner", ["planner:=magic"], "unknown planner 'magic'; expected one of cem, icem"),
        ("mpc_planner", ["samples:=-5"], "parameter 'samples'"),
        ("mpc_planner", ["horizon:=0"], "parameter 'horizon'"),
        ("mpc_planner", ["mppi.effective_share:=0.0"], "parameter 'mppi.effective_share'"),
        ("mpc_planner", ["goal_weights:=[1.0]"], "goal_weights has 1 values, expected 2"),
        ("mpc_planner", ["goal:=[one, two]"], "parameter 'goal'"),
        ("mpc_planner", ["model:=mlp", "exploration_weight:=1.0"], "exploration: model 'mlp' "),
        ("mpc_planner", ["controller:=magic"], "is 'magic', expected one of mpc, policy, mpc+pol"),
        ("policy_controller", ["robot:=cartpole"], "'cartpole' has continuous actions"),
        ("mpc_planner", ["robot:=dyna_maze"], "'dyna_maze' has discrete actions"),
        ("policy_learner", ["policy:=magic"], "unknown policy 'magic'; expected one of"),
        ("policy_learner", ["sac.hidden:=0"], "parameter 'sac.hidden'"),
        ("policy_learner", ["goal:=[9.0, 0.0]"], "goal cart_position = 9.0 is outside"),
        ("policy_learner", ["policy_file:=/nowhere"], "'policy_file': /nowhere: "),
        ("dynamics_learner", ["model:=ensemble", "ensemble.hidden:=[0]"], "hidden[0] is 0"),
        (
            "dynamics_learner",
            ["model:=ensemble", "ensemble.members:=64"],
            "too large to be sent, at most 16777216 are; use fewer",
        ),
        ("dynamics_learner", ["model:=magic"], "unknown model 'magic'; expected one of ensemble"),
        ("dynamics_learner", ["model_file:=/nowhere"], "'model_file': /nowhere: "),
        ("dynamics_learner", ["experience:=/dev/null"], "/dev/null"),
    ],
)
def test_a_node_with_a_bad_parameter_does_not_start(monkeypatch, capfd, name, parameters, reason):
    """In this process, as it takes seconds to load PyTorch into another."""
    module = importlib.import_module(f"mbrl_ros.nodes.{name}")
    (kind,) = (
        found
        for found in vars(module).values()
        if isinstance(found, type) and issubclass(found, ManagedNode) and found is not ManagedNode
    )

    def start():
        kind()
        pytest.fail("it has started")

    words = [word for parameter in parameters for word in ("-p", parameter)]
    monkeypatch.setattr(sys, "argv", [name, "--ros-args", *words])
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        assert run(start) == 2
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
    assert reason in capfd.readouterr().err


@pytest.mark.parametrize(
    ("name", "parameters", "reason"),
    [
        ("simulator", ["pace:=fast"], "'pace' is 'fast', expected realtime or lockstep"),
        ("state_estimator", ["robot:=hexapod"], "unknown robot 'hexapod'"),
        ("command_guard", ["timeout_periods:=0.0"], "parameter 'timeout_periods'"),
        ("run_monitor", ["report:=/nowhere/run.json"], "there is no folder /nowhere"),
    ],
)
def test_the_process_of_such_a_node_ends_with_one_line(tmp_path, name, parameters, reason):
    with node(tmp_path, name, *parameters) as process:
        assert process.wait(PATIENCE) == 2
        assert reason in process.output
        assert "Traceback" not in process.output


def test_a_node_keeps_the_memory_it_has_freed():
    """The matrices of a step of training come from what the last one has freed."""
    code = """
import resource
import torch
from mbrl_ros.dynamics.hyperparameters import Hyperparameters
from mbrl_ros.ros.runtime import keep_memory

keep_memory()
torch.set_num_threads(1)
inputs, targets = torch.randn(200, 6).double(), torch.randn(200, 4).double()
Hyperparameters.prior(4, 6).fitted(inputs, targets, 20)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
Hyperparameters.prior(4, 6).fitted(inputs, targets, 100)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""
    command = [sys.executable, "-c", code]
    faults = int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    assert faults < 10_000  # of 60,000 to 90,000 otherwise
