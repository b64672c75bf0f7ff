"""What the compiled loops know of the system, of the cutoff and of the cells: all of it is made once."""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import numpy as np

from deltaqmmm.embedding.frames import CutoffSettings
from deltaqmmm.periodic import check_cell, reduce_cell
from deltaqmmm.results import FloatArray, IntArray
from deltaqmmm.system import System, Tree


class RegionTable(NamedTuple):
    """The QM region.

    Attributes:
        atoms: Its atoms, shape (n,).
        bonds: (child, parent) in QM numbering, parents first, shape (n_bonds, 2).
        molecules: Which molecule each atom belongs to, numbered by first appearance, shape (n,).
        n_molecules: Their number.
    """

    atoms: IntArray
    bonds: IntArray
    molecules: IntArray
    n_molecules: int


class GroupTable(NamedTuple):
    """G groups and their M sites, group after group; "members" are numbered within their group.

    Attributes:
        starts: Where the sites of each group start, shape (G + 1,).
        sites: Site of the system at each place, shape (M,).
        atoms: Its atom, -1 for a virtual site, shape (M,).
        charges: Its charge, shape (M,), e.
        references: Atom whose distance makes the weight of each group, shape (G,).
        reference_members: Which member it is, shape (G,).
        bond_starts: Where the bonds of each group start, shape (G + 1,).
        bonds: Members (child, parent), parents first, shape (n_bonds, 2).
        bonded: The atoms that these are, shape (n_bonds, 2).
        virtual_starts: Where the virtual sites of each group start, shape (G + 1,).
        virtual: Members: the virtual site and its three parents, shape (V, 4).
        virtual_weights: The weights of the parents, and the factor of the cross product, 1/bohr, shape (V, 4).
    """

    starts: IntArray
    sites: IntArray
    atoms: IntArray
    charges: FloatArray
    references: IntArray
    reference_members: IntArray
    bond_starts: IntArray
    bonds: IntArray
    bonded: IntArray
    virtual_starts: IntArray
    virtual: IntArray
    virtual_weights: FloatArray


class CutoffTable(NamedTuple):
    """The settings of the embedding.

    Attributes:
        everything: Whether there is no cutoff; `inner` and `outer` mean nothing then.
        inner: Bohr.
        outer: Bohr.
        sharpness: beta of the smooth minimum, 1/bohr.
        blur_width: Bohr; 0 for point charges.
    """

    everything: bool
    inner: float
    outer: float
    sharpness: float
    blur_width: float


class Lattices(NamedTuple):
    """The cells of B frames and their reduced bases (see `periodic.ReducedCell`).

    A frame without a cell has one of zeros, whose faces are infinitely far from each other: nothing is ever shifted.

    Attributes:
        cells: Lattice vectors as rows, shape (B, 3, 3), bohr.
        vectors: The reduced ones, shape (B, 3, 3), bohr.
        inverses: Their inverses, shape (B, 3, 3), 1/bohr.
        operations: A shift n in the reduced basis is ``n @ operation`` in that of the cell, shape (B, 3, 3).
        heights: Distances between opposite faces of the reduced cells, shape (B, 3), bohr.
        safe_squares: Up to this squared length a vector is its own minimum image, shape (B,), bohr^2.
    """

    cells: FloatArray
    vectors: FloatArray
    inverses: FloatArray
    operations: FloatArray
    heights: FloatArray
    safe_squares: FloatArray


# The loops are compiled for arrays that may be written to and have no gaps: all that is given to them is a copy.


def region_table(system: System) -> RegionTable:
    """Make the table of the QM region."""
    labels = list(dict.fromkeys(system.qm_fragments.tolist()))
    molecules = np.array([labels.index(label) for label in system.qm_fragments.tolist()], dtype=np.int64)
    return RegionTable(np.array(system.qm_atoms), _bonds(system.qm_tree), molecules, len(labels))


