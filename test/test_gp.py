# Copyright 2026 The mbrl_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Features and the Gaussian processes."""

import math
from dataclasses import replace

import pytest
import torch
from pendulum import learn, pendulum

from mbrl_ros.dynamics.action_map import ActionMap
from mbrl_ros.dynamics.compact_mean import CompactMean, fewest_points
from mbrl_ros.dynamics.features import FeatureMap, wrap_angle
from mbrl_ros.dynamics.gp import GaussianProcess
from mbrl_ros.dynamics.hyperparameters import Hyperparameters
from mbrl_ros.dynamics.model import PROPAGATIONS, DynamicsModel, Transitions, one_step_error
from mbrl_ros.dynamics.moment_matching import feature_moments, propagate_moments
from mbrl_ros.dynamics.svgp import SparseGaussianProcess


@pytest.fixture
def features():
    return FeatureMap([True, False], 1)


@pytest.fixture(scope="module", params=[GaussianProcess, SparseGaussianProcess])
def learned(request):
    return learn(request.param(FeatureMap([True, False], 1), seed=1), pendulum(150))


def test_angles_enter_as_sine_and_cosine(features):
    inputs = features.inputs(torch.tensor([[math.pi / 2, 3.0]]), torch.tensor([[7.0]]))
    assert torch.allclose(inputs, torch.tensor([[3.0, 1.0, 0.0, 7.0]]), atol=1e-6)


def test_deltas_go_the_shorter_way_round(features):
    deltas = features.deltas(torch.tensor([[3.1, 0.0]]), torch.tensor([[-3.1, 1.0]]))
    assert torch.allclose(deltas, torch.tensor([[2 * math.pi - 6.2, 1.0]]))


def test_one_example_is_a_row_of_many(features):
    data = pendulum(50)
    inputs = features.inputs(data.states, data.actions)
    deltas = features.deltas(data.states, data.next_states)
    for i in range(50):
        row = (data.states[i].numpy(), data.actions[i].numpy(), data.next_states[i].numpy())
        mine = features.example(*row)
        assert torch.allclose(torch.from_numpy(mine[0]), inputs[i], atol=1e-12)
        assert torch.allclose(torch.from_numpy(mine[1]), deltas[i], atol=1e-12)


def test_gp_learns_a_pendulum(learned):
    assert one_step_error(learned, pendulum(300, seed=9)) < 0.03
    assert learned.transitions == 150


def test_gp_knows_what_it_does_not_know(learned):
    known = pendulum(150)
    _, near = learned.predict(known.states, known.actions)
    _, far = learned.predict(torch.tensor([[0.0, 80.0]]), torch.tensor([[40.0]]))
    assert (far > 20.0 * near.mean(0)).all()


def test_gp_intervals_cover_the_truth(learned):
    test = pendulum(300, seed=3)
    mean, variance = learned.predict(test.states, test.actions)
    error = mean - test.next_states
    error[:, 0] = wrap_angle(error[:, 0])
    inside = error.abs() < 1.645 * variance.sqrt()
    assert inside.double().mean() > 0.8


def test_more_data_helps_up_to_the_points_kept(features):
    test = pendulum(300, seed=9)
    errors = []
    for count in (10, 40, 160, 640):
        model = learn(GaussianProcess(features, max_points=150, seed=1), pendulum(count))
        errors.append(one_step_error(model, test))
    assert errors == sorted(errors, reverse=True)
    assert len(model.snapshot()["inputs"]) == 150


def test_the_points_kept_cover_the_data(features):
    """Many alike and a few unlike: the few must not be dropped."""
    data = pendulum(400)
    crowd = Transitions(
        *(part[:1].repeat(400, 1) for part in (data.states, data.actions)),
        data.next_states[:1].repeat(400, 1),
    )
    rare = data[torch.arange(20)]
    both = Transitions(
        torch.cat([rare.states, crowd.states]),
        torch.cat([rare.actions, crowd.actions]),
        torch.cat([rare.next_states, crowd.next_states]),
    )
    model = learn(GaussianProcess(features, max_points=30, seed=0), both)
    assert one_step_error(model, rare) < 0.2


