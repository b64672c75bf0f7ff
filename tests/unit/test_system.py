"""The QM/MM split: selections, groups, trees and what is refused."""

from pathlib import Path

import numpy as np
import openmm
import pytest

from deltaqmmm.errors import TopologyError
from deltaqmmm.system import System, components, parse_selection, spanning_forest
from deltaqmmm.topology import load_topology

DATA = Path(__file__).parents[1] / "data" / "mm_systems"


@pytest.fixture(scope="module")
def droplet():
    return load_topology(DATA / "uracil_droplet.prmtop", DATA / "uracil_droplet.rst7")


@pytest.fixture(scope="module")
def four_site():
    return load_topology(DATA / "four_site_water.xml", DATA / "four_site_water.pdb")


@pytest.fixture(scope="module")
def three_residue_chain(tmp_path_factory):
    """Five carbons in a row, in residues of 1, 2 and 2 atoms, and a sodium ion."""
    system = openmm.System()
    bonds, nonbonded = openmm.HarmonicBondForce(), openmm.NonbondedForce()
    lines = []
    for i in range(6):
        system.addParticle(12.0 if i < 5 else 23.0)
        nonbonded.addParticle(0.1 * i, 0.3, 0.1)
        if 0 < i < 5:
            bonds.addBond(i - 1, i, 0.15, 1e5)
        residue, element = ((1, "C"), (2, "C"), (2, "C"), (3, "C"), (3, "C"), (4, "NA"))[i]
        name = "NA" if element == "NA" else f"C{i}"
        lines.append(
            f"HETATM{i + 1:5d} {name:^4s} AB{residue} A{residue:4d}    {1.5 * i:8.3f}   0.000   0.000  1.00  0.00"
            f"          {element:>2s}"
        )
    system.addForce(bonds)
    system.addForce(nonbonded)
    folder = tmp_path_factory.mktemp("chain")
    (folder / "chain.xml").write_text(openmm.XmlSerializer.serialize(system))
    (folder / "chain.pdb").write_text("\n".join([*lines, "END", ""]))
    return load_topology(folder / "chain.xml", folder / "chain.pdb")


def reached(levels, roots):
    """Check that a tree is breadth first, and return the set of nodes that it reaches."""
    known = set(roots)
    for level in levels:
        assert set(level[:, 1].tolist()) <= known
        children = level[:, 0].tolist()
        assert not known & set(children)
        assert len(set(children)) == len(children)
        known |= set(children)
    return known


def test_uracil_in_water(droplet):
    system = System.from_topology(droplet, np.arange(12)[::-1], 0)
    n_atoms = droplet.n_particles
    n_waters = (n_atoms - 12) // 3
    assert system.n_atoms == system.n_particles == n_atoms
    assert system.qm_atoms.tolist() == list(range(12))
    assert "".join(system.qm_symbols) == "OCCCNCONHHHH"
    assert system.qm_fragments.tolist() == [0] * 12
    assert reached(system.qm_tree, [0]) == set(range(12))
    bonds = {tuple(bond) for bond in droplet.bonds.tolist()}
    for child, parent in np.concatenate(system.qm_tree):
        assert tuple(sorted((int(child), int(parent)))) in bonds
    assert system.site_particles.tolist() == list(range(12, n_atoms))
    assert system.site_atoms.tolist() == list(range(12, n_atoms))
    assert system.site_types[:3] == ("WAT:O", "WAT:H1", "WAT:H2")
    np.testing.assert_array_equal(system.site_charges, droplet.charges[12:])
    assert system.n_groups == n_waters
    assert system.site_groups.tolist() == np.repeat(np.arange(n_waters), 3).tolist()
    assert system.group_references.tolist() == list(range(12, n_atoms, 3))
    assert reached(system.group_tree, system.group_references.tolist()) == set(range(12, n_atoms))
    assert len(system.virtual_site_sites) == 0
    assert system.site_parents.shape == (0, 3)


def test_two_qm_molecules_are_two_fragments(droplet):
    system = System.from_topology(droplet, [*range(12), 18, 19, 20])
    assert system.qm_fragments.tolist() == [0] * 12 + [1] * 3
    assert reached(system.qm_tree, [0, 12]) == set(range(15))
    assert 18 not in system.site_atoms.tolist()
    # the first water keeps its number, the third is now the second group
    assert system.group_references[:3].tolist() == [12, 15, 21]


