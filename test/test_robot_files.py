# Copyright 2026 The mbrl_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Writing and checking robot files: the schema, `mbrl robot check` and `mbrl robot new`."""

import json
import math
import threading
import time
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from geometry_msgs.msg import TwistStamped
from nav_msgs.msg import Odometry
from sensor_msgs.msg import Imu, JointState
from stack import LATEST, Listener
from std_msgs.msg import Float64MultiArray
from typer.testing import CliRunner

from mbrl_ros.bringup import ArgumentError, processes
from mbrl_ros.cli import app
from mbrl_ros.resources import config_directory
from mbrl_ros.robots import load_robot, robot_names, starter
from mbrl_ros.robots.schema import robot_schema
from mbrl_ros.ros.conversions import to_time
from mbrl_ros.ros.discovery import graph
from mbrl_ros.ros.qos import STREAM

CHECKOUT = Path(__file__).parents[1]
URDF = """<?xml version="1.0"?>
<robot name="Swing Arm">
  <link name="base"/><link name="rod"/><link name="slide"/><link name="tip"/>
  <joint name="Lift" type="prismatic">
    <parent link="base"/><child link="slide"/>
    <limit lower="-0.5" upper="1.5" effort="40" velocity="2"/>
  </joint>
  <joint name="swing" type="continuous">
    <parent link="slide"/><child link="rod"/>
  </joint>
  <joint name="mount" type="fixed"><parent link="rod"/><child link="tip"/></joint>
  <ros2_control name="drive" type="system">
    <joint name="Lift"><command_interface name="effort"/><state_interface name="position"/></joint>
    <joint name="swing"><state_interface name="position"/></joint>
  </ros2_control>
</robot>
"""
XACRO = """<?xml version="1.0"?>
<robot name="arm" xmlns:xacro="http://www.ros.org/wiki/xacro">
  <xacro:macro name="leg" params="side">
    <joint name="${side}_hip" type="continuous"/>
  </xacro:macro>
  <xacro:leg side="left"/>
</robot>
"""


def mbrl(*arguments, answers=None):
    return CliRunner().invoke(app, ["robot", *map(str, arguments)], input=answers)


# -- schema --------------------------------------------------------------------------------


def test_the_shipped_schema_is_that_of_the_code():
    shipped = json.loads((config_directory() / "robot.schema.json").read_text("utf-8"))
    assert shipped == robot_schema(), (
        "run: python -m mbrl_ros.robots.schema > config/robot.schema.json"
    )


def test_every_entry_of_a_robot_file_is_described():
    schema = robot_schema()
    places = {"robot": schema, **schema["$defs"]}
    assert {"robot", "Sensor", "StateDimension", "ActionDimension", "Cost"} <= set(places)
    bare = [
        f"{place}.{name}"
        for place, definition in places.items()
        for name, entry in definition["properties"].items()
        if len(entry.get("description", "")) < 10
    ]
    assert bare == []


def test_the_example_in_the_documentation_holds_every_entry(tmp_path):
    text = (CHECKOUT / "docs" / "robots.md").read_text("utf-8")
    example = text.split("```yaml\n")[1].split("```")[0]
    path = tmp_path / "rover.yaml"
    path.write_text(example, "utf-8")
    assert load_robot(str(path)).name == "rover"
    entries = {
        name
        for definition in (robot_schema(), *robot_schema()["$defs"].values())
        for name in definition["properties"]
    }
    assert {name for name in entries if f"{name}:" not in example} == set()


# -- check ---------------------------------------------------------------------------------


def test_every_shipped_robot_passes_the_check():
    for name in robot_names():
        result = mbrl("check", name)
        assert result.exit_code == 0, result.output
        assert f"{name}: " in result.output


