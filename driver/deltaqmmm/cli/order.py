"""Whether the first frame of a run has its atoms in the order of the topology.

i-PI sends positions without elements, so a wrong order shows only in the geometry: atoms that are bonded in the
topology lie far apart.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from ase.data import atomic_numbers, covalent_radii

from deltaqmmm.errors import FrameError
from deltaqmmm.ipi import Evaluate
from deltaqmmm.periodic import minimum_image_shifts
from deltaqmmm.results import Evaluation, FloatArray, IntArray
from deltaqmmm.units import ANGSTROM

if TYPE_CHECKING:
    from deltaqmmm.system import System
    from deltaqmmm.topology import Topology

BROKEN = {"mm": 1.5, "qm": 1.35}
"""A bond longer than this many times the sum of the covalent radii is no bond."""


class CheckedOrder:
    """An evaluation whose first batch is checked for the order of its atoms.

    MM bonds never break, so one that is broken gives the wrong order away. QM bonds may break (a proton moves, a group
    leaves), so there it takes an atom that has lost two of its bonds, or half of all bonds.
    """

    def __init__(self, evaluate: Evaluate, topology: Topology, system: System) -> None:
        """Prepare the check.

        Args:
            evaluate: What to call.
            topology: The bonds.
            system: Which atoms are QM, and the elements.
        """
        self._evaluate = evaluate
        self._topology = topology
        self._system = system
        self._checked = False

    def start_again(self) -> None:
        """Check the next batch too: it may come from another server."""
        self._checked = False

    def __call__(self, cells: FloatArray, positions: FloatArray) -> Evaluation:
        """Evaluate B frames: cells (B, 3, 3) and positions (B, N, 3), bohr.

        Raises:
            FrameError: The first batch is not in the order of the topology.
        """
        if not self._checked:
            check_order(self._topology, self._system, cells, positions)
            self._checked = True
        return self._evaluate(cells, positions)


def check_order(topology: Topology, system: System, cells: FloatArray, positions: FloatArray) -> None:
    """Raise FrameError if bonds of the topology are broken in a way that only a wrong order of atoms explains."""
    bonds = _atom_bonds(topology, system)
    if len(bonds) == 0:
        return
    radii = np.array([covalent_radii[atomic_numbers[symbol]] for symbol in system.symbols]) * ANGSTROM
    is_qm = np.isin(bonds[:, 0], system.qm_atoms)
    longest = np.where(is_qm, BROKEN["qm"], BROKEN["mm"]) * radii[bonds].sum(axis=1)
    for frame, frame_positions in enumerate(positions):
        vectors = frame_positions[bonds[:, 1]] - frame_positions[bonds[:, 0]]
        if system.periodic:
            vectors = vectors + minimum_image_shifts(vectors, cells[frame]) @ cells[frame]
        lengths = np.linalg.norm(vectors, axis=1)
        broken = lengths > longest
        guilty = broken & ~is_qm
        lost = np.bincount(bonds[broken & is_qm].ravel(), minlength=1)
        if lost.max() >= 2 or (is_qm.any() and broken[is_qm].mean() >= 0.5):
            guilty = guilty | (broken & is_qm)
        if guilty.any():
            index = int(np.flatnonzero(guilty)[0])
            i, j = bonds[index]
            raise FrameError(
                f"atoms {i} and {j} (counted from 0; {_label(topology, system, i)}, {_label(topology, system, j)}) "
                f"are bonded in the topology, but {lengths[index] / ANGSTROM:.1f} angstrom apart in frame {frame} of "
                f"the first batch, and so are {int(guilty.sum()) - 1} other pairs: the atoms do not come in the order "
                "of the topology, or in other units. Start i-PI from the coordinates that belong to the topology."
            )


def _atom_bonds(topology: Topology, system: System) -> IntArray:
    """The bonds in atom numbering, shape (n, 2)."""
    atom_of = np.full(topology.n_particles, -1, dtype=np.int64)
    atom_of[system.atom_particles] = np.arange(system.n_atoms)
    bonds: IntArray = atom_of[topology.bonds]
    return bonds


def _label(topology: Topology, system: System, atom: int) -> str:
    particle = int(system.atom_particles[atom])
    residue = f"{topology.residue_names[particle]} {topology.residue_indices[particle] + 1}"
    return f"{topology.atom_names[particle]} of {residue}"
