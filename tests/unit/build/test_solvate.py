"""Placement of solutes, water and ions. Pure geometry: needs the water box of AmberTools, no program of it."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.spatial import cKDTree

from deltaqmmm.build.amber import amber_home
from deltaqmmm.build.fill import fill_water
from deltaqmmm.build.molecule import read_solutes
from deltaqmmm.build.solvate import choose_box, ion_names, pdb_text, place_solutes, replace_by_ions, solvate
from deltaqmmm.build.water import WATER_MODELS, WATERS_PER_CUBIC_ANGSTROM, find_water_model, read_water_box
from deltaqmmm.errors import ExternalToolError, InputError

DEFAULTS = {
    "as_given": False,
    "gap": 3.0,
    "padding": None,
    "water_count": None,
    "box_edges": (),
    "cubic": True,
    "smallest_edge": 18.5,
    "salt_molar": 0.0,
    "seed": 1,
}


@pytest.fixture(scope="module")
def library():
    try:
        return amber_home() / "dat" / "leap" / "lib"
    except ExternalToolError as error:
        pytest.skip(f"AmberTools is missing: {error}")


@pytest.fixture(scope="module")
def water(library):
    return read_water_box(WATER_MODELS["qspcfw"], library)


@pytest.mark.parametrize(("name", "charge"), [("qspcfw", -0.84), ("spcfw", -0.82)])
def test_water_boxes_of_ambertools(library, name, charge):
    box = read_water_box(WATER_MODELS[name], library)
    assert box.positions.shape == (216, 3, 3)
    assert box.charges[0] == pytest.approx(charge)
    assert box.charges.sum() == pytest.approx(0.0, abs=1e-12)
    bonds = np.linalg.norm(box.positions[:, 1:] - box.positions[:, :1], axis=2)
    assert 0.8 < bonds.min() < bonds.max() < 1.25


def test_water_models_by_name():
    assert find_water_model("q-SPC/Fw") is WATER_MODELS["qspcfw"]
    with pytest.raises(InputError, match=r"TIP3P is rigid.*i-PI has no rigid molecules with several beads.*qspcfw"):
        find_water_model("TIP3P")
    with pytest.raises(InputError, match="Unknown water model 'foo'"):
        find_water_model("foo")


def test_missing_water_library(tmp_path):
    with pytest.raises(ExternalToolError, match="does not exist"):
        read_water_box(WATER_MODELS["qspcfw"], tmp_path)


def periodic_distances(first, second, edges):
    separation = first[:, None] - second[None]
    separation -= np.round(separation / edges) * edges
    return np.linalg.norm(separation, axis=2)


def test_filled_box_has_the_count_the_density_and_no_clash(water):
    edges = np.array([24.0, 26.0, 30.0])
    solute = np.array([[12.0, 13.0, 15.0], [12.0, 13.0, 16.5]])
    count = int(np.prod(edges) * WATERS_PER_CUBIC_ANGSTROM) - 2
    waters = fill_water(solute, np.array([1.7, 1.7]), edges, count, water, seed=1)
    assert waters.shape == (count, 3, 3)
    assert np.all((waters[:, 0] >= 0.0) & (waters[:, 0] <= edges))
    assert periodic_distances(waters[:, 0], solute, edges).min() > 0.8 * (1.7 + 1.52) - 1e-9
    oxygens = periodic_distances(waters[:, 0], waters[:, 0], edges) + 10.0 * np.eye(count)
    assert oxygens.min() > 2.29
    hydrogens = waters[:, 1:].reshape(-1, 3)
    between = periodic_distances(waters[:, 0], hydrogens, edges)
    between[np.repeat(np.arange(count), 2), np.arange(2 * count)] = 10.0
    assert between.min() > 1.44
    # No voids at the faces: slabs of 3 angstrom along z, those at the faces included, hold nearly the mean number.
    slabs = np.histogram(np.mod(waters[:, 0, 2], edges[2]), bins=10, range=(0.0, edges[2]))[0]
    assert slabs.min() > 0.75 * slabs.mean()


def test_filling_is_reproducible_and_follows_the_seed(water):
    edges = np.full(3, 20.0)
    arguments = (np.array([[10.0, 10.0, 10.0]]), np.array([1.5]), edges, 250, water)
    assert np.array_equal(fill_water(*arguments, seed=4), fill_water(*arguments, seed=4))
    assert not np.array_equal(fill_water(*arguments, seed=4), fill_water(*arguments, seed=5))


def test_too_many_waters_are_refused(water):
    with pytest.raises(InputError, match="500 water molecules do not fit"):
        fill_water(np.zeros((1, 3)), np.array([1.5]), np.full(3, 20.0), 500, water, seed=1)


def test_box_from_padding_count_and_edges():
    positions = np.array([[0.0, 0.0, 0.0], [4.0, 2.0, 1.0]])
    edges, _ = choose_box(positions, 50.0, 10.0, None, (), cubic=True)
    np.testing.assert_allclose(edges, 24.0)
    edges, _ = choose_box(positions, 50.0, 10.0, None, (), cubic=False)
    np.testing.assert_allclose(edges, [24.0, 22.0, 21.0])
    edges, count = choose_box(positions, 50.0, None, 1000, (), cubic=False)
    assert count == 1000
    assert np.prod(edges) == pytest.approx(1000 / WATERS_PER_CUBIC_ANGSTROM + 50.0)
    np.testing.assert_allclose(edges - edges[0], np.array([4.0, 2.0, 1.0]) - 4.0)
    edges, count = choose_box(positions, 50.0, None, None, (20.0,), cubic=True)
    np.testing.assert_allclose(edges, 20.0)
    assert count == round((8000.0 - 50.0) * WATERS_PER_CUBIC_ANGSTROM)
    with pytest.raises(InputError, match="no room"):
        choose_box(positions * 10.0, 50.0, None, None, (20.0,), cubic=True)
    with pytest.raises(InputError, match="No water fits"):
        choose_box(positions, 1e9, 10.0, None, (), cubic=True)


def test_solutes_side_by_side_keep_their_distance_and_shape():
    solutes = read_solutes(["O=c1cc[nH]c(=O)[nH]1", "CO"], (1, 4), (), (), seed=1)
    placed, kinds = place_solutes(solutes, as_given=False, gap=3.0, seed=1)
    assert kinds == (0, 1, 1, 1, 1)
    for i, first in enumerate(placed):
        for second in placed[:i]:
            nearest = cKDTree(first).query(second)[0].min()
            assert nearest >= 3.0
    cluster = np.concatenate(placed)
    assert cKDTree(placed[0]).query(placed[1])[0].min() < 3.5
    assert np.ptp(cluster, axis=0).max() < 20.0
    shape = np.linalg.norm(solutes[1].positions[0] - solutes[1].positions, axis=1)
    np.testing.assert_allclose(np.linalg.norm(placed[4][0] - placed[4], axis=1), shape)


def test_solutes_as_given(tmp_path):
    first, second = read_solutes(["CO", "CCO"], (), (), (), seed=1)
    with pytest.raises(InputError, match="angstrom apart"):
        place_solutes((first, second), as_given=True, gap=3.0, seed=1)
    conformer = second.molecule.GetConformer()
    for atom, position in enumerate(second.positions + np.array([8.0, 0.0, 0.0])):
        conformer.SetAtomPosition(atom, position.tolist())
    placed, _ = place_solutes((first, second), as_given=True, gap=3.0, seed=1)
    np.testing.assert_allclose(placed[0], first.positions)
    np.testing.assert_allclose(placed[1], second.positions)
    copies = read_solutes(["CO"], (2,), (), (), seed=1)
    with pytest.raises(InputError, match="one copy"):
        place_solutes(copies, as_given=True, gap=3.0, seed=1)


def test_ions_neutralise_and_stay_apart(water):
    assert ion_names(-2, 1.0, 0.0) == ("Na+", "Na+")
    assert ion_names(1, 1.0, 0.0) == ("Cl-",)
    assert ion_names(1, 27000.0, 0.15) == ("Na+",) * 2 + ("Cl-",) * 3
    edges = np.full(3, 22.0)
    solute = np.array([[11.0, 11.0, 11.0]])
    waters = fill_water(solute, np.array([1.5]), edges, 340, water, seed=1)
    ions, rest = replace_by_ions(waters, ["Na+"] * 4, solute, edges, seed=1)
    assert len(rest) == 336
    assert periodic_distances(ions, solute, edges).min() > 5.0
    assert (periodic_distances(ions, ions, edges) + 99.0 * np.eye(4)).min() > 5.0
    with pytest.raises(InputError, match="could be placed"):
        replace_by_ions(waters, ["Na+"] * 300, solute, edges, seed=1)


def test_whole_placement_and_its_pdb(water):
    solutes = read_solutes(["CC(=O)[O-]", "CO"], (2, 1), ("ACT", "MOH"), (), seed=1)
    placement = solvate(solutes, water, **(DEFAULTS | {"water_count": 300}))
    assert len(placement.water_positions) == 300
    assert placement.ion_names == ("Na+", "Na+")
    assert placement.positions.shape == (2 * 7 + 6 + 2 + 900, 3)
    middle = np.concatenate(placement.solute_positions)
    np.testing.assert_allclose(0.5 * (middle.min(axis=0) + middle.max(axis=0)), 0.5 * placement.edges)
    lines = [line for line in pdb_text(placement, solutes).splitlines() if line.startswith("ATOM")]
    read = np.array([[float(line[30:38]), float(line[38:46]), float(line[46:54])] for line in lines])
    np.testing.assert_allclose(read, placement.positions, atol=6e-4)
    assert lines[0][12:20] == "  C1 ACT"
    assert lines[20][12:20].split() == ["Na+", "Na+"]
