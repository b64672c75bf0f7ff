"""Minimisation and a short MM equilibration with OpenMM, all bonds flexible."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import openmm
from openmm import unit
from tqdm import tqdm

from deltaqmmm.errors import NonFiniteError
from deltaqmmm.results import FloatArray, IntArray
from deltaqmmm.topology import Topology
from deltaqmmm.units import DALTON, KJ_PER_MOL, NANOMETRE

_TIMESTEP_PS = 0.001
_FRICTION_PER_PS = 5.0
_RESTRAINT = 2000.0
"""Force constant that keeps the solute's heavy atoms in place, kJ/mol/nm2: they move by 0.06 angstrom at 300 K."""
_BAROSTAT_INTERVAL = 25
_PIECE = 100
_EWALD_TOLERANCE = 5e-4
_MINIMISER_TOLERANCE = 10.0
"""Root mean square force at which the minimisation ends, kJ/mol/nm."""
_MINIMISER_ITERATIONS = 500


@dataclass(frozen=True)
class Relaxed:
    """Result of minimisation and equilibration.

    Attributes:
        positions: Shape (P, 3), bohr, molecules whole.
        cell: Shape (3, 3), bohr, rows are lattice vectors; None if not periodic.
        minimised_energy: MM energy after the minimisation, without the restraint, hartree; None if it was not asked
            for.
    """

    positions: FloatArray
    cell: FloatArray | None
    minimised_energy: float | None


def relax(
    topology: Topology,
    restrained: IntArray,
    *,
    minimise: bool,
    equilibrate_ps: float,
    temperature_kelvin: float,
    pressure_bar: float | None,
    threads: int,
    seed: int,
    show_progress: bool,
) -> Relaxed:
    """Minimise, then run Langevin dynamics at 1 fs, on the MM force field of the whole system.

    Args:
        topology: The system with positions; its OpenMM system is not changed.
        restrained: Particles that are held near their start during the dynamics (the QM region, whose MM charges are
            rough).
        minimise: Whether to minimise.
        equilibrate_ps: Length of the dynamics, ps; 0 for none.
        temperature_kelvin: Its temperature.
        pressure_bar: Pressure, or None for constant volume.
        threads: CPU threads, 0 for as many as OpenMM takes by itself. Only with one thread does the same seed give
            the same positions to the last bit.
        seed: Seed of velocities, friction and volume moves.
        show_progress: Whether to draw a progress bar.

    Raises:
        NonFiniteError: The energy becomes infinite or not a number.
    """
    if topology.positions is None:
        raise NonFiniteError("The system to relax has no positions. Give a coordinate file.")
    if not minimise and equilibrate_ps <= 0.0:
        return Relaxed(topology.positions, topology.cell, None)
    system = _coarser_ewald(topology.openmm_system)
    start = topology.positions / NANOMETRE
    restraint = _restrain(system, start, restrained, topology.periodic)
    if pressure_bar is not None and topology.periodic and equilibrate_ps > 0.0:
        barostat = openmm.MonteCarloBarostat(pressure_bar, temperature_kelvin, _BAROSTAT_INTERVAL)
        barostat.setRandomNumberSeed(seed)
        system.addForce(barostat)
    integrator = openmm.LangevinMiddleIntegrator(temperature_kelvin, _FRICTION_PER_PS, _TIMESTEP_PS)
    integrator.setRandomNumberSeed(seed)
    platform = openmm.Platform.getPlatformByName("CPU")
    properties = {"DeterministicForces": "true"} | ({"Threads": str(threads)} if threads else {})
    context = openmm.Context(system, integrator, platform, properties)
    context.setPositions(start)
    energy = None
    if minimise:
        openmm.LocalEnergyMinimizer.minimize(context, _MINIMISER_TOLERANCE, _MINIMISER_ITERATIONS)
        energy = _energy(context, "after the minimisation")
    if equilibrate_ps > 0.0:
        context.setParameter("solute_restraint", restraint)
        context.setVelocitiesToTemperature(temperature_kelvin, seed)
        _run(context, integrator, equilibrate_ps, show_progress)
    state = context.getState(getPositions=True)
    positions = state.getPositions(asNumpy=True).value_in_unit(unit.nanometer) * NANOMETRE
    cell = None
    if topology.periodic:
        vectors = state.getPeriodicBoxVectors()
        cell = np.array([vector.value_in_unit(unit.nanometer) for vector in vectors]) * NANOMETRE
    return Relaxed(np.asarray(positions, dtype=np.float64), cell, energy)


def _coarser_ewald(system: openmm.System) -> openmm.System:
    """A copy with OpenMM's default Ewald tolerance: three times as fast as the tighter one of a run."""
    copy = openmm.XmlSerializer.clone(system)
    for force in copy.getForces():
        if isinstance(force, openmm.NonbondedForce):
            force.setEwaldErrorTolerance(max(force.getEwaldErrorTolerance(), _EWALD_TOLERANCE))
    return copy


def _restrain(system: openmm.System, positions: FloatArray, particles: IntArray, periodic: bool) -> float:
    """Add harmonic restraints of heavy atoms, switched off until `solute_restraint` is set; return its value."""
    distance = "periodicdistance(x, y, z, x0, y0, z0)^2" if periodic else "((x-x0)^2+(y-y0)^2+(z-z0)^2)"
    force = openmm.CustomExternalForce(f"0.5*solute_restraint*{distance}")
    force.addGlobalParameter("solute_restraint", 0.0)
    for name in ("x0", "y0", "z0"):
        force.addPerParticleParameter(name)
    for particle in particles:
        if system.getParticleMass(int(particle)).value_in_unit(unit.dalton) > 2.5:
            force.addParticle(int(particle), positions[particle].tolist())
    system.addForce(force)
    return _RESTRAINT


def _energy(context: openmm.Context, when: str) -> float:
    """Potential energy, hartree."""
    value = context.getState(getEnergy=True).getPotentialEnergy().value_in_unit(unit.kilojoule_per_mole)
    if not np.isfinite(value):
        raise NonFiniteError(
            f"The MM energy {when} is {value}. Atoms may overlap: try another seed or a larger box, or check the "
            "structure given."
        )
    return float(value) * KJ_PER_MOL


def _run(context: openmm.Context, integrator: openmm.Integrator, picoseconds: float, show_progress: bool) -> None:
    """Run the dynamics in pieces, for the progress bar and the check of the energy."""
    steps = max(1, round(picoseconds / _TIMESTEP_PS))
    with tqdm(total=steps, desc="equilibrating", unit="step", disable=not show_progress, leave=False) as bar:
        for done in range(0, steps, _PIECE):
            piece = min(_PIECE, steps - done)
            try:
                integrator.step(piece)
            except openmm.OpenMMException as error:
                raise NonFiniteError(
                    f"The MM equilibration failed ({error}). Atoms may overlap: try another seed or a larger box."
                ) from error
            _energy(context, "in the equilibration")
            bar.update(piece)


def density_g_per_cm3(topology: Topology, cell: FloatArray) -> float:
    """Mass density of the box."""
    mass_in_dalton = float(topology.masses.sum()) / DALTON
    volume_in_nm3 = abs(float(np.linalg.det(cell))) / NANOMETRE**3
    return 1.66053906892e-3 * mass_in_dalton / volume_in_nm3
