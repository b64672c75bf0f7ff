"""What the driver does with servers that are not i-PI, or that send nonsense: one clear error, and nothing sent.

A scripted server plays the malformed side; everything well-formed is tested against the real i-PI.
"""

from __future__ import annotations

import array
import contextlib
import fcntl
import os
import signal
import socket
import termios
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from deltaqmmm.errors import (
    ConvergenceError,
    DeltaqmmmError,
    FrameError,
    InputError,
    NonFiniteError,
    ProtocolError,
    ServerUnavailableError,
)
from deltaqmmm.ipi import Client, ClientSettings, EndReason, ExpectedFrames, InetAddress, StopRequest, UnixAddress
from deltaqmmm.results import Evaluation
from tests.integration.ipi import toy_potential
from tests.integration.ipi.server import free_port, unique_name

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


@pytest.fixture
def address():
    address = UnixAddress(unique_name("scripted"))
    yield address
    Path(address.path).unlink(missing_ok=True)


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


# not i-PI at all


def test_another_protocol_on_the_socket(address):
    result, sent, seconds = run(address, [b"SSH-2.0-OpenSSH_9.6\r\n"], hang=True)
    assert_error(result, ProtocolError, "SSH-2.0-Open", "STATUS", "i-PI server")
    assert sent == b""
    assert seconds < 2.0


@pytest.mark.parametrize("begin", [b"", b"STAT"])
def test_a_silent_server(address, begin):
    result, sent, seconds = run(address, [begin], hang=True)
    assert_error(result, ProtocolError, "not i-PI")
    assert sent == b""
    assert seconds < 2.0


def test_a_server_that_hangs_up(address):
    result, sent, _ = run(address, [])
    assert_error(result, ProtocolError, "without any i-PI message")
    assert sent == b""


def test_a_web_server_on_the_port():
    """It accepts and waits for a request: an error after the handshake limit, over inet."""
    port = free_port()
    with socket.create_server(("localhost", port)):
        stop = StopRequest()
        client = Client(InetAddress("localhost", port), toy_potential.evaluate, ExpectedFrames(N_ATOMS), QUICK)
        with pytest.raises(
            ProtocolError, match=f"localhost, port {port} accepted the connection but sent no i-PI message"
        ):
            client.run(stop)
        stop.close()


@pytest.mark.parametrize("reconnect", [0.0, 0.8])
def test_reconnecting_to_a_server_that_always_hangs_up_ends(reconnect):
    """The limit counts from the last reply, so that accepting and hanging up does not keep the driver busy for ever."""
    port = free_port()
    with socket.create_server(("localhost", port)) as listener:
        listener.settimeout(0.1)
        over = threading.Event()
        accepted = []

        def hang_up():
            while not over.is_set():
                with contextlib.suppress(TimeoutError):
                    listener.accept()[0].close()
                    accepted.append(1)

        thread = threading.Thread(target=hang_up)
        thread.start()
        stop = StopRequest()
        settings = ClientSettings(wait_seconds=5.0, handshake_seconds=1.0, reconnect_seconds=reconnect)
        rescue = threading.Timer(5.0, stop.trigger)
        rescue.start()
        try:
            begin = time.monotonic()
            with pytest.raises(ProtocolError, match="without any i-PI message"):
                Client(InetAddress("localhost", port), toy_potential.evaluate, ExpectedFrames(3), settings).run(stop)
            assert time.monotonic() - begin < 3.0
        finally:
            rescue.cancel()
            over.set()
            thread.join(5.0)
            stop.close()
    assert len(accepted) <= 6
    assert (len(accepted) > 1) == (reconnect > 0.0)


# no server


def _fails(address, wait_seconds=0.3):
    stop = StopRequest()
    try:
        Client(address, toy_potential.evaluate, ExpectedFrames(3), ClientSettings(wait_seconds=wait_seconds)).run(stop)
    except (InputError, ServerUnavailableError) as error:
        return error
    finally:
        stop.close()
    raise AssertionError("no error")


