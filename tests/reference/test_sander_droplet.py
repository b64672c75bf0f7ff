"""Uracil in a droplet of flexible water against sander's own DFTB3 QM/MM (AmberTools), on five frames.

No box and no cutoff, so both programs compute the same interactions; everything but the constants should agree.
sander converts with 1 bohr = 0.529177249 angstrom and 1 hartree = 27.21 eV = 27.21 * 23.061 kcal/mol in the QM part,
and with 18.2223^2 kcal/mol angstrom/e^2 for Coulomb's law between MM charges; this test computes with the same.
sander prints energies to 1e-4 kcal/mol; its DFTB energy is counted from free atoms, so energies are compared relative
to the first frame.

Energies in kcal/mol, forces in kcal/mol/angstrom (largest component; AmberTools 26.0.0 wheel, OpenMM 8.6.1 Reference
platform):

    frame  E_DFTB - E_0 (sander)  difference  E_MM difference   max |dF| QM   max |dF| MM   max |F|
        0                 0.0000     0.00000         -0.00007       0.02430       0.00001      92.6
        1                 0.2237     0.00004         -0.00007       0.02826       0.00000      97.2
        2                 7.8478    -0.00001         -0.00006       0.02083       0.00001     143.1
        3                12.1316    -0.00015         -0.00000       0.04260       0.00001     148.1
        4                17.9189    -0.00000          0.00004       0.03232       0.00001     245.7

The forces on QM atoms differ because sander interpolates the Slater-Koster tables with other polynomials: its
energies ripple by 1e-4 kcal/mol about ours within one grid step (second test). Against DFTB+, which interpolates as
we do, forces agree to 1e-8 hartree/bohr (test_dftbplus.py).
"""

import os
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import openmm
import pytest
import torch
from scipy.io import netcdf_file

from deltaqmmm.dftb import DFTBEngine, DFTBSettings
from deltaqmmm.embedding import CutoffEmbedding, CutoffSettings
from deltaqmmm.mm import OpenMMEngine, OpenMMSettings
from deltaqmmm.system import System
from deltaqmmm.topology import NonbondedSettings, load_topology
from deltaqmmm.units import ANGSTROM, KCAL_PER_MOL

DATA = Path(__file__).parents[1] / "data" / "mm_systems"
PRMTOP = DATA / "uracil_droplet.prmtop"
N_QM = 12
BOHR_IN_ANGSTROM = 0.529177249
HARTREE_IN_KCAL_PER_MOL = 27.21 * 23.061
COULOMB_IN_KCAL_PER_MOL_ANGSTROM = 18.2223**2

INPUT = """one point, forces written before the step
&cntrl imin=0, nstlim=1, dt=1e-9, ntx=1, ntb=0, cut=999.0, igb=0, ntc=1, ntf=1, jfastw=4, ntpr=1, ntwf=1, ntwx=0,
  ioutfm=1, tempi=0.0, ntt=0, nscm=0, ifqnt=1 /
&qmmm qmmask='@1-12', qmcharge=0, qm_theory='DFTB3', qmcut=999.0, qmshake=0, qm_ewald=0, scfconv=1e-10,
  dftb_telec=0.0, dftb_maxiter=200, writepdb=0, verbosity=1 /
"""


def find_sander():
    beside = Path(sys.executable).with_name("sander")
    return str(beside) if beside.is_file() else shutil.which("sander")


SANDER = find_sander()
pytestmark = pytest.mark.skipif(SANDER is None, reason="sander (AmberTools) is neither beside Python nor on PATH")


def write_restart(path, positions):
    """Positions in angstrom with the seven decimals of the format."""
    rows = positions.reshape(-1, 6)
    lines = ["frame", f"{len(positions):6d}", *("".join(f"{value:12.7f}" for value in row) for row in rows)]
    path.write_text("\n".join(lines) + "\n")


def run_sander(folder, positions):
    """MM energy, DFTB energy (kcal/mol) and forces (kcal/mol/angstrom) of one frame."""
    write_restart(folder / "frame.rst7", positions)
    (folder / "in").write_text(INPUT)
    files = [
        "-O",
        "-i",
        "in",
        "-o",
        "out",
        "-c",
        "frame.rst7",
        "-frc",
        "forces.nc",
        "-r",
        "restart",
        "-x",
        "trajectory",
        "-inf",
        "info",
    ]
    command = [SANDER, *files, "-p", str(PRMTOP)]
    subprocess.run(
        command, cwd=folder, check=True, capture_output=True, timeout=60, env=os.environ | {"OMP_NUM_THREADS": "1"}
    )
    output = (folder / "out").read_text()
    block = output.split("NSTEP =", 1)[1][:500]
    energies = {name: float(value) for name, value in re.findall(r"(\b[A-Z1][\w -]*?) *= *(-?\d+\.\d+)", block)}
    mm = sum(energies[name] for name in ("BOND", "ANGLE", "DIHED", "1-4 NB", "1-4 EEL", "VDWAALS", "EELEC"))
    with netcdf_file(folder / "forces.nc", mmap=False) as file:
        # The same number as "DFTBESCF", with all digits.
        return (
            mm,
            float(re.search(r"SCF Energy = *(\S+) KCal/mol", output)[1]),
            file.variables["forces"][0].astype(float),
        )


