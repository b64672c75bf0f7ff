"""Bytes in, bytes out: layouts as written down from i-PI 3.3."""

from __future__ import annotations

import numpy as np
import pytest

from deltaqmmm.errors import ProtocolError
from deltaqmmm.ipi import wire
from deltaqmmm.ipi.wire import Header, Results


class Source:
    """A `Read` over a byte string."""

    def __init__(self, data):
        self.data = data

    def __call__(self, length, what):
        assert len(self.data) >= length, what
        part, self.data = self.data[:length], self.data[length:]
        return bytearray(part)


GENERATOR = np.random.default_rng(7)


def test_headers_have_twelve_bytes():
    assert {len(wire.encode_header(header)) for header in Header} == {12}
    assert wire.encode_header(Header.FORCEREADY) == b"FORCEREADY  "


@pytest.mark.parametrize("header", wire.FROM_SERVER)
def test_headers_of_the_server(header):
    assert wire.decode_header(wire.encode_header(header)) is header


@pytest.mark.parametrize("data", [b"READY       ", b"STATUS      "[:-1], b"STATUS\0\0\0\0\0\0", b"\xff" * 12])
def test_other_headers_are_refused(data):
    with pytest.raises(ProtocolError, match="unknown message"):
        wire.decode_header(data)


@pytest.mark.parametrize(
    ("text", "batch_size"),
    [
        ("", 1),
        (" ", 1),
        ("\0", 1),
        ("  batch_size:32", 32),
        (" key : value , other : 3 , , batch_size:4", 4),
        ("batch_size: 8 ", 8),
        ("url:http://host:80, batch_size:2", 2),
        ("batch_size : 7 , , batch_size:5", 5),
        ("my_batch_size:9", 1),
        ("batch_size", 1),
    ],
)
def test_batch_size(text, batch_size):
    assert wire.batch_size_from(text) == batch_size


@pytest.mark.parametrize("value", ["", "x", "-1", "0", "1.5", "2000000", "1e3"])
def test_impossible_batch_sizes(value):
    with pytest.raises(ProtocolError, match="whole number"):
        wire.batch_size_from(f" batch_size:{value}")


def test_parameters_survive_bad_text():
    data = np.int32(5).tobytes() + np.int32(4).tobytes() + b"a:\xffb"
    assert wire.read_parameters(Source(data)) == (5, "a:\ufffdb")


@pytest.mark.parametrize("batch_size", [1, 2, 5])
def test_frames(batch_size):
    n_atoms = 4
    columns = GENERATOR.normal(size=(batch_size, 3, 3))
    positions = GENERATOR.normal(size=(batch_size, n_atoms, 3))
    cells = b"".join(h.tobytes() + np.linalg.inv(h).tobytes() for h in columns)
    count = np.int32(n_atoms).tobytes()
    data = (cells + count if batch_size == 1 else count + cells) + positions.tobytes()
    source = Source(data + b"GETFORCE    ")
    frames = wire.read_frames(source, n_atoms, batch_size)
    assert source.data == b"GETFORCE    "
    np.testing.assert_array_equal(frames.positions, positions)
    for rows, h in zip(frames.cells, columns, strict=True):
        np.testing.assert_array_equal(rows[1], h[:, 1], err_msg="lattice vectors must be rows")
    assert frames.cells.flags.c_contiguous
    assert frames.cells.flags.writeable
    assert frames.positions.flags.writeable


@pytest.mark.parametrize("batch_size", [1, 3])
def test_segment_names_in_place_of_positions(batch_size):
    data = np.int32(2).tobytes() + np.int32(18).tobytes() + b"ipi_shm_4711_5_pos" + bytes(500)
    with pytest.raises(ProtocolError, match="--shm"):
        wire.read_frames(Source(data), 2, batch_size)


def test_segment_names():
    kinds = ("pos", "h")
    data = b"".join(np.int32(len(kind) + 4).tobytes() + b"shm_" + kind.encode() for kind in kinds)
    assert wire.read_segment_names(Source(data), kinds) == {"pos": "shm_pos", "h": "shm_h"}


@pytest.mark.parametrize("length", [0, -3, 256, 2**31 - 1])
def test_segment_names_of_impossible_length(length):
    with pytest.raises(ProtocolError, match="'pos'"):
        wire.read_segment_names(Source(np.int32(length).tobytes()), ("pos",))


@pytest.mark.parametrize("n_frames", [1, 3])
def test_results(n_frames):
    """The reply read back in the order in which i-PI reads it; forces that are not contiguous must come out right."""
    n_atoms = 2
    extras = [f'{{"angle": "{frame}°"}}' for frame in range(n_frames)]
    forces = np.asfortranarray(GENERATOR.normal(size=(n_frames, n_atoms, 3)))
    results = Results(GENERATOR.normal(size=n_frames), forces, GENERATOR.normal(size=(n_frames, 3, 3)), extras)
    source = Source(wire.encode_results(results, batched=n_frames > 1))
    assert source(12, "") == b"FORCEREADY  "
    np.testing.assert_array_equal(wire.read_floats(source, (n_frames,), ""), results.energies)
    assert wire.read_int32(source, "") == n_atoms
    np.testing.assert_array_equal(wire.read_floats(source, (n_frames, n_atoms, 3), ""), forces)
    for virial in results.virials:
        np.testing.assert_array_equal(wire.read_floats(source, (3, 3), ""), virial.T)
    for extra in extras:
        length = wire.read_int32(source, "")
        assert length == len(extra.encode()) > len(extra), "bytes are counted, not characters"
        assert source(length, "").decode() == extra
    assert source.data == b""


def test_unbatched_reply_has_one_frame():
    results = Results(np.zeros(2), np.zeros((2, 1, 3)), np.zeros((2, 3, 3)), ["", ""])
    with pytest.raises(ValueError, match="1 frame"):
        wire.encode_results(results, batched=False)
