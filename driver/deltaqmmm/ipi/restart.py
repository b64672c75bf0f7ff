"""Going on where a simulation stopped, and what becomes of the files of the one before.

i-PI 3.3 at a restart, as read in its source and tried: it appends to its outputs (unless the checkpoint is of step 0),
writes a row of each step after that of the checkpoint, and takes all settings from the checkpoint, nothing from the
input. It writes RESTART at every end that is not a kill, also the successful one, and a <checkpoint> in place, so that
a kill may leave half of one. What stood under these names it renames, `#RESTART#0#`. Where the outputs are further than
the checkpoint, as after a kill, it writes these steps twice. The same holds for the files of PLUMED (`plumed.py`).
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from deltaqmmm.atomic import write_atomically
from deltaqmmm.errors import InputError
from deltaqmmm.ipi.connection import DEFAULT_SOCKET_PREFIX
from deltaqmmm.ipi.plumed import PlumedRun, end_of_step, find_plumed
from deltaqmmm.ipi.simulation import Output, Simulation, parse_input, read_simulation

RESTART = "RESTART"
KEPT_SUFFIX = ".kept"
"""Ends the name of the copy of a checkpoint, see `keeping`."""
_BACKUP = re.compile(r"#(.+)#\d+#|bck\.\d+\.(.+)")
_MARK = re.compile(rb"Step:\s+(\d+)")
_PREFIX = re.compile(rb"\s+sockets_prefix=(?:'([^']*)'|\"([^\"]*)\")")
_BLOCK, _LINE, _HEAD = 1 << 20, 1 << 12, 1 << 14


@dataclass(frozen=True)
class Found:
    """Where a simulation can go on.

    Attributes:
        simulation: What the checkpoint says; None if there is none that can be read, or it is of the very beginning.
        unreadable: Newer checkpoints that are cut short.
    """

    simulation: Simulation | None
    unreadable: tuple[Path, ...] = ()


def find_checkpoint(folder: Path, start: Simulation) -> Found:
    """The newest checkpoint of a folder: RESTART, or what <checkpoint> of the input names.

    A RESTART whose outputs have other names is of another input in the same folder, and passed over.

    Args:
        folder: Where i-PI runs.
        start: The input of the simulation.
    """
    broken = []
    # Of a checkpoint and its copy the checkpoint.
    for file in sorted(_checkpoints(folder, start), key=lambda file: (-file.stat().st_mtime_ns, len(file.name))):
        try:
            simulation = read_simulation(file)
        except InputError:
            broken.append(file)
            continue
        if not _of_one_input(simulation, start):
            continue
        return Found(simulation if simulation.step > 0 else None, tuple(broken))
    return Found(None, tuple(broken))


def _of_one_input(one: Simulation, other: Simulation) -> bool:
    """Whether two inputs or checkpoints write the same file, or nothing."""
    stems = [{output.stem for output in simulation.outputs} for simulation in (one, other)]
    return bool(stems[0] & stems[1]) or not any(stems)


def _checkpoints(folder: Path, start: Simulation) -> Iterator[Path]:
    patterns = [re.compile(RESTART), *(output.pattern() for output in start.outputs if output.kind == "checkpoint")]
    read = {(folder / file.name).resolve() for file in start.start_files}
    for file in folder.iterdir():
        name = _name_before_backup(file.name)
        if any(pattern.fullmatch(name) for pattern in patterns) and file.is_file() and file.resolve() not in read:
            yield file


def _name_before_backup(name: str) -> str:
    backup = _BACKUP.fullmatch(name.removesuffix(KEPT_SUFFIX))
    return (backup[1] or backup[2]) if backup else name.removesuffix(KEPT_SUFFIX)


def plumed_runs(folder: Path, simulation: Simulation) -> list[PlumedRun]:
    """Every <ffplumed> of an input or checkpoint.

    Raises:
        InputError: What a PLUMED input asks for cannot be continued.
    """
    return find_plumed(parse_input(simulation.file), folder) if simulation.plumed else []


def old_files(folder: Path, earlier: Simulation, start: Simulation) -> list[Path]:
    """The files of an earlier simulation: outputs, also those of PLUMED, and checkpoints, with all backups.

    Args:
        folder: Where it ran.
        earlier: Its input, or a checkpoint of it.
        start: What is run now: a file that it begins from is not among them, nor a RESTART of another input.
    """
    patterns = [output.pattern() for output in earlier.outputs]
    written = {(folder / name).resolve() for run in plumed_runs(folder, earlier) for name in run.outputs()}
    read = {(folder / file.name).resolve() for file in start.start_files}
    places = {folder, *(file.parent for file in written)}
    found = [
        file
        for file in sorted(path for place in places if place.is_dir() for path in place.iterdir())
        if file.is_file() and file.resolve() not in read
    ]
    return [
        file
        for file in found
        if (file.parent / _name_before_backup(file.name)).resolve() in written
        or (file.parent == folder and any(one.fullmatch(_name_before_backup(file.name)) for one in patterns))
        or (file.parent == folder and _name_before_backup(file.name) == RESTART and _may_be_of(file, earlier))
    ]


def _may_be_of(restart: Path, start: Simulation) -> bool:
    """Whether a RESTART is not known to be of another input."""
    try:
        return _of_one_input(read_simulation(restart), start)
    except InputError:
        return True


def made_no_step(files: Sequence[Path], start: Simulation) -> bool:
    """Whether nothing in these outputs and checkpoints is later than the beginning."""
    of_plumed = {Path(name).name for run in plumed_runs(start.file.parent, start) for name in run.outputs()}
    for file in files:
        name = _name_before_backup(file.name)
        output = next((one for one in start.outputs if one.pattern().fullmatch(name)), None)
        if output is None and name in of_plumed:
            # Its first row is that of the first step.
            with file.open("rb") as stream:
                late = any(line.endswith(b"\n") and not line.startswith(b"#") for line in stream)
        elif output is None or output.kind == "checkpoint":
            try:
                late = read_simulation(file).step > 0
            except InputError:
                late = True
        elif output.format == "bin":
            late = file.stat().st_size > 0
        else:
            with file.open("rb") as stream:
                stream.seek(_end_of_step(file, output, 0))
                # Half a line is none.
                late = b"\n" in stream.read(_BLOCK)
        if late:
            return False
    return True


def set_aside(files: Sequence[Path], folder: Path) -> Path:
    """Move files into a new numbered folder, `before_1`."""
    place = _numbered(folder)
    for file in files:
        file.rename(place / file.name)
    return place


def _numbered(folder: Path) -> Path:
    number = 1
    while True:
        place = folder / f"before_{number}"
        try:
            place.mkdir()
        except FileExistsError:
            number += 1
        else:
            return place


def cut_back(folder: Path, start: Simulation, step: int) -> tuple[list[str], Path | None]:
    """Take from the outputs what is later than a checkpoint, so that no step stands there twice when i-PI appends.

    Args:
        folder: Where i-PI runs.
        start: The checkpoint, which names the outputs.
        step: Of the checkpoint.

    Returns:
        The names of the files that were cut, and the numbered folder that has what was cut off; None if it is nothing.
    """
    cuts = []
    for output in start.outputs:
        if output.kind == "checkpoint" or output.format == "bin":
            continue
        for file in sorted(folder.iterdir()):
            if output.pattern().fullmatch(file.name) and file.is_file():
                cuts.append((file, _end_of_step(file, output, step)))
    for run in plumed_runs(folder, start):
        for file in [folder / name for name in run.outputs()]:
            place = end_of_step(file, run) if file.is_file() else None
            if place is not None:
                cuts.append((file, place))
    cuts = [(file, place) for file, place in dict(cuts).items() if place < file.stat().st_size]
    if not cuts:
        return [], None
    kept = _numbered(folder)
    for file, place in cuts:
        _cut(file, place, kept / file.name)
    return [file.name for file, _ in cuts], kept


def _cut(file: Path, place: int, kept: Path) -> None:
    """Move the end of a file, from a place on, into another."""
    with file.open("r+b") as stream, kept.open("wb") as other:
        stream.seek(place)
        while block := stream.read(_BLOCK):
            other.write(block)
        other.flush()
        os.fsync(other.fileno())
        stream.truncate(place)


def _end_of_step(file: Path, output: Output, step: int) -> int:
    """The place in a file where what was written after a step begins; its size if nothing was."""
    if output.kind == "properties":
        return _end_in_rows(file, output.stride, step)
    if output.kind == "swaps":
        # It counts steps from 0: the first has this number when it is done.
        return _end_in_rows(file, output.stride, step - 1, column=0)
    # In xyz files the number of atoms stands before the line that tells the step.
    return _end_in_frames(file, step, line_before=output.format in ("xyz", "ase"))


def _end_in_rows(file: Path, stride: int, step: int, column: int | None = None) -> int:
    rows = place = 0
    with file.open("rb") as stream:
        for line in stream:
            if not line.endswith(b"\n"):
                return place
            if line.startswith(b"#"):
                found = re.match(rb"#\s+column\s+(\d+)\s+-->\s+step\s", line)
                column = int(found[1]) - 1 if found else column
            elif line.strip():
                at = rows * stride
                if column is not None:
                    with contextlib.suppress(ValueError, IndexError):
                        at = round(float(line.split()[column]))
                if at > step:
                    return place
                rows += 1
            place += len(line)
    return place


def _end_in_frames(file: Path, step: int, *, line_before: bool) -> int:
    with file.open("rb") as stream:
        cut = place = stream.seek(0, os.SEEK_END)
        while place > 0:
            begin = max(place - _BLOCK, 0)
            stream.seek(begin)
            # A mark may lie across the border of two blocks.
            block = stream.read(place - begin + _LINE)
            for mark in reversed(list(_MARK.finditer(block))):
                if int(mark[1]) <= step:
                    return cut
                cut = _begin_of_line(stream, begin + mark.start(), 1 + line_before)
            place = begin
    return cut


def _begin_of_line(stream: BinaryIO, place: int, lines: int) -> int:
    """Where the line of a place begins, or one before it."""
    for _ in range(lines):
        if place <= 0:
            return 0
        begin = max(place - _LINE, 0)
        stream.seek(begin)
        place = begin + stream.read(place - begin).rfind(b"\n")
    return place + 1


def restore_prefix(folder: Path, start: Simulation, temporary: str) -> None:
    """Let checkpoints name the socket prefix of the input again, in place of the temporary folder of one run.

    So that `i-pi RESTART` can be used by hand too. The time of the files is kept: it tells which is the newest.

    Args:
        folder: Where i-PI ran.
        start: The input of the simulation.
        temporary: The prefix that i-PI was started with; checkpoints with another one are left alone.
    """
    prefix = start.sockets_prefix
    new = b"" if prefix == DEFAULT_SOCKET_PREFIX else b" sockets_prefix='" + os.fsencode(prefix) + b"'"
    for file in _checkpoints(folder, start):
        with file.open("rb") as stream:
            head = stream.read(_HEAD)
        found = _PREFIX.search(head)
        if found is None or (found[1] or found[2]) != os.fsencode(temporary):
            continue
        status = file.stat()
        content = file.read_bytes()
        write_atomically(file, content[: found.start()] + new + content[found.end() :])
        os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))
