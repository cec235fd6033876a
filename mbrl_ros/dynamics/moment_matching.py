# Copyright 2026 The mbrl_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Analytic uncertainty propagation for Gaussian processes, as a reference.

The predictive distribution under an uncertain input is approximated by the Gaussian of the same
mean and covariance, which for a squared-exponential kernel are known in closed form (Deisenroth
and Rasmussen, "PILCO", ICML 2011; Deisenroth, "Efficient Reinforcement Learning using Gaussian
Processes", 2010, sections 2.3 and A.1). Far too slow to plan with, and exact where sampling
is not.
"""

from __future__ import annotations

import torch
from torch import Tensor

from mbrl_ros.dynamics.features import FeatureMap
from mbrl_ros.dynamics.kernel_model import KernelModel, Posterior


def propagate_moments(
    model: KernelModel, mean: Tensor, covariance: Tensor, actions: Tensor
) -> tuple[Tensor, Tensor]:
    """Propagate a Gaussian state through H actions.

    mean (D,), covariance (D, D), actions (H, A) -> means (H + 1, D), covariances
    (H + 1, D, D), the first being those given. The covariances contain the process noise.
    Raises ValueError if the model knows nothing yet.
    """
    if not model.transitions:
        raise ValueError("moments cannot be propagated through a model that knows nothing yet")
    means, covariances = [mean.double()], [covariance.double()]
    for action in actions.double():
        mean, covariance = _step(model, means[-1], covariances[-1], action)
        means.append(mean)
        covariances.append(covariance)
    return torch.stack(means), torch.stack(covariances)


def _step(
    model: KernelModel, mean: Tensor, covariance: Tensor, action: Tensor
) -> tuple[Tensor, Tensor]:
    size = len(mean)
    raw_mean, raw_covariance, raw_cross = feature_moments(model.features, mean, covariance, action)
    posterior = model.posterior()
    scale = posterior.input.scale
    input_mean = posterior.input.normalise(raw_mean)
    input_covariance = raw_covariance / scale[:, None] / scale
    change, change_covariance, gain = _predict(posterior, input_mean, input_covariance)

    target_scale = posterior.target.scale[:size]
    change = change[:size] * target_scale + posterior.target.mean[:size]
    change_covariance = change_covariance[:size, :size] * target_scale[:, None] * target_scale
    # Covariance of state and change: by way of the inputs, jointly Gaussian with the state.
    cross = (raw_cross / scale) @ gain[:, :size] * target_scale
    after = covariance + change_covariance + cross + cross.T
    return mean + change, 0.5 * (after + after.T)


def feature_moments(
    features: FeatureMap, mean: Tensor, covariance: Tensor, action: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Return mean (F,), covariance (F, F) of the inputs, and that of state with inputs (D, F).

    Of a Gaussian state, mean (D,), covariance (D, D), and a known action (A,).
    """
    plain, angles = features.plain, features.circular
    first_sine = len(plain)
    first_cosine = first_sine + len(angles)
    result = torch.cat([mean[plain], mean.new_zeros(2 * len(angles)), action])
    joint = mean.new_zeros(features.size, features.size)
    cross = mean.new_zeros(len(mean), features.size)
    variance = covariance.diagonal()[angles]
    decay = torch.exp(-0.5 * variance)
    sine, cosine = torch.sin(mean[angles]), torch.cos(mean[angles])
    result[first_sine:first_cosine] = decay * sine
    result[first_cosine : first_cosine + len(angles)] = decay * cosine

    cross[:, :first_sine] = covariance[:, plain]
    cross[:, first_sine:first_cosine] = covariance[:, angles] * (decay * cosine)
    cross[:, first_cosine : first_cosine + len(angles)] = covariance[:, angles] * (-decay * sine)
    joint[:first_sine] = cross[plain]
    joint[:, :first_sine] = cross[plain].T
    # E[cos(a - b)] and E[cos(a + b)] of two jointly Gaussian angles, and the sines.
    total = variance[:, None] + variance
    between = covariance[angles][:, angles]
    minus, plus = torch.exp(-0.5 * total + between), torch.exp(-0.5 * total - between)
    difference = mean[angles][:, None] - mean[angles]
    summed = mean[angles][:, None] + mean[angles]
    cos_minus, cos_plus = minus * torch.cos(difference), plus * torch.cos(summed)
    sin_minus, sin_plus = minus * torch.sin(difference), plus * torch.sin(summed)
    sines, cosines = decay * sine, decay * cosine
    s, c = slice(first_sine, first_cosine), slice(first_cosine, first_cosine + len(angles))
    joint[s, s] = 0.5 * (cos_minus - cos_plus) - sines[:, None] * sines
    joint[c, c] = 0.5 * (cos_minus + cos_plus) - cosines[:, None] * cosines
    joint[s, c] = 0.5 * (sin_plus + sin_minus) - sines[:, None] * cosines
    joint[c, s] = joint[s, c].T
    return result, joint, cross


def _predict(
    posterior: Posterior, mean: Tensor, covariance: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Predict at a Gaussian input: mean (F,), covariance (F, F), normalised.

    Returns mean (K,), covariance (K, K) of what is observed, and (F, K): covariance of input
    and output, divided by that of the input (Deisenroth, 2010, eqs. 2.34 to 2.55).
    """
    points, weights = posterior.points, posterior.weights
    hyperparameters = posterior.hyperparameters
    outputs, size = hyperparameters.log_lengthscale.shape
    identity = torch.eye(size, dtype=mean.dtype)
    offset = points - mean  # (n, F)
    inverse = torch.exp(-2.0 * hyperparameters.log_lengthscale)  # (K, F)
    signal = hyperparameters.signal

    # The mean: kernels smeared by the input's covariance.
    spread = covariance + torch.diag_embed(1.0 / inverse)  # (K, F, F)
    solved = torch.linalg.solve(spread, offset.T.expand(outputs, -1, -1))  # (K, F, n)
    volume = torch.linalg.det(covariance * inverse[:, None, :] + identity).rsqrt()
    smeared = torch.exp(-0.5 * (offset.T * solved).sum(1)) * (signal * volume)[:, None]
    contributions = weights * smeared  # (K, n)
    result = contributions.sum(1)
    gain = (solved @ contributions[:, :, None])[:, :, 0].T  # (F, K)

    result_covariance = mean.new_zeros(outputs, outputs)
    for a in range(outputs):
        for b in range(a + 1):
            product = _second_moment(
                offset, inverse[a], inverse[b], signal[a], signal[b], covariance
            )
            value = weights[a] @ product @ weights[b] - result[a] * result[b]
            if a == b:
                explained = (posterior.explaining[a] * product).sum()
                value = value + signal[a] - explained + posterior.noise[a]
            result_covariance[a, b] = result_covariance[b, a] = value
    return result, result_covariance, gain


def _second_moment(
    offset: Tensor,
    first: Tensor,
    second: Tensor,
    first_signal: Tensor,
    second_signal: Tensor,
    covariance: Tensor,
) -> Tensor:
    """Return E[k_a(x, x_i) k_b(x, x_j)], (n, n), of inverse squared length scales (F,)."""
    identity = torch.eye(len(covariance), dtype=covariance.dtype)
    spread = covariance * (first + second) + identity  # R of eq. 2.53
    a, b = offset * first, offset * second  # (n, F)
    middle = torch.linalg.solve(spread, covariance)
    exponent = -0.5 * (offset * a).sum(1)[:, None] - 0.5 * (offset * b).sum(1)
    exponent = exponent + 0.5 * ((a @ middle) * a).sum(1)[:, None]
    exponent = exponent + 0.5 * ((b @ middle) * b).sum(1) + a @ middle @ b.T
    return first_signal * second_signal * exponent.exp() * torch.linalg.det(spread).rsqrt()
