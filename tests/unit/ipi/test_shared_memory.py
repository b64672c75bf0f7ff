"""Segments as i-PI makes them, in the same process."""

from __future__ import annotations

import os
from multiprocessing.shared_memory import SharedMemory

import numpy as np
import pytest

from deltaqmmm.errors import ProtocolError
from deltaqmmm.ipi.shared_memory import KINDS, SharedSegments
from deltaqmmm.ipi.wire import Results

BATCH, ATOMS = 2, 3
SIZES = {
    "pos": BATCH * ATOMS * 3,
    "h": BATCH * 9,
    "ih": BATCH * 9,
    "pot": BATCH,
    "force": BATCH * ATOMS * 3,
    "vir": BATCH * 9,
}


@pytest.fixture
def segments():
    made = {}
    try:
        for kind in KINDS:
            made[kind] = SharedMemory(create=True, size=8 * SIZES[kind], name=f"deltaqmmm_{os.getpid()}_{kind}")
        yield made
    finally:
        for segment in made.values():
            segment.close()
            segment.unlink()


def _array(segment, shape):
    return np.ndarray(shape, np.float64, buffer=segment.buf)


def test_frames_and_results(segments):
    generator = np.random.default_rng(3)
    h, positions = generator.normal(size=(BATCH, 3, 3)), generator.normal(size=(BATCH, ATOMS, 3))
    _array(segments["h"], h.shape)[:] = h
    _array(segments["pos"], positions.shape)[:] = positions
    shared = SharedSegments({kind: segment.name for kind, segment in segments.items()}, ATOMS, BATCH)
    frames = shared.read_frames()
    np.testing.assert_array_equal(frames.cells, h.transpose(0, 2, 1))
    np.testing.assert_array_equal(frames.positions, positions)
    _array(segments["pos"], positions.shape)[:] = 0.0
    np.testing.assert_array_equal(frames.positions, positions, err_msg="must be a copy")

    results = Results(
        generator.normal(size=BATCH), generator.normal(size=positions.shape), generator.normal(size=h.shape), ["", ""]
    )
    shared.write_results(results)
    shared.close()
    shared.close()
    np.testing.assert_array_equal(_array(segments["pot"], (BATCH,)), results.energies)
    np.testing.assert_array_equal(_array(segments["force"], positions.shape), results.forces)
    np.testing.assert_array_equal(_array(segments["vir"], h.shape), results.virials.transpose(0, 2, 1))


def test_closing_leaves_the_segments_to_ipi(segments):
    names = {kind: segment.name for kind, segment in segments.items()}
    SharedSegments(names, ATOMS, BATCH).close()
    SharedSegments(names, ATOMS, BATCH).close()


def test_missing_segment(segments):
    names = {kind: segment.name for kind, segment in segments.items()} | {"vir": "deltaqmmm_no_such_segment"}
    with pytest.raises(ProtocolError, match=r"'deltaqmmm_no_such_segment' \(vir\).*cannot be opened"):
        SharedSegments(names, ATOMS, BATCH)


def test_segment_too_small(segments):
    names = {kind: segment.name for kind, segment in segments.items()}
    with pytest.raises(ProtocolError, match=r"\(pos\) has \d+ bytes; needed are"):
        SharedSegments(names, 1000, BATCH)
