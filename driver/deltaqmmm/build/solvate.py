"""Placing solutes, ions and water in a periodic box. Lengths in angstrom."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from rdkit import Chem
from scipy.spatial import cKDTree

from deltaqmmm.build.fill import fill_water, wrap
from deltaqmmm.build.molecule import Solute
from deltaqmmm.build.water import WATERS_PER_CUBIC_ANGSTROM, WaterBox
from deltaqmmm.errors import InputError
from deltaqmmm.results import FloatArray

MOLAR = 6.02214076e-4
"""Particles per cubic angstrom in one mol per litre."""

_ION_DISTANCE = 5.0


@dataclass(frozen=True)
class Placement:
    """Everything in the box, in the order of the topology: solutes, ions, waters.

    Attributes:
        solute_positions: One array of shape (n, 3) per copy of a solute.
        solute_kinds: Number of the solute of each copy.
        ion_names: "Na+" or "Cl-" for each ion.
        ion_positions: Shape (n_ions, 3).
        water_positions: Shape (n_waters, 3, 3), order O, H, H.
        edges: Shape (3,).
    """

    solute_positions: tuple[FloatArray, ...]
    solute_kinds: tuple[int, ...]
    ion_names: tuple[str, ...]
    ion_positions: FloatArray
    water_positions: FloatArray
    edges: FloatArray

    @property
    def positions(self) -> FloatArray:
        """All positions in the order of the topology, shape (N, 3)."""
        return np.concatenate([*self.solute_positions, self.ion_positions, self.water_positions.reshape(-1, 3)])


def place_solutes(
    solutes: Sequence[Solute], as_given: bool, gap: float, seed: int
) -> tuple[tuple[FloatArray, ...], tuple[int, ...]]:
    """Put all copies of all solutes next to each other as a compact cluster.

    Args:
        solutes: Kinds of solutes with their counts.
        as_given: Keep the coordinates of the files instead.
        gap: Smallest distance between atoms of two molecules.
        seed: Chooses the directions that are tried.

    Returns:
        Positions of each copy, and which solute it is.

    Raises:
        InputError: `as_given` with more than one copy of a solute, or with molecules that overlap.
    """
    kinds = tuple(kind for kind, solute in enumerate(solutes) for _ in range(solute.count))
    if as_given:
        if len(kinds) != len(solutes):
            raise InputError(
                "Placement 'as_given' is for one copy of each molecule. Use 'side_by_side' for several copies."
            )
        placed = tuple(solute.positions for solute in solutes)
        for i, first in enumerate(placed):
            for j in range(i):
                distance = float(cKDTree(first).query(placed[j])[0].min())
                if distance < 1.2:
                    raise InputError(
                        f"{solutes[j].source} and {solutes[i].source} are {distance:.2f} angstrom apart in the "
                        "coordinates given. Use the placement 'side_by_side', or correct the coordinates."
                    )
        return placed, kinds
    random = np.random.default_rng(seed)
    directions = random.normal(size=(64, 3))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    cluster: list[FloatArray] = []
    for kind in kinds:
        centred = solutes[kind].positions - solutes[kind].positions.mean(axis=0)
        cluster.append(centred if not cluster else _attach(np.concatenate(cluster), centred, directions, gap))
    return tuple(cluster), kinds


def _attach(cluster: FloatArray, molecule: FloatArray, directions: FloatArray, gap: float) -> FloatArray:
    """Slide a molecule out of the cluster until it is clear, in the direction that keeps the cluster smallest."""
    tree = cKDTree(cluster)
    best, best_extent = molecule, np.inf
    for direction in directions:
        distance = 0.0
        while float(tree.query(molecule + distance * direction)[0].min()) < gap:
            distance += 0.25
        moved = molecule + distance * direction
        extent = float(np.ptp(np.concatenate([cluster, moved]), axis=0).max())
        if extent < best_extent:
            best, best_extent = moved, extent
    return best


def choose_box(
    positions: FloatArray,
    solute_volume: float,
    padding: float | None,
    water_count: int | None,
    box_edges: Sequence[float],
    cubic: bool,
) -> tuple[FloatArray, int]:
    """Find the edges of the box and the number of molecules (water and ions) that fill it.

    Args:
        positions: All solute atoms, shape (n, 3).
        solute_volume: Volume that the solutes take, cubic angstrom.
        padding: Distance of the outermost atoms to the faces; or
        water_count: the number of water molecules; or
        box_edges: one or three edges.
        cubic: Whether all edges are to be equal.
    """
    extent = np.ptp(positions, axis=0)
    if cubic:
        extent = np.full(3, extent.max())
    if box_edges:
        edges = np.array(box_edges if len(box_edges) == 3 else [box_edges[0]] * 3, dtype=np.float64)
    elif water_count is not None:
        volume = water_count / WATERS_PER_CUBIC_ANGSTROM + solute_volume
        # The padding that gives this volume: bisection, as the volume grows with it.
        low, high = -float(extent.max()), volume ** (1 / 3)
        for _ in range(100):
            middle = 0.5 * (low + high)
            inside = np.prod(np.maximum(extent + 2.0 * middle, 1e-3)) < volume
            low, high = (middle, high) if inside else (low, middle)
        edges = extent + 2.0 * high
    else:
        edges = extent + 2.0 * (15.0 if padding is None else padding)
    if np.any(edges <= np.ptp(positions, axis=0) + 2.0):
        raise InputError(
            f"A box of {' x '.join(f'{edge:.1f}' for edge in edges)} angstrom has no room for solutes that measure "
            f"{' x '.join(f'{length:.1f}' for length in np.ptp(positions, axis=0))} angstrom. Ask for a larger box."
        )
    if water_count is not None:
        return edges, water_count
    count = round((float(np.prod(edges)) - solute_volume) * WATERS_PER_CUBIC_ANGSTROM)
    if count < 1:
        raise InputError(
            f"No water fits into a box of {' x '.join(f'{edge:.1f}' for edge in edges)} angstrom beside the solutes. "
            "Ask for a larger box."
        )
    return edges, count


def ion_names(charge: int, volume: float, salt_molar: float) -> tuple[str, ...]:
    """Ions that neutralise a solute of `charge` (e), and salt for `volume` (cubic angstrom)."""
    pairs = round(salt_molar * MOLAR * volume)
    sodium, chloride = pairs + max(-charge, 0), pairs + max(charge, 0)
    return ("Na+",) * sodium + ("Cl-",) * chloride


def replace_by_ions(
    waters: FloatArray, names: Sequence[str], solute: FloatArray, edges: FloatArray, seed: int
) -> tuple[FloatArray, FloatArray]:
    """Put ions in the place of water molecules, away from the solute and from each other.

    Returns:
        Ion positions, shape (n_ions, 3), and the remaining waters.
    """
    if len(names) >= len(waters):
        raise InputError(f"{len(names)} ions and {len(waters)} water molecules: ask for a larger box or less salt.")
    oxygens = wrap(waters[:, 0], edges)
    distance = cKDTree(wrap(solute, edges), boxsize=edges).query(oxygens)[0]
    chosen: list[int] = []
    for water in np.random.default_rng(seed).permutation(len(waters)):
        if len(chosen) == len(names):
            break
        separation = oxygens[chosen] - oxygens[water]
        separation -= np.round(separation / edges) * edges
        alone = bool(np.all(np.linalg.norm(separation, axis=1) > _ION_DISTANCE))
        if distance[water] > _ION_DISTANCE and alone:
            chosen.append(int(water))
    if len(chosen) < len(names):
        raise InputError(
            f"Only {len(chosen)} of {len(names)} ions could be placed {_ION_DISTANCE:g} angstrom from the solutes and "
            "from each other. Ask for a larger box or less salt."
        )
    keep = np.ones(len(waters), dtype=bool)
    keep[chosen] = False
    return waters[chosen, 0], waters[keep]


def van_der_waals_radii(symbols: Sequence[str]) -> FloatArray:
    """Van der Waals radii in angstrom, shape (n,)."""
    table = Chem.GetPeriodicTable()
    return np.array([table.GetRvdw(symbol) for symbol in symbols], dtype=np.float64)


def solvate(
    solutes: Sequence[Solute],
    box: WaterBox,
    *,
    as_given: bool,
    gap: float,
    padding: float | None,
    water_count: int | None,
    box_edges: Sequence[float],
    cubic: bool,
    smallest_edge: float,
    salt_molar: float,
    seed: int,
) -> Placement:
    """Place solutes in the middle, then water, then ions in the place of some water (see the functions above)."""
    placed, kinds = place_solutes(solutes, as_given, gap, seed)
    positions = np.concatenate(placed)
    radii = van_der_waals_radii([symbol for kind in kinds for symbol in solutes[kind].symbols])
    solute_volume = sum(solutes[kind].volume for kind in kinds)
    edges, count = choose_box(positions, solute_volume, padding, water_count, box_edges, cubic)
    if edges.min() < smallest_edge:
        raise InputError(
            f"The box would have an edge of {edges.min():.2f} angstrom; at least {smallest_edge:g} angstrom are needed "
            "for the cutoff of the MM interactions. Ask for more padding, more water or a shorter cutoff."
        )
    charge = sum(solutes[kind].charge for kind in kinds)
    names = ion_names(charge, float(np.prod(edges)), salt_molar)
    if water_count is not None:
        count += len(names)
    shift = 0.5 * edges - 0.5 * (positions.min(axis=0) + positions.max(axis=0))
    waters = fill_water(positions + shift, radii, edges, count, box, seed)
    ions, waters = replace_by_ions(waters, names, positions + shift, edges, seed)
    return Placement(tuple(part + shift for part in placed), kinds, names, ions, waters, edges)


def pdb_text(placement: Placement, solutes: Sequence[Solute]) -> str:
    """The box as a PDB file for leap, which matches residues and atoms by name."""
    lines: list[str] = []
    residue = 0

    def add(name: str, atoms: Sequence[str], positions: FloatArray) -> None:
        nonlocal residue
        residue += 1
        for atom, (x, y, z) in zip(atoms, positions, strict=True):
            lines.append(
                f"ATOM  {len(lines) % 100000:5d} {atom:>4s} {name:<3s}  {residue % 10000:4d}    "
                f"{x:8.3f}{y:8.3f}{z:8.3f}"
            )
        lines.append("TER")

    for kind, positions in zip(placement.solute_kinds, placement.solute_positions, strict=True):
        add(solutes[kind].residue_name, solutes[kind].atom_names, positions)
    for name, position in zip(placement.ion_names, placement.ion_positions, strict=True):
        add(name, (name,), position[None])
    for molecule in placement.water_positions:
        add("WAT", ("O", "H1", "H2"), molecule)
    return "\n".join(lines) + "\nEND\n"
