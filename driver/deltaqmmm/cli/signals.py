"""How commands that run for long take Ctrl-C and SIGTERM."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any


@contextmanager
def interrupted_by_signals() -> Iterator[None]:
    """Let SIGTERM end the run as Ctrl-C does: what is done is written."""

    def handle(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    previous = signal.signal(signal.SIGTERM, handle)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)


class Interruption:
    """Notes the first SIGINT or SIGTERM, so that the work can stop where its state is whole; a second one acts at once.

    Attributes:
        came: Whether a signal has come.
    """

    def __init__(self) -> None:
        self.came = False
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> Interruption:
        """Take the signals."""
        for number in (signal.SIGINT, signal.SIGTERM):
            self._previous[number] = signal.signal(number, self._handle)
        return self

    def __exit__(self, *_: object) -> None:
        """Give them back."""
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.came:
            raise KeyboardInterrupt
        self.came = True
