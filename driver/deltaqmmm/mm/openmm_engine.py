"""The MM engine: energies and forces of E_MM for a batch of frames, from OpenMM."""

from __future__ import annotations

import os
import threading
from dataclasses import replace

import numpy as np
import openmm

from deltaqmmm.companions import refuse_fork
from deltaqmmm.errors import FrameError, NonFiniteError
from deltaqmmm.mm import partition
from deltaqmmm.mm.frames import FrameEngine, FrameSystem, naming
from deltaqmmm.mm.imaging import Imager, StandardCell, standard_cell
from deltaqmmm.mm.mesh import set_mesh
from deltaqmmm.mm.settings import OpenMMSettings
from deltaqmmm.mm.workers import Workers, share_out
from deltaqmmm.periodic import check_cell, check_positions
from deltaqmmm.results import Evaluation, FloatArray
from deltaqmmm.system import System
from deltaqmmm.topology import Topology
from deltaqmmm.units import NANOMETRE

_MESH_STRETCH = 1.25
"""OpenMM fixes its Ewald mesh when the context is made. Beyond this growth of the cell the mesh is too coarse."""


class OpenMMEngine:
    """E_MM: all MM-MM terms, and the Lennard-Jones part of QM-MM (see `partition.mm_only_system`).

    Frames may be wrapped in any way, atom by atom, and have any cell shape. The positions are brought into the form
    that OpenMM computes most precisely (see `imaging`) and the forces are turned back. Virtual sites are placed by
    OpenMM, which also hands their forces to the parent atoms.

    On the CPU platform the frames of a batch are computed side by side, in processes of their own (see `workers`), and
    a frame alone in this one. One engine may be called from any thread, by one at a time (others wait); other work can
    go on in the meantime.
    """

    def __init__(self, topology: Topology, system: System, settings: OpenMMSettings | None = None) -> None:
        """Build the MM system and open its first context.

        Args:
            topology: The whole system; it is copied, not changed.
            system: The QM/MM split of this topology.
            settings: Platform, precision, and whether the strain derivative is wanted.

        Raises:
            TopologyError: The OpenMM system has forces that cannot be split.
            ConfigError: The platform is not available.
        """
        self._owner = os.getpid()
        self.settings = settings or OpenMMSettings()
        mm_system = partition.mm_only_system(topology, system)
        self._periodic = topology.periodic
        self._n_atoms = len(system.atom_particles)
        self._narrowest = partition.narrowest_cell(mm_system) * NANOMETRE
        self._mesh_lengths: FloatArray | None = None
        if topology.cell is not None:
            reference = standard_cell(topology.cell, self._narrowest).box
            mm_system.setDefaultPeriodicBoxVectors(*(openmm.Vec3(*row) for row in (reference / NANOMETRE).tolist()))
            if partition.uses_ewald(mm_system):
                self._mesh_lengths = reference.diagonal()
                set_mesh(mm_system, reference.diagonal() / NANOMETRE)
        frames = FrameSystem(
            mm_system,
            system.atom_particles,
            _make_imager(topology, system, mm_system) if topology.periodic else None,
            centre=not partition.has_external_force(mm_system),
        )
        self._alone = FrameEngine(frames, self.settings)
        self._workers = Workers(frames, replace(self.settings, platform=self._alone.platform))
        self._lock = threading.Lock()

    @property
    def platform(self) -> str:
        """Name of the OpenMM platform in use."""
        return self._alone.platform

    def evaluate(self, positions: FloatArray, cells: FloatArray | None = None) -> Evaluation:
        """Compute E_MM for a batch of frames.

        Args:
            positions: Atoms only, shape (B, N, 3), bohr.
            cells: Lattice vectors as rows, shape (B, 3, 3), bohr; not used if the system is not periodic.

        Returns:
            Energies, forces and one term, "mm". With ``settings.virial`` the strain derivative too: central differences
            of the energy over the six lower triangular strains r -> r (1 + e), h -> h (1 + e), atoms scaled with the
            cell (12 more energies per frame). E_MM does not change under rotation, so the derivative is symmetric and
            these six, which keep the box lower triangular, give all of it.

        Raises:
            FrameError: Wrong shapes, non-finite or singular input, or a cell that does not fit the cutoff.
            NonFiniteError: An energy or force is not finite.
            ExternalToolError: The processes of frames side by side cannot be kept alive, or the engine was made before
                this process was forked.
        """
        # Not even a frame alone: a forked process has none of OpenMM's threads, nor whoever holds the lock.
        refuse_fork(self._owner, "MM engine")
        positions = check_positions(positions, self._n_atoms)
        boxes = self._standard_cells(cells, len(positions))
        count, threads = share_out(len(positions), self._alone.threads)
        energies, forces = np.zeros(len(positions)), np.zeros(positions.shape)
        strain_derivatives = np.zeros((len(positions), 3, 3)) if self.settings.virial else None
        with self._lock:
            if count > 1:
                shared = self._workers.evaluate(positions, boxes, count, threads)
                energies[:], forces[:] = shared.energies, shared.forces
                if strain_derivatives is not None:
                    strain_derivatives[:] = shared.strain_derivatives
            else:
                for frame, box in enumerate(boxes):
                    with naming(frame):
                        energies[frame], forces[frame], strain = self._alone.evaluate(positions[frame], box)
                    if strain_derivatives is not None:
                        strain_derivatives[frame] = strain
        _check_finite(energies, forces)
        return Evaluation(energies, forces, strain_derivatives, {"mm": energies.copy()})

    def interrupt(self) -> None:
        """Have an evaluation in other processes that another thread waits for end at once, with an error."""
        self._workers.interrupt()

    def _standard_cells(self, cells: FloatArray | None, n_frames: int) -> list[StandardCell | None]:
        """Check the cells and bring them into OpenMM's form."""
        if not self._periodic:
            return [None] * n_frames
        if cells is None:
            raise FrameError(
                f"the topology is periodic, but the frames carry no cells; cells of shape ({n_frames}, 3, 3) are needed"
            )
        checked = check_cell(cells)
        if checked.shape != (n_frames, 3, 3):
            raise FrameError(f"got cells of shape {checked.shape} for {n_frames} frames; needed is ({n_frames}, 3, 3)")
        standard = [standard_cell(cell, self._narrowest) for cell in checked]
        for cell in standard:
            if self._mesh_lengths is not None and np.any(cell.box.diagonal() > _MESH_STRETCH * self._mesh_lengths):
                raise FrameError(
                    f"the cell ({_angstroms(cell.box.diagonal())} angstrom) has grown beyond {_MESH_STRETCH:g} times "
                    f"the cell of the topology ({_angstroms(self._mesh_lengths)} angstrom), for which the Ewald mesh "
                    "was made; start from a coordinate file with the cell of the run"
                )
        return list(standard)


