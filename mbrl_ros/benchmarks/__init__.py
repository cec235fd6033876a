# Copyright 2026 The mbrl_ros authors
# SPDX-License-Identifier: Apache-2.0
"""What `mbrl bench` measures: this package's models next to those of other libraries."""
