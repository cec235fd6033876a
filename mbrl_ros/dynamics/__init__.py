# Copyright 2026 The mbrl_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Learned dynamics models: from states and actions to the change of state."""
