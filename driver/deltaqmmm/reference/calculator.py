"""Energies of the QM region in point charges by PySCF, with gradients on QM atoms, MM sites and charges.

    E = E_SCF[R; {r_j, q_j}] + E_D3(R),   h = h_0 - sum_j q_j v(|r - r_j|),   v(r) = 1/r or erf(r/b)/r

E holds the QM region and its interaction with the charges, without the charges among themselves. At fixed effective
charges the derivatives with respect to sites and charges are expectation values, with D the density matrix:

    dE/dq_j = sum_A Z_A v(|R_A - r_j|) - tr[D (v_j)],   dE/dr_j = q_j grad_j (dE/dq_j)
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from deltaqmmm.dataset import EnergyLabel
from deltaqmmm.errors import ConfigError, ExternalToolError, NonFiniteError, ParameterError
from deltaqmmm.reference.scf import MeanField, self_consistent
from deltaqmmm.reference.settings import ReferenceSettings
from deltaqmmm.results import FloatArray

if TYPE_CHECKING:
    # Its library is only needed where it is asked for.
    from deltaqmmm.dispersion import Dispersion

SITES_AT_ONCE = 200
"""MM sites whose integrals are held at once: 3 x 200 matrices."""


@dataclass(frozen=True, eq=False)
class ReferenceResult:
    """A label and what it took.

    Attributes:
        label: Energy and derivatives.
        scf_cycles: Cycles of the SCF that converged.
        seconds: Wall time.
    """

    label: EnergyLabel
    scf_cycles: int
    seconds: float


class ReferenceCalculator:
    """The reference method for one molecule: elements, charge and settings are fixed.

    Args:
        symbols: Elements of the n QM atoms.
        charge: Total charge, e.
        settings: Method and convergence.
        blur_width: Width b of the Gaussian MM charges, bohr; 0 for point charges.
        threads: Threads of PySCF; None leaves them as they are.

    Raises:
        ExternalToolError: PySCF, or gpu4pyscf where a GPU is asked for, is not installed.
        ConfigError: PySCF does not know the functional or basis, or D3 has no parameters for it.
    """

    def __init__(
        self,
        symbols: Sequence[str],
        charge: int,
        settings: ReferenceSettings,
        blur_width: float = 0.0,
        threads: int | None = None,
    ) -> None:
        require_pyscf()
        from pyscf import lib

        if threads is not None:
            lib.num_threads(threads)
        self.symbols = tuple(symbols)
        self.charge = charge
        self.settings = settings
        self.blur_width = blur_width
        self._gpu = uses_gpu(settings.device)
        self._dispersion = _dispersion(self.symbols, settings)
        self._check_names()

    def label(self, qm_positions: FloatArray, mm_positions: FloatArray, mm_charges: FloatArray) -> ReferenceResult:
        """Label one frame.

        Args:
            qm_positions: Shape (n, 3), bohr.
            mm_positions: Shape (K, 3), bohr.
            mm_charges: Effective charges, shape (K,), e.

        Raises:
            ConvergenceError: The SCF did not converge, after the safer retries.
            NonFiniteError: A result is not finite.
        """
        start = time.perf_counter()
        molecule = self._molecule(qm_positions)

        def make() -> MeanField:
            return self._mean_field(molecule, mm_positions, mm_charges)

        field = self_consistent(make, self.settings.max_cycles)
        gradients = field.nuc_grad_method()
        if not self.settings.is_hartree_fock:
            gradients.grid_response = self.settings.grid_response
        qm_gradients = _numpy(gradients.kernel())
        potentials, fields = self._site_derivatives(molecule, _numpy(field.make_rdm1()), mm_positions)
        energy = float(field.e_tot)
        if self._dispersion is not None:
            (dispersion,), (by_dispersion,) = self._dispersion.evaluate(np.asarray(qm_positions)[None])
            energy, qm_gradients = energy + float(dispersion), qm_gradients + by_dispersion
        label = EnergyLabel(
            energy=energy,
            qm_gradients=qm_gradients,
            mm_gradients=mm_charges[:, None] * fields,
            mm_potentials=potentials,
        )
        if not label.is_finite():
            raise NonFiniteError("the energy or a gradient of the reference method is not finite")
        return ReferenceResult(label, int(getattr(field, "cycles", 0) or 0), time.perf_counter() - start)

    def _molecule(self, positions: FloatArray) -> Any:  # noqa: ANN401 - PySCF ships no types
        from pyscf import gto

        return gto.M(
            atom=list(zip(self.symbols, np.asarray(positions, dtype=np.float64).tolist(), strict=True)),
            unit="bohr",
            basis=self.settings.basis,
            charge=self.charge,
            max_memory=self.settings.memory,
            verbose=0,
        )

    def _mean_field(self, molecule: Any, mm_positions: FloatArray, mm_charges: FloatArray) -> MeanField:  # noqa: ANN401
        """A fresh mean-field object in the charges, ready to run."""
        from pyscf import dft, qmmm, scf

        settings = self.settings
        if settings.is_hartree_fock:
            field = scf.RHF(molecule)
        else:
            field = dft.RKS(molecule, xc=settings.functional)
            field.grids.level = settings.grid_level
        if settings.density_fitting:
            field = field.density_fit(auxbasis=settings.auxiliary_basis)
        field.conv_tol = settings.energy_tolerance
        field.chkfile = None
        if len(mm_charges):
            radii = np.full(len(mm_charges), self.blur_width) if self.blur_width > 0.0 else None
            field = qmmm.mm_charge(field, np.asarray(mm_positions), np.asarray(mm_charges), radii=radii, unit="bohr")
        return field.to_gpu() if self._gpu else field

    def _site_derivatives(
        self,
        molecule: Any,  # noqa: ANN401 - PySCF ships no types
        density: FloatArray,
        sites: FloatArray,
    ) -> tuple[FloatArray, FloatArray]:
        """The potential of the QM region at the sites (K,), and its gradient there (K, 3).

        The integrals do not change if orbitals and site move together, so the derivative by the site is minus those by
        the two orbitals, which PySCF gives.
        """
        potentials, fields = self._nuclear_part(molecule, sites)
        for start in range(0, len(sites), SITES_AT_ONCE):
            part = slice(start, start + SITES_AT_ONCE)
            values, slopes = self._integrals(molecule, sites[part])
            potentials[part] -= np.einsum("kpq,pq->k", values, density, optimize=True)
            fields[part] -= 2.0 * np.einsum("xkpq,pq->kx", slopes, density, optimize=True)
        return potentials, fields

    def _integrals(self, molecule: Any, sites: FloatArray) -> tuple[FloatArray, FloatArray]:  # noqa: ANN401
        """<p|v_k|q>, shape (k, p, q), and <grad p|v_k|q> by the electron, shape (3, k, p, q)."""
        if self.blur_width == 0.0:
            values = molecule.intor("int1e_grids", hermi=1, grids=sites)
            return values, molecule.intor("int1e_grids_ip", grids=sites)
        from pyscf import df, gto

        exponents = np.full(len(sites), self.blur_width**-2.0)
        charges = gto.fakemol_for_charges(sites, exponents)
        values = df.incore.aux_e2(molecule, charges, intor="int3c2e", aosym="s1")
        slopes = df.incore.aux_e2(molecule, charges, intor="int3c2e_ip1", aosym="s1", comp=3)
        return np.moveaxis(values, -1, 0), np.moveaxis(slopes, -1, 1)

    def _nuclear_part(self, molecule: Any, sites: FloatArray) -> tuple[FloatArray, FloatArray]:  # noqa: ANN401
        """The potential of the nuclei at the sites (K,), and its gradient there (K, 3)."""
        from scipy.special import erf

        # The charges that the SCF sees: without the electrons of an effective core potential.
        nuclear_charges = np.asarray(molecule.atom_charges(), dtype=np.float64)
        vectors = sites[:, None] - molecule.atom_coords()[None]
        distances = np.linalg.norm(vectors, axis=-1)
        if self.blur_width == 0.0:
            kernel, slope = 1.0 / distances, -1.0 / distances**2
        else:
            scaled = distances / self.blur_width
            kernel = erf(scaled) / distances
            slope = 2.0 / (np.sqrt(np.pi) * self.blur_width) * np.exp(-(scaled**2)) / distances - kernel / distances
        return kernel @ nuclear_charges, np.einsum("kax,ka,a->kx", vectors, slope / distances, nuclear_charges)

    def _check_names(self) -> None:
        """Try functional and basis once, so that a misspelt name is one error and not one for each frame."""
        spread = 4.0 * np.arange(len(self.symbols))[:, None] * np.array([[1.0, 0.0, 0.0]])
        try:
            molecule = self._molecule(spread)
            field = self._mean_field(molecule, np.zeros((0, 3)), np.zeros(0))
            if not self.settings.is_hartree_fock:
                field._numint.libxc.parse_xc(self.settings.functional)
            if self.settings.density_fitting:
                from pyscf import df

                df.make_auxmol(molecule, self.settings.auxiliary_basis)
        except (KeyError, ValueError, RuntimeError, AttributeError) as error:
            raise ConfigError(
                f'[reference]: PySCF does not take functional = "{self.settings.functional}" and basis = '
                f'"{self.settings.basis}" for {", ".join(sorted(set(self.symbols)))} ({error}).'
            ) from error


def require_pyscf() -> None:
    """Raise ExternalToolError if PySCF is not installed."""
    try:
        import pyscf  # noqa: F401
    except ImportError as error:
        raise ExternalToolError(
            "reference labels are computed by PySCF, which is not installed: pip install 'deltaqmmm[reference]'."
        ) from error


def uses_gpu(device: str) -> bool:
    """Whether to compute with gpu4pyscf.

    Raises:
        ExternalToolError: A GPU is asked for, and gpu4pyscf is not installed or finds none.
    """
    if device == "cpu":
        return False
    try:
        import gpu4pyscf  # noqa: F401
    except ImportError as error:
        if device == "auto":
            return False
        raise ExternalToolError(
            f'[reference] device = "{device}" needs gpu4pyscf, which cannot be imported ({error}): install it, or take '
            '"cpu".'
        ) from error
    return True


def _dispersion(symbols: Sequence[str], settings: ReferenceSettings) -> Dispersion | None:
    if settings.dispersion == "none":
        return None
    from deltaqmmm.dispersion import Dispersion

    try:
        return Dispersion(symbols, settings.functional)
    except ParameterError as error:
        raise ConfigError(
            f'[reference] dispersion = "d3bj": {error}; take another functional, or dispersion = "none".'
        ) from error


def _numpy(array: Any) -> FloatArray:  # noqa: ANN401 - NumPy or CuPy
    return np.asarray(array.get() if hasattr(array, "get") else array, dtype=np.float64)
