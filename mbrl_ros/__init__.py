# Copyright 2026 The mbrl_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Model-based reinforcement learning with model-predictive control for ROS 2."""

__version__ = "0.1.0"
