"""What the compiled loops know of a molecule: all of it is made once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from torch import Tensor

from deltaqmmm.dftb.gamma import GammaFunction
from deltaqmmm.dftb.hamiltonian import MatrixBuilder, PairClass
from deltaqmmm.dftb.radial import RepulsiveTables
from deltaqmmm.dftb.rotation import channels
from deltaqmmm.results import FloatArray, IntArray


class PairTable(NamedTuple):
    """The P atom pairs, their integrals and repulsive potentials.

    Attributes:
        atoms: First and second atom, shape (P, 2).
        shells: Their highest shells, shape (P, 2).
        n_channels: Integrals of each kind (Hamiltonian, then overlap), shape (P,).
        coefficients: Polynomials of degree 7 of all intervals of all tables, one after the other.
        starts: Where the polynomials of the first interval of each pair stand in them, shape (P,).
        n_inner: Grid intervals of each pair, shape (P,).
        inverse_spacing: One over the grid step of each pair, shape (P,), 1/bohr.
        cutoffs: Distance beyond which all integrals are zero, shape (P,), bohr.
        left: Left end of the intervals, one table after the other, bohr.
        inverse_width: One over their width, 1/bohr.
        offsets: Where the first interval of each pair stands in these two, shape (P,).
        heads: a1, a2, a3 of the repulsion exp(-a1 r + a2) + a3 below the first knot, shape (P, 3).
        knots: Left ends of its intervals, shape (P, K), bohr.
        origins: Points about which its polynomials are expanded, shape (P, K), bohr.
        repulsion: Their coefficients, shape (P, K, D).
    """

    atoms: IntArray
    shells: IntArray
    n_channels: IntArray
    coefficients: FloatArray
    starts: IntArray
    n_inner: IntArray
    inverse_spacing: FloatArray
    cutoffs: FloatArray
    left: FloatArray
    inverse_width: FloatArray
    offsets: IntArray
    heads: FloatArray
    knots: FloatArray
    origins: FloatArray
    repulsion: FloatArray


class GammaTable(NamedTuple):
    """gamma and its Hubbard derivatives; see `gamma.GammaFunction`.

    Attributes:
        coefficients: Shape (2, P, 3, n_powers).
        exponents: Shape (2, P), 1/bohr.
        damping: Shape (P,), 1/bohr^2.
        damping_slope: Shape (P,).
        hubbard: Hubbard value of each atom, shape (n,), hartree.
        derivatives: Its derivative by the charge, shape (n,); zero without third order.
    """

    coefficients: FloatArray
    exponents: FloatArray
    damping: FloatArray
    damping_slope: FloatArray
    hubbard: FloatArray
    derivatives: FloatArray


class BasisTable(NamedTuple):
    """Orbitals and electrons.

    Attributes:
        first: First orbital of each atom, and their number, shape (n + 1,).
        onsite: Diagonal of the Hamiltonian, shape (o,), hartree.
        reference: Electrons of the neutral atoms, shape (n,).
        n_occupied: Orbitals with two electrons.
    """

    first: IntArray
    onsite: FloatArray
    reference: FloatArray
    n_occupied: int


def pair_table(builder: MatrixBuilder, repulsion: RepulsiveTables) -> PairTable:
    """Join the integrals of all classes of pairs."""
    classes = builder.classes
    tables = [group.tables for group in classes]
    widths = [2 * len(channels(group.first, group.second)) for group in classes]
    sizes = [len(table.left) for table in tables]
    intervals = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
    numbers = np.concatenate([[0], np.cumsum([table.coefficients.numel() for table in tables])]).astype(np.int64)
    starts = [numbers[k] + 8 * widths[k] * _array(table.offset) for k, table in enumerate(tables)]
    offsets = [intervals[k] + _array(table.offset) for k, table in enumerate(tables)]
    return PairTable(
        atoms=builder.pairs,
        shells=np.array([[g.first, g.second] for g in classes for _ in range(_count(g))], np.int64).reshape(-1, 2),
        n_channels=np.array([w // 2 for w, g in zip(widths, classes, strict=True) for _ in range(_count(g))], np.int64),
        coefficients=_joined([_array(table.coefficients).ravel() for table in tables]),
        starts=_integers(starts),
        n_inner=_integers([_array(table.n_inner) for table in tables]),
        inverse_spacing=_joined([_array(table.inverse_spacing) for table in tables]),
        cutoffs=_joined([_array(table.cutoff) for table in tables]),
        left=_joined([_array(table.left) for table in tables]),
        inverse_width=_joined([_array(table.inverse_width) for table in tables]),
        offsets=_integers(offsets),
        heads=_array(repulsion.head),
        knots=_array(repulsion.knots),
        origins=_array(repulsion.origins),
        repulsion=_array(repulsion.coefficients),
    )


def gamma_table(function: GammaFunction, hubbard: Tensor, derivatives: Tensor) -> GammaTable:
    """The same numbers as arrays."""
    tensors = function.coefficients, function.exponents, function.damping, function.damping_slope, hubbard, derivatives
    return GammaTable(*[_array(tensor) for tensor in tensors])


def basis_table(builder: MatrixBuilder, n_atoms: int, reference: Tensor, n_electrons: int) -> BasisTable:
    """Where the orbitals are, and the electrons."""
    counts = np.bincount(_array(builder.atom_of_orbital), minlength=n_atoms)
    first = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
    return BasisTable(first, _array(builder.onsite), _array(reference), n_electrons // 2)


def _count(group: PairClass) -> int:
    return group.stop - group.start


def _array(tensor: Tensor) -> FloatArray:
    found: FloatArray = np.ascontiguousarray(tensor.detach().cpu().numpy())
    return found


def _joined(arrays: Sequence[FloatArray]) -> FloatArray:
    return np.ascontiguousarray(np.concatenate(arrays)) if arrays else np.zeros(0)


def _integers(arrays: Sequence[FloatArray]) -> IntArray:
    return np.concatenate(arrays).astype(np.int64) if arrays else np.zeros(0, dtype=np.int64)
