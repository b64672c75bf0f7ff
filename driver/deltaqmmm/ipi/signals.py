"""Stopping at SIGTERM and SIGINT without ever leaving half a reply on the socket."""

from __future__ import annotations

import os
import select
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)


class StopRequestedError(BaseException):
    """Unwinds the client. Not an `Exception`: no handler inside a computation may swallow it."""


class StopRequest:
    """A request to stop that also wakes up whoever waits in `select` on `fileno()`.

    May be triggered from a signal handler or from another thread.

    Attributes:
        signal_number: The first signal that asked to stop; 0 if none has, or if another thread asked.
        requested: Whether anyone has asked.
    """

    def __init__(self) -> None:
        self.signal_number = 0
        self.requested = False
        self._read_end, self._write_end = os.pipe()
        os.set_blocking(self._write_end, False)

    def fileno(self) -> int:
        """Return the descriptor that becomes readable when a stop is requested."""
        return self._read_end

    def trigger(self, signal_number: int = 0) -> None:
        """Ask to stop."""
        if self.requested:
            return
        self.signal_number = signal_number
        self.requested = True
        os.write(self._write_end, b"\0")

    def raise_if_requested(self) -> None:
        """Raise `StopRequestedError` if anyone has asked to stop."""
        if self.requested:
            raise StopRequestedError

    def wait(self, seconds: float) -> None:
        """Sleep, and raise `StopRequestedError` as soon as a stop is requested."""
        select.select([self._read_end], [], [], seconds)
        self.raise_if_requested()

    def close(self) -> None:
        """Close the descriptors."""
        os.close(self._read_end)
        os.close(self._write_end)


@contextmanager
def stop_on_signals() -> Iterator[StopRequest]:
    """Turn SIGTERM and SIGINT into a `StopRequest` inside the context.

    The first signal lets a running computation finish (its result is dropped); the second raises `StopRequestedError`
    at once. Outside the main thread Python allows no signal handlers, and the request can only be triggered by hand.
    """
    stop = StopRequest()

    def handle(signal_number: int, frame: FrameType | None) -> None:
        if stop.requested:
            raise StopRequestedError
        stop.trigger(signal_number)

    previous = {}
    if threading.current_thread() is threading.main_thread():
        previous = {number: signal.signal(number, handle) for number in STOP_SIGNALS}
    try:
        yield stop
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
        stop.close()
