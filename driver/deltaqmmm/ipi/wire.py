"""The bytes of i-PI's protocol: nothing here knows about sockets or about what comes next.

Headers are 12 bytes, upper case, padded with spaces; integers are int32 and reals float64, both in native order and
atomic units. i-PI sends cells with the lattice vectors as columns and wants virials the same way; inside deltaqmmm
lattice vectors are rows. The transposition is done here and nowhere else.

Reading goes through a `Read`: a callable that returns exactly the number of bytes asked for, or raises.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

import numpy as np

from deltaqmmm.errors import ProtocolError
from deltaqmmm.results import FloatArray

HEADER_LENGTH = 12
INT32_SIZE = 4
FLOAT64_SIZE = 8

_LONGEST_PARAMETER_STRING = 1 << 20
_LONGEST_SEGMENT_NAME = 255
_LARGEST_BATCH = 1 << 20
_PEEK_LENGTH = 16
SEGMENT_NAME_PREFIX = b"ipi_shm_"


class Header(StrEnum):
    """The messages of the protocol, without their padding."""

    STATUS = "STATUS"
    NEEDINIT = "NEEDINIT"
    READY = "READY"
    HAVEDATA = "HAVEDATA"
    INIT = "INIT"
    POSDATA = "POSDATA"
    GETFORCE = "GETFORCE"
    FORCEREADY = "FORCEREADY"
    EXIT = "EXIT"


FROM_SERVER = (Header.STATUS, Header.INIT, Header.POSDATA, Header.GETFORCE, Header.EXIT)
"""The headers that a server may send."""


class Read(Protocol):
    """Returns exactly `length` bytes of the message part named `what`, or raises."""

    def __call__(self, length: int, what: str) -> bytearray:
        """Read `length` bytes; `what` is used in error messages."""


@dataclass(frozen=True)
class Frames:
    """A batch of B frames of N atoms as i-PI sent it, in atomic units.

    Attributes:
        cells: Rows are lattice vectors, shape (B, 3, 3), bohr.
        positions: Shape (B, N, 3), bohr.
    """

    cells: FloatArray
    positions: FloatArray


@dataclass(frozen=True)
class Results:
    """What goes back for a batch of B frames of N atoms, in atomic units.

    Attributes:
        energies: Shape (B,), hartree.
        forces: Shape (B, N, 3), hartree/bohr.
        virials: Minus the strain derivative, row convention (the transpose of what i-PI reads), shape (B, 3, 3),
            hartree.
        extras: One JSON object per frame.
    """

    energies: FloatArray
    forces: FloatArray
    virials: FloatArray
    extras: Sequence[str]


def encode_header(header: Header) -> bytes:
    """Return the 12 bytes of a header."""
    return header.value.ljust(HEADER_LENGTH).encode("ascii")


_SERVER_HEADERS = {encode_header(header): header for header in FROM_SERVER}


def decode_header(data: bytes | bytearray) -> Header:
    """Return the header that a server sent.

    Raises:
        ProtocolError: These 12 bytes are none of the headers that a server sends.
    """
    header = _SERVER_HEADERS.get(bytes(data))
    if header is None:
        raise ProtocolError(
            f"The peer sent the unknown message {bytes(data)!r}; needed is one of {', '.join(FROM_SERVER)}, padded "
            f"with spaces to {HEADER_LENGTH} bytes. Check that the address is that of an i-PI server."
        )
    return header


def read_int32(read: Read, what: str) -> int:
    """Read one int32."""
    return int(np.frombuffer(read(INT32_SIZE, what), np.int32)[0])


def read_floats(read: Read, shape: tuple[int, ...], what: str) -> FloatArray:
    """Read a float64 array of the given shape in C order."""
    return np.frombuffer(read(FLOAT64_SIZE * int(np.prod(shape)), what), np.float64).reshape(shape)


def read_parameters(read: Read) -> tuple[int, str]:
    """Read what follows INIT.

    Returns:
        The request number (a global counter of i-PI, not a bead index) and the parameter string.
    """
    request = read_int32(read, "the request number of INIT")
    length = read_int32(read, "the length of the INIT string")
    if not 0 <= length <= _LONGEST_PARAMETER_STRING:
        raise ProtocolError(
            f"The peer announced an INIT string of {length} bytes; needed is a length between 0 and "
            f"{_LONGEST_PARAMETER_STRING}."
        )
    return request, read(length, "the INIT string").decode("utf-8", errors="replace")


def batch_size_from(parameters: str) -> int:
    """Return the batch size that an INIT string announces, or 1 if it announces none.

    The string is `key:value` pairs separated by commas; i-PI appends `batch_size:N` to the user's parameters, so the
    last one counts.
    """
    batch_size = 1
    for token in parameters.split(","):
        key, separator, value = token.partition(":")
        if not separator or key.strip() != "batch_size":
            continue
        text = value.strip(" \0")
        if not text.isdecimal() or not 1 <= int(text) <= _LARGEST_BATCH:
            raise ProtocolError(
                f"The INIT string announces batch_size:{text}; needed is a whole number between 1 and "
                f"{_LARGEST_BATCH}. Check <batch_size> in the <ffsocket> of the i-PI input."
            )
        batch_size = int(text)
    return batch_size


def check_atom_count(count: int, n_atoms: int, remedy: str = "") -> None:
    """Check the number of atoms that i-PI announces against the topology's.

    Raises:
        ProtocolError: They differ.
    """
    if count != n_atoms:
        raise ProtocolError(
            f"i-PI sent {count} atoms, but the topology has {n_atoms}. "
            + (
                remedy
                or "Use the same atoms in the same order in the i-PI input and in the topology (and no activelist)."
            )
        )


def _with_peek(read: Read, what: str, name_offset: int) -> Read:
    """Look at the first bytes of POSDATA: a server in shm mode sends segment names, and the rest would never come."""
    head = read(_PEEK_LENGTH, what)
    if head[name_offset : name_offset + len(SEGMENT_NAME_PREFIX)] == SEGMENT_NAME_PREFIX:
        raise ProtocolError(
            "i-PI sent names of shared memory segments, but this driver expects the positions on the socket: the "
            "<ffsocket> has mode='shm'. Start the driver with --shm, or use mode='unix' in the i-PI input."
        )

    def resume(length: int, what: str) -> bytearray:
        if not head:
            return read(length, what)
        taken = bytearray(head[:length])
        del head[:length]
        if len(taken) < length:
            taken += read(length - len(taken), what)
        return taken

    return resume


def read_frames(read: Read, n_atoms: int, batch_size: int) -> Frames:
    """Read what follows POSDATA on a plain socket.

    Args:
        read: Where the bytes come from.
        n_atoms: The number of atoms that the topology has.
        batch_size: What INIT announced. i-PI uses the batched layout only for more than 1.

    Raises:
        ProtocolError: The number of atoms differs, or the server uses shared memory.
    """
    batched = batch_size > 1
    read = _with_peek(read, "the cell of POSDATA", name_offset=2 * INT32_SIZE)
    if batched:
        check_atom_count(read_int32(read, "the number of atoms of POSDATA"), n_atoms)
    columns = read_floats(read, (batch_size, 2, 3, 3), "the cells of POSDATA")[:, 0]
    if not batched:
        check_atom_count(read_int32(read, "the number of atoms of POSDATA"), n_atoms)
    positions = read_floats(read, (batch_size, n_atoms, 3), "the positions of POSDATA")
    return Frames(transpose(columns), positions)


def read_segment_names(read: Read, kinds: Sequence[str]) -> dict[str, str]:
    """Read the names of the shared memory segments that follow the first POSDATA of a connection in shm mode.

    Args:
        read: Where the bytes come from.
        kinds: The quantities, in the order in which i-PI names their segments.
    """
    names = {}
    for kind in kinds:
        length = read_int32(read, f"the length of the name of the '{kind}' segment")
        if not 0 < length <= _LONGEST_SEGMENT_NAME:
            raise ProtocolError(
                f"The peer announced a name of {length} bytes for the shared memory segment '{kind}'; needed is a "
                f"length between 1 and {_LONGEST_SEGMENT_NAME}. Use mode='shm' in the <ffsocket> of the i-PI input, "
                "or drop --shm."
            )
        names[kind] = read(length, f"the name of the '{kind}' segment").decode("utf-8", errors="replace")
    return names


def transpose(matrices: FloatArray) -> FloatArray:
    """Change between lattice vectors as rows and as columns, shape (B, 3, 3); the result is contiguous and a copy."""
    return np.array(matrices.transpose(0, 2, 1), dtype=np.float64, order="C")


def encode_results(results: Results, *, batched: bool) -> bytes:
    """Return the whole reply to GETFORCE, header included, so that it leaves in one piece.

    Unbatched (one frame): energy, atom count, forces, virial, extra. Batched: energies, one atom count, forces,
    virials, extras. The atom count comes second in both, so the layouts differ in the number of frames only.
    """
    n_frames, n_atoms = results.forces.shape[:2]
    if not batched and n_frames != 1:
        raise ValueError(f"The unbatched reply carries 1 frame, not {n_frames}.")
    return b"".join(
        (
            encode_header(Header.FORCEREADY),
            np.ascontiguousarray(results.energies, np.float64).tobytes(),
            np.int32(n_atoms).tobytes(),
            np.ascontiguousarray(results.forces, np.float64).tobytes(),
            transpose(results.virials).tobytes(),
            encode_extras(results.extras),
        )
    )


def encode_extras(extras: Sequence[str]) -> bytes:
    """Return the extras, each after its length in bytes."""
    encoded = [extra.encode("utf-8") for extra in extras]
    return b"".join(np.int32(len(extra)).tobytes() + extra for extra in encoded)
