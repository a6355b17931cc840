"""Adjoints, pseudo-inverses, conjugate gradients and updates, against dense algebra."""

import sys
from pathlib import Path

import pytest
import torch

from core.errors import InputError
from core.inverse.measurement import Measurement, dot, pseudo_inverse, residual, solve, update
from core.inverse.operators import Average, Mask, Matrix

sys.path.insert(0, str(Path(__file__).parent))
from made_measurements import Bare, like, normal


def of_rank_two():
    return normal(4, 2, seed=1) @ normal(2, 6, seed=2)


OPERATORS = {
    "mask": (Mask((normal(1, 2, 4, 6) > 0).double()), (2, 4, 6)),
    "matrix": (Matrix(normal(5, 6), (2, 3)), (2, 3)),
    "low rank": (Matrix(of_rank_two(), (6,)), (6,)),
    "complex": (Matrix(torch.complex(normal(2, 6), normal(2, 6, seed=1)), (6,)), (6,)),
    "average": (Average(factor=2), (2, 4, 6)),
}


@pytest.mark.parametrize("name", OPERATORS)
def test_adjoints_and_pseudo_inverses_are_what_they_are_called(name):
    """<A x, y> = <x, A* y> and the four conditions of Moore and Penrose."""
    operator, shape = OPERATORS[name]
    x, z = normal(3, *shape, seed=3), normal(3, *shape, seed=4)
    y = operator.forward(x)
    u, w = like(y, 5), like(y, 6)
    back, through = operator.pseudo_inverse, lambda v: operator.pseudo_inverse(operator.forward(v))
    onto = lambda v: operator.forward(operator.pseudo_inverse(v))  # noqa: E731
    assert (dot(y, w) - dot(x, operator.adjoint(w))).abs().max() < 1e-12
    assert (onto(y) - y).abs().max() < 1e-12
    assert (through(back(w)) - back(w)).abs().max() < 1e-12
    assert (dot(through(x), z) - dot(x, through(z))).abs().max() < 1e-12
    assert (dot(onto(u), w) - dot(u, onto(w))).abs().max() < 1e-12


def test_block_means_are_those_of_pooling():
    x = normal(2, 3, 4, 6)
    pooled = torch.nn.functional.avg_pool2d(x, 2)
    assert (Average(factor=2).forward(x) - pooled).abs().max() < 1e-15


@pytest.mark.parametrize("complex_", [False, True])
def test_conjugate_gradients_solve_as_a_dense_solver_does(complex_):
    b, n = 4, 7
    root = normal(b, n, n) + 1j * normal(b, n, n, seed=1) if complex_ else normal(b, n, n)
    matrices = root @ root.mH + torch.diag_embed(
        torch.tensor([0.1, 1, 10, 100])[:, None].expand(b, n)
    )
    right = root[:, 0] + 1
    right[2] = 0
    found = solve(
        lambda x: torch.einsum("bij,bj->bi", matrices, x), right, iterations=60, tolerance=1e-13
    )
    exact = torch.linalg.solve(matrices, right)
    # Condition numbers to a few hundred times the tolerance.
    assert (found - exact).abs().max() < 1e-9 * exact.abs().max()


def test_a_solution_alone_is_that_in_a_batch_bit_for_bit():
    """Samples that need 1 to 6 iterations stop on their own."""
    operator = Matrix(normal(5, 6), (6,))
    right = normal(4, 6) * torch.tensor([1.0, 1e-9, 1e6, 0]).double()[:, None]
    right[0] = operator.adjoint(operator.forward(normal(1, 6)))[0]

    def run(rows):
        scale = torch.tensor([1.0, 10.0, 0.1, 1.0]).double()[rows, None]
        return solve(
            lambda x: operator.adjoint(operator.forward(x)) + scale * x, right[rows],
            tolerance=1e-3,
        )  # fmt: skip

    together = run(slice(None))
    for i in range(4):
        assert torch.equal(run(slice(i, i + 1))[0], together[i])
    assert (together[3] == 0).all()


@pytest.mark.parametrize("name", ["matrix", "low rank", "complex"])
def test_an_operator_without_a_pseudo_inverse_gets_one(name):
    """Also for measurements outside its range: the nearest, of least norm."""
    operator, shape = OPERATORS[name]
    y = like(operator.forward(normal(3, *shape)), 7)
    found = pseudo_inverse(Measurement(Bare(operator), y), y)
    # The residual is below 1e-6; singular values lie between 0.3 and 6.
    assert (found - operator.pseudo_inverse(y)).abs().max() < 1e-5


@pytest.mark.parametrize("per_element", [False, True])
def test_updates_are_those_of_dense_algebra(per_element):
    a, r, c = normal(4, 6), normal(3, 4, seed=1), torch.tensor([0.5, 2.0, 1e-3]).double()
    variance = normal(3, 6, seed=2).exp() if per_element else normal(3, seed=2).exp()
    found = update(Matrix(a, (6,)), r, variance, c, tolerance=1e-13)
    for i in range(3):
        prior_ = torch.diag(variance[i].expand(6))
        gain = prior_ @ a.T @ torch.linalg.inv(a @ prior_ @ a.T + c[i] * torch.eye(4).double())
        assert (found[i] - gain @ r[i]).abs().max() < 1e-9


def test_measurements_of_other_samples_are_refused():
    measurement = Measurement(Matrix(normal(2, 3), (3,)), normal(1, 2))
    with pytest.raises(InputError, match="one y for each sample"):
        residual(measurement, normal(4, 3))
    with pytest.raises(InputError, match="noise_std"):
        Measurement(Average(), normal(1, 2), -1.0)
    with pytest.raises(InputError, match="blocks of side 4"):
        Average().forward(normal(1, 3, 6, 8))
    with pytest.raises(InputError, match="ones"):
        Mask(normal(3))
    with pytest.raises(InputError, match="3 elements"):
        Matrix(normal(2, 3), (2, 2))
