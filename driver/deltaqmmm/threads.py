"""Frames of a batch side by side, on threads that wait for more.

These threads are not those of torch, which wait for more by looking for it all the time: on as many cores as there are
threads of both, each takes the time of the other.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from itertools import pairwise
from typing import Any, TypeVar

_Found = TypeVar("_Found")
_Arrays = TypeVar("_Arrays", bound=tuple[Any, ...])


_chosen: list[int] = []


def choose_threads(count: int, *, compiled: bool) -> None:
    """Say how many threads the QM side has.

    Args:
        count: How many.
        compiled: Whether all its work is done by compiled loops: these get all threads, and torch, which only does
            what is left, one. Otherwise torch gets them too.
    """
    import torch  # only here and below: processes that share out frames alone are there sooner without it

    _chosen[:] = [count] if compiled else []
    torch.set_num_threads(1 if compiled else count)


def threads_of_loops() -> int:
    """How many threads compiled loops have: what was chosen, or as many as torch has."""
    if _chosen:
        return _chosen[0]
    import torch

    return torch.get_num_threads()


def side_by_side(work: Callable[[slice], _Found], n_frames: int, threads: int) -> list[_Found]:
    """Share frames out among threads; the first part is computed on the thread that calls.

    Args:
        work: Computes some of the frames. It must leave Python to others for most of its time, as compiled loops do.
        n_frames: How many frames there are.
        threads: How many threads there may be.

    Returns:
        What `work` returned for consecutive frames. A batch without frames is one part.
    """
    parts = parts_of(n_frames, threads)
    others = [_pool(len(parts) - 1).submit(work, part) for part in parts[1:]]
    try:
        first = work(parts[0])
    finally:
        # Nothing goes on behind an error: the arrays may be used again.
        for other in others:
            other.exception()
    return [first, *(other.result() for other in others)]


def parts_of(n_frames: int, threads: int) -> list[slice]:
    """Slices of nearly equal length, one for each thread that has work."""
    count = max(min(threads, n_frames), 1)
    return [slice(a, b) for a, b in pairwise(n_frames * part // count for part in range(count + 1))]


def rows_of(arrays: _Arrays, part: slice) -> _Arrays:
    """Of a named tuple of arrays with an axis of frames in front: some of the frames, without a copy."""
    return type(arrays)(*(array[part] for array in arrays))


@cache
def _pool(count: int) -> ThreadPoolExecutor:
    """Threads are kept: starting and ending them takes longer than some of the work."""
    return ThreadPoolExecutor(count, thread_name_prefix="frames")


# A process that is forked has none of the threads.
os.register_at_fork(after_in_child=_pool.cache_clear)
