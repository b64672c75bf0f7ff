"""The compiled loops against whole arrays, which compute the same: every output, every derivative, every error."""

from __future__ import annotations

import dataclasses
import itertools

import mpmath
import numpy as np
import pytest
import torch

from deltaqmmm.embedding import CutoffEmbedding, CutoffSettings
from deltaqmmm.embedding.compiled.pull_back import _pull_back
from deltaqmmm.embedding.compiled.search_loops import _find_images
from deltaqmmm.embedding.compiled.site_loops import _fill_sites
from deltaqmmm.embedding.compiled.weight_loops import _exponential
from deltaqmmm.errors import FrameError
from deltaqmmm.jit import inverse_root
from deltaqmmm.periodic import reduce_cell
from deltaqmmm.threads import choose_threads

OUTPUTS = ("qm_positions", "mm_positions", "mm_charges", "potentials")
CELL_NAMES = ["cubic", "orthorhombic", "triclinic", "truncated octahedron", "skewed", "left-handed"]


@pytest.fixture(params=[1, 3])
def loop_threads(request):
    """Frames one after the other, and side by side on three threads."""
    before = torch.get_num_threads()
    choose_threads(request.param, compiled=True)
    yield request.param
    choose_threads(before, compiled=False)


def drawn(shape, seed):
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def assert_equal(found, expected):
    """To 1e-12 of the largest element."""
    found, expected = found.detach(), expected.detach()
    largest = float(expected.abs().max()) if expected.numel() else 0.0
    torch.testing.assert_close(found, expected, rtol=0.0, atol=1e-12 * largest)


def both(case, settings):
    """The same embedding by the loops and by whole arrays."""
    routes = [CutoffEmbedding(case.system, settings) for _ in range(2)]
    assert routes[0].compiled
    routes[1].compiled = False
    return routes


def evaluate(embedding, positions, cells, outputs):
    """The frames, and the derivatives of the outputs for random cotangents, of which padding has none."""
    leaves = [positions.clone().requires_grad_()]
    if cells is not None:
        leaves.append(cells.clone().requires_grad_())
    frames = embedding(leaves[0], leaves[1] if cells is not None else None)
    values = [getattr(frames, name) for name in outputs]
    cotangents = [drawn(value.shape, OUTPUTS.index(name)) for name, value in zip(outputs, values, strict=True)]
    for cotangent, name in zip(cotangents, outputs, strict=True):
        if name.startswith("mm"):
            cotangent[frames.mm_sites < 0] = 0.0
    return frames, torch.autograd.grad(values, leaves, cotangents, allow_unused=True)


def check_routes(case, settings, positions, cells, outputs=OUTPUTS):
    """Both routes agree; what the loops give."""
    results = [evaluate(embedding, positions, cells, outputs) for embedding in both(case, settings)]
    (frames, gradients), (other_frames, other_gradients) = results
    assert torch.equal(frames.mm_sites, other_frames.mm_sites)
    for name in OUTPUTS:
        assert getattr(frames, name).is_contiguous()
        assert_equal(getattr(frames, name), getattr(other_frames, name))
    for found, expected in zip(gradients, other_gradients, strict=True):
        # Of what does not depend on the cell, the loops give zeros.
        assert_equal(found, torch.zeros_like(found) if expected is None else expected)
    return frames, gradients


def torn(case, n_frames, seed=0):
    """Frames of different cells whose atoms are moved a little, and then by lattice vectors, each by itself."""
    positions, cells = case.tensors(n_frames)
    positions += 0.2 * drawn(positions.shape, seed)
    if cells is not None:
        scales = torch.tensor([1.0, 1.25, 0.7], dtype=torch.float64)[torch.arange(n_frames) % 3]
        # Not in proportion: molecules have to stay whole, and so they do in one image.
        cells = scales[:, None, None] * cells
        positions = positions + (1.5 * drawn(positions.shape, seed + 1)).round() @ cells
    return positions, cells


