"""The MM engine: energies and forces of E_MM for a batch of frames, from OpenMM."""

from __future__ import annotations

import threading

import numpy as np
import openmm

from deltaqmmm.errors import FrameError, NonFiniteError
from deltaqmmm.mm import partition
from deltaqmmm.mm.contexts import Contexts, Lane
from deltaqmmm.mm.imaging import Imager, StandardCell, reduce_box, standard_cell
from deltaqmmm.mm.mesh import set_mesh
from deltaqmmm.mm.platforms import is_single_precision
from deltaqmmm.mm.settings import OpenMMSettings
from deltaqmmm.periodic import check_cell, check_positions
from deltaqmmm.results import Evaluation, FloatArray
from deltaqmmm.system import System
from deltaqmmm.topology import Topology
from deltaqmmm.units import KJ_PER_MOL, NANOMETRE

_MESH_STRETCH = 1.25
"""OpenMM fixes its Ewald mesh when the context is made. Beyond this growth of the cell the mesh is too coarse."""

_STRAIN_STEP = 2.0e-3
"""Noise (single precision, pairs that cross the cutoff) falls with the step, the error of the differences rises as its
square. For 189 water molecules with the default Ewald tolerance both are below 1e-3 hartree: a pressure of 8 bar."""

_STRAIN_STEP_SMOOTH = 1.0e-4
"""The step where the energy is smooth: double precision, no cutoff."""


class OpenMMEngine:
    """E_MM: all MM-MM terms, and the Lennard-Jones part of QM-MM (see `partition.mm_only_system`).

    Frames may be wrapped in any way, atom by atom, and have any cell shape. The positions are brought into the form
    that OpenMM computes most precisely (see `imaging`) and the forces are turned back. Virtual sites are placed by
    OpenMM, which also hands their forces to the parent atoms.

    On the CPU platform the frames of a batch are computed side by side (see `contexts`). One engine may be called from
    any thread, by one at a time (others wait). OpenMM releases Python's global lock while it computes, so other work
    can go on in the meantime.
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
        self.settings = settings or OpenMMSettings()
        mm_system = partition.mm_only_system(topology, system)
        self._periodic = topology.periodic
        self._atom_particles = system.atom_particles
        self._n_particles = system.n_particles
        self._atoms_alone = np.array_equal(self._atom_particles, np.arange(self._n_particles))
        self._has_virtual_sites = len(topology.virtual_sites.particles) > 0
        self._centre = not partition.has_external_force(mm_system)
        self._narrowest = partition.narrowest_cell(mm_system) * NANOMETRE
        self._mesh_lengths: FloatArray | None = None
        if topology.cell is not None:
            reference = standard_cell(topology.cell, self._narrowest).box
            mm_system.setDefaultPeriodicBoxVectors(*(openmm.Vec3(*row) for row in (reference / NANOMETRE).tolist()))
            if partition.uses_ewald(mm_system):
                self._mesh_lengths = reference.diagonal()
                set_mesh(mm_system, reference.diagonal() / NANOMETRE)
        imager = _make_imager(topology, system, mm_system) if topology.periodic else None
        self._contexts = Contexts(mm_system, self.settings, imager)
        rough = self._periodic or is_single_precision(self._contexts.whole.context, self.settings)
        self._strain_step = self.settings.strain_step or (_STRAIN_STEP if rough else _STRAIN_STEP_SMOOTH)
        self._lock = threading.Lock()

    @property
    def platform(self) -> str:
        """Name of the OpenMM platform in use."""
        return str(self._contexts.whole.context.getPlatform().getName())

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
        """
        positions = check_positions(positions, len(self._atom_particles))
        boxes = self._standard_cells(cells, len(positions))
        energies = np.zeros(len(positions))
        forces = np.zeros(positions.shape)
        strain_derivatives = np.zeros((len(positions), 3, 3)) if self.settings.virial else None

        def work(lane: Lane, frame: int) -> None:
            prepared = self._prepare(lane.imager, positions[frame], boxes[frame])
            energies[frame], forces[frame] = self._compute(lane.context, prepared, boxes[frame])
            if strain_derivatives is not None:
                strain_derivatives[frame] = self._strain_derivative(lane.context, prepared, boxes[frame])

        with self._lock:
            self._contexts.side_by_side(work, len(positions))
        _check_finite(energies, forces)
        return Evaluation(energies, forces, strain_derivatives, {"mm": energies.copy()})

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

    def _prepare(self, imager: Imager | None, positions: FloatArray, cell: StandardCell | None) -> FloatArray:
        """Return positions of whole molecules near the origin, in the frame of the box, shape (N, 3), bohr."""
        if cell is None or imager is None:
            return positions - positions.mean(axis=0) if self._centre else positions
        rotated = positions if cell.rotation is None else positions @ cell.rotation
        return imager(rotated, cell.box)

    def _compute(
        self, context: openmm.Context, prepared: FloatArray, cell: StandardCell | None
    ) -> tuple[float, FloatArray]:
        """Return the energy (hartree) and the forces on the atoms (N, 3) in the frame's own orientation."""
        self._set_frame(context, prepared, None if cell is None else cell.box)
        state = _get_state(context, with_forces=True)
        particle_forces = np.asarray(state.getForces(asNumpy=True)._value)
        if not self._atoms_alone:
            particle_forces = particle_forces[self._atom_particles]
        forces = particle_forces * (KJ_PER_MOL / NANOMETRE)
        if cell is not None and cell.rotation is not None:
            forces = forces @ cell.rotation.T
        return state.getPotentialEnergy()._value * KJ_PER_MOL, forces

    def _strain_derivative(
        self, context: openmm.Context, prepared: FloatArray, cell: StandardCell | None
    ) -> FloatArray:
        """Return dE/d(strain), shape (3, 3), hartree, by central differences (see `evaluate`)."""
        step = self._strain_step
        derivative = np.zeros((3, 3))
        for row in range(3):
            for column in range(row + 1):
                difference = 0.0
                for sign in (1.0, -1.0):
                    scaling = np.eye(3)
                    scaling[row, column] += sign * step
                    box = None if cell is None else reduce_box(cell.box @ scaling)
                    self._set_frame(context, prepared @ scaling, box)
                    difference += sign * _get_state(context, with_forces=False).getPotentialEnergy()._value
                derivative[row, column] = derivative[column, row] = difference * KJ_PER_MOL / (2.0 * step)
        if cell is not None and cell.rotation is not None:
            derivative = cell.rotation @ derivative @ cell.rotation.T
        return derivative

    def _set_frame(self, context: openmm.Context, prepared: FloatArray, box: FloatArray | None) -> None:
        """Hand positions (N, 3) and box to OpenMM and place the virtual sites."""
        if box is not None:
            context.setPeriodicBoxVectors(*(box / NANOMETRE))
        particles = prepared / NANOMETRE
        if not self._atoms_alone:
            particles = np.zeros((self._n_particles, 3))
            particles[self._atom_particles] = prepared / NANOMETRE
        context.setPositions(particles)
        if self._has_virtual_sites:
            context.computeVirtualSites()


def _get_state(context: openmm.Context, with_forces: bool) -> openmm.State:
    try:
        return context.getState(getEnergy=True, getForces=with_forces)
    except openmm.OpenMMException as error:
        raise NonFiniteError(f"OpenMM could not compute the MM energy: {error}") from error


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
