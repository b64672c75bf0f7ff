"""The files that PLUMED reads and writes inside i-PI, as far as going on from a checkpoint depends on them.

i-PI 3.3 counts PLUMED's steps in <plumed_step> of its checkpoint, one for each `mtd_update` of <smotion
mode='metad'>, and sets PLUMED's time step to 1 ps: what PLUMED's files call time is this number. At a restart PLUMED
reads its hills or its state from these files and appends to them. Where they are further than the checkpoint, as
after a kill, hills would be deposited twice.
"""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from deltaqmmm.atomic import write_atomically
from deltaqmmm.errors import InputError

_DEFAULT_FILES = {
    "METAD": "HILLS",
    "OPES_METAD": "KERNELS",
    "OPES_METAD_EXPLORE": "KERNELS",
    "OPES_EXPANDED": "DELTAFS",
    "PRINT": "",
    "DUMPATOMS": "",
    "DUMPDERIVATIVES": "",
    "DUMPFORCES": "",
}
"""What writes a file, and the name of it where none is given. Others may read the file that they name."""
_PICOSECONDS = {"fs": 1e-3, "ps": 1.0, "ns": 1e3, "atomic": 2.418884326509e-5}
_MAX_DEPTH = 10


@dataclass(frozen=True)
class Action:
    """One action of a PLUMED input.

    Attributes:
        name: In capitals.
        values: Of its keywords.
        flags: Its words without a value.
    """

    name: str
    values: dict[str, str]
    flags: frozenset[str]

    def files(self) -> list[str]:
        """What it writes."""
        if self.name == "PBMETAD":
            arguments = [name for name in self.values.get("ARG", "").split(",") if name]
            given = [name for name in self.values.get("FILE", "").split(",") if name]
            return given or [f"HILLS.{name}" for name in arguments]
        if self.name not in _DEFAULT_FILES:
            return []
        names = [self.values.get("FILE", _DEFAULT_FILES[self.name])]
        names += [self.values[key] for key in ("STATE_WFILE", "GRID_WFILE") if key in self.values]
        return [name for name in names if name]


@dataclass(frozen=True)
class PlumedRun:
    """An <ffplumed> of an i-PI input or checkpoint.

    Attributes:
        file: Its PLUMED input.
        step: Steps that PLUMED has made.
        actions: What the PLUMED input asks for; none if it cannot be read.
        picoseconds: PLUMED's unit of time.
    """

    file: Path
    step: int
    actions: tuple[Action, ...]
    picoseconds: float

    def outputs(self) -> list[str]:
        """The names of the files that PLUMED writes, each once, relative to where i-PI runs."""
        return list(dict.fromkeys(name for action in self.actions for name in action.files()))

    def step_of(self, time: float) -> int:
        """The step that a time in its files belongs to."""
        return round(time * self.picoseconds)


def find_plumed(root: ET.Element, folder: Path) -> list[PlumedRun]:
    """Every <ffplumed>.

    Args:
        root: Of an i-PI input or checkpoint.
        folder: Where i-PI runs.

    Raises:
        InputError: An OPES action would read all of its old states at a restart.
    """
    runs = []
    for element in root.iter("ffplumed"):
        file = folder / ((element.findtext("plumed_dat") or "").strip() or "plumed.dat")
        step = (element.findtext("plumed_step") or "").strip()
        actions = tuple(read_actions(file))
        time = next((action.values["TIME"] for action in actions if "TIME" in action.values), "ps")
        runs.append(PlumedRun(file, int(step) if step.isdigit() else 0, actions, _picoseconds(time)))
        for action in actions:
            _check_states(file, action)
    return runs


def _check_states(file: Path, action: Action) -> None:
    state = action.values.get("STATE_RFILE")
    if state and "STORE_STATES" in action.flags and state == action.values.get("STATE_WFILE"):
        raise InputError(
            f"{file}: {action.name} keeps all its states in {state} (STORE_STATES) and would read all of them at a "
            "restart. Give STATE_RFILE another name: `deltaqmmm run` writes the right state there."
        )


def read_actions(file: Path, depth: int = 0) -> Iterator[Action]:
    """The actions of a PLUMED input and of what it includes; none of a file that cannot be read."""
    try:
        text = file.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return
    for words in _statements(text):
        if len(words) > 1 and words[0].endswith(":"):
            words = words[1:]
        name, pairs = words[0].upper(), [word.partition("=") for word in words[1:]]
        if name == "ENDPLUMED":
            return
        values = {key.upper(): value.strip("{}") for key, equals, value in pairs if equals}
        if name == "INCLUDE" and "FILE" in values and depth < _MAX_DEPTH:
            # Relative to where i-PI runs, as all names in it.
            yield from read_actions(file.parent / values["FILE"], depth + 1)
            continue
        yield Action(name, values, frozenset(key.upper() for key, equals, _ in pairs if not equals))


