"""What an i-PI input or checkpoint asks for, as far as whoever starts i-PI must know: sockets, steps, files.

Read as i-PI 3.3 reads it, defaults included; whatever else stands in the file is i-PI's own business.
"""

from __future__ import annotations

import contextlib
import copy
import re
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from deltaqmmm.errors import InputError
from deltaqmmm.ipi.connection import DEFAULT_SOCKET_PREFIX, InetAddress, UnixAddress

FILE_MODES = frozenset({"xyz", "pdb", "ase", "chk"})
"""Modes of an element of <initialize> whose text is the name of a file."""
_DUMMY = "__DUMMY__"
_ANY_HOST = ("0.0.0.0", "")
_ENDINGS = {"xyz": ".xyz", "pdb": ".pdb", "bin": ".bin", "ase": ".extxyz"}


@dataclass(frozen=True)
class ForceSocket:
    """An <ffsocket>, on which a driver is to be found.

    Attributes:
        name: Of the force field.
        mode: "unix", "shm" or "inet".
        address: Name of the socket, or host.
        port: For "inet".
        nested: Whether it stands inside another force field, such as <ffcommittee>. i-PI takes the prefix of the
            sockets (`-S`) for the outer ones alone.
        n_active: Number of atoms on its <activelist>; None if it gets all of them.
    """

    name: str
    mode: str
    address: str
    port: int
    nested: bool = False
    n_active: int | None = None

    def under(self, prefix: str) -> UnixAddress | InetAddress:
        """Where a driver finds it if i-PI is started with `-S prefix`."""
        if self.mode == "inet":
            return InetAddress("localhost" if self.address in _ANY_HOST else self.address, self.port)
        return UnixAddress(self.address, DEFAULT_SOCKET_PREFIX if self.nested else prefix)


@dataclass(frozen=True)
class Output:
    """One element of <output>, or the file where replica exchange notes its swaps.

    Attributes:
        kind: "properties", "trajectory", "checkpoint" or "swaps".
        stem: The name of its file, without numbers of beads and the ending.
        stride: Steps from one entry to the next.
        format: Of a trajectory: "xyz", "pdb", "ase" or "bin".
        prefix: Of the system that it belongs to; None for checkpoints and swaps, which concern all of them.
    """

    kind: str
    stem: str
    stride: int
    format: str = ""
    prefix: str | None = None

    def pattern(self) -> re.Pattern[str]:
        """Matches the names of its files."""
        stem = re.escape(self.stem)
        if self.kind in ("properties", "swaps"):
            return re.compile(stem)
        if self.kind == "checkpoint":
            return re.compile(stem + r"(_\d+)?")
        return re.compile(stem + r"(_\d+)?(" + re.escape(_ENDINGS.get(self.format, "")) + ")?")


@dataclass(frozen=True)
class StartFile:
    """A file that i-PI reads when it begins.

    Attributes:
        name: As it stands in the input, relative to the folder where i-PI runs.
        mode: "xyz", "pdb", "ase" or "chk"; "" for one that holds no atoms.
        element: Where the input names it, for messages.
        whole: Whether it holds all atoms of a system.
    """

    name: str
    mode: str
    element: str
    whole: bool = True


@dataclass(frozen=True)
class Simulation:
    """What an input asks for.

    Attributes:
        file: The input or checkpoint.
        step: Steps that are done.
        total_steps: Where it ends.
        sockets: Where drivers are needed.
        outputs: What is written, of every system.
        start_files: What is read when it begins.
        n_atoms: Number of atoms of each system whose positions stand in the file itself, as in a checkpoint.
        plumed: Whether i-PI needs PLUMED.
        n_beads: Number of beads of each system.
        sockets_prefix: The prefix of socket files that the file names.
    """

    file: Path
    step: int
    total_steps: int
    sockets: tuple[ForceSocket, ...]
    outputs: tuple[Output, ...]
    start_files: tuple[StartFile, ...]
    n_atoms: tuple[int, ...]
    plumed: bool
    n_beads: tuple[int, ...]
    sockets_prefix: str


