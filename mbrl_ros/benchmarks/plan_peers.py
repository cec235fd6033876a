# Copyright 2026 The mbrl_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Planners of other libraries, used as their own examples do, for comparison only."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import silu

from mbrl_ros.dynamics.ensemble import Ensemble
from mbrl_ros.dynamics.model import DynamicsModel, Step, Transitions
from mbrl_ros.planning.objective import Objective, Steps
from mbrl_ros.robots.spec import RobotSpec

Plan = Callable[[], int]  # makes one plan, returns how many action sequences it evaluated

_IMPORTS = {
    "pytorch-mppi": "pytorch_mppi",
    "pytorch-icem": "pytorch_icem",
    "mbrl-lib": "mbrl.planning.trajectory_opt",
    "gpytorch": "gpytorch",
}
_NOISE = 0.5  # share of half the action's range
_ELITE_SHARE = 0.1


@dataclass(frozen=True)
class Task:
    """The same for all: cost, dynamics, state (D,), goal (G,), bounds (A,) and size of a plan."""

    objective: Objective
    step: Step
    state: Tensor
    goal: Tensor
    lower: Tensor
    upper: Tensor
    samples: int
    horizon: int

    def cost(self, states: Tensor, actions: Tensor) -> Tensor:
        """Return the cost (...) of states (..., D) that actions (..., A) led to."""
        steps = Steps(states, actions, states, actions, self.goal)
        return self.objective.stage_cost(steps)


def check(library: str) -> None:
    """Raise ImportError if a library of others is missing."""
    if library in _IMPORTS:
        import_module(_IMPORTS[library])


# -- an ensemble as a dynamics function, written as one would for these libraries -----------


def one_member_a_row(model: Ensemble) -> Step:
    """Each row is evaluated by one member: states (N, D), N a multiple of M, actions (N, A)."""
    predict = _mean_changes(model)

    @torch.no_grad()
    def step(states: Tensor, actions: Tensor) -> Tensor:
        inputs = model.features.inputs(states, actions)
        grouped = inputs.view(model.members, -1, inputs.shape[-1])
        return states + predict(grouped).view(states.shape)

    return step


def all_members(model: Ensemble) -> Step:
    """Each row moves with the average of all members."""
    predict = _mean_changes(model)

    @torch.no_grad()
    def step(states: Tensor, actions: Tensor) -> Tensor:
        inputs = model.features.inputs(states, actions)
        return states + predict(inputs.expand(model.members, -1, -1)).mean(0)

    return step


def _mean_changes(model: Ensemble) -> Callable[[Tensor], Tensor]:
    networks, size = model.folded(), model.features.state_dimensions
    *hidden, (weight, bias) = zip(networks.weights, networks.biases, strict=True)
    weight, bias = weight[..., :size].contiguous(), bias[..., :size].contiguous()

    def predict(x: Tensor) -> Tensor:
        for layer_weight, layer_bias in hidden:
            x = silu(torch.baddbmm(layer_bias, x, layer_weight))
        return torch.baddbmm(bias, x, weight)

    return predict


# -- planners -------------------------------------------------------------------------------


def pytorch_mppi(task: Task) -> Plan:
    """MPPI of pytorch-mppi."""
    library: Any = import_module("pytorch_mppi")
    deviation = _NOISE * (task.upper - task.lower) / 2.0
    planner = library.MPPI(
        task.step,
        task.cost,
        len(task.state),
        torch.diag(deviation.square()),
        num_samples=task.samples,
        horizon=task.horizon,
        u_min=task.lower,
        u_max=task.upper,
    )

    def plan() -> int:
        planner.command(task.state)
        return task.samples

    return plan


def pytorch_icem(task: Task) -> Plan:
    """One iteration of iCEM of pytorch-icem."""
    library: Any = import_module("pytorch_icem")
    with warnings.catch_warnings():  # it copies a tensor in a way that PyTorch warns of
        warnings.simplefilter("ignore", UserWarning)
        planner = library.iCEM(
            task.step,
            lambda states, actions: task.cost(states, actions).sum(-1),
            len(task.state),
            len(task.lower),
            sigma=_NOISE * (task.upper - task.lower) / 2.0,
            num_samples=task.samples,
            num_elites=max(round(_ELITE_SHARE * task.samples), 2),
            horizon=task.horizon,
            warmup_iters=1,
            online_iters=1,
        )

    def plan() -> int:
        planner.command(task.state)
        return task.samples

    return plan


def mbrl_lib(planner: str, task: Task, model: Ensemble, mean: bool) -> Plan:
    """One iteration of mbrl-lib's MPPI, iCEM or CEM, with its own ensemble of the same size.

    It evaluates sequences by ModelEnv; mean: propagation `expectation`, else `fixed_model`.
    """
    models: Any = import_module("mbrl.models")
    optimisers: Any = import_module("mbrl.planning.trajectory_opt")
    wrapped = _mbrl_lib_ensemble(model, mean)
    environment = models.ModelEnv(
        SimpleNamespace(observation_space=None, action_space=None),
        wrapped,
        lambda actions, states: torch.zeros(len(states), 1, dtype=torch.bool),
        lambda actions, states: -task.cost(states, actions)[:, None],
    )
    lower, upper = (bound.expand(task.horizon, -1).tolist() for bound in (task.lower, task.upper))
    common = {"num_iterations": 1, "population_size": task.samples, "device": "cpu"}
    common |= {"lower_bound": lower, "upper_bound": upper}
    if planner == "mppi":
        optimiser = optimisers.MPPIOptimizer(gamma=1.0, sigma=_NOISE, beta=0.6, **common)
    elif planner == "icem":
        optimiser = optimisers.ICEMOptimizer(
            elite_ratio=_ELITE_SHARE,
            population_decay_factor=1.25,
            colored_noise_exponent=2.0,
            keep_elite_frac=0.3,
            alpha=0.1,
            population_size_module=model.members,
            **common,
        )
    else:
        optimiser = optimisers.CEMOptimizer(elite_ratio=_ELITE_SHARE, alpha=0.1, **common)
    solution = ((task.lower + task.upper) / 2.0).repeat(task.horizon, 1)
    state = task.state.numpy()
    evaluated = 0

    def value(sequences: Tensor) -> Tensor:
        nonlocal evaluated
        evaluated = len(sequences)
        values: Tensor = environment.evaluate_action_sequences(sequences, state, 1)
        return values

    def plan() -> int:
        nonlocal solution
        solution = optimiser.optimize(value, x0=solution).roll(-1, dims=0)
        solution[-1] = 0.0
        return evaluated

    return plan


def _mbrl_lib_ensemble(model: Ensemble, mean: bool) -> Any:
    from mbrl_ros.benchmarks.mbrl_lib_ensemble import MbrlLibEnsemble

    peer = MbrlLibEnsemble(model.features, activation={"_target_": "torch.nn.SiLU"})
    return peer.wrapped("expectation" if mean else "fixed_model")


def gpytorch_gp(data: Transitions, points: int, robot: RobotSpec) -> DynamicsModel:
    """Return GPyTorch's GP that rests on these data, little fitted."""
    from mbrl_ros.benchmarks.gpytorch_gp import GPyTorchGP
    from mbrl_ros.dynamics.features import FeatureMap

    features = FeatureMap.of(robot)
    model = GPyTorchGP(features, points, fit_steps=20)
    model.update(data)
    return model
