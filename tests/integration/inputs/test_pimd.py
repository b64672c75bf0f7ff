"""Path integrals: the estimators against their formulas, and batches of beads against beads one by one."""

import re

import numpy as np
import pytest
from ase.data import atomic_masses, atomic_numbers
from scipy.linalg import solve_discrete_lyapunov

from deltaqmmm.analysis.outputs import bead_files, read_properties, read_trajectory
from deltaqmmm.units import ANGSTROM, DALTON, FEMTOSECOND, KELVIN
from tests.integration.inputs.case import INPUTS, make, run

STEPS = 24


def change(folder, *pairs, file="input.xml"):
    text = (folder / file).read_text()
    for pattern, value in pairs:
        text, count = re.subn(pattern, value, text)
        assert count == 1, pattern
    (folder / file).write_text(text)


def frames(folder, prefix, name):
    """Shape (beads, steps, atoms, 3), in the unit of the files; and the symbols."""
    read = [read_trajectory(file) for file in bead_files(folder, prefix, name)]
    return np.array([one.values for one in read]), read[0].symbols


@pytest.mark.parametrize(("file", "prefix"), [("input.xml", "run"), ("pile_g.xml", "pile_g")])
def test_estimators_are_their_formulas(tmp_path, file, prefix):
    beads, thermal = 4, 300.0 * KELVIN
    folder = make("pimd", tmp_path, beads=beads, steps=STEPS)
    change(
        folder, ("<checkpoint", "<trajectory filename='for' stride='1'> forces </trajectory> <checkpoint"), file=file
    )
    run(folder, input=file)
    positions, symbols = frames(folder, prefix, "pos")
    forces, _ = frames(folder, prefix, "for")
    assert positions.shape == forces.shape == (beads, STEPS + 1, 204, 3)
    positions = positions * ANGSTROM
    kinetic, spread = read_properties(folder / f"{prefix}.kinetic"), read_properties(folder / f"{prefix}.spread")
    masses = atomic_masses[[atomic_numbers[symbol] for symbol in symbols]] * DALTON
    inner = positions - positions.mean(axis=0)
    # Centroid virial: Herman, Bruskin, Berne, J. Chem. Phys. 76, 5150 (1982); thermodynamic: Barker, ibid. 70, 2914
    # (1979).
    virial = 1.5 * thermal - 0.5 * (inner * forces).sum(axis=3).mean(axis=0)
    springs = masses * (beads * thermal) ** 2 * ((positions - np.roll(positions, 1, axis=0)) ** 2).sum(axis=(0, 3))
    thermodynamic = 1.5 * beads * thermal - 0.5 * springs / beads
    radii = np.sqrt((inner**2).sum(axis=3).mean(axis=0)) / ANGSTROM
    # Positions are written with six digits: 1e-4 angstrom.
    for atom in (8, 11):
        np.testing.assert_allclose(kinetic[f"kinetic_cv({atom})"], virial[:, atom], rtol=0.03)
        np.testing.assert_allclose(kinetic[f"kinetic_td({atom})"], thermodynamic[:, atom], rtol=0.03)
    np.testing.assert_allclose(kinetic["kinetic_cv"], virial.sum(axis=1), rtol=2e-3)
    np.testing.assert_allclose(kinetic["kinetic_td"], thermodynamic.sum(axis=1), rtol=2e-2)
    light = np.array([symbol == "H" for symbol in symbols])
    np.testing.assert_allclose(spread["r_gyration(H)"], radii[:, light].mean(axis=1), atol=2e-4)
    np.testing.assert_allclose(spread["r_gyration(4)"], radii[:, 4], atol=3e-4)
    # Beads begin on top of each other; after 12 fs those of hydrogen have spread more than those of oxygen.
    assert spread["r_gyration(H)"][0] < 1e-9
    assert spread["r_gyration(H)"][-1] > 1.5 * spread["r_gyration(O)"][-1] > 0.03
    # What the thermostat puts in is accounted for.
    out = read_properties(folder / f"{prefix}.out")
    assert np.ptp(out["kinetic_md"] + out["potential"]) > 0.1
    assert np.ptp(out["conserved"][4:]) < 5e-3


