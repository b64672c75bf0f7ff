"""Frames shared out among threads: the compiled loops hold no lock of the interpreter."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from itertools import pairwise

import torch


class _Pool:
    """Threads that are started when there is work for them, and forgotten in a forked process, which has none."""

    def __init__(self) -> None:
        self._forget()
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=self._forget)

    def _forget(self) -> None:
        self._lock = threading.Lock()
        self._threads: ThreadPoolExecutor | None = None

    def get(self) -> ThreadPoolExecutor:
        """The threads, as many as there are processors."""
        with self._lock:
            if self._threads is None:
                self._threads = ThreadPoolExecutor(os.cpu_count(), thread_name_prefix="deltaqmmm-frames")
            return self._threads


_POOL = _Pool()


def over_frames(work: Callable[[int, int], bool], n_frames: int) -> bool:
    """Call work(first, last) for parts of the frames at once, on as many threads as torch computes with.

    Args:
        work: Does the frames from the first up to, and without, the last one, each by itself.
        n_frames: Their number.

    Returns:
        Whether all parts returned True.
    """
    count = min(torch.get_num_threads(), n_frames)
    if count < 2:
        return work(0, n_frames)
    edges = [index * n_frames // count for index in range(count + 1)]
    threads = _POOL.get()
    others = [threads.submit(work, *part) for part in pairwise(edges[1:])]
    try:
        done = work(0, edges[1])
    finally:
        # They write to arrays of the caller.
        wait(others)
    return all([done, *(other.result() for other in others)])
