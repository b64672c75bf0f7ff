"""The state of a training run in a file: safetensors with a JSON header, written whole."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from deltaqmmm.atomic import write_atomically
from deltaqmmm.errors import ModelError

FORMAT = "deltaqmmm checkpoint 2"


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """A state.

    Attributes:
        fingerprint: Settings and frames of the run.
        header: Plain values.
        tensors: All tensors by name.
    """

    fingerprint: Mapping[str, object]
    header: Mapping[str, Any]
    tensors: Mapping[str, Tensor]


def write_checkpoint(file: Path, checkpoint: Checkpoint) -> None:
    """Write a state; it replaces the file at once, or not at all.

    Raises:
        OutputError: The disk is full, or the place cannot be written.
    """
    header = {"format": FORMAT, "hashes": _hashes(checkpoint.fingerprint), "header": checkpoint.header}
    tensors = {name: tensor.detach().contiguous().clone() for name, tensor in checkpoint.tensors.items()}
    write_atomically(file, save(tensors, metadata={"deltaqmmm": json.dumps(header)}))


def read_checkpoint(file: Path, fingerprint: Mapping[str, object]) -> Checkpoint:
    """Read a state.

    Args:
        file: The file.
        fingerprint: Settings and frames of the run at hand.

    Raises:
        ModelError: The file is damaged, or of a run with other settings or frames.
    """
    try:
        with safe_open(file, framework="pt") as document:
            content = json.loads((document.metadata() or {})["deltaqmmm"])
            tensors = {name: document.get_tensor(name) for name in document.keys()}  # noqa: SIM118 - no mapping
        found, header = content["hashes"], content["header"]
        known = content["format"] == FORMAT
    except (SafetensorError, OSError, ValueError, KeyError, TypeError) as error:
        raise ModelError(
            f"{file}: is no checkpoint, or is damaged ({error}). Remove it to train from the start."
        ) from error
    here = _hashes(fingerprint)
    different = [name for name in dict.fromkeys([*here, *found]) if found.get(name) != here.get(name)]
    if different or not known:
        names = ", ".join(different) if known else "format"
        raise ModelError(
            f"{file}: is the checkpoint of another run (different: {names}). Remove it to train from the start, or "
            "give another output."
        )
    return Checkpoint(fingerprint, header, tensors)


def _hashes(fingerprint: Mapping[str, object]) -> dict[str, str]:
    """A hash of each value; of a table, of each of its entries, so that a message can name the one that differs."""
    values: dict[str, object] = {}
    for name, value in fingerprint.items():
        if isinstance(value, Mapping):
            values.update({f"{name} {key}": entry for key, entry in value.items()})
        else:
            values[name] = value
    return {
        name: hashlib.sha256(json.dumps(value, sort_keys=True, default=dict).encode()).hexdigest()[:16]
        for name, value in values.items()
    }