class Slow:
    """Steps by `predict`, in double precision."""

    def __init__(self, model):
        self.model = model

    def stepper(self, *_):
        return lambda states, actions: self.model.predict(states, actions)[0]


def test_rollout_agrees_with_repeated_prediction(learned):
    generator = torch.Generator().manual_seed(2)
    actions = torch.randn(20, 7, 1, generator=generator)
    start = torch.tensor([0.3, -1.0]).expand(7, -1)
    fast = learned.rollout(start, actions)
    slow = DynamicsModel.rollout(Slow(learned), start.double(), actions.double())
    assert fast.shape == (21, 7, 2)
    # Single precision, whose error grows along the trajectory.
    assert torch.allclose(fast[1].double(), slow[1], atol=1e-3)
    assert torch.allclose(fast.double(), slow, atol=2e-2)


def test_a_rollout_by_the_mean_needs_few_points(learned):
    """And is within a twentieth of the noise, or nearly, of what all of them say."""
    data = pendulum(150)
    posterior = learned.mean_posterior()
    compact = CompactMean.of(posterior, 2)
    points = (compact.weights[:, :-1] != 0.0).sum(1)
    assert (points < len(posterior.points) / 2).all()
    assert len(compact.matrix) == points.sum() + 1
    states, actions = data.states.float(), data.actions.float()
    few = learned.rollout(states, actions[None])[-1].double()
    every = learned.predict(data.states, data.actions)[0]
    error = (few - every).square().mean(0).sqrt() / posterior.target.scale
    assert (error < 2.0 * (0.05 * posterior.noise.sqrt()).clamp_min(5e-4)).all()


def test_as_many_points_are_taken_as_the_tolerance_asks_for():
    places = torch.linspace(0.0, 6.0, 60).double()
    kernel = torch.exp(-0.5 * (places[:, None] - places).square()).numpy()
    weights = torch.sin(places).numpy() / 8.0
    counts = []
    for tolerance in (1e-1, 1e-2, 1e-3, 1e-4):
        chosen, told = fewest_points(kernel, weights, tolerance)
        error = kernel[:, chosen] @ told - kernel @ weights
        assert math.sqrt((error * error).mean()) <= 1.01 * tolerance
        assert len(chosen) == len(set(chosen.tolist()))
        counts.append(len(chosen))
    assert counts == sorted(counts)
    assert counts[0] < counts[-1] < 20


def test_points_that_say_nothing_of_each_other_are_all_taken():
    weights = torch.randn(30, generator=torch.Generator().manual_seed(0)).double().numpy()
    chosen, told = fewest_points(torch.eye(30).double().numpy(), weights, 1e-3)
    assert chosen.tolist() == list(range(30))
    assert told.tolist() == weights.tolist()


@pytest.mark.parametrize("kind", [GaussianProcess, SparseGaussianProcess])
def test_novelty_is_the_gain_of_information(features, kind):
    """As its definition by what `predict` says of noise and of what is not known."""
    data, generator = pendulum(200), torch.Generator().manual_seed(0)
    # Without noise, what is not known is a difference of large numbers in single precision.
    noisy = data.next_states + 0.03 * torch.randn(200, 2, generator=generator).double()
    model = learn(kind(features, max_points=60, seed=4), replace(data, next_states=noisy))
    states = torch.tensor([[0.0, 0.0], [1.0, -2.0], [0.0, 40.0]])
    actions = torch.tensor([[0.0], [1.0], [30.0]])
    _, variance = model.predict(states.double(), actions.double())
    noise = model._noise * model._target.scale.square()
    expected = 0.5 * (variance / noise).log().sum(1)
    found = model.novelty(states, actions)
    assert found.dtype == torch.float32
    assert torch.allclose(found.double(), expected, atol=0.01)
    assert found[2] > found[0] + 3.0  # far from all that it has seen
    leaves = states.double().requires_grad_()
    slopes = torch.autograd.grad(model.novelty(leaves, actions.double())[1], leaves)[0]
    shifted = states.double()
    shifted[1, 1] += 1e-4
    assert not shifted.requires_grad
    shifted.requires_grad_()
    change = (
        model.novelty(shifted, actions.double())[1] - model.novelty(leaves, actions.double())[1]
    )
    assert float(change.detach()) / 1e-4 == pytest.approx(float(slopes[1, 1]), rel=0.01)


