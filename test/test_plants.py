# Copyright 2026 The mbrl_ros authors
# SPDX-License-Identifier: Apache-2.0
"""The simulated robots: physics, sensors, changes of the world, and what they refuse."""

import math
from pathlib import Path

import pytest
import yaml

from mbrl_ros.resources import config_directory
from mbrl_ros.robots import RobotError, load_robot
from mbrl_ros.sim.plant import DISTURBANCES, make_plant

ROBOTS = ("arm2", "cartpole", "diff_drive", "quadrotor2d")


def changed(tmp_path: Path, robot: str, **changes: object) -> str:
    """Write the robot's file with some entries changed (`section__entry`); return its path."""
    data = yaml.safe_load((config_directory() / "robots" / f"{robot}.yaml").read_text("utf-8"))
    for key, value in changes.items():
        *parents, last = key.split("__")
        target = data
        for parent in parents:
            target = target[parent]
        target[last] = value
    path = tmp_path / "robot.yaml"
    path.write_text(yaml.safe_dump(data), "utf-8")
    return str(path)


def read(plant, topic, *keys):
    reading = plant.readings()[topic]
    return [reading[key] for key in keys]


# -- all of them -----------------------------------------------------------------------------


@pytest.mark.parametrize("name", ROBOTS)
def test_sensors_read_all_that_the_robot_needs(name):
    robot = load_robot(name)
    readings = make_plant(robot).readings()
    for dimension in robot.state:
        if dimension.sensor is not None:
            assert math.isfinite(readings[dimension.sensor][dimension.key])


@pytest.mark.parametrize("name", ROBOTS)
def test_the_same_commands_lead_to_the_same_place_and_reset_undoes_them(name):
    robot = load_robot(name)
    plant = make_plant(robot)
    start = plant.readings()

    def drive():
        for low, high in [(0.2, 0.8), (0.9, 0.4)]:
            plant.step(
                [
                    d.bounds[0] + share * (d.bounds[1] - d.bounds[0])
                    for d, share in zip(robot.command.dimensions, (low, high), strict=False)
                ],
                100,
            )
        return plant.readings()

    first = drive()
    assert first != start
    plant.reset()
    assert plant.readings() == start
    assert drive() == first


@pytest.mark.parametrize("name", ROBOTS)
def test_every_change_of_the_world_changes_what_happens(name):
    """From rest, with all motors on; on the patch, where there is one."""
    robot = load_robot(name)
    limits = {d.name: d for d in DISTURBANCES}

    def end(change=None):
        plant = make_plant(robot)
        if change:
            plant.disturb(change, 0.9 if change == "slippery_patch" else limits[change].most / 50)
        plant.step([d.bounds[1] for d in robot.command.dimensions], 400)
        return plant.readings()

    undisturbed = end()
    for change in make_plant(robot).disturbances:
        if change != "slippery_patch":
            assert end(change) != undisturbed, change


@pytest.mark.parametrize("name", ROBOTS)
def test_an_undone_change_leaves_no_trace(name):
    robot = load_robot(name)
    plant, untouched = make_plant(robot), make_plant(robot)
    for change in plant.disturbances:
        known = next(d for d in DISTURBANCES if d.name == change)
        plant.disturb(change, 0.7)
        plant.disturb(change, known.default)
    for each in (plant, untouched):
        each.reset()
        each.step([d.bounds[1] for d in robot.command.dimensions], 100)
    for topic, reading in untouched.readings().items():
        assert plant.readings()[topic] == pytest.approx(reading, abs=1e-12)


@pytest.mark.parametrize(
    ("robot", "name", "value", "reason"),
    [
        ("cartpole", "slippery_patch", 0.5, "no 'slippery_patch' in this robot's world; there is"),
        ("cartpole", "gravity", 1.0, "no 'gravity' in"),
        ("cartpole", "mass", 0.0, "mass is 0.0, expected 0.01 to 100"),
        ("diff_drive", "slippery_patch", 1.5, "slippery_patch is 1.5, expected 0 to 1"),
        ("quadrotor2d", "wind", math.nan, "wind is nan, expected -1000 to 1000"),
    ],
)
def test_changes_that_cannot_be_are_refused(robot, name, value, reason):
    plant = make_plant(load_robot(robot))
    with pytest.raises(ValueError, match=reason):
        plant.disturb(name, value)


