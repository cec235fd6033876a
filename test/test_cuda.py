# Copyright 2026 The mbrl_ros authors
# SPDX-License-Identifier: Apache-2.0
"""What is computed on a GPU, against the same on the CPU; skipped where there is none."""

import threading

import pytest
import torch

from mbrl_ros.dynamics.model import PROPAGATIONS, Transitions, make_model, one_step_error
from mbrl_ros.planning.planner import Problem, make_planner
from mbrl_ros.robots import load_robot

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="PyTorch finds no GPU")


def experience(steps=400, seed=0):
    """Return transitions of a cart with a pendulum, of no particular robot."""
    generator = torch.Generator().manual_seed(seed)
    states = torch.randn(steps, 4, generator=generator).double()
    actions = 5.0 * torch.randn(steps, 1, generator=generator).double()
    rates = [states[:, 1], actions[:, 0], states[:, 3], 9.81 * states[:, 2].sin()]
    return Transitions(states, actions, states + 0.05 * torch.stack(rates, 1))


def learned(kind, slices=30, **options):
    model = make_model(kind, load_robot("cartpole"), **options)
    model.update(experience())
    for _ in range(slices):
        model.improve()
    return model


def start_and_actions(rows, horizon):
    generator = torch.Generator().manual_seed(1)
    states = 0.3 * torch.randn(rows, 4, generator=generator)
    return states, 3.0 * torch.randn(horizon, rows, 1, generator=generator)


@needs_gpu
@pytest.mark.parametrize("kind", ["ensemble", "mlp", "gp", "svgp"])
@pytest.mark.parametrize("propagation", PROPAGATIONS)
def test_rollouts_on_a_gpu_agree(kind, propagation):
    model = learned(kind, slices=10)
    if "cuda" not in model.engines(propagation):
        pytest.skip(f"{kind} draws {propagation} on the CPU only")
    for rows, horizon in ((37, 12), (37, 5), (200, 12), (37, 12)):
        states, actions = start_and_actions(rows, horizon)
        here, there = (
            model.rollout(
                states, actions, propagation, torch.Generator().manual_seed(2), engine=engine
            )
            for engine in ("eager", "cuda")
        )
        assert there.device.type == "cpu"
        assert there.shape == here.shape
        assert torch.allclose(here, there, rtol=1e-3, atol=1e-3)
    other = model.rollout(-states, actions, propagation, engine="cuda")
    assert not torch.allclose(other[1], there[1], atol=1e-2)


@needs_gpu
def test_rounding_on_a_gpu_is_that_of_eight_bits():
    model = learned("ensemble")
    states, actions = start_and_actions(100, 5)
    exact = model.rollout(states, actions, "pathwise")
    rounded = model.rollout(states, actions, "pathwise", precision="bfloat16", engine="cuda")
    assert 0.0 < float((exact - rounded).abs().max()) < 0.3


@needs_gpu
@pytest.mark.parametrize("kind", ["ensemble", "gp"])
def test_plans_made_on_a_gpu_are_those_of_the_cpu(kind):
    robot, model = load_robot("cartpole"), learned(kind)
    problem = Problem(torch.tensor([0.1, 0.0, 0.3, 0.0]), torch.zeros(2), torch.zeros(1))
    plans = []
    for optimize in ("none", "cuda"):
        planner = make_planner("mppi", robot, samples=200, horizon=15, optimize=optimize)
        remarks = planner.prepare(model)
        assert not any("does not work" in remark for remark in remarks), remarks
        plans.append(planner.plan(problem, model, None))
    here, there = plans
    assert there.samples == here.samples
    assert there.cost == pytest.approx(here.cost, rel=0.02)
    assert torch.allclose(here.actions, there.actions, atol=0.2)


@needs_gpu
@pytest.mark.parametrize("kind", ["ensemble", "gp"])
def test_a_model_is_prepared_while_plans_are_made_with_the_one_before(kind):
    robot, model = load_robot("cartpole"), learned(kind, slices=5)
    planner = make_planner("mppi", robot, samples=200, horizon=15, optimize="cuda")
    planner.prepare(model)
    problem = Problem(torch.tensor([0.1, 0.0, 0.3, 0.0]), torch.zeros(2), torch.zeros(1))
    expected = planner.plan(problem, model, None)
    done = threading.Event()
    errors = []

    def prepare():
        try:
            for seed in range(10):
                after = make_model(kind, robot, seed=seed)
                after.restore(model.snapshot())
                planner.prepare(after)
        except Exception as error:  # it must reach the test
            errors.append(error)
        finally:
            done.set()

    thread = threading.Thread(target=prepare)
    thread.start()
    plans = 0
    while not done.is_set():
        plan = planner.plan(problem, model, None)
        assert torch.equal(plan.actions, expected.actions)
        plans += 1
    thread.join()
    assert errors == []
    assert plans > 0


@needs_gpu
@pytest.mark.parametrize("kind", ["ensemble", "mlp"])
@pytest.mark.parametrize("loss_steps", [1, 3])
def test_training_on_a_gpu_learns_as_well(kind, loss_steps):
    unseen = experience(200, seed=7)
    errors = {}
    for device in ("cpu", "cuda"):
        model = learned(kind, device=device, loss_steps=loss_steps)
        model.update(experience(100, seed=3))  # other normalisers
        model.improve()
        assert all(tensor.device.type == "cpu" for tensor in model.snapshot().values())
        errors[device] = one_step_error(model, unseen)
        restored = make_model(kind, load_robot("cartpole"))
        restored.restore(model.snapshot())
        again = restored.predict(unseen.states, unseen.actions)[0]
        assert torch.equal(again, model.predict(unseen.states, unseen.actions)[0])
    assert errors["cuda"] < 1.3 * errors["cpu"] + 0.01


@needs_gpu
def test_auto_takes_the_gpu():
    assert make_model("ensemble", load_robot("cartpole"), device="auto").device.type == "cuda"


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_it_is_said_so():
    robot = load_robot("cartpole")
    assert make_model("ensemble", robot, device="auto").device.type == "cpu"
    with pytest.raises(ValueError, match="device is 'cuda', but PyTorch finds no GPU here"):
        make_model("ensemble", robot, device="cuda")
    with pytest.raises(ValueError, match="device is 'gpu', expected cpu, cuda, auto"):
        make_model("ensemble", robot, device="gpu")
    planner = make_planner("mppi", robot, samples=10, horizon=3, optimize="cuda")
    remarks = planner.prepare(learned("gp", slices=0))
    assert any("CUDA does not work here, going on without" in remark for remark in remarks)
