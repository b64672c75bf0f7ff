"""From positions to features and back by compiled loops, against whole arrays, which compute the same."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from deltaqmmm.ml import COULOMB, Surroundings, combine, features
from deltaqmmm.ml.compiled.feature_loops import combine_sums, feature_table, pull_back_features
from deltaqmmm.ml.compiled.lanes import MEMBERS, by_member, n_groups
from deltaqmmm.ml.compiled.neighbour_pull_back import neighbour_pull_back
from deltaqmmm.ml.compiled.neighbour_sums import neighbour_sums
from deltaqmmm.ml.compiled.structure_table import PAIRS, structure_table
from deltaqmmm.ml.compiled.surroundings import CompiledSurroundings, near_sites, shell_tables
from deltaqmmm.ml.monomials import n_rows
from deltaqmmm.ml.structure import Structure
from deltaqmmm.threads import choose_threads
from tests.unit.ml.helpers import NEAR_CUTOFF, bind, make_frames, make_model, small_functions

ELEMENTS = ("C", "H", "N", "O")
OUTER, INNER = small_functions().mm_radial, small_functions().mm_near_radial
CASES = {
    "vectors outside, tensors inside": small_functions(),
    "tensors outside": small_functions(mm_rank=2, mm_near_rank=1),
    "tensors in both": small_functions(mm_rank=2, mm_radial=OUTER[:2], mm_near_radial=INNER[:1]),
    "one shell": small_functions(mm_near_radial=(), mm_near_rank=1),
    "near sites alone": small_functions(mm_radial=()),
    "potential and field outside": small_functions(mm_radial=(COULOMB,)),
    "no radial functions inside": small_functions(qm_radial=()),
    "second order": small_functions(angular_order=2),
    "sixth order": small_functions(angular_order=6, angular_radial=small_functions().angular_radial[:1]),
}
# The first six are of different shells.
each_case = pytest.mark.parametrize("functions", CASES.values(), ids=CASES.keys())
each_number_of_types = pytest.mark.parametrize("n_types", [1, 2, 3])


def assert_equal(found, expected):
    """To 1e-12 of the largest element."""
    found, expected = torch.as_tensor(found), torch.as_tensor(expected)
    largest = float(expected.abs().max()) if expected.numel() else 0.0
    torch.testing.assert_close(found, expected, rtol=0.0, atol=1e-12 * largest)


def drawn(*shape, seed=7):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def in_groups(array):
    """From (C, ...) to (G, ..., 4), filled up with zeros."""
    groups = n_groups(len(array))
    found = np.zeros((groups * MEMBERS, *array.shape[1:]))
    found[: len(array)] = array
    return np.ascontiguousarray(np.moveaxis(found.reshape(groups, MEMBERS, *array.shape[1:]), 1, -1))


def side_by_side(radial, angular):
    """Radial sums (..., F, 1, E) and angular ones (..., F', R, E) as the loops have them, (..., E, Q)."""
    columns = [tensor.movedim(-1, -3).flatten(-2) for tensor in (radial, angular)]
    return torch.cat(columns, dim=-1).contiguous().numpy()


# ------------------------------------------------------------------------------------------------ between the QM atoms

CLUSTERS = {
    # Some pairs are beyond one of the cutoffs.
    "many": ("O", "H", "C", "H", "C", "O", "H", "H", "C", "C"),
    # More pairs than at a time, also within the cutoff of the angular functions.
    "crowd": ("O", "H", "C", "H", "N") * 5,
    # The last atom is far from all.
    "one apart": ("O", "H", "C", "H"),
    "all apart": ("H", "O"),
    "single": ("C",),
}


def make_cluster(name):
    symbols = CLUSTERS[name]
    positions = 3.0 * drawn(3, len(symbols), 3, seed=4)
    if "apart" in name:
        positions[:, -1] += 100.0
    return symbols, positions


@each_case
@pytest.mark.parametrize("cluster", CLUSTERS)
def test_sums_over_the_neighbours(functions, cluster):
    symbols, positions = make_cluster(cluster)
    neighbours = Structure(functions, ELEMENTS, symbols, torch.device("cpu"), torch.float64)(positions)
    radial, angular = neighbours.moments()
    table = structure_table(functions, np.array([ELEMENTS.index(symbol) for symbol in symbols]))
    found, pairs = neighbour_sums(table, positions.numpy(), len(ELEMENTS))
    assert cluster != "crowd" or (pairs.counts > PAIRS).all()
    assert found.shape == (3, len(symbols), 4, table.n_sums)
    # Function by function: the largest of all says little of the others.
    expected = side_by_side(radial, angular)
    for index in range(table.n_sums):
        assert_equal(found[..., index], expected[..., index])
    assert cluster != "many" or (np.abs(expected).max(axis=(0, 1, 2)) > 1e-4).all()
    for n_members in (1, 3, MEMBERS + 1):
        gradients = drawn(n_members, *radial.shape), drawn(n_members, *angular.shape)
        # Each part alone, then both.
        for first, second in ((1.0, 0.0), (0.0, 1.0), (1.0, 1.0)):
            parts = first * gradients[0], second * gradients[1]
            found = neighbour_pull_back(table, pairs, in_groups(side_by_side(*parts)))
            assert_equal(by_member(found, n_members), neighbours.pull_back(*parts))


@pytest.mark.parametrize("same", [False, True])
def test_positions_that_are_not_numbers_or_the_same_show(same):
    symbols, positions = make_cluster("many")
    positions[1, 2] = positions[1, 3] if same else torch.nan
    table = structure_table(small_functions(), np.array([ELEMENTS.index(symbol) for symbol in symbols]))
    found, _ = neighbour_sums(table, positions.numpy(), len(ELEMENTS))
    assert np.isnan(found[1]).any()
    assert np.isfinite(found[[0, 2]]).all()


# ----------------------------------------------------------------------------------------------------------- features


def make_moments(functions, n_types):
    """Random sums of every kind."""
    n_angular, rows = len(functions.angular_radial), n_rows(functions.angular_order)
    shapes = (len(functions.qm_radial), 1, 4), (n_angular, rows, 4)
    shapes += (
        (len(functions.mm_radial), n_rows(functions.mm_rank), n_types),
        (len(functions.mm_near_radial), n_rows(functions.mm_near_rank), n_types),
    )
    return [drawn(2, 5, *shape, seed=seed) for seed, shape in enumerate(shapes)]


@each_case
@each_number_of_types
@pytest.mark.parametrize("n_members", [3, MEMBERS + 2])
def test_features(functions, n_types, n_members, monkeypatch):
    moments = make_moments(functions, n_types)
    table = feature_table(functions, len(ELEMENTS), n_types)
    sums = side_by_side(*moments[:2]), *(tensor.numpy() for tensor in moments[2:])
    expected = combine(moments)
    found = combine_sums(table, *sums)
    assert found.shape == expected.shape
    for index in range(table.n_features):
        assert_equal(found[..., index], expected[..., index])
    slopes = drawn(n_members, *expected.shape)
    by_radial, by_angular, *by_shells = features.pull_back_features(moments, slopes)
    given = in_groups(slopes.numpy())
    with monkeypatch.context() as patch:
        # What memory held before shows nowhere.
        patch.setattr(np, "empty", lambda shape: np.full(shape, np.nan))
        gradients = pull_back_features(table, *sums, given)
    expected = [torch.from_numpy(side_by_side(by_radial, by_angular)), *by_shells]
    for array, other in zip(gradients, expected, strict=True):
        assert_equal(by_member(array, n_members), other)


# ------------------------------------------------------------------------------------------------- sites near QM atoms


@pytest.mark.parametrize("distance", [0.0, 2.5, 4.0, 100.0])
def test_near_sites(distance):
    qm, mm, _, _ = make_frames(n_frames=3, n_sites=40)
    # One frame without near sites.
    mm[2] += 60.0
    near = (torch.cdist(mm, qm) < distance).any(dim=2).numpy()
    expected = torch.cdist(mm, qm).amin(dim=2).square().numpy()
    places, counts, nearest = near_sites(qm.numpy(), mm.numpy(), distance)
    assert places.shape == nearest.shape == (3, counts.max())
    for frame, count in enumerate(counts):
        assert places[frame, :count].tolist() == np.flatnonzero(near[frame]).tolist()
        assert not places[frame, count:].any()
        np.testing.assert_allclose(nearest[frame, :count], expected[frame, near[frame]])
        assert np.isinf(nearest[frame, count:]).all()


@pytest.mark.parametrize("spread", [1.0, 4.0])
def test_near_sites_that_only_the_outermost_atom_sees(spread):
    qm, distance = spread * drawn(4, 3, 3), 4.0
    vectors = qm - qm.mean(dim=1, keepdim=True)
    outermost = vectors.norm(dim=2).argmax(dim=1)
    outwards = torch.nn.functional.normalize(vectors[torch.arange(4), outermost], dim=1)
    fractions = torch.tensor([0.98, 0.999, 1.001], dtype=torch.float64)
    mm = qm[torch.arange(4), outermost][:, None] + distance * fractions[:, None] * outwards[:, None]
    places, counts, _ = near_sites(qm.numpy(), mm.numpy(), distance)
    assert counts.tolist() == [2] * 4
    assert places.tolist() == [[0, 1]] * 4


@pytest.mark.parametrize("n_types", [1, 2])
@pytest.mark.parametrize("n_sites", [0, 1, 30])
@pytest.mark.parametrize("distance", [3.0, 5.0, 100.0])
@pytest.mark.parametrize("case", list(CASES)[:6])
def test_surroundings(case, n_types, n_sites, distance):
    functions, n_members = CASES[case], MEMBERS + 1
    qm, mm, weights, sites = make_frames(n_frames=3, n_sites=max(n_sites, 1), seed=3)
    types = (sites % n_types)[:, :n_sites]
    mm, weights = mm[:, :n_sites], weights[:, :n_sites]
    if n_sites > 1:
        # Padding, and a near site without weight.
        mm[:, -3:], weights[:, -3:] = 1e4, 0.0
        weights[:, 1] = 0.0
    one_hot = torch.nn.functional.one_hot(types, n_types).to(qm.dtype).transpose(1, 2)
    expected = Surroundings.between(functions, qm, mm, weights, one_hot)
    arrays = [tensor.contiguous().numpy() for tensor in (qm, mm, weights, types)]
    around = CompiledSurroundings.between(shell_tables(functions), *arrays, n_types)
    for name in ("moments", "jacobians"):
        for found, other in zip(getattr(around, name), getattr(expected, name)(), strict=True):
            assert found.shape == other.shape
            assert_equal(found, other)
    gradients = [drawn(n_members, *tensor.shape, seed=seed) for seed, tensor in enumerate(expected.moments())]
    given = [tensor.numpy() for tensor in gradients]
    for found, other in zip(around.pull_back(*given), expected.pull_back(*gradients), strict=True):
        assert found.shape == other.shape
        assert_equal(found, other)
    others = expected.pull_back_near(*gradients, distance)
    found = by_member(around.pull_back_near(*map(in_groups, given), distance), n_members)
    assert found.shape == others.shape
    assert n_sites < 30 or found.shape[2] > 2
    # Ours are in the order of the sites, and the other ones in that of their distances.
    nearest = torch.cdist(qm, mm).amin(dim=1)
    for frame in range(3):
        count = int((nearest[frame] < min(distance, NEAR_CUTOFF)).sum())
        order = nearest[frame].argsort()[:count].sort().indices
        assert_equal(found[:, frame, :count], others[:, frame, order])
        assert not found[:, frame, count:].any()


# -------------------------------------------------------------------------------------------------------- all together


@pytest.fixture(params=[1, 3])
def loop_threads(request):
    """Frames one after the other, and side by side on three threads."""
    before = torch.get_num_threads()
    choose_threads(request.param, compiled=True)
    yield request.param
    choose_threads(before, compiled=False)


MODELS = {
    "several types": {},
    "one type": {"mm_type_by": "none"},
    "counted": {"mm_weight": "count", "mm_rank": 2},
    "sixth order": {"angular_order": 6},
}


@pytest.mark.parametrize("changes", MODELS.values(), ids=MODELS.keys())
@pytest.mark.parametrize("n_members", [1, 3, MEMBERS + 1])
@pytest.mark.parametrize("n_sites", [0, 40])
def test_as_whole_arrays(changes, n_members, n_sites, loop_threads):
    model = make_model(small_functions(**changes), n_members=n_members)
    correction = bind(model, ("C", "O", "H", "O"))
    qm, mm, charges, sites = make_frames(n_frames=5, n_sites=max(n_sites, 1))
    qm[1, 3] += 50.0
    mm, charges, sites = mm[:, :n_sites], charges[:, :n_sites], sites[:, :n_sites]
    mm[:, -4:], charges[:, -4:], sites[:, -4:] = 1e4, 0.0, -1
    found = correction.evaluate(qm, mm, charges, sites)
    assert correction._descriptor.compiled
    assert len(found.sites.parts) == loop_threads
    correction._descriptor.compiled = False
    expected = correction.evaluate(qm, mm, charges, sites)
    assert [type(result.sites).__name__ for result in (found, expected)] == ["CompiledDerivatives", "MomentDerivatives"]
    for name in ("energies", "qm_gradients", "mm_gradients", "charge_gradients"):
        assert getattr(found, name).shape == getattr(expected, name).shape
        assert_equal(getattr(found, name), getattr(expected, name))
    weights = drawn(2, n_members, 5)
    for tensor, other in zip(found.sites.weighted(weights), expected.sites.weighted(weights), strict=True):
        assert_equal(tensor, other)
    near, other = (result.sites.near(5.0, drawn(2, n_members)) for result in (found, expected))
    assert near.shape == other.shape
    # The order of the sites is another one, see above.
    assert_equal(near.sort(dim=2).values, other.sort(dim=2).values)
    assert n_sites == 0 or (near.abs().amax(dim=(0, 2, 3)) > 0.0).all()
