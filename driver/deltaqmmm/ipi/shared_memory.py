"""The shared memory segments of an i-PI server in shm mode, seen from the client.

The segments belong to i-PI, which creates and removes them. They are mapped here without Python's
`multiprocessing.shared_memory.SharedMemory`, whose resource tracker would (before Python 3.13) start a process of its
own and remove the server's segments when this client ends.
"""

from __future__ import annotations

import _posixshmem  # type: ignore[import-not-found]  # part of CPython, but private
import mmap
import os
from collections.abc import Mapping

import numpy as np

from deltaqmmm.errors import ProtocolError
from deltaqmmm.ipi.wire import FLOAT64_SIZE, Frames, Results, transpose
from deltaqmmm.results import FloatArray

KINDS = ("pos", "h", "ih", "pot", "force", "vir")
"""i-PI's names of the segments, in the order in which it announces them."""


def _shapes(n_atoms: int, batch_size: int) -> dict[str, tuple[int, ...]]:
    return {
        "pos": (batch_size, n_atoms, 3),
        "h": (batch_size, 3, 3),
        "ih": (batch_size, 3, 3),
        "pot": (batch_size,),
        "force": (batch_size, n_atoms, 3),
        "vir": (batch_size, 3, 3),
    }


def _map(kind: str, name: str, needed: int) -> mmap.mmap:
    path = name if name.startswith("/") else "/" + name
    try:
        descriptor = _posixshmem.shm_open(path, os.O_RDWR, mode=0o600)
    except OSError as error:
        raise ProtocolError(
            f"The shared memory segment '{name}' ({kind}) that i-PI announced cannot be opened: {error.strerror}. "
            "With mode='shm' i-PI and the driver must run on the same machine (or in the same container) as the same "
            "user."
        ) from error
    try:
        size = os.fstat(descriptor).st_size
        if size < needed:
            raise ProtocolError(
                f"The shared memory segment '{name}' ({kind}) has {size} bytes; needed are {needed}. It does not "
                "belong to this i-PI run."
            )
        return mmap.mmap(descriptor, size)
    finally:
        os.close(descriptor)


class SharedSegments:
    """The six segments of one connection, sized once for a full batch.

    Args:
        names: The segment of each of `KINDS`.
        n_atoms: Number of atoms N.
        batch_size: Number of frames B, 1 for unbatched exchange.

    Raises:
        ProtocolError: A segment cannot be opened or is too small.
    """

    def __init__(self, names: Mapping[str, str], n_atoms: int, batch_size: int) -> None:
        self.batch_size = batch_size
        self._maps: list[mmap.mmap] = []
        self._views: dict[str, FloatArray] = {}
        try:
            for kind, shape in _shapes(n_atoms, batch_size).items():
                mapped = _map(kind, names[kind], FLOAT64_SIZE * int(np.prod(shape)))
                self._maps.append(mapped)
                self._views[kind] = np.ndarray(shape, np.float64, buffer=mapped)
        except ProtocolError:
            self.close()
            raise

    def read_frames(self) -> Frames:
        """Copy the frames that i-PI has written."""
        return Frames(transpose(self._views["h"]), self._views["pos"].copy())

    def write_results(self, results: Results) -> None:
        """Write energies, forces and virials; must be complete before FORCEREADY is sent."""
        self._views["pot"][:] = results.energies
        self._views["force"][:] = results.forces
        self._views["vir"][:] = transpose(results.virials)

    def close(self) -> None:
        """Unmap the segments (i-PI removes them)."""
        self._views.clear()
        while self._maps:
            self._maps.pop().close()
