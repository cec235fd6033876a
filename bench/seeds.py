# Copyright 2026 The mbrl_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Run the cart-pole from nothing for several seeds, one after the other, and sum up.

python bench/seeds.py --seeds 10 --json seeds.json pace:=lockstep duration:=40.0
"""

import json
import statistics
import subprocess
import sys
import tempfile
from argparse import ArgumentParser
from pathlib import Path


def run(seed: int, arguments: list[str], folder: Path) -> dict[str, object] | None:
    """Return the report of one run, or None if it left none."""
    report = folder / f"{seed}.json"
    command = ["-m", "mbrl_ros.cli", "launch", "mpc.launch.py", f"seed:={seed}"]
    subprocess.run(
        [sys.executable, *command, f"report:={report}", *arguments],
        stdout=subprocess.DEVNULL,
        check=False,
    )
    return json.loads(report.read_text("utf-8")) if report.is_file() else None


def main() -> int:
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=10, help="runs, with seeds 0, 1, ...")
    parser.add_argument("--json", type=Path, help="file for the reports")
    parser.add_argument("arguments", nargs="*", help="launch arguments")
    options = parser.parse_args()

    reports = []
    with tempfile.TemporaryDirectory() as folder:
        for seed in range(options.seeds):
            report = run(seed, options.arguments, Path(folder))
            if report is None:
                print(f"seed {seed}: no report", flush=True)
                continue
            reports.append(report)
            misses = (report["deadline_misses"] or 0) / max(report["ticks"], 1)
            changes = [change["reached_after_s"] for change in report["goal_changes"]]
            print(
                f"seed {seed}: solved at {report['solved_at_s']} s, at the end "
                f"{'up' if report['at_goal_since_s'] is not None else 'down'}, plan "
                f"{report['plan_ms']['median']} ms, misses {100.0 * misses:.1f} %, "
                f"update {report['learner_update_ms']} ms"
                + (f", new goal reached after {changes[-1]} s" if changes else ""),
                flush=True,
            )
    solved = [r["solved_at_s"] for r in reports if r["solved_at_s"] is not None]
    if solved:
        print(
            f"solved {len(solved)} of {options.seeds}: median {statistics.median(solved):.2f} s, "
            f"worst {max(solved):.2f} s"
        )
    if options.json:
        options.json.write_text(json.dumps(reports, indent=2) + "\n", "utf-8")
    return 0 if len(solved) == options.seeds else 1


if __name__ == "__main__":
    sys.exit(main())
