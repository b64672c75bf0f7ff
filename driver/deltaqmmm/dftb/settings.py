"""What a user chooses about the DFTB calculation."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from deltaqmmm.errors import ParameterError

HUBBARD_DERIVATIVES_3OB: Mapping[str, float] = MappingProxyType(
    {
        "Br": -0.0573,
        "C": -0.1492,
        "Ca": -0.0340,
        "Cl": -0.0697,
        "F": -0.1623,
        "H": -0.1857,
        "I": -0.0433,
        "K": -0.0339,
        "Mg": -0.0200,
        "N": -0.1535,
        "Na": -0.0454,
        "O": -0.1575,
        "P": -0.1400,
        "S": -0.1100,
        "Zn": -0.0300,
    }
)
"""Atomic Hubbard derivatives dU/dq of the 3ob parameter set in hartree/e.

Sources: doi 10.1021/ct300849w (C, H, N, O), 10.1021/ct401002w (P, S), 10.1021/ct5009137 (halogens, Na, K, Ca) and
10.1021/jp506557r (Mg, Zn).
"""

HIGHEST_SHELL: Mapping[str, int] = MappingProxyType(
    {
        **dict.fromkeys(("H", "He"), 0),
        **dict.fromkeys(("Li", "Be", "B", "C", "N", "O", "F", "Ne", "Na", "Mg", "K", "Ca"), 1),
        **dict.fromkeys(("Si", "P", "S", "Cl", "Zn", "Br", "I", "Ti", "Fe", "Co", "Ni", "Cu", "Ag", "Au"), 2),
    }
)
"""Highest angular momentum of the valence basis by element, as the dftb.org parameter sets document it."""


SOLVERS = ("auto", "diagonalisation", "purification")
"""Ways from a Hamiltonian to the density."""


@dataclass(frozen=True)
class DFTBSettings:
    """Settings of a DFTB calculation; energies in hartree.

    Attributes:
        model: "dftb3" (full third order) or "dftb2" (second order).
        parameters: Name of the Slater-Koster set, which is also the name of its folder.
        parameter_folder: Folder of the ``A-B.skf`` files; None to search (see `slater_koster.find_parameter_folder`).
        hubbard_derivatives: dU/dq by element in hartree/e, added to (and overriding) the built-in 3ob values.
        highest_shells: Highest angular momentum (0, 1, 2) by element, added to (and overriding) the built-in values.
        damping_exponent: Exponent zeta of the damped gamma of pairs with hydrogen; None for the plain gamma. It applies
            to DFTB3 only.
        electronic_temperature: k_B T of the Fermi filling, hartree; 0 fills the lowest orbitals.
        scc_tolerance: Largest allowed change of any Mulliken charge in the last SCC cycle, e.
        max_scc_iterations: Cycles of the first attempt; the safer retries take more.
        dispersion: "none" or "d3bj" (two-body D3 with Becke-Johnson damping, parameters of DFTB3).
        warm_start: Start the SCC from charges extrapolated along the trajectory of the nearest earlier frame.
        solver: "diagonalisation", or "purification" of the density matrix (matrix products only, for graphics cards;
            closed shells at zero electronic temperature), or "auto": whichever is measured to be faster, where torch
            computes.
        compiled: On processors compute closed shells at zero electronic temperature in compiled loops. Without them
            everything is computed by torch, as it is on graphics cards.
    """

    model: str = "dftb3"
    parameters: str = "3ob-3-1"
    parameter_folder: Path | None = None
    hubbard_derivatives: Mapping[str, float] | None = None
    highest_shells: Mapping[str, int] | None = None
    damping_exponent: float | None = 4.0
    electronic_temperature: float = 0.0
    scc_tolerance: float = 1e-8
    max_scc_iterations: int = 100
    dispersion: str = "none"
    warm_start: bool = True
    solver: str = "auto"
    compiled: bool = True

    def __post_init__(self) -> None:
        """Refuse values that no calculation can use."""
        if self.model not in ("dftb2", "dftb3"):
            raise ParameterError(f"DFTB model {self.model!r} is unknown: choose 'dftb3' or 'dftb2'.")
        if self.dispersion not in ("none", "d3bj"):
            raise ParameterError(f"dispersion {self.dispersion!r} is unknown: choose 'none' or 'd3bj'.")
        if self.solver not in SOLVERS:
            raise ParameterError(f"DFTB solver {self.solver!r} is unknown: choose one of {', '.join(SOLVERS)}.")
        if self.solver == "purification" and self.electronic_temperature > 0.0:
            raise ParameterError(
                "purification gives whole occupations only: set the electronic temperature to zero, or take the solver "
                "'auto' or 'diagonalisation'."
            )
        if not 0.0 < self.scc_tolerance <= 1e-3:
            raise ParameterError(f"the SCC tolerance must lie in (0, 1e-3] e, got {self.scc_tolerance}.")
        if self.max_scc_iterations < 1:
            raise ParameterError(f"max_scc_iterations must be at least 1, got {self.max_scc_iterations}.")
        if self.electronic_temperature < 0.0:
            raise ParameterError(f"the electronic temperature is negative: {self.electronic_temperature} hartree.")

    @property
    def third_order(self) -> bool:
        """Whether the third-order terms of DFTB3 are included."""
        return self.model == "dftb3"

    def hubbard_derivative(self, element: str) -> float:
        """dU/dq of an element in hartree/e.

        Raises:
            ParameterError: No value is known for this element and parameter set.
        """
        given = self.hubbard_derivatives or {}
        if element in given:
            return given[element]
        if self.parameters.startswith("3ob") and element in HUBBARD_DERIVATIVES_3OB:
            return HUBBARD_DERIVATIVES_3OB[element]
        raise ParameterError(
            f"no Hubbard derivative is known for element {element} with the parameter set {self.parameters!r}, and "
            f"DFTB3 needs one: give it under [dftb] hubbard_derivatives (hartree/e), or use model = 'dftb2'."
        )

    def highest_shell(self, element: str) -> int | None:
        """Highest angular momentum of an element, or None where only the parameter file can tell."""
        given = self.highest_shells or {}
        return given.get(element, HIGHEST_SHELL.get(element))
