"""The cases of ipi_inputs/: what there is, and what each says of itself in its case.toml."""

from __future__ import annotations

import difflib
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from deltaqmmm.errors import InputError
from deltaqmmm.ipi.simulation import parse_input

LIBRARY = Path(__file__).parents[1] / "data" / "ipi_inputs"
"""The folder of the cases: a link to ipi_inputs/ in a working copy, its files in an installed package."""
DECLARATION, INPUT, CONFIG = "case.toml", "input.xml", "config.toml"
_NEEDS = ("plumed", "model")
_OPTIONS = ("temperature", "temperatures", "beads", "steps", "timestep", "seed", "model")
_NOT_COPIED = re.compile(r"[.#].*|study\w*\.py|.*\.png|case\.toml|config\.toml")


@dataclass(frozen=True)
class Case:
    """A case.

    Attributes:
        name: Of its folder.
        folder: Where it is.
        title: One line.
        needs: "plumed", "model".
        config: Sections and keys that go over the configuration of the user's system.
        edit: What the user has to edit, by file.
        fill: By file: patterns with one group, each with the name of the value that takes the place of the group.
        fixed: Options that cannot be given, each with the reason.
        keep: Start files that `init.xyz` of a system cannot replace.
        lists: By property of i-PI: the group of atoms that its items are for.
        bytes_of_pairs: Of the largest file that i-PI writes, for each pair of atoms; 0 where none grows with their
            square.
    """

    name: str
    folder: Path
    title: str
    needs: tuple[str, ...] = ()
    config: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    edit: Mapping[str, str] = field(default_factory=dict)
    fill: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    fixed: Mapping[str, str] = field(default_factory=dict)
    keep: tuple[str, ...] = ()
    lists: Mapping[str, str] = field(default_factory=dict)
    bytes_of_pairs: int = 0

    def inputs(self) -> list[Path]:
        """Its i-PI inputs, input.xml first.

        Raises:
            InputError: One is no XML.
        """
        found = [file for file in sorted(self.folder.glob("*.xml")) if parse_input(file).tag == "simulation"]
        return sorted(found, key=lambda file: file.name != INPUT)

    def other_files(self) -> list[Path]:
        """What else a user gets a copy of: README, PLUMED's input, scripts."""
        inputs = self.inputs()
        return [
            file
            for file in sorted(self.folder.iterdir())
            if file.is_file() and not _NOT_COPIED.fullmatch(file.name) and file not in inputs
        ]


def list_cases() -> list[Case]:
    """All cases, in the order of their names."""
    return [read_case(file.parent) for file in sorted(LIBRARY.glob(f"*/{DECLARATION}"))]


def find_case(name: str) -> Case:
    """A case by its name.

    Raises:
        InputError: There is none of that name, or its folder lacks a file.
    """
    names = [file.parent.name for file in sorted(LIBRARY.glob(f"*/{DECLARATION}"))]
    if name not in names:
        near = difflib.get_close_matches(name.lower(), names, n=1, cutoff=0.5)
        hint = f"The nearest is '{near[0]}'. " if near else ""
        raise InputError(f"'{name}' is no case. {hint}There are: {', '.join(names) or 'none'}.")
    case = read_case(LIBRARY / name)
    for file in (INPUT, CONFIG):
        if not (case.folder / file).is_file():
            raise InputError(
                f"{case.folder}: the case lacks {file}: restore it from the package (`pip install --force-reinstall "
                "deltaqmmm`) or from the repository."
            )
    return case


def read_case(folder: Path) -> Case:
    """Read the case.toml of a folder.

    Raises:
        InputError: It is no TOML, or says something that is not known.
    """
    file = folder / DECLARATION
    try:
        given = tomllib.loads(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise InputError(f"{file}: cannot be read as TOML ({error}).") from error
    known = ("title", "needs", "config", "edit", "fill", "fixed", "keep", "lists", "bytes_of_pairs")
    for name in given:
        if name not in known:
            raise InputError(f"{file}: '{name}' is not known: needed are some of {', '.join(known)}.")
    if not isinstance(given.get("title"), str):
        raise InputError(f"{file}: title is missing: give one line that says what the case is.")
    for name in given.get("needs", []):
        if name not in _NEEDS:
            raise InputError(f"{file}: needs '{name}': known are {', '.join(_NEEDS)}.")
    for name in given.get("fixed", {}):
        if name not in _OPTIONS:
            raise InputError(f"{file}: [fixed] '{name}' is no option: known are {', '.join(_OPTIONS)}.")
    return Case(
        name=folder.name,
        folder=folder,
        title=given["title"],
        needs=tuple(given.get("needs", [])),
        config=given.get("config", {}),
        edit=given.get("edit", {}),
        fill=given.get("fill", {}),
        fixed=given.get("fixed", {}),
        keep=tuple(given.get("keep", [])),
        lists=given.get("lists", {}),
        bytes_of_pairs=given.get("bytes_of_pairs", 0),
    )
