"""Makes the model reaction of this folder: malonaldehyde in the gas phase, with its internal hydrogen bond.

    python make.py

Writes system.prmtop, system.rst7 and init.xyz. `deltaqmmm build` makes solvated systems; a molecule without
surroundings takes the steps below: GAFF2 types by antechamber, topology by tleap, positions minimised with the method
of config.toml (DFTB3). The force field itself is not used, as all atoms are QM: it names the atoms and residues.
"""

from __future__ import annotations

import re
import tempfile
from pathlib import Path

import numpy as np
from rdkit import Chem
from rdkit.Chem import AllChem
from scipy.optimize import minimize

from deltaqmmm.build.amber import parametrise, run_program
from deltaqmmm.build.ipi_input import init_xyz
from deltaqmmm.build.molecule import read_solutes
from deltaqmmm.build.write import write_rst7
from deltaqmmm.config import read_config
from deltaqmmm.config.loading import load_potential
from deltaqmmm.units import ANGSTROM

SMILES, NAME = "O=C/C=C\\O", "MAL"
ACCEPTOR, HYDROGEN = 0, 8  # the oxygen of the aldehyde and the hydrogen of the enol
HERE = Path(__file__).parent
LEAP = f"""\
source leaprc.gaff2
loadAmberParams {NAME}.frcmod
{NAME} = loadMol2 {NAME}.mol2
saveAmberParm {NAME} system.prmtop leap.rst7
quit
"""


def main() -> None:
    """Make the files."""
    molecule = Chem.AddHs(Chem.MolFromSmiles(SMILES))
    conformers = list(AllChem.EmbedMultipleConfs(molecule, 20, randomSeed=1))
    AllChem.MMFFOptimizeMoleculeConfs(molecule)
    places = [molecule.GetConformer(number).GetPositions() for number in conformers]
    chelated = int(np.argmin([np.linalg.norm(place[HYDROGEN] - place[ACCEPTOR]) for place in places]))
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        Chem.MolToMolFile(molecule, str(folder / "given.mol"), confId=conformers[chelated])
        solute = read_solutes([str(folder / "given.mol")], (), (NAME,), (), 1)[0]
        parametrise(solute, "gasteiger", folder)
        (folder / "leap.in").write_text(LEAP)
        run_program("tleap", ["-f", "leap.in"], folder, "It was to write the topology.")
        first, rest = (folder / "system.prmtop").read_text().split("\n", 1)
    first = re.sub(r"DATE *=.*", "DATE = 00/00/00  00:00:00", first).ljust(80)
    (HERE / "system.prmtop").write_text(f"{first}\n{rest}")
    start = solute.positions * ANGSTROM
    write_rst7(HERE / "system.rst7", start, None)
    positions = minimised(start)
    write_rst7(HERE / "system.rst7", positions, None)
    (HERE / "init.xyz").write_text(init_xyz(solute.symbols, positions, None))


def minimised(start: np.ndarray) -> np.ndarray:
    """Positions of the nearest minimum, shape (9, 3), bohr, to forces of 1e-6 hartree/bohr."""
    potential = load_potential(read_config(HERE / "config.toml"))

    def energy_and_gradient(flat: np.ndarray) -> tuple[float, np.ndarray]:
        result = potential.evaluate(np.zeros((1, 3, 3)), flat.reshape(1, -1, 3))
        return float(result.energies[0]), -result.forces[0].ravel()

    result = minimize(energy_and_gradient, start.ravel(), jac=True, method="BFGS", options={"gtol": 1e-6})
    positions = result.x.reshape(-1, 3)
    centred = positions - positions.mean(axis=0)
    print(f"{result.nit} iterations, energy {result.fun:.8f} hartree, largest force {np.abs(result.jac).max():.1e}")
    for atom in (ACCEPTOR, 4):
        distance = np.linalg.norm(centred[HYDROGEN] - centred[atom]) / ANGSTROM
        print(f"O{atom}-H{HYDROGEN} {distance:.4f} angstrom")
    # Flat in the xy plane, so that the file is easily read.
    axes = np.linalg.svd(centred)[2]
    return np.asarray(centred @ (axes * np.sign(np.linalg.det(axes))).T, dtype=np.float64)


if __name__ == "__main__":
    main()
