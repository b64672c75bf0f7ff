"""Reaching an i-PI server: addresses, and waiting for a server that does not exist yet."""

from __future__ import annotations

import errno
import os
import select
import socket
import stat
import time
from collections.abc import Callable
from dataclasses import dataclass

from deltaqmmm.errors import InputError, ServerUnavailableError
from deltaqmmm.ipi.signals import StopRequest, StopRequestedError

DEFAULT_SOCKET_PREFIX = "/tmp/ipi_"
_LONGEST_UNIX_PATH = 107
_FIRST_PAUSE, _LONGEST_PAUSE = 0.02, 0.5

_NOT_YET = frozenset(
    {
        errno.ENOENT,
        errno.ECONNREFUSED,
        errno.ECONNRESET,
        errno.ECONNABORTED,
        errno.EAGAIN,
        errno.ETIMEDOUT,
        errno.EHOSTUNREACH,
        errno.ENETUNREACH,
    }
)

Notify = Callable[[str], None]


@dataclass(frozen=True)
class UnixAddress:
    """A unix socket, as i-PI's `mode='unix'` and `mode='shm'` open it.

    Attributes:
        name: The `<address>` of the i-PI input.
        prefix: What i-PI puts before it: the path is `prefix + name`. i-PI's own flag and input attribute for it is
            `-S` and `sockets_prefix`.
    """

    name: str
    prefix: str = DEFAULT_SOCKET_PREFIX

    @property
    def path(self) -> str:
        """The path of the socket file."""
        return self.prefix + self.name

    def __str__(self) -> str:
        return f"unix socket {self.path}"

    def check(self) -> None:
        """Raise `InputError` for a path that no socket can have."""
        length = len(os.fsencode(self.path))
        if length > _LONGEST_UNIX_PATH:
            raise InputError(
                f"The socket path {self.path} has {length} bytes, but unix sockets allow {_LONGEST_UNIX_PATH}; "
                "shorten the <address> or the prefix (-S)."
            )
        try:
            mode = os.stat(self.path).st_mode
        except OSError:
            return
        if not stat.S_ISSOCK(mode):
            raise InputError(
                f"{self.path} exists but is not a socket; choose another <address> or prefix (-S), or remove it."
            )

    def candidates(self) -> list[tuple[socket.AddressFamily, str | tuple[str, int]]]:
        """Return what to connect to."""
        return [(socket.AF_UNIX, self.path)]

    def explain(self, error: OSError) -> str:
        """Say why the server could not be reached."""
        if error.errno == errno.ENOENT:
            return "the socket does not exist"
        if error.errno == errno.ECONNREFUSED:
            return "nobody listens on the socket file: a dead i-PI left it, and i-PI cannot start until it is removed"
        if error.errno == errno.EAGAIN:
            return "the server's queue is full: too many clients are waiting (raise <slots> in the <ffsocket>)"
        return error.strerror or str(error)


@dataclass(frozen=True)
class InetAddress:
    """A TCP socket, as i-PI's `mode='inet'` opens it.

    Attributes:
        host: The `<address>` of the i-PI input, seen from here.
        port: Its `<port>`.
    """

    host: str
    port: int

    def __str__(self) -> str:
        return f"{self.host}, port {self.port}"

    def check(self) -> None:
        """Raise `InputError` for an impossible port."""
        if not 0 < self.port < 65536:
            raise InputError(f"The port {self.port} is not a port number; needed is a number between 1 and 65535.")

    def candidates(self) -> list[tuple[socket.AddressFamily, str | tuple[str, int]]]:
        """Return what to connect to, in order of preference."""
        found = socket.getaddrinfo(self.host, self.port, type=socket.SOCK_STREAM)
        return [(family, (str(address[0]), self.port)) for family, _, _, _, address in found]

    def explain(self, error: OSError) -> str:
        """Say why the server could not be reached."""
        if error.errno == errno.ECONNREFUSED:
            return "nobody listens on that port"
        return error.strerror or str(error)


Address = UnixAddress | InetAddress


def connect(address: Address, stop: StopRequest, wait_seconds: float, notify: Notify) -> socket.socket:
    """Connect to a server, waiting for one that does not exist yet.

    Args:
        address: Where it listens.
        stop: Ends the wait when triggered.
        wait_seconds: How long to wait.
        notify: Gets one sentence as soon as there is something to wait for.

    Returns:
        A non-blocking connected socket.

    Raises:
        InputError: The address is impossible.
        ServerUnavailableError: No server within `wait_seconds`, or one that cannot be reached at all.
        StopRequestedError: A stop was requested.
    """
    deadline = time.monotonic() + wait_seconds
    pause, told = _FIRST_PAUSE, False
    while True:
        stop.raise_if_requested()
        address.check()
        try:
            return _connect_once(address, stop, max(deadline - time.monotonic(), _LONGEST_PAUSE))
        except OSError as error:
            # The name service may be down for a moment; an unknown name stays unknown.
            later = error.errno == socket.EAI_AGAIN if isinstance(error, socket.gaierror) else error.errno in _NOT_YET
            if not later:
                raise ServerUnavailableError(f"Cannot connect to {address}: {address.explain(error)}.") from error
            if time.monotonic() + pause > deadline:
                raise ServerUnavailableError(
                    f"No i-PI server at {address} within {wait_seconds:g} s: {address.explain(error)}. Start i-PI, "
                    "compare the address with the <ffsocket> of its input, or allow a longer wait."
                ) from error
        if not told:
            notify(f"Waiting up to {wait_seconds:g} s for i-PI at {address}.")
            told = True
        stop.wait(pause)
        pause = min(2 * pause, _LONGEST_PAUSE)


def _connect_once(address: Address, stop: StopRequest, seconds: float) -> socket.socket:
    failure: OSError | None = None
    for family, target in address.candidates():
        connection = socket.socket(family, socket.SOCK_STREAM)
        try:
            connection.setblocking(False)  # also for unix sockets: a full queue would block for ever
            _finish_connecting(connection, target, stop, seconds)
            if family != socket.AF_UNIX:
                _tune(connection)
            return connection
        except OSError as error:
            connection.close()
            failure = error
        except StopRequestedError:
            connection.close()
            raise
    raise failure or OSError(errno.ENOENT, "the host has no address")


def _finish_connecting(
    connection: socket.socket, target: str | tuple[str, int], stop: StopRequest, seconds: float
) -> None:
    code = connection.connect_ex(target)
    if code == errno.EINPROGRESS:
        select.select([stop.fileno()], [connection], [], seconds)
        stop.raise_if_requested()
        code = connection.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if not code and not _has_peer(connection):
            code = errno.ETIMEDOUT
    if code:
        raise OSError(code, os.strerror(code))


def _has_peer(connection: socket.socket) -> bool:
    try:
        connection.getpeername()
    except OSError:
        return False
    return True


def _tune(connection: socket.socket) -> None:
    """Send small messages at once, and notice a server machine that has gone without a word."""
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in (("TCP_KEEPIDLE", 60), ("TCP_KEEPINTVL", 15), ("TCP_KEEPCNT", 4)):
        if hasattr(socket, option):  # macOS lacks some of them
            connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), value)