@pytest.mark.parametrize("blur_width", [0.0, 1.5])
@pytest.mark.parametrize("name", [*CELL_NAMES, None])
def test_both_routes_agree(tools, name, blur_width, loop_threads):
    case = tools.mixed_case(name, seed=2)
    positions, cells = torn(case, 4)
    frames, gradients = check_routes(case, CutoffSettings(6.0, 11.0, 2.0, blur_width), positions, cells)
    full = torch.tensor(np.append(case.system.site_charges, 0.0))[frames.mm_sites]
    inside = (frames.mm_charges != full) & (frames.mm_charges != 0.0)
    virtual = torch.tensor(np.append(case.system.site_atoms, 0))[frames.mm_sites] < 0
    assert inside.sum() > 40
    assert (virtual & inside).sum() > 10
    if name is not None:
        # Padding there is, images of one group, and shifts of the QM atoms.
        assert (frames.mm_sites < 0).any()
        assert torch.bincount(frames.mm_sites[2].clamp(min=0)).max() > 1
        assert (frames.qm_positions - positions[:, case.system.qm_atoms]).abs().max() > 5.0
        assert gradients[1].abs().max() > 1.0


@pytest.mark.parametrize("blur_width", [0.0, 2.0])
@pytest.mark.parametrize(
    "outputs", [names for count in (1, 2, 3) for names in itertools.combinations(OUTPUTS, count)], ids="-".join
)
def test_any_outputs(tools, outputs, blur_width, loop_threads):
    case = tools.mixed_case("triclinic", n=3)
    check_routes(case, CutoffSettings(6.0, 11.0, 2.0, blur_width), *torn(case, 2), outputs)


@pytest.mark.parametrize("n_copies", [1, 2])
def test_a_small_box(tools, n_copies, loop_threads):
    """Many more images than groups, so that the first guess of the room for them is too small."""
    rng = np.random.default_rng(3)
    cell = np.array([[9.0, 0.0, 0.0], [2.0, 10.0, 0.0], [-3.0, 1.0, 11.0]])
    kinds = [tools.water, tools.four_site, tools.five_site, tools.ion]
    places = np.array([[4.5, 0.0, 0.0], [0.0, 5.0, 0.0], [0.0, 0.5, 5.5], [4.0, 5.0, 5.0]])
    geometry = [kind.geometry @ tools.random_rotation(rng) + place for kind, place in zip(kinds, places, strict=True)]
    case = tools.assemble([tools.qm_large, *kinds], [tools.qm_large.geometry, *geometry], cell)
    frames, _ = check_routes(case, tools.settings, *case.tensors(n_copies))
    assert np.bincount(frames.mm_sites[0].numpy()).min() > 5
    embedding = CutoffEmbedding(case.system, tools.settings)
    again = [embedding(*case.tensors(n_copies)).potentials for _ in range(2)]
    assert torch.equal(again[0], again[1])


@pytest.mark.parametrize("name", ["cubic", "triclinic", None])
def test_many_qm_molecules(tools, name, loop_threads):
    rng = np.random.default_rng(6)
    cell = None if name is None else tools.cells[name]
    qm = [tools.qm_small, tools.qm_large, tools.qm_small, tools.qm_small]
    kinds = [tools.water, *qm[:2], tools.five_site, *qm[2:], tools.chain, tools.ion, tools.four_site]
    geometry = [kind.geometry @ tools.random_rotation(rng) + 6.0 * rng.normal(size=3) for kind in kinds]
    case = tools.assemble(kinds, geometry, cell)
    frames, _ = check_routes(case, tools.settings, *torn(case, 6))
    assert (torch.cdist(frames.qm_positions, frames.qm_positions) < 40.0).all()


