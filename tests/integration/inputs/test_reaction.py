"""The path of a reaction, a nudged elastic band and an instanton: images move, ends do not, and each has its own
energy."""

import subprocess
import sys

import numpy as np
from ase.io import read

from deltaqmmm.config import read_config
from deltaqmmm.config.loading import load_potential
from deltaqmmm.units import ANGSTROM
from tests.integration.inputs.case import INPUTS, make, run

IMAGES, BEADS = 9, 16


def frames(folder, prefix, number):
    """Shape (images, steps, atoms, 3), angstrom."""
    width = len(str(number - 1))
    files = [folder / f"{prefix}.pos_{index:0{width}d}.xyz" for index in range(number)]
    return np.array([[frame.positions for frame in read(file, index=":", format="xyz")] for file in files])


def energies(folder, positions):
    potential = load_potential(read_config(folder / "config.toml"))
    return potential.evaluate(np.zeros((len(positions), 3, 3)), positions * ANGSTROM).energies


def columns(file, number):
    """The energies of the images; the last columns."""
    table = np.loadtxt(file)
    return table[:, -number:]


def test_the_band_relaxes_between_its_ends(tmp_path):
    folder = make("reaction", tmp_path, "malonaldehyde")
    run(folder, 12)
    table, images = columns(folder / "neb.out", IMAGES), frames(folder, "neb", IMAGES)
    start = np.array([frame.positions for frame in read(folder / "band.xyz", index=":", format="xyz")])
    np.testing.assert_allclose(images[[0, -1]], np.broadcast_to(start[[0, -1], None], images[[0, -1]].shape), atol=1e-4)
    assert np.abs(images[4, -1] - start[4]).max() > 0.02
    assert table[-1].max() < table[0].max() - 1e-3
    np.testing.assert_allclose(table[-1], energies(folder, images[:, -1]), atol=2e-6)


def test_another_system_needs_its_own_band(tmp_path):
    folder = make("reaction", tmp_path)
    for file, frames_file in (("input.xml", "band.xyz"), ("instanton.xml", "path.xyz")):
        assert f"<file mode='xyz'> {frames_file} </file>" in (folder / file).read_text()
        assert f"names '{frames_file}', and there is no such file" in run(folder, status=1, input=file)
    assert not (folder / "ipi.log").exists()


def test_the_instanton_converges(tmp_path):
    folder = make("reaction", tmp_path, "malonaldehyde")
    run(folder, input="instanton.xml")
    assert "Geometry optimization converged" in (folder / "ipi.log").read_text()
    table, beads = columns(folder / "instanton.out", BEADS), frames(folder, "instanton", BEADS)
    np.testing.assert_allclose(table[-1], energies(folder, beads[:, -1]), atol=2e-6)
    # From one side of the saddle point to the other.
    near, far = (np.linalg.norm(beads[:, -1, 8] - beads[:, -1, oxygen], axis=1) for oxygen in (4, 0))
    assert np.sign((near - far)[0]) == -np.sign((near - far)[-1])
    assert np.abs(near - far).max() > 0.3
    np.testing.assert_allclose(table[-1], table[-1, ::-1], atol=1e-5)


def test_band_lays_the_product_onto_the_reactant(tmp_path):
    folder = INPUTS / "reaction"
    given = (INPUTS / "malonaldehyde" / "init.xyz").read_text().splitlines()
    turned = read(INPUTS / "malonaldehyde" / "init.xyz", format="xyz")
    turned.rotate(70, (1, 2, 3))
    turned.translate((3.0, 0.0, 1.0))
    rows = [
        f"{symbol} {x:.8f} {y:.8f} {z:.8f}" for symbol, (x, y, z) in zip(turned.symbols, turned.positions, strict=True)
    ]
    (tmp_path / "product.xyz").write_text("\n".join([*given[:2], *rows]) + "\n")
    command = [sys.executable, folder / "band.py", INPUTS / "malonaldehyde" / "init.xyz", tmp_path / "product.xyz", "4"]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    (tmp_path / "band.xyz").write_text(said)
    images = read(tmp_path / "band.xyz", index=":", format="xyz")
    assert len(images) == 4
    for image in images:
        np.testing.assert_allclose(image.positions, images[0].positions, atol=1e-6)
    assert said.splitlines()[1] == given[1]


def test_beads_of_an_instanton_are_denser_at_its_ends():
    words = ["init.xyz", "band.xyz", "8", "instanton"]
    command = [sys.executable, INPUTS / "reaction" / "band.py", *words]
    lines = subprocess.run(command, capture_output=True, text=True, check=True, cwd=INPUTS / "malonaldehyde").stdout
    hydrogen = np.array([line.split()[1:] for line in lines.splitlines()[10::11]], dtype=float)
    gaps = np.linalg.norm(np.diff(hydrogen, axis=0), axis=1)
    assert len(gaps) == 7
    assert gaps[0] == np.min(gaps)
    assert gaps[3] == np.max(gaps)
    np.testing.assert_allclose(gaps, gaps[::-1], atol=1e-6)


def test_band_refuses_other_atoms(tmp_path):
    other = (INPUTS / "malonaldehyde" / "init.xyz").read_text().replace("O   ", "C   ", 1)
    (tmp_path / "product.xyz").write_text(other)
    command = [
        sys.executable,
        INPUTS / "reaction" / "band.py",
        INPUTS / "malonaldehyde" / "init.xyz",
        tmp_path / "product.xyz",
        "4",
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "differ in their atoms" in done.stderr
