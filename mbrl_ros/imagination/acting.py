# Copyright 2026 The mbrl_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Which policy may act, or help to plan, at which tick."""

from __future__ import annotations

from collections.abc import Sequence

from mbrl_ros.dynamics.succession import Succession
from mbrl_ros.imagination.policy import Policy
from mbrl_ros.imagination.snapshot import PolicyInfo, goal_of
from mbrl_ros.robots.spec import RobotSpec


class PolicyInForce:
    """Swaps policies between two ticks, and tells of one that is not for the goal in force.

    lockstep: see Succession. `absence` says why there was none at the last tick that `at` was
    asked for; empty: there was one. `outdated`: whether there was one for another goal.
    """

    def __init__(self, robot: RobotSpec, lockstep: bool) -> None:
        self._robot, self._lockstep = robot, lockstep
        self._policies: Succession[PolicyInfo, Policy] = Succession(lockstep)
        self.add = self._policies.add
        self.absence = "no policy yet"
        self.outdated = False

    @property
    def info(self) -> PolicyInfo | None:
        """What the policy in use says about itself, if one has come that has learned."""
        info = self._policies.info
        return info if info is not None and info.updates else None

    def overdue(self, stamp: int) -> bool:
        """Whether a policy that must be there at this tick (nanoseconds) has yet to come."""
        return self._policies.at(stamp) is None and self._lockstep

    def at(self, stamp: int, goals: Sequence[Sequence[float]]) -> Policy | None:
        """Return the policy for this tick (nanoseconds), if it is for all of these goals (G,)."""
        policy, info = self._policies.at(stamp), self.info
        self.outdated = False
        if policy is None or info is None:
            self.absence = "no policy yet"
            return None
        own = goal_of(info)
        if own and not all(self._robot.same_goal(own, goal) for goal in goals):
            self.outdated = True
            wanted = ", ".join(f"{value:g}" for value in goals[0])
            found = ", ".join(f"{value:g}" for value in own)
            self.absence = f"the policy is for goal [{found}], not [{wanted}]"
            return None
        self.absence = ""
        return policy