@pytest.mark.parametrize("kind", [GaussianProcess, SparseGaussianProcess])
def test_updates_repeat_exactly(features, kind):
    models = [kind(features, seed=4) for _ in range(2)]
    for model in models:
        for count in (20, 40, 80):
            learn(model, pendulum(count))
    first, second = (model.snapshot() for model in models)
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda t: Transitions(
            t.states[:1].repeat(60, 1),
            t.actions[:1].repeat(60, 1),
            t.next_states[:1].repeat(60, 1),
        ),
        lambda t: Transitions(t.states * torch.tensor([1.0, 0.0]), t.actions, t.next_states),
        lambda t: Transitions(
            t.states * torch.tensor([1.0, 1e4]),
            t.actions * 1e4,
            t.next_states * torch.tensor([1.0, 1e4]),
        ),
        lambda t: t[:2],
    ],
    ids=["duplicates", "constant dimension", "large units", "two points"],
)
@pytest.mark.parametrize("kind", [GaussianProcess, SparseGaussianProcess])
def test_gp_survives_awkward_data(features, kind, spoil):
    data = spoil(pendulum(60))
    model = learn(kind(features, seed=0), data)
    for row in range(len(data)):  # and once more, one by one
        model.update(data[row : row + 1])
    mean, variance = model.predict(data.states, data.actions)
    assert mean.isfinite().all()
    assert (variance > 0.0).all()


def test_gp_refuses_values_that_are_not_finite(features):
    data = pendulum(30)
    data.states[3, 1] = math.nan
    with pytest.raises(ValueError, match="not finite"):
        GaussianProcess(features).update(data)


def test_jacobians_in_closed_form_are_those_of_the_prediction(learned):
    data = pendulum(20, seed=3)
    expected = DynamicsModel.linearise(learned, data.states, data.actions)  # by autograd
    for found, wanted in zip(learned.linearise(data.states, data.actions), expected, strict=True):
        assert found.shape == wanted.shape
        assert torch.allclose(found, wanted, atol=1e-9)
    single = learned.linearise(data.states.float(), data.actions.float())
    assert single[0].dtype == torch.float32


def test_what_is_doubtful_does_not_outweigh_what_is_new(features):
    model = learn(GaussianProcess(features, max_points=40), pendulum(80, 1))
    known, new = model.remembered(), pendulum(15, 2)
    unchanged = ActionMap.identity(features)
    model.relearn(known, new, unchanged)
    assert len(model.remembered()) == 80 + 15
    model.relearn(known, new, unchanged, doubtful=True)
    assert len(model.remembered()) == 20 + 15
    angles = model.remembered().states[:20, 0]
    assert angles.min() < -2.0 < 2.0 < angles.max()  # of all parts of what was known


def test_a_gp_with_one_transition_predicts_no_change(features):
    model = GaussianProcess(features)
    model.update(pendulum(1))
    assert not model.improve()
    states = torch.ones(3, 2)
    mean, variance = model.predict(states, states[:, :1])
    assert torch.equal(mean, states)
    assert (variance > 0.1).all()


def test_memory_is_bounded_and_old_experience_stays(features):
    """A long time at rest must not push out what was learned in motion."""
    moving = pendulum(60)
    model = learn(GaussianProcess(features, max_points=60, seed=0), moving)
    zeros = torch.zeros(25, 2, dtype=torch.float64)
    for _ in range(20):
        learn(model, Transitions(zeros, zeros[:, :1], zeros))
    assert model.transitions == 60 + 20 * 25
    assert len(model.snapshot()["inputs"]) == 60
    assert len(model.snapshot()["memory_states"]) <= 150
    assert one_step_error(model, moving) < 0.3


