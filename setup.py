# Copyright 2026 The mbrl_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Build script of the package, for colcon (ament_python) and for pip."""

import re
from glob import glob
from pathlib import Path

from setuptools import find_packages, setup

PACKAGE = "mbrl_ros"
SHARE = f"share/{PACKAGE}"

NODES = (
    "command_guard",
    "dynamics_learner",
    "mpc_planner",
    "policy_controller",
    "policy_learner",
    "run_monitor",
    "simulator",
    "state_estimator",
)


def version() -> str:
    """Return the version that the package states, without importing it: torch may be missing."""
    text = Path(PACKAGE, "__init__.py").read_text(encoding="utf-8")
    match = re.search(r'^__version__ = "([^"]+)"$', text, re.MULTILINE)
    if match is None:
        raise RuntimeError(f"{PACKAGE}/__init__.py states no __version__")
    return match.group(1)


setup(
    name=PACKAGE,
    # package.xml and CHANGELOG.rst state it too; test/test_package.py compares them.
    version=version(),
    description="Model-based reinforcement learning with model-predictive control for ROS 2",
    author="The mbrl_ros authors",
    maintainer="The mbrl_ros authors",
    maintainer_email="maintainers@mbrl-ros.invalid",
    license="Apache-2.0",
    license_files=["LICENSE"],
    packages=find_packages(include=[PACKAGE, f"{PACKAGE}.*"]),
    package_data={PACKAGE: ["py.typed", "sim/models/*.xml"]},
    data_files=[
        ("share/ament_index/resource_index/packages", [f"resource/{PACKAGE}"]),
        (SHARE, ["package.xml"]),
        (f"{SHARE}/launch", sorted(glob("launch/*.launch.py"))),
        (f"{SHARE}/config", sorted(glob("config/*.yaml") + glob("config/*.json"))),
        (f"{SHARE}/config/robots", sorted(glob("config/robots/*.yaml"))),
        (f"{SHARE}/config/tuning", sorted(glob("config/tuning/*.yaml"))),
    ],
    zip_safe=False,
    python_requires=">=3.11",
    install_requires=[
        "matplotlib",
        "numpy",
        "pydantic>=2",
        "pyyaml",
        "rich",
        "rosbags",
        "safetensors",
        "scipy",
        "torch",
        "typer",
    ],
    extras_require={
        # For a machine without ROS 2: rclpy, its middleware and the standard messages as wheels.
        "ros": ["ros-common-interfaces", "ros-rclpy", "ros-rmw-fastrtps-cpp"],
        "sim": ["mujoco"],
        "gym": ["gymnasium[mujoco]", "mujoco"],  # robot:=gym/ENVIRONMENT_ID
        # What `mbrl bench model` compares with, but for mbrl-lib itself, whose pins are too old;
        # docs/benchmarks.md says how to install that.
        "bench": [
            "gpytorch",
            "gymnasium[mujoco]",
            "hydra-core",
            "mujoco",
            "omegaconf",
            "termcolor",
            "tqdm",
        ],
        "test": [
            "colcon-bash",
            "colcon-ros",
            "mcap",
            "mypy",
            "pytest",
            "pytest-timeout",
            "ruff",
            "types-PyYAML",
        ],
    },
    entry_points={
        "console_scripts": [
            f"mbrl = {PACKAGE}.cli:main",
            *(f"{node} = {PACKAGE}.nodes.{node}:main" for node in NODES),
        ],
    },
)
