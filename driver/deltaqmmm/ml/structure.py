"""The QM atoms around each QM atom."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from deltaqmmm.ml.functions import SymmetryFunctions
from deltaqmmm.ml.shells import Shell


@dataclass(frozen=True, eq=False)
class Neighbours:
    """Radial functions and directions between the n QM atoms of B frames, kept for the derivatives.

    Attributes:
        radial: Sums of radial functions, by elements.
        angular: Sums of radial functions times monomials of directions, by elements.
    """

    radial: Shell
    angular: Shell

    def moments(self) -> tuple[Tensor, Tensor]:
        """Of the radial and of the angular functions, shapes (B, n, F, 1, E) and (B, n, F', R, E)."""
        return self.radial.moments(), self.angular.moments()

    def pull_back(self, radial: Tensor, angular: Tensor) -> Tensor:
        """From derivatives by the moments of C energies to those by the positions, shape (C, B, n, 3)."""
        by_vector = self.radial.by_pair(radial)[0] + self.angular.by_pair(angular)[0]
        # A vector begins at the first atom of a pair and ends at the second.
        by_position = by_vector.sum(dim=1) - by_vector.sum(dim=-1).permute(0, 2, 3, 1)
        return by_position.permute(1, 0, 3, 2)

    def jacobian(self) -> Tensor:
        """Derivatives of all moments of an atom, radial ones first, by all positions, shape (B, n, Q, n, 3)."""
        found = []
        for shell in (self.radial, self.angular):
            n_frames, n_atoms, *shape = shell.moments().shape
            count = shape[0] * shape[1] * shape[2]
            # The moments of one atom do not depend on the vectors from another: one energy for all atoms at once.
            each = torch.eye(count, dtype=shell.values.dtype, device=shell.values.device)
            each = each.reshape(count, 1, 1, *shape).expand(count, n_frames, n_atoms, *shape)
            by_vector = shell.by_pair(each)[0].permute(0, 1, 2, 4, 3)
            own = torch.eye(n_atoms, dtype=by_vector.dtype, device=by_vector.device)[:, None, :, None]
            found.append(by_vector - own * by_vector.sum(dim=3, keepdim=True))
        return torch.cat(found, dim=2)


class Structure:
    """The symmetry functions among the n atoms of one QM region; their number does not depend on the molecule.

    Args:
        functions: Which ones.
        elements: The E elements of the model, sorted.
        symbols: Elements of the atoms.
        device: Where it computes.
        dtype: Floating type.
    """

    def __init__(
        self,
        functions: SymmetryFunctions,
        elements: Sequence[str],
        symbols: Sequence[str],
        device: torch.device,
        dtype: torch.dtype,
    ) -> None:
        self._functions = functions
        species = torch.tensor([elements.index(symbol) for symbol in symbols], device=device)
        self._types = torch.nn.functional.one_hot(species, len(elements)).to(dtype).T[None]
        self._weights = torch.ones(1, len(symbols), dtype=dtype, device=device)
        # An atom is no neighbour of its own: it is put out of reach.
        reach = 2.0 * max(functions.qm_cutoff, functions.angular_cutoff)
        self._own = reach**2 * torch.eye(len(symbols), dtype=dtype, device=device)

    def __call__(self, positions: Tensor) -> Neighbours:
        """Compute the functions of B frames.

        Args:
            positions: Shape (B, n, 3), bohr.
        """
        functions = self._functions
        vectors = positions.transpose(1, 2)[:, None] - positions[..., None]
        squared = (vectors * vectors).sum(dim=2) + self._own
        n_frames = len(positions)
        weights, types = self._weights.expand(n_frames, -1), self._types.expand(n_frames, -1, -1)
        given = (vectors, squared, weights, types)
        return Neighbours(
            Shell.between(functions.qm_radial, functions.qm_cutoff, 0, *given),
            Shell.between(
                functions.angular_radial,
                functions.angular_cutoff,
                functions.angular_order,
                *given,
                directions=True,
            ),
        )
