"""Any lattice, any basis of it: the minimum image is the shortest image."""

from __future__ import annotations

import itertools

import numpy as np
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from deltaqmmm.periodic import make_whole, minimum_image_shifts, reduce_cell

SHIFTS = np.array(list(itertools.product(range(-3, 4), repeat=3)))
numbers = st.floats(-1.0, 1.0, allow_subnormal=False)


@st.composite
def lattices(draw):
    """A cell with edges within a factor 8 of each other that is not too flat, and another basis of the same lattice."""
    edges = draw(arrays(np.float64, 3, elements=st.floats(5.0, 40.0)))
    cell = edges[:, None] * draw(arrays(np.float64, (3, 3), elements=numbers))
    lengths = np.linalg.norm(cell, axis=1)
    assume(lengths.min() > 1.0)
    assume(abs(np.linalg.det(cell)) > 0.05 * lengths.prod())
    skew = np.eye(3, dtype=int)
    skew[1, 0], skew[2, 0], skew[2, 1] = draw(st.tuples(*[st.integers(-6, 6)] * 3))
    skew = skew[draw(st.permutations(range(3)))]
    return cell, skew @ cell


@settings(deadline=None, max_examples=150)
@given(lattices(), arrays(np.float64, (6, 3), elements=st.floats(-4.0, 4.0)))
def test_minimum_image_is_the_shortest(lattice, fractional):
    cell, skewed = lattice
    vectors = fractional @ cell
    shifts = minimum_image_shifts(vectors, skewed)
    images = vectors + shifts @ skewed
    # All images near the found one, in a reduced basis: none is shorter.
    others = images[:, None] + SHIFTS @ reduce_cell(cell).vectors
    shortest = np.linalg.norm(others, axis=-1).min(axis=1)
    scale = np.linalg.norm(skewed)
    np.testing.assert_allclose(np.linalg.norm(images, axis=1), shortest, rtol=0.0, atol=1e-9 * scale)


@settings(deadline=None, max_examples=100)
@given(
    lattices(), arrays(np.float64, (5, 3), elements=numbers), arrays(np.int64, (6, 3), elements=st.integers(-50, 50))
)
def test_a_torn_chain_is_made_whole(lattice, steps, tears):
    _, cell = lattice
    # Bonds that are safely their own minimum image.
    steps = steps * 0.5 * reduce_cell(cell).safe_radius
    chain = np.vstack([np.zeros(3), np.cumsum(steps, axis=0)])
    levels = [np.array([[k + 1, k]]) for k in range(5)]
    whole = make_whole((chain + tears @ cell)[None], cell[None], levels)[0]
    np.testing.assert_allclose(whole - whole[0], chain, rtol=0.0, atol=1e-11 * np.linalg.norm(cell) * 50)