def harmonic(frequency, beads, step, splitting):
    """Of a harmonic oscillator, by the stationary covariance of i-PI's step with PILE-L.

    Kinetic energy by both estimators, and the temperature of the momenta as a part of the one that is asked for.

    Each normal mode of the ring polymer is a linear system of position and momentum, which i-PI moves exactly where
    it is free.
    """
    thermal = 300.0 * KELVIN
    virial, thermodynamic, momenta = 0.5 * thermal, 0.5 * beads * thermal, 0.0
    for mode in range(beads):
        spring = 2.0 * beads * thermal * np.sin(mode * np.pi / beads)
        friction = spring if mode else 1.0 / (100.0 * FEMTOSECOND)

        def kick(time):
            return np.array([[1.0, 0.0], [-time * frequency**2, 1.0]]), 0.0

        def free(time, spring=spring):
            angle = time * spring
            return np.array(
                [[np.cos(angle), time * np.sinc(angle / np.pi)], [-spring * np.sin(angle), np.cos(angle)]]
            ), 0.0

        def damp(time, friction=friction):
            kept = np.exp(-friction * time)
            return np.diag([1.0, kept]), np.diag([0.0, beads * thermal * (1.0 - kept**2)])

        parts = {"A": free, "B": kick, "O": damp}
        change, noise = np.eye(2), np.zeros((2, 2))
        for letter in splitting.upper():
            one, added = parts[letter](step / splitting.upper().count(letter))
            change, noise = one @ change, one @ noise @ one.T + added
        covariance = solve_discrete_lyapunov(change, noise)
        spread = covariance[0, 0]
        momenta += covariance[1, 1] / (beads**2 * thermal)
        virial += 0.5 * frequency**2 * spread / beads if mode else 0.0
        thermodynamic -= 0.5 * spring**2 * spread / beads
    return (virial, thermodynamic), momenta


@pytest.mark.parametrize(
    ("beads", "splitting", "errors"),
    [(32, "obabo", (0.03, -0.11)), (32, "baoab", (0.004, -0.023)), (8, "baoab", (0.002, -0.001))],
)
def test_what_the_splitting_does_to_the_estimators(beads, splitting, errors):
    """The numbers of the README, for an O-H stretch and 0.5 fs."""
    frequency = 3500.0 * 4.5563352529e-6
    springs = 2.0 * beads * 300.0 * KELVIN * np.sin(np.arange(beads) * np.pi / beads)
    exact = 0.5 * 300.0 * KELVIN * (frequency**2 / (frequency**2 + springs**2)).sum()
    # Without a time step both are exact.
    np.testing.assert_allclose(harmonic(frequency, beads, 1e-3 * FEMTOSECOND, splitting)[0], exact, rtol=1e-5)
    found, momenta = harmonic(frequency, beads, 0.5 * FEMTOSECOND, splitting)
    np.testing.assert_allclose(np.array(found) / exact - 1.0, errors, atol=0.0005 if beads == 8 else 0.005)
    assert momenta == pytest.approx(1.0 if splitting == "obabo" else 0.972, abs=0.0015)
    for file in ("input.xml", "pile_g.xml"):
        assert "splitting='baoab'" in (INPUTS / "pimd" / file).read_text()


def test_a_batch_is_as_bead_by_bead(tmp_path):
    """The same seed, once with all beads in one message and once with each alone."""
    beads, steps = 4, 10
    together, alone = (make("pimd", tmp_path, name=name, beads=beads, steps=steps, seed=5) for name in ("all", "one"))
    change(alone, (r"<batch_size> 4 </batch_size>", "<batch_size> 1 </batch_size>"))
    for folder in (together, alone):
        change(folder, ("<simulation ", "<simulation floatformat='%25.17e' "))
        config = folder / "config.toml"
        # OpenMM's CPU platform has single precision. Charges as converged as they can be: each start is another.
        text = config.read_text().replace('platform = "CPU"', 'platform = "Reference"')
        config.write_text(text.replace("scc_tolerance = 1e-8", "scc_tolerance = 1e-12"))
        run(folder)
    logs = [
        re.findall(r"(\d+) steps, (\d+) frames", (folder / "driver.log").read_text())[-1]
        for folder in (together, alone)
    ]
    assert int(logs[0][0]) < 2 * (steps + 1)
    assert int(logs[1][0]) >= beads * steps
    one, two = read_properties(together / "run.out"), read_properties(alone / "run.out")
    assert list(one["step"]) == list(range(steps + 1))
    for name in ("potential", "conserved", "kinetic_md", "kinetic_cv"):
        np.testing.assert_allclose(one[name], two[name], rtol=0.0, atol=1e-9, err_msg=name)
    kinetic = [read_properties(folder / "run.kinetic") for folder in (together, alone)]
    for name in kinetic[0]:
        np.testing.assert_allclose(kinetic[0][name], kinetic[1][name], rtol=1e-9, atol=1e-9, err_msg=name)
    np.testing.assert_array_equal(frames(together, "run", "pos")[0], frames(alone, "run", "pos")[0])
