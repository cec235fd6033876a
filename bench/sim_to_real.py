# Copyright 2026 The mbrl_ros authors
# SPDX-License-Identifier: Apache-2.0
"""What a model learned in simulation is worth on a machine that the simulation is not.

python bench/sim_to_real.py --seeds 10 --json sim_to_real.json

For each seed: 20 s of simulation in lockstep from nothing, then `sim:=false` against
test/mock_hardware.py, whose physics differ with the seed, in real time:

  transferred    starting from the simulation's model
  scratch        starting from nothing
  uncompensated  as transferred, with delay compensation off in planner and learner

Launch arguments for all of them, such as planner:=icem, come last.

On hardware the robot's file says that commands take effect after 50 ms: roughly known, for in
truth it is 75 ms. The stand-in itself judges when the pole is up (within 0.2 rad for 2 s) and how
far the cart went. Run it on a machine with nothing else to do: the hardware does not wait.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from argparse import ArgumentParser
from collections.abc import Callable
from pathlib import Path

import rclpy
from diagnostic_msgs.msg import DiagnosticArray
from rclpy.context import Context
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from sensor_msgs.msg import JointState
from std_msgs.msg import UInt8MultiArray

from mbrl_ros.resources import config_directory
from mbrl_ros.ros.client import CommandError, trigger
from mbrl_ros.ros.diagnostics import read_values
from mbrl_ros.ros.qos import LATCHED, STREAM

MOCK = Path(__file__).parents[1] / "test" / "mock_hardware.py"
VARIANTS = ("transferred", "scratch", "uncompensated")
PATIENCE = 300.0  # seconds
UNCOMPENSATED = "/**: {ros__parameters: {delay_compensation: false}}\n"


class Listener:
    """Keeps the last model, state and diagnostics of a run."""

    def __init__(self) -> None:
        self.model = b""
        self.planner: dict[str, str] = {}
        self.states = 0
        self._context = Context()
        rclpy.init(context=self._context, args=[])
        self._node = rclpy.create_node("sim_to_real", context=self._context)
        self._node.create_subscription(UInt8MultiArray, "model", self._on_model, LATCHED)
        self._node.create_subscription(JointState, "state", self._on_state, STREAM)
        self._node.create_subscription(
            DiagnosticArray, "/diagnostics", self._on_diagnostics, STREAM
        )
        self._executor = SingleThreadedExecutor(context=self._context)
        self._executor.add_node(self._node)
        self._thread = threading.Thread(target=self._spin, daemon=True)
        self._thread.start()

    def _spin(self) -> None:
        with contextlib.suppress(ExternalShutdownException):
            self._executor.spin()

    def _on_model(self, message: UInt8MultiArray) -> None:
        self.model = bytes(message.data)

    def _on_state(self, _: JointState) -> None:
        self.states += 1

    def _on_diagnostics(self, message: DiagnosticArray) -> None:
        self.planner = read_values(message, "/mpc_planner") or self.planner

    def close(self) -> None:
        self._executor.shutdown()
        self._thread.join(timeout=5.0)
        self._context.try_shutdown()


def start(log: Path, *command: str, niceness: int = 0) -> subprocess.Popen[bytes]:
    with log.open("w") as stream:
        return subprocess.Popen(
            ["nice", "-n", str(niceness), sys.executable, *command],
            stdout=stream,
            stderr=subprocess.STDOUT,
        )


def wait_for(condition: Callable[[], object], what: str) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"waited {PATIENCE:g} s for {what}")
        time.sleep(0.1)


def end(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
        process.wait(60.0)


def simulate(
    folder: Path, seed: int, seconds: float, extra: list[str]
) -> tuple[Path, float | None]:
    """Learn in simulation; return the file of the last model, and when the pole was up there."""
    listener = Listener()
    report, path = folder / "simulated.json", folder / "simulated.safetensors"
    run = start(
        folder / "simulated.log",
        *("-m", "mbrl_ros.cli", "launch", "mpc.launch.py", "pace:=lockstep"),
        *(f"duration:={seconds}", f"seed:={seed}", f"report:={report}", *extra),
        niceness=5,
    )
    try:
        run.wait(PATIENCE)
        path.write_bytes(listener.model)
    finally:
        end(run)
        listener.close()
    return path, json.loads(report.read_text("utf-8"))["solved_at_s"]


def armed() -> bool:
    """Arm the guard, which refuses while a busy machine keeps an input of it from being fresh."""
    try:
        trigger("command_guard", "arm")
    except CommandError:
        return False
    return True


def run_on_hardware(
    folder: Path,
    seed: int,
    variant: str,
    model: Path,
    seconds: float,
    delay: float,
    extra: list[str],
) -> dict[str, object]:
    """Run against the stand-in; return a row. delay: what the robot's file says of it."""
    listener = Listener()
    report, record = folder / f"{variant}.json", folder / f"{variant}-mock.json"
    robot = folder / "cartpole.yaml"
    shipped = (config_directory() / "robots" / "cartpole.yaml").read_text("utf-8")
    robot.write_text(f"{shipped}\ndelay: {delay}\n", encoding="utf-8")
    arguments = [
        f"robot:={robot}",
        "sim:=false",
        f"duration:={seconds}",
        f"seed:={seed}",
        f"report:={report}",
        *extra,
    ]
    if variant != "scratch":
        arguments.append(f"model_file:={model}")
    if variant == "uncompensated":
        parameters = folder / "uncompensated.yaml"
        parameters.write_text(UNCOMPENSATED, encoding="utf-8")
        arguments.append(f"params_file:={parameters}")
    mock = start(
        folder / f"{variant}-mock.log", str(MOCK), "--seed", str(seed), "--record", str(record)
    )
    run = start(
        folder / f"{variant}.log", "-m", "mbrl_ros.cli", "launch", "mpc.launch.py", *arguments
    )
    load = os.getloadavg()[0]
    try:
        # The planner is ready when it answers states; the guard lets nothing through yet.
        wait_for(lambda: int(listener.planner.get("ticks", "0")) > 20, "the stack")
        wait_for(armed, "a guard that lets itself be armed")
        run.wait(PATIENCE)
    finally:
        end(run)
        end(mock)
        listener.close()
    summary = json.loads(report.read_text("utf-8"))
    found = json.loads(record.read_text("utf-8"))
    return {
        "seed": seed,
        "variant": variant,
        "up_at_s": found["up_at_s"],
        "up_at_end": summary["at_goal_since_s"] is not None,  # the stand-in outlasts the stack
        "seconds": seconds,
        "max_abs_position": found["max_abs_position"],
        "rail_hits": found["hits"],
        "hardest_hit": found["hardest_hit"],
        "braked_actions": int(listener.planner.get("braked_actions", "0")),
        "limps": found["limps"],
        "deadline_misses": summary["deadline_misses"],
        "ticks": summary["ticks"],
        "plan_ms": summary["plan_ms"],
        "delay_ms": float(listener.planner.get("delay_ms", "nan")),
        "actuation_delay_ms": float(listener.planner.get("actuation_delay_ms", "nan")),
        "late_ms_max": found["late_ms_max"],
        "load_average": round(load, 2),
        "physics": found["physics"],
    }


