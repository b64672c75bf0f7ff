"""Small mixed systems for the embedding: two QM molecules in waters with and without virtual sites, ions and a
chain."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

import numpy as np
import pytest
import torch

from deltaqmmm.embedding import CutoffEmbedding, CutoffSettings
from deltaqmmm.periodic import reduce_cell
from deltaqmmm.system import System

MASSES = {"H": 1.0, "C": 12.0, "N": 14.0, "O": 16.0, "Na": 23.0, "Cl": 35.0}

CELLS = {
    "cubic": np.diag([22.0, 22.0, 22.0]),
    "orthorhombic": np.diag([19.0, 22.0, 26.0]),
    "triclinic": np.array([[22.0, 0.0, 0.0], [7.0, 21.0, 0.0], [-6.0, 8.0, 20.0]]),
    "truncated octahedron": 24.0
    * np.array([[1.0, 0.0, 0.0], [1 / 3, np.sqrt(8) / 3, 0.0], [-1 / 3, np.sqrt(2) / 3, np.sqrt(2 / 3)]]),
    # The cubic lattice in a basis that no one should choose: rows are long and nearly parallel.
    "skewed": np.array([[1, 0, 0], [3, 1, 0], [-4, 5, 1]]) @ np.diag([21.0, 22.0, 23.0]),
    "left-handed": np.array([[0.0, 22.0, 1.0], [21.0, 0.0, 2.0], [3.0, 0.0, 23.0]]),
}


@dataclass(frozen=True)
class Molecule:
    """A molecule of real atoms, then virtual sites given by (parents, weights, cross)."""

    symbols: tuple[str, ...]
    charges: tuple[float, ...]
    geometry: np.ndarray
    bonds: tuple[tuple[int, int], ...] = ()
    virtual: tuple[tuple[tuple[int, int, int], tuple[float, float, float], float], ...] = ()
    qm: bool = False


@dataclass(frozen=True)
class Case:
    """A system, one frame of it, and where each molecule's atoms are."""

    system: System
    positions: np.ndarray
    cell: np.ndarray | None
    molecules: list[np.ndarray] = field(default_factory=list)

    def tensors(self, n_frames: int = 1) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Return positions and cells of a batch of equal frames."""
        cells = None if self.cell is None else torch.tensor(np.stack([self.cell] * n_frames))
        return torch.tensor(np.stack([self.positions] * n_frames)), cells


BENT = np.array([[0.0, 0.0, 0.0], [1.4, 1.1, 0.1], [-1.4, 1.1, -0.2]])
WATER = Molecule(("O", "H", "H"), (-0.82, 0.41, 0.41), BENT, ((0, 1), (0, 2)))
FOUR_SITE = Molecule(
    ("O", "H", "H"), (0.0, 0.52, 0.52, -1.04), BENT, ((0, 1), (0, 2)), (((0, 1, 2), (0.75, 0.125, 0.125), 0.0),)
)
FIVE_SITE = Molecule(
    ("O", "H", "H"),
    (0.0, 0.24, 0.24, -0.3, -0.18),
    BENT,
    ((0, 1), (0, 2)),
    (((0, 1, 2), (1.7, -0.35, -0.35), 0.34), ((0, 1, 2), (1.7, -0.35, -0.35), -0.34)),
)
ION = Molecule(("Na",), (1.0,), np.zeros((1, 3)))
CHAIN = Molecule(
    ("H", "C", "N", "C", "H"),
    (0.2, -0.3, 0.4, -0.4, 0.1),
    np.array([[-4.0, 1.0, 0.0], [-2.4, 0.0, 0.5], [0.0, 1.1, 0.0], [2.4, -0.1, 0.3], [3.9, 1.0, -0.6]]),
    ((0, 1), (1, 2), (2, 3), (3, 4)),
)
QM_LARGE = Molecule(
    ("C", "O", "H", "N"),
    (0.3, -0.5, 0.1, 0.1),
    np.array([[0.0, 0.0, 0.0], [2.2, 0.6, 0.0], [-1.0, 1.6, 0.5], [-1.2, -2.3, -0.4]]),
    ((0, 1), (0, 2), (0, 3)),
    qm=True,
)
QM_SMALL = Molecule(("O", "H", "H"), (-0.8, 0.4, 0.4), BENT, ((0, 1), (0, 2)), qm=True)


def tree_levels(n_atoms: int, bonds: list[tuple[int, int]], roots: list[int]) -> tuple[np.ndarray, ...]:
    """Breadth-first levels of (child, parent)."""
    neighbours: list[list[int]] = [[] for _ in range(n_atoms)]
    for i, j in bonds:
        neighbours[i].append(j)
        neighbours[j].append(i)
    depth = dict.fromkeys(roots, 0)
    queue, levels = deque(roots), {}
    while queue:
        parent = queue.popleft()
        for child in neighbours[parent]:
            if child not in depth:
                depth[child] = depth[parent] + 1
                levels.setdefault(depth[child], []).append((child, parent))
                queue.append(child)
    return tuple(np.array(levels[level], dtype=np.int64) for level in sorted(levels))


def assemble(molecules: list[Molecule], coordinates: list[np.ndarray], cell: np.ndarray | None) -> Case:
    """Build the system of some molecules with given coordinates."""
    columns: dict[str, list] = {
        name: [] for name in ("symbols", "particles", "qm", "fragments", "references", "members")
    }
    sites: dict[str, list] = {name: [] for name in ("particle", "charge", "symbol", "atom", "group")}
    virtual: dict[str, list] = {name: [] for name in ("site", "parents", "weights", "cross")}
    bonds_qm, bonds_mm, n_atoms, n_particles = [], [], 0, 0
    for molecule in molecules:
        n_real = len(molecule.symbols)
        atoms = n_atoms + np.arange(n_real)
        columns["members"].append(atoms)
        columns["symbols"] += molecule.symbols
        columns["particles"] += (n_particles + np.arange(n_real)).tolist()
        bonds = [(n_atoms + i, n_atoms + j) for i, j in molecule.bonds]
        if molecule.qm:
            number = len(set(columns["fragments"]))
            columns["qm"] += atoms.tolist()
            columns["fragments"] += [number] * n_real
            bonds_qm += bonds
        else:
            group = len(columns["references"])
            heaviest = int(np.argmax([MASSES[symbol] for symbol in molecule.symbols]))
            columns["references"].append(n_atoms + heaviest)
            bonds_mm += bonds
            for k, charge in enumerate(molecule.charges):
                real = k < n_real
                sites["particle"].append(n_particles + k)
                sites["charge"].append(charge)
                sites["symbol"].append(molecule.symbols[k] if real else "")
                sites["atom"].append(n_atoms + k if real else -1)
                sites["group"].append(group)
                if not real:
                    parents, weights, cross = molecule.virtual[k - n_real]
                    virtual["site"].append(len(sites["atom"]) - 1)
                    virtual["parents"].append([n_atoms + parent for parent in parents])
                    virtual["weights"].append(weights)
                    virtual["cross"].append(cross)
        n_atoms += n_real
        n_particles += len(molecule.charges)
    qm_atoms = np.array(columns["qm"], dtype=np.int64)
    local = {atom: index for index, atom in enumerate(columns["qm"])}
    fragments = np.array(columns["fragments"], dtype=np.int64)
    qm_roots = [int(np.flatnonzero(fragments == label)[0]) for label in sorted(set(columns["fragments"]))]
    system = System(
        symbols=tuple(columns["symbols"]),
        masses=np.array([MASSES[symbol] for symbol in columns["symbols"]]),
        atom_particles=np.array(columns["particles"], dtype=np.int64),
        n_particles=n_particles,
        periodic=cell is not None,
        qm_atoms=qm_atoms,
        qm_symbols=tuple(columns["symbols"][atom] for atom in qm_atoms),
        qm_charge=0,
        qm_tree=tree_levels(len(qm_atoms), [(local[i], local[j]) for i, j in bonds_qm], qm_roots),
        qm_fragments=fragments,
        site_particles=np.array(sites["particle"], dtype=np.int64),
        site_charges=np.array(sites["charge"], dtype=np.float64),
        site_symbols=tuple(sites["symbol"]),
        site_types=tuple(f"X:{symbol}" for symbol in sites["symbol"]),
        site_atoms=np.array(sites["atom"], dtype=np.int64),
        site_groups=np.array(sites["group"], dtype=np.int64),
        n_groups=len(columns["references"]),
        group_references=np.array(columns["references"], dtype=np.int64),
        group_tree=tree_levels(n_atoms, bonds_mm, columns["references"]),
        virtual_site_sites=np.array(virtual["site"], dtype=np.int64),
        site_parents=np.array(virtual["parents"], dtype=np.int64).reshape(-1, 3),
        site_weights=np.array(virtual["weights"], dtype=np.float64).reshape(-1, 3),
        site_cross=np.array(virtual["cross"], dtype=np.float64),
    )
    return Case(system, np.concatenate(coordinates), cell, columns["members"])


def random_rotation(rng: np.random.Generator) -> np.ndarray:
    """Return a proper rotation matrix."""
    rotation, _ = np.linalg.qr(rng.normal(size=(3, 3)))
    return rotation * np.linalg.det(rotation)


def mixed_case(cell: str | np.ndarray | None = "cubic", seed: int = 0, n: int = 4) -> Case:
    """Fill a cell (or, without one, a cube) with molecules on a grid; the QM molecules are next to each other in the
    middle."""
    rng = np.random.default_rng(seed)
    lattice = CELLS[cell] if isinstance(cell, str) else cell
    grid = reduce_cell(CELLS["cubic"] if lattice is None else lattice).vectors / n
    points = [np.array(point) for point in np.ndindex(n, n, n)]
    middle = [np.array([n // 2, n // 2, n // 2]), np.array([n // 2, n // 2, n // 2 - 1])]
    rest = [point for point in points if not any((point == other).all() for other in middle)]
    kinds = [WATER, WATER, FOUR_SITE, FIVE_SITE, ION]
    molecules = [kinds[k] for k in rng.integers(len(kinds), size=len(rest))]
    molecules[0] = molecules[len(rest) // 2] = CHAIN
    # QM molecules stand in the middle of the list, the smaller one first, so that index spaces differ.
    half = len(rest) // 3
    order = [*molecules[:half], QM_SMALL, *molecules[half : 2 * half], QM_LARGE, *molecules[2 * half :]]
    places = [*rest[:half], middle[1], *rest[half : 2 * half], middle[0], *rest[2 * half :]]
    coordinates = [
        molecule.geometry @ random_rotation(rng) + place @ grid + rng.uniform(-0.3, 0.3, size=3)
        for molecule, place in zip(order, places, strict=True)
    ]
    return assemble(order, coordinates, lattice)


def model_energy(embedding: CutoffEmbedding, positions: torch.Tensor, cells: torch.Tensor | None) -> torch.Tensor:
    """A smooth, rotation-invariant function of every output, shape (B,); order and padding of the MM sites do not
    matter."""
    frames = embedding(positions, cells)
    n_qm = frames.qm_positions.shape[1]
    charges = torch.linspace(-0.4, 0.5, n_qm, dtype=torch.float64)
    energy = frames.potentials @ charges
    pairs = frames.qm_positions[:, :, None] - frames.qm_positions[:, None]
    energy = energy + 0.1 * torch.sin(0.2 * pairs.square().sum(dim=(1, 2, 3)) / n_qm**2)
    offsets = frames.mm_positions - frames.qm_positions[:, n_qm // 2, None]
    scaled = offsets.square().sum(dim=-1) / 60.0
    bells = torch.exp(-scaled)
    return energy + (frames.mm_charges.square() * bells + frames.mm_charges * torch.sin(scaled) * bells).sum(dim=1)


SETTINGS = CutoffSettings(inner=8.0, outer=12.0, smooth_minimum_sharpness=2.0)


@dataclass(frozen=True)
class Toolbox:
    """What tests of this folder share."""

    cells = CELLS
    settings = SETTINGS
    water, four_site, five_site, ion, chain = WATER, FOUR_SITE, FIVE_SITE, ION, CHAIN
    qm_large, qm_small = QM_LARGE, QM_SMALL
    assemble = staticmethod(assemble)
    mixed_case = staticmethod(mixed_case)
    model_energy = staticmethod(model_energy)
    random_rotation = staticmethod(random_rotation)


@pytest.fixture(scope="session")
def tools() -> Toolbox:
    """Builders of systems and a test energy."""
    return Toolbox()
