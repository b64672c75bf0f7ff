"""What the driver does where no i-PI is, or something else: one clear error, and nothing sent."""

from __future__ import annotations

import contextlib
import signal
import socket
import threading
import time
from pathlib import Path

import pytest

from deltaqmmm.errors import InputError, ProtocolError, ServerUnavailableError
from deltaqmmm.ipi import Client, ClientSettings, EndReason, ExpectedFrames, InetAddress, StopRequest, UnixAddress
from tests.integration.ipi import toy_potential
from tests.integration.ipi.scripted import N_ATOMS, QUICK, assert_error, run
from tests.integration.ipi.server import free_port


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
