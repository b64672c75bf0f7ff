"""Memory that several processes have in common: the frames of a batch, and what all of them need to know."""

from __future__ import annotations

import mmap
import os
import pickle
import tempfile
import weakref
from typing import Any

import numpy as np

from deltaqmmm.companions import lifted
from deltaqmmm.results import FloatArray

_PER_FRAME = 1 + 9
"""Numbers of a frame beside its positions and forces: the energy and the strain derivative."""


class SharedFrames:
    """Positions, energies, forces and strain derivatives of a batch.

    The memory has no name: a process has it by inheriting its descriptor, and it is gone when all that have it end.

    Args:
        n_atoms: Number of atoms N.
        descriptor: Of the memory that another process made; None makes some.

    Attributes:
        descriptor: Of the memory.
        positions: Shape (B, N, 3), bohr.
        forces: Shape (B, N, 3), hartree/bohr.
        energies: Shape (B,), hartree.
        strain_derivatives: Shape (B, 3, 3), hartree.
    """

    positions: FloatArray
    forces: FloatArray
    energies: FloatArray
    strain_derivatives: FloatArray

    def __init__(self, n_atoms: int, descriptor: int | None = None) -> None:
        self._n_atoms = n_atoms
        self._is_ours = descriptor is None
        self.descriptor = _new_memory() if descriptor is None else descriptor
        if self._is_ours:
            weakref.finalize(self, os.close, self.descriptor)
        self._n_frames = 0

    def fit(self, n_frames: int) -> None:
        """Make room for so many frames; what the arrays held is lost where their number changes.

        Raises:
            OSError: There is no room.
        """
        if n_frames == self._n_frames:
            return
        per_array = 3 * self._n_atoms * n_frames
        size = 8 * (2 * per_array + _PER_FRAME * n_frames)
        if self._is_ours:
            _enlarge(self.descriptor, size)
        numbers: FloatArray = np.frombuffer(mmap.mmap(self.descriptor, size), dtype=np.float64)
        edges = np.cumsum([per_array, per_array, n_frames])
        positions, forces, self.energies, strain_derivatives = np.split(numbers, edges.tolist())
        self.positions = positions.reshape(n_frames, self._n_atoms, 3)
        self.forces = forces.reshape(n_frames, self._n_atoms, 3)
        self.strain_derivatives = strain_derivatives.reshape(n_frames, 3, 3)
        self._n_frames = n_frames


class SharedObject:
    """An object that other processes get a copy of, all from the same memory, so that each can begin when it will.

    Args:
        content: What can be pickled.

    Attributes:
        descriptor: Of the memory.
    """

    def __init__(self, content: object) -> None:
        self.descriptor = _new_memory()
        weakref.finalize(self, os.close, self.descriptor)
        with os.fdopen(os.dup(self.descriptor), "wb") as file:
            pickle.dump(content, file)

    @staticmethod
    def read(descriptor: int) -> Any:  # noqa: ANN401 - whatever was given
        """A copy of what this process's owner has put there."""
        return pickle.loads(mmap.mmap(descriptor, 0, access=mmap.ACCESS_READ))


def _new_memory() -> int:
    """Descriptor of memory that has no name."""
    try:
        descriptor = os.memfd_create("deltaqmmm")
    except (AttributeError, OSError):
        # Not in every Python, nor allowed everywhere: then a file that has no name any more, in memory where there is
        # a place for such files.
        folder = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
        with tempfile.TemporaryFile(dir=folder) as file:
            descriptor = os.dup(file.fileno())
    return lifted(descriptor)


def _enlarge(descriptor: int, size: int) -> None:
    """Have so many bytes at least, for certain: without a place for them a process ends when it writes there."""
    if os.fstat(descriptor).st_size >= size:
        return
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(descriptor, 0, size)
    else:
        os.ftruncate(descriptor, size)
