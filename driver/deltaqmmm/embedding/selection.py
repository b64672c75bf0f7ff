"""Which sites of each frame of a batch are embedded, laid out in arrays as wide as the largest frame.

Like `search`, this is integer bookkeeping on numpy arrays; nothing here is differentiated.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from deltaqmmm.embedding.frames import CutoffSettings
from deltaqmmm.embedding.search import GroupImages, find_group_images, qm_region_shifts
from deltaqmmm.periodic import ReducedCell, reduce_cell, whole_shifts
from deltaqmmm.results import FloatArray, IntArray
from deltaqmmm.system import System


@dataclass(frozen=True)
class Selection:
    """Integer bookkeeping of a batch: what is gathered, and from where. K sites and S switched groups at most.

    Attributes:
        qm_shifts: Lattice shifts of the QM atoms, (B, n_qm, 3).
        atoms: Atom of each site, (B, K); for a virtual site its first parent, for padding atom 0.
        shifts: Lattice shift of that atom, (B, K, 3).
        sites: Site number, (B, K); -1 on padding.
        weights: Index of the group's weight, (B, K): its place among the switched groups of the frame, or S for weight
            1.
        switched: Place among the K sites of the reference atom of each switched group, (B, S); 0 on padding.
        virtual: Flat places (in B * K) of the virtual sites, (T,).
        virtual_numbers: Which virtual site of the system each of them is, (T,).
        virtual_parents: Atoms that are their parents, (T, 3).
        virtual_shifts: Lattice shifts of the parents, (T, 3, 3).
    """

    qm_shifts: IntArray
    atoms: IntArray
    shifts: IntArray
    sites: IntArray
    weights: IntArray
    switched: IntArray
    virtual: IntArray
    virtual_numbers: IntArray
    virtual_parents: IntArray
    virtual_shifts: IntArray


class _GroupSites:
    """The sites of every group, as one list with a start and a length for each group."""

    def __init__(self, system: System) -> None:
        self.order = np.argsort(system.site_groups, kind="stable")
        self.lengths = np.bincount(system.site_groups, minlength=system.n_groups)
        self.starts = np.cumsum(self.lengths) - self.lengths
        self.atoms = system.site_atoms.copy()
        self.virtual_numbers = np.full(len(self.atoms), -1, dtype=np.int64)
        self.virtual_numbers[system.virtual_site_sites] = np.arange(len(system.virtual_site_sites))
        self.parents = system.site_parents
        self.atoms[system.virtual_site_sites] = self.parents[:, 0]
        place = np.full(len(system.symbols), -1, dtype=np.int64)
        real = np.flatnonzero(system.site_atoms[self.order] >= 0)
        place[system.site_atoms[self.order][real]] = real
        self.reference_places = place[system.group_references] - self.starts

    def expand(self, groups: IntArray) -> tuple[IntArray, IntArray, IntArray]:
        """List the sites of some groups: (site, row in `groups`) of each, and where each group starts."""
        lengths = self.lengths[groups]
        starts = np.cumsum(lengths) - lengths
        rows = np.repeat(np.arange(len(groups)), lengths)
        places = np.arange(len(rows)) + (self.starts[groups] - starts)[rows]
        return self.order[places], rows, starts


class Selector:
    """Finds the sites that count in each frame of one system.

    Args:
        system: The static topology and the QM/MM split.
        settings: Cutoffs and sharpness.
    """

    def __init__(self, system: System, settings: CutoffSettings) -> None:
        self.system = system
        self.settings = settings
        self._group_sites = _GroupSites(system)

    def select(self, positions: FloatArray, cells: FloatArray | None) -> Selection:
        """Find the lattice shifts and the groups that count.

        Args:
            positions: All atoms, shape (B, N, 3), bohr.
            cells: Lattice vectors as rows, shape (B, 3, 3), bohr; None in a system that is not periodic.

        Returns:
            What is to be gathered.
        """
        system = self.system
        qm_positions = positions[:, system.qm_atoms]
        if cells is None:
            qm_shifts = np.zeros(qm_positions.shape, dtype=np.int64)
            atom_shifts = np.zeros(positions.shape, dtype=np.int64)
        else:
            qm_shifts = qm_region_shifts(qm_positions, cells, system.qm_tree, system.qm_fragments)
            atom_shifts = whole_shifts(positions, cells, system.group_tree)
            qm_positions = qm_positions + qm_shifts @ cells
        images = []
        for frame in range(len(positions)):
            references = positions[frame].take(system.group_references, axis=0)
            reduced = None if cells is None else reduce_cell(cells[frame])
            images.append(self._find_images(references, qm_positions[frame], reduced))
        return self._pad(images, qm_shifts, atom_shifts)

    def _find_images(
        self, references: FloatArray, qm_positions: FloatArray, reduced: ReducedCell | None
    ) -> GroupImages:
        inner, outer = self.settings.inner, self.settings.outer
        if inner is None or outer is None:
            n_groups = self.system.n_groups
            return GroupImages(
                groups=np.arange(n_groups),
                shifts=np.zeros((n_groups, 3), dtype=np.int64),
                switched=np.zeros(n_groups, dtype=np.bool_),
            )
        return find_group_images(
            references, qm_positions, reduced, inner, outer, self.settings.smooth_minimum_sharpness
        )

    def _pad(self, images: Sequence[GroupImages], qm_shifts: IntArray, atom_shifts: IntArray) -> Selection:
        """Lay the sites of the groups of every frame out in arrays as wide as the largest frame."""
        expanded = [self._group_sites.expand(image.groups) for image in images]
        n_frames = len(images)
        n_sites = max((len(sites) for sites, _, _ in expanded), default=0)
        n_switched = max((int(image.switched.sum()) for image in images), default=0)
        atoms = np.zeros((n_frames, n_sites), dtype=np.int64)
        shifts = np.zeros((n_frames, n_sites, 3), dtype=np.int64)
        sites_of = np.full((n_frames, n_sites), -1, dtype=np.int64)
        weights = np.full((n_frames, n_sites), n_switched, dtype=np.int64)
        switched = np.zeros((n_frames, n_switched), dtype=np.int64)
        for frame, (image, (sites, rows, starts)) in enumerate(zip(images, expanded, strict=True)):
            n = len(sites)
            sites_of[frame, :n] = sites
            atoms[frame, :n] = self._group_sites.atoms[sites]
            shifts[frame, :n] = image.shifts.take(rows, axis=0)
            shell = np.flatnonzero(image.switched)
            weight_of_group = np.full(len(image.groups), n_switched, dtype=np.int64)
            weight_of_group[shell] = np.arange(len(shell))
            weights[frame, :n] = weight_of_group[rows]
            switched[frame, : len(shell)] = (starts + self._group_sites.reference_places[image.groups])[shell]
        numbers = np.append(self._group_sites.virtual_numbers, -1)[sites_of.reshape(-1)]
        virtual = np.flatnonzero(numbers >= 0)
        parents = self._group_sites.parents[numbers[virtual]]
        parent_frames = (virtual // max(n_sites, 1))[:, None]
        return Selection(
            qm_shifts=qm_shifts,
            atoms=atoms,
            shifts=shifts + atom_shifts[np.arange(n_frames)[:, None], atoms],
            sites=sites_of,
            weights=weights,
            switched=switched,
            virtual=virtual,
            virtual_numbers=numbers[virtual],
            virtual_parents=parents,
            virtual_shifts=shifts.reshape(-1, 3)[virtual][:, None] + atom_shifts[parent_frames, parents],
        )
