"""Items of an i-PI input's <properties> that name atoms: for another system they name its atoms."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path

from deltaqmmm.cases.located import LocatedXML
from deltaqmmm.cases.values import Values
from deltaqmmm.errors import InputError

_ITEM = re.compile(r"(?P<name>\w+)(?P<unit>(?:\{[^}]*\})?)\((?P<argument>\w+)\)")
_WIDTH = 140


def fill_outputs(text: str, file: Path, lists: Mapping[str, str], values: Values) -> tuple[str, set[str]]:
    """Let items that name single atoms name those of a group of the system; items of elements it lacks are left out.

    Args:
        text: An i-PI input.
        file: Where it is from, for messages.
        lists: The group of atoms of each property: {"kinetic_cv": "qm_hydrogens"}. Every run of items of a property,
            `kinetic_cv(8), kinetic_cv(9)`, becomes one of all atoms of the group; of an empty group nothing is left.
        values: Has the groups.

    Returns:
        The new text, and the properties that were found.

    Raises:
        InputError: There is no such group.
    """
    groups = values.groups()
    for group in lists.values():
        if group not in groups:
            raise InputError(f"{file.parent}: [lists] names '{group}': known are {', '.join(groups)}.")
    located, found = LocatedXML(text, file), set[str]()
    for element in located.root.iter("properties"):
        old = [item.strip() for item in (element.text or "").strip().strip("[]").split(",")]
        chosen = {name: groups[group] for name, group in lists.items()}
        found |= {match["name"] for item in old if (match := _ITEM.fullmatch(item)) and match["name"] in lists}
        new = _items(old, chosen, frozenset(values.symbols))
        if new != old:
            located.set_lines(element, _wrapped(new))
    return located.text(), found


def _items(old: Sequence[str], chosen: Mapping[str, Sequence[int]], elements: frozenset[str]) -> list[str]:
    """The items with other atoms.

    Args:
        old: The items.
        chosen: The atoms of each property.
        elements: Of the system.
    """
    new, run = [], ("", "")
    for item in old:
        match = _ITEM.fullmatch(item)
        if match is None or match["name"] not in chosen:
            new.append(item)
            run = ("", "")
        elif not match["argument"].isdigit():
            new += [item] if match["argument"] in elements else []
            run = ("", "")
        elif run != (run := (match["name"], match["unit"])):
            new += [f"{match['name']}{match['unit']}({atom})" for atom in chosen[match["name"]]]
    return new


def _wrapped(items: Sequence[str]) -> list[str]:
    """A list as i-PI reads it, in lines."""
    return textwrap.wrap(
        f"[ {', '.join(items)} ]", _WIDTH - 8, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False
    )
