"""What frames are described by, and which of them are chosen."""

import numpy as np
import pytest
import torch

from deltaqmmm.embedding import CutoffEmbedding, CutoffSettings
from deltaqmmm.errors import InputError
from deltaqmmm.sampling import describe_frames, farthest_points, standardise
from deltaqmmm.system import System
from deltaqmmm.topology import NonbondedSettings, load_topology
from deltaqmmm.units import ANGSTROM


@pytest.fixture(scope="module")
def box(data_folder):
    """Embedding, positions and cell of uracil in a small box of water."""
    systems = data_folder / "mm_systems"
    nonbonded = NonbondedSettings(cutoff=7.0 * ANGSTROM, switch_distance=None)
    topology = load_topology(systems / "uracil_box.prmtop", systems / "uracil_box.rst7", nonbonded)
    system = System.from_topology(topology, range(12), 0)
    settings = CutoffSettings(inner=5.0 * ANGSTROM, outer=7.5 * ANGSTROM)
    embedding = CutoffEmbedding(system, settings, torch.device("cpu"))
    return embedding, topology.positions[system.atom_particles], topology.cell


def test_the_description_is_of_distances_and_of_the_field(box):
    embedding, positions, cell = box
    inside, outside = describe_frames(embedding, [(positions, cell)] * 2)
    assert inside.shape == (2, 66)
    assert outside.shape == (2, 12)
    # The file has the QM molecule whole.
    assert inside[0, 0] == pytest.approx(1.0 / np.linalg.norm(positions[1] - positions[0]), rel=1e-12)
    assert inside[1, -1] == pytest.approx(1.0 / np.linalg.norm(positions[11] - positions[10]), rel=1e-12)
    embedded = embedding(torch.tensor(positions)[None], torch.tensor(cell)[None])
    np.testing.assert_array_equal(outside[0], embedded.potentials[0])


def test_the_description_does_not_see_where_and_how_a_frame_lies(box):
    embedding, positions, cell = box
    rng = np.random.default_rng(3)
    rotation = np.linalg.qr(rng.normal(size=(3, 3)))[0]
    rotation *= np.linalg.det(rotation)
    images = rng.integers(-2, 3, size=positions.shape) @ cell
    frames = [
        (positions, cell),
        (positions + np.array([3.0, -40.0, 0.5]), cell),
        (positions @ rotation, cell @ rotation),
        (positions + images, cell),
    ]
    for part in describe_frames(embedding, frames):
        np.testing.assert_allclose(part, np.tile(part[0], (len(frames), 1)), atol=1e-9)
    moved = positions.copy()
    near = 12 + np.linalg.norm(positions[12:] - positions[5], axis=1).argmin()
    moved[near] += 0.5
    inside, outside = describe_frames(embedding, [(positions, cell), (moved, cell)])
    np.testing.assert_allclose(inside[0], inside[1], atol=1e-12)
    assert np.abs(outside[0] - outside[1]).max() > 1e-5
    bent = positions.copy()
    bent[3] += 0.1
    inside, _ = describe_frames(embedding, [(positions, cell), (bent, cell)])
    assert np.abs(inside[0] - inside[1]).max() > 1e-3


def test_parts_weigh_the_same():
    rng = np.random.default_rng(0)
    first, second = rng.normal(size=(50, 3)) * [1.0, 2.0, 5.0] + 7.0, 1e-4 * rng.normal(size=(50, 8))
    joined = standardise(first, second)
    assert joined.shape == (50, 11)
    np.testing.assert_allclose(joined.mean(axis=0), 0.0, atol=1e-12)
    for part in (joined[:, :3], joined[:, 3:]):
        assert (part**2).sum(axis=1).mean() == pytest.approx(1.0)
    # Within a part relative sizes are kept.
    np.testing.assert_allclose(joined[:, 0].std() / joined[:, 2].std(), first[:, 0].std() / first[:, 2].std())
    # What never changes, and what is not there (one QM atom has no distances), adds nothing and does no harm.
    np.testing.assert_array_equal(standardise(np.full((4, 2), 3.0), np.zeros((4, 0))), 0.0)


def test_each_is_the_farthest():
    line = np.array([0.0, 1.0, 2.0, 10.0, 4.5])[:, None]
    # The mean is 3.5: 4.5 is nearest to it; then 10, then 0, then 2, then 1.
    np.testing.assert_array_equal(farthest_points(line, 5), [4, 3, 0, 2, 1])
    for count in range(1, 5):
        np.testing.assert_array_equal(farthest_points(line, count), [4, 3, 0, 2, 1][:count])


def test_farthest_points_by_definition():
    points = np.random.default_rng(5).normal(size=(40, 4))
    taken = [3, 17, 17]
    chosen = farthest_points(points, 12, np.array(taken))
    before = list(taken)
    for index in chosen:
        distances = np.linalg.norm(points[:, None] - points[before], axis=2).min(axis=1)
        assert distances[index] == distances.max() > 0.0
        before.append(int(index))
    assert len({*chosen, 3, 17}) == 14


def test_taken_ones_count_and_are_not_taken_again():
    line = np.array([0.0, 1.0, 2.0, 10.0])[:, None]
    np.testing.assert_array_equal(farthest_points(line, 3, np.array([0])), [3, 2, 1])
    np.testing.assert_array_equal(farthest_points(line, 2, np.array([3, 0])), [2, 1])
    with pytest.raises(InputError, match="3 frames are to be chosen, and there are 2"):
        farthest_points(line, 3, np.array([0, 3, 3]))
    with pytest.raises(InputError):
        farthest_points(line, 0)


def test_twins_are_taken_last_and_once():
    points = np.array([[0.0], [0.0], [5.0], [5.0], [0.0]])
    chosen = farthest_points(points, 5)
    assert sorted(chosen) == [0, 1, 2, 3, 4]
    assert sorted(points[chosen[:2], 0]) == [0.0, 5.0]
    np.testing.assert_array_equal(farthest_points(points[:3], 2, np.array([0])), [2, 1])
    with pytest.raises(InputError, match="5 frames"):
        farthest_points(points, 5, np.array([2]))


def test_atoms_that_coincide_are_named():
    points = np.array([[0.0, 1.0], [np.inf, 1.0]])
    with pytest.raises(InputError, match=r"frame 1 .* not finite"):
        farthest_points(points, 1)
