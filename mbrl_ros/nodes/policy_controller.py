# Copyright 2026 The mbrl_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Node `policy_controller`: moves a discrete robot by the table on the topic `policy`."""

from __future__ import annotations

import sys
import time
from collections import deque

import torch
from sensor_msgs.msg import JointState
from std_msgs.msg import UInt8MultiArray

from mbrl_ros.dynamics.snapshot import SnapshotError
from mbrl_ros.dynamics.succession import Succession
from mbrl_ros.imagination.snapshot import PolicyInfo
from mbrl_ros.imagination.tables import TablePolicy, decode_table
from mbrl_ros.robots import load_robot
from mbrl_ros.ros.conversions import named_values, read_named_values, to_nanoseconds
from mbrl_ros.ros.diagnostics import OK, WARN, Diagnostics, Report
from mbrl_ros.ros.parameters import ROBOT, Parameter, declare
from mbrl_ros.ros.peers import Peers
from mbrl_ros.ros.qos import LATCHED, LATEST
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
        self._known = TablePolicy(self._robot)  # a robot that it is not for is refused now
        self._lockstep = values["lockstep"]
        self._generator = torch.Generator().manual_seed(values["seed"])
        self._policies: Succession[PolicyInfo, TablePolicy] = Succession(self._lockstep)
        self._waiting: tuple[int, list[float]] | None = None  # tick that waits for a table
        self._answered = -1  # stamp of the last state that an action was sent for
        self._last_action = JointState()
        self._ticks = self._policy_ticks = self._missed = 0
        self._rejected = self._rejected_policies = 0
        self._act_ms: deque[float] = deque(maxlen=_WINDOW)
        self._actions = self.create_publisher(JointState, "action", LATEST)
        self._peers = Peers(self, {"action": ["command_guard"]})
        self.create_subscription(UInt8MultiArray, "policy", self._on_policy, LATCHED)
        self.create_subscription(JointState, "state", self._on_state, LATEST)
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
        if self._waiting is not None:
            self._answer(*self._waiting)

    def _on_state(self, message: JointState) -> None:
        stamp = to_nanoseconds(message.header.stamp)
        if stamp == self._answered:
            self._actions.publish(self._last_action)  # the guard may have come late
            return
        try:
            state = read_named_values(message, self._robot.state_names)
            self._known.state_number(state)  # now, and not when a table comes
        except ValueError as error:
            self._rejected += 1
            self.get_logger().error(f"state dropped: {error}", throttle_duration_sec=1.0)
            return
        self._answer(stamp, state)

    def _answer(self, stamp: int, state: list[float]) -> None:
        """Send the action of one tick, once the guard and a table are there."""
        self._waiting = (stamp, state)
        policy, info = self._policies.at(stamp), self._policies.info
        if policy is None or info is None or self._peers.missing():
            return
        self._waiting = None
        begin = time.perf_counter()
        action = policy.sample(torch.tensor([state]), self._generator)[0]
        self._last_action = named_values(stamp, self._robot.action_names, action.tolist())
        self._actions.publish(self._last_action)
        self._act_ms.append(1e3 * (time.perf_counter() - begin))
        if not self._lockstep and self._answered >= 0:
            self._missed += max((stamp - self._answered) // self._robot.period_nanoseconds - 1, 0)
        self._answered = stamp
        self._ticks += 1
        self._policy_ticks += info.updates > 0

    def on_shutdown(self) -> None:
        """Publish the last numbers."""
        self._diagnostics.publish()

    def _report(self) -> Report:
        info = self._policies.info
        if self._policies.empty:
            text = "waiting for the policy learner"
        elif self._ticks == 0:
            text = "waiting for the first state"
        elif info is None or info.updates == 0:
            text = "moving at random"
        else:
            text = "acting by reflex"
        times = sorted(self._act_ms)
        nothing = float("nan")
        return (
            WARN if self._rejected or self._rejected_policies else OK,
            text,
            {
                "phase": text,
                "ticks": self._ticks,
                "policy_ticks": self._policy_ticks,
                "policy_generation": info.generation if info else 0,
                "policy_updates": info.updates if info else 0,
                "deadline_misses": self._missed,
                # As the planner calls what it takes to find an action.
                "plan_ms_median": times[len(times) // 2] if times else nothing,
                "plan_ms_p99": times[int(0.99 * (len(times) - 1))] if times else nothing,
                "plan_ms_max": times[-1] if times else nothing,
                "rejected_messages": self._rejected,
                "rejected_policies": self._rejected_policies,
            },
        )


def main() -> None:
    """Run the node."""
    sys.exit(run(PolicyController))


if __name__ == "__main__":
    main()
