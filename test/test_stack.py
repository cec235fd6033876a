# Copyright 2026 The mbrl_ros authors
# SPDX-License-Identifier: Apache-2.0
"""The whole graph: real nodes, real DDS, real physics."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from sensor_msgs.msg import JointState
from stack import QUICK, Listener, alive, asked, launch, settings, wait_for

from mbrl_ros.bringup import processes
from mbrl_ros.ros.qos import STREAM

SAFE = [0.0]
NODES = [process.executable for process in processes({})]


def mbrl(*arguments):
    return subprocess.run(
        [sys.executable, "-m", "mbrl_ros.cli", *arguments],
        capture_output=True,
        text=True,
        timeout=120.0,
        check=False,
    )


@pytest.fixture(scope="module")
def swing_up(tmp_path_factory):
    """Give the run of a cart-pole whose motor loses half of what it does after 6 s.

    Then it gets a new goal, because a cart that balances hardly feels its motor.
    """
    folder = tmp_path_factory.mktemp("swing_up")
    report, picture = folder / "run.json", folder / "run.png"
    change = settings(folder, simulator={"disturbance": "motor_gain=0.5", "disturbance_at": 6.0})
    arguments = ("pace:=lockstep", "duration:=8.0", "seed:=1", change, "second_goal:=[0.6, 0.0]")
    files = (f"report:={report}", f"picture:={picture}")
    with Listener() as listener, launch(folder, *arguments, *files) as run:
        wait_for(run.nodes, "the nodes")
        pids = run.nodes()
        assert run.wait(240.0) == 0, run.output
        wait_for(lambda: listener.commands[-1] == SAFE, "the safe command")
        assert not any(alive(pid) for pid in pids.values())
    assert picture.read_bytes().startswith(b"\x89PNG")
    return run.output, json.loads(report.read_text("utf-8")), listener


def test_a_cart_pole_that_knows_nothing_swings_itself_up(swing_up):
    output, summary, listener = swing_up
    assert summary["solved_at_s"] is not None, output
    assert summary["solved_at_s"] < 6.0
    assert summary["at_goal_since_s"] is not None
    assert summary["interaction_s"] == 8.0
    assert summary["ticks"] == 160
    assert summary["deadline_misses"] == 0
    assert 140 <= summary["transitions"] <= 190
    assert 0.0 < summary["plan_ms"]["median"] <= summary["plan_ms"]["p99"]
    assert summary["plan_ms"]["p99"] <= summary["plan_ms"]["max"]
    assert summary["learner_update_ms"] > 0.0
    assert (summary["seed"], summary["pace"]) == (1, "lockstep")
    assert summary["planner"] == "mppi+ilqr"  # as the robot's tuning file says
    assert all(-10.0 <= command[0] <= 10.0 for command in listener.commands)
    for words in ("the robot moves", "planning with what was learned", "up since"):
        assert words in output
    assert "[mpc_planner" in output


def test_a_changed_world_is_noticed_and_lived_with(swing_up):
    output, summary, _ = swing_up
    noticed = [float(at) for at in re.findall(r"world changed at ([0-9.]+) s", output)]
    assert len(noticed) == 1
    assert 6.0 < noticed[0] < 7.0
    assert summary["at_goal_since_s"] < 6.0


def test_lockstep_repeats_exactly_however_busy_the_machine(swing_up, tmp_path):
    """As far as that run goes, next to processes that want all of the machine."""
    _, _, first = swing_up
    greedy = [sys.executable, "-c", "while True: pass"]
    others = [subprocess.Popen(greedy) for _ in range(2)]
    try:
        with (
            Listener() as second,
            launch(tmp_path, "pace:=lockstep", "duration:=4.0", "seed:=1") as run,
        ):
            assert run.wait() == 0, run.output
    finally:
        for other in others:
            other.kill()
            other.wait()
    # A listener that nobody waits for may lose a message on a busy machine.
    heard = sorted(first.states.keys() & second.states.keys())
    assert len(heard) >= 50
    assert heard[-1] >= 3_000_000_000
    assert [first.states[stamp] for stamp in heard] == [second.states[stamp] for stamp in heard]


@pytest.mark.parametrize("controller", ["policy", "mpc+policy"])
def test_a_policy_takes_over_and_steps_back_when_the_goal_moves(tmp_path, controller):
    """What it does after so few updates is of no use; that it does it in its turn is the point."""
    small = {"sac.hidden": 16, "sac.batch_size": 32, "sac.rollouts": 9}
    learner = {"first_policy": 100, "updates": 10, **small}
    planner = QUICK | {"planner": "icem+ilqr"}
    report = tmp_path / "run.json"
    arguments = ("pace:=lockstep", "duration:=3.0", "seed:=1", "second_goal:=[0.6, 0.0]")
    with launch(
        tmp_path,
        *arguments,
        f"controller:={controller}",
        settings(tmp_path, mpc_planner=planner, policy_learner=learner),
        f"report:={report}",
    ) as run:
        assert run.wait(240.0) == 0, run.output
    summary = json.loads(report.read_text("utf-8"))
    assert (summary["controller"], summary["planner"]) == (controller, "icem+ilqr")
    assert summary["mpc_ticks"] > 0
    other = {"policy": "guided_ticks", "mpc+policy": "policy_ticks"}[controller]
    acted = {"policy": "policy_ticks", "mpc+policy": "guided_ticks"}[controller]
    assert summary[acted] > 0
    assert summary[other] == 0
    assert summary["policy_generation"] > 0
    # The second goal comes at 2.25 s, too late for a policy of its own.
    assert "the policy is for goal [0, 0], not [0.6, 0]: planning without it" in run.output


def test_the_demo_fails_and_says_why_when_the_pole_is_not_up(tmp_path):
    report = tmp_path / "run.json"
    arguments = ["pace:=lockstep", "duration:=1.0", f"report:={report}"]
    done = mbrl("demo", *arguments, f"picture:={tmp_path / 'run.png'}")
    assert done.returncode == 1
    assert "the pole is not up at the end: it never was" in done.stderr
    assert json.loads(report.read_text("utf-8"))["solved_at_s"] is None
    assert asked("demo", "seed:=-1", f"report:={report}").exit_code == 2
    assert report.exists()


@pytest.fixture
def running(tmp_path):
    """Give a stack in real time whose robot is being moved."""
    quick = settings(tmp_path, mpc_planner=QUICK)
    with Listener() as listener, launch(tmp_path, "seed:=1", quick) as run:
        wait_for(lambda: len(listener.commands) > 10, "commands")
        yield run, listener, run.nodes()


def ends_safely(run, listener, pids):
    """Everything ends, the safe command is the last one, and no process is left."""
    status = run.wait(60.0)
    said = f"the safe command; the run said\n{run.output}"
    wait_for(lambda: listener.commands[-1] == SAFE, said)
    wait_for(lambda: not any(alive(pid) for pid in pids.values()), "the processes to end")
    return status


def test_an_interrupted_run_ends_with_the_safe_command(running):
    run, listener, pids = running
    assert set(pids) == set(NODES)
    run.signal(signal.SIGTERM)
    assert ends_safely(run, listener, pids) == 0
    assert "sent the safe command" in run.output
    assert "Traceback" not in run.output
    assert "at the end: not up" in run.output


def test_an_impatient_second_interrupt_does_not_skip_the_safe_command(running):
    run, listener, pids = running
    for _ in range(3):
        run.signal(signal.SIGINT)
        time.sleep(0.01)
    assert ends_safely(run, listener, pids) == 0
    assert "sent the safe command" in run.output
    assert "Traceback" not in run.output


@pytest.mark.parametrize("name", NODES)
def test_when_a_node_is_killed_the_run_ends_with_the_safe_command(running, name):
    run, listener, pids = running
    os.kill(pids[name], signal.SIGKILL)
    assert ends_safely(run, listener, pids) == 1
    assert f"stopping: {name} died (killed by SIGKILL)" in run.output


@pytest.mark.parametrize("name", NODES)
def test_a_node_that_dies_at_the_start_ends_the_run(tmp_path, name):
    with Listener() as listener, launch(tmp_path) as run:
        wait_for(lambda: set(run.nodes()) == set(NODES), "all nodes")
        pids = run.nodes()
        os.kill(pids[name], signal.SIGKILL)
        assert run.wait(60.0) == 1
        wait_for(lambda: not any(alive(pid) for pid in pids.values()), "the processes to end")
        assert f"stopping: {name} died (killed by SIGKILL)" in run.output
        assert listener.commands == []


def test_a_guard_that_hangs_is_replaced_at_the_end(running):
    run, listener, pids = running
    os.kill(pids["command_guard"], signal.SIGSTOP)
    run.signal(signal.SIGINT)
    assert ends_safely(run, listener, pids) == 0
    assert "sent the safe command" in run.output


def test_when_the_launcher_is_killed_the_run_ends_with_the_safe_command(running):
    run, listener, pids = running
    run.signal(signal.SIGKILL)
    assert ends_safely(run, listener, pids) == -signal.SIGKILL


def test_goal_and_status_commands_find_the_stack_in_its_namespace(tmp_path):
    here = ("--namespace", "left")
    with (
        Listener(namespace="left") as listener,
        launch(
            tmp_path, "seed:=1", "namespace:=left", settings(tmp_path, mpc_planner=QUICK)
        ) as run,
    ):
        wait_for(lambda: len(listener.commands) > 10, "commands")
        done = mbrl("goal", *here, "cart_position:=0.5")
        assert done.returncode == 0, done.stderr
        assert "'cart_position': 0.5" in done.stdout
        assert "'pole_angle': 0.0" in done.stdout
        for words, reason in (
            (["cart_position:=5.0"], "goal cart_position = 5.0 is outside [-1.2, 1.2]"),
            (["cart_position:=nan"], "goal cart_position = nan is outside"),
            (["height:=1.0"], "unknown goal 'height'; expected one of cart_position, pole_angle"),
            (["cart_position"], "'cart_position' is not a goal; expected name:=number"),
        ):
            refused = asked("goal", *here, *words)
            assert refused.exit_code != 0
            assert reason in refused.stderr
        assert mbrl("param", "set", *here, "simulator", "motor_gain", "-0.5").returncode == 0
        assert asked("param", "get", *here, "simulator", "motor_gain").stdout == "-0.5\n"
        assert asked("param", "set", *here, "simulator", "motor_gain", "1").exit_code == 0
        for words, reason in (
            (
                ["set", *here, "simulator", "motor_gain", "fast"],
                "simulator: motor_gain = fast is refused: it is a word, expected a number such as",
            ),
            (["set", *here, "simulator", "colour", "1.0"], "simulator has no parameter 'colour'"),
            (["get", *here, "simulator", "colour"], "simulator has no parameter 'colour'"),
        ):
            refused = asked("param", *words)
            assert refused.exit_code == 1
            assert reason in refused.stderr
        status = mbrl("status", *here, "--once")
        assert status.returncode == 0, status.stderr
        assert "goal 0.5, 0" in status.stdout
        for words in ("cart_position", "cost", "transitions, error", "plan", "misses"):
            assert words in status.stdout
        # Was an empty list, which has no type: the planner says what it is to be.
        assert asked("param", "set", *here, "mpc_planner", "waypoints", "[1, 0]").exit_code == 0
        assert run.running
        run.signal(signal.SIGINT)
        assert run.wait(30.0) == 0
        assert "the goal moves to [0.5, 0.0]" in run.output
        assert listener.commands[-1] == SAFE


def test_nobody_watching_ends_the_run(tmp_path):
    """As in: mbrl launch mpc.launch.py | head."""
    command = [sys.executable, "-m", "mbrl_ros.cli", "launch", "mpc.launch.py"]
    command.append(settings(tmp_path, mpc_planner=QUICK))
    with Listener() as listener:
        run = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        wait_for(lambda: len(listener.commands) > 10, "commands")
        run.stdout.close()
        run.wait(60.0)
        assert listener.commands[-1] == SAFE


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["speed:=2"], "unknown launch argument 'speed'; expected one of robot, sim"),
        (["robot"], "'robot' is not a launch argument; expected name:=value"),
        (["planner:=magic"], "planner:=magic is not known; expected one of cem, icem"),
        (["pace:=fast"], "pace:=fast is not known; expected one of realtime, lockstep"),
        (["robot:=hexapod"], "unknown robot 'hexapod'; expected one of arm2, cartpole"),
        (["robot:=missing.yaml"], "missing.yaml: cannot be read"),
        (["goal:=[0.5]"], "goal has 1 values, expected 2"),
        (["goal:=[5.0, 0.0]"], "goal cart_position = 5.0 is outside [-1.2, 1.2]"),
        (["goal:=left"], "goal:=left: expected numbers in brackets"),
        (["model_file:=missing"], "model_file:=missing: there is no such file"),
        (["seed:=-1"], "seed:=-1: expected a whole number"),
        (["duration:=long"], "duration:=long: expected seconds"),
        (["sim:=false", "pace:=lockstep"], "pace:=lockstep needs sim:=true"),
        (["params_file:=missing.yaml"], "params_file:=missing.yaml: cannot be read"),
    ],
)
def test_bad_arguments_are_refused_before_anything_starts(arguments, reason):
    refused = asked("launch", "mpc.launch.py", *arguments)
    assert refused.exit_code == 2
    assert reason in refused.stderr
    assert refused.stdout == ""


def test_a_folder_of_the_packages_name_is_not_taken_for_it(tmp_path):
    """As where a clone lies in the working directory."""
    (tmp_path / "mbrl_ros").mkdir()
    command = [str(Path(sys.executable).parent / "mbrl"), "launch", "mpc.launch.py"]
    done = subprocess.run(
        [*command, "pace:=lockstep", "duration:=1.5"],
        cwd=tmp_path,
        # As installed: with it, the package would be found before the folder.
        env={name: value for name, value in os.environ.items() if name != "PYTHONPATH"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    assert "planning with what was learned" in done.stdout


def test_the_arguments_are_listed():
    shown = asked("launch", "mpc.launch.py", "--show-args")
    assert shown.exit_code == 0
    for words in ("robot:=cartpole", "pace:=realtime  one of: realtime, lockstep", "duration:="):
        assert words in shown.stdout
    assert "expected one of mpc.launch.py" in asked("launch", "nav.launch.py").stderr


@pytest.mark.parametrize(
    ("name", "parameter", "reason"),
    [
        ("mpc_planner", "horizon: 0", "expected int in [1, 1000]"),
        ("command_guard", "timeout_periods: .nan", "expected float in [1.0, 100.0]"),
    ],
)
def test_a_parameter_that_cannot_be_used_stops_the_start(tmp_path, name, parameter, reason):
    bad = settings(tmp_path, **{name: yaml.safe_load(f"{{{parameter}}}")})
    with Listener() as listener, launch(tmp_path, bad) as run:
        assert run.wait() == 1
        assert f"parameter '{parameter.partition(':')[0]}'" in run.output
        assert reason in run.output
        assert f"stopping: {name} ended with exit status 2" in run.output
        assert not any(alive(pid) for pid in run.nodes().values())
        assert listener.commands == []


def test_hardware_moves_only_once_armed(tmp_path):
    """A robot of another make: system time, its own rate, a guard that starts disarmed."""
    with Listener() as listener:
        publisher = listener.node.create_publisher(JointState, "joint_states", STREAM)

        def publish() -> None:
            message = JointState(
                name=["other", "pole_hinge", "cart_slider"],
                position=[7.0, 3.1, 0.2],
                velocity=[0.0, 0.1, 0.3],
            )
            message.header.stamp = listener.node.get_clock().now().to_msg()
            publisher.publish(message)

        with launch(tmp_path, "sim:=false") as run:
            wait_for(lambda: "waiting for joint_states" in run.output, "the waiting line")
            timer = listener.node.create_timer(0.013, publish)
            wait_for(lambda: len(listener.states) > 40, "states")
            assert listener.commands == []
            assert list(listener.states.values())[-1] == [0.2, 0.3, 3.1, 0.1]
            wait_for(lambda: asked("arm").exit_code == 0, "actions, without which none can arm")
            wait_for(lambda: len(listener.commands) > 40, "commands")
            assert "simulator" not in run.nodes()
            timer.cancel()  # the robot falls silent
            silent = "no (action|state) in time: going to the safe command"
            wait_for(lambda: re.search(silent, run.output), "the time-out")
            wait_for(lambda: listener.commands[-1] == SAFE, "the safe command")
            run.signal(signal.SIGINT)
            assert run.wait(30.0) == 0
        assert listener.commands[-1] == SAFE


def test_a_simulation_in_lockstep_goes_on_when_the_guard_stops_the_robot(tmp_path, cartpole_file):
    """It waits for a command at every tick: the safe one, in answer to every action."""
    robot = cartpole_file(state__0__safe_range=[-0.05, 0.05])
    arguments = (f"robot:={robot}", "pace:=lockstep", "duration:=2.0")
    with Listener() as listener, launch(tmp_path, *arguments) as run:
        assert run.wait() == 0, run.output
        assert "is outside its safe range [-0.05, 0.05]; safe command until ~/arm" in run.output
        assert "moved for 2.0 s, 40 ticks" in run.output
        assert any(command != SAFE for command in listener.commands[:15])
        assert all(command == SAFE for command in listener.commands[-15:])


def test_a_guard_that_never_commanded_is_not_replaced(tmp_path):
    """On hardware, disarmed: its death must not be the first thing that moves the robot."""
    with Listener() as listener, launch(tmp_path, "sim:=false") as run:
        wait_for(lambda: "disarmed" in run.output, "the guard")
        os.kill(run.nodes()["command_guard"], signal.SIGKILL)
        assert run.wait(60.0) == 1
        assert "the robot was never commanded: nothing to take back" in run.output
        assert listener.commands == []
