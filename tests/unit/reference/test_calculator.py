import numpy as np
import pytest

from deltaqmmm.dispersion import Dispersion
from deltaqmmm.errors import ConfigError, ConvergenceError, ExternalToolError
from deltaqmmm.reference import ReferenceSettings
from deltaqmmm.reference.calculator import ReferenceCalculator
from deltaqmmm.reference.scf import self_consistent

pytest.importorskip("pyscf", reason="reference labels need PySCF: pip install 'deltaqmmm[reference]'")

STEP = 2e-3
METHODS = {
    "hf": ReferenceSettings("hf", "sto-3g", density_fitting=False, dispersion="none", energy_tolerance=1e-12),
    "pbe0-d3, fitted": ReferenceSettings("pbe0", "sto-3g", grid_level=0, energy_tolerance=1e-12),
    "blyp": ReferenceSettings("blyp", "3-21g", density_fitting=False, grid_level=0, energy_tolerance=1e-12),
}


@pytest.fixture(params=METHODS)
def settings(request):
    return METHODS[request.param]


@pytest.mark.parametrize("blur", [0.0, 1.5])
def test_derivatives_by_everything_are_those_of_the_energy(water, settings, blur):
    calculator = ReferenceCalculator(water.symbols, 0, settings, blur, threads=1)
    arrays = [water.qm_positions, water.mm_positions, water.mm_charges]
    label = calculator.label(*arrays).label
    derivatives = [label.qm_gradients, label.mm_gradients, label.mm_potentials]
    for array, derivative, places in zip(
        arrays, derivatives, ([(0, 2), (1, 1)], [(0, 0), (3, 1)], [(0,), (4,)]), strict=True
    ):
        for place in places:
            energies = []
            for step in (STEP, -STEP):
                start = array[place]
                array[place] = start + step
                energies.append(calculator.label(*arrays).label.energy)
                array[place] = start
            numerical = (energies[0] - energies[1]) / (2.0 * STEP)
            assert derivative[place] == pytest.approx(numerical, abs=2e-6), place
    # Moving everything together changes nothing.
    np.testing.assert_allclose(label.qm_gradients.sum(0) + label.mm_gradients.sum(0), 0.0, atol=1e-8)


@pytest.mark.parametrize("blur", [0.0, 1.5])
def test_site_gradients_are_those_of_pyscf(water, blur):
    from pyscf import gto, qmmm, scf

    radii = np.full(7, blur) if blur else None
    molecule = gto.M(atom=list(zip(water.symbols, water.qm_positions, strict=True)), unit="bohr", basis="6-31g")
    field = qmmm.mm_charge(scf.RHF(molecule), water.mm_positions, water.mm_charges, radii=radii, unit="bohr")
    field.run(conv_tol=1e-12, verbose=0)
    gradients = field.nuc_grad_method()
    expected = gradients.grad_nuc_mm() + gradients.grad_hcore_mm(field.make_rdm1())
    settings = ReferenceSettings("hf", "6-31g", density_fitting=False, dispersion="none", energy_tolerance=1e-12)
    calculator = ReferenceCalculator(water.symbols, 0, settings, blur)
    label = calculator.label(water.qm_positions, water.mm_positions, water.mm_charges).label
    assert label.energy == pytest.approx(field.e_tot, abs=1e-10)
    np.testing.assert_allclose(label.mm_gradients, expected, atol=1e-7)
    np.testing.assert_allclose(label.qm_gradients, gradients.kernel(), atol=1e-7)


def test_blur_is_that_of_the_embedding(water):
    """Far from the nuclei the QM region is a set of multipoles, and the potential of blurred charges is erf(r/b)/r."""
    from scipy.special import erf

    settings = ReferenceSettings("hf", "sto-3g", density_fitting=False, dispersion="none", energy_tolerance=1e-12)
    width, far = 30.0, np.array([[0.0, 0.0, 25.0]])
    # An ion, whose monopole dominates.
    label = ReferenceCalculator(("O", "H", "H", "H"), 1, settings, width).label(
        np.vstack([water.qm_positions, [[1.5, 0.0, 0.9]]]), far, np.array([1e-6])
    )
    assert label.label.mm_potentials[0] == pytest.approx(erf(25.0 / width) / 25.0, rel=0.02)


def test_no_charges_is_the_isolated_molecule(water):
    from pyscf import gto, scf

    molecule = gto.M(atom=list(zip(water.symbols, water.qm_positions, strict=True)), unit="bohr", basis="sto-3g")
    expected = scf.RHF(molecule).run(verbose=0).e_tot
    label = ReferenceCalculator(water.symbols, 0, METHODS["hf"]).label(
        water.qm_positions, np.zeros((0, 3)), np.zeros(0)
    )
    assert label.label.energy == pytest.approx(expected, abs=1e-8)
    assert label.label.mm_gradients.shape == (0, 3)