@pytest.fixture(scope="module")
def droplet():
    """The droplet's topology with MM charges scaled to sander's Coulomb constant, its split, and five frames in
    angstrom."""
    topology = load_topology(PRMTOP, DATA / "uracil_droplet.rst7", NonbondedSettings())
    system = System.from_topology(topology, np.arange(N_QM))
    positions = topology.positions[system.atom_particles] / ANGSTROM
    generator = np.random.default_rng(5)
    shifts = [size * generator.standard_normal(positions.shape) for size in (0.0, 0.01, 0.02, 0.03, 0.04)]
    return topology, system, [np.round(positions + shift, 7) for shift in shifts]


def with_sanders_coulomb_constant(topology):
    """The topology with MM charges scaled so that Coulomb's law has sander's constant."""
    ours = 1.0 / (ANGSTROM * KCAL_PER_MOL)
    scale = np.sqrt(COULOMB_IN_KCAL_PER_MOL_ANGSTROM / ours)
    copied = openmm.XmlSerializer.deserialize(openmm.XmlSerializer.serialize(topology.openmm_system))
    (force,) = [f for f in copied.getForces() if isinstance(f, openmm.NonbondedForce)]
    for i in range(force.getNumParticles()):
        charge, sigma, epsilon = force.getParticleParameters(i)
        force.setParticleParameters(i, charge * scale, sigma, epsilon)
    for i in range(force.getNumExceptions()):
        first, second, product, sigma, epsilon = force.getExceptionParameters(i)
        force.setExceptionParameters(i, first, second, product * scale**2, sigma, epsilon)
    return replace(topology, openmm_system=copied)


def dftb_in_sanders_units(system, frames):
    """DFTB energies (kcal/mol) and forces (kcal/mol/angstrom) of frames in angstrom, computed with sander's
    constants."""
    positions = torch.tensor(np.array(frames) / BOHR_IN_ANGSTROM).requires_grad_()
    embedded = CutoffEmbedding(system, CutoffSettings(inner=None, outer=None))(positions, None)
    engine = DFTBEngine(system.qm_symbols, 0, DFTBSettings(scc_tolerance=1e-11))
    dftb = engine.evaluate(embedded.qm_positions, embedded.potentials)
    (gradient,) = torch.autograd.grad(
        [embedded.qm_positions, embedded.potentials], positions, [dftb.gradients, dftb.charges]
    )
    forces = -gradient.numpy() * HARTREE_IN_KCAL_PER_MOL / BOHR_IN_ANGSTROM
    return dftb.energies.numpy() * HARTREE_IN_KCAL_PER_MOL, forces


def test_energies_and_forces_agree_on_five_frames(droplet, tmp_path):
    topology, system, frames = droplet
    mm_engine = OpenMMEngine(with_sanders_coulomb_constant(topology), system, OpenMMSettings(platform="Reference"))
    mm = mm_engine.evaluate(np.array(frames) * ANGSTROM)
    dftb_energies, dftb_forces = dftb_in_sanders_units(system, frames)
    forces = dftb_forces + mm.forces / KCAL_PER_MOL * ANGSTROM

    results = [run_sander(tmp_path, frame) for frame in frames]
    mm_errors = mm.energies / KCAL_PER_MOL - [r[0] for r in results]
    expected = np.array([r[1] for r in results])
    dftb_errors = (dftb_energies - dftb_energies[0]) - (expected - expected[0])
    force_errors = np.abs(forces - np.array([r[2] for r in results])).max(axis=2)
    print("\nframe  E_DFTB - E_0 (sander)  difference  E_MM difference   max |dF| QM   max |dF| MM   max |F|")
    for i in range(len(frames)):
        row = (expected[i] - expected[0], dftb_errors[i], mm_errors[i])
        qm, mm_atoms = force_errors[i, :N_QM].max(), force_errors[i, N_QM:].max()
        largest = np.abs(results[i][2]).max()
        print(f"{i:5d}  {row[0]:21.4f}  {row[1]:10.5f}  {row[2]:15.5f}  {qm:12.5f}  {mm_atoms:12.5f}  {largest:8.1f}")
    # Seven printed MM terms, each rounded to 1e-4.
    assert np.abs(mm_errors).max() < 5e-4
    assert np.abs(dftb_errors).max() < 5e-4
    assert force_errors[:, N_QM:].max() < 5e-4
    assert force_errors[:, :N_QM].max() < 0.1


def test_the_difference_of_qm_forces_is_a_ripple_shorter_than_the_grid_step(droplet, tmp_path):
    """Over a step wider than the table's 0.02 bohr, both programs' energies have the same slope (kcal/mol/angstrom)."""
    _, system, frames = droplet
    step = 0.016
    for atom in (0, 1, 3, 6):
        slopes = []
        for program in (
            lambda frame: run_sander(tmp_path, frame)[1],
            lambda frame: dftb_in_sanders_units(system, [frame])[0][0],
        ):
            energies = []
            for sign in (1.0, -1.0):
                shifted = frames[1].copy()
                shifted[atom, 0] += sign * step
                energies.append(program(shifted))
            slopes.append((energies[0] - energies[1]) / (2 * step))
        assert slopes[1] == pytest.approx(slopes[0], abs=4e-3)