def read_simulation(file: Path) -> Simulation:
    """Read an input or a checkpoint.

    Raises:
        InputError: The file is missing or no i-PI input.
    """
    root = parse_input(file)
    systems = list(_systems(root, file))
    return Simulation(
        file=file,
        step=_integer(root, "step", 0, file),
        total_steps=_integer(root, "total_steps", 1000, file),
        sockets=tuple(_sockets(root, file)),
        outputs=tuple(_outputs(root, systems, file)),
        start_files=tuple(_start_files(root, systems)),
        n_atoms=tuple(_counts(systems)),
        plumed=next(root.iter("ffplumed"), None) is not None,
        n_beads=tuple(beads_of(system) for system in systems),
        sockets_prefix=root.get("sockets_prefix", DEFAULT_SOCKET_PREFIX),
    )


def parse_input(file: Path) -> ET.Element:
    """The root of an input or checkpoint.

    Raises:
        InputError: The file is missing, malformed, or another kind of file.
    """
    try:
        root = ET.parse(file).getroot()
    except FileNotFoundError:
        raise InputError(f"{file}: no such i-PI input. `deltaqmmm build` writes one; --input names another.") from None
    except OSError as error:
        raise InputError(f"{file}: cannot be read ({error.strerror}).") from error
    except ET.ParseError as error:
        line, column = error.position
        reason = str(error).split(":")[0]
        raise InputError(
            f"{file}: no valid XML: {reason} in line {line}, column {column + 1}. Look for a tag that is not closed or "
            "misspelt at or before that line."
        ) from None
    if root.tag != "simulation":
        raise InputError(f"{file}: is no i-PI input: its root is <{root.tag}>, and <simulation> is needed.")
    return root


def temperatures(file: Path) -> Iterator[tuple[str, float, str]]:
    """The temperatures of all systems, those of templates filled in: the element, the number as given, and its units.

    Raises:
        InputError: The file is missing or no i-PI input.
    """
    for system in _systems(parse_input(file), file):
        found = [("<temperature>", element) for element in system.iter("temperature")]
        found += [
            ("<velocities mode='thermal'>", element)
            for element in system.iterfind("initialize/velocities")
            if element.get("mode") == "thermal"
        ]
        for name, element in found:
            # Whatever is no number is i-PI's business.
            with contextlib.suppress(ValueError):
                yield name, float((element.text or "").strip()), element.get("units", "")


def with_total_steps(root: ET.Element, total_steps: int) -> bytes:
    """The text of an input with another number of steps."""
    changed = copy.deepcopy(root)
    element = changed.find("total_steps")
    if element is None:
        element = ET.SubElement(changed, "total_steps")
    element.text = f" {total_steps} "
    return bytes(ET.tostring(changed, encoding="utf-8"))


def _text(parent: ET.Element, tag: str, default: str) -> str:
    return (parent.findtext(tag) or "").strip() or default


def _integer(parent: ET.Element, tag: str, default: int, file: Path) -> int:
    return _whole(_text(parent, tag, str(default)), f"<{tag}>", file)


def _stride(output: ET.Element, file: Path) -> int:
    return _whole(output.get("stride", "1"), f"stride of <{output.tag}>", file)


def _whole(text: str, what: str, file: Path) -> int:
    try:
        return int(text)
    except ValueError:
        raise InputError(f"{file}: {what} is '{text}', and a whole number is needed.") from None


def _list(text: str | None) -> list[str]:
    """The words of i-PI's lists: `[ a, b ]`."""
    return [word.strip(" \n\t'") for word in (text or "").strip().strip("[]").split(",") if word.strip()]


def _systems(root: ET.Element, file: Path) -> Iterator[ET.Element]:
    """Every system, those of templates filled in as i-PI does."""
    yield from root.findall("system")
    for template in root.findall("system_template"):
        model = template.find("template/system")
        if model is None:
            raise InputError(f"{file}: a <system_template> has no <template> with a <system> in it.")
        text = ET.tostring(model, encoding="unicode")
        labels = _list(template.findtext("labels"))
        for instance in template.findall("instance"):
            filled = text
            # From the last in the alphabet: a label may be the beginning of another.
            for label, value in sorted(zip(labels, _list(instance.text), strict=False), reverse=True):
                filled = filled.replace(label, value)
            yield ET.fromstring(filled)