def test_a_check_says_what_comes_in_and_what_goes_out(cartpole_file):
    path = cartpole_file(
        state__0__safe_range=[-1.7, 1.7],
        state__1={"name": "cart_velocity", "derivative_of": "cart_position", "unit": "m/s"},
        command__dimensions__0__slew=100.0,
    )
    result = mbrl("check", path)
    assert result.exit_code == 0
    for line in (
        "20 ticks a second, one every 50 ms",
        "joint_states (sensor_msgs/msg/JointState), interpolated to the tick, stale after 0.25 s",
        "cart_position [m]: position of joint cart_slider, end stops at -1.8 to 1.8, the guard "
        "stops the robot outside -1.7 to 1.7",
        "cart_velocity [m/s]: derivative of cart_position (kalman)",
        "pole_angle [rad]: position of joint pole_hinge, an angle that wraps",
        "cart_force [N]: next value, -10 to 10, safe 0, at most 100 a second",
        "goal cart_position: 0 at first, -1.2 to 1.2 accepted, reached within 0.15 m",
        "solved: pole_angle within 0.2 of its goal for 2 s (up)",
        "not checked (--live compares with the robot that runs now): topics, joints, rates",
    ):
        assert line in result.output
    assert "warning" not in result.output


@pytest.mark.parametrize(
    ("changes", "warning"),
    [
        ({}, "command 'cart_force' has no slew: it may jump from -10 to 10 N at once"),
        ({}, "no state dimension has a safe_range"),
        ({"state__2__angle": None}, "should it turn freely, say angle: true"),
        ({"state__0__limits": [-1.0, 1.0]}, "-1.2 to 1.2, which reaches beyond its limits -1 to"),
        ({"state__0__safe_range": [-1.0, 1.0]}, "reaches beyond its safe_range -1 to 1"),
        ({"cost__goal": {"pole_angle": 1.0}}, "goal 'cart_position' has no weight in cost.goal"),
        ({"cost__effort": {}}, "cost has neither effort nor rate"),
        ({"sensors__joint_states__timeout": 0.02}, "timeout of 0.02 s is shorter than a control"),
        ({"command__topic": "/effort"}, "topic /effort begins with /"),
        ({"success": None}, "a run never counts as solved"),
        ({"simulation__plant": "steam"}, "sim:=true would not start: simulation.plant: unknown"),
        ({"simulation__model": "missing.xml"}, "sim:=true would not start: simulation.model"),
        ({"simulation__settings": {"fog": 1}}, "sim:=true would not start: simulation.settings"),
        ({"state__2__unit": "deg"}, "is in deg; ROS uses SI units"),
        (
            {
                "command__type": "sensor_msgs/msg/JointState",
                "command__dimensions__0__joint": "cart_slider",
                "command__dimensions__0__field": "position",
            },
            "the robot moves to its safe value 0 N",
        ),
    ],
)
def test_a_check_warns_of_what_may_not_be_meant(cartpole_file, changes, warning):
    result = mbrl("check", cartpole_file(**changes))
    assert result.exit_code == 0
    assert any(
        line.startswith("warning: ") and warning in line for line in result.output.splitlines()
    ), result.output


@pytest.mark.parametrize(
    ("terms", "problem"),
    [
        ({"foo": {}}, "cost.terms: unknown cost term 'foo'; expected one of linear"),
        ({"linear": {"foo": 3}}, "cost.terms: "),
    ],
)
def test_cost_terms_that_the_planner_would_refuse_fail_the_check(cartpole_file, terms, problem):
    path = cartpole_file(cost__terms=terms)
    result = mbrl("check", path)
    assert result.exit_code == 2
    assert problem in result.output
    with pytest.raises(ArgumentError, match=problem):
        processes({"robot": str(path)})


def test_a_file_that_cannot_be_used_fails_the_check(cartpole_file, tmp_path):
    result = mbrl("check", cartpole_file(command__dimensions__0__safe=11.0, control_rate=-1.0))
    assert result.exit_code == 2
    assert "control_rate: Input should be greater than 0 (found -1.0)" in result.stderr
    assert "action 'cart_force': safe value 11.0 lies outside bounds" in result.stderr
    # Each cause is told once, without what follows from it elsewhere.
    reversed_bounds = cartpole_file(command__dimensions__0__bounds=[10.0, -10.0])
    result = mbrl("check", reversed_bounds)
    assert result.exit_code == 2
    (line,) = result.stderr.splitlines()[1:]
    assert "bounds [10.0, -10.0] are not increasing" in line
    result = mbrl("check", tmp_path / "nothing.yaml")
    assert result.exit_code == 2
    assert "nothing.yaml: cannot be read" in result.stderr


# -- new -----------------------------------------------------------------------------------


