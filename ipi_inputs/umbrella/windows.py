"""Windows of umbrella sampling: makes them, and turns what they sampled into a free energy.

    python windows.py             after a change of windows.txt or nbeads: writes plumed_0.dat, ... and input.xml
    python windows.py profile     the free energy by MBAR, from the COLVAR files: profile.dat and profile.png

Needs numpy; for the profile also pymbar and matplotlib, all of which `pip install 'deltaqmmm[analysis]'` brings.
"""

import re
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np

BOLTZMANN = 0.0083144626  # kJ/mol/kelvin
SKIPPED = 1500  # steps at the beginning: the restraint grows, then the molecule finds its place
BIN = 0.05  # of the profile, in the unit of the coordinate
BLOCKS = 5  # parts of the run, for the errors
PLUMED = """\
# Window {index}, written by windows.py from windows.txt. What PLUMED calls time is the number of steps here.
INCLUDE FILE=cv.dat
# A harmonic restraint, 1/2 kappa (cv - centre)^2. It grows to its strength in the first 1000 steps, as all windows
# start from one structure.
umbrella: MOVINGRESTRAINT ARG=cv STEP0=0 AT0={centre:g} KAPPA0=0 STEP1=1000 AT1={centre:g} KAPPA1={kappa:g}
PRINT ARG=cv,umbrella.bias STRIDE=5 FILE=COLVAR_{index}
# After every step: a kill loses nothing.
FLUSH STRIDE=1
"""


@dataclass(frozen=True)
class Profile:
    """What windows sampled.

    Attributes:
        centres: Of the bins.
        energies: Free energies, kJ/mol, 0 in the lowest bin; shape of the centres.
        errors: Standard errors of the energies relative to the mean of all bins (jackknife over parts of the run).
        left_out: The energies without one of the parts, shape (BLOCKS, bins), kJ/mol, for errors of other quantities.
        overlap: Of each window with the next, 0 (none) to 0.5: element (i, i + 1) of MBAR's overlap matrix.
    """

    centres: np.ndarray
    energies: np.ndarray
    errors: np.ndarray
    left_out: np.ndarray
    overlap: np.ndarray


def write(folder):
    """Write PLUMED's inputs, and the lists of windows in input.xml; returns their number."""
    windows = table(folder)
    needed = {f"plumed_{index}.dat" for index in range(len(windows))}
    for old in folder.glob("plumed_*.dat"):
        if old.name not in needed:
            old.unlink()
    for index, (centre, kappa) in enumerate(windows):
        put(folder / f"plumed_{index}.dat", PLUMED.format(index=index, centre=centre, kappa=kappa))
    file = folder / "input.xml"
    xml, numbers = file.read_text(), range(len(windows))
    plumed = re.search(r" *<ffplumed name='plumed_0'>.*?</ffplumed>\n", xml, re.DOTALL)[0]
    blocks = "".join(plumed.replace("plumed_0", f"plumed_{index}") for index in numbers)
    xml = re.sub(r"( *<ffplumed name='plumed_\d+'>.*?</ffplumed>\n)+", blocks, xml, flags=re.DOTALL)
    instances = "".join(f"    <instance> [ {index} ] </instance>\n" for index in numbers)
    xml = re.sub(r"( *<instance>.*</instance>\n)+", instances, xml)
    names = ", ".join(f"plumed_{index}" for index in numbers)
    xml = re.sub(r"(<metaff>).*(</metaff>)", rf"\1 [ {names} ] \2", xml)
    beads = int(re.search(r"nbeads='(\d+)'>\s*<file", xml)[1])
    xml = re.sub(r"(<batch_size>).*(</batch_size>)", rf"\1 {len(windows) * beads} \2", xml)
    put(file, xml)
    return len(windows)


def put(file, text):
    """Write a file, unless it says this already: `deltaqmmm run` takes a newer input.xml for a changed one."""
    if not file.is_file() or file.read_text() != text:
        file.write_text(text)


def table(folder):
    """Centres and force constants, shape (windows, 2)."""
    return np.loadtxt(folder / "windows.txt", ndmin=2)


def temperature(folder):
    """That of input.xml, kelvin."""
    return float(
        re.search(r"<temperature units='kelvin'>\s*(\S+)\s*</temperature>", (folder / "input.xml").read_text())[1]
    )


