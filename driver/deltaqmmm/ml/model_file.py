"""The model file: safetensors, with a JSON header under the key "deltaqmmm". It carries no code.

Version 4. Version 3 knew no function "coulomb", version 2 had inputs without bounds and no ``reach_X``: both are read.
Version 1 was of before the first
release and had other symmetry functions: it is not. Lengths in bohr, energies in hartree, charges in e. Tensors:
``offsets`` (E,), ``scale``, and for each element ``mean_X`` (F,), ``transform_X`` (F, D), ``reach_X`` (D,),
``weight_X_l`` (C, in, out) and ``bias_X_l`` (C, 1, out) of layer l. `network.CommitteeNetwork` says what they are. Each
is float32 if that holds its numbers exactly, else float64.
"""

from __future__ import annotations

import json
import textwrap
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from deltaqmmm.atomic import write_atomically
from deltaqmmm.errors import ConfigError, ModelError
from deltaqmmm.ml.committee import TARGETS, CommitteeModel, ModelInfo
from deltaqmmm.ml.features import n_features
from deltaqmmm.ml.functions import SymmetryFunctions
from deltaqmmm.ml.network import CommitteeNetwork

FORMAT = "deltaqmmm model"
VERSION = 4
OLDEST = 2
UNBOUNDED = 1e30
"""A reach that no input comes near: with it the bounded input is the input, to the last digit."""
UNITS = "bohr, hartree, e"


def save_model(file: Path, model: CommitteeModel) -> None:
    """Write a model as a whole: it replaces the file at once, or not at all.

    Raises:
        ModelError: A number of the model is not finite.
        OutputError: The disk is full, or the place cannot be written.
    """
    network = model.network
    tensors = {name: _shortest(tensor.detach().cpu()) for name, tensor in network.state_dict().items()}
    tensors["offsets"] = model.offsets.detach().to("cpu", torch.float64).contiguous()
    for name, tensor in tensors.items():
        if not torch.isfinite(tensor).all():
            raise ModelError(f"{file}: the model's {name} is not finite; nothing is written.")
    header = {
        "format": FORMAT,
        "version": VERSION,
        "units": UNITS,
        "info": asdict(model.info),
        "functions": model.functions.to_json(),
        "hidden": list(network.hidden),
        "n_inputs": list(network.n_inputs),
    }
    write_atomically(file, save(tensors, metadata={"deltaqmmm": json.dumps(header, sort_keys=True, default=dict)}))


def load_model(file: Path) -> CommitteeModel:
    """Read a model.

    Raises:
        ModelError: The file is missing, foreign, truncated or damaged, of another version or other units, or does not
            hold what its header says.
    """
    if not file.is_file():
        raise ModelError(f"{file}: there is no such model file.")
    try:
        with safe_open(file, framework="pt") as document:
            text = (document.metadata() or {}).get("deltaqmmm")
            if text is None:
                raise ModelError(f"{file}: is a safetensors file, but no model of deltaqmmm.")
            header = json.loads(text)
            if not isinstance(header, dict):
                raise ModelError(f"{file}: is a safetensors file, but no model of deltaqmmm.")
            tensors = {name: document.get_tensor(name) for name in document.keys()}  # noqa: SIM118 - no mapping
    except (SafetensorError, OSError, ValueError) as error:
        raise ModelError(
            f"{file}: is no model of deltaqmmm, or is truncated or damaged ({error}). Take another copy, or train it "
            "again."
        ) from error
    try:
        return _from_parts(header, tensors)
    except ModelError as error:
        raise ModelError(f"{file}: {error}") from error
    except (KeyError, TypeError, ValueError, RuntimeError, ConfigError) as error:
        # What torch says of tensors that do not fit has many lines.
        reason = textwrap.shorten(str(error), 300, placeholder=" ...")
        raise ModelError(f"{file}: its header and its content do not fit ({reason}). Take another copy.") from error


def _from_parts(header: Mapping[str, Any], tensors: dict[str, torch.Tensor]) -> CommitteeModel:
    found = (header.get("format"), header.get("version"), header.get("units"))
    if found[0] != FORMAT:
        raise ModelError(f"is no model of deltaqmmm (its format is {found[0]!r}).")
    if found[1] not in range(OLDEST, VERSION + 1):
        newer = isinstance(found[1], int) and found[1] > VERSION
        remedy = "take the newer deltaqmmm that wrote it" if newer else "it has to be trained again, from its dataset"
        raise ModelError(
            f"is a model of version {found[1]}, and this deltaqmmm reads versions {OLDEST} to {VERSION}: {remedy}."
        )
    if found[2] != UNITS:
        raise ModelError(f"is in {found[2]}, and {UNITS} are needed.")
    values = dict(header["info"])
    info = ModelInfo(**{**values, "elements": tuple(values["elements"]), "mm_types": tuple(values["mm_types"])})
    if info.target not in TARGETS:
        raise ModelError(f"its target '{info.target}' is unknown to this deltaqmmm.")
    functions = SymmetryFunctions.from_json(header["functions"])
    count = n_features(functions, len(info.elements), len(info.mm_types))
    network = CommitteeNetwork(info.elements, count, header["n_inputs"], header["hidden"], info.n_members)
    network = network.to(torch.float64)
    finite = all(bool(torch.isfinite(tensor).all()) for tensor in tensors.values())
    if found[1] == 2:
        for element, inputs in zip(network.elements, network.n_inputs, strict=True):
            tensors.setdefault(f"reach_{element}", torch.full((inputs,), UNBOUNDED))
    offsets = tensors.pop("offsets").to(torch.float64)
    if offsets.shape != (len(info.elements),) or not finite:
        raise ModelError("holds numbers that are not finite, or the wrong number of them.")
    network.load_state_dict(tensors)
    return CommitteeModel(info, functions, network, offsets)


def _shortest(tensor: torch.Tensor) -> torch.Tensor:
    """The same numbers in float32, as training leaves them, or in float64 where that would change them."""
    short = tensor.to(torch.float32)
    return (short if torch.equal(short.to(torch.float64), tensor.to(torch.float64)) else tensor).contiguous()
