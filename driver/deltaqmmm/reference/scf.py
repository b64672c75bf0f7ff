"""The SCF of the reference method with its safer retries."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from typing import Any

import numpy as np

from deltaqmmm.errors import ConvergenceError

logger = logging.getLogger(__name__)

MeanField = Any
"""A PySCF mean-field object; PySCF ships no types."""

LEVEL_SHIFT = 0.3
DAMPING = 0.3
CAREFUL_LENGTHENING = 3
COARSE_GRID_LEVEL = 0
COARSE_TOLERANCE = 1e-6


def self_consistent(make: Callable[[], MeanField], max_cycles: int) -> MeanField:
    """Solve the SCF, retrying with safer set-ups.

    First DIIS from the density that a coarse integration grid gives; then DIIS with a level shift and damping from a
    superposition of atoms, whose density plain DIIS then refines; then second-order iterations from the best density so
    far. The result of any of them meets the same tolerance on the grid of the settings.

    Args:
        make: Makes a new mean-field object.
        max_cycles: Cycles of the first attempt.

    Returns:
        A converged mean-field object.

    Raises:
        ConvergenceError: All attempts failed.
    """
    fresh = make()
    density = _coarse_density(make(), max_cycles) if _has_fine_grid(fresh) else None
    tried: list[str] = []
    for name, attempt in (("DIIS", _plain), ("level shift and damping", _careful), ("second order", _second_order)):
        field = attempt(make() if tried else fresh, density, max_cycles)
        energy = float(field.e_tot)
        if field.converged and math.isfinite(energy):
            return field
        tried.append(f"{name}: {int(getattr(field, 'cycles', 0))} cycles to {energy:.6f} hartree")
        logger.warning("SCF not converged (%s); retrying.", tried[-1])
        density = _usable_density(field)
    raise ConvergenceError(f"the SCF of the reference method did not converge ({'; '.join(tried)})")


def _has_fine_grid(field: MeanField) -> bool:
    """Whether there is an integration grid, and one finer than that of the first density."""
    return getattr(field, "grids", None) is not None and field.grids.level > COARSE_GRID_LEVEL


def _coarse_density(field: MeanField, max_cycles: int) -> Any:  # noqa: ANN401 - NumPy or CuPy array
    """A density to start from, on a grid with a tenth of the points: the integration is most of an SCF cycle's time."""
    field.grids.level = COARSE_GRID_LEVEL
    field.conv_tol = max(COARSE_TOLERANCE, field.conv_tol)
    field.max_cycle = max_cycles
    field.kernel()
    return _usable_density(field) if field.converged else None


def _plain(field: MeanField, density: Any, max_cycles: int) -> MeanField:  # noqa: ANN401 - NumPy or CuPy array
    field.max_cycle = max_cycles
    field.kernel(dm0=density)
    return field


def _careful(field: MeanField, density: Any, max_cycles: int) -> MeanField:  # noqa: ANN401
    del density  # the one of the failed attempt may be what is wrong
    field.max_cycle = CAREFUL_LENGTHENING * max_cycles
    field.level_shift = LEVEL_SHIFT
    field.damp = DAMPING
    field.kernel()
    field.level_shift = 0.0
    field.damp = 0.0
    field.kernel(dm0=field.make_rdm1())
    return field


def _second_order(field: MeanField, density: Any, max_cycles: int) -> MeanField:  # noqa: ANN401
    newton = field.newton()
    newton.max_cycle = max_cycles
    newton.kernel(dm0=density)
    # What follows needs the plain object: its gradients know the charges.
    field.mo_coeff, field.mo_energy, field.mo_occ = newton.mo_coeff, newton.mo_energy, newton.mo_occ
    field.e_tot, field.converged = newton.e_tot, newton.converged
    return field


def _usable_density(field: MeanField) -> Any:  # noqa: ANN401
    """The density matrix of a failed attempt, or None if it is not finite."""
    if field.mo_coeff is None:
        return None
    density = field.make_rdm1()
    total = float(abs(density).sum())
    return density if np.isfinite(total) else None