def samples(folder, skipped=SKIPPED):
    """The coordinate in each window after the first steps; a list of arrays."""
    series, missing = [], []
    for index in range(len(table(folder))):
        file = folder / f"COLVAR_{index}"
        if not file.is_file():
            missing.append(f"{file.name}: there is no such file: the windows have not been run")
            continue
        rows = [line.split() for line in file.read_text().splitlines()]
        names = next((row[2:] for row in rows if row[:2] == ["#!", "FIELDS"]), [])
        if not {"time", "cv"} <= set(names):
            missing.append(f"{file.name}: no line '#! FIELDS' that names time and cv: no output of cv.dat's PRINT")
            continue
        # Of a run that is at work the last row may be half a row.
        columns = names.index("time"), names.index("cv")
        rows = [row for row in rows if len(row) >= len(names) and not row[0].startswith("#")]
        time, coordinate = np.array([[float(row[column]) for row in rows] for column in columns])
        series.append(coordinate[time > skipped])
        if len(series[-1]) < BLOCKS:
            last = f"the last is of step {time[-1]:g}" if len(time) else "there are none at all"
            missing.append(
                f"{file.name}: {len(series[-1])} samples after the first {skipped} steps, which are left out ({last}); "
                f"needed are {BLOCKS}: go on with `deltaqmmm run . --steps N`"
            )
    if missing:
        sys.exit("\n".join(missing))
    return series


def profile(folder, skipped=SKIPPED):
    """The free energy along the coordinate, without the restraints."""
    kt = BOLTZMANN * temperature(folder)
    windows, series = table(folder), samples(folder, skipped)
    edges = np.arange(windows[:, 0].min() - BIN / 2, windows[:, 0].max() + BIN, BIN)
    whole, overlap = unbiased(windows, series, edges, kt)
    parts = [np.array_split(values, BLOCKS) for values in series]
    left_out = np.array(
        [
            unbiased(windows, [np.concatenate(part[:out] + part[out + 1 :]) for part in parts], edges, kt)[0]
            for out in range(BLOCKS)
        ]
    )
    centred = left_out - left_out.mean(axis=1, keepdims=True)
    errors = np.sqrt((BLOCKS - 1) * centred.var(axis=0))
    return Profile(0.5 * (edges[1:] + edges[:-1]), whole - whole.min(), errors, left_out, overlap)


def unbiased(windows, series, edges, kt):
    """MBAR: free energies of the bins (kJ/mol), and the overlap of neighbouring windows.

    Shirts and Chodera, J. Chem. Phys. 129, 124105 (2008), doi 10.1063/1.2978177.
    """
    from pymbar import MBAR

    counts = np.array([len(values) for values in series])
    coordinate = np.concatenate(series)
    reduced = 0.5 * windows[:, 1:] * (coordinate - windows[:, :1]) ** 2 / kt
    mbar = MBAR(reduced, counts, solver_protocol="robust")
    overlap = np.diagonal(mbar.compute_overlap()["matrix"], offset=1)
    # The weight of each sample without a restraint.
    terms = np.log(counts)[:, None] + mbar.f_k[:, None] - reduced
    largest = terms.max(axis=0)
    logarithms = -largest - np.log(np.exp(terms - largest).sum(axis=0))
    weights = np.exp(logarithms - logarithms.max())
    probabilities = np.histogram(coordinate, edges, weights=weights)[0]
    if not probabilities.all():
        empty = 0.5 * (edges[1:] + edges[:-1])[probabilities == 0]
        sys.exit(
            f"no sample in the bins at {', '.join(f'{x:g}' for x in empty)}: longer runs, or windows closer together"
        )
    return -kt * np.log(probabilities), overlap


def save(folder):
    """Write profile.dat and profile.png."""
    from deltaqmmm.analysis import figures

    found = profile(folder)
    header = "coordinate  free energy / kJ/mol  standard error"
    np.savetxt(
        folder / "profile.dat", np.array([found.centres, found.energies, found.errors]).T, "%12.6f", header=header
    )
    figure, (axis,) = figures.panels(1, 1, 8.0)
    axis.errorbar(found.centres, found.energies, found.errors, color=figures.COLOURS[0], lw=1.2)
    axis.set_xlabel("collective variable")
    axis.set_ylabel("free energy / kJ/mol")
    figures.save(figure, folder / "profile.png")
    least, most = found.overlap.min(), found.overlap.max()
    print(f"profile.dat, profile.png; overlap of neighbouring windows {least:.2f} to {most:.2f}")


if __name__ == "__main__":
    here = Path(__file__).resolve().parent
    if sys.argv[1:] == ["profile"]:
        save(here)
    elif not sys.argv[1:]:
        print(f"{write(here)} windows")
    else:
        sys.exit(__doc__)
