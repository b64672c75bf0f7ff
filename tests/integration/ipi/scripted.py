"""A server that follows a script, for what the real i-PI never does; and a client that runs against it."""

from __future__ import annotations

import contextlib
import socket
import threading
import time

import numpy as np

from deltaqmmm.errors import DeltaqmmmError
from deltaqmmm.ipi import Client, ClientSettings, ExpectedFrames, StopRequest
from tests.integration.ipi import toy_potential

N_ATOMS = 3
POSITIONS = toy_potential.origins(N_ATOMS) + 0.1
COLUMNS = np.array([[10.0, 1.5, -2.0], [0.0, 9.0, 0.7], [0.0, 0.0, 11.0]])


def header(text):
    return text.ljust(12).encode()


def int32(number):
    return np.int32(number).tobytes()


def init(text="", length=None):
    return header("INIT") + int32(0) + int32(len(text) if length is None else length) + text.encode()


def posdata(positions=POSITIONS, columns=COLUMNS, count=None):
    """The unbatched message."""
    return (
        header("POSDATA")
        + np.ascontiguousarray(columns).tobytes()
        + bytes(72)  # the inverse cell, which nobody needs
        + int32(len(positions) if count is None else count)
        + np.asarray(positions, float).tobytes()
    )


class ScriptedServer:
    """Accepts one client and follows a script.

    Bytes are sent, numbers are seconds to wait, strings are headers to expect. `received` holds all that the client
    sent. At the end of the script the server closes (or, if told so, stays silent).
    """

    def __init__(self, path, script, *, hang=False):
        self.received = b""
        self.problems = []
        self._script, self._hang = script, hang
        self._done = threading.Event()
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(path)
        self._listener.listen(1)
        self._listener.settimeout(10.0)
        self._thread = threading.Thread(target=self._play)

    def _play(self):
        with self._listener, self._listener.accept()[0] as peer:
            peer.settimeout(10.0)
            with contextlib.suppress(ConnectionError):
                for part in self._script:
                    if isinstance(part, bytes):
                        peer.sendall(part)
                    elif isinstance(part, str):
                        self._expect(peer, part)
                    else:
                        time.sleep(part)
            if self._hang:
                self._done.wait(10.0)
            else:
                with contextlib.suppress(OSError):
                    peer.shutdown(socket.SHUT_WR)
            self._drain(peer)

    def _expect(self, peer, text):
        data = b""
        while len(data) < 12:
            piece = peer.recv(12 - len(data))
            if not piece:
                self.problems.append(f"{text} expected, connection closed")
                raise ConnectionResetError
            data += piece
        self.received += data
        if data != header(text):
            self.problems.append(f"{text} expected, got {data!r}")

    def _drain(self, peer):
        with contextlib.suppress(OSError):
            while data := peer.recv(1 << 16):
                self.received += data

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._done.set()
        self._thread.join(15.0)
        assert not self._thread.is_alive()


QUICK = ClientSettings(wait_seconds=5.0, handshake_seconds=0.5, stall_seconds=0.5)
GREETING = (header("STATUS"), "NEEDINIT", init(), header("STATUS"), "READY")


def run(address, script, *, evaluate=toy_potential.evaluate, settings=QUICK, periodic=True, hang=False):
    """Run a client against the script: the outcome (or the error), what the client sent, and the seconds it took."""
    stop = StopRequest()
    with ScriptedServer(address.path, script, hang=hang) as server:
        begin = time.monotonic()
        client = Client(address, evaluate, ExpectedFrames(N_ATOMS, periodic), settings)
        try:
            result = client.run(stop)
        except DeltaqmmmError as error:
            result = error
        seconds = time.monotonic() - begin
    stop.close()
    assert server.problems == []
    return result, server.received, seconds


ALLOWED = header("NEEDINIT") + header("READY")


def assert_error(result, kind, *texts):
    assert isinstance(result, kind), repr(result)
    for text in texts:
        assert text in str(result)


def never(cells, positions):
    raise AssertionError("must not be evaluated")