@pytest.fixture
def urdf(tmp_path):
    path = tmp_path / "arm.urdf"
    path.write_text(URDF, "utf-8")
    return path


def test_a_urdf_becomes_a_robot_file_that_passes_the_check(urdf, tmp_path):
    path = tmp_path / "lift.yaml"
    result = mbrl("new", "--urdf", urdf, "-o", path, "--yes")
    assert result.exit_code == 0, result.output
    assert mbrl("check", path).exit_code == 0
    robot = load_robot(str(path))
    assert robot.name == "lift"
    # No state interface tells a velocity.
    assert [
        (d.name, d.key or d.derivative_of, d.unit, d.angle, d.limits) for d in robot.state
    ] == [
        ("lift_position", "position/Lift", "m", False, (-0.5, 1.5)),
        ("lift_velocity", "lift_position", "m/s", False, None),
        ("swing_position", "position/swing", "rad", True, None),
        ("swing_velocity", "swing_position", "rad/s", False, None),
    ]
    (action,) = robot.command.dimensions  # nothing drives the other joint
    assert (action.name, action.unit, action.bounds) == (
        "lift_effort_command",
        "N",
        (-40.0, 40.0),
    )
    assert action.slew == 160.0
    assert robot.command.topic == "effort_controller/commands"
    assert robot.goal[0].bounds == (-0.3, 1.3)
    # It is for a person to read on.
    assert path.read_text("utf-8").count("#") > 15
    # A URDF does not say what the controller listens to.
    assert "effort_controller/commands and its type are a guess" in result.stdout
    assert "# a guess, as none was found: change topic" in path.read_text("utf-8")


def from_urdf(tmp_path, text, *options, answers=None):
    """Return what `mbrl robot new` says of a URDF, and the path of the robot file."""
    urdf, path = tmp_path / "given.urdf", tmp_path / "given.yaml"
    urdf.write_text(text, "utf-8")
    return mbrl("new", "--urdf", urdf, "-o", path, *options, answers=answers), path


def test_a_state_is_read_from_the_state_interfaces(tmp_path):
    def sources(text):
        result, path = from_urdf(tmp_path, text, "--yes")
        assert result.exit_code == 0, result.output
        robot = load_robot(str(path))
        path.unlink()
        assert "lift_effort_command" in robot.action_names
        lift = [d for d in robot.state if d.name.startswith("lift")]
        return [d.key or d.derivative_of for d in lift]

    interface = '<state_interface name="position"/>'
    both, speed = ["position/Lift", "velocity/Lift"], interface.replace("position", "velocity")
    assert sources(URDF) == ["position/Lift", "lift_position"]
    assert sources(URDF.replace(interface, interface + speed, 1)) == both
    assert sources(URDF.replace(interface, speed, 1)) == ["velocity/Lift"]
    # Where nothing is said, both are likely.
    assert sources(URDF.replace(interface, "", 1)) == both
    assert sources(URDF.split("  <ros2_control")[0] + "</robot>") == both


@pytest.mark.parametrize(
    ("ends", "safe"),
    [((0.1, 0.5), 0.3), ((0.0, 0.5), 0.25), ((-0.5, 0.0), -0.25), ((-0.5, 1.5), 0.0)],
)
def test_a_position_command_never_fails_into_an_end_stop(tmp_path, ends, safe):
    text = URDF.replace('lower="-0.5" upper="1.5"', f'lower="{ends[0]}" upper="{ends[1]}"')
    result, path = from_urdf(
        tmp_path, text.replace('interface name="effort"', 'interface name="position"'), "--yes"
    )
    assert result.exit_code == 0, result.output
    (action,) = load_robot(str(path)).command.dimensions
    assert (action.unit, action.bounds, action.safe) == ("m", ends, safe)
    assert "# the robot moves to safe when anything fails" in path.read_text("utf-8")
    assert (
        "warning: command 'lift_position_command' is in m, as state 'lift_position' is: if it is "
        f"a position, when anything fails, the robot moves to its safe value {safe:g} m"
    ) in mbrl("check", path).output
    # Others do not move to a safe place, those of the shipped robots neither.
    path.unlink()
    result, path = from_urdf(tmp_path, URDF, "--yes")
    assert "moves to" not in result.output + path.read_text("utf-8")
    for name in robot_names():
        assert "moves to its safe value" not in mbrl("check", name).output


