# Copyright 2026 The mbrl_ros authors
# SPDX-License-Identifier: Apache-2.0
"""What the exact GP gains by growing its factor, and how near its prediction is to the least."""

from __future__ import annotations

import copy
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from mbrl_ros.benchmarks.logs import TASKS, transitions
from mbrl_ros.benchmarks.threads import one_thread
from mbrl_ros.dynamics.gp import GaussianProcess
from mbrl_ros.dynamics.hyperparameters import Hyperparameters

POINTS = 400
ROWS = 500  # predicted at once
LEAST_UPDATE_RATIO = 20.0
LARGEST_DIFFERENCE = 1e-6
LARGEST_PREDICT_RATIO = 1.5


@dataclass(frozen=True)
class GPResult:
    """Medians in ms of the GP at POINTS points, 4 outputs and 6 inputs, on one thread.

    update_ms: of taking in one transition; refactorise_ms: of kernel matrix, Cholesky factor
    and weights from nothing, in float64; update_ratio: the second over the first.
    mean_difference: the largest between the means that both predict, in standard deviations of
    the targets. predict_ms: of the mean of ROWS predictions; bare_ms: of the two matrix
    products and the exponential in them, in float32; predict_ratio: the first over the second.
    """

    update_ms: float
    refactorise_ms: float
    update_ratio: float
    mean_difference: float
    predict_ms: float
    bare_ms: float
    predict_ratio: float

    @property
    def met(self) -> bool:
        """Whether every ratio is what it has to be."""
        return (
            self.update_ratio >= LEAST_UPDATE_RATIO
            and self.mean_difference <= LARGEST_DIFFERENCE
            and self.predict_ratio <= LARGEST_PREDICT_RATIO
        )


@one_thread()
def run(seed: int = 0, updates: int = 30, predictions: int = 300) -> GPResult:
    """Measure on the cart-pole's log; what is compared takes turns, so that both see the same.

    The points grow from POINTS - updates / 2 on, so that they are POINTS on average.
    """
    log = TASKS["cartpole"].log(seed)
    data = transitions(log.training)
    order = torch.randperm(len(data), generator=torch.Generator().manual_seed(seed))
    data = data[order]
    rows = transitions(log.test)[:ROWS]
    states, actions = rows.states, rows.actions

    begin = POINTS - updates // 2
    model = GaussianProcess(log.features, max_points=POINTS, seed=seed)
    model.update(data[:begin])
    model.improve()
    grown, predicting = model, copy.deepcopy(model)

    update_s, refactorise_s, difference = [], [], 0.0
    for i in range(begin, begin + updates):
        new = data[i : i + 1]
        update_s.append(_seconds(lambda new=new: grown.update(new)))
        reference = _Reference(grown)
        refactorise_s.append(_seconds(reference.refactorise))
        means = reference.normalised(grown.outputs(states, actions)[0])
        inputs = log.features.inputs(states, actions)
        difference = max(difference, float((means - reference.mean(inputs)).abs().max()))

    predicting.update(data[begin:POINTS])
    bare = _Bare(predicting)
    wide, pushes = states.float(), actions.float()[None]
    predict_s, bare_s = [], []
    for _ in range(predictions):
        predict_s.append(_seconds(lambda: predicting.rollout(wide, pushes)))
        bare_s.append(_seconds(bare.compute))

    medians = [statistics.median(s) for s in (update_s, refactorise_s, predict_s, bare_s)]
    update, refactorise, predict, least = (1e3 * median for median in medians)
    return GPResult(
        update_ms=update,
        refactorise_ms=refactorise,
        update_ratio=refactorise / update,
        mean_difference=difference,
        predict_ms=predict,
        bare_ms=least,
        predict_ratio=predict / least,
    )


class _Reference:
    """The same posterior as a model's, computed from its data alone, in float64."""

    def __init__(self, model: GaussianProcess) -> None:
        self._tensors = {name: tensor.clone() for name, tensor in model.snapshot().items()}
        names = ("log_lengthscale", "log_signal", "log_noise")
        self._hyperparameters = Hyperparameters(*(self._tensors[name] for name in names))
        self._weights = torch.zeros(0)

    def refactorise(self) -> None:
        covariance = self._hyperparameters.covariance(self._tensors["inputs"])
        factor = torch.linalg.cholesky(covariance)
        targets = self._tensors["targets"].T[:, :, None]
        self._weights = torch.cholesky_solve(targets, factor)

    def mean(self, inputs: Tensor) -> Tensor:
        """Return the mean (N, K) at inputs (N, F) as they are, in normalised units."""
        inputs = (inputs - self._tensors["input_mean"]) / self._tensors["input_scale"]
        kernel = self._hyperparameters.kernel(inputs, self._tensors["inputs"])
        return (kernel @ self._weights)[:, :, 0].T

    def normalised(self, outputs: Tensor) -> Tensor:
        return (outputs - self._tensors["target_mean"]) / self._tensors["target_scale"]


class _Bare:
    """What no prediction with this kernel can do without, on numbers of the same size."""

    def __init__(self, model: GaussianProcess) -> None:
        tensors = model.snapshot()
        outputs, points = tensors["weights"].shape
        columns = 2 * model.features.size + 1
        generator = torch.Generator().manual_seed(0)
        # Logarithms of a kernel: mostly between -10 and 0, as in a fitted model.
        self._rows = torch.rand(ROWS, columns, generator=generator).expand(outputs, -1, -1)
        self._matrix = torch.rand(outputs, columns, points, generator=generator) * (-10 / columns)
        self._weights = tensors["weights"].float()[:, :, None].contiguous()
        self._kernel = torch.empty(outputs, ROWS, points)
        self._mean = torch.empty(outputs, ROWS, 1)

    def compute(self) -> None:
        torch.bmm(self._rows, self._matrix, out=self._kernel)
        self._kernel.exp_()
        torch.bmm(self._kernel, self._weights, out=self._mean)


def _seconds(call: Callable[[], object]) -> float:
    begin = time.perf_counter()
    call()
    return time.perf_counter() - begin
