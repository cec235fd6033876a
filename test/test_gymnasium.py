# Copyright 2026 The mbrl_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Gymnasium's environments as robots."""

import sys

import pytest
import yaml

from mbrl_ros.robots import RobotError, load_robot
from mbrl_ros.sim.plant import make_plant

gymnasium = pytest.importorskip("gymnasium")


def test_a_robot_is_made_from_an_environments_spaces():
    robot = load_robot("gym/HalfCheetah-v5")
    assert (robot.name, robot.control_rate) == ("halfcheetah_v5", 20.0)
    assert (len(robot.state), len(robot.command.dimensions)) == (17, 6)
    assert robot.command.dimensions[0].bounds == (-1.0, 1.0)
    assert [dimension.key for dimension in robot.state] == [str(i) for i in range(17)]
    assert (robot.reward, robot.cost.reward, robot.goal) == ("reward", 1.0, ())


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("CartPole-v1", "observation space Box.*expected Discrete.*or a flat Box for both"),
        ("Nothing-v7", "'Nothing-v7' cannot be made: .*Nothing"),
    ],
)
def test_environments_that_cannot_be_robots_are_refused(name, reason):
    with pytest.raises(RobotError, match=reason):
        load_robot(f"gym/{name}")


def test_without_gymnasium_the_way_to_install_it_is_told(monkeypatch):
    for name in [*sys.modules]:
        if name.partition(".")[0] == "gymnasium":
            monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(RobotError, match=r"Pendulum-v1 needs Gymnasium, .* pip install"):
        load_robot("gym/Pendulum-v1")


def test_an_environment_steps_earns_and_ends():
    robot = load_robot("gym/Pendulum-v1")
    plant, environment = make_plant(robot, seed=3), gymnasium.make("Pendulum-v1")
    expected, _ = environment.reset(seed=3)
    assert list(plant.readings()["observation"].values()) == expected.tolist()
    for step in range(200):
        assert not plant.ended
        plant.step([0.5], 1)
        expected, reward, _, ended, _ = environment.step([0.5])
        assert list(plant.readings()["observation"].values()) == expected.tolist()
        assert plant.reward == pytest.approx(float(reward))
        assert plant.ended == ended == (step == 199)
    plant.reset()
    assert not plant.ended


def test_the_control_rate_must_be_the_environments(tmp_path):
    data = {
        "name": "pendulum",
        "control_rate": 50.0,
        "sensors": {"observation": {"type": "std_msgs/msg/Float64MultiArray"}},
        "state": [{"name": "a", "sensor": "observation", "index": 0, "unit": "1"}],
        "command": {
            "topic": "commands",
            "type": "std_msgs/msg/Float64MultiArray",
            "dimensions": [{"name": "torque", "unit": "N m", "bounds": [-2.0, 2.0]}],
        },
        "reward": "reward",
        "cost": {"reward": 1.0},
        "simulation": {"plant": "gymnasium", "settings": {"environment": "Pendulum-v1"}},
    }
    path = tmp_path / "pendulum.yaml"
    path.write_text(yaml.safe_dump(data), "utf-8")
    with pytest.raises(RobotError, match="50 Hz, expected that of Pendulum-v1: 20 Hz"):
        make_plant(load_robot(str(path)))
