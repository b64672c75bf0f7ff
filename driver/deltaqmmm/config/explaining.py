"""The table of all keys, from the declarations: what `deltaqmmm config` prints."""

from __future__ import annotations

import textwrap
from dataclasses import MISSING, fields

from deltaqmmm.config.sections import SECTIONS


def _default_text(value: object) -> str:
    if value is MISSING:
        return "required"
    if value is None:
        return "default: absent"
    if isinstance(value, bool):
        return f"default: {'true' if value else 'false'}"
    if isinstance(value, tuple):
        return f"default: {list(value)}"
    return f'default: "{value}"' if isinstance(value, str) else f"default: {value}"


def explain_keys(width: int = 110) -> str:
    """Every section and key with its default, its meaning and the values it takes, as text."""
    lines = ["Paths are relative to the folder of the configuration file."]
    for section, declared in SECTIONS.items():
        _, _, purpose = (declared.__doc__ or "").partition(": ")
        lines += ["", *textwrap.wrap(f"[{section}]  {' '.join(purpose.split())}", width, subsequent_indent="    ")]
        for entry in fields(declared):
            lines.append(f"  {entry.name:<30} {_default_text(entry.default)}")
            description = f"{entry.metadata['meaning']}. Takes {entry.metadata['kind'].need}."
            lines += textwrap.wrap(description, width, initial_indent=" " * 6, subsequent_indent=" " * 6)
    return "\n".join(lines)
