# Copyright 2026 The mbrl_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Units of time; imports nothing, so that everything may import it."""

NANOSECONDS = 1_000_000_000  # in a second; stamps are whole nanoseconds
