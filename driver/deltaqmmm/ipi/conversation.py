"""One connection to an i-PI server: a small state machine.

The server asks for the STATUS; the answer is NEEDINIT until INIT has come (always, on every new connection: only INIT
tells the batch size), HAVEDATA while a result waits to be fetched, and READY otherwise. After POSDATA the server asks
for the result: with consolidated messages by GETFORCE in the same breath, otherwise by STATUS and then GETFORCE. Both
are the same machine.

The evaluation begins only once that question has been read. If the driver is killed while it computes, nothing unread
is then left in its socket, and i-PI sees an end of file and gives the frames to another driver. With unread bytes it
would see a connection reset instead, which ends the polling thread of i-PI 3.3 and leaves it hanging.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from dataclasses import dataclass

from deltaqmmm.errors import ProtocolError
from deltaqmmm.ipi import wire
from deltaqmmm.ipi.channel import Channel, ConnectionClosedError, NothingReceivedError, TruncatedMessageError
from deltaqmmm.ipi.frames import Evaluate, ExpectedFrames, evaluate_frames
from deltaqmmm.ipi.shared_memory import KINDS, SharedSegments
from deltaqmmm.ipi.signals import StopRequest
from deltaqmmm.ipi.wire import Header

_LAST_WORD_SECONDS = 0.2
_QUESTION_SECONDS = 0.1
"""How long to wait for the question that follows POSDATA before evaluating without it."""
_SHM_REMEDY = (
    "Use the same atoms in the same order in the i-PI input and in the topology (and no activelist), and --shm only "
    "with mode='shm' in the <ffsocket>."
)


@dataclass(frozen=True)
class StepReport:
    """What one exchange with the server took.

    Attributes:
        step: Number of the exchange on this connection, from 1.
        n_frames: Frames that the server sent, padding included.
        n_evaluated: Frames that were evaluated.
        waiting_seconds: Time since the last reply (or since connecting) that was not spent on evaluating.
        computing_seconds: Time spent on evaluating.
    """

    step: int
    n_frames: int
    n_evaluated: int
    waiting_seconds: float
    computing_seconds: float


class Conversation:
    """One connection, from the first STATUS to EXIT.

    Args:
        channel: The connection.
        stop: Checked after each evaluation: a result computed while a stop was requested is dropped.
        evaluate: Computes a batch of frames.
        expected: The number of atoms, and whether the cell matters.
        shared_memory: Whether the server has `mode='shm'`.
        handshake_seconds: How long the server may take until its first message.
        on_step: Called after each reply.
    """

    def __init__(
        self,
        channel: Channel,
        stop: StopRequest,
        evaluate: Evaluate,
        expected: ExpectedFrames,
        *,
        shared_memory: bool,
        handshake_seconds: float,
        on_step: Callable[[StepReport], None],
    ) -> None:
        self._channel = channel
        self._stop = stop
        self._evaluate = evaluate
        self._expected = expected
        self._shared_memory = shared_memory
        self._handshake_seconds = handshake_seconds
        self._on_step = on_step
        self._steps = 0
        self._batch_size: int | None = None  # None until INIT has come
        self._pending: wire.Frames | None = None
        self._reply: bytes | None = None
        self._segments: SharedSegments | None = None
        self._recognised = False
        self._idle_since = time.monotonic()
        self._report: StepReport | None = None

    def run(self) -> None:
        """Answer until EXIT.

        Raises:
            ConnectionClosedError: The server has gone without EXIT.
            NothingReceivedError: It sent nothing at all within `handshake_seconds`.
            ProtocolError: It sent something unknown, truncated or out of place, or another number of atoms.
        """
        try:
            self._answer_until_exit()
        except ConnectionClosedError:
            # Noticed while sending: the server may have said EXIT while we were computing.
            if not self._said_exit():
                raise

    def _answer_until_exit(self) -> None:
        while (header := self._next_header()) is not Header.EXIT:
            if header is Header.STATUS:
                self._compute_pending()
                self._channel.send(wire.encode_header(self._status()))
            elif header is Header.INIT:
                _, parameters = wire.read_parameters(self._channel.read)
                self._batch_size = wire.batch_size_from(parameters)
            elif header is Header.POSDATA:
                self._pending = self._read_frames()
            else:
                self._compute_pending()
                self._answer()

    def close(self) -> None:
        """Let go of the shared memory."""
        if self._segments is not None:
            self._segments.close()

    def _next_header(self) -> Header:
        if self._pending is not None:
            with contextlib.suppress(NothingReceivedError):
                return self._read_header(_QUESTION_SECONDS)
            self._compute_pending()
        if self._recognised:
            return self._read_header(None)
        try:
            header = self._read_header(self._handshake_seconds)
        except ConnectionClosedError as closed:
            raise TruncatedMessageError(
                f"The server closed the connection without any i-PI message ({closed}): it is not i-PI, or it ended "
                "before it had time for this driver."
            ) from closed
        self._recognised = True
        return header

    def _read_header(self, seconds: float | None) -> Header:
        return wire.decode_header(self._channel.read_first(wire.HEADER_LENGTH, "a message header", seconds))

    def _status(self) -> Header:
        if self._batch_size is None:
            return Header.NEEDINIT
        return Header.READY if self._reply is None else Header.HAVEDATA

    def _compute_pending(self) -> None:
        if self._pending is None:
            return
        frames, self._pending = self._pending, None
        begin = time.monotonic()
        results, n_evaluated = evaluate_frames(frames, self._evaluate, self._expected)
        # A result computed while a stop was requested is dropped: the server gives the frames to another client.
        self._stop.raise_if_requested()
        computing = time.monotonic() - begin
        if self._segments is None:
            self._reply = wire.encode_results(results, batched=len(frames.positions) > 1)
        else:
            self._segments.write_results(results)
            self._reply = wire.encode_header(Header.FORCEREADY) + wire.encode_extras(results.extras)
        self._report = StepReport(
            self._steps + 1, len(frames.positions), n_evaluated, begin - self._idle_since, computing
        )

    def _read_frames(self) -> wire.Frames:
        batch_size = self._batch_size
        if batch_size is None:
            raise ProtocolError(
                "The peer sent POSDATA before INIT, although this driver answered NEEDINIT to its STATUS."
            )
        if not self._shared_memory:
            return wire.read_frames(self._channel.read, self._expected.n_atoms, batch_size)
        count = wire.read_int32(self._channel.read, "the number of atoms of POSDATA")
        wire.check_atom_count(count, self._expected.n_atoms, _SHM_REMEDY)
        if self._segments is None:
            names = wire.read_segment_names(self._channel.read, KINDS)
            self._segments = SharedSegments(names, count, batch_size)
        if self._segments.batch_size != batch_size:
            raise ProtocolError(
                f"The batch size changed from {self._segments.batch_size} to {batch_size} on one connection, but the "
                "shared memory segments are sized once."
            )
        return self._segments.read_frames()

    def _answer(self) -> None:
        if self._reply is None:
            raise ProtocolError("The peer sent GETFORCE without POSDATA before it: there is nothing to send.")
        self._channel.send(self._reply)
        self._reply = None
        self._steps += 1
        self._idle_since = time.monotonic()
        if self._report is not None:
            self._on_step(self._report)

    def _said_exit(self) -> bool:
        with contextlib.suppress(ConnectionClosedError, ProtocolError, NothingReceivedError):
            return self._read_header(_LAST_WORD_SECONDS) is Header.EXIT
        return False
