# Copyright 2026 The mbrl_ros authors
# SPDX-License-Identifier: Apache-2.0
"""What the exact GP gains by growing its factor, and how near its prediction is to the least."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from functools import partial
from statistics import median

import torch
from torch import Tensor

from mbrl_ros.benchmarks.logs import TASKS, BenchmarkError, transitions
from mbrl_ros.benchmarks.timing import one_thread, seconds
from mbrl_ros.dynamics.gp import GaussianProcess
from mbrl_ros.dynamics.hyperparameters import Hyperparameters

__all__ = ["BenchmarkError", "GPResult", "run"]

POINTS = 400
ROWS = 500  # predicted at once
TURN = 10  # repetitions
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

    def summary(self) -> str:
        """Say it in three lines."""
        return (
            f"one transition at {POINTS} points: {self.update_ms:.2f} ms, from nothing "
            f"{self.refactorise_ms:.2f} ms: {self.update_ratio:.1f} times as long "
            f"(at least {LEAST_UPDATE_RATIO:g})\n"
            f"largest difference of the means: {self.mean_difference:.1e} "
            f"(at most {LARGEST_DIFFERENCE:g})\n"
            f"mean of {ROWS} predictions: {self.predict_ms:.2f} ms, bare products and exponential "
            f"{self.bare_ms:.2f} ms: {self.predict_ratio:.2f} times as long "
            f"(at most {LARGEST_PREDICT_RATIO:g})"
        )


@one_thread()
def run(seed: int = 0, turns: int = 6) -> GPResult:
    """Measure on the cart-pole's log.

    What is compared takes turns of TURN repetitions each: all see the same machine, and each
    finds in the processor's caches what it left there. The points grow in the meantime, so
    that they are POINTS on average. Raises BenchmarkError if MuJoCo is missing.
    """
    log = TASKS["cartpole"].log(seed)
    data, rows = transitions(log.training), transitions(log.test)[:ROWS]
    data = data[torch.randperm(len(data), generator=torch.Generator().manual_seed(seed))]
    inputs = log.features.inputs(rows.states, rows.actions)

    size = POINTS - turns * TURN // 2
    model = GaussianProcess(log.features, max_points=POINTS, seed=seed)
    model.update(data[:size])
    model.improve()
    predicting = copy.deepcopy(model)
    predicting.update(data[size:POINTS])

    update_s: list[float] = []
    refactorise_s: list[float] = []
    difference = 0.0
    for _ in range(turns):
        for _ in range(TURN):
            update_s.append(seconds(partial(model.update, data[size : size + 1])))
            size += 1
        reference = _Reference(model)
        refactorise_s += [seconds(reference.refactorise) for _ in range(TURN)]
        means = reference.normalised(model.outputs(rows.states, rows.actions)[0])
        difference = max(difference, float((means - reference.mean(inputs)).abs().max()))

    bare = _Bare(predicting)
    predict = partial(predicting.rollout, rows.states.float(), rows.actions.float()[None])
    predict_s: list[float] = []
    bare_s: list[float] = []
    for _ in range(5 * turns):
        predict_s += [seconds(predict) for _ in range(TURN)]
        bare_s += [seconds(bare.compute) for _ in range(TURN)]

    medians = [1e3 * median(s) for s in (update_s, refactorise_s, predict_s, bare_s)]
    update_ms, refactorise_ms, predict_ms, bare_ms = medians
    return GPResult(
        update_ms=update_ms,
        refactorise_ms=refactorise_ms,
        update_ratio=refactorise_ms / update_ms,
        mean_difference=difference,
        predict_ms=predict_ms,
        bare_ms=bare_ms,
        predict_ratio=predict_ms / bare_ms,
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
