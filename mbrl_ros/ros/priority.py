# Copyright 2026 The mbrl_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Precedence over other processes, as far as the system lets this one have it."""

from __future__ import annotations

import os
from pathlib import Path

# Below the 50 of a ros2_control controller manager, which this process feeds.
_FIFO_PRIORITY = 40
_NICENESS = -10


def raise_priority() -> str:
    """Give every thread of this process the best priority allowed; say which one that is.

    The threads of the middleware are among them: a message must first be received.
    """
    threads = [int(task.name) for task in Path("/proc/self/task").iterdir()]
    try:
        for thread in threads:
            os.sched_setscheduler(thread, os.SCHED_FIFO, os.sched_param(_FIFO_PRIORITY))
    except OSError:
        pass
    else:
        return f"real-time priority (SCHED_FIFO {_FIFO_PRIORITY})"
    try:
        for thread in threads:
            os.setpriority(os.PRIO_PROCESS, thread, _NICENESS)
    except OSError:
        return (
            "normal priority: a busy machine may delay the guard; allow real-time priority with a "
            f"line such as '@robot - rtprio {_FIFO_PRIORITY}' in /etc/security/limits.conf"
        )
    return f"niceness {_NICENESS}, as this user may not use real-time priority (rtprio limit)"
