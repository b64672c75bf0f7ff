"""Files that appear whole or not at all."""

from __future__ import annotations

import errno
import os
import tempfile
from pathlib import Path

from deltaqmmm.errors import OutputError

PART_SUFFIX = ".part"
"""Ending of a file that is being written; one that is left over belongs to a process that was killed."""


def write_atomically(file: Path, content: bytes) -> None:
    """Write a file so that, whatever happens, the old content or the new one stands there, and nothing in between.

    Args:
        file: Where to write; its folder must exist. A link goes on being one, and what it points to is written.
        content: All of it.

    Raises:
        OutputError: The disk is full, or the place cannot be written. What stood there before is untouched.
    """
    name, place = None, file.resolve()
    try:
        descriptor, name = tempfile.mkstemp(prefix=f".{file.name}.", suffix=PART_SUFFIX, dir=place.parent)
        with os.fdopen(descriptor, "wb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        # mkstemp makes files that only the owner can read; take what the user's umask would give.
        umask = os.umask(0)
        os.umask(umask)
        os.chmod(name, 0o666 & ~umask)
        os.replace(name, place)
    except BaseException as error:
        if name is not None:
            Path(name).unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise OutputError(_cannot_write(file, len(content), error)) from error
        raise
    _sync_folder(place.parent)


def _sync_folder(folder: Path) -> None:
    """Make the new name survive a power cut, where the file system can."""
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except OSError:
        return
    try:
        os.fsync(descriptor)
    except OSError:
        pass
    finally:
        os.close(descriptor)


def _cannot_write(file: Path, size: int, error: OSError) -> str:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return (
            f"{file}: the disk is full ({size / 1e6:.1f} MB were to be written). Nothing half-written is left, and all "
            "that was finished before is kept: make room and run the same command again."
        )
    return f"{file}: cannot be written ({error.strerror or error})."
