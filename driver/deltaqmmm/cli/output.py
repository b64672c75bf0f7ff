"""What commands that compute for long have in common: outputs that appear whole, and cores."""

from __future__ import annotations

import argparse
import math
import os
import tempfile
from collections.abc import Iterable
from pathlib import Path

from ase import Atoms
from ase.io import write

from deltaqmmm.errors import InputError


def check_output(output: Path) -> None:
    """Raise `InputError` if a file cannot be written there, before anything is computed."""
    folder = output.resolve().parent
    if not folder.is_dir():
        raise InputError(f"{output}: there is no folder {folder} to write it in.")
    if output.is_dir():
        raise InputError(f"{output}: is a folder; name a file to write.")


def write_whole(output: Path, frames: Iterable[Atoms], columns: list[str] | None = None) -> None:
    """Write an extended xyz file that appears only when it is complete; a link is followed, not replaced.

    Args:
        output: Where to write.
        frames: What to write.
        columns: ASE's names of what is written of each atom; None for all there is.
    """
    output = output.resolve()
    descriptor, name = tempfile.mkstemp(prefix=f".{output.name}.", suffix=".part", dir=output.parent)
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as stream:
            for atoms in frames:
                write(stream, atoms, format="extxyz", columns=columns)
        # mkstemp makes files that only the owner can read; take what the user's umask would give.
        umask = os.umask(0)
        os.umask(umask)
        os.chmod(name, 0o666 & ~umask)
        os.replace(name, output)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def positive_number(text: str) -> float:
    """An argument that measures something."""
    value = float(text)
    if not (value > 0.0 and math.isfinite(value)):
        raise argparse.ArgumentTypeError(f"{text}: a positive number is needed")
    return value


def positive_integer(text: str) -> int:
    """An argument that counts something."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text}: at least 1 is needed")
    return value
