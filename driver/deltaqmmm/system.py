"""The QM/MM split of a topology: which atoms are QM, which sites carry MM charges, and how both are made whole.

Three index spaces meet here. A particle is anything OpenMM knows, virtual sites included. An atom is a massive
particle; i-PI sends only those, in particle order. A site is an MM charge carrier: a particle outside the QM region.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from openmm import app

from deltaqmmm.errors import TopologyError
from deltaqmmm.periodic import reduce_cell
from deltaqmmm.results import FloatArray, IntArray
from deltaqmmm.topology import Topology

Tree = tuple[IntArray, ...]
"""Levels of (child, parent) pairs, breadth first: every parent is a root or a child of an earlier level."""


CHARGED = 1e-3
"""Charge in e above which a group does not count as neutral."""


@dataclass(frozen=True, eq=False)
class System:
    """What every part of the potential must know before the first frame; made by `System.from_topology`.

    N atoms, n_qm of them QM, M sites in G groups, V_mm virtual sites among the sites. A group is a connected piece (by
    bonds, virtual sites joined to their parents) of one residue: a water molecule, an ion, a residue of a chain.
    A virtual site whose parents are QM atoms belongs to the QM region: it is no site and its charge is not used.

    Attributes:
        symbols: Element symbol per atom.
        masses: Shape (N,), electron masses.
        atom_particles: Particle index of each atom, shape (N,).
        n_particles: Number of particles.
        periodic: Whether frames carry a cell.
        qm_atoms: Atom indices of the QM region, ascending, shape (n_qm,).
        qm_symbols: Their element symbols.
        qm_charge: Total charge of the QM region, e.
        qm_tree: Spanning forest of the QM bonds, in QM numbering (0 to n_qm - 1).
        qm_fragments: Number of the connected fragment that each QM atom belongs to, shape (n_qm,).
        site_particles: Particle index of each site, ascending, shape (M,).
        site_charges: Shape (M,), e.
        site_symbols: Element per site, "" for a virtual site.
        site_types: ``residue:atom`` names per site.
        site_atoms: Atom index of each site, -1 for a virtual site, shape (M,).
        site_groups: Group number of each site, numbered by first appearance, shape (M,).
        n_groups: Number of groups G.
        group_references: Atom index of each group's heaviest atom (the first of equals), shape (G,).
        group_tree: Makes every group whole from its reference atom, in atom indices.
        virtual_site_sites: Site index of each virtual site, shape (V_mm,).
        site_parents: Atom indices of their parents, shape (V_mm, 3).
        site_weights: Shape (V_mm, 3); see `topology.VirtualSites`.
        site_cross: Shape (V_mm,), 1/bohr.
    """

    symbols: tuple[str, ...]
    masses: FloatArray
    atom_particles: IntArray
    n_particles: int
    periodic: bool
    qm_atoms: IntArray
    qm_symbols: tuple[str, ...]
    qm_charge: int
    qm_tree: Tree
    qm_fragments: IntArray
    site_particles: IntArray
    site_charges: FloatArray
    site_symbols: tuple[str, ...]
    site_types: tuple[str, ...]
    site_atoms: IntArray
    site_groups: IntArray
    n_groups: int
    group_references: IntArray
    group_tree: Tree
    virtual_site_sites: IntArray
    site_parents: IntArray
    site_weights: FloatArray
    site_cross: FloatArray

    @property
    def n_charged_groups(self) -> int:
        """Number of groups whose charge is not zero (ions, charged residues), which a cutoff truncates abruptly."""
        charges = np.bincount(self.site_groups, weights=self.site_charges, minlength=self.n_groups)
        return int((np.abs(charges) > CHARGED).sum())

    def may_see_ions_twice(self, cell: FloatArray, outer: float) -> bool:
        """Whether a charged group and an image of it can both be in a cutoff embedding.

        Args:
            cell: Lattice vectors as rows, shape (3, 3), bohr.
            outer: Where the embedding ends, bohr.
        """
        return self.n_charged_groups > 0 and float(reduce_cell(cell).heights.min()) < 2.0 * outer

    @property
    def n_atoms(self) -> int:
        """Number of atoms N, as i-PI sends them."""
        return len(self.symbols)

    @classmethod
    def from_topology(cls, topology: Topology, qm_atoms: Sequence[int] | IntArray, qm_charge: int = 0) -> System:
        """Split a topology.

        Args:
            topology: The whole system.
            qm_atoms: Atom indices (i-PI's numbering, from 0, virtual sites not counted), in any order.
            qm_charge: Total charge of the QM region, e.

        Raises:
            TopologyError: The selection is empty, out of range, has duplicates or cuts a bond; the number of electrons
                is odd.
        """
        atom_particles = topology.atom_particles
        qm = _checked_selection(topology, qm_atoms)
        qm_particles = atom_particles[qm]
        _check_no_cut_bond(topology, qm_particles)
        qm_symbols = tuple(topology.symbols[particle] for particle in qm_particles)
        _check_electrons(qm_symbols, qm_charge)
        local = {int(particle): index for index, particle in enumerate(qm_particles)}
        qm_bonds = [(local[int(i)], local[int(j)]) for i, j in topology.bonds if int(i) in local]
        qm_fragments = components(len(qm), qm_bonds)
        _, qm_roots = np.unique(qm_fragments, return_index=True)
        return cls(
            symbols=tuple(topology.symbols[particle] for particle in atom_particles),
            masses=topology.masses[atom_particles],
            atom_particles=atom_particles,
            n_particles=topology.n_particles,
            periodic=topology.periodic,
            qm_atoms=qm,
            qm_symbols=qm_symbols,
            qm_charge=int(qm_charge),
            qm_tree=spanning_forest(qm_bonds, qm_roots),
            qm_fragments=qm_fragments,
            **_sites(topology, qm_particles),
        )


def parse_selection(
    atoms: str | Iterable[int] | None, topology: Topology, residues: Iterable[str] | None = None
) -> IntArray:
    """Return the atom indices of a selection by number, by residue name, or both (their union).

    Args:
        atoms: Zero-based atom indices, or text such as ``"0-11, 15"`` (both ends included).
        topology: Where residues are looked up.
        residues: Residue names as the topology file writes them, such as ``["URA"]``; all residues of that name.

    Returns:
        Ascending indices, shape (n,). Numbers given twice stay twice, so that `System.from_topology` can refuse them.

    Raises:
        TopologyError: The text cannot be read, or no residue has the name.
    """
    indices = _parse_ranges(atoms) if isinstance(atoms, str) else [int(index) for index in atoms or ()]
    present = dict.fromkeys(topology.residue_names)
    named: set[int] = set()
    for name in residues or ():
        if name not in present:
            raise TopologyError(f"QM selection: no residue is named '{name}'; the topology has {', '.join(present)}")
        for atom, particle in enumerate(topology.atom_particles):
            if topology.residue_names[particle] == name:
                named.add(atom)
    return np.array(sorted([*indices, *(named - set(indices))]), dtype=np.int64)


def components(n_nodes: int, edges: Iterable[tuple[int, int]]) -> IntArray:
    """Return the connected component of each node, numbered by lowest node, shape (n_nodes,)."""
    parent = list(range(n_nodes))

    def find(node: int) -> int:
        while parent[node] != node:
            parent[node] = parent[parent[node]]
            node = parent[node]
        return node

    for i, j in edges:
        low, high = sorted((find(i), find(j)))
        parent[high] = low
    _, numbers = np.unique([find(node) for node in range(n_nodes)], return_inverse=True)
    return np.asarray(numbers, dtype=np.int64).reshape(n_nodes)


def spanning_forest(edges: Iterable[tuple[int, int]], roots: Iterable[int]) -> Tree:
    """Return breadth-first levels of (child, parent) pairs, each of shape (n, 2), that reach all nodes from `roots`."""
    neighbours: dict[int, list[int]] = {}
    for i, j in edges:
        neighbours.setdefault(i, []).append(j)
        neighbours.setdefault(j, []).append(i)
    depth = {int(root): 0 for root in roots}
    queue = deque(depth)
    levels: list[list[tuple[int, int]]] = []
    while queue:
        node = queue.popleft()
        for other in neighbours.get(node, ()):
            if other not in depth:
                depth[other] = depth[node] + 1
                queue.append(other)
                if len(levels) < depth[other]:
                    levels.append([])
                levels[depth[other] - 1].append((other, node))
    return tuple(np.array(level, dtype=np.int64) for level in levels)


def _parse_ranges(text: str) -> list[int]:
    indices: list[int] = []
    for part in filter(None, re.split(r"[,\s]+", re.sub(r"\s*-\s*", "-", text.strip()))):
        match = re.fullmatch(r"(\d+)(?:-(\d+))?", part)
        if match is None:
            raise TopologyError(
                f"QM selection: cannot read '{part}' in '{text}'; write zero-based numbers as '0-11, 15'"
            )
        first, last = int(match[1]), int(match[2] or match[1])
        if last < first:
            raise TopologyError(f"QM selection: range '{part}' ends before it begins; write '{last}-{first}'")
        indices.extend(range(first, last + 1))
    return indices


def _checked_selection(topology: Topology, qm_atoms: Sequence[int] | IntArray) -> IntArray:
    """Return the sorted selection; raise TopologyError if it is empty, out of range or has duplicates."""
    n_atoms = len(topology.atom_particles)
    if len(qm_atoms) == 0:
        raise TopologyError("QM selection is empty; name at least one atom or residue")
    selected = np.array(qm_atoms)
    if selected.ndim != 1 or not np.issubdtype(selected.dtype, np.integer):
        raise TopologyError(f"QM selection: got {qm_atoms!r}; needed is a list of zero-based atom indices")
    wrong = selected[(selected < 0) | (selected >= n_atoms)]
    if wrong.size:
        n_virtual = len(topology.virtual_sites.particles)
        note = f" ({n_virtual} virtual sites are not counted, as i-PI does not send them)" if n_virtual else ""
        raise TopologyError(
            f"QM selection: atom index {wrong[0]} is out of range; the topology has {n_atoms} atoms{note}, numbered "
            f"from 0 to {n_atoms - 1}"
        )
    unique, counts = np.unique(selected, return_counts=True)
    if np.any(counts > 1):
        raise TopologyError(
            f"QM selection: atom index {unique[counts > 1][0]} is given more than once; remove duplicates"
        )
    return unique.astype(np.int64)


def _check_no_cut_bond(topology: Topology, qm_particles: IntArray) -> None:
    """Refuse a bond, or a virtual site's set of parents, that is partly QM."""
    is_qm = np.zeros(topology.n_particles, dtype=bool)
    is_qm[qm_particles] = True
    for i, j in topology.bonds:
        if is_qm[i] != is_qm[j]:
            inside, outside = (i, j) if is_qm[i] else (j, i)
            raise TopologyError(
                f"QM selection cuts the bond between {topology.describe(inside)}, which is QM, and "
                f"{topology.describe(outside)}, which is not; cutting covalent bonds is not supported yet: extend the "
                "selection to the whole molecule"
            )
    for site, parents in zip(topology.virtual_sites.particles, topology.virtual_sites.parents, strict=True):
        if len(set(is_qm[parents])) > 1:
            raise TopologyError(
                f"QM selection takes some but not all parents of virtual site {topology.describe(site)}; extend the "
                "selection to the whole molecule"
            )


def _check_electrons(qm_symbols: tuple[str, ...], qm_charge: int) -> None:
    """Refuse an odd number of electrons: only closed shells are computed."""
    if int(qm_charge) != qm_charge:
        raise TopologyError(f"QM charge: got {qm_charge}; a whole number of elementary charges is needed")
    protons = sum(int(app.Element.getBySymbol(symbol).atomic_number) for symbol in qm_symbols)
    electrons = protons - int(qm_charge)
    if electrons % 2 or electrons < 0:
        raise TopologyError(
            f"the QM region ({len(qm_symbols)} atoms, nuclear charge {protons}, total charge {qm_charge:+d}) has "
            f"{electrons} electrons; only closed shells, with an even number, are supported: correct the charge or the "
            "selection"
        )


def _sites(topology: Topology, qm_particles: IntArray) -> dict[str, Any]:
    """Return the fields of `System` that describe the MM sites and their groups."""
    virtual = topology.virtual_sites
    atom_of = np.full(topology.n_particles, -1, dtype=np.int64)
    atom_of[topology.atom_particles] = np.arange(len(topology.atom_particles))
    is_site = np.ones(topology.n_particles, dtype=bool)
    is_site[qm_particles] = False
    is_site[virtual.particles] = is_site[virtual.parents[:, 0]] if len(virtual.particles) else False
    site_particles = np.flatnonzero(is_site).astype(np.int64)
    site_of = np.full(topology.n_particles, -1, dtype=np.int64)
    site_of[site_particles] = np.arange(len(site_particles))

    mm_virtual = is_site[virtual.particles]
    parents = virtual.parents[mm_virtual]
    residues = topology.residue_indices
    atom_edges = [(int(i), int(j)) for i, j in topology.bonds if is_site[i] and residues[i] == residues[j]]
    # Parents of one site belong together even where no bond joins them.
    atom_edges += [(int(row[0]), int(row[k])) for row in parents for k in (1, 2) if row[k] != row[0]]
    site_edges = list(zip(virtual.particles[mm_virtual].tolist(), parents[:, 0].tolist(), strict=True))
    groups = components(
        len(site_particles), [(int(site_of[i]), int(site_of[j])) for i, j in [*atom_edges, *site_edges]]
    )
    references = _references(groups, topology.masses[site_particles], atom_of[site_particles])
    return {
        "site_particles": site_particles,
        "site_charges": topology.charges[site_particles],
        "site_symbols": tuple(topology.symbols[p] for p in site_particles),
        "site_types": tuple(f"{topology.residue_names[p]}:{topology.atom_names[p]}" for p in site_particles),
        "site_atoms": atom_of[site_particles],
        "site_groups": groups,
        "n_groups": len(references),
        "group_references": references,
        "group_tree": spanning_forest([(int(atom_of[i]), int(atom_of[j])) for i, j in atom_edges], references.tolist()),
        "virtual_site_sites": site_of[virtual.particles[mm_virtual]],
        "site_parents": atom_of[parents],
        "site_weights": virtual.weights[mm_virtual],
        "site_cross": virtual.cross[mm_virtual],
    }


def _references(groups: IntArray, masses: FloatArray, site_atoms: IntArray) -> IntArray:
    """Return the atom index of the heaviest atom of each group, the first of equals, shape (G,)."""
    order = np.lexsort((np.arange(len(groups)), -masses, groups))
    _, first = np.unique(groups[order], return_index=True)
    return np.asarray(site_atoms[order[first]], dtype=np.int64)
