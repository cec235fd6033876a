# Copyright 2026 The mbrl_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Noise whose power falls with frequency, for exploration that moves a robot."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import torch
from torch import Tensor


def coloured_noise(
    exponent: float, horizon: int, count: int, dimensions: int, generator: torch.Generator
) -> Tensor:
    """Draw `count` sequences of unit-variance noise with power spectrum 1 / f^exponent.

    Timmer and Koenig, "On generating power law noise" (1995), as used for planning by
    Pinneri et al., "Sample-efficient cross-entropy method for real-time planning" (2020).
    exponent: 0 is white, 1 pink, 2 red. Returns (horizon, count, dimensions), float32.
    """
    # Twice the horizon, cut in half: a periodic sequence would end where it begins.
    length = 2 * horizon
    amplitude = _amplitudes(exponent, length)
    phases = torch.randn(2, count, dimensions, len(amplitude), generator=generator)
    spectrum = torch.complex(phases[0], phases[1]).mul_(amplitude)
    spectrum[..., 0].imag.zero_()
    spectrum[..., -1].imag.zero_()
    noise = torch.fft.irfft(spectrum, n=length)[..., :horizon]
    return noise.permute(2, 0, 1).contiguous()


@lru_cache(maxsize=16)
def _amplitudes(exponent: float, length: int) -> Tensor:
    """Return the standard deviation of each frequency's two parts, for unit variance in time."""
    frequencies = torch.fft.rfftfreq(length)
    frequencies[0] = frequencies[1]
    amplitude = frequencies.pow(-exponent / 2.0)
    # Inner frequencies are complex and stand for two; the first and the last are real.
    power = 4.0 * amplitude.square().sum() - 3.0 * amplitude[[0, -1]].square().sum()
    return amplitude * (length / power.sqrt())


def random_actions(
    lower: Sequence[float], upper: Sequence[float], share: float, steps: int, seed: int
) -> Tensor:
    """Draw smooth actions (steps, A) for a robot that does not know itself yet.

    Pink noise around the middle of the bounds (A,), its standard deviation `share` of half
    their range, clamped to them.
    """
    low, high = torch.tensor(lower), torch.tensor(upper)
    generator = torch.Generator().manual_seed(seed)
    noise = coloured_noise(1.0, steps, 1, len(low), generator)[:, 0]
    actions = (low + high) / 2.0 + share * noise * (high - low) / 2.0
    return torch.clamp(actions, low, high)
