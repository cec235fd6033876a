# Copyright 2026 The mbrl_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Work with recorded data: export it, train models from it, evaluate them on it."""