def test_joints_that_are_written_alike_get_names_of_their_own(tmp_path):
    text = URDF.replace("Lift", "a-b").replace("swing", "a_b")
    text = text.replace(
        '<joint name="a_b"><state', '<joint name="a_b"><command_interface name="effort"/><state'
    )
    # The controller has them in an order of its own.
    answers = ["", "", "", "a_b,a-b", *[""] * 6]
    result, path = from_urdf(tmp_path, text, answers="\n".join(answers) + "\n")
    assert result.exit_code == 0, result.output
    robot = load_robot(str(path))
    assert [(d.name, d.joint) for d in robot.state if d.field == "position"] == [
        ("a_b_position", "a-b"),
        ("a_b_2_position", "a_b"),
    ]
    assert robot.action_names == ["a_b_2_effort_command", "a_b_effort_command"]


def test_sensors_that_are_written_alike_get_names_of_their_own(tmp_path):
    array = "std_msgs/msg/Float64MultiArray"
    sensors = tuple(
        starter.FoundSensor(topic, array, ("0",)) for topic in ("arm/cell", "arm_cell")
    )
    text = starter.write("thing", starter.Found("thing", sensors), lambda _, default: default)
    robot = starter.check(text, tmp_path / "thing.yaml")
    assert robot.state_names == ["arm_cell_0", "arm_cell_2_0"]


def test_nothing_is_written_that_could_not_be_used(urdf, tmp_path):
    path = tmp_path / "robot.yaml"
    for topic, status in (("my topic", 2), ("my_topic", 0)):
        answers = "\n".join(["", topic, *[""] * 7])
        result = mbrl("new", "--urdf", urdf, "-o", path, answers=answers)
        assert result.exit_code == status, result.output
        assert path.exists() == (status == 0)
        if status:
            assert f"nothing was written, because it could not be used: robot file {path}:" in (
                result.stderr
            )
            assert "command.topic" in result.stderr
        # Who names a topic does not guess.
        assert "a guess, as" not in (path.read_text("utf-8") if status == 0 else "")


def test_what_cannot_be_known_is_asked(urdf, tmp_path):
    answers = ["lifter", "lift/commands", "trajectory_msgs/msg/JointTrajectory", "Lift"]
    answers += ["velocity", "-0.2,0.3", "lift_position", "50"]
    path = tmp_path / "asked.yaml"
    result = mbrl("new", "--urdf", urdf, "-o", path, answers="\n".join(answers) + "\n")
    assert result.exit_code == 0, result.output
    robot = load_robot(str(path))
    (action,) = robot.command.dimensions
    assert (robot.name, robot.control_rate, robot.command.topic) == ("lifter", 50, "lift/commands")
    assert (action.joint, action.field, action.bounds) == ("Lift", "velocity", (-0.2, 0.3))
    assert robot.goal_names == ["lift_position"]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("<robot", "not valid XML"),
        ("<sdf/>", "expected a URDF, a <robot> element, found <sdf>"),
        ("<robot name='r'/>", "has no joint that moves and can be commanded"),
        (URDF.replace('"40"', '"${e}"'), r"joint 'Lift': limit effort is '${e}', expected a num"),
        (URDF.replace('"1.0"', '"1.0" encoding="none"'), "not valid XML: unknown encoding: none"),
        (
            URDF.replace('lower="-0.5" upper="1.5"', 'lower="0.5" upper="-0.5"'),
            "joint 'Lift' has the limits lower 0.5, upper -0.5; the URDF specification requires a "
            "<limit> of a prismatic joint",
        ),
        (
            URDF.replace(' lower="-0.5" upper="1.5"', ""),
            "joint 'Lift' has the limits lower 0, upper 0; the URDF specification requires",
        ),
        (
            URDF.replace("continuous", "revolute"),
            "joint 'swing' has no <limit>; the URDF specification requires a <limit> of a "
            "revolute joint, and it moves from lower to upper (each 0 where left out): expected "
            "lower < upper; if it turns without end, its type is continuous",
        ),
    ],
)
def test_a_urdf_that_is_of_no_use_is_refused(tmp_path, text, reason):
    path = tmp_path / "bad.urdf"
    path.write_text(text, "utf-8")
    result = mbrl("new", "--urdf", path, "-o", tmp_path / "robot.yaml", "--yes")
    assert result.exit_code == 2
    assert reason in result.stderr
    assert not (tmp_path / "robot.yaml").exists()


