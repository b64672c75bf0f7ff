"""Batches of frames through the compiled loops."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from deltaqmmm.dftb.compiled.copying import copy_row
from deltaqmmm.dftb.compiled.density_loops import Orbitals, factorise, fill_densities, orbital_room
from deltaqmmm.dftb.compiled.geometry_loops import Matrices, fill_gradient, fill_matrices, matrix_room
from deltaqmmm.dftb.compiled.scc_loops import Charges, charge_room, converge, fill_shifts
from deltaqmmm.dftb.compiled.tables import BasisTable, GammaTable, PairTable
from deltaqmmm.jit import Kernel, inlined, keep_blas_on_one_thread
from deltaqmmm.results import FloatArray, IntArray
from deltaqmmm.threads import side_by_side

TERMS = ("band", "scc", "external", "third_order", "repulsion")


class Room(NamedTuple):
    """Room for one frame at a time.

    Attributes:
        matrices: Functions of positions.
        orbitals: The density.
        charges: The SCC.
        density: Density matrix, shape (o, o).
        by_overlap: dE/dS, shape (o, o).
    """

    matrices: Matrices
    orbitals: Orbitals
    charges: Charges
    density: FloatArray
    by_overlap: FloatArray


class FrameResults(NamedTuple):
    """Results for B frames of n atoms.

    Attributes:
        terms: Energies in the order of `TERMS`, shape (B, 5), hartree.
        gradients: Shape (B, n, 3), hartree/bohr.
        excess: Excess electrons, shape (B, n).
        screening: Inverse dielectric matrices, shape (B, n, n).
        residuals: Largest change of a charge in the last cycle, shape (B,).
        iterations: Cycles, shape (B,).
    """

    terms: FloatArray
    gradients: FloatArray
    excess: FloatArray
    screening: FloatArray
    residuals: FloatArray
    iterations: IntArray


@inlined("contract")
def _fill_terms(
    matrices: Matrices, density: FloatArray, potential: FloatArray, excess: FloatArray, terms: FloatArray
) -> None:
    """The energies but the repulsion."""
    band, scc, external, third = 0.0, 0.0, 0.0, 0.0
    for row in range(len(density)):
        # Row by row: fewer roundings of a large sum.
        part = 0.0
        for column in range(len(density)):
            part += density[row, column] * matrices.hamiltonian[row, column]
        band += part
    for a in range(len(excess)):
        external -= excess[a] * potential[a]
        for b in range(len(excess)):
            scc += 0.5 * excess[a] * excess[b] * matrices.gamma[a, b]
            third += excess[a] * excess[a] * excess[b] * matrices.third[a, b] / 3.0
    terms[0], terms[1], terms[2], terms[3] = band, scc, external, third


@inlined("contract")
def _fill_by_overlap(basis: BasisTable, density: FloatArray, shifts: FloatArray, by_overlap: FloatArray) -> None:
    """dE/dS = P (shift_a + shift_b) / 2 - W, in the place of W."""
    for a in range(len(shifts)):
        for b in range(len(shifts)):
            half = 0.5 * (shifts[a] + shifts[b])
            for row in range(basis.first[a], basis.first[a + 1]):
                for column in range(basis.first[b], basis.first[b + 1]):
                    by_overlap[row, column] = half * density[row, column] - by_overlap[row, column]


@Kernel
def _run(
    pairs: PairTable,
    gamma: GammaTable,
    basis: BasisTable,
    room: Room,
    positions: FloatArray,
    potentials: FloatArray,
    start: FloatArray,
    limits: tuple[float, int],
    known: bool,
    results: FrameResults,
) -> bool:
    """Compute frame after frame."""
    matrices, orbitals, charges = room.matrices, room.orbitals, room.charges
    for frame in range(len(positions)):
        results.terms[frame, 4] = fill_matrices(pairs, gamma, basis, positions[frame], matrices)
        factorise(matrices.overlap, orbitals)
        copy_row(start[frame], charges.input)
        cycles, residual = converge(
            basis, matrices, potentials[frame], limits, known, results.screening[frame], orbitals, charges
        )
        results.iterations[frame], results.residuals[frame] = cycles, residual
        if not residual <= limits[0]:
            continue
        excess = charges.output
        copy_row(excess, results.excess[frame])
        fill_densities(orbitals, room.density, room.by_overlap)
        _fill_terms(matrices, room.density, potentials[frame], excess, results.terms[frame])
        fill_shifts(matrices, potentials[frame], excess, charges.shifts)
        _fill_by_overlap(basis, room.density, charges.shifts, room.by_overlap)
        weights = room.density, room.by_overlap, excess
        fill_gradient(pairs, gamma, basis, positions[frame], weights, matrices, results.gradients[frame])
    return True


class CompiledFrames:
    """A closed-shell DFTB calculation at zero temperature for frames of one molecule."""

    def __init__(self, pairs: PairTable, gamma: GammaTable, basis: BasisTable, d_matrices: FloatArray) -> None:
        """Take what does not depend on positions.

        Args:
            pairs: The atom pairs.
            gamma: Their charge-charge function.
            basis: Orbitals and electrons.
            d_matrices: The matrices of the d functions, shape (5, 3, 3).
        """
        self._tables = pairs, gamma, basis
        self._d_matrices = d_matrices
        self._rooms: list[Room] = []
        keep_blas_on_one_thread()

    def __call__(
        self,
        positions: FloatArray,
        potentials: FloatArray,
        start: FloatArray,
        screening: FloatArray | None,
        limits: tuple[float, int],
        threads: int,
    ) -> FrameResults:
        """Evaluate B frames. Those whose residual is above the tolerance did not converge, and have no results.

        Args:
            positions: Shape (B, n, 3), bohr.
            potentials: Shape (B, n), hartree/e.
            start: First input charges, shape (B, n).
            screening: Inverse dielectric matrices to steer with, shape (B, n, n); None for cold starts.
            limits: SCC tolerance, e, and cycles at most.
            threads: Frames computed side by side.

        Raises:
            LinAlgError: A matrix cannot be factorised or diagonalised.
        """
        n_frames, n_atoms = potentials.shape
        results = FrameResults(
            np.zeros((n_frames, len(TERMS))),
            np.zeros((n_frames, n_atoms, 3)),
            np.zeros((n_frames, n_atoms)),
            np.zeros((n_frames, n_atoms, n_atoms)) if screening is None else screening.copy(),
            np.full(n_frames, np.inf),
            np.zeros(n_frames, dtype=np.int64),
        )
        given = positions, potentials, start
        known = screening is not None

        def compute(part: slice) -> None:
            views = FrameResults(
                results.terms[part],
                results.gradients[part],
                results.excess[part],
                results.screening[part],
                results.residuals[part],
                results.iterations[part],
            )
            room = self._take_room()
            _run(*self._tables, room, *(array[part] for array in given), limits, known, views)
            self._rooms.append(room)

        side_by_side(compute, n_frames, threads)
        return results

    def _take_room(self) -> Room:
        """Room that no other thread uses; it is put back after use."""
        try:
            return self._rooms.pop()
        except IndexError:
            return self._new_room()

    def _new_room(self) -> Room:
        basis = self._tables[2]
        n_orbitals, n_atoms = len(basis.onsite), len(basis.reference)
        return Room(
            matrix_room(n_atoms, n_orbitals, self._d_matrices),
            orbital_room(n_orbitals, basis.n_occupied),
            charge_room(n_atoms),
            np.zeros((n_orbitals, n_orbitals)),
            np.zeros((n_orbitals, n_orbitals)),
        )
