"""A folder of its own from a case and a built system."""

from __future__ import annotations

import os
import re
import shutil
import stat
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

from deltaqmmm.cases.filling import fill_input, has_ladder, input_beads, rename
from deltaqmmm.cases.library import CONFIG, INPUT, Case
from deltaqmmm.cases.outputs import fill_outputs
from deltaqmmm.cases.overlay import overlay
from deltaqmmm.cases.values import EDIT_MARK, NEED_THE_SYSTEM, Values
from deltaqmmm.config import Config, read_config
from deltaqmmm.errors import InputError
from deltaqmmm.ipi.simulation import FILE_MODES, read_simulation

_TEXT = frozenset({".md", ".dat", ".sh", ".sbatch", ".py", ".txt", ".toml"})
_FIGURE = re.compile(r"^!\[[^\]]*\]\([^)]*\)\n\n?", re.MULTILINE)


@dataclass(frozen=True)
class BuiltSystem:
    """A folder made by `deltaqmmm build`, or like it.

    Attributes:
        folder: Where it is.
        config: Its configuration.
        start: The structure that i-PI starts from.
    """

    folder: Path
    config: Config
    start: Path


def read_system(folder: Path) -> BuiltSystem:
    """Look into the folder of a system.

    Raises:
        InputError: It lacks a file.
    """
    if not folder.is_dir():
        raise InputError(f"{folder}: there is no such folder: --system names one that `deltaqmmm build` has made.")
    if not (folder / CONFIG).is_file():
        raise InputError(
            f"{folder}: has no {CONFIG}: --system names a folder that `deltaqmmm build` has made (with topology, "
            "coordinates, init.xyz and config.toml)."
        )
    config = read_config(folder / CONFIG)
    return BuiltSystem(folder, config, _start_of(folder))


def _start_of(folder: Path) -> Path:
    names = []
    if (folder / INPUT).is_file():
        files = read_simulation(folder / INPUT).start_files
        names = [file.name for file in files if file.whole and file.mode in FILE_MODES - {"chk"}]
    for name in [*names, "init.xyz"]:
        if (folder / name).is_file():
            return (folder / name).resolve()
    raise InputError(
        f"{folder}: has no structure to start from: init.xyz, as `deltaqmmm build` writes it, or one that the <file> "
        "of its input.xml names."
    )


def check_options(case: Case, values: Values, model: Path | None, system: BuiltSystem) -> None:
    """Refuse options that the case has no place for.

    Raises:
        InputError: With the reason.
    """
    given: Mapping[str, object] = {**vars(values), "model": model}
    for name, reason in case.fixed.items():
        if given[name] is not None:
            raise InputError(f"--{name} cannot be given for the case '{case.name}': {reason}")
    ladders = [has_ladder(file.read_text(encoding="utf-8"), file) for file in case.inputs()]
    if values.temperatures is not None:
        if not any(ladders):
            raise InputError(
                f"--temperatures is for replica exchange, and the case '{case.name}' has one temperature: give "
                "--temperature."
            )
        check_ladder(values.temperatures)
    if values.temperature is not None and all(ladders):
        raise InputError(f"--temperature: the case '{case.name}' has several: give --temperatures, the ladder.")
    beads = [input_beads(file.read_text(encoding="utf-8"), file) for file in case.inputs()]
    if values.beads is not None and values.beads > 1 and max(beads) == 1:
        raise InputError(
            f"--beads {values.beads}: the case '{case.name}' is one of classical nuclei. Take 'pimd', or another with "
            "beads."
        )
    if "model" in case.needs and model is None and system.config.correction.model is None:
        raise InputError(
            f"the case '{case.name}' needs a trained correction, and {system.config.file} names none: give --model "
            "FILE (`deltaqmmm train` makes one)."
        )
    if model is not None and not model.is_file():
        raise InputError(f"--model {model}: there is no such file.")


def check_ladder(temperatures: tuple[float, ...]) -> None:
    """Raise `InputError` for temperatures between which nothing can be exchanged."""
    listed = " ".join(f"{temperature:g}" for temperature in temperatures)
    if len(temperatures) < 2:
        raise InputError(
            f"--temperatures {listed}: a ladder of one temperature has nothing to exchange with: give two or more, or "
            "take the case 'nvt' or 'pimd'."
        )
    if any(low >= high for low, high in pairwise(temperatures)):
        raise InputError(f"--temperatures {listed}: must rise from one to the next.")