@pytest.mark.parametrize("name", ["triclinic", "truncated octahedron"])
def test_where_rounding_does_not_give_the_nearest_image(tools, name):
    """Two QM atoms anywhere in the cell, and molecules that are torn anyhow."""
    rng = np.random.default_rng(2)
    atom = dataclasses.replace(tools.ion, qm=True)
    kinds = [atom, tools.water, atom]
    case = tools.assemble(kinds, [kind.geometry + 5.0 * k for k, kind in enumerate(kinds)], tools.cells[name])
    positions, cells = case.tensors(300)
    positions[:, 2:] += torch.tensor(rng.uniform(-1.0, 1.0, size=(300, 3, 3))) @ cells[0]
    frames, _ = check_routes(case, tools.settings, positions, cells)
    lattice = torch.tensor(reduce_cell(tools.cells[name]).vectors)
    vectors = positions[:, -1] - positions[:, 0]
    rounded = vectors - (vectors @ torch.linalg.inv(lattice)).round() @ lattice
    nearest = (frames.qm_positions[:, 1] - frames.qm_positions[:, 0]).detach()
    assert (nearest.norm(dim=1) < rounded.norm(dim=1) - 0.1).sum() > 5


@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize("slip", [-1e-10, 0.0, 1e-10])
def test_of_equally_close_pairs_the_first_counts(tools, slip, turned):
    """Two dimers in a cell: the second one is as close to the first one on either side of it."""
    geometry = np.array([[-1.0, 0.0, 0.0], [1.0, 0.0, 0.0]])
    dimer = dataclasses.replace(tools.qm_small, symbols=("O", "H"), geometry=geometry, bonds=((0, 1),))
    second = (-geometry if turned else geometry) + np.array([10.0 + slip, 0.0, 0.0])
    coordinates = [geometry, second, tools.water.geometry + 7.0]
    case = tools.assemble([dimer, dimer, tools.water], coordinates, np.diag([20.0, 30.0, 30.0]))
    frames, _ = check_routes(case, tools.settings, *case.tensors())
    # Its left atom meets the right atom of the first dimer where it is, and its right atom the left one 20 bohr away.
    expected = second - np.array([20.0, 0.0, 0.0]) if turned else second
    np.testing.assert_allclose(frames.qm_positions[0, 2:].detach().numpy(), expected, rtol=0.0, atol=1e-9)


SETTINGS = {
    "sharp": CutoffSettings(6.0, 11.0, 50.0),
    "blunt": CutoffSettings(4.0, 11.0, 0.1),
    "from the start": CutoffSettings(0.0, 12.0, 2.0),
    "narrow": CutoffSettings(9.0, 9.01, 4.0),
    "wide blur": CutoffSettings(6.0, 11.0, 2.0, 30.0),
    "narrow blur": CutoffSettings(6.0, 11.0, 2.0, 0.01),
    "nothing near": CutoffSettings(1e-3, 2e-3),
}


@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS.keys())
def test_other_settings(tools, settings):
    case = tools.mixed_case("orthorhombic", seed=4)
    frames, _ = check_routes(case, settings, *torn(case, 3))
    assert (frames.mm_sites.shape[1] == 0) == (settings.outer < 1.0)


@pytest.mark.parametrize("blur_width", [0.0, 1.5])
def test_without_a_cutoff(tools, blur_width, loop_threads):
    case = tools.mixed_case(None)
    settings = CutoffSettings(inner=None, blur_width=blur_width)
    frames, _ = check_routes(case, settings, *torn(case, 3))
    assert frames.mm_sites.shape[1] == len(case.system.site_atoms)


@pytest.mark.parametrize(("periodic", "inner"), [(True, 8.0), (False, 8.0), (False, None)])
def test_qm_atoms_alone(tools, periodic, inner):
    cell = 30.0 * np.eye(3) if periodic else None
    case = tools.assemble([tools.qm_large], [tools.qm_large.geometry], cell)
    frames, _ = check_routes(case, CutoffSettings(inner, 12.0), *torn(case, 2))
    assert frames.mm_sites.shape == (2, 0)


@pytest.mark.parametrize("distance", [7.9, 8.1, 11.0, 12.1, 12.6, 12.8])
def test_one_group_at_the_edges(tools, distance):
    """Up to ln(4) / 2 beyond the outer cutoff a group is looked at more closely."""
    place = tools.qm_large.geometry[1] + np.array([distance, 0.0, 0.0])
    case = tools.assemble([tools.qm_large, tools.ion], [tools.qm_large.geometry, place[None]], None)
    frames, _ = check_routes(case, tools.settings, *case.tensors())
    assert frames.mm_sites.shape[1] == (distance < 12.0)


