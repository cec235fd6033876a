# Copyright 2026 The mbrl_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Waits for the nodes that must not miss the first message."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rclpy.node import Node


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
                names.discard(info.node_name)
            if not names:
                del self._needed[topic]
        return sorted({name for names in self._needed.values() for name in names})