@pytest.mark.parametrize(
    ("robot", "changes", "reason"),
    [
        ("diff_drive", {"simulation__plant": "hovercraft"}, "unknown plant 'hovercraft'"),
        ("diff_drive", {"simulation__settings": {"colour": 1}}, "do not suit plant 'diff_drive'"),
        (
            "diff_drive",
            {"simulation__settings": {"mass": -1.0}},
            "mass is -1.0, expected",
        ),
        ("diff_drive", {"simulation__initial_position": {"z": 1.0}}, "unknown coordinate 'z'"),
        ("quadrotor2d", {"simulation__plant": "diff_drive"}, "do not match what the plant is"),
        ("cartpole", {"simulation__model": None}, "needs an MJCF file"),
    ],
)
def test_simulations_that_cannot_be_are_refused(tmp_path, robot, changes, reason):
    with pytest.raises(RobotError, match=reason):
        make_plant(load_robot(changed(tmp_path, robot, **changes)))


def test_a_sensor_that_a_plant_does_not_have_is_refused(tmp_path):
    sensors = {"odom": {"type": "sensor_msgs/msg/JointState"}}
    state = [
        {"name": n, "sensor": "odom", "joint": n, "field": "position", "unit": "m"}
        for n in ("x", "z", "pitch", "forward", "upward", "pitch_rate")
    ]
    path = changed(tmp_path, "quadrotor2d", sensors=sensors, state=state)
    with pytest.raises(RobotError, match="'odom' is of type sensor_msgs/msg/JointState, which"):
        make_plant(load_robot(path))


# -- MuJoCo ----------------------------------------------------------------------------------


def test_a_payload_is_a_point_mass_at_the_end_of_the_arm():
    """Its inertia about the shoulder adds to that of the stretched arm."""
    arm = make_plant(load_robot("arm2"))

    def acceleration():
        arm.reset()
        arm.step([3.0, 0.0], 1)
        return read(arm, "joint_states", "velocity/shoulder", "velocity/elbow")

    def expected(payload):
        m2, l1, l2 = 0.6, 0.5, 0.4
        own = m2 * l2**2 / 3.0 + payload * l2**2
        coupled = own + m2 * l1 * l2 / 2.0 + payload * l1 * l2
        first = l1**2 / 3.0 + (m2 + payload) * l1**2 + 2.0 * coupled - own + 0.02
        second = own + 0.01
        determinant = first * second - coupled**2
        return [second * (3.0 - 0.02) / determinant, -coupled * (3.0 - 0.02) / determinant]

    light = acceleration()
    arm.disturb("payload", 0.5)
    heavy = acceleration()
    for found, wanted in zip(heavy, expected(0.5), strict=True):
        assert found / arm.time_step == pytest.approx(wanted, rel=0.15)
    assert heavy[0] / light[0] == pytest.approx(expected(0.5)[0] / expected(0.0)[0], rel=0.1)


def test_twice_the_mass_and_twice_the_force_move_alike(cartpole):
    """With all friction doubled as well."""
    plain, doubled = make_plant(cartpole), make_plant(cartpole)
    for name in ("mass", "friction", "motor_gain"):
        doubled.disturb(name, 2.0)
    for plant in (plain, doubled):
        plant.step([4.0], 300)
    assert doubled.joint_state()[0] == pytest.approx(plain.joint_state()[0], abs=1e-3)


def test_reversed_motors_pull_the_other_way(cartpole):
    plant = make_plant(cartpole)
    plant.disturb("motor_gain", -0.5)
    plant.step([10.0], 25)
    assert plant.joint_state()[1][0] == pytest.approx(-5.0 / 1.1 * 0.05, rel=0.1)


