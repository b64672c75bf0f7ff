"""The server's side of a connection within one process: to time what goes over the wire, without i-PI.

It says what i-PI says, byte for byte, over a pair of connected sockets; the driver's side is the real one.
"""

from __future__ import annotations

import contextlib
import socket
import threading
import time

import numpy as np

from deltaqmmm.errors import ProtocolError
from deltaqmmm.ipi import wire
from deltaqmmm.ipi.channel import Channel
from deltaqmmm.ipi.conversation import Conversation
from deltaqmmm.ipi.frames import Evaluate, ExpectedFrames
from deltaqmmm.ipi.signals import StopRequest
from deltaqmmm.ipi.wire import Header
from deltaqmmm.results import FloatArray

_SECONDS = 600.0


class Loopback:
    """A driver in a thread of its own, and the server that asks it. To be used as a context.

    Attributes:
        batch_size: Frames in a batch.
    """

    def __init__(self, evaluate: Evaluate, expected: ExpectedFrames, batch_size: int) -> None:
        """Connect the two.

        Args:
            evaluate: What the driver computes.
            expected: The number of atoms, and whether the cell matters.
            batch_size: Frames in a batch.
        """
        self.batch_size = batch_size
        self._expected = expected
        here, there = socket.socketpair()
        here.setblocking(False)
        there.setblocking(False)
        self._stop = StopRequest()
        self._server = Channel(here, self._stop, _SECONDS)
        self._client = Channel(there, self._stop, _SECONDS)
        self._conversation = Conversation(
            self._client,
            self._stop,
            evaluate,
            expected,
            shared_memory=False,
            handshake_seconds=_SECONDS,
            on_step=lambda report: None,
        )
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._drive, name="driver", daemon=True)

    def __enter__(self) -> Loopback:
        """Begin the conversation."""
        self._thread.start()
        self._say(Header.STATUS)
        self._hear(Header.NEEDINIT)
        parameters = f" batch_size:{self.batch_size}".encode()
        head = np.array([0, len(parameters)], np.int32).tobytes()
        self._server.send(wire.encode_header(Header.INIT) + head + parameters)
        return self

    def __exit__(self, *_: object) -> None:
        """End it as i-PI does."""
        with contextlib.suppress(Exception):
            self._say(Header.EXIT)
        self._thread.join()
        self._conversation.close()
        self._server.close()
        self._client.close()
        self._stop.close()

    def step(self, cells: FloatArray, positions: FloatArray) -> float:
        """Wall time in seconds from the first byte of the frames to the last of the results.

        Args:
            cells: Lattice vectors as rows, shape (B, 3, 3), bohr.
            positions: Shape (B, N, 3), bohr.

        Raises:
            DeltaqmmmError: What the evaluation raised.
        """
        count = np.int32(self._expected.n_atoms).tobytes()
        columns = wire.transpose(cells)
        # The second of each pair is the inverse cell, which the driver does not look at.
        matrices = np.ascontiguousarray(np.stack([columns, columns], axis=1)).tobytes()
        head = count + matrices if self.batch_size > 1 else matrices + count
        begin = time.perf_counter()
        message = wire.encode_header(Header.POSDATA) + head + positions.tobytes() + wire.encode_header(Header.GETFORCE)
        self._server.send(message)
        self._hear(Header.FORCEREADY)
        n_frames, n_atoms = positions.shape[:2]
        # Energies, count, forces and virials.
        self._read(8 * n_frames + 4 + 8 * n_frames * (3 * n_atoms + 9), "results")
        for _ in range(n_frames):
            length = wire.read_int32(self._read, "the length of an extra")
            self._read(length, "an extra")
        return time.perf_counter() - begin

    def _drive(self) -> None:
        try:
            self._conversation.run()
        except BaseException as failure:  # noqa: BLE001 - handed to the thread that waits
            self._failure = failure
            self._client.close()

    def _say(self, header: Header) -> None:
        self._server.send(wire.encode_header(header))

    def _hear(self, expected: Header) -> None:
        found = bytes(self._read(wire.HEADER_LENGTH, "a header"))
        if found != wire.encode_header(expected):
            raise ProtocolError(f"The driver answered {found!r}; needed is {expected.value}.")

    def _read(self, length: int, what: str) -> bytearray:
        try:
            return self._server.read(length, what)
        except Exception as lost:
            self._thread.join()
            if self._failure is not None:
                raise self._failure from lost
            raise