def group_table(system: System) -> GroupTable:
    """Make the table of the MM groups."""
    order = np.argsort(system.site_groups, kind="stable").astype(np.int64)
    starts = _starts(system.site_groups, system.n_groups)
    member_of_site = np.empty(len(order), dtype=np.int64)
    member_of_site[order] = np.arange(len(order)) - starts[system.site_groups[order]]
    real = np.flatnonzero(system.site_atoms >= 0)
    # Of each atom; of no meaning for a QM atom.
    member, group = np.zeros((2, len(system.symbols)), dtype=np.int64)
    member[system.site_atoms[real]], group[system.site_atoms[real]] = member_of_site[real], system.site_groups[real]
    bonds = _bonds(system.group_tree)
    bonds = bonds[np.argsort(group[bonds[:, 0]], kind="stable")]
    of_group = system.site_groups[system.virtual_site_sites]
    by_group = np.argsort(of_group, kind="stable")
    virtual = np.column_stack([member_of_site[system.virtual_site_sites], member[system.site_parents]])[by_group]
    weights = np.column_stack([system.site_weights, system.site_cross])[by_group]
    return GroupTable(
        starts=starts,
        sites=order,
        atoms=system.site_atoms[order],
        charges=system.site_charges[order],
        references=np.array(system.group_references),
        reference_members=member[system.group_references],
        bond_starts=_starts(group[bonds[:, 0]], system.n_groups),
        bonds=member[bonds],
        bonded=bonds,
        virtual_starts=_starts(of_group, system.n_groups),
        virtual=virtual,
        virtual_weights=weights,
    )


def cutoff_table(settings: CutoffSettings) -> CutoffTable:
    """Make the table of the settings."""
    sharpness, blur_width = float(settings.smooth_minimum_sharpness), float(settings.blur_width)
    if settings.inner is None or settings.outer is None:
        return CutoffTable(True, 0.0, 0.0, sharpness, blur_width)
    return CutoffTable(False, float(settings.inner), float(settings.outer), sharpness, blur_width)


def open_lattices(n_frames: int) -> Lattices:
    """Of frames without cells."""
    nothing = np.zeros((n_frames, 3, 3))
    infinite = np.full((n_frames, 3), np.inf), np.full(n_frames, np.inf)
    return Lattices(nothing, nothing, nothing, nothing, *infinite)


def lattices_of(cells: FloatArray) -> Lattices:
    """Check cells and reduce them; recent batches are remembered by value.

    Args:
        cells: Lattice vectors as rows, shape (B, 3, 3), bohr.

    Raises:
        FrameError: A cell is not finite or singular.
    """
    return _lattices_of(np.ascontiguousarray(cells).tobytes())


@lru_cache(maxsize=16)
def _lattices_of(data: bytes) -> Lattices:
    cells = check_cell(np.frombuffer(data, dtype=np.float64).reshape(-1, 3, 3).copy())
    reduced = [reduce_cell(cell) for cell in cells]
    return Lattices(
        cells=cells,
        vectors=np.array([one.vectors for one in reduced]).reshape(-1, 3, 3),
        inverses=np.array([one.inverse for one in reduced]).reshape(-1, 3, 3),
        operations=np.array([one.operation for one in reduced], dtype=np.float64).reshape(-1, 3, 3),
        heights=np.array([one.heights for one in reduced]).reshape(-1, 3),
        safe_squares=np.array([one.safe_radius**2 for one in reduced]),
    )


def _bonds(tree: Tree) -> IntArray:
    """All (child, parent) pairs of a tree, parents first."""
    levels = [np.zeros((0, 2), dtype=np.int64), *(np.asarray(level, dtype=np.int64) for level in tree)]
    return np.concatenate(levels)


def _starts(numbers: IntArray, count: int) -> IntArray:
    """Where each number starts in a sorted list, and at last the length of the list."""
    return np.concatenate([[0], np.cumsum(np.bincount(numbers, minlength=count))]).astype(np.int64)
