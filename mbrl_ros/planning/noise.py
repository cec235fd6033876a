# Copyright 2026 The mbrl_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Noise whose power falls with frequency, for exploration that moves a robot."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import torch
from torch import Tensor

_MATRIX = 200  # steps up to which a matrix product is faster than Fourier transforms


def coloured_noise(
    exponent: float, horizon: int, count: int, dimensions: int, generator: torch.Generator
) -> Tensor:
    """Draw `count` sequences of unit-variance noise with power spectrum 1 / f^exponent.

    Timmer and Koenig, "On generating power law noise" (1995), as used for planning by
    Pinneri et al., "Sample-efficient cross-entropy method for real-time planning" (2020).
    exponent: 0 is white, 1 pink, 2 red. Returns (horizon, count, dimensions), float32.
    """
    parts = torch.randn(2, count, dimensions, horizon + 1, generator=generator)
    if horizon > _MATRIX:
        noise = _from_spectrum(parts * _amplitudes(exponent, horizon), horizon)
        return noise.permute(2, 0, 1)
    cosines, sines = _waves(exponent, horizon)
    real, imaginary = parts.flatten(1, 2)
    noise = torch.addmm(torch.mm(cosines, real.T), sines, imaginary.T)
    return noise.view(horizon, count, dimensions)


def _from_spectrum(parts: Tensor, horizon: int) -> Tensor:
    """Return sequences (..., horizon) of the parts (2, ..., horizon + 1) of their spectrum."""
    spectrum = torch.complex(parts[0], parts[1])
    spectrum[..., 0].imag.zero_()
    spectrum[..., -1].imag.zero_()
    # Twice the horizon, cut in half: a periodic sequence would end where it begins.
    return torch.fft.irfft(spectrum, n=2 * horizon)[..., :horizon]


@lru_cache(maxsize=16)
def _amplitudes(exponent: float, horizon: int) -> Tensor:
    """Return the deviation of each frequency's two parts, (horizon + 1,), for unit variance."""
    length = 2 * horizon
    frequencies = torch.fft.rfftfreq(length)
    frequencies[0] = frequencies[1]
    amplitude = frequencies.pow(-exponent / 2.0)
    # Inner frequencies are complex and stand for two; the first and the last are real.
    power = 4.0 * amplitude.square().sum() - 3.0 * amplitude[[0, -1]].square().sum()
    return amplitude * (length / power.sqrt())


@lru_cache(maxsize=16)
def _waves(exponent: float, horizon: int) -> Tensor:
    """Return what a unit of each part of the spectrum makes of it: (2, horizon, horizon + 1)."""
    unit = torch.diag(_amplitudes(exponent, horizon))
    parts = torch.zeros(2, 2, *unit.shape)
    parts[0, 0] = parts[1, 1] = unit
    return _from_spectrum(parts, horizon).mT.contiguous()


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
