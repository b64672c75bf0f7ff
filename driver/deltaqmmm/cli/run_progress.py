"""How `deltaqmmm run` shows its progress: a bar on a terminal, a line now and then in a log."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TextIO

from tqdm import tqdm

from deltaqmmm.ipi.progress import Watch

SECONDS_BEFORE_LINES = 10.0
SECONDS_BETWEEN_LINES = 60.0


class Progress:
    """Steps done, an estimate of the time left, temperature and conserved quantity. To be used as a context.

    Args:
        stream: Where to write.
        begin: Steps that were done before.
        total: Steps in all.
        quiet: Whether to write nothing.
        clock: A monotonic clock, seconds.
    """

    def __init__(
        self,
        stream: TextIO,
        begin: int,
        total: int,
        *,
        quiet: bool = False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._stream, self._total, self._quiet, self._clock = stream, total, quiet, clock
        self._begin, self._shown = begin, begin
        self._due = clock()
        self._first: tuple[int, float] | None = None
        self._bar = None
        if stream.isatty() and not quiet:
            self._bar = tqdm(
                total=total,
                initial=begin,
                unit="step",
                file=stream,
                dynamic_ncols=True,
                mininterval=0.5,
                smoothing=0.05,
                postfix="starting",
            )

    def __enter__(self) -> Progress:
        """Begin."""
        return self

    def __exit__(self, *_: object) -> None:
        """Leave the terminal on a fresh line."""
        if self._bar is not None:
            self._bar.close()

    def update(self, watch: Watch) -> None:
        """Show how far it is, if that is due."""
        step = max(watch.step, self._begin)
        if self._first is None and watch.step > self._begin:
            # Loading and the first step tell nothing about the others.
            self._first = step, self._clock()
            self._due = self._clock() + SECONDS_BEFORE_LINES
            if self._bar is not None:
                self._bar.unpause()
        if self._bar is not None:
            if step != self._bar.n:
                self._bar.set_postfix_str(watch.summary(), refresh=False)
                self._bar.update(step - self._bar.n)
        elif not self._quiet and step > self._shown and self._clock() >= self._due:
            self._due = self._clock() + SECONDS_BETWEEN_LINES
            self._shown = step
            self._stream.write(self.line(step, watch.summary()) + "\n")
            self._stream.flush()

    def line(self, step: int, summary: str) -> str:
        """One line for a log."""
        first, began = self._first or (self._begin, self._clock())
        each = (self._clock() - began) / max(step - first, 1)
        parts = [
            f"step {step} of {self._total} ({100.0 * step / self._total:.0f}%)",
            f"{tqdm.format_interval(each * (self._total - step))} left",
            f"{each:.2g} s per step",
        ]
        return ", ".join([*parts, *([summary] if summary else [])])
