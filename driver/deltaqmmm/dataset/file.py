"""Reading and writing the dataset file (HDF5); `schema` documents it."""

from __future__ import annotations

import io
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt

from deltaqmmm.atomic import write_atomically
from deltaqmmm.dataset.contents import (
    Dataset,
    EnergyLabel,
    Failure,
    Json,
    LabelledFrame,
    LabelSettings,
    Source,
    SystemTable,
    canonical,
    settings_hash,
)
from deltaqmmm.dataset.schema import COLUMNS, FORMAT, SIGNIFICANT_BITS, UNITS, VERSION
from deltaqmmm.errors import DatasetError
from deltaqmmm.results import FloatArray

Arrays = dict[str, npt.NDArray[Any]]

_TABLES = {"embedding": "embedding", "level": "level_of_theory", "baseline": "baseline"}


def write_dataset(file: Path, dataset: Dataset) -> None:
    """Write a dataset as a whole: it replaces the file at once, or not at all.

    Raises:
        DatasetError: A number is not finite.
        OutputError: The disk is full, or the place cannot be written.
    """
    arrays = _to_arrays(dataset)
    _check_finite(file, arrays)
    image = io.BytesIO()
    with h5py.File(image, "w") as document:
        document.attrs["format"] = FORMAT
        document.attrs["version"] = VERSION
        document.attrs["units"] = UNITS
        for field, name in _TABLES.items():
            table: Json = getattr(dataset.settings, field)
            document.attrs[name] = canonical(table)
            document.attrs[f"{name}_hash"] = settings_hash(table)
        document.attrs["provenance"] = canonical(dataset.provenance)
        if math.isfinite(dataset.mm_gradient_cutoff):
            document.attrs["mm_gradient_cutoff"] = dataset.mm_gradient_cutoff
        for column in COLUMNS:
            _write_column(document, column.path, column.dtype, arrays[column.path], column.unit, column.meaning)
    write_atomically(file, image.getvalue())


def read_dataset(file: Path, settings: LabelSettings | None = None, system: SystemTable | None = None) -> Dataset:
    """Read a dataset, and refuse one that was made with other settings.

    Args:
        file: The file.
        settings: Embedding, level of theory and baseline that are needed; None takes any.
        system: QM region and MM sites that are needed; None takes any.

    Raises:
        DatasetError: The file is missing, foreign, truncated or damaged, of another version or unit, holds a number
            that is not finite, or was made with other settings (the message gives both).
    """
    if not file.is_file():
        raise DatasetError(f"{file}: there is no such dataset file.")
    try:
        with h5py.File(file, "r") as document:
            _check_head(file, document)
            arrays: Arrays = {
                column.path: _read_column(file, document, column.path, column.dtype, column.unit) for column in COLUMNS
            }
            tables = {field: json.loads(str(document.attrs[name])) for field, name in _TABLES.items()}
            provenance = json.loads(str(document.attrs["provenance"]))
            mm_gradient_cutoff = float(document.attrs.get("mm_gradient_cutoff", math.inf))
    except (OSError, KeyError, ValueError, RuntimeError) as error:
        raise DatasetError(
            f"{file}: is no dataset of deltaqmmm, or is truncated or damaged ({error}). Take another copy, or label "
            "the frames again."
        ) from error
    _check_finite(file, arrays)
    dataset = _from_arrays(file, arrays, LabelSettings(**tables), provenance)
    dataset = replace(dataset, mm_gradient_cutoff=mm_gradient_cutoff)
    dataset.require(str(file), settings, system)
    return dataset


def _write_column(
    document: h5py.File, path: str, dtype: str, values: npt.NDArray[Any], unit: str, meaning: str
) -> None:
    stored = h5py.string_dtype() if dtype == "text" else np.dtype(dtype)
    # Filters need something to work on.
    filters: dict[str, Any] = {}
    if values.ndim > 0 and values.size > 0:
        filters = {"compression": "gzip", "compression_opts": 6, "shuffle": True, "fletcher32": dtype != "text"}
    given = values.astype(object if dtype == "text" else stored)
    column = document.create_dataset(path, data=given, dtype=stored, **filters)
    column.attrs["unit"] = unit
    column.attrs["meaning"] = meaning


def _read_column(file: Path, document: h5py.File, path: str, dtype: str, unit: str) -> npt.NDArray[Any]:
    if path not in document:
        raise KeyError(f"it lacks /{path}")
    column = document[path]
    found = str(column.attrs.get("unit", "no unit"))
    if found != unit:
        raise DatasetError(
            f"{file}: /{path} is in {found}, and {unit} is needed: label the frames again, or convert it."
        )
    if dtype == "text":
        return np.asarray(column.asstr()[...], dtype=object)
    return np.asarray(column[...], dtype=np.float64 if dtype.startswith("f") else np.int64)


