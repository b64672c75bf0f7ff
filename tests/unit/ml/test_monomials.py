"""Monomials: their norms, and the tables that raise and differentiate them."""

from __future__ import annotations

import math

import pytest
import torch

from deltaqmmm.ml.monomials import derivative, first_row, n_rows, raising, rank_of, rows_of
from tests.unit.ml.helpers import plain_rows

RANKS = (0, 1, 2, 3, 4, 5, 6)


def vectors(seed, count=7):
    return torch.randn(count, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_numbers_of_rows():
    assert [n_rows(rank) for rank in RANKS] == [1, 4, 10, 20, 35, 56, 84]
    assert [first_row(rank) for rank in RANKS] == [0, 1, 4, 10, 20, 35, 56]
    assert [rank_of(n_rows(rank)) for rank in RANKS] == list(RANKS)


@pytest.mark.parametrize("rank", RANKS)
def test_products_of_rows_are_powers_of_the_scalar_product(rank):
    first, second = vectors(1), vectors(2)
    found = rows_of(first, rank, axis=1), rows_of(second, rank, axis=1)
    assert found[0].shape == (7, n_rows(rank))
    for power in range(rank + 1):
        own = slice(first_row(power), n_rows(power))
        expected = (first @ second.T) ** power
        torch.testing.assert_close(found[0][:, own] @ found[1][:, own].T, expected, rtol=1e-12, atol=1e-12)


def test_rows_by_hand():
    x, y, z = 2.0, 3.0, -5.0
    found = rows_of(torch.tensor([x, y, z], dtype=torch.float64), 3, axis=0)
    two, three, six = math.sqrt(2.0), math.sqrt(3.0), math.sqrt(6.0)
    expected = [1.0, 2.0, 3.0, -5.0, 4.0, 6.0 * two, -10.0 * two, 9.0, -15.0 * two, 25.0]
    expected += [8.0, 12.0 * three, -20.0 * three, 18.0 * three, -30.0 * six, 50.0 * three]
    expected += [27.0, -45.0 * three, 75.0 * three, -125.0]
    torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64), rtol=1e-14, atol=0.0)
    for rank in (0, 1, 2, 3):
        plain = plain_rows(torch.tensor([x, y, z]).double(), rank)
        torch.testing.assert_close(plain, found[: n_rows(rank)], rtol=1e-14, atol=0.0)


@pytest.mark.parametrize("axis", [0, 1, 2, -1, -2])
def test_the_rows_are_on_the_axis_of_the_components(axis):
    values = torch.randn(4, 5, 3, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    found = rows_of(values.movedim(2, axis), 2, axis=axis).movedim(axis, 2)
    assert found.shape == (4, 5, 10)
    torch.testing.assert_close(found.reshape(20, 10), rows_of(values.reshape(20, 3), 2, axis=1), rtol=0.0, atol=0.0)


@pytest.mark.parametrize("rank", RANKS)
def test_raising_is_multiplication_with_a_component(rank):
    table = raising(rank)
    assert table.shape == (n_rows(rank), 3, n_rows(rank + 1))
    d = vectors(4)
    found = torch.einsum("ryc,nc->nry", table, rows_of(d, rank + 1, axis=1))
    expected = rows_of(d, rank, axis=1)[:, :, None] * d[:, None]
    torch.testing.assert_close(found, expected, rtol=1e-13, atol=1e-14)


@pytest.mark.parametrize("rank", RANKS)
def test_derivatives_are_those_of_the_rows(rank):
    table = derivative(rank)
    assert table.shape == (n_rows(rank), 3, n_rows(rank - 1) if rank else 0)
    for d in vectors(5):
        expected = torch.autograd.functional.jacobian(lambda x: rows_of(x, rank, axis=0), d)
        lower = rows_of(d, rank - 1, axis=0) if rank else d[:0]
        torch.testing.assert_close(table @ lower, expected, rtol=1e-12, atol=1e-13)


def test_rows_have_the_type_of_the_vectors_and_derivatives_of_their_own():
    assert rows_of(vectors(6).float(), 2, axis=1).dtype == torch.float32
    leaf = vectors(7).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: rows_of(x, 3, axis=1), (leaf,))
