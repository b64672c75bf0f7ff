"""How many frames of a step one force field of an i-PI input gets."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections.abc import Iterator

from deltaqmmm.ipi.simulation import beads_of

FORCE_FIELDS = ("ffsocket", "ffdirect")


def batched(root: ET.Element) -> Iterator[tuple[ET.Element, str]]:
    """The force fields that can be sent batches, each with the name by which <force> asks for it.

    That of one inside <ffcommittee> is the committee's.
    """
    for outer in root:
        for element in outer.iter() if outer.tag.startswith("ff") else ():
            if element.tag in FORCE_FIELDS:
                yield element, outer.get("name", "").strip()


def systems(root: ET.Element) -> Iterator[tuple[ET.Element, int]]:
    """Every <system>, with how many times it is there: those of a template as often as it has instances."""
    for element in root.findall("system"):
        yield element, 1
    for template in root.findall("system_template"):
        for element in template.iterfind("template/system"):
            yield element, len(template.findall("instance"))


def frames_of_systems(root: ET.Element, force_field: str) -> list[int]:
    """The frames that each system sends to a force field in one evaluation, systems of a template one by one."""
    counts = []
    for system, number in systems(root):
        beads = beads_of(system)
        frames = 0
        for force in system.iterfind("forces/force"):
            if force.get("forcefield", "").strip() == force_field:
                asked = force.get("nbeads", "").strip()
                frames += min(int(asked), beads) if asked.isdigit() and int(asked) else beads
        counts += [frames] * number
    return counts
