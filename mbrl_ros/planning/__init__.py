# Copyright 2026 The mbrl_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Planners: from a state, a goal and a model to a trajectory."""
