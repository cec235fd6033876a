# Copyright 2026 The mbrl_ros authors
# SPDX-License-Identifier: Apache-2.0
"""What the nodes share: running, parameters, QoS, conversions, diagnostics."""