def test_stale_socket_file(address):
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(address.path)
    assert_error(_fails(address), ServerUnavailableError, address.path, "within 0.3 s", "until it is removed")


def test_ordinary_file_in_place_of_the_socket(address):
    Path(address.path).write_text("")
    assert_error(_fails(address, 30.0), InputError, address.path, "not a socket")


def test_path_too_long():
    assert_error(_fails(UnixAddress("x" * 120)), InputError, "129 bytes", "107", "-S")


def test_nobody_on_the_port():
    port = free_port()
    assert_error(_fails(InetAddress("localhost", port)), ServerUnavailableError, f"port {port}", "nobody listens")


@pytest.mark.parametrize("port", [0, -1, 65536])
def test_impossible_port(port):
    assert_error(_fails(InetAddress("localhost", port)), InputError, str(port), "65535")


def test_full_queue_is_waited_for(address):
    """A unix server whose queue is full would block a plain connect for ever."""
    with socket.socket(socket.AF_UNIX) as listener, contextlib.ExitStack() as stack:
        listener.bind(address.path)
        listener.listen(0)
        for _ in range(4):
            waiting = stack.enter_context(socket.socket(socket.AF_UNIX))
            waiting.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                waiting.connect(address.path)
        assert_error(_fails(address), ServerUnavailableError, "queue is full")


def test_stop_while_waiting_for_a_server(address):
    stop = StopRequest()
    threading.Timer(0.2, stop.trigger, [signal.SIGTERM]).start()
    outcome = Client(address, toy_potential.evaluate, ExpectedFrames(3)).run(stop)
    stop.close()
    assert (outcome.reason, outcome.exit_code, outcome.n_steps) == (EndReason.STOPPED, 143, 0)


# malformed messages


@pytest.mark.parametrize(
    ("script", "texts"),
    [
        pytest.param([b"HELLO       "], ["HELLO", "unknown message"], id="unknown header"),
        pytest.param([header("FORCEREADY")], ["FORCEREADY", "unknown message"], id="header of the other side"),
        pytest.param([header("status")], ["unknown message"], id="lower case"),
        pytest.param([b"POSD"], ["4 of the 12 bytes of a message header", "truncated"], id="half a header"),
        pytest.param([posdata()[:100]], ["of the cell", "truncated"], id="half a cell"),
        pytest.param(
            [posdata()[:-8]], ["64 of the 72 bytes of the positions", "truncated"], id="half of the positions"
        ),
        pytest.param([init("abc", length=5)], ["3 of the 5 bytes of the INIT string"], id="half an INIT"),
        pytest.param([init(length=-1)], ["-1 bytes", "INIT"], id="negative INIT"),
        pytest.param([init(length=2**30)], [str(2**30), "INIT"], id="giant INIT"),
        pytest.param([init(" batch_size:many")], ["batch_size:many"], id="batch size not a number"),
        pytest.param([init(" batch_size:0")], ["batch_size:0"], id="no batch size"),
        pytest.param([posdata(count=-4)], ["-4 atoms", "has 3"], id="negative number of atoms"),
        pytest.param([posdata(count=2**31 - 1)], [f"{2**31 - 1} atoms", "has 3"], id="giant number of atoms"),
        pytest.param([posdata(POSITIONS[:2])], ["2 atoms", "has 3", "same order"], id="other number of atoms"),
        pytest.param([header("GETFORCE")], ["GETFORCE without POSDATA"], id="nothing to get"),
    ],
)
def test_malformed_messages(address, script, texts):
    result, sent, _ = run(address, [*GREETING, *script])
    assert_error(result, ProtocolError, *texts)
    assert sent == ALLOWED


@pytest.mark.parametrize("script", [[posdata()[:60]], [b"POSDA"], [init("abc", length=5)]])
def test_messages_that_stall(address, script):
    result, sent, seconds = run(address, [*GREETING, *script], hang=True)
    assert_error(result, ProtocolError, "nothing more for 0.5 s")
    assert sent == ALLOWED
    assert seconds < 3.0


