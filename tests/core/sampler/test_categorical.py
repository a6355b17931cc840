"""Categorical processes against explicit matrices, enumerated worlds and the law of large numbers.

Tolerances of 1e-12 and 1e-13 are for sums of at most some thousand float64 products of order one.
"""

import math
from functools import reduce

import pytest
import torch

from core.denoiser.parameterization import Prediction
from core.errors import InputError
from core.process.categorical import (
    absorbing,
    cosine_betas,
    discretised_gaussian,
    divergence,
    draw,
    hybrid_loss,
    linear_betas,
    mutual_information_betas,
    uniform,
)
from core.process.noise import Noise
from core.sampler.categorical import even_steps, sample_categories, variational_bound
from core.testing.categorical import Joint
from core.testing.orders import slope

pytestmark = pytest.mark.battery

KINDS = ("uniform", "absorbing", "gaussian")
K = 5


def betas_of(kind, steps):
    if kind == "uniform":
        return cosine_betas(steps=steps)
    if kind == "absorbing":
        return mutual_information_betas(steps=steps)
    return linear_betas(steps=steps, first=0.05, last=0.9)  # 5 states want larger rates than 256


def process_of(kind, steps, categories=K):
    betas = betas_of(kind, steps)
    if kind == "uniform":
        return uniform(categories, betas)
    if kind == "absorbing":
        return absorbing(categories, betas)
    return discretised_gaussian(categories, betas)


def matrix_of(kind, beta, categories=K):
    """Q_t entry by entry, as D3PM's appendix A.2 writes it."""
    rows = []
    for i in range(categories):
        row = [0.0] * categories
        for j in range(categories):
            if kind == "uniform":
                row[j] = beta / categories + (1 - beta) * (i == j)
            elif kind == "absorbing":
                row[j] = beta * (j == categories - 1) + (1 - beta) * (i == j)
            elif i != j:
                scale = (categories - 1) ** 2 * beta
                whole = sum(math.exp(-4 * n**2 / scale) for n in range(1 - categories, categories))
                row[j] = math.exp(-4 * (i - j) ** 2 / scale) / whole
        if kind == "gaussian":
            row[i] = 1 - sum(row)
        rows.append(row)
    return torch.tensor(rows, dtype=torch.float64)


def product(kind, u, t, steps):
    """The matrix of q(x_t | x_u), multiplied out."""
    betas = betas_of(kind, steps).tolist()
    eye = torch.eye(K, dtype=torch.float64)
    return reduce(torch.matmul, [matrix_of(kind, beta) for beta in betas[u:t]], eye)


