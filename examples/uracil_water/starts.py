"""Start structures whose waters have nothing to do with each other, for `deltaqmmm sample`.

A hot simulation of the force field alone, with rigid water and heavy hydrogens, so that it takes long steps. In the few
picoseconds that a run with DFTB can take the waters around the solute hardly exchange; from starts like these the runs
see many surroundings.

    python starts.py box/system.prmtop box/system.rst7 -o starts.xyz --count 64
"""

from __future__ import annotations

import argparse
from pathlib import Path

import ase
import numpy as np
import openmm
from ase.io import write
from openmm import app, unit
from tqdm import tqdm

TEMPERATURE, FRICTION, TIMESTEP = 500 * unit.kelvin, 2.0 / unit.picosecond, 0.003 * unit.picosecond
# The solute's charges in the force field are those of a quick guess; these hold its hydrogen bonds.
SOLUTE_CHARGES = 1.7


def main() -> None:
    """Run the simulation and write a structure every so often."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("prmtop", type=Path)
    parser.add_argument("inpcrd", type=Path)
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--count", type=int, default=64)
    parser.add_argument("--picoseconds", type=float, default=2.0, help="between two structures")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()

    topology = app.AmberPrmtopFile(str(options.prmtop))
    coordinates = app.AmberInpcrdFile(str(options.inpcrd))
    system = topology.createSystem(
        nonbondedMethod=app.PME,
        nonbondedCutoff=0.9 * unit.nanometer,
        constraints=app.HBonds,
        rigidWater=True,
        hydrogenMass=3 * unit.amu,
    )
    nonbonded = next(force for force in system.getForces() if isinstance(force, openmm.NonbondedForce))
    residues = list(topology.topology.residues())
    for atom in residues[0].atoms():
        charge, sigma, epsilon = nonbonded.getParticleParameters(atom.index)
        nonbonded.setParticleParameters(atom.index, SOLUTE_CHARGES * charge, sigma, epsilon)
    integrator = openmm.LangevinMiddleIntegrator(TEMPERATURE, FRICTION, TIMESTEP)
    integrator.setRandomNumberSeed(options.seed)
    simulation = app.Simulation(topology.topology, system, integrator, openmm.Platform.getPlatformByName("CPU"))
    simulation.context.setPeriodicBoxVectors(*coordinates.boxVectors)
    simulation.context.setPositions(coordinates.positions)
    simulation.minimizeEnergy(maxIterations=200)
    simulation.context.setVelocitiesToTemperature(TEMPERATURE, options.seed)

    symbols = [atom.element.symbol for atom in topology.topology.atoms()]
    steps = round(options.picoseconds / TIMESTEP.value_in_unit(unit.picosecond))
    frames = []
    for _ in tqdm(range(options.count), unit="structure"):
        simulation.step(steps)
        state = simulation.context.getState(getPositions=True)
        positions = np.asarray(state.getPositions(asNumpy=True).value_in_unit(unit.angstrom))
        cell = np.asarray(state.getPeriodicBoxVectors(asNumpy=True).value_in_unit(unit.angstrom))
        frames.append(ase.Atoms(symbols, positions, cell=cell, pbc=True))
    write(options.output, frames, format="extxyz")


if __name__ == "__main__":
    main()