def _sockets(root: ET.Element, file: Path) -> Iterator[ForceSocket]:
    outer = {id(element) for element in root.findall("ffsocket")}
    for element in root.iter("ffsocket"):
        name = element.get("name", "").strip()
        if name == _DUMMY:
            continue
        mode = element.get("mode", "inet").strip()
        if mode not in ("unix", "shm", "inet"):
            raise InputError(f"{file}: <ffsocket name='{name}'> has mode='{mode}': unix, shm or inet is needed.")
        active = _list(element.findtext("activelist"))
        yield ForceSocket(
            name,
            mode,
            _text(element, "address", "localhost"),
            _integer(element, "port", 65535, file),
            id(element) not in outer,
            None if active in ([], ["-1"]) else len(active),
        )


def _outputs(root: ET.Element, systems: list[ET.Element], file: Path) -> Iterator[Output]:
    given = root.find("output")
    if given is None:
        # What i-PI writes when nothing is said.
        given = ET.fromstring(
            "<output><properties filename='md' stride='10'/><trajectory filename='pos' stride='100'/>"
            "<checkpoint filename='checkpoint' stride='1000'/></output>"
        )
    prefix = given.get("prefix", "i-pi")
    prefix = f"{prefix}." if prefix else ""
    names = {"properties": "out", "trajectory": "traj", "checkpoint": "restart"}
    for element in given:
        if element.tag not in names:
            continue
        stem, stride = prefix + element.get("filename", names[element.tag]), _stride(element, file)
        if element.tag == "checkpoint":
            yield Output("checkpoint", stem, stride)
            continue
        extras = _key(element.text).startswith("extras")
        form = element.get("format", "xyz") if element.tag == "trajectory" and not extras else ""
        for label in dict.fromkeys(system.get("prefix", "") for system in systems):
            yield Output(element.tag, f"{label}_{stem}" if label else stem, stride, form, label)
    for element in root.iter("remd"):
        yield Output("swaps", prefix + _text(element, "swapfile", "remd_idx"), 1)


def _key(text: str | None) -> str:
    return re.split(r"[({]", (text or "").strip())[0].strip()


def _start_files(root: ET.Element, systems: list[ET.Element]) -> Iterator[StartFile]:
    for system in systems:
        for element in system.iterfind("initialize/*"):
            mode = element.get("mode", "chk" if element.tag == "file" else "manual")
            name = (element.text or "").strip()
            if mode in FILE_MODES and name:
                whole = element.tag in ("file", "positions") and element.get("index") is None
                yield StartFile(name, mode, f"<{element.tag}> of <initialize>", whole)
    for direct in root.iter("ffdirect"):
        path = _text(direct, "pes_path", "")
        if _text(direct, "pes", "") == "custom" and path:
            yield StartFile(path, "", "<pes_path> of <ffdirect>", whole=False)
    for plumed in root.iter("ffplumed"):
        yield StartFile(_text(plumed, "plumed_dat", "plumed.dat"), "", "<plumed_dat> of <ffplumed>", whole=False)
        file = plumed.find("file")
        if file is not None and (file.text or "").strip():
            yield StartFile((file.text or "").strip(), file.get("mode", "chk"), "<file> of <ffplumed>")


def beads_of(system: ET.Element) -> int:
    """The number of beads of a system, of an input or of a checkpoint."""
    for tag in ("beads", "initialize"):
        element = system.find(tag)
        text = "" if element is None else element.get("nbeads", "").strip()
        if text.isdigit() and int(text):
            return int(text)
    return 1


def _counts(systems: list[ET.Element]) -> Iterator[int]:
    for system in systems:
        beads = system.find("beads")
        if beads is not None and beads.get("natoms", "0").strip().isdigit() and int(beads.get("natoms", "0")):
            yield int(beads.get("natoms", "0"))
