# Copyright 2026 The mbrl_ros authors
# SPDX-License-Identifier: Apache-2.0
"""A model of another library behind this package's interface, for comparison only."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from mbrl_ros.dynamics.model import DynamicsModel


class Peer(DynamicsModel):
    """What peers share: they are judged by the same code, but never sent to a planner."""

    def snapshot(self) -> dict[str, Tensor]:
        """Refuse: a peer has no snapshot."""
        raise NotImplementedError("models of other libraries have no snapshot")

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Refuse: a peer has no snapshot."""
        raise NotImplementedError("models of other libraries have no snapshot")
