"""The i-PI input of a case with the values of a system in it; all other lines and comments stay as they are."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from collections.abc import Iterator, Mapping
from pathlib import Path

from deltaqmmm.cases.batches import batched, frames_of_systems, systems
from deltaqmmm.cases.located import LocatedXML
from deltaqmmm.cases.values import Values
from deltaqmmm.errors import InputError
from deltaqmmm.ipi.simulation import beads_of

_ELSEWHERE = "../"


def fill_input(text: str, file: Path, values: Values) -> tuple[str, dict[str, str]]:
    """Put values into an i-PI input.

    Args:
        text: Of the case.
        file: Where it is from, for messages.
        values: What to put in.

    Returns:
        The new text, and the new addresses of sockets by the old ones.

    Raises:
        InputError: A value has no place in this input.
    """
    located = LocatedXML(text, file)
    root = located.root
    if values.steps is not None:
        for element in root.findall("total_steps"):
            located.set_text(element, str(values.steps))
    if values.seed is not None:
        for element in root.iterfind("prng/seed"):
            located.set_text(element, str(values.seed))
    for element in _start_files(root):
        name = Path((element.text or "").strip()).name
        located.set_text(element, name if name in values.kept else values.start)
    # Before beads and instances change, of which the sizes of the batches follow.
    _fill_batches(located, values)
    if values.beads is not None:
        for system, _ in systems(root):
            for element in system.findall("initialize"):
                if "nbeads" in element.attrib:
                    located.set_attribute(element, "nbeads", str(values.beads))
    if values.timestep is not None:
        for element in root.iter("timestep"):
            located.set_text(element, f"{values.timestep:g}")
    if values.temperature is not None:
        _fill_temperature(located, values.temperature)
    if values.temperatures is not None:
        _fill_ladder(located, values.temperatures)
    addresses = _fill_addresses(located, values.address)
    return rename(located.text(), addresses), addresses


def rename(text: str, addresses: Mapping[str, str]) -> str:
    """Put new addresses into commands, `-a ADDRESS`, of comments and scripts."""
    for old, new in addresses.items():
        text = re.sub(rf"(-a\s+){re.escape(old)}(?![\w-])", rf"\g<1>{new}", text)
    return text


def input_beads(text: str, file: Path) -> int:
    """The largest number of beads of an input."""
    return max((beads_of(system) for system, _ in systems(LocatedXML(text, file).root)), default=1)


def has_ladder(text: str, file: Path) -> bool:
    """Whether an input has systems at several temperatures."""
    root = LocatedXML(text, file).root
    return any(_temperature_label(template) for template in root.findall("system_template"))


def _start_files(root: ET.Element) -> Iterator[ET.Element]:
    """Elements that name a start structure of the base system."""
    for system, _ in systems(root):
        for element in system.iterfind("initialize/*"):
            if (element.text or "").strip().startswith(_ELSEWHERE):
                yield element
    for element in root.iterfind("ffplumed/file"):
        if (element.text or "").strip().startswith(_ELSEWHERE):
            yield element


def _fill_addresses(located: LocatedXML, address: str) -> dict[str, str]:
    """Give every socket that is a file its own; returns the new by the old names."""
    sockets = [one for one in located.root.iter("ffsocket") if one.get("mode", "inet").strip() in ("unix", "shm")]
    renamed = {}
    for number, socket in enumerate(sockets):
        element = socket.find("address")
        if element is None:
            raise InputError(f"{located.file}: an <ffsocket> has no <address>.")
        label = re.sub(r"[^A-Za-z0-9_-]+", "-", socket.get("name", "").strip()) or str(number + 1)
        new = address if len(sockets) == 1 else f"{address}_{label}"
        renamed[(element.text or "").strip()] = new
        located.set_text(element, new)
    return renamed


def _fill_batches(located: LocatedXML, values: Values) -> None:
    """The size of a batch keeps its relation to the frames of a step: all of them, those of one system, or a part."""
    for element, name in batched(located.root):
        size = element.find("batch_size")
        old = frames_of_systems(located.root, name)
        if size is None or not (size.text or "").strip().isdigit() or not sum(old):
            continue
        each = [_with_beads(located.root, name, values)] * len(old) if values.beads is not None else old
        if values.temperatures is not None:
            each = [each[0]] * len(values.temperatures)
        whole = int((size.text or "").strip())
        if whole == sum(old):
            new = sum(each)
        elif whole == old[0]:
            new = each[0]
        else:
            new = max(1, whole * sum(each) // sum(old))
        located.set_text(size, str(new))


def _with_beads(root: ET.Element, name: str, values: Values) -> int:
    """The frames of one system when it has another number of beads."""
    system = next(system for system, _ in systems(root))
    frames = 0
    for force in system.iterfind("forces/force"):
        if force.get("forcefield", "").strip() == name:
            asked = force.get("nbeads", "").strip()
            beads = values.beads or 1
            frames += min(int(asked), beads) if asked.isdigit() and int(asked) else beads
    return frames


def _fill_temperature(located: LocatedXML, temperature: float) -> None:
    for system, _ in systems(located.root):
        elements = [*system.iterfind("ensemble/temperature"), *system.iterfind("initialize/velocities")]
        for element in elements:
            if _is_number(element.text):
                if element.get("units", "").strip() != "kelvin":
                    raise InputError(f"{located.file}: <{element.tag}> is not in kelvin: units='kelvin' is needed.")
                located.set_text(element, f"{temperature:g}")


def _temperature_label(template: ET.Element) -> str | None:
    labels = _words(template.findtext("labels"))
    text = (template.findtext("template/system/ensemble/temperature") or "").strip()
    return text if text in labels else None


def _fill_ladder(located: LocatedXML, temperatures: tuple[float, ...]) -> None:
    for template in located.root.findall("system_template"):
        label = _temperature_label(template)
        if label is None:
            continue
        labels, instances = _words(template.findtext("labels")), template.findall("instance")
        column, rows = labels.index(label), [_words(instance.text) for instance in instances]
        lines = []
        for number, temperature in enumerate(temperatures):
            row = [
                _entry([row[index] for row in rows], number, f"{temperature:g}", index == column, located.file)
                for index in range(len(labels))
            ]
            lines.append(f"<instance> [ {', '.join(row)} ] </instance>")
        located.replace(instances, lines)


def _entry(old: list[str], number: int, temperature: str, is_temperature: bool, file: Path) -> str:
    """One entry of an instance: a temperature, a number from 0 on, or what is the same in all."""
    if is_temperature:
        return temperature
    if old == [str(index) for index in range(len(old))]:
        return str(number)
    if len(set(old)) > 1:
        raise InputError(f"{file}: the entries {', '.join(old)} of <instance> cannot be made for other temperatures.")
    return old[0]


def _words(text: str | None) -> list[str]:
    """The words of i-PI's lists: `[ a, b ]`."""
    return [word.strip() for word in (text or "").strip().strip("[]").split(",") if word.strip()]


def _is_number(text: str | None) -> bool:
    try:
        float(text or "")
    except ValueError:
        return False
    return True
