# Copyright 2026 The mbrl_ros authors
# SPDX-License-Identifier: Apache-2.0
"""The other nodes of the same stack: their names, and whether they listen."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rclpy.node import Node


def peer_name(node: Node, name: str) -> str:
    """Return the full name of the node of this base name in the same namespace."""
    return f"{node.get_namespace().rstrip('/')}/{name}"


class Peers:
    """Says when the named nodes subscribe to what this node publishes.

    needed: node names by topic. A count of subscribers would not do: a tool that records the
    topic counts too.
    """

    def __init__(self, node: Node, needed: Mapping[str, Sequence[str]]) -> None:
        self._node = node
        self._needed = {topic: set(names) for topic, names in needed.items()}

    def missing(self) -> list[str]:
        """Return the nodes that are not there yet; one that was there once stays so."""
        for topic, names in list(self._needed.items()):
            resolved = self._node.resolve_topic_name(topic)
            for info in self._node.get_subscriptions_info_by_topic(resolved):
                if info.node_namespace == self._node.get_namespace():
                    names.discard(info.node_name)
            if not names:
                del self._needed[topic]
        return sorted({name for names in self._needed.values() for name in names})