def make_folder(case: Case, system: BuiltSystem, folder: Path, values: Values, model: Path | None) -> None:
    """Write all files into a folder that is there and empty.

    Args:
        case: What is copied.
        system: What it is copied for.
        folder: Where to.
        values: What is filled in; `start` and the atoms come from the system.
        model: A trained correction that takes the place of the system's.

    Raises:
        InputError: A file is missing, or cannot be filled in.
    """
    values = replace(values, start=system.start.name, kept=case.keep)
    if case.lists or NEED_THE_SYSTEM & {name for patterns in case.fill.values() for name in patterns.values()}:
        values = _with_atoms(values, system)
    _copy_system(case, system, folder, model)
    addresses: dict[str, str] = {}
    listed: set[str] = set()
    classical = [input_beads(file.read_text(encoding="utf-8"), file) == 1 for file in case.inputs()]
    for file, one in zip(case.inputs(), classical, strict=True):
        # Where some inputs have beads the others are meant to be classical.
        here = replace(values, beads=None) if one else values
        here = replace(here, temperature=None) if has_ladder(file.read_text(encoding="utf-8"), file) else here
        text, renamed = fill_input(file.read_text(encoding="utf-8"), file, here)
        addresses |= renamed
        text, found = fill_outputs(text, file, case.lists, here)
        listed |= found
        (folder / file.name).write_text(_fill(text, case, file, here), encoding="utf-8")
    for name in case.lists:
        if name not in listed:
            raise InputError(f"{case.folder}: has no output '{name}(...)', which [lists] of its case.toml names.")
    for file in case.other_files():
        if file.suffix not in _TEXT and file.name not in case.fill:
            shutil.copyfile(file, folder / file.name)
            continue
        text = rename(_fill(file.read_text(encoding="utf-8"), case, file, values), addresses)
        if file.suffix == ".md":
            text = _FIGURE.sub("", text)
        (folder / file.name).write_text(text, encoding="utf-8")
        if os.stat(file).st_mode & stat.S_IXUSR:
            (folder / file.name).chmod(0o755)
    for name, what in case.edit.items():
        if name not in case.keep and not name.endswith(".xml"):
            _mark(folder / name, what)


def _mark(file: Path, what: str) -> None:
    """Say at the top of a file that it has to be edited; `#!` stays the first line."""
    lines = file.read_text(encoding="utf-8").splitlines(keepends=True)
    lines.insert(bool(lines) and lines[0].startswith("#!"), f"{EDIT_MARK} {what}\n")
    file.write_text("".join(lines), encoding="utf-8")


def _with_atoms(values: Values, system: BuiltSystem) -> Values:
    from deltaqmmm.config.loading import load_split

    _, split = load_split(system.config)
    return replace(values, symbols=tuple(split.symbols), qm_atoms=tuple(map(int, split.qm_atoms)))


def _fill(text: str, case: Case, file: Path, values: Values) -> str:
    """Make the replacements that the case declares for a file."""
    named = values.named()
    for pattern, name in case.fill.get(file.name, {}).items():
        if name not in named:
            raise InputError(f"{case.folder}: [fill] names '{name}': known are {', '.join(named)}.")
        if not re.search(pattern, text):
            raise InputError(f"{file}: has nothing like '{pattern}', which [fill] of its case.toml names.")
        value = named[name]
        if value is not None:
            text = re.sub(pattern, partial(_replaced, value=value), text)
    return text


def _replaced(found: re.Match[str], value: str) -> str:
    begin, end = found.start(1) - found.start(), found.end(1) - found.start()
    return found[0][:begin] + value + found[0][end:]


def _copy_system(case: Case, system: BuiltSystem, folder: Path, model: Path | None) -> None:
    """Copy the files of the system, and its configuration with paths that fit and what the case needs."""
    section = system.config.system
    changes: dict[str, dict[str, Any]] = {"system": {"topology": section.topology.name}}
    _copy_topology(section.topology, section.include_folder, folder)
    if section.coordinates is not None:
        shutil.copyfile(section.coordinates, folder / section.coordinates.name)
        changes["system"]["coordinates"] = section.coordinates.name
    if section.include_folder is not None:
        changes["system"]["include_folder"] = str(section.include_folder)
    shutil.copyfile(system.start, folder / system.start.name)
    for name in case.keep:
        if (system.folder / name).is_file():
            shutil.copyfile(system.folder / name, folder / name)
    if system.config.dftb.parameter_folder is not None:
        changes["dftb"] = {"parameter_folder": str(system.config.dftb.parameter_folder)}
    chosen = model or system.config.correction.model
    if chosen is not None:
        if not chosen.is_file():
            raise InputError(f"{system.config.file}: [correction] model: there is no file {chosen}.")
        shutil.copyfile(chosen, folder / chosen.name)
        changes["correction"] = {"model": chosen.name}
    if system.config.correction.frames_file is not None:
        changes.setdefault("correction", {})["frames_file"] = system.config.correction.frames_file.name
    for name, keys in case.config.items():
        changes.setdefault(name, {}).update(keys)
    text = overlay(system.config.file.read_text(encoding="utf-8"), changes, system.config.file)
    (folder / CONFIG).write_text(text, encoding="utf-8")
    read_config(folder / CONFIG)


def _copy_topology(topology: Path, include_folder: Path | None, folder: Path) -> None:
    from deltaqmmm.build.existing import flatten_includes
    from deltaqmmm.topology_files import detect_kind

    if detect_kind(topology) == "gromacs":
        (folder / topology.name).write_text("".join(flatten_includes(topology, include_folder)), encoding="utf-8")
    else:
        shutil.copyfile(topology, folder / topology.name)
