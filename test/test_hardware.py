# Copyright 2026 The mbrl_ros authors
# SPDX-License-Identifier: Apache-2.0
"""The stack without a simulator: against a stand-in for hardware, and over two machines."""

import json
import math
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from mock_hardware import RAIL, STEP, CartPole, Physics
from stack import QUICK, Listener, Process, alive, asked, launch, settings, wait_for

BENCH = Path(__file__).parents[1] / "bench"


def without_friction():
    return Physics(cart_damping=0.0, hinge_damping=0.0, coulomb=0.0, breakaway=0.0)


def energy(plant, physics):
    half, mass = 0.5 * physics.pole_length, physics.pole_mass
    along = plant.velocity + half * plant.rate * math.cos(plant.angle)
    up = half * plant.rate * math.sin(plant.angle)
    turning = mass * physics.pole_length**2 / 12.0 * plant.rate**2
    kinetic = physics.cart_mass * plant.velocity**2 + mass * (along**2 + up**2) + turning
    return 0.5 * kinetic + mass * 9.81 * half * math.cos(plant.angle)


def test_the_stand_in_keeps_its_energy_without_friction():
    physics = without_friction()
    plant = CartPole(physics)
    plant.angle, plant.velocity = 0.5, 0.2
    before = energy(plant, physics)
    for _ in range(2000):
        plant.step(0.0)
    assert plant.rate != 0.0
    assert energy(plant, physics) == pytest.approx(before, abs=0.01)


def test_the_stand_in_sticks_slides_and_ends_at_its_stops():
    plant = CartPole(Physics())
    for _ in range(500):
        plant.step(0.4)  # less than it takes to break away
    assert abs(plant.position) < 1e-9
    for _ in range(round(3.0 / STEP)):
        plant.step(8.0)
    assert plant.position == RAIL
    assert plant.farthest == RAIL
    assert plant.hits >= 1
    assert plant.hardest_hit > 1.0


def test_each_seed_is_another_machine_and_the_same_again():
    usual = Physics()
    machines = [Physics.drawn(seed) for seed in range(5)]
    assert len({machine.cart_mass for machine in machines}) == 5
    assert machines[3] == Physics.drawn(3)
    for machine in machines:
        for name in ("cart_mass", "pole_mass", "pole_length", "cart_damping", "hinge_damping"):
            assert 0.2 <= abs(getattr(machine, name) / getattr(usual, name) - 1.0) <= 0.5


def test_hardware_is_armed_moved_and_left_at_rest(tmp_path, monkeypatch):
    record = tmp_path / "mock.json"
    folders = [str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(folders).rstrip(os.pathsep))
    with (
        Listener() as listener,
        Process(tmp_path, "mock_hardware", ["--record", str(record)]) as mock,
        launch(tmp_path, "sim:=false", settings(tmp_path, mpc_planner=QUICK)) as run,
    ):
        wait_for(lambda: "disarmed" in run.output, "the guard")
        wait_for(lambda: len(listener.states) > 20, "states")
        assert listener.commands == []
        assert all(state[:2] == [0.0, 0.0] for state in listener.states.values())
        wait_for(lambda: asked("arm").exit_code == 0, "a guard that has all it needs")
        wait_for(lambda: len(listener.commands) > 40, "commands")
        pids = run.nodes()
        run.signal(signal.SIGTERM)
        assert run.wait(30.0) == 0
        assert not any(alive(pid) for pid in pids.values())
        mock.signal(signal.SIGTERM)
        assert mock.wait(10.0) == 0
    found = json.loads(record.read_text("utf-8"))
    assert found["last_command"] == [0.0]
    assert found["bad"] == 0
    assert 0.0 < found["max_abs_position"] <= RAIL


def test_a_robot_goes_on_while_the_link_to_its_workstation_is_broken(tmp_path):
    """Two network namespaces; longer than it takes until diagnostics complain."""
    result = tmp_path / "result.json"
    command = [sys.executable, str(BENCH / "two_machines.py"), "--json", str(result)]
    times = ["--before", "1", "--broken", "13", "--after", "1"]
    quick = settings(tmp_path, mpc_planner=QUICK)  # so that it moves at every tick
    done = subprocess.run([*command, *times, quick], capture_output=True, text=True, check=False)
    if done.returncode == 77:
        pytest.skip(done.stdout.strip())
    assert result.exists(), done.stdout
    phases = json.loads(result.read_text("utf-8"))
    up, down, again = (phases[name] for name in ("up", "down", "up_again"))
    assert down["model_transitions"] < again["model_transitions"]
    assert up["model_transitions"] <= down["model_transitions"]
    assert "no model for" in down["says"]
    assert "no model for" not in again["says"]
    assert down["actions"] > 50  # it never waited for a model
