"""The user's own dftb_in.hsd: what is taken, and what is refused."""

import re

import numpy as np
import pytest
import torch

from deltaqmmm.dftb import DFTBSettings
from deltaqmmm.dftb.dftbplus.processed import check_user_input, entries
from deltaqmmm.errors import ParameterError
from tests.unit.dftb.test_engine import frame, potential

HYDROXYL = """
Geometry = GenFormat {{
  2 C
  O H
  1 1 0.0 0.0 0.0
  2 2 0.0 0.0 1.0
}}
Hamiltonian = DFTB {{
  SCC = Yes
  SCCTolerance = 1e-10
  MaxAngularMomentum {{ O = "p"; H = "s" }}
  SlaterKosterFiles = Type2FileNames {{ Prefix = "{folder}/"; Separator = "-"; Suffix = ".skf" }}
  SpinPolarisation = Colinear {{ UnpairedElectrons = {unpaired} }}
  SpinConstants {{
    ShellResolvedSpin = No
    O = -0.028
    H = -0.072
  }}
  Filling = Fermi {{ Temperature [Kelvin] = 300 }}
}}
Analysis {{ CalculateForces = Yes }}
ParserOptions {{ ParserVersion = 12 }}
"""
WATER = """
Hamiltonian = DFTB {{
  SCC = Yes
  SCCTolerance = {tolerance}
  {hamiltonian}
  MaxAngularMomentum {{ O = "p"; H = "s" }}
  SlaterKosterFiles = Type2FileNames {{ Prefix = "{folder}/"; Separator = "-"; Suffix = ".skf" }}
}}
Analysis {{ CalculateForces = {forces} }}
ParserOptions {{ ParserVersion = 12; {parser} }}
{rest}
"""
SETTINGS = DFTBSettings()


@pytest.fixture
def water(tmp_path, slater_koster_folder, make_engine):
    """water(hamiltonian=..., forces=..., rest=...): an engine for an input of its own."""

    def make(hamiltonian="", forces="Yes", rest="", parser="", tolerance="1e-10", symbols=("O", "H", "H")):
        hsd = tmp_path / "dftb_in.hsd"
        words = {"hamiltonian": hamiltonian, "forces": forces, "rest": rest, "parser": parser, "tolerance": tolerance}
        hsd.write_text(WATER.format(folder=slater_koster_folder, **words))
        return make_engine("dftb+", symbols, 0, SETTINGS, hsd=hsd)

    return make


def test_the_same_method_gives_the_same_numbers(water, make_engine):
    symbols, charge, positions = frame("water")
    phi = potential(3)
    ours = make_engine("torch", symbols, charge, DFTBSettings(model="dftb2", scc_tolerance=1e-10))
    one, other = (engine.evaluate(positions[None], phi[None]) for engine in (water(), ours))
    assert float((one.energies - other.energies).abs()) < 1e-10
    assert torch.allclose(one.gradients, other.gradients, atol=1e-7)
    assert torch.allclose(one.charges, other.charges, atol=1e-8)


def test_the_input_is_taken_as_it_is(water):
    """Third order comes from the input, not from [dftb]."""
    _, _, positions = frame("water")
    third = "ThirdOrderFull = Yes\nHubbardDerivs { O = -0.1575; H = -0.1857 }"
    second, full = (water(hamiltonian=text).evaluate(positions[None], potential(3)[None]) for text in ("", third))
    assert abs(float(second.energies - full.energies)) > 1e-4


@pytest.mark.parametrize("unpaired", [1, 3])
def test_spin_with_derivatives_that_are_exact(tmp_path, slater_koster_folder, make_engine, unpaired):
    """A radical in a potential: charges and gradient are the derivatives of its energy."""
    hsd = tmp_path / "dftb_in.hsd"
    hsd.write_text(HYDROXYL.format(folder=slater_koster_folder, unpaired=unpaired))
    engine = make_engine("dftb+", ["O", "H"], 0, SETTINGS, hsd=hsd)
    positions = torch.tensor([[0.0, 0.1, 0.0], [0.2, 0.0, 1.9]], dtype=torch.float64)
    phi = torch.tensor([0.05, -0.03], dtype=torch.float64)
    result = engine.evaluate(positions[None], phi[None])
    step = 1e-3 * torch.eye(2, dtype=torch.float64)
    energies = engine.evaluate(positions.expand(4, -1, -1), phi + torch.cat([step, -step])).energies
    assert torch.allclose((energies[:2] - energies[2:]) / 2e-3, result.charges[0], atol=2e-6)
    moved = torch.zeros(2, 2, 3, dtype=torch.float64)
    moved[0, 1, 2], moved[1, 1, 2] = 1e-3, -1e-3
    energies = engine.evaluate(positions + moved, phi.expand(2, -1)).energies
    assert float((energies[0] - energies[1]) / 2e-3) == pytest.approx(float(result.gradients[0, 1, 2]), abs=2e-6)


@pytest.mark.parametrize(("tolerance", "warned"), [(1e-5, True), (1e-7, False)])
def test_a_wide_tolerance_is_known_and_warned_of(water, caplog, tolerance, warned):
    assert water(tolerance=f"{tolerance:g}").settings.scc_tolerance == tolerance
    assert ("a run that conserves energy drifts" in caplog.text) == warned


def test_orbital_potentials(water):
    """DFTB+U: the test of derivatives at the first frame passes, and the energy is another one."""
    _, _, positions = frame("water")
    text = "OrbitalPotential { Functional = FLL; O { Shells = 2; UJ = 0.2 } }"
    plain, corrected = (
        water(hamiltonian=words).evaluate(positions[None], potential(3)[None]).energies for words in ("", text)
    )
    assert abs(float(plain - corrected)) > 1e-3


