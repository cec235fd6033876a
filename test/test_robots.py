# Copyright 2026 The mbrl_ros authors
# SPDX-License-Identifier: Apache-2.0
"""The robot description: what is accepted, and what is said of what is not."""

import math
import re

import pytest

from mbrl_ros.robots import RobotError, load_robot, robot_names

# In place of the velocity that the cart-pole's encoder measures.
DERIVATIVE = {"name": "cart_velocity", "derivative_of": "cart_position", "unit": "m/s"}


def test_shipped_robots_load():
    assert "cartpole" in robot_names()
    for name in robot_names():
        robot = load_robot(name)
        assert robot.name == name
        assert robot.check_goal(robot.goal_default) is None


def test_a_path_loads_like_a_name(cartpole_file, cartpole):
    assert load_robot(str(cartpole_file())) == cartpole


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"control_rate": 0.0}, r"control_rate.*greater than 0.*found 0\.0"),
        ({"control_rate": "fast"}, r"control_rate.*found 'fast'"),
        ({"colour": "red"}, r"colour"),
        ({"state__0__joint": None}, r"'cart_position': sensor_msgs/msg/JointState needs joint"),
        ({"state__0__sensor": "odometry"}, r"unknown name 'odometry'.*joint_states"),
        ({"state__1__name": "cart_position"}, r"'cart_position' is used twice"),
        ({"state__1__angle": True}, r"angle: true needs field: position, not velocity"),
        ({"state__0__limits": [1.0, -1.0]}, r"limits: bounds \[1\.0, -1\.0\] are not increasing"),
        ({"command__dimensions__0__bounds": [10.0, -10.0]}, r"'cart_force': bounds"),
        ({"command__dimensions__0__safe": 11.0}, r"safe value 11\.0 lies outside"),
        ({"command__dimensions__0__slew": -1.0}, r"slew"),
        ({"goal__0__default": 5.0}, r"default 5\.0 lies outside"),
        ({"goal__0__dimension": "height"}, r"unknown name 'height'.*cart_position"),
        ({"cost__goal": {"cart_position": -1.0}}, r"cost\.goal\.cart_position"),
        ({"cost__effort": {"torque": 1.0}}, r"cost\.effort: unknown name 'torque'.*cart_force"),
        ({"success__tolerance": math.nan}, r"success\.tolerance"),
        (
            {"command__topic": "action"},
            r"command\.topic: 'action' is a topic of this package's own",
        ),
        ({"command__topic": "/state"}, r"command\.topic: '/state' is a topic of this package's"),
        ({"reward": "goal"}, "reward: 'goal' is a topic of this package's own"),
        ({"command__topic": "joint_states"}, "'joint_states' stands under sensors already"),
        ({"reward": "joint_states"}, "reward: 'joint_states' stands under sensors already"),
        (
            {"state__1__field": "position"},
            "'cart_velocity': reads what 'cart_position' reads of joint_states",
        ),
        ({"control_rate": True}, r"control_rate: true is no number"),
        ({"state__0__limit": [0, 1]}, r"0 \(cart_position\)\.limit: there is no .* mean limits\?"),
        ({"cost__goals": {}}, r"cost\.goals: there is no such entry; did you mean goal\?"),
        ({"horizon": 3}, "horizon: there is no such entry; expected one of name, control_rate"),
        ({"state": []}, "state: is empty, expected at least one entry"),
        ({"state__0__limits": [1.0]}, r"limits\.1: is missing"),
        ({"sensors": "joint_states"}, "sensors: expected a mapping"),
        ({"goal": []}, "unknown name .*; there is none to name"),
        ({"success": {"hold": 1.0, "tolerance": 0.1}}, "tolerance is alone; expected dimension"),
        ({"success": {"hold": 1.0, "dimension": "pole_angle"}}, "dimension is alone"),
        ({"success__dimension": "cart_velocity"}, r"unknown name 'cart_velocity'"),
        (
            {"goal": [], "cost": {"state": {"pole_angle": 1.0}}, "success": {"hold": 1.0}},
            "no `goal`",
        ),
        ({"command__topic": "effort commands"}, r"command\.topic.*found 'effort commands'"),
        ({"name": "Cart Pole"}, r"name.*found 'Cart Pole'"),
        ({"state__0__safe_range": [1.0, 1.0]}, r"safe_range: bounds .* are not increasing"),
        ({"state__0__safe_range": [1.8, 2.0]}, "have nothing in common"),
        ({"state__0__index": 0}, r"'cart_position': sensor_msgs/msg/JointState has no index"),
        ({"state__0__field": "position.x"}, r"unknown name 'position\.x'.*position, velocity"),
        ({"state__0__sensor": None}, r"'cart_position': expected sensor: TOPIC, or derivative"),
        ({"state__1__derivative_of": "cart_position"}, r"derivative_of and sensor exclude"),
        ({"state__1": DERIVATIVE | {"derivative_of": "height"}}, r"unknown name 'height'"),
        ({"state__1": DERIVATIVE | {"derivative_of": "cart_velocity"}}, r"unknown name 'cart_v"),
        ({"state__1": DERIVATIVE | {"angle": True}}, r"a derivative does not wrap"),
        ({"state__0__time_constant": 0.1}, r"time_constant needs derivative_of"),
        ({"sensors__odom": {"type": "nav_msgs/msg/Odometry"}}, r"no state dimension reads 'odom'"),
        ({"sensors__joint_states__type": "sensor_msgs/msg/Image"}, r"found 'sensor_msgs/msg/Im"),
        ({"sensors__joint_states__type": "sensor_msgs/msg/Imu"}, r"field of sensor_msgs/msg/Imu"),
        ({"sensors__joint_states__align": "guess"}, r"align.*'interpolate', 'latest' or 'predict"),
        ({"command__dimensions__0__jerk": 0.0}, r"jerk"),
        ({"command__dimensions__0__field": "linear.x"}, r"Float64MultiArray has no field"),
        ({"command__type": "geometry_msgs/msg/Twist"}, r"geometry_msgs/msg/Twist needs field:"),
        ({"command__type": "sensor_msgs/msg/JointState"}, r"JointState needs field:"),
        ({"delay": -0.1}, r"delay.*greater than or equal to 0"),
        ({"planar": {"x": "cart_position", "y": "height"}}, r"planar: unknown name 'height'"),
        ({"goal": [], "cost": {}, "success": None}, r"nothing to pursue"),
        ({"goal": [], "cost": {"reward": 1.0}, "success": None}, r"needs `reward`"),
    ],
)
def test_bad_files_are_refused_by_name(cartpole_file, changes, expected):
    path = cartpole_file(**changes)
    with pytest.raises(RobotError) as refusal:
        load_robot(str(path))
    assert str(path) in str(refusal.value)
    assert re.search(expected, str(refusal.value), re.DOTALL), refusal.value