def _check_head(file: Path, document: h5py.File) -> None:
    found = document.attrs.get("format")
    if found != FORMAT:
        raise DatasetError(f"{file}: is HDF5, but no dataset of deltaqmmm (its format attribute is {found!r}).")
    version = int(document.attrs.get("version", 0))
    if version != VERSION:
        raise DatasetError(
            f"{file}: is a dataset of version {version}, and this deltaqmmm reads version {VERSION}: use the release "
            "of deltaqmmm that wrote it, or label the frames again."
        )
    units = document.attrs.get("units")
    if units != UNITS:
        raise DatasetError(f"{file}: is in {units}, and {UNITS} are needed.")


def _check_finite(file: Path, arrays: Arrays) -> None:
    for path, values in arrays.items():
        if path.endswith("/temperature") or values.dtype == object or np.isfinite(values).all():
            continue
        raise DatasetError(f"{file}: /{path} holds a number that is not finite: such labels are refused.")


def _rounded(values: FloatArray) -> npt.NDArray[np.float32]:
    """Float32 with the last bits zero, which compress well; rounded to nearest."""
    dropped = 24 - SIGNIFICANT_BITS
    bits = values.astype(np.float32).view(np.uint32)
    bits = (bits + np.uint32(1 << (dropped - 1))) & np.uint32(0xFFFFFFFF << dropped & 0xFFFFFFFF)
    return bits.view(np.float32)


def _to_arrays(dataset: Dataset) -> Arrays:
    system, frames = dataset.system, dataset.frames
    kinds = {kind: n for n, kind in enumerate(dict.fromkeys(zip(system.site_types, system.site_symbols, strict=True)))}
    numbers = [kinds[kind] for kind in zip(system.site_types, system.site_symbols, strict=True)]
    n_qm = len(system.qm_symbols)
    counts = [len(frame.mm_charges) for frame in frames]
    arrays: Arrays = {
        "system/qm_symbols": np.array(system.qm_symbols, dtype=object),
        "system/qm_atoms": np.asarray(system.qm_atoms),
        "system/qm_charge": np.array(system.qm_charge),
        "system/type_names": np.array([name for name, _ in kinds], dtype=object),
        "system/type_symbols": np.array([symbol for _, symbol in kinds], dtype=object),
        "system/site_types": np.array(numbers, dtype=np.int64),
        "system/site_charges": np.asarray(system.site_charges),
        **_source_arrays("frames", frames),
        "frames/qm_positions": _stacked([frame.qm_positions for frame in frames], (n_qm, 3)),
        "frames/site_offsets": np.concatenate([[0], np.cumsum(counts, dtype=np.int64)]).astype(np.int64),
        "frames/mm_positions": _joined([frame.mm_positions for frame in frames], (3,)),
        "frames/mm_charges": _joined([frame.mm_charges for frame in frames], ()),
        "frames/mm_sites": _joined([frame.mm_sites for frame in frames], ()).astype(np.int64),
        "reference/scf_cycles": np.array([frame.scf_cycles for frame in frames], dtype=np.int64),
        "reference/seconds": np.array([frame.seconds for frame in frames], dtype=np.float64),
        "baseline/qm_charges": _stacked([frame.baseline_charges for frame in frames], (n_qm,)),
        **_source_arrays("failures", dataset.failures),
        "failures/reason": np.array([failure.reason for failure in dataset.failures], dtype=object),
    }
    for group in ("reference", "baseline"):
        labels: list[EnergyLabel] = [getattr(frame, group) for frame in frames]
        arrays[f"{group}/energies"] = np.array([label.energy for label in labels], dtype=np.float64)
        arrays[f"{group}/qm_gradients"] = _stacked([label.qm_gradients for label in labels], (n_qm, 3))
        arrays[f"{group}/mm_gradients"] = _rounded(_joined([label.mm_gradients for label in labels], (3,)))
        arrays[f"{group}/mm_potentials"] = _rounded(_joined([label.mm_potentials for label in labels], ()))
    return arrays