@pytest.mark.parametrize("kind", [GaussianProcess, SparseGaussianProcess])
def test_learning_that_fails_leaves_the_model_as_it_was(features, kind, monkeypatch):
    model = learn(kind(features, seed=0), pendulum(60))
    before, states = model.snapshot(), torch.ones(3, 2)
    predicted = model.predict(states, states[:, :1])

    def fail(_covariance):
        raise ValueError("not positive definite")

    for module in ("cholesky", "svgp", "hyperparameters"):
        monkeypatch.setattr(f"mbrl_ros.dynamics.{module}.factorise", fail)
    with pytest.raises(ValueError, match="not positive definite"):
        model.update(pendulum(500, seed=5))
    with pytest.raises(ValueError, match="not positive definite"):
        model.improve()
    monkeypatch.undo()
    after = model.snapshot()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert model.transitions == 60
    for mine, theirs in zip(model.predict(states, states[:, :1]), predicted, strict=True):
        assert torch.equal(mine, theirs)


# -- growing, sparse, propagated ------------------------------------------------------------


def test_a_transition_taken_in_equals_starting_again(features):
    """Growing by single transitions gives what one factorisation of all of them gives."""
    data = pendulum(160)
    grown = learn(GaussianProcess(features, max_points=200, seed=0), data[:100])
    for row in range(100, 160):
        grown.update(data[row : row + 1])
    tensors = grown.snapshot()
    assert len(tensors["inputs"]) == 160
    again = GaussianProcess(features, max_points=200)
    again.restore(tensors)  # drops the factor: weights remade of a new one must be the same
    again._factor = None
    fresh = again._grown().weights()
    test = pendulum(50, seed=8)
    mean, variance = grown.predict(test.states, test.actions)
    again._made_weights = fresh
    expected_mean, expected_variance = again.predict(test.states, test.actions)
    assert torch.allclose(mean, expected_mean, rtol=0.0, atol=1e-8)
    assert torch.allclose(variance, expected_variance, rtol=0.0, atol=1e-8)


def test_predictions_do_not_jump_when_the_units_do(features):
    """New data of a hundred times the spread changes the normalisation, not what is known."""
    model = learn(GaussianProcess(features, max_points=300, seed=0), pendulum(150))
    test = pendulum(100, seed=5)
    before, _ = model.predict(test.states, test.actions)
    far = pendulum(4, seed=6)
    spread = torch.tensor([0.0, 100.0]) * far.states
    far = Transitions(far.states + spread, far.actions, far.next_states + spread)
    model.update(far)
    model._rebuild(model._memory, steps=0)
    after, _ = model.predict(test.states, test.actions)
    change = model.features.deltas(test.states, test.next_states).std(0)
    assert ((after - before).square().mean(0).sqrt() < 0.05 * change).all()


def test_the_kernel_is_gpytorchs(learned):
    from gpytorch.kernels import RBFKernel, ScaleKernel

    hyperparameters = learned.posterior().hyperparameters
    inputs = learned.posterior().points
    batch = torch.Size([2])
    base = RBFKernel(ard_num_dims=inputs.shape[1], batch_shape=batch)
    kernel = ScaleKernel(base, batch_shape=batch)
    kernel = kernel.double()
    kernel.base_kernel.lengthscale = hyperparameters.log_lengthscale.exp()[:, None]
    kernel.outputscale = hyperparameters.signal
    expected = kernel(inputs.expand(2, -1, -1)).to_dense()
    assert torch.allclose(hyperparameters.kernel(inputs, inputs), expected, atol=1e-10)
    row = hyperparameters.cross(inputs.numpy(), inputs[3].numpy())
    assert torch.allclose(torch.from_numpy(row), expected[:, 3], atol=1e-10)