def median(rows: list[dict[str, object]], variant: str) -> float:
    """Median of the seconds until up; a run that was never up counts as infinitely long."""
    values = [
        float("inf") if row["up_at_s"] is None else float(str(row["up_at_s"]))
        for row in rows
        if row["variant"] == variant
    ]
    return statistics.median(values) if values else float("nan")


def main() -> int:
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--simulated", type=float, default=20.0, help="seconds of simulation")
    parser.add_argument("--seconds", type=float, default=15.0, help="on hardware, with a model")
    parser.add_argument("--scratch-seconds", type=float, default=30.0)
    parser.add_argument("--delay", type=float, default=0.05, help="s that the file says")
    parser.add_argument("--variants", default=",".join(VARIANTS))
    parser.add_argument("--json", type=Path, help="file for the rows, written after each seed")
    parser.add_argument("--keep", type=Path, help="folder for the logs")
    parser.add_argument("arguments", nargs="*", help="of every launch, as planner:=icem")
    options = parser.parse_args()
    rows: list[dict[str, object]] = []
    for seed in range(options.first_seed, options.first_seed + options.seeds):
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            if options.keep is not None:
                folder = options.keep / str(seed)
                folder.mkdir(parents=True, exist_ok=True)
            model, up = simulate(folder, seed, options.simulated, options.arguments)
            print(f"seed {seed}: in simulation up at {up} s", flush=True)
            for variant in options.variants.split(","):
                seconds = options.scratch_seconds if variant == "scratch" else options.seconds
                row = run_on_hardware(
                    folder, seed, variant, model, seconds, options.delay, options.arguments
                )
                rows.append(row)
                print(
                    f"seed {seed}: {variant:<13} up at {row['up_at_s']} s, "
                    f"{row['max_abs_position']} m from the middle at most, "
                    f"{row['rail_hits']} hits, {row['deadline_misses']} of {row['ticks']} ticks "
                    f"missed, delay {row['delay_ms']:.0f} ms, load {row['load_average']}",
                    flush=True,
                )
        if options.json is not None:
            options.json.write_text(json.dumps(rows, indent=2) + "\n", encoding="utf-8")
    for variant in options.variants.split(","):
        mine = [row for row in rows if row["variant"] == variant]
        hits = sum(int(str(row["rail_hits"])) > 0 for row in mine)
        print(
            f"{variant:<13} median {median(rows, variant):.2f} s, {hits} of {len(mine)} hit a stop"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
