# Copyright 2026 The mbrl_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Node `policy_controller`: moves a discrete robot by the table on the topic `policy`."""

from __future__ import annotations

import sys
import time
from collections import deque

import torch
from std_msgs.msg import UInt8MultiArray

from mbrl_ros.dynamics.snapshot import SnapshotError
from mbrl_ros.dynamics.succession import Succession
from mbrl_ros.imagination.snapshot import PolicyInfo
from mbrl_ros.imagination.tables import TablePolicy, decode_table
from mbrl_ros.robots import load_robot
from mbrl_ros.ros.diagnostics import OK, WARN, Diagnostics, Report
from mbrl_ros.ros.loop import ControlLoop
from mbrl_ros.ros.parameters import ROBOT, Parameter, declare
from mbrl_ros.ros.qos import LATCHED
from mbrl_ros.ros.runtime import ManagedNode, run

PARAMETERS = (
    ROBOT,
    Parameter("seed", 0, "Seed of the actions that are chosen at random.", 0),
    Parameter(
        "lockstep",
        False,
        "Use each table from exactly the tick on that it names, and wait for it there.",
    ),
)

# Ticks whose numbers diagnostics summarise.
_WINDOW = 100_000


class PolicyController(ManagedNode):
    """Answers every state by an action; at random where the table knows nothing yet."""

    def __init__(self) -> None:
        super().__init__("policy_controller")
        values = declare(self, PARAMETERS)
        torch.set_num_threads(1)
        self._robot = load_robot(values["robot"])
        known = TablePolicy(self._robot)  # a robot that it is not for is refused now
        self._lockstep = values["lockstep"]
        self._generator = torch.Generator().manual_seed(values["seed"])
        self._policies: Succession[PolicyInfo, TablePolicy] = Succession(self._lockstep)
        self._policy_ticks = self._missed = self._rejected_policies = 0
        self._act_ms: deque[float] = deque(maxlen=_WINDOW)
        # A state that no table has is refused now, and not when a table comes.
        self._loop = ControlLoop(self, self._robot, self._answer, known.state_number)
        self.create_subscription(UInt8MultiArray, "policy", self._on_policy, LATCHED)
        self._diagnostics = Diagnostics(self, self._robot.name, self._report)
        self.get_logger().info("waiting for the policy learner and the first state")

    def _on_policy(self, message: UInt8MultiArray) -> None:
        try:
            policy, info = decode_table(bytes(message.data), self._robot)
        except SnapshotError as error:
            self._rejected_policies += 1
            self.get_logger().error(f"policy refused, the old one stays: {error}")
            return
        self._policies.add(info, policy)
        self._loop.retry()

    def _answer(self, stamp: int, state: list[float]) -> bool:
        """Send the action of one tick, once a table is there."""
        policy, info = self._policies.at(stamp), self._policies.info
        if policy is None or info is None:
            return False
        begin = time.perf_counter()
        action = policy.sample(torch.tensor([state]), self._generator)[0]
        skipped = self._loop.send(stamp, action.tolist())
        self._act_ms.append(1e3 * (time.perf_counter() - begin))
        if not self._lockstep:
            self._missed += skipped
        self._policy_ticks += info.updates > 0
        return True

    def on_shutdown(self) -> None:
        """Publish the last numbers."""
        self._diagnostics.publish()

    def _report(self) -> Report:
        info = self._policies.info
        if self._policies.empty:
            text = "waiting for the policy learner"
        elif self._loop.ticks == 0:
            text = "waiting for the first state"
        elif info is None or info.updates == 0:
            text = "moving at random"
        else:
            text = "acting by reflex"
        times = sorted(self._act_ms)
        nothing = float("nan")
        return (
            WARN if self._loop.rejected or self._rejected_policies else OK,
            text,
            {
                "phase": text,
                "ticks": self._loop.ticks,
                "policy_ticks": self._policy_ticks,
                "policy_generation": info.generation if info else 0,
                "policy_updates": info.updates if info else 0,
                "deadline_misses": self._missed,
                # As the planner calls what it takes to find an action.
                "plan_ms_median": times[len(times) // 2] if times else nothing,
                "plan_ms_p99": times[int(0.99 * (len(times) - 1))] if times else nothing,
                "plan_ms_max": times[-1] if times else nothing,
                "rejected_messages": self._loop.rejected,
                "rejected_policies": self._rejected_policies,
            },
        )


def main() -> None:
    """Run the node."""
    sys.exit(run(PolicyController))


if __name__ == "__main__":
    main()
