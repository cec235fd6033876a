# Copyright 2026 The mbrl_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Learning from what a model imagines: rollouts, policies trained on them, Dyna-Q."""
