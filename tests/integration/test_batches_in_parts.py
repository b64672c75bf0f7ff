"""Batches that do not fit the memory of the device are computed in parts."""

import numpy as np
import pytest
import torch

from deltaqmmm.committee import CommitteeSettings
from deltaqmmm.dftb import DFTBEngine, DFTBSettings
from deltaqmmm.embedding import CutoffEmbedding, CutoffSettings
from deltaqmmm.errors import DeviceMemoryError, FrameError
from deltaqmmm.potential import Potential
from deltaqmmm.system import System
from deltaqmmm.topology import NonbondedSettings, load_topology
from deltaqmmm.units import ANGSTROM
from tests.corrections import PairCorrection

N_FRAMES = 7


class SmallDevice:
    """The DFTB engine on a device that holds so many frames only."""

    def __init__(self, engine, room):
        self.engine, self.room = engine, room
        self.batches = []

    def evaluate(self, positions, potentials):
        self.batches.append(len(positions))
        if len(positions) > self.room:
            raise torch.OutOfMemoryError("tried to allocate 2 GiB.")
        return self.engine.evaluate(positions, potentials)


@pytest.fixture(scope="module")
def box(data_folder, slater_koster_folder):
    """Uracil in a small periodic box of q-SPC/Fw water: topology, system and seven frames of it."""
    folder = data_folder / "mm_systems"
    nonbonded = NonbondedSettings(cutoff=7.0 * ANGSTROM, switch_distance=6.0 * ANGSTROM)
    topology = load_topology(folder / "uracil_box.prmtop", folder / "uracil_box.rst7", nonbonded)
    system = System.from_topology(topology, np.arange(12))
    start = topology.positions[system.atom_particles]
    frames = start + 0.05 * np.random.default_rng(4).standard_normal((N_FRAMES, *start.shape))
    return topology, system, frames


def potential_of(box, room):
    _, system, _ = box
    small = SmallDevice(DFTBEngine(system.qm_symbols, 0, DFTBSettings(scc_tolerance=1e-11, warm_start=False)), room)
    potential = Potential(
        system,
        None,
        CutoffEmbedding(system, CutoffSettings(5.0 * ANGSTROM, 8.0 * ANGSTROM)),
        small,
        PairCorrection(),
        committee=CommitteeSettings(extras=True),
        virial=True,
    )
    return potential, small


def evaluate(box, potential, frames):
    return potential.evaluate(np.stack([box[0].cell] * len(frames)), frames)


def test_parts_give_what_the_whole_gives_and_it_is_said_once(box, caplog):
    whole, _ = potential_of(box, N_FRAMES)
    expected = evaluate(box, whole, box[2])
    assert caplog.text == ""
    parted, device = potential_of(box, 3)
    found = evaluate(box, parted, box[2])
    # Halved until it fits, and the size is kept.
    assert device.batches == [7, 4, 2, 2, 2, 1]
    assert caplog.text.count("7 frames does not fit the memory of cpu: from now on it is computed in parts of 2") == 1
    evaluate(box, parted, box[2])
    assert device.batches[6:] == [2, 2, 2, 1]
    assert caplog.text.count("7 frames does not fit the memory of cpu: from now on it is computed in parts of 2") == 1
    assert np.allclose(found.energies, expected.energies, rtol=0.0, atol=1e-10)
    assert np.allclose(found.forces, expected.forces, rtol=0.0, atol=1e-10)
    assert np.allclose(found.strain_derivatives, expected.strain_derivatives, rtol=0.0, atol=1e-9)
    assert set(found.extras) == set(expected.extras)
    assert {"committee_force", "committee_virial", "qm_charges"} <= set(found.extras)
    for name, values in expected.extras.items():
        assert np.allclose(found.extras[name], values, rtol=0.0, atol=1e-9), name
    for name, values in expected.terms.items():
        assert np.allclose(found.terms[name], values, rtol=0.0, atol=1e-10), name


def test_one_frame_that_does_not_fit_is_an_error(box):
    potential, device = potential_of(box, 0)
    with pytest.raises(DeviceMemoryError, match=r"one frame does not fit the memory of cpu.*\[dftb\] device = 'cpu'"):
        evaluate(box, potential, box[2][:2])
    assert device.batches == [2, 1]


def test_errors_say_which_part_they_count_in(box):
    potential, _ = potential_of(box, 2)
    frames = box[2].copy()
    frames[3, 5] = frames[3, 4] + 1e-3
    with pytest.raises(FrameError, match=r"from frame 2 on, counted from there: QM atoms 5 .* of frame 1 "):
        evaluate(box, potential, frames)
