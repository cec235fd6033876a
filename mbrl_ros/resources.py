# Copyright 2026 The mbrl_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Where the files that ship with the package lie, in a checkout and in an install space."""

from __future__ import annotations

import sys
from pathlib import Path


def share_directory() -> Path:
    """Return the folder that holds `config/` and `launch/`.

    It is the checkout itself when the package runs from one (editable install,
    `colcon build --symlink-install`), otherwise `share/mbrl_ros` of the install prefix.
    """
    package = Path(__file__).resolve().parent
    checkout = package.parent
    if (checkout / "package.xml").is_file() and (checkout / "config").is_dir():
        return checkout
    # <prefix>/lib/pythonX.Y/site-packages/mbrl_ros, or another depth on distributions
    # that use dist-packages: look upwards for the share folder of the same prefix.
    for prefix in [*package.parents, Path(sys.prefix)]:
        candidate = prefix / "share" / "mbrl_ros"
        if (candidate / "config").is_dir():
            return candidate
    raise FileNotFoundError(
        f"the folder share/mbrl_ros was not found above {package}; reinstall the package"
    )


def config_directory() -> Path:
    """Return the folder of the YAML files: one a node, and `robots/`."""
    return share_directory() / "config"