def test_hyperparameters_are_fitted_as_gpytorch_and_adam_would():
    """By GPyTorch's marginal likelihood and priors, differentiated automatically."""
    from gpytorch.constraints import GreaterThan, Positive
    from gpytorch.distributions import MultivariateNormal
    from gpytorch.kernels import RBFKernel, ScaleKernel
    from gpytorch.likelihoods import GaussianLikelihood
    from gpytorch.priors import NormalPrior

    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(40, 3, generator=generator).double()
    noise = 0.1 * torch.randn(40, 2, generator=generator).double()
    targets = torch.stack([inputs[:, 0].sin(), inputs[:, 1] * inputs[:, 2]], 1) + noise
    start = Hyperparameters.prior(2, 3)

    batch = torch.Size([2])
    logarithm = {"transform": torch.exp, "inv_transform": torch.log}
    base = RBFKernel(
        ard_num_dims=3, batch_shape=batch, lengthscale_constraint=Positive(**logarithm)
    )
    kernel = ScaleKernel(
        base, batch_shape=batch, outputscale_constraint=Positive(**logarithm)
    ).double()
    floor = float(start.noise[0] - start.log_noise[0].exp())
    likelihood = GaussianLikelihood(
        batch_shape=batch, noise_constraint=GreaterThan(floor, **logarithm)
    ).double()
    logs = (base.raw_lengthscale, kernel.raw_outputscale, likelihood.noise_covar.raw_noise)
    medians = (start.log_lengthscale[:, None], start.log_signal, start.log_noise[:, None])
    priors = [
        NormalPrior(math.log(2.0), 1.0),
        NormalPrior(0.0, 1.0),
        NormalPrior(math.log(0.01), 1.5),
    ]
    with torch.no_grad():
        for log, value in zip(logs, medians, strict=True):
            log.copy_(value)
    optimiser = torch.optim.Adam(logs, lr=0.1)
    for _ in range(25):
        optimiser.zero_grad()
        prior = MultivariateNormal(
            torch.zeros(2, 40).double(), kernel(inputs.expand(2, -1, -1)).to_dense()
        )
        posterior = likelihood(prior).log_prob(targets.T).sum()
        for log, one in zip(logs, priors, strict=True):
            posterior = posterior + one.log_prob(log).sum()
        (-posterior).backward()
        optimiser.step()

    fitted = start.fitted(inputs, targets, 25)
    mine = (fitted.log_lengthscale[:, None], fitted.log_signal, fitted.log_noise[:, None])
    for log, value in zip(logs, mine, strict=True):
        assert torch.allclose(log, value, atol=1e-6)


def test_a_sparse_gp_with_all_points_is_the_exact_one(features):
    data, test = pendulum(120), pendulum(50, seed=3)
    exact = learn(GaussianProcess(features, seed=2), data)
    sparse = SparseGaussianProcess(features, fit_points=200, seed=2)
    learn(sparse, data)
    for mine, theirs in zip(
        sparse.predict(test.states, test.actions),
        exact.predict(test.states, test.actions),
        strict=True,
    ):
        assert torch.allclose(mine, theirs, rtol=1e-3, atol=1e-5)


def test_a_sparse_gp_learns_from_more_than_it_keeps(features):
    """Noisy data: all of it averaged beats the most informative part of it."""
    data, test = pendulum(3000), pendulum(300, seed=3)
    generator = torch.Generator().manual_seed(1)
    noise = 0.1 * torch.randn(3000, 2, generator=generator, dtype=torch.float64)
    data = Transitions(data.states, data.actions, data.next_states + noise)
    errors = {}
    for kind in (GaussianProcess, SparseGaussianProcess):
        model = learn(kind(features, max_points=60, seed=0), data[:2000])
        model.update(data[2000:])
        while model.improve():
            pass
        errors[kind] = one_step_error(model, test)
    assert errors[SparseGaussianProcess] < 0.5 * errors[GaussianProcess]


