"""What `deltaqmmm plot` finds in a folder: the files that i-PI's input names, whichever of them are there."""

from __future__ import annotations

import contextlib
import re
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from deltaqmmm.analysis.outputs import read_trajectory
from deltaqmmm.analysis.records import PICOSECOND, Record, Series, load_extras, load_properties
from deltaqmmm.analysis.units import to_atomic_units
from deltaqmmm.errors import InputError
from deltaqmmm.ipi.restart import RESTART
from deltaqmmm.ipi.simulation import Output, Simulation, parse_input, read_simulation
from deltaqmmm.units import KELVIN

DEFAULT = "input.xml"
_HEAD = 4096
_DIGITS = 2
"""Of temperatures of a ladder, kelvin: more are lost in the conversion of units."""
_KIND = re.compile(r"#EXTRAS[^(#]*\((?P<extras>[^)]*)\)|\b(?P<quantity>positions|x_centroid)\b")


@dataclass(frozen=True)
class Found:
    """What a folder holds.

    Attributes:
        folder: Where.
        records: One for each system.
        swaps: The file where replica exchange notes its swaps.
        plumed: PLUMED's inputs.
        ladder: Temperatures of replica exchange, kelvin, rising; none where they are not known.
        stride: Of replica exchange: every pair is tried with the probability 1/stride after each step; None without.
    """

    folder: Path
    records: tuple[Record, ...]
    swaps: Path | None
    plumed: tuple[Path, ...]
    ladder: tuple[float, ...] = ()
    stride: float | None = None


def find(folder: Path, name: str) -> Found:
    """Read what a simulation has written so far.

    Args:
        folder: Where i-PI runs or ran.
        name: Of its input there; where `DEFAULT` is missing, RESTART.

    Raises:
        InputError: There is no such folder, no input, or nothing that it writes.
    """
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder. Name the one that i-PI runs in, with {name} in it.")
    file = _input(folder, name)
    simulation, root = read_simulation(file), parse_input(file)
    step, targets = _picoseconds(root, file), _targets(folder, root, file)
    swaps = next((folder / one.stem for one in simulation.outputs if one.kind == "swaps"), None)
    # With exchanges no system has one temperature.
    ladder, targets = (
        (tuple(sorted(round(one, _DIGITS) for one in targets)), []) if swaps is not None else ((), targets)
    )
    kind = "replica" if swaps is not None else "system"
    prefixes = list(dict.fromkeys(output.prefix for output in simulation.outputs if output.prefix is not None)) or [""]
    records = tuple(
        _record(folder, simulation, prefix, step, targets[number] if len(targets) == len(prefixes) else None, kind)
        for number, prefix in enumerate(prefixes)
    )
    plumed = tuple(folder / (one.findtext("plumed_dat") or "plumed.dat").strip() for one in root.iter("ffplumed"))
    found = Found(
        folder,
        tuple(record for record in records if record.properties or record.extras or record.positions),
        swaps if swaps is not None and swaps.is_file() else None,
        tuple(one for one in plumed if one.is_file()),
        ladder,
        _swap_stride(root, file) if swaps is not None else None,
    )
    if not found.records:
        names = ", ".join(_looked_for(one) for one in simulation.outputs if one.kind != "checkpoint")
        raise InputError(
            f"{folder}: nothing to draw yet. Looked for what {file.name} writes: {names}. Has the run begun?"
        )
    return found


def _input(folder: Path, name: str) -> Path:
    """The input, or RESTART in place of the one that has the usual name."""
    if (folder / name).is_file():
        return folder / name
    if name != DEFAULT:
        raise InputError(f"{folder / name}: no such file. --input needs the name of i-PI's input in {folder}.")
    if (folder / RESTART).is_file():
        return folder / RESTART
    raise InputError(f"{folder}: neither {name} nor {RESTART} is there. Name i-PI's input with --input FILE.")


def _swap_stride(root: ET.Element, file: Path) -> float | None:
    text = next((one.findtext("stride") or "1.0" for one in root.iter("remd")), None)
    try:
        stride = 0.0 if text is None else float(text)
    except ValueError:
        raise InputError(f"{file}: <stride> of <remd> is '{text}', and a number is needed.") from None
    return stride if stride > 0.0 else None


def _looked_for(output: Output) -> str:
    return output.stem if output.kind != "trajectory" else f"{output.stem}_*"


def _record(
    folder: Path, simulation: Simulation, prefix: str, step: float | None, target: float | None, noun: str
) -> Record:
    properties: dict[str, Series] = {}
    extras: dict[str, list[Series]] = {}
    positions: list[Path] = []
    for output in simulation.outputs:
        if output.prefix != prefix:
            continue
        files = _files(folder, output)
        if output.kind == "properties":
            for file in files:
                for name, series in load_properties(file, output.stride, step).items():
                    if len(series.times):
                        properties.setdefault(name, series)
        elif output.kind == "trajectory" and files:
            kind = _kind(files[0])
            if kind is not None and kind["extras"] and kind["extras"] != "raw":
                # A quantity that is no number, or several, is not for figures.
                with contextlib.suppress(InputError):
                    loaded = [series for series in load_extras(files, kind["extras"], step) if len(series.times)]
                    extras.update({kind["extras"]: loaded} if loaded else {})
            elif kind is not None and kind["quantity"] and (not positions or kind["quantity"] == "positions"):
                positions = files
    symbols = read_trajectory(positions[0], limit=1).symbols if positions else []
    return Record(prefix, step, target, symbols, properties, extras, positions, noun)


def _files(folder: Path, output: Output) -> list[Path]:
    pattern = output.pattern()
    found = [file for file in folder.iterdir() if pattern.fullmatch(file.name) and file.is_file()]
    return sorted((file for file in found if file.stat().st_size), key=lambda file: file.name)


def _kind(file: Path) -> re.Match[str] | None:
    """What a trajectory holds: extras and their name, or positions."""
    with file.open("rb") as stream:
        return _KIND.search(stream.read(_HEAD).decode("utf-8", errors="replace"))


def _picoseconds(root: ET.Element, file: Path) -> float | None:
    """The time step; None if the motion has none, or each system its own."""
    element = next(root.iter("timestep"), None)
    if element is None or (root.find("system_template//timestep") is element and not _is_number(element)):
        return None
    return _number(element, "time", file) / PICOSECOND


def _is_number(element: ET.Element) -> bool:
    return re.fullmatch(r"[-+\d.eE]+", (element.text or "").strip()) is not None


def _targets(folder: Path, root: ET.Element, file: Path) -> list[float]:
    """The temperatures that are asked for, of all systems, kelvin."""
    restart = folder / RESTART
    if root.find("system_template") is not None and restart.is_file():
        # i-PI has filled in its templates there. Half of one, just being written, is none.
        with contextlib.suppress(InputError):
            root = parse_input(restart)
    return list(_temperatures(root, file))


def _temperatures(root: ET.Element, file: Path) -> Iterator[float]:
    for system in root.findall("system"):
        element = system.find("ensemble/temperature")
        if element is not None:
            yield _number(element, "temperature", file) / KELVIN


def _number(element: ET.Element, kind: str, file: Path) -> float:
    try:
        value = float((element.text or "").strip())
    except ValueError:
        raise InputError(f"{file}: <{element.tag}> is '{element.text}', and a number is needed.") from None
    return value * to_atomic_units(element.get("units", ""), kind, f"{file}: <{element.tag}>")