def _statements(text: str) -> Iterator[list[str]]:
    """The words of each action; those between two lines with `...` are one."""
    block: list[str] | None = None
    for line in text.splitlines():
        # A value in braces may have blanks in it.
        words = re.findall(r"(?:\{[^}]*\}|[^\s{])+", line.partition("#")[0])
        if not words:
            continue
        if block is not None:
            if words[0] == "...":
                yield block
                block = None
            else:
                block += words
        elif words[-1] == "..." and len(words) > 1:
            block = words[:-1]
        else:
            yield words


def _picoseconds(unit: str) -> float:
    try:
        return _PICOSECONDS.get(unit) or float(unit)
    except ValueError:
        return 1.0


def end_of_step(file: Path, run: PlumedRun) -> int | None:
    """The place in a file of PLUMED where what it wrote after a step begins; the size of the file if nothing was.

    The header above the first later row goes with it: PLUMED writes one at every start, and for every stored state.

    Returns:
        None if the file is no table whose first column is the time.
    """
    place = last = 0
    of_time = False
    with file.open("rb") as stream:
        for line in stream:
            if not line.endswith(b"\n"):
                return last
            place += len(line)
            if line.startswith(b"#! FIELDS"):
                of_time = line.split()[2:3] == [b"time"]
            if line.startswith(b"#") or not line.strip():
                continue
            if not of_time:
                return None
            try:
                step = run.step_of(float(line.split()[0]))
            except ValueError:
                return None
            if step > run.step:
                return last
            last = place
    return place


def last_step(file: Path, run: PlumedRun) -> int | None:
    """The step of the last row of a table; None if it has none."""
    step = None
    try:
        with file.open("rb") as stream:
            for line in stream:
                if line.strip() and not line.startswith(b"#"):
                    step = run.step_of(float(line.split()[0]))
    except (OSError, ValueError):
        return None
    return step


def restore_states(folder: Path, runs: Sequence[PlumedRun]) -> None:
    """Write the file that OPES goes on from, STATE_RFILE, with the last of the states that STORE_STATES keeps.

    Args:
        folder: Where i-PI runs; the files there are cut back to the checkpoint.
        runs: What the checkpoint says.
    """
    for run in runs:
        for action in run.actions:
            kept, wanted = action.values.get("STATE_WFILE"), action.values.get("STATE_RFILE")
            if kept and wanted and "STORE_STATES" in action.flags and (folder / kept).is_file():
                state = _last_state((folder / kept).read_bytes())
                if state:
                    write_atomically(folder / wanted, state)


def _last_state(content: bytes) -> bytes:
    begins = [match.start() for match in re.finditer(rb"^#! FIELDS", content, re.MULTILINE)]
    return content[begins[-1] :] if begins else b""


def warnings(folder: Path, runs: Sequence[PlumedRun]) -> Iterator[str]:
    """Why the continued run would not be what the unbroken one would have been.

    Args:
        folder: Where i-PI runs; the files there are cut back to the checkpoint.
        runs: What the checkpoint says.
    """
    for run in runs:
        for action in run.actions:
            pace = action.values.get("PACE", "")
            if not pace.isdigit() or int(pace) < 1:
                continue
            yield from _missing_deposits(folder, run, action, int(pace))
            if int(pace) > 1 and (run.step + 1) % int(pace) == 0:
                yield (
                    f"PLUMED makes no deposit in its first step after a restart, and {action.name} would have made one "
                    f"in step {run.step + 1}. safe_stride of <simulation>, a divisor of PACE, avoids such restarts."
                )
            if action.name.startswith("OPES"):
                yield from _state_problems(folder, run, action)


def _missing_deposits(folder: Path, run: PlumedRun, action: Action, pace: int) -> Iterator[str]:
    for name in action.files()[:1]:
        last = last_step(folder / name, run) or 0
        # One may be missing after an earlier restart, see above.
        if action.name != "OPES_EXPANDED" and run.step // pace * pace - last > pace:
            yield (
                f"{name} ends at step {last}, and the checkpoint is of step {run.step}: deposits that had not "
                f"reached the disk are lost. `FLUSH STRIDE=1` in {run.file.name} keeps them."
            )


def _state_problems(folder: Path, run: PlumedRun, action: Action) -> Iterator[str]:
    state = action.values.get("STATE_RFILE")
    if state is None:
        yield (
            f"without its state {action.name} goes on from {action.files()[0]}, which is not exact. Give it "
            "STATE_WFILE, STORE_STATES, STATE_WSTRIDE (equal to PACE) and STATE_RFILE."
        )
        return
    at, deposited = last_step(folder / state, run), last_step(folder / action.files()[0], run)
    if at is None or at > run.step or (deposited is not None and at < deposited):
        yield (
            f"{state} holds the state of step {'-' if at is None else at}, and the last deposit before the "
            f"checkpoint (step {run.step}) was at {'-' if deposited is None else deposited}. STORE_STATES and "
            "STATE_WSTRIDE, equal to PACE, keep what is needed."
        )