def test_a_urdf_that_cannot_be_read_is_told_in_words(tmp_path):
    for path, reason in (
        (tmp_path / "none.urdf", "there is no such file; check the path"),
        (tmp_path, "is a folder; expected the path of a file"),
    ):
        result = mbrl("new", "--urdf", path, "-o", tmp_path / "robot.yaml", "--yes")
        assert result.exit_code == 2
        assert result.stderr == f"mbrl: {path}: {reason}\n"


def test_a_xacro_file_is_to_be_expanded_first(tmp_path):
    result, path = from_urdf(tmp_path, XACRO, "--yes")
    assert result.exit_code == 2
    assert (
        "expected a URDF, found a xacro file, with <xacro:macro>; expand it first: xacro FILE > "
        "robot.urdf"
    ) in result.stderr
    assert not path.exists()
    # What xacro makes of it still declares its namespace.
    expanded = URDF.replace("<robot ", '<robot xmlns:xacro="http://www.ros.org/wiki/xacro" ')
    result, path = from_urdf(tmp_path, expanded, "--yes")
    assert result.exit_code == 0, result.output


def test_a_file_that_exists_is_never_replaced(urdf, tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("precious", "utf-8")
    result = mbrl("new", "--urdf", urdf, "-o", path, "--yes")
    assert result.exit_code == 2
    assert "exists already" in result.stderr
    assert path.read_text("utf-8") == "precious"


@pytest.mark.parametrize(
    ("answers", "reason"),
    [
        (["r", "c", "std_msgs/msg/String"], "unknown type 'std_msgs/msg/String'; expected one of"),
        (["r", "c", "", "", "", "5,-5"], "expected two increasing numbers"),
        (["r", "c", "", "", "", "", "height"], "unknown dimension 'height'"),
        (["r", "c", "", "", "", "", "", "fast"], "'fast' is not a number"),
    ],
)
def test_answers_of_no_use_are_refused(urdf, tmp_path, answers, reason):
    path = tmp_path / "robot.yaml"
    result = mbrl("new", "--urdf", urdf, "-o", path, answers="\n".join(answers) + "\n")
    assert result.exit_code == 2
    assert reason in result.stderr
    assert not path.exists()


def test_a_live_graph_becomes_a_robot_file_that_passes_the_check(tmp_path):
    """A base with odometry, an IMU and wheel encoders that tell no velocity."""
    with Listener(namespace="base7") as listener:
        node = listener.node
        publishers = {
            "odometry": node.create_publisher(Odometry, "odometry", STREAM),
            "imu": node.create_publisher(Imu, "imu", STREAM),
            "wheels": node.create_publisher(JointState, "wheels", STREAM),
            "silent": node.create_publisher(Imu, "silent", STREAM),
        }
        node.create_subscription(TwistStamped, "cmd_vel", lambda _: None, LATEST)
        ended = threading.Event()

        def drive():
            odometry, imu = Odometry(), Imu()
            odometry.pose.pose.orientation.w = imu.orientation.w = 1.0
            wheels = JointState(name=["left wheel"], position=[0.1], velocity=[math.nan])
            while not ended.is_set():
                for name, message in (("odometry", odometry), ("imu", imu), ("wheels", wheels)):
                    publishers[name].publish(message)
                time.sleep(0.02)

        thread = threading.Thread(target=drive)
        thread.start()
        path = tmp_path / "base.yaml"
        try:
            result = mbrl("new", "-o", path, "--yes", "--namespace", "base7", "--seconds", "5")
        finally:
            ended.set()
            thread.join()
    assert result.exit_code == 0, result.output
    assert mbrl("check", path).exit_code == 0
    robot = load_robot(str(path))
    # The IMU would only tell once more what odometry tells.
    assert set(robot.sensors) == {"odometry", "wheels"}
    names = ["left_wheel_position", "left_wheel_velocity", "x", "y", "yaw", "speed", "turn_rate"]
    assert robot.state_names == names
    assert robot.state[1].derivative_of == "left_wheel_position"
    assert (robot.command.topic, robot.command.type) == (
        "cmd_vel",
        "geometry_msgs/msg/TwistStamped",
    )
    assert [d.field for d in robot.command.dimensions] == ["linear.x", "angular.z"]
    assert robot.planar is not None
    assert 1.0 <= robot.control_rate <= 20.0


@contextmanager
def sending(*messages):
    """Send each message again and again by its publisher."""
    ended = threading.Event()

    def run():
        while not ended.wait(0.02):
            for publisher, message in messages:
                publisher.publish(message)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def test_commands_of_this_stack_s_guard_are_the_robot_s_command_not_its_sensor(tmp_path):
    path, space = tmp_path / "plant.yaml", "plant4"
    with ExitStack() as stack:
        names = ("simulator", "command_guard", "state_estimator", "mpc_planner")
        simulator, guard, estimator, planner = (
            stack.enter_context(graph(name, space))[0] for name in names
        )
        sensor = simulator.create_publisher(JointState, "joint_states", STREAM)
        commands = guard.create_publisher(Float64MultiArray, "effort_controller/commands", LATEST)
        simulator.create_subscription(
            Float64MultiArray, "effort_controller/commands", lambda _: None, LATEST
        )
        # What the other nodes hear or send is nothing of the robot's either.
        estimator.create_subscription(JointState, "joint_states", lambda _: None, LATEST)
        estimator.create_subscription(JointState, "no_driver_yet", lambda _: None, LATEST)
        plan = planner.create_publisher(Odometry, "expected", STREAM)
        joint = JointState(name=["lift"], position=[0.1], velocity=[0.0])
        with sending(
            (sensor, joint), (commands, Float64MultiArray(data=[1.0])), (plan, Odometry())
        ):
            result = mbrl("new", "-o", path, "--yes", "--namespace", space, "--seconds", "5")
    assert result.exit_code == 0, result.output
    robot = load_robot(str(path))
    assert list(robot.sensors) == ["joint_states"]
    assert robot.state_names == ["lift_position", "lift_velocity"]
    assert (robot.command.topic, robot.command.type) == (
        "effort_controller/commands",
        "std_msgs/msg/Float64MultiArray",
    )
    assert "guess;" not in result.stdout
    assert "a guess, as" not in path.read_text("utf-8")


def test_a_command_topic_that_was_not_found_is_told_as_a_guess(tmp_path):
    """A driver has the name of a node of this stack, which does not run."""
    path, space = tmp_path / "drone.yaml", "drone5"
    with graph("state_estimator", space) as (driver, _):
        odometry = Odometry()
        odometry.pose.pose.orientation.w = 1.0
        with sending((driver.create_publisher(Odometry, "odometry", STREAM), odometry)):
            result = mbrl("new", "-o", path, "--yes", "--namespace", space, "--seconds", "5")
    assert result.exit_code == 0, result.output
    robot = load_robot(str(path))
    assert list(robot.sensors) == ["odometry"]
    assert robot.command.topic == "cmd_vel"
    assert (
        "warning: no topic that takes commands was found: cmd_vel and its type are a guess; "
        "change them to what the robot listens to\n"
    ) in result.stdout
    lines = path.read_text("utf-8").splitlines()
    guess = "  # a guess, as none was found: change topic and type to what the robot listens to"
    assert lines[lines.index("  topic: cmd_vel") - 1] == guess


def test_a_commanded_joint_is_never_invented():
    sensor = starter.FoundSensor("values", "std_msgs/msg/Float64MultiArray", ("0",))
    found = starter.Found("thing", (sensor,), {"set_joints": "sensor_msgs/msg/JointState"})
    # The advice holds for those who answered nothing and for those who were asked nothing.
    advice = r"and none could be seen: expected their names in answer .* \(--yes asks nothing\)"
    with pytest.raises(starter.StarterError, match=advice):
        starter.write("thing", found, lambda _question, default: default)


def test_an_empty_graph_is_told(tmp_path):
    result = mbrl("new", "-o", tmp_path / "r.yaml", "-y", "--namespace", "nobody", "--seconds", 1)
    assert result.exit_code == 2
    assert "no sensor was heard" in result.stderr


# -- mbrl robot check --live ----------------------------------------------------------------

LIFT = """
name: lift
control_rate: 10.0
sensors:
  joints: {type: sensor_msgs/msg/JointState, timeout: 2.0}
state:
  - {name: height, sensor: joints, joint: lift, field: position, unit: m, safe_range: [0.0, 2.0]}
command:
  topic: set_speed
  type: std_msgs/msg/Float64MultiArray
  dimensions: [{name: speed, unit: m/s, bounds: [-1.0, 1.0], slew: 2.0}]
goal: [{dimension: height, bounds: [0.2, 1.8], tolerance: 0.05, default: 1.0}]
cost: {goal: {height: 1.0}, effort: {speed: 0.1}}
"""


def check_live(path, text, rate=50.0, height=1.0, age=0.0, joint="lift", master=False):
    """Check a robot file against a lift that runs now."""
    path.write_text(text, "utf-8")
    with Listener(namespace="site3") as listener:
        node = listener.node
        publisher = node.create_publisher(JointState, "joints", STREAM)
        node.create_subscription(Float64MultiArray, "set_speed", lambda _: None, LATEST)
        if master:
            node.create_publisher(Float64MultiArray, "set_speed", LATEST)
        ended = threading.Event()

        def run():
            while not ended.wait(1.0 / rate):
                message = JointState(name=[joint], position=[height])
                message.header.stamp = to_time(time.time_ns() - round(age * 1e9))
                publisher.publish(message)

        thread = threading.Thread(target=run)
        thread.start()
        try:
            return mbrl("check", path, "--live", "--namespace", "site3", "--seconds", "2")
        finally:
            ended.set()
            thread.join()


def test_a_robot_that_is_as_its_file_says_passes_the_live_check(tmp_path):
    result = check_live(tmp_path / "lift.yaml", LIFT)
    assert result.exit_code == 0, result.output
    assert "    height: 1 m\n" in result.stdout
    assert "set_speed: taken by /site3/listener" in result.stdout
    assert "problem" not in result.stdout


@pytest.mark.parametrize(
    ("change", "lift", "problem"),
    [
        (("joints", "joint_states"), {}, "nobody publishes it; there are /site3/joints"),
        (("JointState", "Imu"), {}, "carries sensor_msgs/msg/JointState, the file says sensor_"),
        (("joint: lift", "joint: hoist"), {}, "no position of joint 'hoist'; it has joints lift"),
        (("field: position", "field: velocity"), {}, "no velocity of joint 'lift'"),
        (("control_rate: 10.0", "control_rate: 90.0"), {"rate": 5.0}, "the control rate is 90"),
        (None, {"height": 1200.0}, "is 1200 m now, outside its safe_range 0 to 2"),
        (None, {"height": float("nan")}, "is nan now"),
        (None, {"age": 60.0}, "s behind this machine's clock"),
        (None, {"age": -60.0}, "s ahead of this machine's clock"),
        (("set_speed", "set_force"), {}, "command set_force: nobody listens to it"),
        (
            ("type: std_msgs/msg/Float64MultiArray", "type: sensor_msgs/msg/JointState"),
            {},
            "takes",
        ),
        (None, {"master": True}, "/site3/listener sends it too"),
    ],
)
def test_what_differs_from_the_robot_that_runs_is_told(tmp_path, change, lift, problem):
    text = LIFT.replace(*change) if change else LIFT
    if change and "Imu" in change:
        text = text.replace("joint: lift, field: position", "field: angular_velocity.z")
    if change and "JointState" in change[1]:
        text = text.replace("{name: speed,", "{name: speed, joint: lift, field: velocity,")
    result = check_live(tmp_path / "lift.yaml", text, **lift)
    assert result.exit_code == 1, result.output
    told = [line for line in result.stdout.splitlines() if line.startswith("problem: ")]
    assert any(problem in line for line in told), told


def test_travel_without_an_end_is_warned_of(tmp_path):
    path = tmp_path / "lift.yaml"
    path.write_text(LIFT.replace(", safe_range: [0.0, 2.0]", ""), "utf-8")
    assert "state 'height' has neither limits nor a safe_range" in mbrl("check", path).stdout
