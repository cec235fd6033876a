# Copyright 2026 The mbrl_ros authors
# SPDX-License-Identifier: Apache-2.0
"""A ROS domain of its own for each test run, and what the tests share."""

import os
from pathlib import Path

import pytest
import torch
import yaml

from mbrl_ros.resources import config_directory
from mbrl_ros.robots import RobotSpec, load_robot

# Before rclpy is imported; child processes inherit them. Domains above 101 reach into the
# ephemeral ports.
os.environ["ROS_DOMAIN_ID"] = str(1 + os.getpid() % 100)
os.environ["ROS_AUTOMATIC_DISCOVERY_RANGE"] = "LOCALHOST"
os.environ.setdefault(
    "FASTDDS_DEFAULT_PROFILES_FILE", str(Path(__file__).with_name("discovery.xml"))
)
# What a killed process leaves in shared memory can cut off later ones, and tests kill many.
os.environ.setdefault("FASTDDS_BUILTIN_TRANSPORTS", "UDPv4")
# Small tensors gain nothing from a second thread, and wait for it on a busy machine.
torch.set_num_threads(1)


@pytest.fixture(scope="session")
def cartpole() -> RobotSpec:
    return load_robot("cartpole")


@pytest.fixture(scope="session")
def crane() -> RobotSpec:
    return load_robot(str(Path(__file__).parent / "own_robot" / "crane.yaml"))


@pytest.fixture
def cartpole_file(tmp_path: Path):
    """Return a function that writes the cart-pole's file with some entries changed."""

    def write(**changes: object) -> Path:
        path = config_directory() / "robots" / "cartpole.yaml"
        data = yaml.safe_load(path.read_text("utf-8"))
        for key, value in changes.items():
            target = data
            *parents, last = (int(k) if k.isdigit() else k for k in key.split("__"))
            for parent in parents:
                target = target[parent]
            if value is None:
                del target[last]
            else:
                target[last] = value
        changed = tmp_path / "robot.yaml"
        changed.write_text(yaml.safe_dump(data), "utf-8")
        return changed

    return write
