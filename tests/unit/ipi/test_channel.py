"""Looped reads and writes over a socket pair."""

from __future__ import annotations

import signal
import socket
import threading
import time

import pytest

from deltaqmmm.ipi.channel import Channel, ConnectionClosedError, NothingReceivedError, TruncatedMessageError
from deltaqmmm.ipi.signals import StopRequest, StopRequestedError, stop_on_signals


@pytest.fixture
def ends():
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    theirs.settimeout(5.0)
    stop = StopRequest()
    channel = Channel(ours, stop, stall_seconds=0.2)
    yield channel, theirs, stop
    theirs.close()
    channel.close()
    stop.close()


def test_large_messages_both_ways(ends):
    """Far larger than the socket's buffers, so that reads and writes are partial."""
    channel, peer, _ = ends
    data = bytes(range(256)) * 20_000
    received = bytearray()

    def echo():
        while len(received) < len(data):
            received.extend(peer.recv(65536))
        peer.sendall(received)

    thread = threading.Thread(target=echo)
    thread.start()
    channel.send(data)
    assert channel.read_first(len(data), "echo", None) == data
    thread.join(5.0)


def test_nothing_comes(ends):
    channel, _, _ = ends
    with pytest.raises(NothingReceivedError):
        channel.read_first(4, "number", 0.05)


def test_a_message_that_has_begun_may_take_longer_than_the_first_byte(ends):
    channel, peer, _ = ends
    peer.sendall(b"ab")
    timer = threading.Timer(0.1, peer.sendall, [b"cd"])
    timer.start()
    assert channel.read_first(4, "number", 0.02) == b"abcd"


def test_stall(ends):
    channel, peer, _ = ends
    peer.sendall(b"abc")
    with pytest.raises(TruncatedMessageError, match=r"3 of the 4 bytes of number came.*0\.2 s"):
        channel.read_first(4, "number", None)


def test_end_between_and_inside_messages(ends):
    channel, peer, _ = ends
    peer.sendall(b"abc")
    peer.shutdown(socket.SHUT_WR)
    assert channel.read(2, "part") == b"ab"
    with pytest.raises(TruncatedMessageError, match="1 of the 2 bytes of part"):
        channel.read(2, "part")
    with pytest.raises(ConnectionClosedError):
        channel.read_first(2, "next", None)
    with pytest.raises(TruncatedMessageError):
        channel.read(2, "rest")


def test_peer_gone_while_sending(ends):
    channel, peer, _ = ends
    peer.close()
    with pytest.raises(ConnectionClosedError):
        channel.send(b"x" * 100)


def test_stop_interrupts_reading(ends):
    channel, _, stop = ends
    threading.Timer(0.1, stop.trigger, [signal.SIGTERM]).start()
    begin = time.monotonic()
    with pytest.raises(StopRequestedError):
        channel.read_first(4, "number", None)
    assert time.monotonic() - begin < 2.0
    assert stop.signal_number == signal.SIGTERM


def test_stop_lets_a_message_finish(ends):
    """Half a reply must never be left on the wire."""
    channel, peer, stop = ends
    data = b"x" * 2_000_000
    received = bytearray()

    def slowly():
        time.sleep(0.2)
        while len(received) < len(data):
            received.extend(peer.recv(1 << 16))

    thread = threading.Thread(target=slowly)
    thread.start()
    stop.trigger()
    channel.send(data)
    thread.join(5.0)
    assert received == data


def test_closing_reads_what_is_left(ends):
    """A socket closed with unread bytes resets the connection; the peer must see an end of file instead."""
    channel, peer, _ = ends
    peer.sendall(b"left over")
    channel.close()
    assert peer.recv(10) == b""


def test_signals_become_requests():
    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    with stop_on_signals() as stop:
        signal.raise_signal(signal.SIGTERM)
        assert (stop.requested, stop.signal_number) == (True, signal.SIGTERM)
        with pytest.raises(StopRequestedError):
            stop.wait(10.0)
        with pytest.raises(StopRequestedError):
            signal.raise_signal(signal.SIGINT)
        assert stop.signal_number == signal.SIGTERM, "the first one counts"
    assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == before


def test_no_handlers_outside_the_main_thread():
    before = signal.getsignal(signal.SIGTERM)
    seen = []

    def work():
        with stop_on_signals() as stop:
            seen.append(signal.getsignal(signal.SIGTERM) is before)
            stop.trigger()
            stop.trigger()
            seen.append(stop.signal_number == 0 and stop.requested)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join(5.0)
    assert seen == [True, True]
