"""What commands that compute for long have in common: outputs that appear whole, and cores."""

from __future__ import annotations

import argparse
import contextlib
import math
import os
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from deltaqmmm.errors import InputError, OutputError

if TYPE_CHECKING:
    from ase import Atoms


def check_output(output: Path) -> None:
    """Raise `InputError` if a file cannot be written there, before anything is computed."""
    folder = output.resolve().parent
    if not folder.is_dir():
        raise InputError(f"{output}: there is no folder {folder} to write it in.")
    if output.is_dir():
        raise InputError(f"{output}: is a folder; name a file to write.")
    try:
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        raise InputError(f"{output}: nothing can be written in its folder {folder} ({error.strerror}).") from error


def write_whole(output: Path, frames: Iterable[Atoms], columns: list[str] | None = None) -> None:
    """Write an extended xyz file that appears only when it is complete; a link is followed, not replaced.

    Args:
        output: Where to write.
        frames: What to write.
        columns: ASE's names of what is written of each atom; None for all there is.

    Raises:
        OutputError: The disk is full, or the place cannot be written. What stood there before is untouched.
    """
    # A second to import, and most commands write no frames.
    from ase.io import write

    output = output.resolve()
    with _naming(output):
        descriptor, name = tempfile.mkstemp(prefix=f".{output.name}.", suffix=".part", dir=output.parent)
    stream = os.fdopen(descriptor, "w", encoding="utf-8")
    try:
        for atoms in frames:
            with _naming(output):
                write(stream, atoms, format="extxyz", columns=columns)
        with _naming(output):
            stream.close()
            # mkstemp makes files that only the owner can read; take what the user's umask would give.
            umask = os.umask(0)
            os.umask(umask)
            os.chmod(name, 0o666 & ~umask)
            os.replace(name, output)
    except BaseException:
        # What is still in the buffer of a full disk fails once more.
        with contextlib.suppress(OSError):
            stream.close()
        Path(name).unlink(missing_ok=True)
        raise


@contextlib.contextmanager
def _naming(output: Path) -> Iterator[None]:
    """Errors of writing name the output: the system's own name no file, or one that nobody asked for."""
    try:
        yield
    except OSError as error:
        raise OutputError(
            f"{output}: cannot be written ({error.strerror or error}). Nothing half-written is left: correct the cause "
            "and run the same command again."
        ) from error


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
