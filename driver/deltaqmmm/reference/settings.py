"""What a user chooses about the reference calculation."""

from __future__ import annotations

from dataclasses import dataclass

from deltaqmmm.errors import ConfigError


@dataclass(frozen=True)
class ReferenceSettings:
    """The reference method and how it is computed; energies in hartree.

    Attributes:
        functional: Exchange-correlation functional by PySCF's name, or "hf" for Hartree-Fock.
        basis: Basis set by PySCF's name.
        density_fitting: Fit the density in the Coulomb and exchange terms.
        auxiliary_basis: Basis of the fit; None takes PySCF's choice for the basis set.
        grid_level: PySCF's level of the integration grid, 0 to 9.
        grid_response: Include the motion of the grid in the gradients: without it they are not exactly the derivative
            of the energy, and do not sum up to zero.
        dispersion: "d3bj" (two-body D3 with Becke-Johnson damping, parameters of the functional) or "none".
        energy_tolerance: Largest change of the energy in the last SCF cycle.
        max_cycles: SCF cycles of the first attempt; the safer retries take more.
        memory: Megabytes that PySCF may use in each process.
        device: "cpu", "cuda" (by gpu4pyscf) or "auto".
    """

    functional: str = "pbe0"
    basis: str = "def2-svp"
    density_fitting: bool = True
    auxiliary_basis: str | None = None
    grid_level: int = 3
    grid_response: bool = True
    dispersion: str = "d3bj"
    energy_tolerance: float = 1e-9
    max_cycles: int = 60
    memory: int = 4000
    device: str = "cpu"

    def __post_init__(self) -> None:
        """Refuse values that no calculation can use."""
        if self.dispersion not in ("none", "d3bj"):
            raise ConfigError(f"dispersion {self.dispersion!r} is unknown: choose 'none' or 'd3bj'.")
        if not 0 <= self.grid_level <= 9:
            raise ConfigError(f"the grid level must be 0 to 9, got {self.grid_level}.")

    @property
    def is_hartree_fock(self) -> bool:
        """Whether there is no functional."""
        return self.functional.lower() == "hf"

    def level(self) -> dict[str, object]:
        """The level of theory: all that changes a label by more than noise."""
        table: dict[str, object] = {
            "functional": self.functional.lower(),
            "basis": self.basis.lower(),
            "density_fitting": self.density_fitting,
            "dispersion": self.dispersion,
        }
        if self.density_fitting:
            table["auxiliary_basis"] = (self.auxiliary_basis or "default of PySCF").lower()
        if not self.is_hartree_fock:
            table["grid_level"] = self.grid_level
            table["grid_response"] = self.grid_response
        return table
