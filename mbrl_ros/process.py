# Copyright 2026 The mbrl_ros authors
# SPDX-License-Identifier: Apache-2.0
"""What the processes of a run and whoever starts them agree on."""

# The exit status of a node that refuses its configuration.
BAD_CONFIGURATION = 2
# The variable that names the process which a node must not outlive.
PARENT_VARIABLE = "MBRL_PARENT_PID"
