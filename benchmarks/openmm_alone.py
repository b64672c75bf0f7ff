"""OpenMM alone on the same box: what the MM part costs with nothing around it."""

import time

import numpy as np
import openmm
from openmm import app, unit

from benchmarks.trajectories import TIME_STEP_FEMTOSECOND

CUTOFF_NANOMETRE = 0.9


class OpenMMAlone:
    """The whole box on a classical force field, flexible, with particle-mesh Ewald.

    Args:
        box: The box.
        threads: Of the CPU platform.
        device: "cpu" or "cuda".
        starts_file: Start points of the replicas.
        batch: Number of replicas.
    """

    def __init__(self, box, threads, device, starts_file, batch):
        topology = app.AmberPrmtopFile(str(box.folder / "system.prmtop"))
        coordinates = app.AmberInpcrdFile(str(box.folder / "system.rst7"))
        system = topology.createSystem(
            nonbondedMethod=app.PME,
            nonbondedCutoff=CUTOFF_NANOMETRE * unit.nanometer,
            constraints=None,
            rigidWater=False,
            flexibleConstraints=True,
        )
        system.setDefaultPeriodicBoxVectors(*coordinates.boxVectors)
        integrator = openmm.VerletIntegrator(TIME_STEP_FEMTOSECOND * unit.femtosecond)
        platform = openmm.Platform.getPlatformByName("CUDA" if device.startswith("cuda") else "CPU")
        properties = {} if device.startswith("cuda") else {"Threads": str(threads)}
        self._context = openmm.Context(system, integrator, platform, properties)
        from deltaqmmm.units import NANOMETRE

        self._positions = np.load(starts_file)["positions"][:batch] / NANOMETRE
        self._context.setPositions(self._positions[0])
        self._context.setVelocitiesToTemperature(300.0, 1)
        velocities = self._context.getState(getVelocities=True).getVelocities(asNumpy=True)
        self._shift = 1e-3 * TIME_STEP_FEMTOSECOND * np.asarray(velocities._value)

    def frames(self, count):
        """Seconds of energies and forces of the replicas, given from outside, `count` times."""
        rows = []
        for _ in range(count):
            self._positions = self._positions + self._shift
            start = time.perf_counter()
            for positions in self._positions:
                self._context.setPositions(positions)
                state = self._context.getState(getEnergy=True, getForces=True)
                state.getForces(asNumpy=True)
                state.getPotentialEnergy()
            rows.append(time.perf_counter() - start)
        return rows

    def dynamics(self, steps):
        """Seconds per step of OpenMM's own molecular dynamics of the first replica."""
        self._context.setPositions(self._positions[0])
        self._context.getIntegrator().step(2)
        self._context.getState(getEnergy=True)
        start = time.perf_counter()
        self._context.getIntegrator().step(steps)
        self._context.getState(getEnergy=True)
        return (time.perf_counter() - start) / steps
