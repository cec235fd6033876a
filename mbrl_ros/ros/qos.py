# Copyright 2026 The mbrl_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Quality of service of every topic (the table in docs/architecture.md)."""

from rclpy.qos import QoSDurabilityPolicy, QoSProfile, QoSReliabilityPolicy

# Sensors: what is lost is replaced by the next message.
SENSOR = QoSProfile(depth=5, reliability=QoSReliabilityPolicy.BEST_EFFORT)
# Streams of which every message counts: state, applied_action, diagnostics.
STREAM = QoSProfile(depth=10, reliability=QoSReliabilityPolicy.RELIABLE)
# How the learner and the monitor subscribe to streams: they must not lose one while busy.
RECORDING = QoSProfile(depth=1000, reliability=QoSReliabilityPolicy.RELIABLE)
# Commands and goals: only the latest counts.
LATEST = QoSProfile(depth=1, reliability=QoSReliabilityPolicy.RELIABLE)
# The model: whoever comes late gets the last one.
LATCHED = QoSProfile(
    depth=1,
    reliability=QoSReliabilityPolicy.RELIABLE,
    durability=QoSDurabilityPolicy.TRANSIENT_LOCAL,
)
