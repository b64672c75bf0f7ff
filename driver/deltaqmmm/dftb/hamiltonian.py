"""Zeroth-order Hamiltonian and overlap of a batch of frames of one molecule."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from deltaqmmm.dftb.radial import UniformTables, uniform_tables
from deltaqmmm.dftb.rotation import Channel, blocks, channels
from deltaqmmm.dftb.slater_koster import SlaterKosterFile
from deltaqmmm.results import FloatArray, IntArray


@dataclass(frozen=True)
class PairClass:
    """Atom pairs whose blocks have one shape: the first atoms have shells up to `first`, the second up to `second`.

    Attributes:
        first: Highest shell of the first atoms.
        second: Highest shell of the second atoms.
        start: First pair of the class in the list of all pairs.
        stop: One behind its last pair.
        tables: The integrals, Hamiltonian channels and then overlap channels.
    """

    first: int
    second: int
    start: int
    stop: int
    tables: UniformTables


def integral_table(
    forward: SlaterKosterFile, backward: SlaterKosterFile, names: Sequence[Channel]
) -> tuple[FloatArray, float]:
    """Columns of one species pair in the order of `names`: Hamiltonian, then overlap; and the grid step in bohr.

    The file A-B holds <l1 on A|..|l2 on B> for l1 <= l2. The others are in B-A, with the parity of the bond inversion.
    """
    # Files of a pair may end at different distances; the shorter decides only its own columns, as zeros follow it.
    length = max(len(forward.overlap[0, 0, 0]), len(backward.overlap[0, 0, 0]))
    columns = []
    for kind in ("hamiltonian", "overlap"):
        for first, second, m in names:
            source = forward if first <= second else backward
            column = getattr(source, kind)[min(first, second), max(first, second), m]
            sign = 1.0 if first <= second else (-1.0) ** (first + second)
            columns.append(np.pad(sign * column, (0, length - len(column))))
    return np.stack(columns, axis=1), forward.spacing


class MatrixBuilder:
    """Builds H0 and S of all frames at once, and takes gradients back to the pair blocks.

    Attributes:
        pairs: Atom pairs (first, second) in the order used throughout, shape (P, 2).
        classes: The pairs by the shape of their blocks, with their tables.
        n_orbitals: Size of the basis.
        onsite: Energies of the orbitals of the free atoms, the diagonal of H0, shape (n_orbitals,), hartree.
        atom_of_orbital: Shape (n_orbitals,).
        orbitals_of_atom: Shape (n, m), with n_orbitals in the places that atoms of fewer than m orbitals leave empty.
    """

    def __init__(
        self,
        symbols: Sequence[str],
        highest: Sequence[int],
        onsite: Sequence[FloatArray],
        files: dict[tuple[str, str], SlaterKosterFile],
        device: torch.device,
    ) -> None:
        """Lay out the orbitals and pairs of a molecule.

        Args:
            symbols: Elements of the n atoms.
            highest: Highest shell of each atom.
            onsite: Shell energies of each atom, hartree.
            files: Slater-Koster files by ordered pair of elements.
            device: Where the matrices live.
        """
        sizes = [(shell + 1) ** 2 for shell in highest]
        first_orbital = np.concatenate([[0], np.cumsum(sizes)])
        self.n_orbitals = int(first_orbital[-1])
        self.atom_of_orbital = torch.as_tensor(np.repeat(np.arange(len(symbols)), sizes), device=device)
        numbers = first_orbital[:-1, None] + np.arange(max(sizes))
        numbers[np.arange(max(sizes)) >= np.array(sizes)[:, None]] = self.n_orbitals
        self.orbitals_of_atom = torch.as_tensor(numbers, device=device)
        self.pairs, self.classes = self._classify(symbols, highest, files, device)
        diagonal = np.concatenate(
            [
                [energies[shell] for shell in range(top + 1) for _ in range(2 * shell + 1)]
                for energies, top in zip(onsite, highest, strict=True)
            ]
        )
        self.onsite = torch.as_tensor(diagonal, device=device)
        self._constants = torch.as_tensor(np.concatenate([diagonal, np.ones(1), np.zeros(1)]), device=device)
        source, target = self._positions(first_orbital, highest)
        self._source = torch.as_tensor(source, device=device)
        self._target = torch.as_tensor(target, device=device)

    def _classify(
        self,
        symbols: Sequence[str],
        highest: Sequence[int],
        files: dict[tuple[str, str], SlaterKosterFile],
        device: torch.device,
    ) -> tuple[IntArray, list[PairClass]]:
        """Order the pairs by class, the atom with fewer shells first, and collect the tables of each class."""
        rank = {i: (highest[i], symbols[i], i) for i in range(len(symbols))}
        pairs = [sorted((i, j), key=rank.__getitem__) for i in range(len(symbols)) for j in range(i)]
        pairs.sort(key=lambda pair: (highest[pair[0]], highest[pair[1]], pair))
        classes = []
        start = 0
        while start < len(pairs):
            shells = highest[pairs[start][0]], highest[pairs[start][1]]
            stop = start
            while stop < len(pairs) and (highest[pairs[stop][0]], highest[pairs[stop][1]]) == shells:
                stop += 1
            species = [(symbols[i], symbols[j]) for i, j in pairs[start:stop]]
            unique = sorted(set(species))
            names = channels(*shells)
            tables = [integral_table(files[a, b], files[b, a], names) for a, b in unique]
            joined = uniform_tables(tables, [unique.index(s) for s in species], device)
            classes.append(PairClass(*shells, start, stop, joined))
            start = stop
        return np.array(pairs, dtype=np.int64).reshape(-1, 2), classes

    def _positions(self, first_orbital: IntArray, highest: Sequence[int]) -> tuple[IntArray, IntArray]:
        """Where each matrix element comes from, and where each block element goes.

        Returns:
            Index into [block elements, on-site energies, 1, 0] of every element of (H0, S), shape (2 o o,); and for
            every block element the index into (H0, S) of its place above or below the diagonal, shape (L,).
        """
        o = self.n_orbitals
        target = []
        for group in self.classes:
            rows = (group.first + 1) ** 2
            columns = (group.second + 1) ** 2
            start = first_orbital[self.pairs[group.start : group.stop]]
            row = start[:, 0, None, None, None] + np.arange(rows)[:, None]
            column = start[:, 1, None, None, None] + np.arange(columns)
            kind = np.arange(2)[:, None, None]
            target.append(((kind * o + row) * o + column).ravel())
        place = np.concatenate(target) if target else np.zeros(0, dtype=np.int64)
        size = len(place)
        source = np.full(2 * o * o, size + o + 1, dtype=np.int64)
        source[place] = np.arange(size)
        kind, row, column = place // (o * o), (place // o) % o, place % o
        source[(kind * o + column) * o + row] = np.arange(size)
        diagonal = np.arange(o) * (o + 1)
        source[diagonal] = size + np.arange(o)
        source[o * o + diagonal] = size + o
        return source, place

    def elements(self, directions: Tensor, distances: Tensor) -> Tensor:
        """All independent off-diagonal elements of H0 and S as a list, differentiable.

        Args:
            directions: Unit vectors from the first to the second atom of each pair, shape (B, P, 3).
            distances: Shape (B, P), bohr.

        Returns:
            Shape (B, L).
        """
        values = []
        for group in self.classes:
            part = slice(group.start, group.stop)
            integrals = torch.unflatten(group.tables(distances[:, part]), -1, (2, -1))
            values.append(blocks(directions[:, part], integrals, group.first, group.second).flatten(1))
        return torch.cat(values, dim=1) if values else distances

    def matrices(self, elements: Tensor) -> tuple[Tensor, Tensor]:
        """H0 and S, each (B, o, o), from the list that `elements` gives."""
        constants = self._constants.expand(len(elements), -1)
        full = torch.cat([elements, constants], dim=1).index_select(1, self._source)
        hamiltonian, overlap = full.view(len(elements), 2, self.n_orbitals, self.n_orbitals).unbind(1)
        return hamiltonian, overlap

    def element_weights(self, by_hamiltonian: Tensor, by_overlap: Tensor) -> Tensor:
        """dE/d(elements), shape (B, L), from symmetric dE/dH0 and dE/dS, each (B, o, o)."""
        weights = torch.stack([by_hamiltonian, by_overlap], dim=1).flatten(1)
        # Each element stands twice in its symmetric matrix.
        return 2.0 * weights.index_select(1, self._target)
