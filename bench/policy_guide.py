# Copyright 2026 The mbrl_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Measure what a policy at a planner's side is worth: a short horizon in place of a long one.

python bench/policy_guide.py --seeds 3 --json FILE

For each seed a log is made, a model learns from it as in `mbrl bench control`, and a policy learns
from what that model imagines, without any other real step. Then all control the true plant in
turns: the policy alone, the planner with a long and with a short horizon, and the planner with the
short horizon and the policy.
"""

from __future__ import annotations

import json
import statistics
import time
from argparse import ArgumentParser
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor

from mbrl_ros.benchmarks.control import FULL, Episode, learn, run_episode
from mbrl_ros.benchmarks.control_tasks import TASKS, ControlTask, start_of
from mbrl_ros.benchmarks.logs import transitions
from mbrl_ros.benchmarks.plants import TrueDynamics
from mbrl_ros.benchmarks.timing import one_thread
from mbrl_ros.imagination.online import ImaginedSAC
from mbrl_ros.imagination.snapshot import decode, guide_of
from mbrl_ros.planning.guide import PolicyGuide
from mbrl_ros.planning.objective import Objective
from mbrl_ros.planning.planner import make_planner
from mbrl_ros.robots.spec import RobotSpec


@dataclass(frozen=True)
class Row:
    """What came of one controller in the episodes of one seed.

    controller: `mpc`, `mpc+policy` or `policy`, which plans nothing. horizon, samples: of plans.
    cost: of an episode, mean. median_ms: of a plan, in time of one processor core. solved: share
    of the episodes in which the robot met its file's `success`, None where there is none.
    """

    task: str
    planner: str
    controller: str
    horizon: int
    samples: int
    seed: int
    cost: float
    median_ms: float
    solved: float | None


def policy_episode(task: ControlTask, robot: RobotSpec, guide: PolicyGuide, seed: int) -> Episode:
    """Let the policy control the plant; as run_episode does with planners."""
    plant: TrueDynamics = task.true(robot)
    state, safe = start_of(task, seed), torch.tensor(robot.safe_action)
    states, actions, times = [state], [], []
    for _ in range(task.steps):
        begin = time.process_time()
        action = guide.policy.act(state[None])
        times.append(1e3 * (time.process_time() - begin))
        state = plant.step(state[None], action.double())[0]
        states.append(state)
        actions.append(action[0])
    seen, taken = torch.stack(states), torch.stack(actions).double()
    goal = torch.tensor(task.goal).double()
    cost = Objective(robot).cost(seen[:, None], taken[:, None], goal, safe)
    return Episode(seen, taken, float(cost), tuple(times), (0,))


def solved(task: ControlTask, robot: RobotSpec, states: Tensor) -> bool | None:
    """Return whether the robot stayed within the tolerance for as long as it has to."""
    success = robot.success
    if success is None:
        return None
    longest = held = 0
    for state in states.tolist():
        held = held + 1 if robot.succeeds(state, task.goal) else 0
        longest = max(longest, held)
    return longest >= round(success.hold * robot.control_rate)


def measure(
    task: ControlTask, planners: list[str], seed: int, updates: int, episodes: int
) -> Iterator[Row]:
    robot = task.robot()
    log = task.log.log(seed)
    model = learn(task, log, FULL, seed, print)
    begin = time.process_time()
    learner = ImaginedSAC(robot, seed)
    learner.observe(transitions(log.training))
    learner.pursue(task.goal)
    learner.train(model, updates)
    learner.adopt()
    guide = guide_of(*decode(learner.snapshot(), robot))
    print(f"{task.name}: policy, {updates} updates in {time.process_time() - begin:.0f} s")

    found: dict[tuple[str, str, int, int], list[Episode]] = {}
    for episode in range(seed * episodes, (seed + 1) * episodes):
        reflex = found.setdefault(("", "policy", 0, 0), [])
        reflex.append(policy_episode(task, robot, guide, episode))
        for kind in planners:
            for controller, horizon, samples in CONTROLLERS:
                planner = make_planner(kind, robot, horizon=horizon, samples=samples)
                planner.guide = guide if controller == "mpc+policy" else None
                key = (kind, controller, horizon, samples)
                found.setdefault(key, []).append(
                    run_episode(task, robot, planner, model, task.true(robot), episode)
                )
    for (kind, controller, horizon, samples), runs in found.items():
        verdicts = [solved(task, robot, run.states) for run in runs]
        yield Row(
            task.name,
            kind,
            controller,
            horizon,
            samples,
            seed,
            cost=round(statistics.mean(run.cost for run in runs), 1),
            median_ms=round(statistics.median(ms for run in runs for ms in run.plan_ms), 2),
            solved=None if None in verdicts else statistics.mean(map(bool, verdicts)),
        )


CONTROLLERS = (
    ("mpc", 30, 500),
    ("mpc", 30, 200),
    ("mpc", 8, 500),
    ("mpc+policy", 8, 500),
    ("mpc+policy", 8, 200),
    ("mpc+policy", 8, 100),
)


@one_thread()
def main() -> None:
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("--task", choices=sorted(TASKS), default="cartpole")
    parser.add_argument("--planners", default="mppi", help="kinds that sample, by commas")
    parser.add_argument("--seeds", type=int, default=3, help="how many")
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--updates", type=int, default=20_000, help="of the policy")
    parser.add_argument("--episodes", type=int, default=2, help="of each controller and seed")
    parser.add_argument("--json", type=Path, help="file for the rows")
    options = parser.parse_args()

    rows: list[Row] = []
    for seed in range(options.first_seed, options.first_seed + options.seeds):
        for row in measure(
            TASKS[options.task],
            options.planners.split(","),
            seed,
            options.updates,
            options.episodes,
        ):
            print(*asdict(row).values(), flush=True)
            rows.append(row)
    if options.json:
        options.json.write_text(json.dumps([asdict(r) for r in rows], indent=2) + "\n", "utf-8")


if __name__ == "__main__":
    main()
