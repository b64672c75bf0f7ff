"""Every DFTB engine against 52 calculations with the DFTB+ 25.1 executable (SCC tolerance 1e-12).

Origin of the numbers: tests/data/dftbplus_reference.json, made with DFTB+ 25.1 from the Slater-Koster files 3ob-3-1
and mio-1-1, for nine molecules in the gas phase, in the field of 36 point charges, of the same charges with a
Gaussian blur of 1.5 bohr, without third order, at 1500 K, and with DFTB2/mio. Positions are in angstrom and converted
with DFTB+'s own bohr (0.529177249 angstrom).

DFTB+ differentiates its integrals numerically, so forces can agree to about 1e-8 hartree/bohr only.
"""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from deltaqmmm.dftb import DFTBEngine, DFTBSettings
from deltaqmmm.units import KELVIN
from tests.engines import KINDS

FILE = Path(__file__).parents[1] / "data" / "dftbplus_reference.json"
REFERENCE = json.loads(FILE.read_text())
CASES = REFERENCE["cases"]
BOHR = REFERENCE["bohr_in_angstrom"]
MOLECULES = sorted({name.split("/")[0] for name in CASES})

ENERGY, CHARGE, FORCE = 1e-7, 1e-6, 1e-6


def settings_of(case):
    return DFTBSettings(
        model="dftb3" if case["third_order"] else "dftb2",
        parameters=case["parameters"],
        damping_exponent=case["h_damping_exponent"],
        electronic_temperature=case["electronic_temperature_K"] * KELVIN,
        scc_tolerance=1e-10,
    )


def positions_of(case):
    return torch.tensor(case["positions_angstrom"], dtype=torch.float64) / BOHR


def point_charges_of(case):
    """Positions (m, 3) in bohr and charges (m,) in e; none in the gas phase."""
    rows = torch.tensor(case.get("point_charges_angstrom_e", []), dtype=torch.float64).reshape(-1, 4)
    return rows[:, :3] / BOHR, rows[:, 3]


def potential_at(positions, sites, charges, blur):
    distances = torch.cdist(positions, sites, compute_mode="donot_use_mm_for_euclid_dist")
    kernel = torch.erf(distances / blur) / distances if blur else 1.0 / distances
    return kernel @ charges


def evaluate_with_charges(engine, cases, cycles=None):
    """Energies, gross charges, forces on atoms and forces on point charges of a list of cases as one batch.

    The number of SCC cycles of the first is appended to `cycles`.
    """
    positions = torch.stack([positions_of(case) for case in cases]).requires_grad_()
    sites = [point_charges_of(case)[0].requires_grad_() for case in cases]
    potentials = torch.stack(
        [
            potential_at(x, s, point_charges_of(case)[1], case.get("blur_width_bohr"))
            for case, x, s in zip(cases, positions, sites, strict=True)
        ]
    )
    result = engine.evaluate(positions, potentials)
    if cycles is not None:
        cycles.append(int(result.iterations[0]))
    by_position, *by_site = torch.autograd.grad(
        potentials, [positions, *sites], result.charges, allow_unused=True, materialize_grads=True
    )
    forces = -(result.gradients + by_position)
    return result.energies.numpy(), result.charges.numpy(), forces.numpy(), [-g.numpy() for g in by_site]


def assert_agrees(case, energy, charges, forces, site_forces):
    assert abs(energy - case["mermin_free_energy_hartree"]) < ENERGY
    assert np.abs(charges - case["gross_atomic_charges"]).max() < CHARGE
    assert np.abs(forces - case["forces_hartree_per_bohr"]).max() < FORCE
    expected = case.get("forces_on_point_charges_hartree_per_bohr", [])
    if expected:
        assert np.abs(site_forces - np.array(expected)).max() < FORCE


def test_there_are_52_cases():
    assert len(CASES) == 52


# Recorded cycles take seconds for each case to be recorded: they are among the batches below.
@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "replayed"])
@pytest.mark.parametrize("name", sorted(CASES))
def test_single_frame(make_engine, name, kind):
    case = CASES[name]
    engine = make_engine(kind, case["symbols"], case["charge"], settings_of(case))
    energies, charges, forces, site_forces = evaluate_with_charges(engine, [case])
    assert_agrees(case, energies[0], charges[0], forces[0], site_forces[0])


# Water, an ion, and d orbitals stand for all where cycles are recorded: the cycles are the same functions of arrays.
RECORDED = "water", "acetate", "chloromethane"


@pytest.mark.parametrize(
    ("molecule", "kind"), [(m, k) for m in MOLECULES for k in KINDS if k != "replayed" or m in RECORDED]
)
def test_one_batch_per_group(make_engine, molecule, kind):
    """All cases of a molecule that share their settings are evaluated as one batch, beside distorted copies.

    The copies converge in other numbers of cycles, so frames leave the batch at different times.
    """
    groups = {}
    for name, case in CASES.items():
        if name.split("/")[0] == molecule:
            groups.setdefault(settings_of(case), []).append(case)
    generator = np.random.default_rng(7)
    for settings, cases in groups.items():
        copies = []
        for _ in range(2):
            shift = 0.08 * generator.standard_normal((len(cases[0]["symbols"]), 3))
            copies.append(
                cases[0] | {"positions_angstrom": (np.array(cases[0]["positions_angstrom"]) + shift).tolist()}
            )
        mixed = [copies[0], *cases, copies[1]]
        engine = make_engine(kind, cases[0]["symbols"], cases[0]["charge"], settings)
        energies, charges, forces, site_forces = evaluate_with_charges(engine, mixed)
        for i, case in enumerate(cases, start=1):
            assert_agrees(case, energies[i], charges[i], forces[i], site_forces[i])


ROUTES = {
    "compiled": {},
    "torch": {"compiled": False},
    "diagonalisation": {"compiled": False, "solver": "diagonalisation"},
    "purification": {"solver": "purification"},
}
WARM = [
    (name, route)
    for name in sorted(CASES)
    for route in ROUTES
    if route == "torch" or not CASES[name]["electronic_temperature_K"]
]


@pytest.mark.parametrize(("name", "route"), WARM)
def test_at_the_end_of_a_trajectory(name, route):
    """Frames that move towards the reference case, so that all of it starts warm: charges, response and solver."""
    case = CASES[name]
    settings = replace(settings_of(case), **ROUTES[route])
    engine = DFTBEngine(case["symbols"], case["charge"], settings)
    velocity = 0.005 * np.random.default_rng(11).standard_normal((len(case["symbols"]), 3))
    cycles = []
    for left in range(5, -1, -1):
        positions = np.array(case["positions_angstrom"]) + left * velocity
        frame = case | {"positions_angstrom": positions.tolist()}
        energies, charges, forces, site_forces = evaluate_with_charges(engine, [frame], cycles)
    assert_agrees(case, energies[0], charges[0], forces[0], site_forces[0])
    assert cycles[-1] < cycles[0]