def test_wind_outlasts_a_reset(cartpole):
    plant = make_plant(cartpole)
    plant.disturb("wind", 1.0)
    plant.reset()
    plant.step([0.0], 100)
    pushed = plant.joint_state()[0]
    assert pushed[1] != pytest.approx(math.pi, abs=0.01)


def test_a_model_may_lie_beside_the_robots_file(tmp_path):
    (tmp_path / "mine.xml").write_text(
        '<mujoco><worldbody><body name="block"><joint name="rail" type="slide" axis="1 0 0"/>'
        '<geom size="0.1" mass="2"/></body></worldbody>'
        '<actuator><motor name="cart_force" joint="rail"/></actuator>'
        '<sensor><jointpos joint="rail"/><jointvel joint="rail"/></sensor></mujoco>',
        "utf-8",
    )
    state = [
        {"name": "place", "sensor": "encoders", "index": 0, "unit": "m"},
        {"name": "speed", "sensor": "encoders", "index": 1, "unit": "m/s"},
    ]
    path = changed(
        tmp_path,
        "cartpole",
        sensors={"encoders": {"type": "std_msgs/msg/Float64MultiArray"}},
        state=state,
        goal=[{"dimension": "place", "bounds": [-1.0, 1.0], "tolerance": 0.1}],
        cost={"goal": {"place": 1.0}},
        success={"dimension": "place", "tolerance": 0.1, "hold": 1.0},
        simulation={"model": "mine.xml"},
    )
    plant = make_plant(load_robot(path))
    plant.step([4.0], 50)
    assert plant.readings()["encoders"]["1"] == pytest.approx(
        4.0 / 2.0 * 50 * plant.time_step, rel=0.03
    )
    with pytest.raises(ValueError, match="payload"):
        plant.disturb("payload", 1.0)


# -- differential drive ----------------------------------------------------------------------


@pytest.fixture
def drive():
    return make_plant(load_robot("diff_drive"))


def test_it_drives_straight_at_the_speed_that_it_is_told(drive):
    drive.step([0.8, 0.0], 400)
    x, y, yaw, speed = read(
        drive, "odom", "position.x", "position.y", "orientation.yaw", "linear_velocity.x"
    )
    assert speed == pytest.approx(0.8, rel=0.02)  # less what rolling costs in slip
    assert 1.0 < x < 1.6
    assert (y, yaw) == (0.0, 0.0)


def test_it_turns_left_on_the_spot(drive):
    drive.step([0.0, 1.0], 400)
    x, y, yaw = read(drive, "odom", "position.x", "position.y", "orientation.yaw")
    (rate,) = read(drive, "imu", "angular_velocity.z")
    assert rate == pytest.approx(1.0, rel=0.05)
    assert 1.5 < yaw < 2.0
    assert math.hypot(x, y) < 1e-9


def test_it_drives_a_circle_of_the_right_radius(drive):
    drive.step([0.5, 0.5], 200)
    points = []
    for _ in range(3):
        drive.step([0.5, 0.5], 500)
        points.append(read(drive, "odom", "position.x", "position.y"))
    (ax, ay), (bx, by), (cx, cy) = points
    sides = [math.dist(*pair) for pair in ((points[0], points[1]), (points[1], points[2]))]
    area = abs((bx - ax) * (cy - ay) - (cx - ax) * (by - ay)) / 2.0
    radius = sides[0] * sides[1] * math.dist(points[2], points[0]) / (4.0 * area)
    assert radius == pytest.approx(1.0, rel=0.05)


def test_the_wheels_never_pull_harder_than_their_grip(drive):
    drive.step([1.0, 0.0], 1)
    fastest = 0.0
    for _ in range(200):
        drive.step([1.0, 0.0], 1)
        fastest = max(fastest, *read(drive, "imu", "linear_acceleration.x"))
    assert 2.0 < fastest <= 0.6 * 9.81