def test_unreadable_files_are_refused(tmp_path):
    with pytest.raises(RobotError, match=r"unknown robot 'hexapod'; expected one of .*cartpole"):
        load_robot("hexapod")
    with pytest.raises(RobotError, match=r"missing\.yaml: cannot be read"):
        load_robot(str(tmp_path / "missing.yaml"))
    broken = tmp_path / "broken.yaml"
    broken.write_text("name: [", "utf-8")
    with pytest.raises(RobotError, match="not valid YAML"):
        load_robot(str(broken))
    broken.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(RobotError, match=r"broken\.yaml"):
        load_robot(str(broken))
    broken.write_text("!!python/object/apply:os.system ['touch /tmp/owned']", "utf-8")
    with pytest.raises(RobotError, match="not valid YAML"):
        load_robot(str(broken))
    broken.write_text("- a list", "utf-8")
    with pytest.raises(RobotError, match="expected a mapping, found a list"):
        load_robot(str(broken))


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "expected a mapping, found nothing: the file is empty"),
        ("# only a remark", "the file is empty"),
        ("name: one\nname: two\n", "not valid YAML: 'name' is said twice, first in line 1"),
        ("cost: {goal: {x: 1.0, x: 2.0}}\n", "'x' is said twice"),
        ("name: 2020-99-99\n", "not valid YAML: month must be in"),
        ("? [a]\n: 1\n", "found unhashable key"),
        ("[" * 3000, "not valid YAML: nested too deeply"),
    ],
)
def test_files_that_are_no_mapping_are_refused_in_words(tmp_path, text, problem):
    path = tmp_path / "robot.yaml"
    path.write_text(text, "utf-8")
    with pytest.raises(RobotError, match=problem):
        load_robot(str(path))


def test_a_file_in_another_encoding_says_where(tmp_path):
    path = tmp_path / "robot.yaml"
    path.write_bytes("name: crane\ndescription: für\n".encode("latin-1"))
    with pytest.raises(RobotError, match=r"line 2 is no UTF-8 text .*; save the file as UTF-8"):
        load_robot(str(path))


