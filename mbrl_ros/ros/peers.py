# Copyright 2026 The mbrl_ros authors
# SPDX-License-Identifier: Apache-2.0
"""The other nodes of the same stack: their names, and whether they listen."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rclpy.clock import Clock, ClockType
from rclpy.node import Node

# Seconds after which a node that is still waited for is named in the log, each time again.
_PATIENCE = 5.0


def peer_name(node: Node, name: str) -> str:
    """Return the full name of the node of this base name in the same namespace."""
    return f"{node.get_namespace().rstrip('/')}/{name}"


class Peers:
    """Says when the named nodes subscribe to what this node publishes.

    needed: node names by topic. A count of subscribers would not do: a tool that records the
    topic counts too. As long as some are missing, the log names them again and again.
    """

    def __init__(self, node: Node, needed: Mapping[str, Sequence[str]]) -> None:
        self._node = node
        self._needed = {
            node.resolve_topic_name(topic): set(names) for topic, names in needed.items() if names
        }
        if self._needed:
            steady = Clock(clock_type=ClockType.STEADY_TIME)
            self._reminder = node.create_timer(_PATIENCE, self._remind, clock=steady)

    def missing(self) -> dict[str, list[str]]:
        """Return the nodes that are not there yet, by topic; one that was once there stays so."""
        for topic, names in list(self._needed.items()):
            for info in self._node.get_subscriptions_info_by_topic(topic):
                if info.node_namespace == self._node.get_namespace():
                    names.discard(info.node_name)
            if not names:
                del self._needed[topic]
        return {topic: sorted(names) for topic, names in self._needed.items()}

    def _remind(self) -> None:
        missing = self.missing()
        if not missing:
            self._reminder.cancel()
            return
        found = "; ".join(f"{', '.join(names)} on {topic}" for topic, names in missing.items())
        self._node.get_logger().warning(
            f"waiting for nodes that have to listen: {found}; start them in the same namespace "
            "and ROS_DOMAIN_ID"
        )