def test_a_sparse_gp_adds_up_and_bounds_its_memory(features):
    data, test = pendulum(900), pendulum(50, seed=3)
    model = SparseGaussianProcess(features, max_points=50, memory=400, seed=0)
    learn(model, data[:300])
    for begin in range(300, 420, 20):
        model.update(data[begin : begin + 20])
    summed = model.predict(test.states, test.actions)
    other = SparseGaussianProcess(features)
    other.restore(model.snapshot())
    again = other.predict(test.states, test.actions)
    for mine, theirs in zip(summed, again, strict=True):
        assert torch.allclose(mine, theirs, rtol=1e-5, atol=1e-7)
    model.update(data[420:])
    assert model.transitions == 900
    assert len(model.snapshot()["memory_states"]) == 400


def test_every_propagation_starts_at_the_state_and_repeats(learned):
    start, actions = torch.tensor([0.3, -1.0]).expand(40, -1), torch.zeros(10, 40, 1)
    for propagation in PROPAGATIONS:
        draws = [
            learned.rollout(start, actions, propagation, torch.Generator().manual_seed(seed))
            for seed in (1, 1, 2)
        ]
        assert draws[0].shape == (11, 40, 2)
        assert torch.equal(draws[0][0], start)
        assert torch.equal(draws[0], draws[1])
        assert torch.equal(draws[0], draws[2]) == (propagation == "mean")
    with pytest.raises(ValueError, match="unknown propagation 'magic'; expected one of mean"):
        learned.rollout(start, actions, "magic")


@pytest.mark.parametrize("propagation", ["ts1", "tsinf"])
def test_samples_of_one_step_have_the_predicted_moments(learned, propagation):
    count = 4000
    start, actions = torch.tensor([2.0, 9.0]).expand(count, -1), torch.full((1, count, 1), 4.0)
    generator = torch.Generator().manual_seed(3)
    sampled = learned.rollout(start, actions, propagation, generator)[1]
    mean, variance = learned.predict(start[:1].double(), actions[0, :1].double())
    deviation = variance[0].sqrt()
    assert ((sampled.mean(0) - mean[0]).abs() < 4.0 * deviation / count**0.5 + 1e-4).all()
    # In float32 what a sparse one does not know is a small difference of large numbers.
    bound = 0.05 if isinstance(learned, GaussianProcess) else 0.1
    assert (sampled.std(0) / deviation - 1.0).abs().max() < bound


def test_paths_are_functions_drawn_from_the_posterior(learned):
    """Where there are data all agree; far away they spread as the posterior does."""
    noise = learned.posterior().noise * learned.posterior().target.scale ** 2
    known, count = pendulum(150), 1600
    for state, action in ((known.states[7], known.actions[7]), (known.states[7] * 4.0, None)):
        action = torch.tensor([9.0]) if action is None else action
        start, force = state.expand(count, -1), action.expand(1, count, -1)
        values = []
        for seed in range(100):
            generator = torch.Generator().manual_seed(seed)
            paths = learned.rollout(start[:16], force[:, :16], "pathwise", generator)
            values.append(paths[1])
        sampled = torch.cat(values).double()
        mean, variance = learned.predict(state[None], action[None].double())
        deviation = (variance[0] - noise).clamp_min(0.0).sqrt()
        assert ((sampled.mean(0) - mean[0]).abs() < 0.15 * deviation + 2e-3).all()
        assert ((sampled.std(0) - deviation).abs() < 0.15 * deviation + 2e-3).all()


def test_a_path_is_one_function_all_along(learned):
    """Rows of the same function that meet stay together, as deterministic worlds do."""
    start = torch.tensor([0.5, 2.0]).expand(32, -1)
    actions = torch.zeros(12, 32, 1)
    generator = torch.Generator().manual_seed(0)
    paths = learned.rollout(start, actions, "pathwise", generator)
    assert torch.allclose(paths[:, :16], paths[:, 16:], atol=1e-5)
    assert paths[-1, :16].std(0).min() > 0.0


