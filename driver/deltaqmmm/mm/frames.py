"""One frame at a time: E_MM and its derivatives from one OpenMM context."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import openmm

from deltaqmmm.errors import DeltaqmmmError, NonFiniteError
from deltaqmmm.mm.imaging import Imager, StandardCell, reduce_box
from deltaqmmm.mm.platforms import is_single_precision, open_context
from deltaqmmm.mm.settings import OpenMMSettings
from deltaqmmm.results import FloatArray, IntArray
from deltaqmmm.units import KJ_PER_MOL, NANOMETRE

_STRAIN_STEP = 2.0e-3
"""Noise (single precision, pairs that cross the cutoff) falls with the step, the error of the differences rises as its
square. For 189 water molecules with the default Ewald tolerance both are below 1e-3 hartree: a pressure of 8 bar."""

_STRAIN_STEP_SMOOTH = 1.0e-4
"""The step where the energy is smooth: double precision, no cutoff."""


@dataclass(frozen=True, eq=False)
class FrameSystem:
    """What is the same for all frames of a system; it can be sent to another process.

    Attributes:
        mm_system: OpenMM's, with the terms of E_MM alone.
        atom_particles: The particle of each atom, shape (N,); the other particles are virtual sites.
        imager: Makes molecules whole; None without a cell.
        centre: Whether frames without a cell may be moved to the origin.
    """

    mm_system: openmm.System
    atom_particles: IntArray
    imager: Imager | None
    centre: bool


class FrameResult(NamedTuple):
    """E_MM of a frame.

    Attributes:
        energy: Hartree.
        forces: On the atoms, shape (N, 3), hartree/bohr.
        strain_derivative: Shape (3, 3), hartree; None unless it is asked for.
    """

    energy: float
    forces: FloatArray
    strain_derivative: FloatArray | None


@contextmanager
def naming(frame: int) -> Iterator[None]:
    """Have an error of the block say which frame of the batch is at fault."""
    try:
        yield
    except DeltaqmmmError as error:
        raise type(error)(f"frame {frame} (counted from 0): {error}") from error


class FrameEngine:
    """Computes one frame after the other; molecules stay where they were in the frame before.

    Args:
        frames: What is computed.
        settings: Platform, precision and threads.

    Raises:
        ConfigError: The platform is not available.
    """

    def __init__(self, frames: FrameSystem, settings: OpenMMSettings) -> None:
        self._context = open_context(frames.mm_system, settings)
        self._imager = None if frames.imager is None else frames.imager.fresh()
        self._centre = frames.centre
        self._atom_particles = frames.atom_particles
        self._n_particles = frames.mm_system.getNumParticles()
        self._atoms_alone = np.array_equal(self._atom_particles, np.arange(self._n_particles))
        self._has_virtual_sites = any(map(frames.mm_system.isVirtualSite, range(self._n_particles)))
        self._virial = settings.virial
        rough = self._imager is not None or is_single_precision(self._context, settings)
        self._strain_step = settings.strain_step or (_STRAIN_STEP if rough else _STRAIN_STEP_SMOOTH)

    @property
    def platform(self) -> str:
        """Name of the OpenMM platform in use."""
        return str(self._context.getPlatform().getName())

    @property
    def threads(self) -> int:
        """Threads of the CPU platform; 1 for others: they use a whole card, or one thread whatever they are told."""
        platform = self._context.getPlatform()
        return int(platform.getPropertyValue(self._context, "Threads")) if self.platform == "CPU" else 1

    def evaluate(self, positions: FloatArray, cell: StandardCell | None) -> FrameResult:
        """Compute E_MM of one frame.

        Args:
            positions: Atoms only, shape (N, 3), bohr, wrapped or not.
            cell: None if the system is not periodic.

        Raises:
            FrameError: A molecule is bonded to its own periodic image.
            NonFiniteError: OpenMM cannot compute the energy.
        """
        prepared = self._prepare(positions, cell)
        self._set_frame(prepared, None if cell is None else cell.box)
        state = self._state(with_forces=True)
        particle_forces = np.asarray(state.getForces(asNumpy=True)._value)
        if not self._atoms_alone:
            particle_forces = particle_forces[self._atom_particles]
        forces = particle_forces * (KJ_PER_MOL / NANOMETRE)
        if cell is not None and cell.rotation is not None:
            forces = forces @ cell.rotation.T
        energy = state.getPotentialEnergy()._value * KJ_PER_MOL
        return FrameResult(energy, forces, self._strain_derivative(prepared, cell) if self._virial else None)

    def _prepare(self, positions: FloatArray, cell: StandardCell | None) -> FloatArray:
        """Return positions of whole molecules near the origin, in the frame of the box, shape (N, 3), bohr."""
        if cell is None or self._imager is None:
            return positions - positions.mean(axis=0) if self._centre else positions
        rotated = positions if cell.rotation is None else positions @ cell.rotation
        return self._imager(rotated, cell.box)

    def _strain_derivative(self, prepared: FloatArray, cell: StandardCell | None) -> FloatArray:
        """Return dE/d(strain), shape (3, 3), hartree, by central differences (see `OpenMMEngine.evaluate`)."""
        step = self._strain_step
        derivative = np.zeros((3, 3))
        for row in range(3):
            for column in range(row + 1):
                difference = 0.0
                for sign in (1.0, -1.0):
                    scaling = np.eye(3)
                    scaling[row, column] += sign * step
                    box = None if cell is None else reduce_box(cell.box @ scaling)
                    self._set_frame(prepared @ scaling, box)
                    difference += sign * self._state(with_forces=False).getPotentialEnergy()._value
                derivative[row, column] = derivative[column, row] = difference * KJ_PER_MOL / (2.0 * step)
        if cell is not None and cell.rotation is not None:
            derivative = cell.rotation @ derivative @ cell.rotation.T
        return derivative

    def _set_frame(self, prepared: FloatArray, box: FloatArray | None) -> None:
        """Hand positions (N, 3) and box to OpenMM and place the virtual sites."""
        if box is not None:
            self._context.setPeriodicBoxVectors(*(box / NANOMETRE))
        particles = prepared / NANOMETRE
        if not self._atoms_alone:
            particles = np.zeros((self._n_particles, 3))
            particles[self._atom_particles] = prepared / NANOMETRE
        self._context.setPositions(particles)
        if self._has_virtual_sites:
            self._context.computeVirtualSites()

    def _state(self, *, with_forces: bool) -> openmm.State:
        try:
            return self._context.getState(getEnergy=True, getForces=with_forces)
        except openmm.OpenMMException as error:
            raise NonFiniteError(f"OpenMM could not compute the MM energy: {error}") from error