def _make_imager(topology: Topology, system: System, mm_system: openmm.System) -> Imager:
    """Return what makes molecules whole: along bonds, and along whatever else must be in one image."""
    atom_of = np.full(topology.n_particles, -1, dtype=np.int64)
    atom_of[system.atom_particles] = np.arange(len(system.atom_particles))
    virtual = topology.virtual_sites
    pairs = [(int(row[0]), int(row[k])) for row in virtual.parents for k in (1, 2)]
    # A bonded term may act on a virtual site: its first parent stands for it.
    stand_in = dict(zip(virtual.particles.tolist(), virtual.parents[:, 0].tolist(), strict=True))
    pairs += [(stand_in.get(i, i), stand_in.get(j, j)) for i, j in partition.bonded_links(mm_system)]
    links = [(int(atom_of[i]), int(atom_of[j])) for i, j in pairs if i != j]
    return Imager(len(system.atom_particles), [(int(atom_of[i]), int(atom_of[j])) for i, j in topology.bonds], links)


def _check_finite(energies: FloatArray, forces: FloatArray) -> None:
    """Raise NonFiniteError naming the first frame and atom at fault."""
    if np.isfinite(energies.sum()) and np.isfinite(forces.sum()):
        return
    for frame in range(len(energies)):
        bad = np.flatnonzero(~np.isfinite(forces[frame]).all(axis=1))
        if bad.size or not np.isfinite(energies[frame]):
            where = f"force on atom {bad[0]}" if bad.size else f"energy ({energies[frame]})"
            raise NonFiniteError(
                f"the MM {where} of frame {frame} (counted from 0) is not finite: atoms overlap or the trajectory has "
                "blown up; minimise the start structure or use a smaller time step"
            )


def _angstroms(lengths: FloatArray) -> str:
    return " x ".join(f"{10.0 * length / NANOMETRE:.2f}" for length in lengths)
