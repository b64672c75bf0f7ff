"""The compiled loops over sites against `Shell`, which computes the same with whole arrays."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch

from deltaqmmm.ml import COULOMB, RadialFunction, Shell, default_functions
from deltaqmmm.ml.compiled.coulomb_loops import PAIRS
from deltaqmmm.ml.compiled.shell_pull_back import shell_pull_back
from deltaqmmm.ml.compiled.shell_sums import shell_sums
from deltaqmmm.ml.compiled.tables import BLOCK, ShellTable

CUTOFF = 9.0
DEFAULT = default_functions(mm_radial=3)
FUNCTIONS = {
    "all kinds": (
        RadialFunction("g1"),
        RadialFunction("g2", eta=0.05),
        RadialFunction("g2", eta=0.2, shift=3.5),
        RadialFunction("g3", kappa=0.8),
        # Of the same exponent as the one above, but no square of it.
        RadialFunction("g2", eta=0.4, shift=1.5),
    ),
    "squares and equals, in any order": tuple(
        RadialFunction("g2", eta=eta) for eta in (0.08, 0.02, 0.16, 0.04, 0.11, 0.22, 0.11)
    ),
    "outer": DEFAULT.mm_radial,
    "inner": DEFAULT.mm_near_radial,
    "flat and equal": (RadialFunction("g2"), RadialFunction("g2"), RadialFunction("g1")),
    "none": (),
}
COULOMB_AND_OTHERS = {**FUNCTIONS, "coulomb": (COULOMB,)}


def make_frames(n_types=1, n_frames=2, n_qm=3, n_sites=40, n_padded=3, width=12.0, seed=4):
    """QM atoms, sites, weights and types; some sites have no weight, and the last ones are padding."""
    generator = torch.Generator().manual_seed(seed)

    def uniform(*shape):
        return 2.0 * torch.rand(*shape, generator=generator, dtype=torch.float64) - 1.0

    qm, mm, weights = (
        2.5 * uniform(n_frames, n_qm, 3),
        width * uniform(n_frames, n_sites, 3),
        uniform(n_frames, n_sites),
    )
    weights[:, ::7] = 0.0
    types = torch.randint(n_types, (n_frames, n_sites), generator=generator)
    if n_padded:
        mm[:, -n_padded:] = 1e4 + 10.0 * torch.arange(n_padded)[:, None]
        weights[:, -n_padded:] = 0.0
    return qm, mm, weights, types


def shell_of(functions, cutoff, rank, qm, mm, weights, types, n_types):
    vectors = mm.transpose(1, 2)[:, None] - qm[..., None]
    one_hot = torch.nn.functional.one_hot(types, n_types).to(qm.dtype).transpose(1, 2)
    return Shell.between(functions, cutoff, rank, vectors, (vectors * vectors).sum(dim=2), weights, one_hot)


def tensor_sums(table, *frames):
    """`shell_sums` of tensors."""
    *frames, n_types = frames
    return [torch.from_numpy(sums) for sums in shell_sums(table, *(tensor.numpy() for tensor in frames), n_types)]


def tensor_pull_back(table, qm, mm, weights, types, gradients):
    """`shell_pull_back` of tensors, from zero."""
    found = np.zeros((len(gradients), *mm.shape)), np.zeros((len(gradients), *weights.shape))
    shell_pull_back(table, *(tensor.numpy() for tensor in (qm, mm, weights, types, gradients)), *found)
    return [torch.from_numpy(array) for array in found]


def random_gradients(shape, n_members=3):
    return torch.randn(n_members, *shape, generator=torch.Generator().manual_seed(8), dtype=torch.float64)


def assert_equal(found, expected):
    """To 1e-11 of the largest element."""
    largest = float(expected.abs().max()) if expected.numel() else 0.0
    torch.testing.assert_close(found, expected, rtol=0.0, atol=1e-11 * largest)


def is_compact(qm):
    """Whether all sites are looked at for each QM atom in every frame, or in none."""
    widest = (qm - qm.mean(dim=1, keepdim=True)).norm(dim=-1).amax(dim=1)
    compact = 0.45 * (CUTOFF + widest) ** 3 < CUTOFF**3
    assert compact.all() or not compact.any()
    return bool(compact.all())


def assert_as_shell(functions, rank, frames, n_types, cutoff=CUTOFF):
    table = ShellTable.of(functions, cutoff, rank)
    shell = shell_of(functions, cutoff, rank, *frames, n_types)
    moments, jacobian = tensor_sums(table, *frames, n_types)
    # Function by function: the largest of all says little of the others.
    for index in range(len(functions)):
        assert_equal(moments[:, :, index], shell.moments()[:, :, index])
        assert_equal(jacobian[:, :, index], shell.jacobian()[:, :, index])
    assert moments.shape == shell.moments().shape
    assert jacobian.shape == shell.jacobian().shape
    gradients = random_gradients(moments.shape)
    for found, expected in zip(tensor_pull_back(table, *frames, gradients), shell.pull_back(gradients), strict=True):
        assert found.shape == expected.shape
        assert_equal(found, expected)


CASES = [*itertools.product(FUNCTIONS, (0, 1, 2)), ("coulomb", 1)]


@pytest.mark.parametrize(("name", "rank"), CASES)
@pytest.mark.parametrize("n_types", [1, 3])
@pytest.mark.parametrize("compact", [False, True])
def test_as_shell(name, rank, n_types, compact):
    # Of QM atoms close to each other all sites are looked at, of others those within the cutoff of each.
    frames = make_frames(n_types)
    if not compact:
        frames[0][:] *= 3.0
    assert is_compact(frames[0]) == compact
    distances = torch.cdist(*frames[:2])
    assert 0.1 < (distances < CUTOFF).double().mean() < 0.9
    assert_as_shell(COULOMB_AND_OTHERS[name], rank, frames, n_types)


def test_as_shell_for_a_higher_rank():
    assert_as_shell(FUNCTIONS["all kinds"], 3, make_frames(2), 2)


@pytest.mark.parametrize("n_sites", [1, 7, 8, 9, 255, 256, 257, 700])
@pytest.mark.parametrize("name", ["all kinds", "outer", "flat and equal", "coulomb"])
def test_as_shell_for_full_blocks_and_others(name, n_sites):
    # All sites are within the cutoff.
    frames = make_frames(n_frames=1, n_qm=2, n_sites=n_sites, n_padded=0, width=3.0)
    frames[2][:] += 2.0
    assert_as_shell(COULOMB_AND_OTHERS[name], 1, frames, 1)


@pytest.mark.parametrize(
    ("name", "rank"),
    [("outer", 1), ("flat and equal", 1), ("all kinds", 1), ("all kinds", 0), ("inner", 2), ("coulomb", 1)],
)
@pytest.mark.parametrize("n_types", [1, 3])
@pytest.mark.parametrize("compact", [False, True])
def test_as_shell_for_several_blocks(name, rank, n_types, compact):
    frames = make_frames(n_types, n_sites=1500 * n_types, width=6.0)
    if not compact:
        frames[0][:] *= 3.0
    assert is_compact(frames[0]) == compact
    # Every atom sees more than one block of every type, some of it beyond the cutoff.
    within = torch.cdist(*frames[:2]) < CUTOFF
    for kind in range(n_types):
        assert (within & (frames[3] == kind)[:, None]).sum(dim=2).min() > max(PAIRS, BLOCK)
    assert not within[..., :-3].all()
    assert_as_shell(COULOMB_AND_OTHERS[name], rank, frames, n_types)


@pytest.mark.parametrize(("name", "rank"), [case for case in CASES if case[0] != "none" and case[1] > 0])
@pytest.mark.parametrize("compact", [False, True])
def test_sites_that_only_the_outermost_atom_sees(name, rank, compact):
    """As far from the centre of the QM atoms as a site within the cutoff can be."""
    functions, fractions = COULOMB_AND_OTHERS[name], torch.tensor([0.98, 0.99, 0.995, 0.999], dtype=torch.float64)
    table = ShellTable.of(functions, CUTOFF, rank)
    qm, _, _, _ = make_frames(n_frames=len(fractions))
    qm *= 0.6 if compact else 4.0
    assert is_compact(qm) == compact
    vectors = qm - qm.mean(dim=1, keepdim=True)
    outermost = vectors.norm(dim=2).argmax(dim=1)
    every = torch.arange(len(fractions))
    outwards = torch.nn.functional.normalize(vectors[every, outermost], dim=1)
    mm = (qm[every, outermost] + CUTOFF * fractions[:, None] * outwards)[:, None]
    frames = qm, mm, torch.full((len(mm), 1), 0.7, dtype=torch.float64), torch.zeros((len(mm), 1), dtype=torch.int64)
    shell = shell_of(functions, CUTOFF, rank, *frames, 1)
    moments, jacobian = tensor_sums(table, *frames, 1)
    for index in range(len(functions)):
        gradients = torch.zeros((1, *moments.shape), dtype=torch.float64)
        gradients[:, :, :, index] = random_gradients(moments.shape, 1)[:, :, :, index]
        found = moments, jacobian, *tensor_pull_back(table, *frames, gradients)
        expected = shell.moments(), shell.jacobian(), *shell.pull_back(gradients)
        for frame, atom in enumerate(outermost.tolist()):
            # Function by function, and one distance after the other: each is small in its own way.
            for sums, others in zip(found[:2], expected[:2], strict=True):
                assert others[frame, atom, index].abs().max() > 0.0
                assert_equal(sums[frame, atom, index], others[frame, atom, index])
            for sums, others in zip(found[2:], expected[2:], strict=True):
                assert_equal(sums[:, frame], others[:, frame])


@pytest.mark.parametrize("n_padded", [0, 5])
def test_no_sites_or_padding_alone(n_padded):
    frames = make_frames(n_sites=n_padded, n_padded=n_padded)
    assert_as_shell(FUNCTIONS["all kinds"], 2, frames, 2)
    for sums in tensor_sums(ShellTable.of(FUNCTIONS["outer"], CUTOFF, 2), *frames, 2):
        assert sums.abs().sum() == 0.0


def test_sites_in_one_place_and_sites_at_an_atom():
    qm, mm, weights, types = make_frames()
    mm[0, 2] = mm[0, 1]
    mm[0, 1], mm[0, 3], mm[1, 4] = qm[0, 0], qm[0, 1] + 1e-9, qm[1, 2] + 1e-200
    for name in ("outer", "inner", "squares and equals, in any order"):
        assert_as_shell(FUNCTIONS[name], 2, (qm, mm, weights, types), 1)
    assert_as_shell((COULOMB,), 1, (qm, mm, weights, types), 1)
    # Here whole arrays divide by the distance; a very small one is the limit.
    close = mm.clone()
    close[0, 1] += 1e-12
    close[1, 4] += 1e-12
    functions = FUNCTIONS["all kinds"]
    table, shell = ShellTable.of(functions, CUTOFF, 2), shell_of(functions, CUTOFF, 2, qm, close, weights, types, 1)
    moments, jacobian = tensor_sums(table, qm, mm, weights, types, 1)
    torch.testing.assert_close(moments, shell.moments(), rtol=1e-10, atol=1e-9)
    assert jacobian.isfinite().all()


@pytest.mark.parametrize("eta", [1e-6, 0.3, 7.0, 60.0])
def test_gaussians_to_the_last_digits(eta):
    # Down to where the exponential function is less than the smallest number.
    distances = np.linspace(0.0, 0.999 * CUTOFF, 800)
    table = ShellTable.of((RadialFunction("g2", eta=eta),), CUTOFF, 0)
    mm = np.stack([distances, 0.0 * distances, 0.0 * distances], axis=1)[:, None]
    ones, zeros = np.ones((len(mm), 1)), np.zeros((len(mm), 1), dtype=np.int64)
    found, _ = shell_sums(table, np.zeros((len(mm), 1, 3)), mm, ones, zeros, 1)
    expected = [math.exp(-eta * r * r) * (1.0 - (r / CUTOFF) ** 6) ** 3 for r in distances]
    # The argument and the ratio to the cutoff are rounded too.
    ratios = (distances / CUTOFF) ** 6
    allowed = 5e-16 * (2.0 + eta * distances**2 + 18.0 * ratios / (1.0 - ratios))
    assert (np.abs(found.ravel() - expected) <= allowed * expected + 1e-300).all()


@pytest.mark.parametrize(("name", "rank"), [("all kinds", 2), ("coulomb", 1)])
def test_derivatives_by_finite_differences(name, rank):
    functions, n_types, step = COULOMB_AND_OTHERS[name], 2, 1e-4
    qm, mm, weights, _ = frames = [tensor.numpy() for tensor in make_frames(n_types)]
    table = ShellTable.of(functions, CUTOFF, rank)
    moments, jacobian = shell_sums(table, *frames, n_types)
    gradients = random_gradients(moments.shape, 1).numpy() / np.abs(moments).max(axis=(0, 1, 4))[:, :, None]
    by_site, by_weight = np.zeros((1, *mm.shape)), np.zeros((1, *weights.shape))
    shell_pull_back(table, *frames, gradients, by_site, by_weight)
    by_atom = np.einsum("bifrt,bifrty->biy", gradients[0], jacobian)

    def energy(array, place, change):
        kept, array[place] = array[place], array[place] + change
        found, _ = shell_sums(table, *frames, n_types)
        array[place] = kept
        return (gradients[0] * found).sum()

    within = np.argwhere((np.linalg.norm(mm[:, :, None] - qm[:, None], axis=-1) < 0.9 * CUTOFF).any(axis=2))
    checked = [(qm, by_atom, (1, 2, axis)) for axis in range(3)]
    for frame, site in within[::5]:
        checked += [(mm, by_site[0], (frame, site, axis)) for axis in range(3)]
        checked.append((weights, by_weight[0], (frame, site)))
    assert len(checked) > 15
    for array, derivatives, place in checked:
        expected = (energy(array, place, step) - energy(array, place, -step)) / (2.0 * step)
        assert derivatives[place] == pytest.approx(expected, rel=1e-6, abs=1e-6)


def test_pull_back_adds_to_what_there_is():
    functions, n_types = FUNCTIONS["inner"], 2
    frames = [tensor.numpy() for tensor in make_frames(n_types)]
    table = ShellTable.of(functions, CUTOFF, 1)
    gradients = random_gradients(shell_sums(table, *frames, n_types)[0].shape, 2).numpy()
    once = [np.zeros((2, *array.shape)) for array in frames[1:3]]
    shell_pull_back(table, *frames, gradients, *once)
    assert all(np.abs(array).max() > 0.1 for array in once)
    again = [array + 3.0 for array in once]
    shell_pull_back(table, *frames, gradients, *again)
    for first, second in zip(once, again, strict=True):
        np.testing.assert_allclose(second, 2.0 * first + 3.0, rtol=1e-13, atol=1e-12)


def test_sites_without_weight_have_derivatives_by_it():
    frames = make_frames()
    weightless = (frames[2] == 0.0) & (torch.cdist(frames[1], frames[0]).amin(dim=2) < 0.8 * CUTOFF)
    assert weightless.sum() > 2
    table = ShellTable.of(FUNCTIONS["outer"], CUTOFF, 1)
    gradients = random_gradients(tensor_sums(table, *frames, 1)[0].shape, 1)
    by_site, by_weight = tensor_pull_back(table, *frames, gradients)
    assert (by_weight[0][weightless] != 0.0).all()
    assert (by_site[0][weightless] == 0.0).all()


def test_tensors_that_are_not_contiguous():
    frames = make_frames(2)
    strided = [torch.stack([tensor, tensor], dim=-1)[..., 0] for tensor in frames]
    assert not any(tensor.is_contiguous() for tensor in strided)
    table = ShellTable.of(FUNCTIONS["outer"], CUTOFF, 1)
    expected, found = tensor_sums(table, *frames, 2), tensor_sums(table, *strided, 2)
    torch.testing.assert_close(found, expected, rtol=0.0, atol=0.0)
    gradients = random_gradients(expected[0].shape)
    turned = gradients.transpose(0, 5).contiguous().transpose(0, 5)
    torch.testing.assert_close(
        tensor_pull_back(table, *strided, turned),
        tensor_pull_back(table, *frames, gradients),
        rtol=0.0,
        atol=0.0,
    )


@pytest.mark.parametrize("place", ["qm", "mm", "weights"])
@pytest.mark.parametrize("name", ["inner", "coulomb"])
def test_what_is_not_a_number_shows(name, place):
    frames = dict(zip(("qm", "mm", "weights", "types"), make_frames(), strict=True))
    # Within the cutoff, but for itself.
    frames["mm"][1, 1] = frames["qm"][1, 1] + 1.0
    frames[place][1, 1] = math.nan
    moments, jacobian = tensor_sums(ShellTable.of(COULOMB_AND_OTHERS[name], CUTOFF, 1), *frames.values(), 1)
    assert moments[1].isnan().any()
    assert jacobian[1].isnan().any()
    assert moments[0].isfinite().all()


def lopsided_frames(n_types, length=60.0):
    """A QM region of many atoms in one place and one far away, in another direction in each frame, and sites around."""
    qm, mm, weights, types = make_frames(n_types, n_frames=4, n_qm=9, n_sites=400, width=length)
    directions = torch.nn.functional.normalize(mm[:, 0], dim=1)
    qm[:, -1] = length * directions
    # As many sites near each end as there are elsewhere.
    mm[:, :100] = mm[:, :100] * (CUTOFF / length) + qm[:, -1:]
    mm[:, 100:200] *= CUTOFF / length
    return qm, mm, weights, types


@pytest.mark.parametrize("n_types", [1, 2])
@pytest.mark.parametrize("name", ["inner", "coulomb"])
def test_long_region(name, n_types):
    frames = lopsided_frames(n_types)
    distances = torch.cdist(frames[0], frames[1])
    # Sites are around each end, and many are only along the region out of reach.
    assert ((distances < CUTOFF).sum(dim=2) > 20).all()
    assert ((distances < CUTOFF).double().mean(dim=2) < 0.5).all()
    assert_as_shell(COULOMB_AND_OTHERS[name], 1, frames, n_types)


@pytest.mark.parametrize("name", ["inner", "coulomb"])
@pytest.mark.parametrize("number", [math.nan, math.inf])
def test_what_is_not_a_number_shows_around_every_atom_of_a_long_region(name, number):
    frames = lopsided_frames(2)
    table = ShellTable.of(COULOMB_AND_OTHERS[name], CUTOFF, 1)
    before = tensor_sums(table, *frames, 2)
    frames[1][2, 5, 1] = number
    moments, _ = tensor_sums(table, *frames, 2)
    if math.isnan(number):
        assert moments[2].isnan().flatten(1).any(dim=1).all()
    assert torch.equal(moments[[0, 1, 3]], before[0][[0, 1, 3]])
    # Nothing of it is left in what is kept from call to call.
    frames[1][2, 5, 1] = 0.0
    assert all(sums.isfinite().all() for sums in tensor_sums(table, *frames, 2))


def test_wrong_arrays():
    table = ShellTable.of(FUNCTIONS["outer"], CUTOFF, 1)
    qm, mm, weights, types = frames = [tensor.numpy() for tensor in make_frames(2)]
    by_site, by_weight = np.zeros((1, *mm.shape)), np.zeros((1, *weights.shape))
    gradients = np.zeros((1, *shell_sums(table, *frames, 2)[0].shape))
    with pytest.raises(ValueError, match="the QM positions have shape"):
        shell_sums(table, qm[:1], mm, weights, types, 2)
    with pytest.raises(ValueError, match=r"the MM positions have .* float32"):
        shell_sums(table, qm, mm.astype(np.float32), weights, types, 2)
    with pytest.raises(ValueError, match="the weights have shape"):
        shell_sums(table, qm, mm, weights[:, 1:], types, 2)
    with pytest.raises(ValueError, match=r"the types have .* int32"):
        shell_sums(table, qm, mm, weights, types.astype(np.int32), 2)
    with pytest.raises(ValueError, match="the gradients have shape"):
        shell_pull_back(table, *frames, gradients[:, :, :, 1:], by_site, by_weight)
    with pytest.raises(ValueError, match="by_weight have shape"):
        shell_pull_back(table, *frames, gradients, by_site, by_weight[:, :, 1:])
    with pytest.raises(ValueError, match="by_site is added to in place"):
        shell_pull_back(table, *frames, gradients, np.zeros((1, *mm.shape[::-1])).transpose(0, 3, 2, 1), by_weight)


@pytest.mark.parametrize("wrong", [-1, 2])
def test_types_that_there_are_not(wrong):
    table = ShellTable.of(FUNCTIONS["outer"], CUTOFF, 1)
    qm, mm, weights, types = make_frames(2)
    # Padding may have any.
    types[:, -1] = wrong
    moments, _ = tensor_sums(table, qm, mm, weights, types, 2)
    mm[1, 1] = qm[1, 1] + 1.0
    types[1, 1] = wrong
    with pytest.raises(ValueError, match="from 0 to 1"):
        tensor_sums(table, qm, mm, weights, types, 2)
    with pytest.raises(ValueError, match="from 0 to 1"):
        tensor_pull_back(table, qm, mm, weights, types, random_gradients(moments.shape))