def test_it_cannot_brake_on_a_slippery_patch(tmp_path):
    """Sliding at the grip that is left, v^2 = 2 mu g s."""
    settings = {"patch_center": [0.0, 0.0], "patch_radius": 100.0}
    robot = load_robot(changed(tmp_path, "diff_drive", simulation__settings=settings))
    distances = {}
    for loss in (0.0, 0.9):
        plant = make_plant(robot)
        plant.step([1.0, 0.0], 1000)
        plant.disturb("slippery_patch", loss)
        (start, speed) = read(plant, "odom", "position.x", "linear_velocity.x")
        plant.step([0.0, 0.0], 2000)
        (end, stopped) = read(plant, "odom", "position.x", "linear_velocity.x")
        assert stopped == pytest.approx(0.0, abs=1e-2)
        distances[loss] = end - start
    assert distances[0.9] > 2.0 * distances[0.0]
    grip = 0.6 * 0.1 * 9.81
    assert distances[0.9] == pytest.approx(speed**2 / (2.0 * grip), rel=0.3)


def test_the_patch_is_slippery_only_where_it_lies(drive):
    """Its centre is 2.6 m ahead, its radius 0.6 m."""
    drive.disturb("slippery_patch", 0.95)
    dry = make_plant(load_robot("diff_drive"))
    for plant in (drive, dry):
        plant.step([1.0, 0.0], 400)
    assert not drive.on_patch
    assert drive.readings() == dry.readings()
    for plant in (drive, dry):
        plant.step([1.0, 0.0], 60)
        plant.step([0.0, 0.0], 40)
    assert drive.on_patch
    (slippery,), (firm,) = (read(plant, "odom", "linear_velocity.x") for plant in (drive, dry))
    assert slippery > firm + 0.3


def test_wind_from_the_side_does_not_move_it(tmp_path):
    robot = load_robot(
        changed(tmp_path, "diff_drive", simulation__initial_position={"yaw": math.pi / 2.0})
    )
    plant = make_plant(robot)
    plant.disturb("wind", 20.0)
    plant.step([0.0, 0.0], 400)
    assert math.hypot(*read(plant, "odom", "position.x", "position.y")) < 1e-6


# -- quadrotor -------------------------------------------------------------------------------


@pytest.fixture
def quadrotor():
    return make_plant(load_robot("quadrotor2d"))


def test_it_falls_until_the_ground_stops_it(quadrotor):
    quadrotor.step([0.0, 0.0], 20)
    (height, sinking) = read(quadrotor, "odom", "position.z", "linear_velocity.z")
    assert sinking == pytest.approx(-9.81 * 0.1, rel=0.05)
    assert height == pytest.approx(3.0 - 0.5 * 9.81 * 0.1**2, abs=0.01)
    quadrotor.step([0.0, 1.0], 1000)
    reading = quadrotor.readings()["odom"]
    assert all(reading[key] == 0.0 for key in reading if key != "position.x")


def test_its_weight_in_thrust_holds_it(quadrotor):
    quadrotor.step([9.81, 0.0], 400)
    before = read(quadrotor, "odom", "linear_velocity.z")[0]
    quadrotor.step([9.81, 0.0], 1000)
    after = read(quadrotor, "odom", "linear_velocity.z")[0]
    assert abs(after) < abs(before) < 0.5  # what it fell with while motors started, and drag


def test_nose_down_is_forward(quadrotor):
    quadrotor.step([11.0, 0.5], 100)
    pitch, x = read(quadrotor, "odom", "orientation.pitch", "position.x")
    assert pitch > 0.1
    assert x > 0.01


def test_a_payload_must_be_carried(quadrotor):
    quadrotor.disturb("payload", 0.2)
    quadrotor.step([9.81, 0.0], 200)
    light = make_plant(load_robot("quadrotor2d"))
    light.step([9.81, 0.0], 200)
    heights = [read(plant, "odom", "position.z")[0] for plant in (quadrotor, light)]
    assert heights[0] < heights[1] - 0.3
