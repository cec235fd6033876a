# Copyright 2026 The mbrl_ros authors
# SPDX-License-Identifier: Apache-2.0
"""One node a file: ROS in, library call, ROS out."""

import os

# Before NumPy is imported: to matrices of a few hundred rows more threads are of no use, and they
# take the cores that the other nodes need.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
