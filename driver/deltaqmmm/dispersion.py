"""D3 dispersion with Becke-Johnson damping, from the library s-dftd3.

    E = -sum_ij [s6 C6_ij / (r_ij^6 + f_ij^6) + s8 C8_ij / (r_ij^8 + f_ij^8)],   f_ij = a1 sqrt(C8_ij / C6_ij) + a2

over pairs i < j, with C6 of the coordination numbers of both atoms, and C8 = 3 C6 Q_i Q_j, Q of their elements.
Grimme, Antony, Ehrlich, Krieg, J. Chem. Phys. 132, 154104 (2010), doi 10.1063/1.3382344; Grimme, Ehrlich, Goerigk, J.
Comput. Chem. 32, 1456 (2011), doi 10.1002/jcc.21759. Two-body terms only.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from ase.data import atomic_numbers
from dftd3.interface import DispersionModel, RationalDampingParam

from deltaqmmm.errors import FrameError, ParameterError
from deltaqmmm.results import FloatArray
from deltaqmmm.threads import side_by_side

DFTB3 = {"s6": 1.0, "s8": 0.5883, "a1": 0.5719, "a2": 3.6017, "s9": 0.0}
"""Damping parameters of DFTB3, the same that DFTB+ takes by default and that s-dftd3 lists as "dftb3"."""

LAST_ELEMENT = 103
"""Beyond it the library has no coefficients, and says nothing."""

WORTH_THREADS = 30
"""Atoms from which on threads gain time: for fewer most of it is Python's, which one thread has at a time."""


class Dispersion:
    """Dispersion energies of the frames of one molecule."""

    def __init__(self, symbols: Sequence[str], damping: str | Mapping[str, float]) -> None:
        """Find the parameters.

        Args:
            symbols: Elements of the n atoms.
            damping: Name of a functional, or s6, s8, a1, a2 (bohr) and s9, which is 0 without three-body terms.

        Raises:
            ParameterError: There are no parameters for the functional or an element.
        """
        self._numbers = np.array([atomic_numbers[symbol] for symbol in symbols])
        heavy = sorted({symbol for symbol in symbols if atomic_numbers[symbol] > LAST_ELEMENT})
        if heavy:
            raise ParameterError(f"D3 has no coefficients for {', '.join(heavy)}")
        try:
            if isinstance(damping, str):
                self._damping = RationalDampingParam(method=damping, atm=False)  # type: ignore[no-untyped-call]
            else:
                self._damping = RationalDampingParam(**damping)  # type: ignore[no-untyped-call]
        except RuntimeError as error:
            raise ParameterError(f'there are no D3(BJ) parameters for the functional "{damping}" ({error})') from error
        # The first model of a process fills a table in the library that all share: not on two threads at the same time.
        DispersionModel(self._numbers, 9.0 * np.arange(3 * len(self._numbers)).reshape(-1, 3))

    def evaluate(self, positions: FloatArray, threads: int = 1) -> tuple[FloatArray, FloatArray]:
        """Energies and gradients of B frames.

        Args:
            positions: Shape (B, n, 3), bohr.
            threads: Frames computed side by side, where that gains time.

        Returns:
            Shape (B,), hartree, and (B, n, 3), hartree/bohr.

        Raises:
            FrameError: Two atoms coincide.
        """
        energies, gradients = np.zeros(len(positions)), np.zeros(positions.shape)

        def work(part: slice) -> None:
            # Not kept: each thread needs one of its own, and it is made in a twentieth of the time of an energy.
            model = None
            for frame in range(part.start, part.stop):
                try:
                    if model is None:
                        model = DispersionModel(self._numbers, positions[frame])
                    else:
                        model.update(positions[frame])
                    found = model.get_dispersion(self._damping, grad=True)
                except RuntimeError as error:
                    raise FrameError(f"D3 dispersion of the QM region, frame {frame} of the batch: {error}") from error
                energies[frame], gradients[frame] = found["energy"], found["gradient"]

        side_by_side(work, len(positions), threads if len(self._numbers) >= WORTH_THREADS else 1)
        return energies, gradients
