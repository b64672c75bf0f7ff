"""What every engine of the QM region refuses, whichever program computes it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from torch import Tensor

from deltaqmmm.errors import FrameError, TopologyError
from deltaqmmm.results import FloatArray, IntArray
from deltaqmmm.units import ANGSTROM

CLOSEST = 0.1
"""Distance in bohr below which two atoms are refused: no Slater-Koster table reaches there."""


def check_electrons(n_electrons: int, n_orbitals: int, charge: int) -> None:
    """Refuse electrons that cannot all be paired, or are too many or too few for the orbitals.

    Raises:
        TopologyError: The number of electrons is odd, negative, or more than the basis holds.
    """
    if n_electrons % 2:
        raise TopologyError(
            f"the QM region has {n_electrons} valence electrons at charge {charge:+d}: an odd number, "
            "and only closed shells are supported. Check [qm] charge and that the QM selection holds whole "
            "molecules."
        )
    if not 0 <= n_electrons <= 2 * n_orbitals:
        raise TopologyError(
            f"{n_electrons} valence electrons do not fit the {n_orbitals} orbitals of the QM "
            f"region: check [qm] charge (it is {charge})."
        )


def pair_distances(symbols: Sequence[str], pairs: IntArray, positions: Tensor, potentials: Tensor) -> FloatArray:
    """Check B frames of n atoms; distances of their pairs, shape (B, P), bohr.

    Args:
        symbols: Elements of the n atoms.
        pairs: Atoms of each pair, shape (P, 2).
        positions: Shape (B, n, 3), bohr.
        potentials: Shape (B, n), hartree/e.

    Raises:
        FrameError: The shapes do not fit, a number is not finite, or two atoms coincide.
    """
    if positions.shape[1:] != (len(symbols), 3) or potentials.shape != positions.shape[:2]:
        raise FrameError(
            f"positions {tuple(positions.shape)} and potentials {tuple(potentials.shape)} do not fit "
            f"{len(symbols)} QM atoms."
        )
    where = positions.cpu().numpy()
    if not (np.isfinite(where).all() and np.isfinite(potentials.cpu().numpy()).all()):
        raise FrameError("positions or external potential of the QM region are not finite.")
    vectors = where[:, pairs[:, 1]] - where[:, pairs[:, 0]]
    distances: FloatArray = np.sqrt(np.einsum("bpi,bpi->bp", vectors, vectors))
    if distances.shape[1] == 0 or distances.min() >= CLOSEST:
        return distances
    frame, pair = divmod(int(distances.argmin()), distances.shape[1])
    i, j = (int(atom) for atom in pairs[pair])
    raise FrameError(
        f"QM atoms {i} ({symbols[i]}) and {j} ({symbols[j]}) of frame {frame} of the batch are only "
        f"{distances.min() / ANGSTROM:.4f} angstrom apart."
    )
