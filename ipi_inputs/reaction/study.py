"""The numbers and the figure of README.md: the path of the proton in malonaldehyde, its saddle point, its instanton.

python study.py [FOLDER]             runs (or reads what is there), prints the table, writes figure.png
"""

import argparse
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np

from deltaqmmm.analysis import figures
from deltaqmmm.analysis.outputs import bead_files, read_properties, read_trajectory
from deltaqmmm.analysis.spectra import harmonic_wavenumbers
from deltaqmmm.units import HARTREE_IN_KJ_PER_MOL

HERE = Path(__file__).resolve().parent
MOLECULE = HERE.parent / "malonaldehyde"
DONOR, ACCEPTOR, PROTON = 4, 0, 8
RIGID = 6
BEADS = 16
KJ_PER_MOL_OF_WAVENUMBER = 0.01196266  # h c N_A / cm
KELVIN_OF_WAVENUMBER = 1.43877688  # h c / k / cm


def main(folder):
    """The band, the harmonic vibrations of its first image and of its highest, and an instanton.

    Args:
        folder: Where the runs are, or will be.

    Returns:
        Numbers of README.md: energies in kJ/mol over the minimum, lengths in angstrom, wavenumbers in cm-1 (an
        imaginary one is negative).
    """
    band = folder / "band"
    if not (band / "RESTART").is_file():
        new("reaction", band)
        deltaqmmm("run", band, "-q")
    energies = read_properties(band / "neb.out")["bead_potentials"] * HARTREE_IN_KJ_PER_MOL
    energies = energies - energies[:, :1]
    top = int(np.argmax(energies[-1]))
    frames = [read_trajectory(band / f"neb.pos_{index}.xyz").values for index in range(energies.shape[1])]
    before, images = (np.array([frame[number] for frame in frames]) for number in (0, -1))
    vibrations = {"minimum": vibrate(folder / "minimum", band, 0), "saddle": vibrate(folder / "saddle", band, top)}
    inner = {name: values[np.argsort(np.abs(values))[RIGID:]] for name, values in vibrations.items()}
    zero_point = {name: 0.5 * KJ_PER_MOL_OF_WAVENUMBER * values[values > 0].sum() for name, values in inner.items()}
    imaginary = {name: values[values < 0] for name, values in inner.items()}
    return {
        "steps": len(energies) - 1,
        "straight": coordinate(before),
        "straight_energies": energies[0],
        "coordinate": coordinate(images),
        "energies": energies[-1],
        "barrier": float(energies[-1, top]),
        "oxygens": [float(np.linalg.norm(images[index, DONOR] - images[index, ACCEPTOR])) for index in (0, top)],
        "imaginary": imaginary,
        "crossover": -imaginary["saddle"].min(initial=0.0) * KELVIN_OF_WAVENUMBER / (2 * np.pi),
        "zero_point": zero_point["saddle"] - zero_point["minimum"],
        "instanton": instanton(folder, band, top),
        "rigid": {name: np.sort(np.abs(values))[:RIGID] for name, values in vibrations.items()},
    }


def new(case, folder):
    """As a user does it."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    deltaqmmm("new", case, folder, "--system", MOLECULE, "-q")


def start(file, name, frames):
    """Let an input begin from other frames, a copy of which gets a name."""
    shutil.copyfile(frames, name)
    text = re.sub(r"<!-- Where input.xml ended.*?-->", "", file.read_text(), flags=re.DOTALL)
    file.write_text(text.replace("> init.xyz <", f"> {name.name} <"))


def coordinate(images):
    """The difference of the distances of the proton from both oxygens."""
    near, far = (np.linalg.norm(images[:, PROTON] - images[:, atom], axis=1) for atom in (DONOR, ACCEPTOR))
    return near - far


def vibrate(folder, band, image):
    """Wavenumbers of an image, by vibrations.xml of ../geometry."""
    if not (folder / "vibrations.phonons.eigval").is_file():
        new("geometry", folder)
        start(folder / "vibrations.xml", folder / "image.xyz", last_frame(band, image))
        deltaqmmm("run", folder, "--input", "vibrations.xml", "-q")
    return harmonic_wavenumbers(np.loadtxt(folder / "vibrations.phonons.eigval"))


def last_frame(band, image):
    """A file with the last frame of an image."""
    lines = (band / f"neb.pos_{image}.xyz").read_text().splitlines(keepends=True)
    file = band / f"last_{image}.xyz"
    file.write_text("".join(lines[-(int(lines[0]) + 2) :]))
    return file


def instanton(folder, band, top):
    """The tunnelling path at 150 K, begun on either side of the saddle point: steps; by bead energies and lengths."""
    path = folder / "instanton"
    if not (path / "RESTART").is_file():
        new("reaction", path)
        words = [last_frame(band, top - 2), last_frame(band, top + 2), BEADS, "instanton"]
        made = subprocess.run([sys.executable, path / "band.py", *map(str, words)], check=True, capture_output=True)
        (path / "path.xyz").write_bytes(made.stdout)
        deltaqmmm("run", path, "--input", "instanton.xml", "-q")
    energies = read_properties(path / "instanton.out")["bead_potentials"]
    minimum = read_properties(band / "neb.out")["bead_potentials"][-1, 0]
    beads = np.array([read_trajectory(file).values[-1] for file in bead_files(path, "instanton", "pos")])
    return {
        "steps": len(energies),
        "energies": (energies[-1] - minimum) * HARTREE_IN_KJ_PER_MOL,
        "coordinate": coordinate(beads),
        "oxygens": np.linalg.norm(beads[:, DONOR] - beads[:, ACCEPTOR], axis=1),
    }


def deltaqmmm(*words):
    subprocess.run([sys.executable, "-m", "deltaqmmm.cli.main", *map(str, words)], check=True)


def draw(found, file):
    """The band at the beginning and at the end, and the instanton."""
    figure, (axis,) = figures.panels(1, 1, 8.0)
    axis.plot(found["straight"], found["straight_energies"], "o--", color=figures.COLOURS[2], label="straight line")
    axis.plot(found["coordinate"], found["energies"], "o-", color=figures.COLOURS[0], label="nudged elastic band")
    path = found["instanton"]
    axis.plot(path["coordinate"], path["energies"], "s", ms=4, color=figures.COLOURS[1], label="instanton, 150 K")
    axis.set_xlabel("d(O5-H9) - d(O1-H9) / angstrom")
    axis.set_ylabel("energy / kJ/mol")
    figures.legend(axis, loc="upper right")
    figures.save(figure, file)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", nargs="?", type=Path, default=HERE / "study")
    result = main(parser.parse_args().folder)
    for key, value in result.items():
        print(key, np.round(value, 4) if isinstance(value, np.ndarray) else value)
    draw(result, HERE / "figure.png")