def test_virtual_sites_join_their_group_and_leave_with_their_molecule(four_site):
    # atoms 3, 4, 5 are the second water: particles 4, 5, 6, with virtual site 7
    system = System.from_topology(four_site, [3, 4, 5])
    assert system.n_atoms == 36
    assert system.n_particles == 48
    assert system.atom_particles[system.qm_atoms].tolist() == [4, 5, 6]
    assert system.site_particles[:6].tolist() == [0, 1, 2, 3, 8, 9]
    assert 7 not in system.site_particles.tolist()
    assert system.site_atoms[:6].tolist() == [0, 1, 2, -1, 6, 7]
    assert system.site_symbols[:4] == ("O", "H", "H", "")
    assert system.site_groups[:6].tolist() == [0, 0, 0, 0, 1, 1]
    assert system.virtual_site_sites[:2].tolist() == [3, 7]
    assert system.site_parents[:2].tolist() == [[0, 1, 2], [6, 7, 8]]
    np.testing.assert_allclose(system.site_weights[0], [0.73612, 0.13194, 0.13194])
    assert system.site_cross[0] == 0.0
    np.testing.assert_allclose(system.site_charges[:4], [0.0, 0.5564, 0.5564, -1.1128])


def test_groups_end_at_residues(three_residue_chain):
    system = System.from_topology(three_residue_chain, [5], 1)
    assert system.qm_symbols == ("Na",)
    assert system.site_groups.tolist() == [0, 1, 1, 2, 2]
    assert system.group_references.tolist() == [0, 1, 3]
    assert reached(system.group_tree, [0, 1, 3]) == {0, 1, 2, 3, 4}


def test_cut_bond_is_refused(droplet, three_residue_chain):
    with pytest.raises(TopologyError, match=r"the bond between N2 in URA 1 .*QM, and H4 in URA 1 .*whole molecule"):
        System.from_topology(droplet, range(11))
    with pytest.raises(TopologyError, match=r"cuts the bond between C2 in AB2 2 .*C3 in AB3 3"):
        System.from_topology(three_residue_chain, [0, 1, 2])


@pytest.mark.parametrize(
    ("selection", "message"),
    [
        ([], "selection is empty"),
        ([0, 1, 99999], "99999 is out of range"),
        ([-1], "-1 is out of range"),
        ([0, 1, 1], "1 is given more than once"),
        ([0.5], "list of zero-based"),
    ],
)
def test_impossible_selections(droplet, selection, message):
    with pytest.raises(TopologyError, match=message):
        System.from_topology(droplet, selection)


def test_index_beyond_the_atoms_mentions_virtual_sites(four_site):
    with pytest.raises(TopologyError, match=r"36 atoms \(12 virtual sites are not counted"):
        System.from_topology(four_site, [36])


@pytest.mark.parametrize("charge", [1, -1, 3])
def test_odd_number_of_electrons(droplet, charge):
    with pytest.raises(TopologyError, match=rf"total charge \{charge:+d}\) has {58 - charge} electrons"):
        System.from_topology(droplet, range(12), charge)


def test_charge_must_be_whole(droplet):
    with pytest.raises(TopologyError, match="whole number"):
        System.from_topology(droplet, range(12), 0.5)


def test_even_charge_is_taken(droplet):
    assert System.from_topology(droplet, range(12), -2).qm_charge == -2


@pytest.mark.parametrize(
    ("text", "expected"),
    [("0-3", [0, 1, 2, 3]), ("5", [5]), ("0-2, 7,9 - 10", [0, 1, 2, 7, 9, 10]), ("3 1", [1, 3]), ([4, 2], [2, 4])],
)
def test_parse_numbers(droplet, text, expected):
    assert parse_selection(text, droplet).tolist() == expected


def test_parse_residues(droplet, four_site):
    assert parse_selection(None, droplet, ["URA"]).tolist() == list(range(12))
    assert parse_selection("0-13", droplet, ["URA"]).tolist() == list(range(14))
    assert parse_selection(None, four_site, ["QTF"]).tolist() == list(range(36))


def test_repeated_numbers_reach_the_check(droplet):
    with pytest.raises(TopologyError, match="given more than once"):
        System.from_topology(droplet, parse_selection("0-11,3", droplet))


@pytest.mark.parametrize(
    ("text", "message"),
    [("a", "cannot read 'a'"), ("1-", "cannot read '1-'"), ("5-2", "write '2-5'"), ("1.5", "cannot read '1.5'")],
)
def test_unreadable_text(droplet, text, message):
    with pytest.raises(TopologyError, match=message):
        parse_selection(text, droplet)


def test_unknown_residue_lists_the_known(droplet):
    with pytest.raises(TopologyError, match="no residue is named 'LIG'; the topology has URA, WAT"):
        parse_selection(None, droplet, ["LIG"])


def test_components_and_forest_of_a_ring_with_a_tail():
    edges = [(0, 1), (1, 2), (2, 3), (3, 0), (3, 4), (6, 5)]
    assert components(8, edges).tolist() == [0, 0, 0, 0, 0, 1, 1, 2]
    levels = spanning_forest(edges, [0, 5, 7])
    assert reached(levels, [0, 5, 7]) == set(range(8))
    assert len(levels) == 2
