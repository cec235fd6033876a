# Copyright 2026 The mbrl_ros authors
# SPDX-License-Identifier: Apache-2.0
"""What the operating system refuses, in words that say what to do."""

from __future__ import annotations

import errno

_ADVICE = {
    errno.ENOENT: "there is no such file; check the path",
    errno.ENOTDIR: "a part of the path is a file, not a folder; check the path",
    errno.EISDIR: "is a folder; expected the path of a file",
    errno.EEXIST: "exists already; choose another path",
    errno.EACCES: "no permission; check who owns it, or choose another path",
    errno.EPERM: "no permission; check who owns it, or choose another path",
    errno.EROFS: "lies on a file system that cannot be written to; choose another path",
    errno.ENOSPC: "the disk is full; make room, or choose another disk",
    errno.EDQUOT: "the disk quota is used up; make room, or choose another disk",
    errno.ENAMETOOLONG: "the name is too long",
}


def reason(error: BaseException) -> str:
    """Return what is wrong, without the path, for messages that begin with it."""
    if not isinstance(error, OSError) or error.errno is None:
        return str(error)
    return _ADVICE.get(error.errno, (error.strerror or "").lower())


def told(error: BaseException) -> str:
    """Return what is wrong with which path."""
    path = getattr(error, "filename", None)
    return reason(error) if path is None else f"{path}: {reason(error)}"
