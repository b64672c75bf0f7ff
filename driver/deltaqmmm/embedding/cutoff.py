"""The cutoff embedding: whole MM groups with a smooth weight.

Every neutral MM group g (a water molecule, a residue, an ion) has one weight w_g = S(d_g); d_g is a smooth minimum of
the distances from its reference atom to the QM atoms, S a quintic switch. Its sites are point charges w_g q_j, and

    phi_a = sum_j w_g(j) q_j / |R_a - r_j|        (or with erf(r / width) / r for charges with a Gaussian blur).

The sum runs over every periodic image of a group that lies within the cutoff; the periodic images of the QM region
itself are left out, and so is everything beyond the cutoff. The chain rule through w_g acts on QM and MM atoms alike:
all outputs are differentiable in positions and cells.

In double precision on the CPU compiled loops do all of it; see `compiled`. Elsewhere lattice shifts are found by numpy,
and the rest is done by whole arrays.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from deltaqmmm.embedding.frames import CLOSEST_APPROACH, FAR, FAR_STEP, CutoffSettings, EmbeddedFrames
from deltaqmmm.embedding.pairs import charge_potentials, pair_distances
from deltaqmmm.embedding.selection import Selection, Selector
from deltaqmmm.embedding.switching import quintic_switch, smooth_minimum
from deltaqmmm.errors import ConfigError, FrameError
from deltaqmmm.periodic import check_cell, check_positions
from deltaqmmm.results import FloatArray, IntArray
from deltaqmmm.system import System


class CutoffEmbedding:
    """Turns positions into what the QM side sees, with a smooth cutoff (see the module's docstring).

    Args:
        system: The static topology and the QM/MM split.
        settings: Cutoffs, sharpness and blur.
        device: Where tensors live and are computed.
        dtype: Floating type of the computation.

    Attributes:
        compiled: Whether the compiled loops are taken, which can do it in float64 on the CPU.

    Raises:
        ConfigError: A periodic system without a cutoff.
    """

    def __init__(
        self,
        system: System,
        settings: CutoffSettings,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float64,
    ) -> None:
        if system.periodic and settings.inner is None:
            raise ConfigError(
                "The system is periodic, but the embedding has no cutoff: it would sum over infinitely many images. "
                "Set the inner and outer cutoff of the embedding, or make the topology one without a box."
            )
        self.system = system
        self.settings = settings
        self.device = torch.device(device)
        self.dtype = dtype
        self.compiled = self.device.type == "cpu" and dtype == torch.float64
        if self.compiled:
            # numba takes half a second to import.
            from deltaqmmm.embedding.compiled import CompiledEmbedding

            self._loops = CompiledEmbedding(system, settings)
        self._selector = Selector(system, settings)
        self._charges = np.append(system.site_charges, 0.0)
        self._qm_atoms = torch.tensor(system.qm_atoms, device=self.device)

    def __call__(self, positions: Tensor, cells: Tensor | None, *, by_cells: bool = False) -> EmbeddedFrames:
        """Embed a batch of frames.

        Args:
            positions: All atoms, in or out of the cell, shape (B, N, 3), bohr.
            cells: Lattice vectors as rows, shape (B, 3, 3), bohr. Ignored in a system that is not periodic.
            by_cells: Whether the `way_back` of the frames is to give derivatives by cells.

        Returns:
            The QM region, the effective charges and their potentials, differentiable once in positions and cells.

        Raises:
            FrameError: Positions or cells have the wrong shape, are not finite or singular; or a charge sits on a QM
                atom.
        """
        positions = positions.to(device=self.device, dtype=self.dtype)
        array = self._checked_positions(positions)
        cell_array: FloatArray | None = None
        if self.system.periodic:
            if cells is None:
                raise FrameError("The topology is periodic, but the frames have no cell. Give the cell of each frame.")
            cells = cells.to(device=self.device, dtype=self.dtype)
            cell_array = self._checked_cells(cells, len(array))
        else:
            cells = None
        if not self.compiled:
            leaves = []
            if torch.is_grad_enabled():
                positions = positions if positions.requires_grad else positions.detach().requires_grad_()
                leaves.append(positions)
                if cells is not None and by_cells:
                    cells = cells if cells.requires_grad else cells.detach().requires_grad_()
                    leaves.append(cells)
            return self._embed(positions, cells, self._selector.select(array, cell_array), leaves)
        frames, apart = self._loops.embed(positions, cells, by_cells)
        if not apart:
            raise self._collision(frames.qm_positions, frames.mm_positions, frames.mm_sites.numpy())
        return frames

    def _checked_positions(self, positions: Tensor) -> FloatArray:
        array: FloatArray = positions.detach().cpu().numpy()
        # The loops see by themselves whether positions are finite.
        if self.compiled and array.ndim == 3 and array.shape[1:] == (self.system.n_atoms, 3):
            return array
        return check_positions(array, self.system.n_atoms)

    def _checked_cells(self, cells: Tensor, n_frames: int) -> FloatArray:
        array: FloatArray = cells.detach().cpu().numpy()
        # The loops check those that they have not seen before.
        if not self.compiled or array.shape != (n_frames, 3, 3):
            array = check_cell(array)
        if array.shape != (n_frames, 3, 3):
            raise FrameError(f"The cells have shape {array.shape}; needed is ({n_frames}, 3, 3), one for each frame.")
        return array

    def _embed(
        self, positions: Tensor, cells: Tensor | None, selection: Selection, leaves: list[Tensor]
    ) -> EmbeddedFrames:
        """Compute everything that is differentiated."""
        qm_positions = positions.index_select(1, self._qm_atoms)
        if cells is not None:
            qm_positions = qm_positions + self._floats(selection.qm_shifts) @ cells
        mm_positions = self._site_positions(positions, cells, selection)
        mm_positions = self._move_padding_away(mm_positions, qm_positions, selection.sites)
        weights = self._weights(qm_positions, mm_positions, selection)
        mm_charges = self._floats(self._charges[selection.sites]) * weights
        potentials, smallest = charge_potentials(qm_positions, mm_positions, mm_charges, self.settings.blur_width)
        if float(smallest.min()) < CLOSEST_APPROACH:
            raise self._collision(qm_positions, mm_positions, selection.sites)
        outputs = qm_positions, mm_positions, mm_charges, potentials

        def way_back(
            by_qm: Tensor | None, by_site: Tensor | None, by_charge: Tensor | None, by_potential: Tensor | None
        ) -> tuple[Tensor, Tensor | None]:
            given = zip(outputs, (by_qm, by_site, by_charge, by_potential), strict=True)
            used = [(output, one.to(output)) for output, one in given if one is not None]
            found = torch.autograd.grad(
                [output for output, _ in used], leaves, [one for _, one in used], retain_graph=True
            )
            return found[0], found[1] if len(found) > 1 else None

        return EmbeddedFrames(
            qm_positions=qm_positions,
            mm_positions=mm_positions,
            mm_charges=mm_charges,
            mm_sites=torch.as_tensor(selection.sites, device=self.device),
            potentials=potentials,
            way_back=way_back,
        )

    def _site_positions(self, positions: Tensor, cells: Tensor | None, selection: Selection) -> Tensor:
        """Positions of the sites, shape (B, K, 3): atoms moved to their image, and virtual sites built on them."""
        n_frames, n_sites = selection.atoms.shape
        offsets = len(self.system.symbols) * np.arange(n_frames)
        flat = positions.reshape(-1, 3)
        places = torch.as_tensor((selection.atoms + offsets[:, None]).reshape(-1), device=self.device)
        gathered = flat.index_select(0, places).reshape(n_frames, n_sites, 3)
        if cells is not None:
            gathered = gathered + self._floats(selection.shifts) @ cells
        if selection.virtual.size == 0:
            return gathered
        frames = selection.virtual // n_sites
        parents = selection.virtual_parents + offsets[frames][:, None]
        vertices = flat.index_select(0, torch.as_tensor(parents.reshape(-1), device=self.device)).reshape(-1, 3, 3)
        if cells is not None:
            moves = self._floats(selection.virtual_shifts) @ cells[torch.as_tensor(frames, device=self.device)]
            vertices = vertices + moves
        weights = self._floats(self.system.site_weights[selection.virtual_numbers])
        cross = self._floats(self.system.site_cross[selection.virtual_numbers])
        first, second, third = vertices.unbind(dim=1)
        normal = torch.linalg.cross(second - first, third - first)
        built = (weights[..., None] * vertices).sum(dim=1) + cross[:, None] * normal
        virtual = torch.as_tensor(selection.virtual, device=self.device)
        return gathered.reshape(-1, 3).index_copy(0, virtual, built).reshape(n_frames, n_sites, 3)

    def _move_padding_away(self, mm_positions: Tensor, qm_positions: Tensor, sites: IntArray) -> Tensor:
        if sites.size == 0 or sites.min() >= 0:
            return mm_positions
        far = qm_positions.detach()[:, :1].repeat(1, sites.shape[1], 1)
        far[:, :, 0] += FAR + FAR_STEP * torch.arange(sites.shape[1], device=self.device, dtype=self.dtype)
        return torch.where(torch.as_tensor(sites >= 0, device=self.device)[..., None], mm_positions, far)

    def _weights(self, qm_positions: Tensor, mm_positions: Tensor, selection: Selection) -> Tensor:
        """Weight of the group of each site, shape (B, K)."""
        places = torch.as_tensor(selection.switched, device=self.device)[..., None].expand(-1, -1, 3)
        references = mm_positions.gather(1, places)
        distances = pair_distances(qm_positions, references)
        smooth = smooth_minimum(distances, self.settings.smooth_minimum_sharpness, dim=1)
        inner, outer = self.settings.inner, self.settings.outer
        # Without a cutoff nothing is switched, and `smooth` is an empty tensor that only keeps the outputs
        # differentiable.
        switched = smooth if inner is None or outer is None else quintic_switch(smooth, inner, outer)
        table = torch.cat([switched, switched.new_ones((len(switched), 1))], dim=1)
        return table.gather(1, torch.as_tensor(selection.weights, device=self.device))

    def _collision(self, qm_positions: Tensor, mm_positions: Tensor, sites: IntArray) -> FrameError:
        distances = pair_distances(qm_positions.detach(), mm_positions.detach())
        # Rounded in another way, the shortest distance need not be below the limit again.
        limit = max(CLOSEST_APPROACH, float(distances.min()))
        frame, qm_index, slot = (int(index) for index in (distances <= limit).nonzero()[0])
        site = int(sites[frame, slot])
        return FrameError(
            f"MM site {site} (particle {self.system.site_particles[site]}) lies on QM atom "
            f"{self.system.qm_atoms[qm_index]} in frame {frame} (counted from 0): their distance is below "
            f"{CLOSEST_APPROACH:g} bohr. Atoms have collided or were given twice: minimise the start structure, and "
            "check the atom order."
        )

    def _floats(self, array: FloatArray | IntArray) -> Tensor:
        return torch.as_tensor(array, device=self.device).to(self.dtype)
