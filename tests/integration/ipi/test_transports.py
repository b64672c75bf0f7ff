"""The same trajectory over every transport of a real i-PI."""

from __future__ import annotations

import contextlib
from pathlib import Path

import numpy as np
import pytest

from tests.integration.ipi.server import (
    IpiServer,
    evaluations,
    ffdirect,
    ffsocket,
    free_port,
    make_input,
    read_properties,
    toy_client,
    unique_name,
)

STEPS, BEADS = 20, 4
PES = Path(__file__).with_name("toy_pes.py")
TRAJECTORIES = (
    "<trajectory filename='charges' stride='5' extra_type='qm_charges'> extras </trajectory>",
    "<trajectory filename='energies' stride='5' extra_type='energy_wells,energy_springs,scc_iterations'> extras "
    "</trajectory>",
    "<trajectory filename='raw' stride='5' extra_type='raw'> extras </trajectory>",
)

# label: mode, batch size, consolidated messages. A batch of 3 for 4 beads leaves a short batch, which i-PI pads.
SOCKETS = {
    "unix": ("unix", 1, True),
    "unix-status-between": ("unix", 1, False),
    "unix-batch": ("unix", 4, True),
    "unix-padded": ("unix", 3, True),
    "inet": ("inet", 1, True),
    "inet-batch": ("inet", 4, True),
    "shm": ("shm", 1, True),
    "shm-status-between": ("shm", 1, False),
    "shm-batch": ("shm", 4, True),
    "shm-padded": ("shm", 8, True),
}
DIRECT = {"direct": (1, False), "direct-batch": (4, False), "direct-threaded": (3, True)}


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """All runs, three at a time: {label: folder}."""
    root = tmp_path_factory.mktemp("transports")
    labels = [*SOCKETS, *DIRECT]
    for begin in range(0, len(labels), 3):
        with contextlib.ExitStack() as stack:
            processes = []
            for label in labels[begin : begin + 3]:
                processes += _start(label, root / label, stack)
            for process in processes:
                assert process.wait(60) == 0, process.output
    return {label: root / label for label in labels}


def _start(label, folder, stack):
    if label in DIRECT:
        batch_size, threaded = DIRECT[label]
        element, flags = ffdirect(PES, batch_size=batch_size, threaded=threaded), None
    else:
        mode, batch_size, consolidate = SOCKETS[label]
        if mode == "inet":
            port = free_port()
            element = ffsocket("inet", port=port, batch_size=batch_size, consolidate=consolidate)
            flags = ["-a", "localhost", "-p", str(port)]
        else:
            name = unique_name(label)
            element = ffsocket(mode, name, batch_size=batch_size, consolidate=consolidate)
            flags = ["--shm" if mode == "shm" else "-u", "-a", name]
    xml = make_input(element, steps=STEPS, beads=BEADS, trajectories=TRAJECTORIES)
    started = [stack.enter_context(IpiServer(folder, xml))]
    if flags is not None:
        started.append(stack.enter_context(toy_client(folder, *flags)))
    return started


def _properties(folder):
    return read_properties(folder / "out.properties")


@pytest.mark.parametrize("label", [label for label in [*SOCKETS, *DIRECT] if label != "unix"])
def test_same_trajectory(runs, label):
    reference, other = _properties(runs["unix"]), _properties(runs[label])
    assert len(reference["step"]) == STEPS + 1
    assert reference.keys() == other.keys()
    positions = [key for key in reference if key.startswith("atom_x")]
    assert len(positions) == 3 * BEADS
    assert all(np.ptp(reference[key], axis=0).max() > 1e-3 for key in positions), "the atoms must have moved"
    for key, values in reference.items():
        np.testing.assert_allclose(other[key], values, rtol=0.0, atol=1e-12, err_msg=key)


@pytest.mark.parametrize("label", list(SOCKETS))
def test_clean_end_and_step_count(runs, label):
    output = (runs[label] / "client.log").read_text()
    assert "i-PI sent EXIT after" in output, output


@pytest.mark.parametrize("label", [label for label, (_, batch_size, _) in SOCKETS.items() if batch_size > 1])
def test_padding_is_evaluated_once(runs, label):
    """i-PI takes the queue as it stands (often 1 + 3 beads) and fills up each batch; no padding is evaluated.

    At the start the beads are equal, so each batch of that step has one distinct frame; later on all differ.
    """
    frames = evaluations(runs[label])
    assert max(frames) == min(SOCKETS[label][1], BEADS)
    assert STEPS * BEADS < sum(frames) <= (STEPS + 1) * BEADS


@pytest.mark.parametrize("label", ["unix", "shm-padded", "direct-batch"])
def test_extras_reach_the_output_files(runs, label):
    """One file per bead; charges are a tenth of x in the toy potential."""
    properties = _properties(runs[label])
    for bead in range(BEADS):
        charges = _read_extras(runs[label] / f"out.charges_{bead}")
        x = np.stack([properties[f"atom_x(atom={atom};bead={bead})"][::5, 0] for atom in range(3)], axis=1)
        np.testing.assert_allclose(charges, 0.1 * x, rtol=0.0, atol=1e-14)
    energies = np.array([_read_extras(runs[label] / f"out.energies_{bead}") for bead in range(BEADS)])
    assert energies.shape == (BEADS, STEPS // 5 + 1, 3)
    assert (energies[:, :, 2] == 7.0).all()
    assert (energies[:, :, :2] > 0.0).all()
    raw = (runs[label] / "out.raw_0").read_text()
    for key in ("energy_wells", "energy_springs", "energy_cell", "qm_charges", "qm_dipole", "scc_iterations"):
        assert key in raw


def _read_extras(file):
    return np.array(
        [[float(word) for word in line.split()] for line in file.read_text().splitlines() if line and "#" not in line]
    )