def _source_arrays(group: str, entries: Sequence[LabelledFrame | Failure]) -> Arrays:
    sources = [entry.source for entry in entries]
    return {
        f"{group}/identity": np.array([entry.identity for entry in entries], dtype=object),
        f"{group}/source_file": np.array([source.file for source in sources], dtype=object),
        f"{group}/source_index": np.array([source.index for source in sources], dtype=np.int64),
        f"{group}/temperature": np.array([source.temperature for source in sources], dtype=np.float64),
        f"{group}/beads": np.array([source.beads for source in sources], dtype=np.int64),
        f"{group}/bead": np.array([source.bead for source in sources], dtype=np.int64),
        f"{group}/step": np.array([source.step for source in sources], dtype=np.int64),
    }


def _stacked(values: Sequence[FloatArray], shape: tuple[int, ...]) -> FloatArray:
    return np.stack(values).astype(np.float64) if values else np.zeros((0, *shape))


def _joined(values: Sequence[npt.NDArray[Any]], shape: tuple[int, ...]) -> FloatArray:
    return np.concatenate([np.zeros((0, *shape)), *values])


def _from_arrays(file: Path, arrays: Arrays, settings: LabelSettings, provenance: Mapping[str, str]) -> Dataset:
    _check_shapes(file, arrays)
    types = arrays["system/site_types"]
    system = SystemTable(
        qm_symbols=tuple(arrays["system/qm_symbols"].tolist()),
        qm_charge=int(arrays["system/qm_charge"]),
        qm_atoms=arrays["system/qm_atoms"],
        site_types=tuple(arrays["system/type_names"][types].tolist()),
        site_symbols=tuple(arrays["system/type_symbols"][types].tolist()),
        site_charges=arrays["system/site_charges"],
    )
    offsets = arrays["frames/site_offsets"]
    sources = _sources(arrays, "frames")
    frames = []
    for index, source in enumerate(sources):
        rows = slice(int(offsets[index]), int(offsets[index + 1]))
        frames.append(
            LabelledFrame(
                identity=str(arrays["frames/identity"][index]),
                source=source,
                qm_positions=arrays["frames/qm_positions"][index],
                mm_positions=arrays["frames/mm_positions"][rows],
                mm_charges=arrays["frames/mm_charges"][rows],
                mm_sites=arrays["frames/mm_sites"][rows],
                reference=_label(arrays, "reference", index, rows),
                baseline=_label(arrays, "baseline", index, rows),
                baseline_charges=arrays["baseline/qm_charges"][index],
                scf_cycles=int(arrays["reference/scf_cycles"][index]),
                seconds=float(arrays["reference/seconds"][index]),
            )
        )
    failures = tuple(
        Failure(str(identity), source, str(reason))
        for identity, source, reason in zip(
            arrays["failures/identity"], _sources(arrays, "failures"), arrays["failures/reason"], strict=True
        )
    )
    return Dataset(system, settings, tuple(frames), failures, provenance)


def _label(arrays: Arrays, group: str, index: int, rows: slice) -> EnergyLabel:
    return EnergyLabel(
        energy=float(arrays[f"{group}/energies"][index]),
        qm_gradients=arrays[f"{group}/qm_gradients"][index],
        mm_gradients=arrays[f"{group}/mm_gradients"][rows],
        mm_potentials=arrays[f"{group}/mm_potentials"][rows],
    )


def _sources(arrays: Arrays, group: str) -> list[Source]:
    names = ("source_file", "source_index", "temperature", "beads", "bead", "step")
    columns = (arrays[f"{group}/{name}"].tolist() for name in names)
    return [Source(*row) for row in zip(*columns, strict=True)]


def _check_shapes(file: Path, arrays: Arrays) -> None:
    """Arrays that do not belong together would give wrong labels silently."""
    offsets = arrays["frames/site_offsets"]
    sizes = {
        "F": len(offsets) - 1,
        "F + 1": len(offsets),
        "T": int(offsets[-1]) if len(offsets) else -1,
        "n": len(arrays["system/qm_symbols"]),
        "M": len(arrays["system/site_types"]),
        "U": len(arrays["system/type_names"]),
        "X": len(arrays["failures/identity"]),
        "3": 3,
    }
    for column in COLUMNS:
        needed = tuple(sizes[axis.strip()] for axis in column.shape.strip("()").split(",") if axis.strip())
        found = arrays[column.path].shape
        if found != needed:
            raise DatasetError(
                f"{file}: /{column.path} has shape {found}, and {needed} is needed: the file is damaged, or was made "
                "by another program."
            )
    pointers = {"system/site_types": sizes["U"], "frames/mm_sites": sizes["M"]}
    outside = [path for path, end in pointers.items() if np.any((arrays[path] < 0) | (arrays[path] >= end))]
    if np.any(np.diff(offsets) < 0) or outside:
        raise DatasetError(f"{file}: {', '.join(outside) or 'frames/site_offsets'} points outside its table.")
