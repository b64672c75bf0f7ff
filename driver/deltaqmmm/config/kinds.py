"""What a value in the configuration file may be: one small checker for each kind of value."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import MISSING, dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

from ase.data import chemical_symbols

_ELEMENTS = frozenset(chemical_symbols[1:])


class RejectedValueError(ValueError):
    """A value that its key cannot take; the message says what is needed."""


@dataclass(frozen=True)
class Kind:
    """A kind of value.

    Attributes:
        need: What is needed, as messages and the table of keys say it: "a number above 0".
        convert: Takes the value from the file and the folder of the file; returns the value to keep, or raises
            `RejectedValueError`.
    """

    need: str
    convert: Callable[[object, Path], Any]


def number(
    *,
    above: float | None = None,
    minimum: float | None = None,
    below: float | None = None,
    maximum: float | None = None,
) -> Kind:
    """A finite number within limits; whole numbers are taken too."""
    limits = [f"above {above:g}"] if above is not None else []
    limits += [f"at least {minimum:g}"] if minimum is not None else []
    limits += [f"below {below:g}"] if below is not None else []
    limits += [f"at most {maximum:g}"] if maximum is not None else []
    need = " ".join(["a number", " and ".join(limits)]).strip()

    def convert(value: object, _: Path) -> float:
        if not isinstance(value, int | float) or isinstance(value, bool):
            raise RejectedValueError(need)
        if not math.isfinite(value) or (above is not None and value <= above) or (below is not None and value >= below):
            raise RejectedValueError(need)
        if (minimum is not None and value < minimum) or (maximum is not None and value > maximum):
            raise RejectedValueError(need)
        return float(value)

    return Kind(need, convert)


def integer(*, minimum: int | None = None, maximum: int | None = None) -> Kind:
    """A whole number within limits."""
    limits = [f"at least {minimum}"] if minimum is not None else []
    limits += [f"at most {maximum}"] if maximum is not None else []
    need = " ".join(["a whole number", " and ".join(limits)]).strip()

    def convert(value: object, _: Path) -> int:
        if not isinstance(value, int) or isinstance(value, bool):
            raise RejectedValueError(need)
        if (minimum is not None and value < minimum) or (maximum is not None and value > maximum):
            raise RejectedValueError(need)
        return value

    return Kind(need, convert)


def integers(*, minimum: int) -> Kind:
    """A list of whole numbers that is not empty."""
    need = f"a list of whole numbers of at least {minimum}, such as [64, 64]"

    def convert(value: object, _: Path) -> tuple[int, ...]:
        if not isinstance(value, list) or not value:
            raise RejectedValueError(need)
        if not all(isinstance(v, int) and not isinstance(v, bool) and v >= minimum for v in value):
            raise RejectedValueError(need)
        return tuple(value)

    return Kind(need, convert)


def boolean() -> Kind:
    """True or false."""
    need = "true or false"

    def convert(value: object, _: Path) -> bool:
        if not isinstance(value, bool):
            raise RejectedValueError(need)
        return value

    return Kind(need, convert)


def text() -> Kind:
    """A text that is not empty."""
    need = "a text in quotes"

    def convert(value: object, _: Path) -> str:
        if not isinstance(value, str) or not value.strip():
            raise RejectedValueError(need)
        return value

    return Kind(need, convert)


def choice(*allowed: str) -> Kind:
    """One of a few words, in any case."""
    listed = [f'"{word}"' for word in allowed]
    need = listed[0] if len(listed) == 1 else f"{', '.join(listed[:-1])} or {listed[-1]}"
    by_lower = {word.lower(): word for word in allowed}

    def convert(value: object, _: Path) -> str:
        if not isinstance(value, str) or value.lower() not in by_lower:
            raise RejectedValueError(need)
        return by_lower[value.lower()]

    return Kind(need, convert)


def path(*, folder: bool = False, any_kind: bool = False) -> Kind:
    """An existing file or folder (or either), relative to the folder of the configuration file."""
    noun = "file or folder" if any_kind else "folder" if folder else "file"
    need = f"the path of an existing {noun}"

    def convert(value: object, base: Path) -> Path:
        if not isinstance(value, str) or not value.strip():
            raise RejectedValueError(need)
        full = (base / Path(value).expanduser()).resolve()
        if not (full.exists() if any_kind else full.is_dir() if folder else full.is_file()):
            raise RejectedValueError(f"{need} (relative to the configuration file); there is no {noun} '{full}'")
        return full

    return Kind(need, convert)


def file_path() -> Kind:
    """A file that may not exist yet, in a folder that does, relative to the folder of the configuration file."""
    need = "the path of a file in an existing folder"

    def convert(value: object, base: Path) -> Path:
        if not isinstance(value, str) or not value.strip():
            raise RejectedValueError(need)
        full = (base / Path(value).expanduser()).resolve()
        if full.is_dir() or not full.parent.is_dir():
            fault = f"'{full}' is a folder" if full.is_dir() else f"there is no folder '{full.parent}'"
            raise RejectedValueError(f"{need} (relative to the configuration file); {fault}")
        return full

    return Kind(need, convert)


def names() -> Kind:
    """A list of texts that is not empty."""
    need = 'a list of names such as ["URA"]'

    def convert(value: object, _: Path) -> tuple[str, ...]:
        if not isinstance(value, list) or not value or not all(isinstance(v, str) and v.strip() for v in value):
            raise RejectedValueError(need)
        return tuple(value)

    return Kind(need, convert)


def atom_numbers() -> Kind:
    """Atom indices as a list or as ranges in a text."""
    need = 'zero-based atom numbers, as a text "0-11, 15" or a list [0, 1, 2]'

    def convert(value: object, _: Path) -> str | tuple[int, ...]:
        if isinstance(value, str) and value.strip():
            return value
        if isinstance(value, list) and value and all(isinstance(v, int) and not isinstance(v, bool) for v in value):
            return tuple(value)
        raise RejectedValueError(need)

    return Kind(need, convert)


def element_table(of: Kind) -> Kind:
    """A table from element symbols to values of another kind."""
    need = f"a table from element symbols to {of.need}, such as {{ H = ..., O = ... }}"

    def convert(value: object, base: Path) -> Mapping[str, Any]:
        if not isinstance(value, dict):
            raise RejectedValueError(need)
        unknown = [key for key in value if key not in _ELEMENTS]
        if unknown:
            raise RejectedValueError(f"{need}; '{unknown[0]}' is no element symbol")
        return MappingProxyType({key: of.convert(entry, base) for key, entry in value.items()})

    return Kind(need, convert)


def key(kind: Kind, meaning: str, default: Any = MISSING) -> Any:  # noqa: ANN401 - stands for a field of any type
    """A dataclass field that is a key of the configuration file; without a default the key must be given."""
    return field(default=default, metadata={"kind": kind, "meaning": meaning})
