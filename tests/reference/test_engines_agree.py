"""Our engine against DFTB+ on distorted frames in the field of point charges, beyond the 52 cases.

On 200 frames each of 300 K dynamics in boxes of 1,500 atoms (`deltaqmmm compare`, DFTB+ 25.1, SCC tolerance 1e-8) the
largest differences were 2e-13 (uracil), 1.0e-10 (retinoate) and 5.5e-11 hartree (S-adenosylmethionine with cytosine),
7e-9 e, and 5e-8, 1.7e-7 and 2.0e-7 hartree/bohr on QM atoms. Few frames are beyond 1e-8 hartree/bohr: in these a
distance lies at a grid point of a Slater-Koster table, where the interpolation that both share has a small kink. Our
gradient is that of one side, and DFTB+ takes differences across. Forces on MM atoms agreed to 2e-10.
"""

import numpy as np
import pytest
import torch
from rdkit import Chem
from rdkit.Chem import AllChem

from deltaqmmm.dftb import DFTBSettings
from deltaqmmm.units import ANGSTROM
from tests.reference.test_dftbplus import potential_at

MOLECULES = {
    "uracil": (["O=c1cc[nH]c(=O)[nH]1"], 0),
    "retinoate": (["CC1=C(C(C)(C)CCC1)/C=C/C(C)=C/C=C/C(C)=C/C([O-])=O"], -1),
    "sam_cytosine": (
        [
            "C[S+](CC[C@H]([NH3+])C([O-])=O)C[C@H]1O[C@@H](n2cnc3c(N)ncnc32)[C@H](O)[C@@H]1O",
            "Nc1cc[nH]c(=O)n1",
        ],
        1,
    ),
}
N_FRAMES, N_CHARGES = 10, 60
CLOSEST = 5.0
"""Distance of the point charges from the atoms, bohr."""


def built(smiles):
    """Elements and positions in bohr; molecules stand beside each other."""
    symbols, blocks, edge = [], [], 0.0
    for text in smiles:
        molecule = Chem.AddHs(Chem.MolFromSmiles(text))
        assert AllChem.EmbedMolecule(molecule, randomSeed=7) == 0
        AllChem.UFFOptimizeMolecule(molecule)
        positions = molecule.GetConformer().GetPositions() * ANGSTROM
        positions[:, 0] += edge - positions[:, 0].min()
        edge = positions[:, 0].max() + 6.0
        symbols += [atom.GetSymbol() for atom in molecule.GetAtoms()]
        blocks.append(positions)
    return symbols, np.concatenate(blocks)


@pytest.mark.parametrize("name", sorted(MOLECULES))
def test_energies_charges_and_forces(make_engine, name):
    smiles, charge = MOLECULES[name]
    symbols, positions = built(smiles)
    generator = np.random.default_rng(5)
    frames = torch.tensor(positions + 0.05 * generator.standard_normal((N_FRAMES, *positions.shape)))
    places = positions.mean(axis=0) + generator.uniform(-1.0, 1.0, (400, 3)) * (np.ptp(positions, axis=0) / 2 + 12.0)
    distances = np.linalg.norm(places[:, None] - positions[None], axis=-1).min(axis=1)
    sites = torch.tensor(places[distances > CLOSEST][:N_CHARGES])
    assert len(sites) == N_CHARGES
    charges = torch.tensor(generator.uniform(-0.8, 0.8, N_CHARGES))
    potentials = potential_at(frames, sites, charges, None)
    settings = DFTBSettings(scc_tolerance=1e-10)
    ours, theirs = (
        make_engine(kind, symbols, charge, settings).evaluate(frames.clone(), potentials)
        for kind in ("compiled", "dftb+")
    )
    assert float((ours.energies - theirs.energies).abs().max()) < 5e-10
    assert float((ours.charges - theirs.charges).abs().max()) < 1e-8
    assert float((ours.gradients - theirs.gradients).abs().max()) < 5e-7
    assert float((ours.gradients - theirs.gradients).square().mean().sqrt()) < 2e-8
