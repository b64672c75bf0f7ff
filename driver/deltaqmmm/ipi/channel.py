"""A connected socket that reads and writes whole parts of messages, and that a stop request interrupts."""

from __future__ import annotations

import contextlib
import select
import socket
import time

from deltaqmmm.errors import ProtocolError
from deltaqmmm.ipi.signals import StopRequest, StopRequestedError

_REPLY_GRACE = 5.0
"""Seconds that a reply on its way may still take after a stop was requested."""

_FAREWELL = 0.2
"""Seconds to wait, when closing, for the server's last bytes."""
_SCRAP = 1 << 20


class ConnectionClosedError(Exception):
    """The server closed the connection between two messages, or vanished."""


class NothingReceivedError(Exception):
    """No message began within the time allowed."""


class TruncatedMessageError(ProtocolError):
    """The connection ended, or stalled, in the middle of a message."""


class Channel:
    """A connected socket with looped reads and writes that a `StopRequest` interrupts.

    Args:
        connection: A non-blocking socket; the channel closes it.
        stop: Interrupts waiting.
        stall_seconds: How long a message that has begun may stand still.
    """

    def __init__(self, connection: socket.socket, stop: StopRequest, stall_seconds: float) -> None:
        self._socket = connection
        self._stop = stop
        self._stall_seconds = stall_seconds

    def read_first(self, length: int, what: str, seconds: float | None) -> bytearray:
        """Read the first part of a message, waiting for it to begin.

        Args:
            length: Number of bytes.
            what: Name of the part, for messages.
            seconds: How long to wait for the first byte; None waits for ever. Once begun, the part may only not stall.

        Raises:
            ConnectionClosedError: The connection ended before the message began.
            TruncatedMessageError: It ended or stalled inside the part.
            NothingReceivedError: Nothing at all came within `seconds`.
        """
        return self._read(length, what, begun=False, seconds=seconds)

    def read(self, length: int, what: str) -> bytearray:
        """Read a later part of a message that has begun; see `read_first`."""
        return self._read(length, what, begun=True, seconds=None)

    def _read(self, length: int, what: str, *, begun: bool, seconds: float | None) -> bytearray:
        buffer = bytearray(length)
        position, cause = 0, "end of file"
        deadline = None if seconds is None else time.monotonic() + seconds
        while position < length:
            self._stop.raise_if_requested()
            try:
                received = self._socket.recv_into(memoryview(buffer)[position:])
            except BlockingIOError:
                self._wait_readable(what, position, length, deadline, begun=begun or position > 0)
                continue
            except OSError as error:
                received, cause = 0, error.strerror or "connection lost"
            if received == 0:
                if not begun and position == 0:
                    raise ConnectionClosedError(cause)
                raise TruncatedMessageError(
                    f"The connection ended after {position} of the {length} bytes of {what} ({cause}): the message is "
                    "truncated. i-PI ended, or dropped this driver because it did not read fast enough."
                )
            position += received
        return buffer

    def _wait_readable(self, what: str, position: int, length: int, deadline: float | None, *, begun: bool) -> None:
        if begun:
            seconds: float | None = self._stall_seconds
        else:
            seconds = None if deadline is None else max(deadline - time.monotonic(), 0.0)
        readable, _, _ = select.select([self._socket.fileno(), self._stop.fileno()], [], [], seconds)
        if readable:
            return
        if not begun:
            raise NothingReceivedError
        raise TruncatedMessageError(
            f"Only {position} of the {length} bytes of {what} came, and then nothing more for {seconds:g} s: the "
            "message is truncated, or the peer is not i-PI or speaks another mode (unix, inet or shm) than this "
            "driver."
        )

    def send(self, data: bytes) -> None:
        """Send all of `data`. A stop request lets it finish, within a few seconds, so that no half message is left.

        Raises:
            ConnectionClosedError: The server has gone.
        """
        view = memoryview(data)
        give_up: float | None = None
        while view:
            try:
                view = view[self._socket.send(view) :]
            except BlockingIOError:
                if self._stop.requested:
                    give_up = give_up or time.monotonic() + _REPLY_GRACE
                    if time.monotonic() > give_up:
                        raise StopRequestedError from None
                select.select([], [self._socket], [], 1.0)
            except OSError as error:
                raise ConnectionClosedError(error.strerror or "connection lost") from error

    def close(self) -> None:
        """Close the socket so that the server sees an end of file.

        Bytes left unread would turn into a connection reset, which ends the polling thread of i-PI 3.3 and leaves it
        hanging.
        """
        deadline = time.monotonic() + _FAREWELL
        with contextlib.closing(self._socket), contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_WR)
            while (remaining := deadline - time.monotonic()) > 0.0:
                readable, _, _ = select.select([self._socket], [], [], remaining)
                if not readable or not self._socket.recv(_SCRAP):
                    return