def test_relative_paths_begin_beside_the_input_and_nothing_is_written_there(
    tmp_path, slater_koster_folder, make_engine
):
    (tmp_path / "slako").symlink_to(slater_koster_folder)
    (tmp_path / "water.gen").write_text("3 C\nO H\n1 1 0 0 0\n2 2 0 0 1\n3 2 0 1 0\n")
    (tmp_path / "detailed.out").write_text("mine")
    geometry = 'Geometry = GenFormat {\n<<< "water.gen"\n}'
    text = WATER.format(folder="slako", hamiltonian="", forces="Yes", rest=geometry, parser="", tolerance="1e-8")
    (tmp_path / "my.hsd").write_text(text)
    before = sorted(tmp_path.iterdir())
    _, _, positions = frame("water")
    engine = make_engine("dftb+", ["O", "H", "H"], 0, SETTINGS, hsd=tmp_path / "my.hsd")
    engine.evaluate(positions[None], potential(3)[None])
    assert sorted(tmp_path.iterdir()) == before
    assert (tmp_path / "detailed.out").read_text() == "mine"
    assert (tmp_path / "my.hsd").read_text() == text


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"forces": "No"}, "asks for no forces. Add Analysis"),
        ({"hamiltonian": "Charge = 1"}, r"Charge = 1, but the QM region has the charge 0"),
        ({"hamiltonian": "ConvergentSCCOnly = No"}, "ConvergentSCCOnly = No: .*nothing unconverged may leave"),
        ({"hamiltonian": "Solvation = GeneralizedBorn { Solvent = fromName { H2O } }"}, "Solvation"),
        (
            {"hamiltonian": "ElectricField { PointCharges { CoordsAndCharges { 9.0 0.0 0.0 1.0 } } }"},
            "ElectricField = PointCharges: .* get no forces",
        ),
        (
            {"hamiltonian": "AtomSitePotential { Gross { Atoms { 1 }\nVext [au] { 0.1 } } }"},
            "AtomSitePotential = Gross: .* would act on the QM region alone",
        ),
        (
            {"rest": "Driver = GeometryOptimization {}"},
            "i-PI moves the atoms",
        ),
        ({"parser": "WriteHSDInput = No"}, "has WriteHSDInput = No"),
        ({"rest": "Nonsense = 3"}, 'DFTB\\+ says ".*Nonsense'),
        ({"symbols": ("O", "H")}, "has 3 atoms"),
        ({"symbols": ("H", "O", "H")}, "atom 1 of its geometry has a mass of 16.0.*is H"),
    ],
)
def test_what_cannot_be_used_is_refused_with_the_reason(water, given, words):
    # The geometry is given, so that one for other atoms shows.
    geometry = "Geometry = GenFormat {\n3 C\nO H\n1 1 0 0 0\n2 2 0 0 1\n3 2 0 1 0\n}\n"
    with pytest.raises(ParameterError, match=words):
        water(**{**given, "rest": geometry + given.get("rest", "")})


def test_excited_states_are_refused():
    """Their charges are not the derivative of the energy; DFTB+ needs ARPACK for them, which few builds have."""
    processed = "ExcitedState = {\n  Casida = {\n    NrOfExcitations = 3\n  }\n}\n"
    with pytest.raises(ParameterError, match=r"ExcitedState = \{\.\.\.\}: the energy is that of the ground state"):
        check_user_input("x", processed, 1, None, ["H"], 0)


def test_charges_that_are_no_derivative_are_refused(water, monkeypatch):
    """Whatever the method is: it is tested by differences at the first frame."""
    engine = water()
    true = engine._answers

    def wrong(positions, potentials):
        answers = true(positions, potentials)
        for answer in answers:
            answer.charges[:] *= 1.1
        return answers

    monkeypatch.setattr(engine, "_answers", wrong)
    _, _, positions = frame("water")
    with pytest.raises(ParameterError, match=r"charges that DFTB\+ gives with this input are not the derivative"):
        engine.evaluate(positions[None], potential(3)[None])


def test_gradients_that_are_no_derivative_are_refused(water, monkeypatch):
    engine = water()
    true = engine._answers

    def wrong(positions, potentials):
        answers = true(positions, potentials)
        for answer in answers:
            answer.gradients[:] += 0.02
        return answers

    monkeypatch.setattr(engine, "_answers", wrong)
    _, _, positions = frame("water")
    with pytest.raises(ParameterError, match=r"gradient that DFTB\+ gives with this input are not the derivative"):
        engine.evaluate(positions[None], potential(3)[None])


def test_values_are_found_by_their_path():
    found = entries(
        "Hamiltonian = DFTB {\n  Charge = -1.0000\n  Filling = Fermi {\n    Temperature [Kelvin] = 3.0\n  }\n"
        "  Solver = RelativelyRobust {}\n  Solvation = {}\n}\nReks = None {}\nGeometry = GenFormat {\n2 C\nO H\n}\n"
        "Analysis = {\n  PrintForces = Yes\n}\n"
    )
    assert found["hamiltonian"] == "DFTB"
    assert float(found["hamiltonian/charge"]) == -1.0
    assert found["hamiltonian/filling/temperature"] == "3.0"
    assert found["hamiltonian/solver"] == "RelativelyRobust"
    assert found["hamiltonian/solvation"] == ""
    assert found["reks"] == "None"
    assert found["analysis/printforces"] == "Yes"


def test_masses_of_a_hydrogen_that_is_deuterium_are_refused_with_the_reason(tmp_path):
    masses = np.array([2.014]) * 1822.888
    with pytest.raises(ParameterError, match=re.escape("has a mass of 2.01, and that of the QM region is H (1.01)")):
        check_user_input("x", "Analysis = {\n  PrintForces = Yes\n}\n", 1, masses, ["H"], 0)
