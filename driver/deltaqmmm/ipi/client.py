"""The i-PI client: wait for the server, serve it, end cleanly, and perhaps look for it again."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import Enum, auto

from deltaqmmm.errors import ProtocolError, ServerUnavailableError
from deltaqmmm.ipi.channel import Channel, ConnectionClosedError, NothingReceivedError, TruncatedMessageError
from deltaqmmm.ipi.connection import Address, Notify, connect
from deltaqmmm.ipi.conversation import Conversation, StepReport
from deltaqmmm.ipi.frames import Evaluate, ExpectedFrames
from deltaqmmm.ipi.signals import StopRequest, StopRequestedError, stop_on_signals

_RECONNECT_PAUSE = 0.2


@dataclass(frozen=True)
class ClientSettings:
    """How the client deals with the server.

    Attributes:
        shared_memory: Whether the server has `mode='shm'`; nothing on the wire tells.
        wait_seconds: How long to wait for a server that does not exist yet.
        handshake_seconds: How long a server may take until its first message. A server that is busy with another client
            answers late, so this is generous.
        stall_seconds: How long a message that has begun may stand still.
        reconnect_seconds: How long to look for a server again after the connection was lost; 0 ends the run instead.
    """

    shared_memory: bool = False
    wait_seconds: float = 60.0
    handshake_seconds: float = 120.0
    stall_seconds: float = 60.0
    reconnect_seconds: float = 0.0


class EndReason(Enum):
    """Why a client ended without an error."""

    EXIT = auto()
    CLOSED = auto()
    STOPPED = auto()


@dataclass(frozen=True)
class Outcome:
    """How a run ended.

    Attributes:
        reason: Why.
        message: One sentence for the user.
        n_steps: Number of replies sent.
        signal_number: The signal that stopped the run, or 0.
    """

    reason: EndReason
    message: str
    n_steps: int
    signal_number: int = 0

    @property
    def exit_code(self) -> int:
        """Exit status of the process: 0, or 128 plus the signal's number."""
        return 128 + self.signal_number if self.signal_number else 0


class Client:
    """An i-PI client around a callable.

    Args:
        address: Where the server listens.
        evaluate: Computes a batch of frames, `evaluate(cells, positions)`. It must be warmed up before `run`: between
            connecting and the first answer the server serves nobody.
        expected: The number of atoms, and whether the cell matters.
        settings: Time limits, shared memory and reconnection.
        on_step: Called after each reply. Keep it short: the server waits for the next STATUS.
        on_connect: Called at each new connection, before its first frame: the server may be another one.
        notify: Gets one sentence at each turn of events (waiting, connected, lost).
    """

    def __init__(
        self,
        address: Address,
        evaluate: Evaluate,
        expected: ExpectedFrames,
        settings: ClientSettings | None = None,
        *,
        on_step: Callable[[StepReport], None] | None = None,
        on_connect: Callable[[], None] | None = None,
        notify: Notify | None = None,
    ) -> None:
        self._address = address
        self._evaluate = evaluate
        self._expected = expected
        self._settings = settings or ClientSettings()
        self._on_step = on_step or (lambda report: None)
        self._on_connect = on_connect or (lambda: None)
        self._notify = notify or (lambda text: None)
        self._steps = 0

    def run(self, stop: StopRequest | None = None) -> Outcome:
        """Serve until the server ends, or until SIGTERM or SIGINT.

        Args:
            stop: A way to end from another thread. Without it the signals are handled (in the main thread).

        Returns:
            How it ended; errors are raised.

        Raises:
            ServerUnavailableError: No server within the time allowed.
            ProtocolError: The peer is not i-PI, or sent something unknown, truncated or with another number of atoms.
            DeltaqmmmError: From the evaluation, or for frames or results that are not finite; nothing was sent.
        """
        if stop is None:
            with stop_on_signals() as handled:
                return self.run(handled)
        try:
            return self._serve_connections(stop)
        except StopRequestedError:
            name = f"signal {stop.signal_number}" if stop.signal_number else "a request"
            return self._outcome(EndReason.STOPPED, f"Stopped by {name}", stop.signal_number)

    def _outcome(self, reason: EndReason, text: str, signal_number: int = 0) -> Outcome:
        return Outcome(
            reason, f"{text} after {self._steps} step{'' if self._steps == 1 else 's'}.", self._steps, signal_number
        )

    def _serve_connections(self, stop: StopRequest) -> Outcome:
        wait_seconds = self._settings.wait_seconds
        loss: Exception | None = None
        loss_time, loss_step = 0.0, -1
        while True:
            try:
                self._serve_connection(stop, wait_seconds)
                return self._outcome(EndReason.EXIT, "i-PI sent EXIT")
            except (ConnectionClosedError, TruncatedMessageError) as error:
                loss = error
            except ServerUnavailableError:
                if loss is None:
                    raise
                return self._given_up(loss)
            if self._steps > loss_step:  # a server that accepts and hangs up does not count as having come back
                loss_time, loss_step = time.monotonic(), self._steps
            wait_seconds = self._settings.reconnect_seconds - (time.monotonic() - loss_time)
            if self._settings.reconnect_seconds <= 0.0 or wait_seconds <= 0.0:
                return self._given_up(loss)
            self._notify(f"Lost the connection to i-PI ({loss}); looking for it for {wait_seconds:.0f} s.")
            stop.wait(_RECONNECT_PAUSE)

    def _given_up(self, loss: Exception) -> Outcome:
        if isinstance(loss, TruncatedMessageError):
            raise loss
        return self._outcome(EndReason.CLOSED, f"i-PI closed the connection ({loss})")

    def _serve_connection(self, stop: StopRequest, wait_seconds: float) -> None:
        connection = connect(self._address, stop, wait_seconds, self._notify)
        with (
            contextlib.closing(Channel(connection, stop, self._settings.stall_seconds)) as channel,
            contextlib.closing(self._conversation(channel, stop)) as conversation,
        ):
            self._notify(f"Connected to {self._address}.")
            self._on_connect()
            try:
                conversation.run()
            except NothingReceivedError:
                raise ProtocolError(
                    f"The server at {self._address} accepted the connection but sent no i-PI message within "
                    f"{self._settings.handshake_seconds:g} s: it is not i-PI, or it is busy with another client."
                ) from None

    def _conversation(self, channel: Channel, stop: StopRequest) -> Conversation:
        return Conversation(
            channel,
            stop,
            self._evaluate,
            self._expected,
            shared_memory=self._settings.shared_memory,
            handshake_seconds=self._settings.handshake_seconds,
            on_step=self._count_step,
        )

    def _count_step(self, report: StepReport) -> None:
        self._steps += 1
        self._on_step(replace(report, step=self._steps))
