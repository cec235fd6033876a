# Copyright 2026 The mbrl_ros authors
# SPDX-License-Identifier: Apache-2.0
"""The simulated cart-pole."""

import math

import pytest

from mbrl_ros.robots import RobotError, load_robot
from mbrl_ros.sim.mujoco_plant import MujocoPlant


@pytest.fixture
def plant(cartpole):
    return MujocoPlant(cartpole)


def test_it_starts_hanging_and_stays_there(plant):
    plant.step([0.0], 1000)
    position, velocity, _ = plant.joint_state()
    assert plant.joint_names == ["cart_slider", "pole_hinge"]
    assert position == pytest.approx([0.0, math.pi], abs=1e-6)
    assert velocity == pytest.approx([0.0, 0.0], abs=1e-6)


def test_force_accelerates_its_mass(plant):
    """10 N on 1.1 kg, less friction; the pole swings back only later."""
    plant.step([10.0], 25)
    _, velocity, _ = plant.joint_state()
    assert velocity[0] == pytest.approx(10.0 / 1.1 * 0.05, rel=0.1)


def test_force_is_limited(plant):
    plant.step([1000.0], 25)
    limited = plant.joint_state()
    plant.reset()
    plant.step([10.0], 25)
    assert plant.joint_state()[:2] == limited[:2]


def test_the_rail_ends(plant):
    plant.step([10.0], 2000)
    assert plant.joint_state()[0][0] == pytest.approx(1.8, abs=0.05)


def test_the_pole_swings_at_its_own_rate(cartpole_file):
    """A uniform rod: small swings last 2 pi sqrt(2 l / 3 g)."""
    path = cartpole_file(simulation__initial_position={"pole_hinge": math.pi - 0.05})
    plant = MujocoPlant(load_robot(str(path)))
    crossings, before, held = [], -0.05, 0
    for step in range(2000):
        # Hold the cart with a stiff spring, so that only the pole swings.
        position, velocity, _ = plant.joint_state()
        plant.step([-200.0 * position[0] - 20.0 * velocity[0]], 1)
        angle = plant.joint_state()[0][1] - math.pi
        if before < 0.0 <= angle:
            crossings.append(step * plant.time_step)
        before, held = angle, max(held, abs(position[0]))
    period = (crossings[-1] - crossings[0]) / (len(crossings) - 1)
    assert period == pytest.approx(2.0 * math.pi * math.sqrt(2.0 / 3.0 / 9.81), rel=0.03)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"simulation": None}, "has no simulation: section"),
        ({"simulation__model": "missing.xml"}, "no file"),
        ({"simulation__initial_position": {"wheel": 0.0}}, "unknown joint 'wheel'"),
        ({"command__dimensions__0__name": "thrust", "cost__effort": {}}, "do not match"),
    ],
)
def test_plants_that_do_not_fit_the_robot_are_refused(cartpole_file, changes, reason):
    with pytest.raises(RobotError, match=reason):
        MujocoPlant(load_robot(str(cartpole_file(**changes))))


@pytest.fixture
def arm():
    return MujocoPlant(load_robot("arm2"))


def test_the_arm_stays_where_it_is(arm):
    """It moves in the horizontal plane, so that nothing pulls at it."""
    arm.step([0.0, 0.0], 1000)
    position, velocity, _ = arm.joint_state()
    assert arm.joint_names == ["shoulder", "elbow"]
    assert position == pytest.approx([0.0, 0.0], abs=1e-9)
    assert velocity == pytest.approx([0.0, 0.0], abs=1e-9)


@pytest.mark.parametrize("torque", [[3.0, 0.0], [0.0, 1.0], [2.0, -1.0]])
def test_torques_accelerate_the_arms_inertia(arm, torque):
    """Stretched out, less friction: the mass matrix of two uniform rods (Craig, section 6.7)."""
    (l1, m1, rotor1), (l2, m2, rotor2) = (0.5, 1.0, 0.02), (0.4, 0.6, 0.01)
    own = m2 * l2**2 / 3.0
    coupled = own + m2 * l1 * l2 / 2.0
    first = m1 * l1**2 / 3.0 + m2 * l1**2 + own + m2 * l1 * l2 + rotor1
    second = own + rotor2
    loss = [math.copysign(0.02, torque[0]), math.copysign(0.01, torque[1])]
    t1, t2 = (t - f if t else 0.0 for t, f in zip(torque, loss, strict=True))
    determinant = first * second - coupled**2
    expected = [
        (second * t1 - coupled * t2) / determinant,
        (first * t2 - coupled * t1) / determinant,
    ]
    arm.step(torque, 2)
    velocity = arm.joint_state()[1]
    assert velocity == pytest.approx([a * 2 * arm.time_step for a in expected], rel=0.1)


def test_the_arms_torques_are_limited(arm):
    arm.step([100.0, -100.0], 25)
    limited = arm.joint_state()
    arm.reset()
    arm.step([3.0, -1.0], 25)
    assert arm.joint_state()[:2] == limited[:2]


def test_the_elbow_ends_and_the_shoulder_does_not(arm):
    arm.step([0.0, 1.0], 2000)
    assert arm.joint_state()[0][1] == pytest.approx(2.6, abs=0.05)
    arm.reset()
    arm.step([3.0, 0.0], 3000)
    assert arm.joint_state()[0][0] > 2.0 * math.pi
