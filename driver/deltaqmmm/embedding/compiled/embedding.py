"""One step of automatic differentiation around the compiled loops."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from deltaqmmm.embedding.compiled.images import Images
from deltaqmmm.embedding.compiled.pull_back import Gradients, pull_back
from deltaqmmm.embedding.compiled.search_loops import find_images
from deltaqmmm.embedding.compiled.site_loops import Sites, fill_sites
from deltaqmmm.embedding.compiled.tables import (
    CutoffTable,
    GroupTable,
    RegionTable,
    cutoff_table,
    group_table,
    lattices_of,
    open_lattices,
    region_table,
)
from deltaqmmm.embedding.frames import CutoffSettings, EmbeddedFrames
from deltaqmmm.results import FloatArray
from deltaqmmm.system import System


class CompiledEmbedding:
    """The cutoff embedding of one system in float64 on the CPU.

    Args:
        system: The static topology and the QM/MM split.
        settings: Cutoffs, sharpness and blur.
    """

    def __init__(self, system: System, settings: CutoffSettings) -> None:
        self._region, self._groups, self._cutoffs = region_table(system), group_table(system), cutoff_table(settings)
        # Room for the candidates of a frame: all groups once, and a few that show up twice.
        self._capacity = system.n_groups + system.n_groups // 8 + 8

    def embed(self, positions: Tensor, cells: Tensor | None, by_cells: bool) -> tuple[EmbeddedFrames, bool]:
        """Embed a batch of frames.

        Args:
            positions: All atoms, shape (B, N, 3), bohr.
            cells: Lattice vectors as rows, shape (B, 3, 3), bohr; None in a system that is not periodic.
            by_cells: Whether `way_back` is to give derivatives by cells.

        Returns:
            The frames, differentiable once in positions and cells; and whether every charge is apart from the QM atoms.
            Otherwise the potentials mean nothing.

        Raises:
            FrameError: Positions or a cell are not finite, or the cell is singular.
        """
        given = _array(positions)
        lattices = open_lattices(len(given)) if cells is None else lattices_of(_array(cells))
        qm_positions, qm_shifts, images = find_images(
            self._region, self._groups, self._cutoffs, lattices, given, self._capacity
        )
        self._capacity = max(self._capacity, images.groups.shape[1])
        by_cells = cells is not None and (by_cells or (torch.is_grad_enabled() and cells.requires_grad))
        sites, apart = fill_sites(
            self._groups, lattices, self._cutoffs.blur_width, given, qm_positions, images, by_cells
        )
        made = _Made(
            self._region, self._groups, self._cutoffs, images, qm_positions, qm_shifts, sites, given.shape[1], by_cells
        )
        if torch.is_grad_enabled() and (positions.requires_grad or (cells is not None and cells.requires_grad)):
            outputs = _Embed.apply(positions, cells, made)  # type: ignore[no-untyped-call]
        else:
            outputs = made.tensors()
        numbers = torch.from_numpy(sites.numbers)
        return EmbeddedFrames(outputs[0], outputs[1], outputs[2], numbers, outputs[3], made.pull_back), apart


@dataclass(frozen=True, eq=False)
class _Made:
    """What the loops have made of a batch, and what they need for the way back."""

    region: RegionTable
    groups: GroupTable
    cutoffs: CutoffTable
    images: Images
    qm_positions: FloatArray
    qm_shifts: FloatArray
    sites: Sites
    n_atoms: int
    by_cells: bool

    def tensors(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """QM positions (B, n, 3), MM positions (B, K, 3), charges (B, K) and potentials (B, n)."""
        sites = self.sites
        arrays = self.qm_positions, sites.positions, sites.charges, sites.potentials
        first, second, third, fourth = (torch.from_numpy(array) for array in arrays)
        return first, second, third, fourth

    def pull_back(
        self, by_qm: Tensor | None, by_site: Tensor | None, by_charge: Tensor | None, by_potential: Tensor | None
    ) -> tuple[Tensor, Tensor | None]:
        """See `WayBack`."""
        given = Gradients(
            np.zeros_like(self.qm_positions) if by_qm is None else _array(by_qm).copy(),
            _given(by_site, self.sites.positions),
            _given(by_charge, self.sites.charges),
            _given(by_potential, self.sites.potentials),
        )
        qm, blur_width = (self.qm_positions, self.qm_shifts), self.cutoffs.blur_width
        by_position, by_cell = pull_back(
            self.region, self.groups, blur_width, self.images, qm, self.sites, given, self.n_atoms, self.by_cells
        )
        return torch.from_numpy(by_position), torch.from_numpy(by_cell) if self.by_cells else None


class _Embed(torch.autograd.Function):
    """Hands out what has been made, and takes derivatives by it back."""

    @staticmethod
    def forward(
        ctx: Any,  # noqa: ANN401 - torch types its context so
        positions: Tensor,
        cells: Tensor | None,
        made: _Made,
    ) -> tuple[Tensor, ...]:
        """Return QM positions (B, n, 3), MM positions (B, K, 3), charges (B, K) and potentials (B, n)."""
        outputs = made.tensors()
        ctx.save_for_backward(*outputs[:3])
        ctx.set_materialize_grads(False)
        ctx.made = made
        return outputs

    @staticmethod
    @once_differentiable
    def backward(
        ctx: Any,  # noqa: ANN401
        by_qm: Tensor | None,
        by_site: Tensor | None,
        by_charge: Tensor | None,
        by_potential: Tensor | None,
    ) -> tuple[Tensor, Tensor | None, None]:
        """Return the gradients with respect to positions and cells."""
        # Looked at only to refuse what has been changed since: the arrays of what was made share their memory.
        _ = ctx.saved_tensors
        return *ctx.made.pull_back(by_qm, by_site, by_charge, by_potential), None


def _given(gradient: Tensor | None, like: FloatArray) -> FloatArray:
    """A gradient as an array, without a second axis where there is none."""
    return np.empty((len(like), 0, *like.shape[2:])) if gradient is None else _array(gradient)


def _array(tensor: Tensor) -> FloatArray:
    """A tensor on the CPU as a contiguous array, without a copy of what is one."""
    found: FloatArray = tensor.detach().contiguous().numpy()
    return found