def test_one_qm_atom(tools):
    atom = dataclasses.replace(tools.ion, qm=True)
    kinds = [tools.water, atom, tools.five_site, tools.water]
    case = tools.assemble(kinds, [kind.geometry + 6.0 * k for k, kind in enumerate(kinds)], 20.0 * np.eye(3))
    check_routes(case, tools.settings, *torn(case, 3))


def test_many_groups(tools):
    """More than are looked at at a time."""
    rng = np.random.default_rng(1)
    places = np.array(list(np.ndindex(10, 10, 10))[1:]) * 5.0
    kinds = [tools.qm_large] + [tools.ion if k % 7 else tools.four_site for k in range(len(places))]
    shifts = [np.zeros(3), *(places + rng.uniform(-0.5, 0.5, places.shape))]
    case = tools.assemble(
        kinds, [kind.geometry + shift for kind, shift in zip(kinds, shifts, strict=True)], 50.0 * np.eye(3)
    )
    frames, _ = check_routes(case, CutoffSettings(16.0, 24.0, 4.0), *case.tensors())
    assert frames.mm_sites.shape[1] > 512


def test_order_of_sites(tools):
    """The sites of a group need not be neighbours, nor its virtual sites the last ones."""
    case = tools.mixed_case("cubic")
    system = case.system
    order = np.random.default_rng(9).permutation(len(system.site_charges))
    virtual = np.random.default_rng(8).permutation(len(system.virtual_site_sites))
    shuffled = dataclasses.replace(
        system,
        site_particles=system.site_particles[order],
        site_charges=system.site_charges[order],
        site_atoms=system.site_atoms[order],
        site_groups=system.site_groups[order],
        virtual_site_sites=np.argsort(order)[system.virtual_site_sites][virtual],
        site_parents=system.site_parents[virtual],
        # Other ones for each parent and each site.
        site_weights=np.random.default_rng(7).normal(size=system.site_weights.shape),
        site_cross=np.random.default_rng(6).normal(size=system.site_cross.shape),
    )
    check_routes(type(case)(shuffled, case.positions, case.cell), tools.settings, *torn(case, 2))


# ---------------------------------------------------------------------------------------------------- around the loops


@pytest.mark.parametrize("by_cells", [False, True])
@pytest.mark.parametrize("route", [0, 1])
@pytest.mark.parametrize("given", [(0, 1, 2, 3), (0, 3), (2,)])
def test_the_way_back_is_that_of_automatic_differentiation(tools, given, route, by_cells):
    case = tools.mixed_case("triclinic")
    positions, cells = torn(case, 3)
    embedding = both(case, tools.settings)[route]
    _, (expected, expected_by_cell) = evaluate(embedding, positions, cells, [OUTPUTS[index] for index in given])
    frames = embedding(positions, cells, by_cells=by_cells)
    cotangents = [drawn(getattr(frames, name).shape, seed) for seed, name in enumerate(OUTPUTS)]
    for cotangent in cotangents[1:3]:
        cotangent[frames.mm_sites < 0] = 0.0
    for _ in range(2):
        found, by_cell = frames.way_back(*(c if index in given else None for index, c in enumerate(cotangents)))
        assert_equal(found, expected)
        assert (by_cell is None) == (not by_cells)
        if by_cells:
            assert_equal(by_cell, expected_by_cell)
    assert not positions.requires_grad


