"""Keys changed in the text of a config.toml, whose other lines and comments stay as they are."""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from deltaqmmm.errors import InputError

_COMMENT_COLUMN = 38


def overlay(text: str, changes: Mapping[str, Mapping[str, Any]], file: Path) -> str:
    """Set keys in sections; a key or section that is not there is added.

    Args:
        text: A configuration file.
        changes: By section: key and value.
        file: Where the text is from, for messages.

    Raises:
        InputError: The file is written in a way in which a key cannot be set.
    """
    wanted = {name: dict(section) for name, section in tomllib.loads(text).items()}
    lines = text.splitlines()
    for name, section in changes.items():
        for key, value in section.items():
            wanted.setdefault(name, {})[key] = value
            _set(lines, name, key, value)
    result = "\n".join(lines) + "\n"
    try:
        made = tomllib.loads(result)
    except tomllib.TOMLDecodeError:
        made = {}
    if made != wanted:
        raise InputError(
            f"{file}: could not be changed for the case ({', '.join(f'[{name}]' for name in changes)}): write it in "
            "sections, `[section]` with `key = value` lines, as `deltaqmmm build` does."
        )
    return result


def _set(lines: list[str], name: str, key: str, value: object) -> None:
    begin, end = _section(lines, name)
    if begin is None:
        lines += ["", f"[{name}]", f"{key} = {toml_value(value)}"]
        return
    for number in range(begin, end):
        if re.match(rf"\s*{re.escape(key)}\s*=", lines[number]):
            last = _last_line(lines, number, end)
            comment = _comment(lines[number]) if last == number else ""
            line = f"{key} = {toml_value(value)}"
            lines[number : last + 1] = [f"{line:<{_COMMENT_COLUMN}} {comment}" if comment else line]
            return
    while end > begin and not lines[end - 1].strip():
        end -= 1
    lines.insert(end, f"{key} = {toml_value(value)}")


def _section(lines: list[str], name: str) -> tuple[int | None, int]:
    """The lines after the heading of a section, and where the next one begins."""
    begin = None
    for number, line in enumerate(lines):
        found = re.match(r"\s*\[\s*([\w-]+)\s*\]\s*(#.*)?$", line)
        if found is None:
            continue
        if begin is not None:
            return begin, number
        if found[1] == name:
            begin = number + 1
    return begin, len(lines)


def _last_line(lines: list[str], first: int, end: int) -> int:
    """The line in which a value that begins in the first one ends."""
    for last in range(first, end):
        try:
            tomllib.loads("\n".join(lines[first : last + 1]))
        except tomllib.TOMLDecodeError:
            continue
        return last
    return first


def _comment(line: str) -> str:
    """The comment at the end of a line with a key; a # in a text is none."""
    for place in (place for place, letter in enumerate(line) if letter == "#"):
        try:
            tomllib.loads(line[:place])
        except tomllib.TOMLDecodeError:
            continue
        return line[place:]
    return ""


def toml_value(value: object) -> str:
    """A value as TOML writes it.

    Raises:
        TypeError: No value of a configuration file is like that.
    """
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False)
    if isinstance(value, int | float):
        return repr(value)
    if isinstance(value, list):
        return "[" + ", ".join(toml_value(entry) for entry in value) + "]"
    raise TypeError(f"no TOML value: {value!r}")
