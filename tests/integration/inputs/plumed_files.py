"""Inputs and outputs of PLUMED, and the coordinate of uracil that the cases are run with; needs no PLUMED."""

import re

import numpy as np

N_H_BONDS = (5, 11), (8, 12)  # of uracil, counted from 1


def change(file, *pairs):
    text = file.read_text()
    for pattern, value in pairs:
        text, count = re.subn(pattern, value, text)
        assert count, pattern
    file.write_text(text)


def colvar(folder, name="COLVAR"):
    """The columns of a file of PLUMED by their names; states have constants in their header, and files several
    headers."""
    lines = (folder / name).read_text().splitlines()
    names = next(line for line in lines if line.startswith("#! FIELDS")).split()[2:]
    rows = [line.split() for line in lines if line.strip() and not line.startswith("#")]
    return {
        name: np.array(column, dtype=float)
        for name, column in zip(names, zip(*rows, strict=True), strict=True)
        if name not in ("multivariate", "kerneltype")
    }


def edited(file):
    """Take away the line that asks for other atoms."""
    change(file, (r"\A# EDIT BEFORE RUNNING: the atoms .*\n", ""))


def coordinate(frames):
    """The difference of the two distances, angstrom."""
    near, far = (np.linalg.norm(frames[:, b - 1] - frames[:, a - 1], axis=1) for a, b in N_H_BONDS)
    return near - far
