# Copyright 2026 The mbrl_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Whole episodes in a Gymnasium environment, to judge what was learned."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

Values = NDArray[np.float64]


def evaluate(
    act: Callable[[Values], Any], environment: Any, episodes: int, seed: int
) -> list[float]:
    """Return the sum of rewards of each of so many episodes; the same seed, the same episodes.

    act: returns the environment's action in state (D,). seed: >= 0.
    """
    returns = []
    for episode in range(episodes):
        state, _ = environment.reset(seed=seed + episode)
        total, over = 0.0, False
        while not over:
            state, reward, terminated, truncated, _ = environment.step(act(state))
            total += float(reward)
            over = terminated or truncated
        returns.append(total)
    return returns