@pytest.mark.parametrize(
    ("angles", "inputs"),
    [
        ([True, False, True], None),
        ([True, False, True, False], [False, True, True, False]),  # what models do not see
    ],
)
def test_feature_moments_agree_with_sampling(angles, inputs):
    features, size = FeatureMap(angles, 1, input_mask=inputs), len(angles)
    generator = torch.Generator().manual_seed(0)
    mean = torch.tensor([0.4, -1.0, 2.5, 1.0]).double()[:size]
    root = 0.4 * torch.randn(size, size, generator=generator, dtype=torch.float64)
    action = torch.tensor([0.7]).double()
    found = feature_moments(features, mean, root @ root.T, action)
    noise = torch.randn(400_000, size, generator=generator, dtype=torch.float64)
    states = mean + noise @ root.T
    seen = features.inputs(states, action.expand(len(states), 1))
    joint = torch.cat([states, seen], 1).T.cov()
    expected = (seen.mean(0), joint[size:, size:], joint[:size, size:])
    for mine, sampled in zip(found, expected, strict=True):
        assert torch.allclose(mine, sampled, atol=5e-3)


def test_moment_matching_agrees_with_sampling(learned):
    generator = torch.Generator().manual_seed(1)
    mean, covariance = torch.tensor([0.6, 1.0]), torch.tensor([[0.01, 0.01], [0.01, 0.09]])
    actions = torch.full((3, 1), 0.5)
    means, covariances = propagate_moments(learned, mean, covariance, actions)
    count = 40_000
    root = torch.linalg.cholesky(covariance)
    states = mean + torch.randn(count, 2, generator=generator) @ root.T
    paths = learned.rollout(
        states, actions[:, None].expand(-1, count, -1), "ts1", generator
    ).double()
    for step in range(4):
        sampled = paths[step].T.cov()
        scale = sampled.diagonal().sqrt()
        assert ((means[step] - paths[step].mean(0)).abs() < 0.03 * scale).all()
        share = (covariances[step] - sampled) / (scale[:, None] * scale)
        assert share.abs().max() < 0.05
    with pytest.raises(ValueError, match="knows nothing yet"):
        propagate_moments(GaussianProcess(learned.features), mean, covariance, actions)


def test_a_reward_is_learned_along_with_the_dynamics():
    features = FeatureMap([True, False], 1, rewards=1)
    data, test = pendulum(300), pendulum(100, seed=7)
    for name in ("gp", "svgp"):
        kind = {"gp": GaussianProcess, "svgp": SparseGaussianProcess}[name]
        model = kind(features, seed=0)
        rewards = torch.cos(data.states[:, :1]) - 0.01 * data.actions.square()
        learn(model, Transitions(*data.tensors()[:3], rewards))
        expected = torch.cos(test.states[:, 0]) - 0.01 * test.actions[:, 0].square()
        predicted = model.reward(test.states, test.actions)
        assert (predicted - expected).std() < 0.1 * expected.std()
        assert model.predict(test.states, test.actions)[0].shape == (100, 2)
        assert model.rollout(test.states, test.actions[None]).shape == (2, 100, 2)
    with pytest.raises(ValueError, match="no reward"):
        GaussianProcess(FeatureMap([False], 1)).reward(torch.ones(1, 1), torch.ones(1, 1))


def test_training_ends_when_there_is_nothing_to_gain(features):
    model = GaussianProcess(features, seed=0)
    model.update(pendulum(150))
    slices = 1
    while model.improve():
        slices += 1
    assert 1 < slices <= 10


@pytest.mark.parametrize("seed", [0, 2])
def test_scales_of_large_motions_are_not_lost_while_the_robot_hardly_moves(seed):
    generator = torch.Generator().manual_seed(0)

    def steps(count, size):
        states, actions = (
            size * torch.randn(count, 1, generator=generator, dtype=torch.float64)
            for _ in range(2)
        )
        following = states + 0.1 * torch.sin(3.0 * states) + 0.05 * actions
        return Transitions(states, actions, following)

    gp = GaussianProcess(FeatureMap([False], 1), max_points=50, fit_points=20, seed=seed)
    gp.update(steps(20, 1.0))
    large = steps(200, 1.0)
    for _ in range(25):
        gp.update(steps(5, 0.02))
        gp.improve()
    assert one_step_error(gp, large) < 0.3
