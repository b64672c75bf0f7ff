"""How loops are compiled with numba: at the first call, and kept on disk where numba finds a place for them."""

from __future__ import annotations

import contextlib
import hashlib
import pickle
from collections.abc import Callable
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


class Kernel:
    """A compiled function that is kept on disk if possible, and compiled anew in each process if not."""

    def __init__(self, function: Callable[..., Any]) -> None:
        # numba looks for changes in the file of a function alone, and not in those of the functions that it calls.
        function.__qualname__ = f"{function.__qualname__}_{_state_of_sources(function)}"
        self._function = function
        self._compiled: Callable[..., Any]
        try:
            self._compiled = numba.njit(cache=True, **_OPTIONS)(function)
        except RuntimeError:  # no folder to keep it in
            self._compiled = numba.njit(**_OPTIONS)(function)

    def __call__(self, *arguments: object) -> bool:
        """What the function returns."""
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
