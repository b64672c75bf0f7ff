"""How loops are compiled with numba: at the first call, and kept on disk where numba finds a place for them.

Of several processes that need the same loop for the first time one compiles it, and the others wait for it.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import pickle
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar, cast

import numba
import numpy as np
import scipy.linalg.cython_blas  # noqa: F401 - the library must be there before its threads can be limited
from threadpoolctl import ThreadpoolController

# Division by zero is not looked for: a branch in a loop is in the way of vector instructions.
_OPTIONS: dict[str, Any] = {"nogil": True, "no_cfunc_wrapper": True, "error_model": "numpy"}

# Called by others alone, a function needs no way in from Python, which would take as long to compile as itself.
_INNER: dict[str, Any] = {**_OPTIONS, "no_cpython_wrapper": True}

_DAMAGE = EOFError, pickle.UnpicklingError
"""What numba raises where a kept function was not written whole."""

_LONGEST_WAIT = 300.0
"""Seconds to wait for another process to compile a loop, which takes up to forty here."""
_LOOK_SECONDS = 0.05
"""How often to look whether it has."""

_Function = TypeVar("_Function", bound=Callable[..., Any])


def inlined(*flags: str) -> Callable[[_Function], _Function]:
    """Compile a function for use in others; the flags say how floating-point operations may be rearranged."""

    def compiled(function: _Function) -> _Function:
        found: Any = numba.njit(fastmath=set(flags), **_INNER)(function)
        return cast(_Function, found)

    return compiled


@inlined("contract")
def inverse_root(x: float) -> float:
    """One over the square root to the last digit, from single precision and one step of third order.

    Division and square root take longest of all operations, in double precision longer than all this together.
    """
    y = np.float64(np.float32(1.0) / np.sqrt(np.float32(x)))
    rest = 1.0 - (x * y) * y
    return y + (y * rest) * (0.5 + 0.375 * rest)


def _state_of_sources(function: Callable[..., Any]) -> str:
    """A short name for what is compiled: this file, those of the function's folder and those of the folder above."""
    folder = Path(function.__code__.co_filename).resolve().parent
    files = [Path(__file__), *sorted(folder.glob("*.py")), *sorted(folder.parent.glob("*.py"))]
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()[:12]


def keep_blas_on_one_thread() -> None:
    """Keep the linear algebra that numba calls, SciPy's OpenBLAS, on the thread that calls it."""
    for library in ThreadpoolController().lib_controllers:
        if library.user_api == "blas" and "scipy.libs" in library.filepath:
            library.set_num_threads(1)


@contextlib.contextmanager
def _alone(path: Path) -> Iterator[None]:
    """Hold a file that one process at a time can hold; after a long wait, or where files cannot be held, go on without.

    The file stays: if it were deleted, one process could hold the old file and another one a new one.
    """
    with contextlib.ExitStack() as at_the_end:
        # No such folder, no right to write there, a file system without locks.
        with contextlib.suppress(OSError):
            file = at_the_end.enter_context(path.open("ab"))
            deadline = time.monotonic() + _LONGEST_WAIT
            while not _held(file.fileno()) and time.monotonic() < deadline:
                time.sleep(_LOOK_SECONDS)
            # Not left to the closing: a process that was forked meanwhile has the file open too.
            at_the_end.callback(fcntl.flock, file.fileno(), fcntl.LOCK_UN)
        yield


def _held(descriptor: int) -> bool:
    """Whether a file could be locked at once."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


class Kernel:
    """A compiled function that is kept on disk if possible, and compiled anew in each process if not."""

    def __init__(self, function: Callable[..., Any]) -> None:
        # numba looks for changes in the file of a function alone, and not in those of the functions that it calls.
        function.__qualname__ = f"{function.__qualname__}_{_state_of_sources(function)}"
        self._function = function
        self._compiled: Callable[..., Any]
        self._lock: Path | None = None
        try:
            kept: Any = numba.njit(cache=True, **_OPTIONS)(function)
            self._lock = Path(kept.stats.cache_path, f"{function.__qualname__}.lock")
            self._compiled = kept
        except RuntimeError:  # no folder to keep it in
            self._compiled = numba.njit(**_OPTIONS)(function)

    def __call__(self, *arguments: object) -> bool:
        """What the function returns."""
        lock = self._lock  # another thread may set it to None meanwhile
        if lock is None:
            return self._call(arguments)
        # What another process compiles and keeps meanwhile is found there.
        with _alone(lock):
            self._lock = None
            return self._call(arguments)

    def _call(self, arguments: tuple[object, ...]) -> bool:
        # The loops themselves use no files: what fails is the folder.
        with contextlib.suppress(OSError):  # it can no longer be written (a full disk)
            try:
                return bool(self._compiled(*arguments))
            except _DAMAGE:
                with contextlib.suppress(*_DAMAGE):
                    self._compiled = self._kept_anew()
                    return bool(self._compiled(*arguments))
        self._compiled = numba.njit(**_OPTIONS)(self._function)
        return bool(self._compiled(*arguments))

    def _kept_anew(self) -> Callable[..., Any]:
        """The function, to be compiled and kept in place of what was not written whole."""
        compiled: Any = numba.njit(cache=True, **_OPTIONS)(self._function)
        # Nothing is compiled yet: this only forgets what is kept.
        compiled.recompile()
        return cast(Callable[..., Any], compiled)
