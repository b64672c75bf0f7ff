import errno
import os
from dataclasses import fields, replace

import h5py
import numpy as np
import pytest

from deltaqmmm.dataset import LabelSettings, read_dataset, write_dataset
from deltaqmmm.dataset.contents import frame_identity
from deltaqmmm.dataset.schema import COLUMNS
from deltaqmmm.errors import DatasetError, OutputError


@pytest.fixture
def file(tmp_path, dataset):
    write_dataset(tmp_path / "d.h5", dataset)
    return tmp_path / "d.h5"


def refused(file, *needed, **settings):
    with pytest.raises(DatasetError) as caught:
        read_dataset(file, **settings)
    for text in (str(file), *needed):
        assert text in str(caught.value)


def test_what_is_written_is_read(file, dataset):
    back = read_dataset(file, dataset.settings, dataset.system)
    assert back.settings == dataset.settings
    assert back.system.difference(dataset.system) is None
    assert back.provenance == dataset.provenance
    assert repr(back.failures) == repr(dataset.failures)  # NaN is not equal to itself
    assert len(back.frames) == 3
    for got, given in zip(back.frames, dataset.frames, strict=True):
        for name in ("identity", "source", "scf_cycles", "seconds"):
            assert getattr(got, name) == getattr(given, name)
        for name in ("qm_positions", "mm_positions", "mm_charges", "mm_sites", "baseline_charges"):
            np.testing.assert_array_equal(getattr(got, name), getattr(given, name))
        for method in ("reference", "baseline"):
            label, expected = getattr(got, method), getattr(given, method)
            assert label.energy == expected.energy
            np.testing.assert_array_equal(label.qm_gradients, expected.qm_gradients)
            np.testing.assert_allclose(label.mm_gradients, expected.mm_gradients, rtol=2.0**-16)
            np.testing.assert_allclose(label.mm_potentials, expected.mm_potentials, rtol=2.0**-16)
    assert back.mm_types(back.frames[0]).tolist() == [dataset.system.site_types[s] for s in back.frames[0].mm_sites]


def test_writing_again_what_was_read_changes_nothing(file, tmp_path):
    first = read_dataset(file)
    write_dataset(tmp_path / "again.h5", first)
    again = read_dataset(tmp_path / "again.h5")
    for one, two in zip(first.frames, again.frames, strict=True):
        np.testing.assert_array_equal(one.reference.mm_gradients, two.reference.mm_gradients)
        np.testing.assert_array_equal(one.baseline.mm_potentials, two.baseline.mm_potentials)


def test_no_frames_at_all(tmp_path, dataset):
    write_dataset(tmp_path / "empty.h5", dataset.with_frames([], []))
    back = read_dataset(tmp_path / "empty.h5", dataset.settings, dataset.system)
    assert (back.frames, back.failures) == ((), ())


def test_every_array_has_its_unit_and_meaning(file):
    with h5py.File(file) as document:
        for column in COLUMNS:
            assert document[column.path].attrs["unit"] == column.unit
            assert document[column.path].attrs["meaning"]


@pytest.mark.parametrize("table", [field.name for field in fields(LabelSettings)])
def test_other_settings_are_refused_with_both_values(file, dataset, table):
    key, value = next(iter(getattr(dataset.settings, table).items()))
    other = replace(dataset.settings, **{table: {**getattr(dataset.settings, table), key: "another"}})
    refused(file, key, str(value), '"another"', settings=other)
    missing = replace(dataset.settings, **{table: {}})
    refused(file, key, str(value), "null", settings=missing)


@pytest.mark.parametrize(
    ("changes", "needed"),
    [
        ({"qm_charge": -1}, ("charge +0", "charge -1")),
        ({"qm_symbols": ("S", "H", "H")}, ("O H H", "S H H")),
        ({"qm_atoms": np.array([3, 4, 5])}, ("[0, 1, 2]", "[3, 4, 5]")),
        ({"site_charges": np.array([-0.5, 0.4, 0.5, -0.5] * 4)}, ("WAT:H1 with 0.5 e", "WAT:H1 with 0.4 e")),
        ({"site_types": ("WAT:O", "WAT:H1", "WAT:H2", "WAT:X") * 4}, ("MM site 3", "WAT:EPW", "WAT:X")),
        ({"site_types": ("A:B",), "site_symbols": ("",), "site_charges": np.zeros(1)}, ("16 MM sites", "1 here")),
    ],
)
def test_another_system_is_refused_with_both_values(file, dataset, changes, needed):
    refused(file, *needed, system=replace(dataset.system, **changes))


