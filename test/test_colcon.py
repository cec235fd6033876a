# Copyright 2026 The mbrl_ros authors
# SPDX-License-Identifier: Apache-2.0
"""`colcon build` of a copy of the checkout gives an install space that works by itself.

These are the slowest tests without a robot; `-m "not colcon"` leaves them out.
"""

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).resolve().parent.parent
EXECUTABLES = (
    "command_guard",
    "dynamics_learner",
    "mbrl",
    "mpc_planner",
    "policy_controller",
    "policy_learner",
    "run_monitor",
    "simulator",
    "state_estimator",
)
# Of the environment in which the tests run, nothing may help the install space to work.
BARE = {"PATH": "/usr/bin:/bin", "LANG": "C.UTF-8", "ROS_AUTOMATIC_DISCOVERY_RANGE": "LOCALHOST"}
NOT_SOURCE = (".*", "__pycache__", "build", "install", "log", "*.egg-info")


def find_colcon() -> str | None:
    """Return the colcon beside this Python, or else the one of the system."""
    beside = Path(sys.executable).with_name("colcon")
    return str(beside) if beside.exists() else shutil.which("colcon")


COLCON = find_colcon()

pytestmark = [
    pytest.mark.colcon,
    pytest.mark.skipif(COLCON is None, reason="colcon is not installed"),
]


@dataclass(frozen=True)
class Workspace:
    root: Path

    @property
    def prefix(self) -> Path:
        return self.root / "install" / "mbrl_ros"

    @property
    def share(self) -> Path:
        return self.prefix / "share" / "mbrl_ros"

    def run(self, *command: str) -> subprocess.CompletedProcess[str]:
        """Run a command as in a new terminal where only this workspace was sourced."""
        return subprocess.run(
            ["/bin/bash", "-c", '. install/local_setup.bash && exec "$@"', "bash", *command],
            cwd=self.root,
            env=BARE | {"HOME": str(self.root)},
            capture_output=True,
            text=True,
            timeout=60,
        )


def copy_source(destination: Path) -> None:
    """Copy what git would take, or, outside a git checkout, what is no build output."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=CHECKOUT,
        capture_output=True,
        text=True,
    )
    if listed.returncode != 0:
        shutil.copytree(CHECKOUT, destination, ignore=shutil.ignore_patterns(*NOT_SOURCE))
        return
    for name in filter(None, listed.stdout.split("\0")):
        source = CHECKOUT / name
        if source.is_file():  # a file that was removed is still listed until it is committed
            target = destination / name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source, target)


def build(root: Path, *options: str) -> Workspace:
    copy_source(root / "src" / "mbrl_ros")
    environment = {
        name: value
        for name, value in os.environ.items()
        if name not in ("AMENT_PREFIX_PATH", "COLCON_PREFIX_PATH", "PYTHONPATH")
    }
    # A build that wanted a download would fail here.
    environment |= {"PIP_NO_INDEX": "1", "COLCON_HOME": str(root / "colcon")}
    result = subprocess.run(
        [COLCON, "build", "--event-handlers", "console_direct+", *options],
        cwd=root,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=120,
    )
    assert result.returncode == 0, result.stdout
    return Workspace(root)


@pytest.fixture(scope="module")
def plain(tmp_path_factory) -> Workspace:
    workspace = build(tmp_path_factory.mktemp("plain"))
    # What is left must do without them.
    shutil.rmtree(workspace.root / "src")
    shutil.rmtree(workspace.root / "build")
    return workspace


@pytest.fixture(scope="module")
def linked(tmp_path_factory) -> Workspace:
    return build(tmp_path_factory.mktemp("linked"), "--symlink-install")


@pytest.fixture(params=["plain", "linked"])
def workspace(request) -> Workspace:
    return request.getfixturevalue(request.param)


def test_install_space_is_complete(workspace):
    executables = workspace.prefix / "lib" / "mbrl_ros"
    assert {path.name for path in executables.iterdir()} == set(EXECUTABLES)
    assert all(os.access(path, os.X_OK) for path in executables.iterdir())
    index = workspace.prefix / "share" / "ament_index" / "resource_index" / "packages"
    assert (index / "mbrl_ros").is_file()
    assert (workspace.share / "package.xml").is_file()
    assert (workspace.share / "launch" / "mpc.launch.py").is_file()
    for source in (CHECKOUT / "config").rglob("*.yaml"):
        installed = workspace.share / source.relative_to(CHECKOUT)
        assert installed.read_bytes() == source.read_bytes()
    assert (workspace.share / "config" / "robots" / "cartpole.yaml").is_file()
    assert (workspace.root / "install" / "local_setup.bash").is_file()


def test_mbrl_command_runs_from_the_install_space(workspace):
    result = workspace.run(
        "install/mbrl_ros/lib/mbrl_ros/mbrl", "launch", "mpc.launch.py", "--show-args"
    )
    assert result.returncode == 0, result.stdout + result.stderr
    assert "robot" in result.stdout


def test_node_runs_from_the_install_space(workspace):
    """It starts, reads its parameters and says what is wrong with them."""
    result = workspace.run(
        "install/mbrl_ros/lib/mbrl_ros/simulator", "--ros-args", "-p", "robot:=no_such_robot"
    )
    assert result.returncode == 2, result.stdout + result.stderr
    assert "no_such_robot" in result.stderr
    assert "cartpole" in result.stderr


def test_package_and_its_files_come_from_the_install_space(plain):
    code = (
        "import mbrl_ros, mbrl_ros.resources as resources;"
        "print(mbrl_ros.__file__); print(resources.config_directory())"
    )
    result = plain.run(sys.executable, "-c", code)
    assert result.returncode == 0, result.stderr
    package, config = result.stdout.split()
    assert Path(package).is_relative_to(plain.prefix)
    assert Path(config) == plain.share / "config"
    assert (Path(package).parent / "sim" / "models" / "cartpole.xml").is_file()
