"""Filling a periodic box with water at the density of the liquid. Lengths in angstrom.

The water comes from the equilibrated box of its model, repeated, cut a little larger than needed, freed of clashes with
its own periodic images and with the solute, and drawn together to the density wanted: no voids at the faces, and the
exact count.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy.spatial import cKDTree

from deltaqmmm.build.water import WaterBox
from deltaqmmm.errors import InputError
from deltaqmmm.results import FloatArray, IntArray

BoolArray = npt.NDArray[np.bool_]

_CONTACT = 0.8
"""A water atom nearer to a solute atom than this fraction of the sum of their van der Waals radii clashes."""
_RADIUS = {"O": 1.52, "H": 1.20}


def fill_water(
    solute: FloatArray, radii: FloatArray, edges: FloatArray, count: int, box: WaterBox, seed: int
) -> FloatArray:
    """Fill a periodic box around a solute with exactly `count` water molecules.

    Args:
        solute: Solute positions inside the box, shape (n, 3).
        radii: Their van der Waals radii, shape (n,).
        edges: Box edges, shape (3,).
        count: Number of molecules.
        box: Equilibrated water.
        seed: Chooses where in the equilibrated water the cut begins.

    Returns:
        Positions, shape (count, 3, 3), ordered O, H, H; oxygens inside the box.

    Raises:
        InputError: So many do not fit.
    """
    offset = np.random.default_rng(seed).uniform(0.0, box.edges)
    for stretch in np.arange(1.0, 1.15, 0.004):
        waters = _cut(box, edges * stretch, offset)
        # The molecules move closer together; each keeps its own shape.
        oxygens = waters[:, 0]
        waters = waters + (oxygens / stretch - oxygens)[:, None, :]
        waters = waters[~_touches_solute(waters, solute, radii, edges)]
        waters = waters[~_clashing(waters, edges)]
        if len(waters) >= count:
            return waters[_roomiest(waters[:, 0], edges, count)]
    raise InputError(
        f"{count} water molecules do not fit into a box of {' x '.join(f'{edge:.1f}' for edge in edges)} angstrom "
        "beside the solutes. Ask for a larger box or fewer waters."
    )


def _cut(box: WaterBox, edges: FloatArray, offset: FloatArray) -> FloatArray:
    """Repeat the equilibrated box and keep the molecules whose oxygen lies in [0, edge)."""
    repeats = [np.arange(-1, int(np.ceil(edge / period)) + 1) for edge, period in zip(edges, box.edges, strict=True)]
    shifts = np.stack(np.meshgrid(*repeats, indexing="ij"), axis=-1).reshape(-1, 3) * box.edges + offset
    oxygens = box.positions[:, 0]
    start = box.positions - (np.floor(oxygens / box.edges) * box.edges)[:, None, :]
    tiled = (start[None] + shifts[:, None, None, :]).reshape(-1, 3, 3)
    inside = np.all((tiled[:, 0] >= 0.0) & (tiled[:, 0] < edges), axis=1)
    return np.asarray(tiled[inside], dtype=np.float64)


def wrap(positions: FloatArray, edges: FloatArray) -> FloatArray:
    """Wrap into [0, edge), strictly below the edge also after rounding, as the search tree demands."""
    return np.minimum(np.mod(positions, edges), np.nextafter(edges, 0.0))


def _touches_solute(waters: FloatArray, solute: FloatArray, radii: FloatArray, edges: FloatArray) -> BoolArray:
    """Mask of the waters that overlap with the solute or one of its images."""
    touches = np.zeros(len(waters), dtype=bool)
    tree = cKDTree(wrap(solute, edges), boxsize=edges)
    reach = _CONTACT * (float(radii.max()) + _RADIUS["O"])
    for column, element in enumerate(("O", "H", "H")):
        found = tree.query_ball_point(wrap(waters[:, column], edges), reach)
        for water, near in enumerate(found):
            if near:
                separation = waters[water, column] - solute[near]
                separation -= np.round(separation / edges) * edges
                limit = _CONTACT * (radii[near] + _RADIUS[element])
                touches[water] |= bool(np.any(np.linalg.norm(separation, axis=1) < limit))
    return touches


def _clashing(waters: FloatArray, edges: FloatArray) -> BoolArray:
    """Mask of waters to take out so that no two are too near: O-O 2.3, O-H 1.45, H-H 1.35 angstrom."""
    oxygen = np.tile([True, False, False], len(waters))
    tree = cKDTree(wrap(waters.reshape(-1, 3), edges), boxsize=edges)
    pairs = tree.query_pairs(2.3, output_type="ndarray")
    owners = pairs // 3
    pairs, owners = pairs[owners[:, 0] != owners[:, 1]], owners[owners[:, 0] != owners[:, 1]]
    separation = tree.data[pairs[:, 0]] - tree.data[pairs[:, 1]]
    separation -= np.round(separation / edges) * edges
    limits = np.array([1.35, 1.45, 2.3])[oxygen[pairs].sum(axis=1)]
    bad = owners[np.linalg.norm(separation, axis=1) < limits]
    removed = np.zeros(len(waters), dtype=bool)
    for first, second in bad[np.lexsort((bad[:, 1], bad[:, 0]))]:
        if not removed[first] and not removed[second]:
            removed[second] = True
    return removed


def _roomiest(oxygens: FloatArray, edges: FloatArray, count: int) -> IntArray:
    """Indices, ascending, of the `count` waters whose nearest neighbour is farthest."""
    if len(oxygens) == count:
        return np.arange(count)
    wrapped = wrap(oxygens, edges)
    nearest = cKDTree(wrapped, boxsize=edges).query(wrapped, k=2)[0][:, 1]
    return np.sort(np.argsort(-nearest, kind="stable")[:count])