def test_dispersion_has_the_parameters_of_the_functional(water):
    """PBE0-D3(BJ): s8 1.2177, a1 0.4145, a2 4.8593 (doi 10.1002/jcc.21759)."""
    empty = np.zeros((0, 3)), np.zeros(0)
    with_d3 = ReferenceCalculator(water.symbols, 0, ReferenceSettings("pbe0", "sto-3g", grid_level=0))
    without = ReferenceCalculator(
        water.symbols, 0, ReferenceSettings("pbe0", "sto-3g", grid_level=0, dispersion="none")
    )
    both, one = (calculator.label(water.qm_positions, *empty).label for calculator in (with_d3, without))
    difference = both.energy - one.energy
    parameters = {"s6": 1.0, "s8": 1.2177, "a1": 0.4145, "a2": 4.8593, "s9": 0.0}
    (expected,), (gradient,) = Dispersion(water.symbols, parameters).evaluate(water.qm_positions[None])
    assert difference == pytest.approx(expected, abs=1e-8)
    assert abs(difference) > 1e-5
    largest = np.abs(gradient).max()
    np.testing.assert_allclose(both.qm_gradients - one.qm_gradients, gradient, rtol=0, atol=1e-3 * largest)
    assert largest > 1e-6


@pytest.mark.parametrize(
    ("changes", "needed"),
    [
        ({"functional": "pbe9", "dispersion": "none"}, "pbe9"),
        ({"functional": "pbe9"}, "pbe9"),
        ({"functional": "svwn"}, "no D3"),
        ({"basis": "def2-nothing"}, "def2-nothing"),
    ],
)
@pytest.mark.filterwarnings("ignore:Basis may be available")
def test_unknown_names(water, changes, needed):
    with pytest.raises(ConfigError, match=needed):
        ReferenceCalculator(water.symbols, 0, ReferenceSettings(**changes))


def test_gpu_that_is_not_there(water):
    try:
        import gpu4pyscf  # noqa: F401
    except ImportError:
        with pytest.raises(ExternalToolError, match="gpu4pyscf"):
            ReferenceCalculator(water.symbols, 0, ReferenceSettings(device="cuda"))
        ReferenceCalculator(water.symbols, 0, ReferenceSettings(device="auto"))
    else:
        pytest.skip("gpu4pyscf is installed")


class FakeField:
    """Converges in the attempt that it is told to."""

    def __init__(self, good_attempt, made):
        self.attempt = len(made)
        self.good = self.attempt == good_attempt
        self.converged, self.cycles, self.e_tot, self.mo_coeff = False, 0, -1.0, None
        self.level_shift = self.damp = 0.0
        self.shifts = []
        made.append(self)

    def kernel(self, dm0=None):
        self.shifts.append(self.level_shift)
        self.converged = self.good
        self.e_tot = -1.0 if self.good else float("nan")
        self.mo_energy = self.mo_occ = self.mo_coeff = None

    def make_rdm1(self):
        return np.eye(2)

    def newton(self):
        return self


@pytest.mark.parametrize("good_attempt", [0, 1, 2])
def test_safer_attempts_come_one_after_the_other(good_attempt):
    made = []
    field = self_consistent(lambda: FakeField(good_attempt, made), 10)
    assert field.attempt == good_attempt == len(made) - 1
    if good_attempt == 1:
        assert field.shifts[0] > 0.0
        assert field.shifts[-1] == 0.0


def test_no_attempt_helps():
    with pytest.raises(ConvergenceError, match=r"DIIS.*level shift.*second order"):
        self_consistent(lambda: FakeField(9, []), 10)


def test_the_safer_attempts_give_the_same_label(water):
    """A stretched molecule, where plain DIIS is given too few cycles."""
    arrays = water.qm_positions, water.mm_positions, water.mm_charges
    plain = ReferenceCalculator(water.symbols, 0, METHODS["hf"]).label(*arrays)
    few = ReferenceSettings(
        "hf", "sto-3g", density_fitting=False, dispersion="none", energy_tolerance=1e-12, max_cycles=5
    )
    assert plain.scf_cycles > 5
    helped = ReferenceCalculator(water.symbols, 0, few).label(*arrays)
    assert helped.label.energy == pytest.approx(plain.label.energy, abs=1e-9)
    np.testing.assert_allclose(helped.label.qm_gradients, plain.label.qm_gradients, atol=1e-6)
    np.testing.assert_allclose(helped.label.mm_gradients, plain.label.mm_gradients, atol=1e-6)
