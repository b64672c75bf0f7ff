"""What a server may do, though i-PI does not or seldom does."""

from __future__ import annotations

import array
import contextlib
import fcntl
import os
import socket
import termios
import threading
import time

import numpy as np

from deltaqmmm.ipi import Client, ClientSettings, EndReason, ExpectedFrames, StopRequest
from tests.integration.ipi import toy_potential
from tests.integration.ipi.scripted import ALLOWED, COLUMNS, GREETING, POSITIONS, header, init, never, posdata, run


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
    result, _, _ = run(address, [*GREETING, posdata() + header("EXIT")], evaluate=never)
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