def random_law(*shape, seed=0):
    law = torch.rand(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return law / law.sum()


def world_of(kind, positions=1, categories=K, seed=0):
    """Any joint law; clean data never show the mask."""
    law = random_law(*[categories] * positions, seed=seed) ** 2
    if kind == "absorbing":
        for axis in range(positions):
            law.select(axis, categories - 1).zero_()
    return Joint(law / law.sum())


def distance(p, q):
    """Total variation."""
    return float((p - q).abs().sum() / 2)


@pytest.mark.parametrize("kind", KINDS)
def test_rows_columns_and_laws_are_those_of_the_multiplied_matrices(kind):
    process, every = process_of(kind, 16), torch.arange(K)[None]
    for u, t in [(0, 0), (0, 1), (0, 16), (3, 3), (3, 4), (2, 9), (15, 16)]:
        matrix = product(kind, u, t, 16)
        u, t = torch.tensor([[u]]), torch.tensor([[t]])
        assert (process.transitions.row(every, u, t)[0] - matrix).abs().max() < 1e-13
        assert (process.transitions.column(every, u, t)[0] - matrix.T).abs().max() < 1e-13
        law = random_law(3, K)[None]
        assert (process.transitions.ahead(law, u, t) - law @ matrix).abs().max() < 1e-13


@pytest.mark.parametrize("kind", KINDS)
def test_marginals_are_laws_and_reach_the_limit(kind):
    """1000 steps at their own schedules; what is left of x0 then is named with each."""
    left = {"uniform": 2e-5, "absorbing": 0.0, "gaussian": 1e-12}[kind]
    process = process_of(kind, 1000)
    x0 = torch.arange(K)[:, None].expand(K, 3)
    for t in (0, 1, 500, 1000):
        law = process.marginal(x0, torch.full((K,), t))
        assert law.min() >= 0
        assert (law.sum(-1) - 1).abs().max() < 1e-12
    assert (law - process.limit).abs().max() <= left + 1e-15


def test_the_share_of_information_falls_evenly_under_the_mutual_information_schedule():
    """I(x0; x_t) = (1 - t / T) H(x0) for absorbing chains (D3PM, section 3.3)."""
    world, process = world_of("absorbing"), process_of("absorbing", 20)
    entropy = -torch.special.xlogy(world.law, world.law).sum()
    for t in (1, 5, 13, 20):
        rows = process.marginal(torch.arange(K)[:, None], torch.full((K,), t))[:, 0]
        information = world.law @ divergence(rows, (world.law @ rows).expand(K, K))
        assert abs(information - (1 - t / 20) * entropy) < 1e-13


@pytest.mark.parametrize("kind", KINDS)
def test_the_posterior_is_bayes_rule_over_every_clean_state(kind):
    """sum_x0 q(x_u, x_t | x0) / q(x_t | x0) p(x0 | x_t), one term at a time."""
    process, x = process_of(kind, 16), torch.arange(K)[None]
    p0 = random_law(K, K, seed=3)
    p0 = p0 / p0.sum(-1, keepdim=True)
    if kind == "absorbing":
        p0 = torch.where(x[0][:, None] == K - 1, p0, torch.eye(K, dtype=torch.float64))
    for u, t in [(0, 1), (0, 9), (4, 5), (3, 11)]:
        before, step, whole = (product(kind, *pair, 16) for pair in [(0, u), (u, t), (0, t)])
        expected = torch.zeros(K, K, dtype=torch.float64)
        for seen in range(K):
            for clean in range(K):
                if whole[clean, seen] > 0:
                    both = before[clean] * step[:, seen] / whole[clean, seen]
                    expected[seen] += both * p0[seen, clean]
        found = process.posterior(x, p0[None], torch.tensor([t]), torch.tensor([u]))
        assert (found[0] - expected).abs().max() < 1e-13


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("steps", [4, 16, 64])
def test_with_one_variable_the_chain_of_the_exact_denoiser_gives_back_the_datas_law(kind, steps):
    """Every step at once, and a chain of three that jumps."""
    world, process = world_of(kind), process_of(kind, steps)
    start = world.law_at(process, steps)
    for grid in (list(range(steps, -1, -1)), [steps, steps - 1, steps // 2, 0]):
        assert distance(world.chain_law(process, grid, start), world.law) < 1e-12


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_with_two_variables_the_factorised_chain_errs_as_one_over_steps(kind):
    """Twice the steps of one chain of 256: half the error, to a tenth in the slope."""
    world, process = world_of(kind, positions=2, categories=3), process_of(kind, 256, 3)
    start = world.law_at(process, 256)
    counts, errors = (32, 64, 128), []
    for count in counts:
        grid = even_steps(process, steps=count).int().tolist()
        errors.append(distance(world.chain_law(process, grid, start), world.law))
    assert slope(counts, errors) == pytest.approx(1, abs=0.15)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("positions", [1, 2])
def test_the_bound_is_no_smaller_than_the_chains_own_negative_log_likelihood(kind, positions):
    world = world_of(kind, positions, categories=3)
    process = process_of(kind, 8, 3)
    prior = process.limit if positions == 1 else process.limit[:, None] * process.limit
    model = world.chain_law(process, list(range(8, -1, -1)), prior)
    there = world.law.flatten() > 0
    gap = (world.bound(process) + model.flatten().log())[there]
    assert gap.min() > -1e-12
    if positions == 2:
        assert gap.max() > 1e-5  # a factorised step is not exact


def test_the_bound_of_one_variable_is_its_negative_log_likelihood():
    """The absorbing chain forgets everything, so its prior is exact and nothing is lost."""
    world = world_of("absorbing")
    gap = world.bound(process_of("absorbing", 16)) + world.law.log()
    assert gap[:-1].abs().max() < 1e-12


@pytest.mark.parametrize("kind", ["uniform", "gaussian"])
def test_the_mean_bound_of_one_variable_exceeds_the_entropy_by_the_error_of_the_prior(kind):
    """E[bound] = H(x0) + KL(q(x_T) || p(x_T)) when every step is exact."""
    world, process = world_of(kind), process_of(kind, 8)
    reached = world.law_at(process, 8)
    entropy = -(world.law * world.law.log()).sum()
    expected = entropy + divergence(reached, process.limit)
    assert abs(world.law @ world.bound(process) - expected) < 1e-12


def test_the_drawn_bound_has_the_enumerated_mean():
    """4 standard errors of 4000 draws, 4 % of it; a quarter of it is the prior's."""
    world = world_of("uniform", 2, 3)
    process = uniform(3, linear_betas(steps=6, first=0.05, last=0.15))
    x0 = world.states()[5:6].expand(4000, 2).contiguous()
    found = variational_bound(world.denoiser(process), process, x0, Noise(range(4000)))
    error = float(found.std()) / 4000**0.5
    assert abs(float(found.mean()) - float(world.bound(process)[5])) < 4 * error


@pytest.mark.parametrize("kind", KINDS)
def test_draws_have_the_frequencies_of_the_marginal(kind):
    """4 standard errors of 20,000 draws; states of probability 0 never occur."""
    process, n = process_of(kind, 16), 20_000
    x0 = torch.full((2, n), 1)
    t = torch.tensor([3.0, 11.0], dtype=torch.float64)
    x = process.diffuse(x0, t, Noise([1, 2]))
    for row, when in zip(x, (3, 11), strict=True):
        law = product(kind, 0, when, 16)[1]
        found = torch.bincount(row, minlength=K) / n
        assert ((found - law).abs() <= 4 * (law * (1 - law) / n).sqrt()).all()


@pytest.mark.parametrize("kind", KINDS)
def test_sampled_categories_have_the_law_of_the_enumerated_chain(kind):
    """4 standard errors of 6000 samples in each of 9 combinations."""
    n, world = 6000, world_of(kind, 2, 3)
    process = process_of(kind, 8, 3)
    grid = even_steps(process, steps=4)
    prior = process.limit[:, None] * process.limit
    expected = world.chain_law(process, grid.int().tolist(), prior).flatten()
    noise = Noise(range(n))
    start = process.prior(torch.zeros(n, 2, dtype=torch.int64), noise)
    x = sample_categories(world.denoiser(process), process, grid, start, noise)
    found = torch.bincount(3 * x[:, 0] + x[:, 1], minlength=9) / n
    assert ((found - expected).abs() <= 4 * (expected * (1 - expected) / n).sqrt()).all()


@pytest.mark.parametrize("kind", KINDS)
def test_a_sample_is_the_same_alone_and_in_a_batch(kind):
    world, process = world_of(kind, 3, 4), process_of(kind, 16, 4)
    grid, x = even_steps(process, steps=16), torch.zeros(7, 3, dtype=torch.int64)

    def run(seeds, like):
        noise = Noise(seeds)
        start = process.prior(like, noise)
        return sample_categories(world.denoiser(process), process, grid, start, noise)

    together = run(range(7), x)
    assert torch.equal(run([4], x[:1])[0], together[4])
    p0 = random_law(7, 50, 4) * 200
    noisy = torch.arange(350).reshape(7, 50) % 4
    t = torch.tensor([3, 9, 3, 16, 2, 9, 1])
    law = process.posterior(noisy, p0, t, t // 2)
    for i in range(7):
        alone = process.posterior(noisy[i : i + 1], p0[i : i + 1], t[i : i + 1], t[i : i + 1] // 2)
        assert torch.equal(alone[0], law[i])


@pytest.mark.parametrize("kind", KINDS)
def test_times_may_differ_from_element_to_element(kind):
    process, x = process_of(kind, 16), torch.arange(K)[None].expand(2, K).contiguous()
    t = torch.tensor([[1, 4, 9, 16, 4], [2, 2, 3, 3, 8]])
    p0 = random_law(2, K, K)
    p0 = p0 / p0.sum(-1, keepdim=True)
    law, back = process.marginal(x, t), process.posterior(x, p0, t, t - 1)
    for i in range(2):
        for j in range(K):
            here, when = (slice(i, i + 1), slice(j, j + 1)), t[i, j : j + 1]
            assert (process.marginal(x[here], when) - law[here]).abs().max() < 1e-14
            one = process.posterior(x[here], p0[here], when, when - 1)
            assert (one - back[here]).abs().max() < 1e-14


def test_what_cannot_have_led_to_a_state_is_left_out_of_the_posterior():
    process = process_of("absorbing", 4)
    x, t = torch.tensor([[2, 2]]), torch.tensor([2])
    p0 = torch.tensor([[[0.7, 0.1, 0.1, 0.1, 0], [1.0, 0, 0, 0, 0]]], dtype=torch.float64)
    stays = torch.nn.functional.one_hot(x, K).double()
    assert (process.posterior(x, p0, t, t - 1) - stays).abs().max() < 1e-15
    at_the_end = process.posterior(x, p0, torch.tensor([4]), torch.tensor([3]))
    assert torch.equal(at_the_end, stays)  # every element should be masked; given ones are kept


def test_the_hybrid_loss_is_the_bounds_term_plus_weighed_cross_entropy_and_has_a_gradient():
    """One masked element of an absorbing chain: KL = (-log p0) / t, the weight of unmasking."""
    process = process_of("absorbing", 10)
    x0, x, t = torch.tensor([[1, 3]]), torch.tensor([[K - 1, 3]]), torch.tensor([4])
    logits = torch.randn(1, 2, K, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    logits[..., K - 1] = -math.inf
    logits.requires_grad_()
    found = hybrid_loss(process, x0, x, logits, t, weight=0.25)
    said = -logits.log_softmax(-1)[0, [0, 1], [1, 3]]
    assert abs(found.item() - (said[0] / 4 + 0.25 * said.sum()).item()) < 1e-12
    (gradient,) = torch.autograd.grad(found.sum(), logits)
    probability = logits.detach().softmax(-1)[0]
    expected = probability - torch.nn.functional.one_hot(x0[0], K)
    assert (gradient[0, 0] - (1 / 4 + 0.25) * expected[0]).abs().max() < 1e-12
    assert (gradient[0, 1] - 0.25 * expected[1]).abs().max() < 1e-12


@pytest.mark.parametrize("kind", ["uniform", "gaussian"])
def test_gradients_of_the_bounds_terms_are_those_of_finite_differences(kind):
    process, t = process_of(kind, 8), torch.tensor([5])
    x0, x = torch.tensor([[1, 3]]), torch.tensor([[0, 2]])
    logits = torch.randn(1, 2, K, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    assert torch.autograd.gradcheck(
        lambda logits: hybrid_loss(process, x0, x, logits, t), logits.requires_grad_()
    )


def test_drawing_inverts_the_distribution_function():
    law = torch.tensor([[0.0, 0.25, 0.0, 0.75, 0.0]], dtype=torch.float64).expand(5, 5)
    at = torch.tensor([0.0, 0.249, 0.25, 0.999, 1 - 2.0**-53], dtype=torch.float64)
    assert draw(law, at).tolist() == [1, 1, 3, 3, 3]


def test_256_states_and_many_steps_need_no_table_but_for_the_gaussian():
    process = absorbing(256, mutual_information_betas(steps=100_000))
    law = process.marginal(torch.tensor([[7]]), torch.tensor([25_000]))[0, 0]
    assert float(law[7]) == pytest.approx(0.75, rel=1e-12)
    with pytest.raises(InputError, match=r"1\.17 GiB"):
        discretised_gaussian(256, linear_betas(steps=2400))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (lambda: uniform(1, cosine_betas(steps=4)), "at least 2"),
        (lambda: uniform(3, torch.tensor([1.0, 0.5], dtype=torch.float64)), "last step only"),
        (lambda: absorbing(3, cosine_betas(steps=4), mask=3), "0 to 2"),
        (lambda: cosine_betas(steps=0), "steps >= 1"),
        (lambda: linear_betas(first=0.5, last=0.1), "first <= last"),
        (lambda: process_of("uniform", 4).marginal(torch.tensor([[0]]), torch.tensor([5])), "to 4"),
        (
            lambda: process_of("uniform", 4).marginal(torch.tensor([[0]]), torch.tensor([1.5])),
            "whole",
        ),
        (
            lambda: process_of("uniform", 4).posterior(
                torch.tensor([[0]]), torch.ones(1, 1, K), torch.tensor([2]), torch.tensor([2])
            ),
            "u < t",
        ),
        (lambda: even_steps(process_of("uniform", 4), steps=5), "1 to 4"),
    ],
)
def test_what_cannot_be_is_refused_with_one_sentence(wrong, message):
    with pytest.raises(InputError, match=message):
        wrong()


def test_a_denoiser_without_logits_is_refused():
    process, x = process_of("uniform", 4), torch.zeros(1, 2, dtype=torch.int64)
    with pytest.raises(InputError, match="logits"):
        sample_categories(
            lambda x, t, condition=None: Prediction(x), process, even_steps(process, steps=2), x,
            Noise([0]),
        )  # fmt: skip