def test_posdata_before_init(address):
    result, sent, _ = run(address, [header("STATUS"), "NEEDINIT", posdata()])
    assert_error(result, ProtocolError, "POSDATA before INIT")
    assert sent == header("NEEDINIT")


def test_shared_memory_that_does_not_exist(address):
    names = b"".join(int32(12) + f"ipi_shm_0_{kind:>2.2}".encode() for kind in ("po", "h", "ih", "pt", "f", "v"))
    settings = ClientSettings(shared_memory=True, wait_seconds=5.0)
    result, sent, _ = run(address, [*GREETING, header("POSDATA") + int32(3) + names], settings=settings)
    assert_error(result, ProtocolError, "ipi_shm_0_po", "cannot be opened", "same machine")
    assert sent == ALLOWED


# frames and results that are no numbers


def _poisoned(array, index, value=np.nan):
    poisoned = np.array(array, dtype=float)
    poisoned[index] = value
    return poisoned


@pytest.mark.parametrize(
    ("message", "texts"),
    [
        pytest.param(posdata(_poisoned(POSITIONS, (2, 1))), ["atom 2", "not finite"], id="position"),
        pytest.param(posdata(_poisoned(POSITIONS, (0, 0), np.inf)), ["atom 0", "not finite"], id="infinite position"),
        pytest.param(posdata(columns=_poisoned(COLUMNS, (0, 1))), ["cell", "not finite"], id="cell"),
        pytest.param(posdata(columns=np.ones((3, 3))), ["cell", "singular"], id="singular cell"),
        pytest.param(posdata(columns=np.zeros((3, 3))), ["cell", "singular"], id="no cell"),
    ],
)
@pytest.mark.parametrize("question", [header("GETFORCE"), header("STATUS"), b""])
def test_bad_frames(address, message, texts, question):
    result, sent, _ = run(address, [*GREETING, message + question], evaluate=_never, hang=True)
    assert_error(result, FrameError, *texts)
    assert sent == ALLOWED


def test_molecules_need_a_finite_cell(address):
    message = posdata(columns=_poisoned(COLUMNS, (0, 0)))
    result, sent, _ = run(
        address, [*GREETING, message + header("GETFORCE")], evaluate=_never, periodic=False, hang=True
    )
    assert_error(result, FrameError, "cell", "not finite")
    assert sent == ALLOWED


def _never(cells, positions):
    raise AssertionError("must not be evaluated")


def test_molecules_need_no_cell(address):
    """ASE sends zeros for the cell of a molecule."""
    script = [*GREETING, posdata(columns=np.zeros((3, 3))) + header("GETFORCE"), "FORCEREADY"]
    result, sent, _ = run(address, script, periodic=False)
    assert result.reason is EndReason.CLOSED
    assert len(sent) > len(ALLOWED) + 8 + 4 + 72 + 72


def _spoiled(field, **changes):
    def evaluate(cells, positions):
        good = toy_potential.evaluate(cells, positions)
        values = {
            "energies": good.energies,
            "forces": good.forces,
            "strain_derivatives": good.strain_derivatives,
            "terms": dict(good.terms),
            "extras": dict(good.extras),
        }
        if field in values:
            values[field] = _poisoned(values[field], (0,) * values[field].ndim)
        else:
            group, key = field.split(".")
            values[group][key] = _poisoned(values[group][key], 0, np.inf)
        return Evaluation(**values)

    return evaluate


@pytest.mark.parametrize("field", ["energies", "forces", "strain_derivatives", "terms.wells", "extras.qm_charges"])
@pytest.mark.parametrize("question", [header("GETFORCE"), header("STATUS")])
def test_nothing_non_finite_is_sent(address, field, question):
    result, sent, _ = run(address, [*GREETING, posdata() + question], evaluate=_spoiled(field), hang=True)
    assert_error(result, NonFiniteError, "frame 0", "nothing was sent")
    assert sent == ALLOWED