def test_another_version(file):
    with h5py.File(file, "a") as document:
        document.attrs["version"] = 2
    refused(file, "version 2", "version 1")


def test_other_units(file):
    with h5py.File(file, "a") as document:
        document["reference/energies"].attrs["unit"] = "electronvolt"
    refused(file, "/reference/energies", "electronvolt", "hartree")
    with h5py.File(file, "a") as document:
        document.attrs["units"] = "angstrom and eV"
    refused(file, "angstrom and eV", "atomic units")


def test_foreign_files(tmp_path, file):
    refused(tmp_path / "nothing.h5", "no such")
    (tmp_path / "text.h5").write_text("energies")
    refused(tmp_path / "text.h5", "no dataset")
    with h5py.File(tmp_path / "foreign.h5", "w") as document:
        document["x"] = 1.0
    refused(tmp_path / "foreign.h5", "no dataset")
    with h5py.File(file, "a") as document:
        del document["baseline/energies"]
    refused(file, "/baseline/energies")


@pytest.mark.parametrize("kept", [0.0, 0.01, 0.5, 0.9, 0.999])
def test_a_truncated_file(file, kept):
    content = file.read_bytes()
    file.write_bytes(content[: int(kept * len(content))])
    refused(file, "truncated or damaged")


def test_a_damaged_array(file):
    content = bytearray(file.read_bytes())
    with h5py.File(file) as document:
        place = document["reference/qm_gradients"].id.get_chunk_info(0).byte_offset
    content[place + 20] ^= 0xFF
    file.write_bytes(bytes(content))
    refused(file, "damaged")


def test_arrays_that_do_not_belong_together(file):
    with h5py.File(file, "a") as document:
        offsets = document["frames/site_offsets"]
        offsets[...] = offsets[...] + np.array([0, 0, 0, 1])
    refused(file, "/frames/mm_positions", "(14, 3)", "(15, 3)")


def test_a_site_that_does_not_exist(file):
    with h5py.File(file, "a") as document:
        document["frames/mm_sites"][3] = 99
    refused(file, "frames/mm_sites", "outside")


def test_not_a_number_is_neither_written_nor_read(tmp_path, file, dataset):
    frame = dataset.frames[0]
    bad = replace(frame, reference=replace(frame.reference, mm_gradients=np.full((5, 3), np.nan)))
    with pytest.raises(DatasetError, match=r"reference/mm_gradients .* not finite"):
        write_dataset(tmp_path / "bad.h5", dataset.with_frames([bad], []))
    assert not (tmp_path / "bad.h5").exists()
    with h5py.File(file, "a") as document:
        document["baseline/energies"][1] = np.inf
    refused(file, "/baseline/energies", "not finite")


def test_a_full_disk_leaves_the_old_file_and_nothing_else(file, dataset, monkeypatch):
    before = file.read_bytes()

    def full(descriptor):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OutputError, match="the disk is full"):
        write_dataset(file, dataset.with_frames([], []))
    assert file.read_bytes() == before
    assert os.listdir(file.parent) == [file.name]


def test_identity_depends_on_positions_and_cell():
    positions = np.random.default_rng(0).normal(size=(5, 3))
    moved = positions.copy()
    moved[4, 2] = np.nextafter(moved[4, 2], 10.0)
    found = {
        frame_identity(positions, None),
        frame_identity(moved, None),
        frame_identity(positions, np.eye(3)),
        frame_identity(positions, 2.0 * np.eye(3)),
    }
    assert len(found) == 4
    assert frame_identity(positions.copy(order="F"), None) in found


def test_thinned_datasets_say_so(tmp_path, dataset):
    frame = dataset.frames[0]
    distances = np.linalg.norm(frame.mm_positions[:, None] - frame.qm_positions, axis=-1).min(axis=1)
    cutoff = float(np.sort(distances)[len(distances) // 2])
    thinned = dataset.thinned(cutoff)
    far = distances > cutoff
    assert 0 < far.sum() < len(far)
    for label, full in ((thinned.frames[0].reference, frame.reference), (thinned.frames[0].baseline, frame.baseline)):
        assert not label.mm_gradients[far].any()
        assert not label.mm_potentials[far].any()
        assert np.array_equal(label.mm_gradients[~far], full.mm_gradients[~far])
        assert np.array_equal(label.mm_potentials[~far], full.mm_potentials[~far])
        assert label.energy == full.energy
    write_dataset(tmp_path / "thin.h5", thinned)
    assert read_dataset(tmp_path / "thin.h5").mm_gradient_cutoff == cutoff
    # Less cannot be made more again.
    assert thinned.thinned(2 * cutoff) is thinned
    assert dataset.mm_gradient_cutoff == float("inf")