def test_a_sensor_needs_the_name_of_a_topic(tmp_path, cartpole_file):
    text = cartpole_file().read_text("utf-8").replace("joint_states", "joint states")
    path = tmp_path / "robot.yaml"
    path.write_text(text, "utf-8")
    with pytest.raises(
        RobotError, match=r"sensors.*expected the name of a topic, such as imu/data"
    ):
        load_robot(str(path))


def test_only_true_and_false_are_truth(tmp_path, cartpole_file):
    text = cartpole_file().read_text("utf-8")
    path = tmp_path / "robot.yaml"
    path.write_text(text.replace("safe: 0.0", "safe: no"), "utf-8")
    assert "safe: no" in path.read_text("utf-8")
    with pytest.raises(RobotError, match=r"safe: expected a number \(found 'no'\)"):
        load_robot(str(path))


def test_a_file_may_share_parts_by_anchors(tmp_path, cartpole_file):
    text = cartpole_file().read_text("utf-8")
    path = tmp_path / "robot.yaml"
    path.write_text(text.replace("description:", "description: &words", 1), "utf-8")
    assert load_robot(str(path)).description == load_robot(str(cartpole_file())).description


def test_keys_say_where_a_value_stands(cartpole_file):
    robot = load_robot(str(cartpole_file(state__1=DERIVATIVE)))
    assert [d.key for d in robot.state] == [
        "position/cart_slider",
        "",
        "position/pole_hinge",
        "velocity/pole_hinge",
    ]


def test_a_robot_may_have_a_reward_in_place_of_a_goal(cartpole_file):
    changes = {"goal": [], "cost": {"reward": 1.0}, "reward": "reward", "success": None}
    robot = load_robot(str(cartpole_file(**changes)))
    assert robot.goal_default == []
    assert robot.check_goal([]) is None
    assert robot.check_goal([0.0]) == "goal has 1 values, expected 0: []"
    assert not robot.succeeds([0.0] * 4, [])


@pytest.mark.parametrize(
    ("goal", "problem"),
    [
        ([0.5, 0.0], None),
        ([0.5], "goal has 1 values, expected 2: [cart_position, pole_angle]"),
        ([1.5, 0.0], "goal cart_position = 1.5 is outside [-1.2, 1.2]"),
        ([math.nan, 0.0], "goal cart_position = nan is outside [-1.2, 1.2]"),
        ([0.0, math.inf], "goal pole_angle = inf is outside [-3.1416, 3.1416]"),
    ],
)
def test_goals_are_checked(cartpole, goal, problem):
    assert cartpole.check_goal(goal) == problem


def test_success_goes_the_shorter_way_round(cartpole):
    goal = [0.0, math.pi]
    assert cartpole.succeeds([9.0, 0.0, 0.19 - math.pi, 0.0], goal)  # wherever the cart is
    assert not cartpole.succeeds([0.0, 0.0, 0.21 - math.pi, 0.0], goal)


def test_success_is_all_of_the_goal_unless_a_dimension_is_named(cartpole_file):
    robot = load_robot(str(cartpole_file(success={"hold": 1.0})))
    assert robot.succeeds([0.14, 0.0, 0.19, 0.0], [0.0, 0.0])
    assert not robot.succeeds([0.16, 0.0, 0.0, 0.0], [0.0, 0.0])
    assert not robot.succeeds([0.0, 0.0, 0.21, 0.0], [0.0, 0.0])


def test_limits(cartpole):
    assert cartpole.within_limits([1.79, 0.0, 9.0, 0.0])
    assert not cartpole.within_limits([1.81, 0.0, 0.0, 0.0])


def test_goals_change_by_name(cartpole):
    assert cartpole.changed_goal([0.1, 0.2], ["pole_angle"], [0.3]) == [0.1, 0.3]
    for names, values, reason in (
        (["height"], [1.0], "unknown name 'height'; expected one of cart_position, pole_angle"),
        (["pole_angle"], [], "1 names with 0 values"),
        ([], [], "0 names"),
        (["cart_position"], [5.0], r"cart_position = 5.0 is outside \[-1.2, 1.2\]"),
    ):
        with pytest.raises(ValueError, match=reason):
            cartpole.changed_goal([0.0, 0.0], names, values)
