# Copyright 2026 The mbrl_ros authors
# SPDX-License-Identifier: Apache-2.0
"""The manifests agree with each other and with the files that they describe."""

import ast
import os
import re
import sys
import xml.etree.ElementTree as ElementTree
from distutils.core import run_setup  # setuptools provides it, also where Python has none
from pathlib import Path

import pytest
from setuptools import Distribution

CHECKOUT = Path(__file__).resolve().parent.parent
PACKAGE = CHECKOUT / "mbrl_ros"

# Import name -> rosdep key, for what is not a ROS package; None: pip only, see package.xml.
PYTHON_KEYS = {
    "gpytorch": None,
    "gymnasium": None,
    "matplotlib": "python3-matplotlib",
    "mbrl": None,
    "mujoco": None,
    "numpy": "python3-numpy",
    "pydantic": "python3-pydantic",
    "rich": "python3-rich",
    "rosbags": None,
    "safetensors": None,
    "scipy": "python3-scipy",
    "torch": None,
    "typer": "python3-typer",
    "yaml": "python3-yaml",
}


@pytest.fixture(scope="module")
def manifest() -> ElementTree.Element:
    return ElementTree.parse(CHECKOUT / "package.xml").getroot()


@pytest.fixture(scope="module")
def distribution() -> Distribution:
    previous = Path.cwd()
    os.chdir(CHECKOUT)
    try:
        return run_setup("setup.py", stop_after="init")
    finally:
        os.chdir(previous)


def python_files(*folders: str) -> list[Path]:
    files = [path for folder in folders for path in sorted((CHECKOUT / folder).rglob("*.py"))]
    assert files
    return files


def imported_packages(path: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            names.add(node.module)
    return {name.partition(".")[0] for name in names}


def test_every_file_states_the_same_version(manifest, distribution):
    changelog = (CHECKOUT / "CHANGELOG.rst").read_text(encoding="utf-8")
    newest = re.search(r"^(\d+\.\d+\.\d+) \(\d{4}-\d{2}-\d{2}\)$", changelog, re.MULTILINE)
    assert newest is not None
    assert newest.group(1) == manifest.findtext("version") == distribution.get_version()


def test_package_xml_is_an_ament_python_manifest(manifest, distribution):
    assert manifest.get("format") == "3"
    assert manifest.findtext("name") == distribution.get_name()
    assert manifest.findtext("license") == "Apache-2.0"
    assert manifest.findtext("export/build_type") == "ament_python"


def test_package_xml_declares_every_import(manifest):
    declared = {element.text for element in manifest.iter("exec_depend")}
    missing = {}
    for path in python_files("mbrl_ros", "launch"):
        for name in imported_packages(path) - sys.stdlib_module_names - {"mbrl_ros"}:
            key = PYTHON_KEYS.get(name, name)
            if key is not None and key not in declared:
                missing.setdefault(key, []).append(str(path.relative_to(CHECKOUT)))
    assert not missing


def test_package_xml_declares_no_dependency_twice(manifest):
    declared = [element.text for element in manifest.iter("exec_depend")]
    assert len(declared) == len(set(declared))


def test_every_node_file_is_an_executable_with_a_main(distribution):
    nodes = {path.stem for path in (PACKAGE / "nodes").glob("*.py")} - {"__init__"}
    scripts = dict(
        re.split(r"\s*=\s*", script) for script in distribution.entry_points["console_scripts"]
    )
    assert set(scripts) == nodes | {"mbrl"}
    for target in scripts.values():
        module, function = target.split(":")
        path = CHECKOUT / (module.replace(".", "/") + ".py")
        tree = ast.parse(path.read_text(encoding="utf-8"))
        assert function in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}


def test_every_shared_file_is_installed(distribution):
    installed = {name for _, names in distribution.data_files for name in names}
    shared = {
        path.relative_to(CHECKOUT).as_posix()
        for folder, pattern in (
            ("config", "*.yaml"),
            ("config", "*.json"),
            ("launch", "*.launch.py"),
        )
        for path in (CHECKOUT / folder).rglob(pattern)
    }
    assert shared
    assert shared <= installed
    assert {"package.xml", "resource/mbrl_ros"} <= installed


def test_every_file_of_the_package_is_installed(distribution):
    installed = {
        path for pattern in distribution.package_data["mbrl_ros"] for path in PACKAGE.glob(pattern)
    }
    present = {
        path
        for path in PACKAGE.rglob("*")
        if path.is_file() and path.suffix != ".py" and "__pycache__" not in path.parts
    }
    assert PACKAGE / "py.typed" in present
    assert present == installed


def test_every_folder_with_python_files_is_a_package(distribution):
    folders = {
        ".".join(path.parent.relative_to(CHECKOUT).parts) for path in python_files("mbrl_ros")
    }
    assert folders == set(distribution.packages)


@pytest.mark.parametrize(
    "path",
    [CHECKOUT / "setup.py", *python_files("mbrl_ros", "launch", "test")],
    ids=lambda path: str(path.relative_to(CHECKOUT)),
)
def test_python_file_states_copyright_and_license(path):
    lines = path.read_text(encoding="utf-8").splitlines()
    header = [line for line in lines[:3] if not line.startswith("#!")]
    assert header[:2] == [
        "# Copyright 2026 The mbrl_ros authors",
        "# SPDX-License-Identifier: Apache-2.0",
    ]
