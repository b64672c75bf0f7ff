"""A cheap potential with all that the protocol carries: a strain derivative without symmetry, terms and extras.

    E = sum_i 1/2 (r_i - o_i) . K (r_i - o_i)  +  sum_ij 1/2 k (|r_i - r_j| - d)^2  +  sum_ab 1/2 c_ab (h_ab - g_ab)^2

K is full, so that the strain derivative is not symmetric and a forgotten transposition shows. Nothing is periodic.
Frames are computed one by one: results do not depend on the batch, to the last bit.
"""

from __future__ import annotations

import numpy as np

from deltaqmmm.results import Evaluation

WELL = np.array([[0.010, 0.002, 0.001], [0.002, 0.020, -0.003], [0.001, -0.003, 0.015]])
SPRING, LENGTH = 0.005, 2.0
CELL_STIFFNESS = np.array([[0.002, 0.001, 0.003], [0.004, 0.002, 0.001], [0.001, 0.005, 0.002]])
CELL_CENTRE = np.array([[9.0, 0.3, -0.2], [1.0, 9.5, 0.1], [2.0, -1.0, 10.0]])


def origins(n_atoms: int) -> np.ndarray:
    """Centres of the wells, shape (N, 3), bohr."""
    numbers = np.arange(n_atoms)
    return np.stack([2.0 * numbers, 0.5 * numbers**2 - 1.0, 1.0 - 0.3 * numbers], axis=1)


def evaluate_one(cell: np.ndarray, positions: np.ndarray) -> dict[str, np.ndarray | float]:
    """One frame; the cell has lattice vectors as rows."""
    gradient = np.zeros_like(positions)
    displacements = positions - origins(len(positions))
    wells = 0.5 * float(np.einsum("ia,ab,ib->", displacements, WELL, displacements))
    gradient += displacements @ WELL
    springs = 0.0
    for i in range(len(positions)):
        for j in range(i):
            vector = positions[i] - positions[j]
            distance = float(np.sqrt(vector @ vector))
            springs += 0.5 * SPRING * (distance - LENGTH) ** 2
            pull = SPRING * (distance - LENGTH) / distance * vector
            gradient[i] += pull
            gradient[j] -= pull
    stretch = cell - CELL_CENTRE
    cell_energy = 0.5 * float((CELL_STIFFNESS * stretch**2).sum())
    return {
        "wells": wells,
        "springs": springs,
        "cell": cell_energy,
        "forces": -gradient,
        "strain": positions.T @ gradient + cell.T @ (CELL_STIFFNESS * stretch),
        "charges": positions[:, 0] * 0.1,
        "dipole": positions.sum(axis=0),
    }


def evaluate(cells: np.ndarray, positions: np.ndarray) -> Evaluation:
    """A batch of frames."""
    frames = [evaluate_one(cell, frame) for cell, frame in zip(cells, positions, strict=True)]
    collected = {key: np.array([frame[key] for frame in frames]) for key in frames[0]}
    terms = {key: collected[key] for key in ("wells", "springs", "cell")}
    return Evaluation(
        energies=terms["wells"] + terms["springs"] + terms["cell"],
        forces=collected["forces"],
        strain_derivatives=collected["strain"],
        terms=terms,
        extras={
            "qm_charges": collected["charges"],
            "qm_dipole": collected["dipole"],
            "scc_iterations": np.arange(7, 7 + len(frames)) * 0 + 7,
        },
    )
