"""Forces against finite differences of the energy, for `deltaqmmm check`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch

from deltaqmmm.cli.frames import Frame
from deltaqmmm.config.loading import LoadedPotential, openmm_settings
from deltaqmmm.mm import OpenMMEngine
from deltaqmmm.potential import Potential
from deltaqmmm.results import Evaluation, FloatArray, IntArray

QM_TOLERANCE = 1e-6
MM_TOLERANCE = 1e-4
PLATFORM_TOLERANCE = 2e-5
"""hartree/bohr; see the description of the command."""

RELATIVE_PLATFORM_TOLERANCE = 1e-4
"""Of the largest force: what single precision may lose where atoms are close."""

QM_STEP = 0.005
MM_STEP = 0.02
"""Steps in bohr. The error of the four-point formula, h^4/30 times the fifth derivative, is small for both. The MM step
is larger because it divides the small steps of the Ewald sum at its cutoff."""

CORRECTION_STEP = 0.0005
"""In bohr. Where members disagree a correction that fades falls from all to nothing within hundredths of a bohr.
Without an SCC, and without its constant part, its energies have the digits for so short a step."""

_STENCIL = np.array([-2.0, -1.0, 1.0, 2.0])
_WEIGHTS = np.array([1.0, -8.0, 8.0, -1.0]) / 12.0
_CHUNK = 16

Evaluate = Callable[[FloatArray, FloatArray], Evaluation]


@dataclass(frozen=True)
class Comparison:
    """Forces against something that they must equal.

    Attributes:
        name: What is compared.
        n_atoms: On how many atoms.
        largest_force: Largest component on them, hartree/bohr.
        error: Largest deviation of a component, hartree/bohr.
        tolerance: What the error may be, hartree/bohr.
    """

    name: str
    n_atoms: int
    largest_force: float
    error: float
    tolerance: float

    @property
    def passed(self) -> bool:
        """Whether the error is within the tolerance (false for NaN)."""
        return self.n_atoms == 0 or self.error <= self.tolerance


def compare_forces(loaded: LoadedPotential, frame: Frame, n_atoms: int, seed: int) -> list[Comparison]:
    """Compare forces with finite differences, class by class, and the MM platform with Reference.

    Args:
        loaded: The potential.
        frame: Where to compare.
        n_atoms: Atoms of each class.
        seed: Of the choice of atoms.
    """
    cell = np.eye(3) if frame.cell is None else frame.cell
    classes = atom_classes(loaded, cell, frame.positions, n_atoms, np.random.default_rng(seed))
    comparisons = [
        difference_forces(f"{term}, {name}", potential.warm_up, cell, frame.positions, atoms, step, tolerance)
        for term, potential, step, tolerance in qm_side_terms(loaded)
        for name, atoms in classes.items()
    ]
    if loaded.mm is None:
        return comparisons
    settings = replace(openmm_settings(loaded.config), platform="Reference", precision="double", virial=False)
    reference = OpenMMEngine(loaded.topology, loaded.system, settings)

    def mm_reference(cells: FloatArray, positions: FloatArray) -> Evaluation:
        return reference.evaluate(positions, cells)

    comparisons += [
        difference_forces(f"MM, {name}", mm_reference, cell, frame.positions, atoms[:1], MM_STEP, MM_TOLERANCE)
        for name, atoms in classes.items()
    ]
    cells, positions = cell[None], frame.positions[None]
    exact = reference.evaluate(positions, cells).forces[0]
    used = loaded.mm.evaluate(positions, cells).forces[0]
    error = float(np.abs(used - exact).max())
    largest = float(np.abs(exact).max())
    name = f"MM, {loaded.mm.platform} and Reference"
    tolerance = max(PLATFORM_TOLERANCE, RELATIVE_PLATFORM_TOLERANCE * largest)
    return [*comparisons, Comparison(name, len(exact), largest, error, tolerance)]


def qm_side_terms(loaded: LoadedPotential) -> list[tuple[str, Potential, float, float]]:
    """DFTB and the correction, each alone in the embedding, with the step and the tolerance of its forces."""
    found = []
    if loaded.dftb is not None:
        dftb = Potential(loaded.system, None, loaded.embedding, loaded.dftb, device=loaded.device)
        found.append(("DFTB", dftb, QM_STEP, max(QM_TOLERANCE, 10.0 * loaded.dftb.settings.scc_tolerance)))
    if loaded.correction is not None:
        correction = Potential(
            loaded.system,
            None,
            loaded.embedding,
            None,
            loaded.correction.engine,
            # The large constant part would take digits from the differences of energies.
            committee=replace(loaded.correction.committee, include_offset=False, extras=False),
            device=loaded.device,
        )
        found.append(("correction", correction, CORRECTION_STEP, QM_TOLERANCE))
    return found


def difference_forces(
    name: str,
    evaluate: Evaluate,
    cell: FloatArray,
    positions: FloatArray,
    atoms: IntArray,
    step: float,
    tolerance: float,
) -> Comparison:
    """Compare the forces on some atoms with the four-point central difference of the energy.

    Args:
        name: What is compared.
        evaluate: Computes frames.
        cell: Shape (3, 3), bohr.
        positions: Shape (N, 3), bohr.
        atoms: Atoms to displace, shape (n,); all three components each.
        step: Displacement, bohr.
        tolerance: For the comparison, hartree/bohr.
    """
    if len(atoms) == 0:
        return Comparison(name, 0, 0.0, 0.0, tolerance)
    forces = evaluate(cell[None], positions[None]).forces[0][atoms]
    displaced = np.tile(positions, (len(atoms) * 12, 1, 1)).reshape(len(atoms), 3, 4, *positions.shape)
    for row, atom in enumerate(atoms):
        for axis in range(3):
            displaced[row, axis, :, atom, axis] += step * _STENCIL
    flat = displaced.reshape(-1, *positions.shape)
    energies = np.concatenate(
        [
            evaluate(np.tile(cell, (len(chunk), 1, 1)), chunk).energies
            for chunk in (flat[start : start + _CHUNK] for start in range(0, len(flat), _CHUNK))
        ]
    )
    gradients = energies.reshape(len(atoms), 3, 4) @ _WEIGHTS / step
    return Comparison(name, len(atoms), float(np.abs(forces).max()), float(np.abs(forces + gradients).max()), tolerance)


def atom_classes(
    loaded: LoadedPotential, cell: FloatArray, positions: FloatArray, n_atoms: int, rng: np.random.Generator
) -> dict[str, IntArray]:
    """Choose atoms of each class: QM, the MM atoms nearest to the QM region, and MM atoms inside the switch.

    In the switch the reference atoms of the groups are preferred: the chain rule through the weights acts on them.
    """
    system = loaded.system
    with torch.no_grad():
        frames = loaded.embedding(
            torch.as_tensor(positions[None]), torch.as_tensor(cell[None]) if system.periodic else None
        )
    sites = frames.mm_sites[0].cpu().numpy()
    charges = frames.mm_charges[0].cpu().numpy()
    distances = torch.cdist(frames.mm_positions[0], frames.qm_positions[0]).min(dim=1).values.cpu().numpy()
    full = np.where(sites >= 0, system.site_charges[sites], 0.0)
    weights = np.divide(charges, full, out=np.zeros_like(charges), where=full != 0.0)
    atoms = np.where(sites >= 0, system.site_atoms[sites], -1)
    near = atoms[(weights > 1.0 - 1e-9) & (atoms >= 0)][
        np.argsort(distances[(weights > 1.0 - 1e-9) & (atoms >= 0)], kind="stable")
    ]
    inside = (weights > 0.02) & (weights < 0.98) & (atoms >= 0)
    references = np.isin(atoms, system.group_references)
    switched = np.unique(atoms[inside & references])
    rng.shuffle(switched)
    others = np.unique(atoms[inside & ~references])
    rng.shuffle(others)
    # At least one of each kind, where there are any.
    mixed = np.concatenate([switched[:1], others[:1], switched[1:], others[1:]])
    return {
        "QM atoms": np.sort(rng.permutation(system.qm_atoms)[:n_atoms]),
        "near MM atoms": near[:n_atoms],
        "MM atoms in the switch": mixed[:n_atoms],
    }
