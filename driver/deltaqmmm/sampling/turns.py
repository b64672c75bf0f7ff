"""Sharing the choice of frames between runs, so that any first part of the choice holds every condition."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from deltaqmmm.errors import InputError
from deltaqmmm.results import FloatArray, IntArray
from deltaqmmm.sampling.diversity import farthest_points

FRAMES_A_TURN = 5

Choose = Callable[[int, int, list[int]], IntArray]
"""From the number of a run, how many frames to take of it, and all that are taken: the indices of the next frames."""


def shares(count: int, n_runs: int) -> list[int]:
    """How many frames each run gives: equal numbers, the first runs one more where it does not come out even."""
    return [count // n_runs + (run < count % n_runs) for run in range(n_runs)]


def farthest_in_turns(
    descriptors: FloatArray, runs: IntArray, count: int, taken: Sequence[int] = (), per_turn: int = FRAMES_A_TURN
) -> IntArray:
    """Take the same number of frames from each run, each frame farthest from all taken before, of whatever run.

    Args:
        descriptors: Shape (F, D).
        runs: Number of the run of each frame, 0 to R - 1, shape (F,); a negative one marks frames that cannot be taken.
        count: How many to take in all.
        taken: Indices of frames that count as taken.
        per_turn: How many one run gives before it is the next one's turn.

    Returns:
        Indices in the order of their choice, shape (count,).

    Raises:
        InputError: A run has too few frames, or a descriptor is not finite.
    """
    before = list(taken)

    def choose(run: int, number: int, chosen: list[int]) -> IntArray:
        fixed = np.array([*before, *chosen], dtype=np.int64)
        free = np.flatnonzero(runs == run)
        used = np.concatenate([fixed, free[~np.isin(free, fixed)]])
        known = np.arange(len(fixed)) if len(fixed) else None
        return np.asarray(used[farthest_points(descriptors[used], number, known)], dtype=np.int64)

    return _in_turns(runs, count, before, per_turn, choose)


def random_in_turns(
    runs: IntArray, count: int, seed: int, taken: Sequence[int] = (), per_turn: int = FRAMES_A_TURN
) -> IntArray:
    """Take the same number of frames from each run at random, without replacement; as `farthest_in_turns`.

    Args:
        runs: Number of the run of each frame, shape (F,); a negative one marks frames that cannot be taken.
        count: How many to take in all.
        seed: Equal seeds give equal choices.
        taken: Indices of frames that are not taken again.
        per_turn: How many one run gives before it is the next one's turn.
    """
    generator = np.random.default_rng(seed)

    def choose(run: int, number: int, chosen: list[int]) -> IntArray:
        free = np.flatnonzero((runs == run) & ~np.isin(np.arange(len(runs)), [*taken, *chosen]))
        return np.asarray(generator.permutation(free)[:number], dtype=np.int64)

    return _in_turns(runs, count, list(taken), per_turn, choose)


def _in_turns(runs: IntArray, count: int, before: list[int], per_turn: int, choose: Choose) -> IntArray:
    n_runs = int(runs.max(initial=-1)) + 1
    wanted = shares(count, max(n_runs, 1))
    for run, number in enumerate(wanted):
        free = int((runs == run).sum()) - sum(1 for index in set(before) if runs[index] == run)
        if number > free:
            raise InputError(
                f"{number} frames are to be taken from run {run + 1} of {n_runs}, which has {free} that are not taken."
            )
    chosen: list[int] = []
    while any(wanted):
        for run in range(n_runs):
            number = min(per_turn, wanted[run])
            if number:
                chosen.extend(int(index) for index in choose(run, number, chosen))
                wanted[run] -= number
    return np.array(chosen, dtype=np.int64)
