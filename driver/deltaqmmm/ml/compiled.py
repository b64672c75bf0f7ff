"""The MM sites around the QM atoms by compiled loops: `surroundings.Surroundings` on the CPU, several times faster."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from deltaqmmm.ml.functions import SymmetryFunctions
from deltaqmmm.ml.kernels import ShellTable, tensor_pull_back, tensor_sums


def shell_tables(functions: SymmetryFunctions) -> tuple[ShellTable, ShellTable]:
    """What the loops need to know of the outer and of the inner shell."""
    return (
        ShellTable.of(functions.mm_radial, functions.mm_cutoff, functions.mm_rank),
        ShellTable.of(functions.mm_near_radial, functions.mm_near_cutoff, functions.mm_near_rank),
    )


@dataclass(frozen=True, eq=False)
class CompiledSurroundings:
    """Sums over both shells of B frames, and what takes derivatives back; float64 on the CPU.

    Attributes:
        tables: Of the outer and of the inner shell.
        sums: Moments and their jacobian, of each shell.
        qm_positions: Shape (B, n, 3), bohr.
        mm_positions: Shape (B, K, 3), bohr.
        weights: Shape (B, K).
        types: Type of each site, shape (B, K), int64.
    """

    tables: tuple[ShellTable, ShellTable]
    sums: Sequence[tuple[Tensor, Tensor]]
    qm_positions: Tensor
    mm_positions: Tensor
    weights: Tensor
    types: Tensor

    @classmethod
    def between(
        cls,
        tables: tuple[ShellTable, ShellTable],
        qm_positions: Tensor,
        mm_positions: Tensor,
        weights: Tensor,
        types: Tensor,
        n_types: int,
    ) -> CompiledSurroundings:
        """Compute the sums.

        Args:
            tables: Of `shell_tables`.
            qm_positions: Shape (B, n, 3), bohr.
            mm_positions: Shape (B, K, 3), bohr.
            weights: Shape (B, K).
            types: Shape (B, K), int64.
            n_types: Number of types T.
        """
        given = (qm_positions, mm_positions, weights, types)
        return cls(tables, [tensor_sums(table, *given, n_types) for table in tables], *given)

    def moments(self) -> tuple[Tensor, Tensor]:
        """See `Surroundings.moments`."""
        return self.sums[0][0], self.sums[1][0]

    def jacobians(self) -> tuple[Tensor, Tensor]:
        """See `Surroundings.jacobians`."""
        return self.sums[0][1], self.sums[1][1]

    def pull_back(self, outer: Tensor, inner: Tensor) -> tuple[Tensor, Tensor]:
        """See `Surroundings.pull_back`."""
        return self._pull_back(outer, inner, self.mm_positions, self.weights, self.types)

    def pull_back_near(self, outer: Tensor, inner: Tensor, distance: float) -> Tensor:
        """See `Surroundings.pull_back_near`."""
        distance = min(distance, self.tables[1].radial.cutoff)
        # Padding lies too far away to be among them.
        nearest = torch.cdist(self.qm_positions, self.mm_positions).amin(dim=1)
        width = int((nearest < distance).sum(dim=1).amax()) if nearest.numel() > 0 else 0
        nearest, places = nearest.topk(width, dim=1, largest=False, sorted=False)
        positions = self.mm_positions.gather(1, places[..., None].expand(-1, -1, 3))
        weights = self.weights.gather(1, places) * (nearest < distance)
        return self._pull_back(outer, inner, positions, weights, self.types.gather(1, places))[0]

    def _pull_back(
        self, outer: Tensor, inner: Tensor, positions: Tensor, weights: Tensor, types: Tensor
    ) -> tuple[Tensor, Tensor]:
        given = (self.qm_positions, positions, weights, types)
        by_shell = [
            tensor_pull_back(table, *given, gradients)
            for table, gradients in zip(self.tables, (outer, inner), strict=True)
        ]
        return by_shell[0][0] + by_shell[1][0], by_shell[0][1] + by_shell[1][1]