def test_cells_that_are_not_differentiated(tools, loop_threads):
    case = tools.mixed_case("skewed")
    positions, cells = torn(case, 3)
    embedding = CutoffEmbedding(case.system, tools.settings)
    _, (expected, _) = evaluate(embedding, positions, cells, OUTPUTS)
    leaf = positions.clone().requires_grad_()
    frames = embedding(leaf, cells)
    values = [getattr(frames, name) for name in OUTPUTS]
    cotangents = [drawn(value.shape, seed) for seed, value in enumerate(values)]
    for cotangent in cotangents[1:3]:
        cotangent[frames.mm_sites < 0] = 0.0
    (gradient,) = torch.autograd.grad(values, [leaf], cotangents, retain_graph=True)
    assert torch.equal(gradient, expected)
    # Once more: nothing has been used up.
    (gradient,) = torch.autograd.grad(values, [leaf], cotangents)
    assert torch.equal(gradient, expected)
    with torch.no_grad():
        assert not embedding(leaf, cells).potentials.requires_grad


def test_positions_and_gradients_with_gaps(tools):
    case = tools.mixed_case("cubic")
    positions, cells = torn(case, 2)
    embedding = CutoffEmbedding(case.system, tools.settings)
    expected = embedding(positions, cells)
    leaf = positions.transpose(1, 2).contiguous().transpose(1, 2).requires_grad_()
    assert not leaf.is_contiguous()
    frames = embedding(leaf, cells.transpose(1, 2).contiguous().transpose(1, 2))
    assert torch.equal(frames.potentials, expected.potentials)
    # The gradient of a sum is one number at all places.
    (gradient,) = torch.autograd.grad(frames.potentials.sum(), leaf, retain_graph=True)
    (same,) = torch.autograd.grad(frames.potentials, leaf, torch.ones_like(frames.potentials))
    assert torch.equal(gradient, same)


def test_cells_that_change_in_place(tools):
    """What is remembered of a cell is found by its value."""
    case = tools.mixed_case("cubic")
    positions, cells = case.tensors(2)
    embedding = CutoffEmbedding(case.system, tools.settings)
    embedding(positions, cells)
    cells[1] *= 0.8
    frames = embedding(positions, cells)
    expected = CutoffEmbedding(case.system, tools.settings)(positions[1:], cells[1:])
    assert_equal(frames.potentials[1:], expected.potentials)


def test_given_gradients_and_cells_stay(tools):
    case = tools.mixed_case("cubic")
    positions, cells = torn(case, 2)
    leaf = positions.clone().requires_grad_()
    embedding = CutoffEmbedding(case.system, tools.settings)
    frames = embedding(leaf, cells)
    outputs = [getattr(frames, name) for name in OUTPUTS]
    cotangents = [torch.ones_like(output) for output in outputs]
    torch.autograd.grad(outputs, [leaf], cotangents)
    assert torch.equal(leaf.detach(), positions)
    assert all((cotangent == 1.0).all() for cotangent in cotangents)


def test_outputs_that_were_changed_are_noticed(tools):
    case = tools.mixed_case("cubic")
    positions, cells = case.tensors()
    frames = CutoffEmbedding(case.system, tools.settings)(positions.requires_grad_(), cells)
    with torch.no_grad():
        frames.mm_charges.zero_()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        frames.potentials.sum().backward()


def test_single_precision_takes_whole_arrays(tools):
    assert not CutoffEmbedding(tools.mixed_case("cubic").system, tools.settings, dtype=torch.float32).compiled


def bad_frames(tools):
    """Arguments that are refused."""
    case = tools.mixed_case("cubic")
    positions, cells = case.tensors(2)
    outside = case.system.group_references[-1] + 1
    broken = [positions.clone() for _ in range(4)]
    broken[0][1, 7, 2] = torch.inf
    broken[1][1, outside] = torch.nan
    broken[2][0, case.system.qm_atoms[3], 1] = -torch.inf
    # They cancel in a sum of numbers that are finite.
    broken[3][0, 3, 0], broken[3][0, 9, 0] = torch.inf, -torch.inf
    return {
        "no cell": (positions, None),
        "one cell": (positions, cells[:1]),
        "a flat cell": (positions, torch.stack([cells[0], torch.ones((3, 3), dtype=torch.float64)])),
        "a cell of no numbers": (positions, torch.stack([cells[0], cells[1] * torch.nan])),
        "a wrong shape of the cell": (positions, cells[:, :2]),
        "an atom less": (positions[:, 1:], cells),
        "no batch": (positions[0], cells[0]),
        "infinite": (broken[0], cells),
        "not a number": (broken[1], cells),
        "infinite QM atom": (broken[2], cells),
        "two infinite": (broken[3], cells),
    }


