"""What `deltaqmmm plot` makes of replica exchange: the swaps, and what each temperature of the ladder has seen."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from deltaqmmm.analysis.records import Record, Series
from deltaqmmm.errors import InputError
from deltaqmmm.results import FloatArray, IntArray

HELD = "ensemble_temperature"


@dataclass(frozen=True)
class Swaps:
    """Swaps between places on the ladder.

    Attributes:
        pairs: Those that are clear, shape (R, R), the lower place first.
        unclear: Steps with several swaps among the same replicas, which are not in `pairs`.
    """

    pairs: IntArray
    unclear: int

    @property
    def accepted(self) -> IntArray:
        """The clear ones of each pair of neighbours, shape (R - 1,)."""
        return np.diagonal(self.pairs, 1)

    @property
    def estimated(self) -> FloatArray:
        """Swaps of each pair of neighbours, with those of the unclear steps, shape (R - 1,).

        In an unclear step two pairs that have a place in common were swapped, or more. How often two pairs meet goes as
        the product of their swaps: by that the two swaps of each unclear step are shared out. Without them the share of
        swaps accepted is too small, by a tenth where every pair is tried after one step in five.
        """
        either = self.pairs + self.pairs.T
        meet = either * (either.sum(axis=0) + either.sum(axis=1)[:, None] - 2 * either)
        total = float(np.triu(meet, 1).sum())
        shared = 2.0 * self.unclear * np.diagonal(meet, 1) / total if total else np.zeros(len(self.accepted))
        return np.asarray(self.accepted + shared)


def read_swaps(file: Path) -> tuple[IntArray, IntArray]:
    """Steps (n,) and the place on the ladder of each replica (n, R) from a swap file of i-PI.

    i-PI writes a row where something was swapped. What a restart wrote anew goes before what it repeats.

    Raises:
        InputError: It holds something else.
    """
    text = file.read_text(encoding="utf-8")
    text = text[: text.rfind("\n") + 1]
    if not text.strip():
        return np.zeros(0, dtype=np.int64), np.zeros((0, 0), dtype=np.int64)
    try:
        table = np.loadtxt(text.splitlines(), ndmin=2, dtype=np.float64)
    except ValueError as error:
        raise InputError(f"{file}: is no swap file of i-PI's replica exchange: {error}.") from None
    integers = latest(table).astype(np.int64)
    return integers[:, 0], integers[:, 1:]


def latest(table: FloatArray) -> FloatArray:
    """The rows of a table, shape (n, k), that no later row puts back: the first column rises."""
    times = table[:, 0]
    later = np.minimum.accumulate(times[::-1])[::-1]
    kept: FloatArray = table[np.append(times[:-1] < later[1:], [True] * min(len(times), 1))]
    return kept


def count_swaps(steps: IntArray, places: IntArray, first: float) -> Swaps:
    """Count the swaps.

    Two replicas that trade places in a row have been swapped. Where three or more went round, it is not known by which
    swaps.

    Args:
        steps: Of the rows, shape (n,).
        places: Place on the ladder of each replica from there on, shape (n, R); before the first row in order.
        first: The step from which swaps count.
    """
    n_replicas = places.shape[1]
    swapped, unclear = np.zeros((n_replicas, n_replicas), dtype=np.int64), 0
    before = np.arange(n_replicas)
    for step, row in zip(steps, places, strict=True):
        if step >= first:
            now_at = dict(zip(before.tolist(), row.tolist(), strict=True))
            pairs = [(low, high) for low, high in now_at.items() if low < high and now_at[high] == low]
            unclear += bool(np.count_nonzero(row != before) > 2 * len(pairs))
            for low, high in pairs:
                swapped[low, high] += 1
        before = row
    return Swaps(swapped, unclear)


def is_exchanged(records: Sequence[Record]) -> bool:
    """Whether all replicas tell which temperature they have at each row."""
    return len(records) > 1 and all(HELD in record.properties for record in records)


def at_temperature(
    records: Sequence[Record], series: Sequence[Series | None], ladder: FloatArray, place: int
) -> Series:
    """What a temperature of the ladder has seen, whichever replica had it.

    Args:
        records: Of all replicas.
        series: A quantity of each, one-dimensional; None where it is not written.
        ladder: Kelvin, rising, shape (R,).
        place: Of the temperature on the ladder.

    Returns:
        In the order of time. Rows for which no temperature is written are left out.
    """
    times: list[FloatArray] = []
    values: list[FloatArray] = []
    for record, one in zip(records, series, strict=True):
        held = record.properties[HELD]
        if one is None or len(one.times) == 0:
            continue
        # Files of other strides have rows between: those are of an unknown temperature. Times are written with nine
        # digits, and are the same within half a step.
        nearest = np.abs(one.times[:, None] - _around(held.times, one.times)).argmin(axis=1)
        rows = np.clip(np.searchsorted(held.times, one.times) - 1 + nearest, 0, len(held.times) - 1)
        same = np.abs(held.times[rows] - one.times) < 0.5 * (record.picoseconds or 1.0)
        kept = same & (np.abs(held.values[rows][:, None] - ladder).argmin(axis=1) == place)
        times.append(one.times[kept])
        values.append(one.values[kept])
    if not times:
        return Series(np.zeros(0), np.zeros(0))
    together = np.concatenate(times)
    order = np.argsort(together, kind="stable")
    return Series(together[order], np.concatenate(values)[order])


def _around(grid: FloatArray, points: FloatArray) -> FloatArray:
    """The grid's values before and after each point, shape (n, 2)."""
    after = np.searchsorted(grid, points)
    pair: FloatArray = grid[np.clip(np.stack([after - 1, after], axis=1), 0, len(grid) - 1)]
    return pair