def test_errors_of_the_evaluation_pass_through(address):
    def evaluate(cells, positions):
        raise ConvergenceError("SCC")

    result, sent, _ = run(address, [*GREETING, posdata() + header("GETFORCE")], evaluate=evaluate, hang=True)
    assert_error(result, ConvergenceError, "SCC")
    assert sent == ALLOWED


# unusual but allowed


def test_messages_in_crumbs(address):
    """Bytes may arrive one by one."""
    crumbs = [part for byte in posdata() + header("GETFORCE") for part in (bytes([byte]), 0.0005)]
    result, sent, _ = run(address, [*GREETING, *crumbs, "FORCEREADY"])
    assert result.reason is EndReason.CLOSED
    assert result.n_steps == 1
    energy = np.frombuffer(sent[len(ALLOWED) + 12 :][:8])[0]
    assert energy == toy_potential.evaluate(COLUMNS.T[None], POSITIONS[None]).energies[0]


def test_status_after_posdata_is_answered_with_havedata(address):
    script = [*GREETING, posdata(), header("STATUS"), "HAVEDATA", header("STATUS"), "HAVEDATA", header("GETFORCE")]
    result, sent, _ = run(address, [*script, "FORCEREADY"])
    assert result.n_steps == 1
    assert sent.startswith(ALLOWED + 2 * header("HAVEDATA") + header("FORCEREADY"))


def test_exit_before_the_evaluation_skips_it(address):
    result, _, _ = run(address, [*GREETING, posdata() + header("EXIT")], evaluate=_never)
    assert (result.reason, result.exit_code) == (EndReason.EXIT, 0)


def test_exit_said_while_computing_counts(address):
    """The server says EXIT and goes while the driver computes: the failed reply is not a lost connection."""

    def slow(cells, positions):
        time.sleep(0.5)
        return toy_potential.evaluate(cells, positions)

    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(address.path)
        listener.listen(1)
        stop = StopRequest()
        outcomes = []
        settings = ClientSettings(wait_seconds=5.0, reconnect_seconds=20.0)
        client = Client(address, slow, ExpectedFrames(3), settings)
        thread = threading.Thread(target=lambda: outcomes.append(client.run(stop)))
        thread.start()
        listener.settimeout(5.0)
        with listener.accept()[0] as peer:
            peer.sendall(header("STATUS"))
            assert peer.recv(12) == header("NEEDINIT")
            peer.sendall(init() + posdata() + header("GETFORCE"))
            time.sleep(0.2)
            peer.sendall(header("EXIT"))
            peer.shutdown(socket.SHUT_RDWR)
        thread.join(5.0)
        assert not thread.is_alive()
        stop.close()
    assert outcomes[0].reason is EndReason.EXIT


def test_nothing_is_unread_while_computing(address):
    """So that a driver killed in mid-step leaves an end of file: i-PI 3.3 does not survive a connection reset."""
    unread = []

    def evaluate(cells, positions):
        time.sleep(0.1)  # GETFORCE is on its way
        unread.extend(_unread_bytes())
        return toy_potential.evaluate(cells, positions)

    def _unread_bytes():
        for name in os.listdir("/proc/self/fd"):
            with contextlib.suppress(OSError):
                target = os.readlink(f"/proc/self/fd/{name}")
                if target.startswith("socket:"):
                    probe = socket.socket(fileno=os.dup(int(name)))
                    with probe, contextlib.suppress(OSError):
                        if probe.family == socket.AF_UNIX and probe.getpeername() == address.path:
                            count = array.array("i", [0])
                            fcntl.ioctl(probe, termios.FIONREAD, count)
                            yield count[0]

    run(address, [*GREETING, posdata(), 0.03, header("GETFORCE"), "FORCEREADY"], evaluate=evaluate)
    assert unread == [0]