def collisions(tools):
    """Frames in which a site is at some distances from a QM atom; the first of two counts, not the nearest."""
    case = tools.mixed_case("cubic")
    qm_atom, atom = case.system.qm_atoms[2], case.system.group_references[3]
    for distances in ((3.0, 0.0), (3.0, 1e-8), (3.0, 9e-7), (9e-7, 0.0)):
        positions, cells = case.tensors(2)
        for frame, distance in enumerate(distances):
            positions[frame, atom] = positions[frame, qm_atom] + cells[frame, 0]
            positions[frame, atom, 1] += distance
        yield positions, cells


@pytest.mark.parametrize("blur_width", [0.0, 1.0])
def test_the_same_errors(tools, blur_width, loop_threads):
    case = tools.mixed_case("cubic")
    routes = both(case, CutoffSettings(8.0, 12.0, 2.0, blur_width))
    # The loops then know how much room they need, and do not look twice.
    assert torch.isfinite(routes[0](*case.tensors(2)).potentials).all()
    for arguments in [*bad_frames(tools).values(), *collisions(tools)]:
        messages = []
        for embedding in routes:
            with pytest.raises(FrameError) as error:
                embedding(*arguments)
            messages.append(str(error.value))
        assert messages[0] == messages[1]


def test_of_two_collisions_the_first_is_named(tools, loop_threads):
    case = tools.mixed_case("cubic")
    for embedding in both(case, tools.settings):
        for arguments, frame in zip(collisions(tools), (1, 1, 1, 0), strict=True):
            with pytest.raises(FrameError, match=f"QM atom {case.system.qm_atoms[2]} in frame {frame} "):
                embedding(*arguments)


def test_huge_positions_are_refused_by_name(tools):
    """As such, although each is finite and only their sum is not."""
    case = tools.mixed_case(None)
    positions, _ = case.tensors(2)
    embedding = CutoffEmbedding(case.system, tools.settings)
    far = case.system.group_references[:3]
    positions[1, far] = 1.5e308
    with pytest.raises(FrameError, match=rf"atom {min(far)} in frame 1 .* beyond 1e\+08 bohr"):
        embedding(positions, None)


def test_loops_are_compiled_once(tools):
    """Whatever is periodic, differentiated or missing: every kind would take seconds."""
    periodic, alone = tools.mixed_case("cubic"), tools.mixed_case(None)
    for case, settings in ((periodic, tools.settings), (alone, tools.settings), (alone, CutoffSettings(inner=None))):
        for outputs in (OUTPUTS, OUTPUTS[:1], OUTPUTS[3:]):
            for n_frames in (1, 2):
                evaluate(CutoffEmbedding(case.system, settings), *case.tensors(n_frames), outputs)
    for kernel in (_find_images, _fill_sites, _pull_back):
        assert len(kernel._compiled.signatures) == 1


# ------------------------------------------------------------------------------------------------------------ functions


def test_exponential():
    """To the last digits of 1, and exact there: so the smooth minimum of one number is this number."""
    points = [-x for x in (0.0, 1e-300, 1e-17, 1e-9, 1e-3, 0.1, 0.5, 1.0, 3.0, 9.0, 17.0, 30.0, 39.9, 40.1, 1e3, 1e300)]
    points += (-np.random.default_rng(0).uniform(0.0, 40.0, 500)).tolist()
    for x in points:
        assert abs(mpmath.exp(x) - mpmath.mpf(_exponential.py_func(x))) < 5e-16
    assert _exponential.py_func(0.0) == 1.0


def test_inverse_root():
    for x in (10.0 ** np.random.default_rng(0).uniform(-12.0, 8.0, 500)).tolist():
        assert abs(inverse_root.py_func(x) * mpmath.sqrt(x) - 1.0) < 4e-16
    assert inverse_root.py_func(4.0) == 0.5
