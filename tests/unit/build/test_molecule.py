"""Solutes from SMILES strings and molecule files."""

from __future__ import annotations

import numpy as np
import pytest
from rdkit import Chem

from deltaqmmm.build.amber import exact_charges
from deltaqmmm.build.molecule import read_solute, read_solutes
from deltaqmmm.errors import InputError

METHANOL_MOL2 = """\
@<TRIPOS>MOLECULE
methanol
6 5 1 0 0
SMALL
USER_CHARGES

@<TRIPOS>ATOM
1 CX   -0.3722  0.0020  0.0023 C.3 1 MOH1 0.1166
2 OX    0.9007 -0.5990  0.0940 O.3 1 MOH1 -0.5988
3 HA   -0.5022  0.7033  0.8317 H   1 MOH1 0.0287
4 HB   -1.1470 -0.7691  0.0470 H   1 MOH1 0.0287
5 HC   -0.4801  0.5526 -0.9376 H   1 MOH1 0.0287
6 HO    1.6008  0.1102 -0.0374 H   1 MOH1 0.3961
@<TRIPOS>BOND
1 1 2 1
2 1 3 1
3 1 4 1
4 1 5 1
5 2 6 1
"""


def test_smiles_gets_hydrogens_structure_names_and_charge():
    solute = read_solute("CC(=O)[O-]", None, seed=1)
    assert solute.symbols == ("C", "C", "O", "O", "H", "H", "H")
    assert solute.atom_names == ("C1", "C2", "O1", "O2", "H1", "H2", "H3")
    assert solute.charge == -1
    bond = np.linalg.norm(solute.positions[0] - solute.positions[1])
    assert 1.45 < bond < 1.60


def test_same_seed_same_structure_and_other_seed_another():
    first, again, other = (read_solute("CCCCO", None, seed).positions for seed in (1, 1, 2))
    assert np.array_equal(first, again)
    assert not np.allclose(first, other, atol=0.1)


def test_mol2_keeps_coordinates_names_charges_and_residue(tmp_path):
    path = tmp_path / "methanol.mol2"
    path.write_text(METHANOL_MOL2)
    (solute,) = read_solutes([str(path)], (), (), (), seed=1)
    assert solute.residue_name == "MOH"
    assert solute.atom_names == ("CX", "OX", "HA", "HB", "HC", "HO")
    np.testing.assert_allclose(solute.positions[1], [0.9007, -0.5990, 0.0940])
    np.testing.assert_allclose(solute.partial_charges.sum(), 0.0, atol=1e-9)


def test_sdf_keeps_coordinates_and_adds_missing_hydrogens(tmp_path):
    full = read_solute("CO", None, seed=3)
    heavy = Chem.RemoveHs(full.molecule)
    path = tmp_path / "methanol.sdf"
    path.write_text(Chem.MolToMolBlock(heavy) + "$$$$\n")
    solute = read_solute(str(path), None, seed=5)
    assert solute.symbols == ("C", "O", "H", "H", "H", "H")
    np.testing.assert_allclose(solute.positions[:2], full.positions[:2], atol=1e-3)
    assert np.linalg.norm(solute.positions[1] - solute.positions[5]) == pytest.approx(0.97, abs=0.05)


def test_flat_drawing_becomes_three_dimensional(tmp_path):
    flat = Chem.MolFromSmiles("CCO")
    path = tmp_path / "drawn.mol"
    Chem.MolToMolFile(flat, str(path))
    assert np.ptp(read_solute(str(path), None, seed=1).positions[:, 2]) > 0.5


def test_names_and_counts():
    solutes = read_solutes(["O=c1cc[nH]c(=O)[nH]1", "CO"], (1, 3), (), (None, 0), seed=1)
    assert [(solute.residue_name, solute.count) for solute in solutes] == [("QM1", 1), ("QM2", 3)]
    (named,) = read_solutes(["CO"], (), ("moh",), (), seed=1)
    assert named.residue_name == "MOH"


@pytest.mark.parametrize(
    ("source", "charge", "message"),
    [
        ("C1CC", None, "neither a file that exists nor a SMILES"),
        ("not a molecule", None, "neither a file"),
        ("missing.sdf", None, "does not exist"),
        ("C[Si](C)(C)C", None, "Si.*GAFF2 has no parameters"),
        ("[Na+].CC(=O)[O-]", None, "2 separate molecules"),
        ("CC(=O)[O-]", 0, "odd number"),
        ("[CH3]", None, "odd number"),
        ("[CH2]", None, "unpaired electrons"),
        ("Cl", -2, None),
    ],
)
def test_refusals(source, charge, message):
    if message is None:  # an even number of electrons is all that can be said of a charge given by hand
        assert read_solute(source, charge, seed=1).charge == charge
        return
    with pytest.raises(InputError, match=message):
        read_solute(source, charge, seed=1)


def test_file_with_two_molecules_or_unknown_ending_is_refused(tmp_path):
    two = tmp_path / "two.sdf"
    two.write_text((Chem.MolToMolBlock(Chem.MolFromSmiles("CO")) + "$$$$\n") * 2)
    with pytest.raises(InputError, match="holds 2 molecules"):
        read_solute(str(two), None, seed=1)
    other = tmp_path / "molecule.pdb"
    other.write_text("ATOM\n")
    with pytest.raises(InputError, match=r"ends in \.pdb"):
        read_solute(str(other), None, seed=1)
    broken = tmp_path / "broken.mol"
    broken.write_text("nothing\n")
    with pytest.raises(InputError, match="cannot make sense"):
        read_solute(str(broken), None, seed=1)


@pytest.mark.parametrize(
    ("counts", "names", "message"),
    [
        ((1,), (), "1 counts were given for 2 molecules"),
        ((1, 0), (), "0 copies"),
        ((), ("A", "A"), "used for both"),
        ((), ("WAT", "B"), "cannot be a residue name"),
        ((), ("LONG", "B"), "cannot be a residue name"),
    ],
)
def test_wrong_counts_and_names(counts, names, message):
    with pytest.raises(InputError, match=message):
        read_solutes(["CO", "CCO"], counts, names, (), seed=1)


def test_charges_are_made_to_sum_exactly():
    solute = read_solute("CC(=O)[O-]", None, seed=1)
    charges = exact_charges(np.full(7, -0.14), solute)
    assert int(np.round(charges * 1e6).sum()) == -1_000_000
    with pytest.raises(InputError, match=r"sum to 1\.400 e"):
        exact_charges(np.full(7, 0.2), solute)
