"""Brings frames of any cell shape and any wrapping into the form that OpenMM computes most precisely.

OpenMM wants lower triangular, reduced box vectors and its bonded forces see no periodicity; its CPU platform keeps
positions in single precision. So cells are rotated and reduced, molecules are made whole along their bonds, and every
molecule is kept in or near the home cell. All of this changes no energy.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from deltaqmmm.errors import FrameError
from deltaqmmm.mm.image_loops import place
from deltaqmmm.periodic import make_whole, minimum_image_shifts, reduce_cell
from deltaqmmm.results import FloatArray, IntArray
from deltaqmmm.system import components, spanning_forest
from deltaqmmm.units import ANGSTROM

_ROUNDING = 1e-12
"""Elements of a cell below this part of its largest are rounding and count as zero."""


@dataclass(frozen=True)
class StandardCell:
    """A cell in OpenMM's form.

    Attributes:
        box: Lower triangular, reduced lattice vectors as rows, shape (3, 3), bohr.
        rotation: Proper rotation, shape (3, 3): ``r @ rotation`` is in the frame of `box`. None for the identity.
    """

    box: FloatArray
    rotation: FloatArray | None


def standard_cell(cell: FloatArray, narrowest: float) -> StandardCell:
    """Return the same lattice with lower triangular, reduced vectors; recent cells are remembered by value.

    The axes of a lower triangular cell (i-PI's form) are kept; only where that leaves a box narrower than `narrowest`
    is the shortest basis of the lattice taken.

    Args:
        cell: Lattice vectors as rows, shape (3, 3), bohr.
        narrowest: Least diagonal element needed (twice the cutoff), bohr.

    Raises:
        FrameError: The cell is too small for the cutoff in any basis.
    """
    return _standard_cell(np.ascontiguousarray(cell, dtype=np.float64).tobytes(), narrowest)


@lru_cache(maxsize=256)
def _standard_cell(data: bytes, narrowest: float) -> StandardCell:
    cell = np.frombuffer(data, dtype=np.float64).reshape(3, 3)
    standard = _lower_triangular(cell)
    if standard.box.diagonal().min() < narrowest:
        standard = _lower_triangular(reduce_cell(cell).vectors)
    width = float(standard.box.diagonal().min())
    if width < narrowest:
        raise FrameError(
            f"the cell is {width / ANGSTROM:.3f} angstrom wide, and the MM cutoff of "
            f"{narrowest / ANGSTROM / 2.0:.3f} angstrom needs {narrowest / ANGSTROM:.3f} angstrom; take a larger "
            "box or a shorter MM cutoff"
        )
    for array in (standard.box, standard.rotation):
        if array is not None:
            array.setflags(write=False)
    return standard


@lru_cache(maxsize=256)
def _inverse(data: bytes) -> FloatArray:
    inverse = np.asarray(np.linalg.inv(np.frombuffer(data, dtype=np.float64).reshape(3, 3)), dtype=np.float64)
    inverse.setflags(write=False)
    return inverse


def reduce_box(box: FloatArray) -> FloatArray:
    """Return a lower triangular box in OpenMM's reduced form.

    The lattice is the same; no off-diagonal element is more than half of the diagonal one above it.
    """
    a, b, c = box
    c = c - b * np.rint(c[1] / b[1])
    c = c - a * np.rint(c[0] / a[0])
    b = b - a * np.rint(b[0] / a[0])
    return np.array([a, b, c])


def _lower_triangular(cell: FloatArray) -> StandardCell:
    """Rotate a cell to lower triangular form with a positive diagonal, and reduce it."""
    upper = np.abs(np.triu(cell, 1)).max()
    if upper <= _ROUNDING * np.abs(cell).max() and np.all(cell.diagonal() > 0.0):
        return StandardCell(reduce_box(np.tril(cell)), None)
    # A left-handed basis becomes right-handed by turning one vector round: the lattice is the same, and no reflection,
    # which would change the energy of chiral terms, enters.
    handed = cell * np.array([1.0, 1.0, np.sign(np.linalg.det(cell))])[:, None]
    orthogonal, triangular = np.linalg.qr(handed.T)
    signs = np.sign(triangular.diagonal())
    return StandardCell(reduce_box(np.tril(triangular.T * signs)), orthogonal * signs)


class Imager:
    """Makes the molecules of frames whole and keeps each in or near the home cell.

    A molecule is put where it was in the frame before, as near as its images allow, and moved back into the home cell
    only when it has strayed. OpenMM makes new neighbour lists whenever an atom has moved far: molecules at a face of
    the cell that changed sides from bead to bead would cost more than the forces.
    """

    def __init__(self, n_atoms: int, bonds: list[tuple[int, int]], links: list[tuple[int, int]]) -> None:
        """Find the molecules.

        Args:
            n_atoms: Number of atoms N.
            bonds: Pairs of atoms that are bonded.
            links: Further pairs that must be in one image; used only where they join what bonds do not.
        """
        molecules = components(n_atoms, bonds)
        joining: list[tuple[int, int]] = []
        for link in links:
            if molecules[link[0]] != molecules[link[1]]:
                joining.append(link)
                molecules[molecules == molecules[link[1]]] = molecules[link[0]]
        edges = [*bonds, *joining]
        molecules = components(n_atoms, edges)
        _, self._roots = np.unique(molecules, return_index=True)
        self._roots = self._roots.astype(np.int64)
        self._molecules = np.ascontiguousarray(molecules, dtype=np.int64)
        self._tree = spanning_forest(edges, self._roots.tolist())
        self._bonds: IntArray = np.concatenate(self._tree) if self._tree else np.zeros((0, 2), dtype=np.int64)
        in_tree = {tuple(sorted(pair)) for level in self._tree for pair in level.tolist()}
        closures = sorted({tuple(sorted(bond)) for bond in bonds} - in_tree)
        self._closures: IntArray = np.array(closures, dtype=np.int64).reshape(-1, 2)
        self._last: FloatArray | None = None

    def fresh(self) -> Imager:
        """The same for other frames: it remembers none."""
        other = copy.copy(self)
        other._last = None
        return other

    def __call__(self, positions: FloatArray, box: FloatArray) -> FloatArray:
        """Return whole molecules in or near the home cell.

        Args:
            positions: Shape (N, 3), bohr.
            box: Lattice vectors as rows, shape (3, 3), bohr.

        Raises:
            FrameError: A molecule is bonded to its own periodic image.
        """
        found, shifts = np.empty(positions.shape), np.empty((len(self._roots), 3))
        remembers = self._last is not None
        last = self._last if self._last is not None else np.empty(shifts.shape)
        molecules, safe_square = (self._roots, self._molecules), reduce_cell(box).safe_radius ** 2
        inverse = _inverse(np.ascontiguousarray(box).tobytes())

        def placed(atoms: FloatArray, longest: float) -> bool:
            # The loops are compiled for arrays that may be written to and have no gaps.
            given = np.require(atoms, np.float64, ["C", "W"]), np.array(box), np.array(inverse)
            return place(*given, molecules, self._bonds, longest, remembers, last, shifts, found)

        # i-PI keeps molecules whole unless it wraps atoms: mostly there is nothing to do.
        if not placed(positions, safe_square):
            placed(make_whole(positions[None], box, self._tree)[0], np.inf)
        self._last = last
        self._check_closures(found, box)
        return found

    def _check_closures(self, whole: FloatArray, box: FloatArray) -> None:
        """Refuse networks that span the cell: no choice of images makes them whole."""
        if _are_short(whole, self._closures, box):
            return
        vectors = whole[self._closures[:, 0]] - whole[self._closures[:, 1]]
        broken = np.flatnonzero(np.any(minimum_image_shifts(vectors, box) != 0, axis=1))
        if broken.size:
            i, j = self._closures[broken[0]]
            raise FrameError(
                f"the bond between atoms {i} and {j} closes on a periodic image: a molecule that is bonded to its "
                "own image is not supported; check the bonds of the topology and the size of the cell"
            )


def _are_short(positions: FloatArray, pairs: IntArray, box: FloatArray) -> bool:
    """Whether the vectors between pairs of atoms (P, 2) are so short that each is surely its own shortest image."""
    vectors = positions.take(pairs[:, 0], axis=0) - positions.take(pairs[:, 1], axis=0)
    return bool(np.einsum("ij,ij->i", vectors, vectors).max(initial=0.0) <= reduce_cell(box).safe_radius ** 2)
