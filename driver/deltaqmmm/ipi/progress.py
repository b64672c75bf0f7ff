"""How far i-PI has come, from the property files that it writes."""

from __future__ import annotations

import math
import os
import re
import time
from collections.abc import Sequence
from pathlib import Path

from deltaqmmm.units import KELVIN

_COLUMN = re.compile(r"#\s+col(?:umn|s\.)\s+(\d+)(?:-\d+)?\s+-->\s+(\w+)(\([^)]*\))?(?:\{(\w+)\})?")
_BLOCK = 1 << 20
_KELVIN_IN_ATOMIC_UNITS = {"": KELVIN, "automatic": KELVIN, "atomic_unit": KELVIN, "kelvin": 1.0}


class PropertyFile:
    """A property file of i-PI that is read as it grows.

    Attributes:
        path: Where it is, or will be.
        stride: Steps from one line to the next: tells the step where the file has no column for it.
        system: The prefix of the system that it belongs to.
        step: Step of the last complete line; -1 before the first.
        temperature: Kelvin, in the last line; None without such a column.
        conserved: The conserved quantity in the last line, in the unit of the file; None without such a column.
        drift: Its change since the first line of the file.
        unit: The unit of the conserved quantity as i-PI calls it; "" for hartree.
    """

    def __init__(self, path: Path, stride: int = 1, system: str = "") -> None:
        self.path = path
        self.stride = max(stride, 1)
        self.system = system
        self._begin_again(None)

    def _begin_again(self, identity: int | None) -> None:
        self.step = -1
        self.temperature: float | None = None
        self.conserved: float | None = None
        self.drift: float | None = None
        self.unit = ""
        self._identity = identity
        self._columns: dict[str, tuple[int, str]] = {}
        self._first: float | None = None
        self._offset = self._rows = 0
        self._rest = b""

    def read(self) -> bool:
        """Take in what is new; returns whether anything was."""
        try:
            with self.path.open("rb") as stream:
                status = os.fstat(stream.fileno())
                if status.st_ino != self._identity or status.st_size < self._offset:
                    # Another file of this name: i-PI renames old ones.
                    self._begin_again(status.st_ino)
                stream.seek(self._offset)
                before = self._offset
                while block := stream.read(_BLOCK):
                    self._offset += len(block)
                    self._take(block)
        except OSError:
            return False
        return self._offset != before

    def _take(self, block: bytes) -> None:
        # What stands after the last line break is not yet complete.
        whole, _, self._rest = (self._rest + block).rpartition(b"\n")
        lines = whole.decode(errors="replace").splitlines()
        for line in lines:
            if line.startswith("#"):
                self._take_head(line)
        rows = [line for line in lines if line.strip() and not line.startswith("#")]
        self._rows += len(rows)
        if rows:
            self._take_rows(rows)

    def _take_head(self, line: str) -> None:
        match = _COLUMN.match(line)
        # With arguments a property is another one: temperature(nm=0) is that of the centroid.
        if match and match[3] is None:
            self._columns[match[2]] = (int(match[1]) - 1, match[4] or "")

    def _take_rows(self, rows: Sequence[str]) -> None:
        words = rows[-1].split()
        step = self._value("step", words)
        self.step = (self._rows - 1) * self.stride if step is None or not math.isfinite(step) else int(step)
        temperature = self._value("temperature", words)
        if temperature is not None:
            factor = _KELVIN_IN_ATOMIC_UNITS.get(self._columns["temperature"][1])
            self.temperature = None if factor is None else temperature / factor
        self.conserved = self._value("conserved", words)
        if self.conserved is not None:
            self.unit = self._columns["conserved"][1]
            if self._first is None:
                self._first = self._value("conserved", rows[0].split())
            self.drift = None if self._first is None else self.conserved - self._first

    def _value(self, name: str, words: Sequence[str]) -> float | None:
        """The value in the column of a name."""
        try:
            return float(words[self._columns[name][0]])
        except (KeyError, IndexError, ValueError):
            return None


class Watch:
    """Follows the files of a simulation.

    Args:
        files: The property files of all systems.
        logs: Files that grow as long as something happens, beside the property files.
    """

    def __init__(self, files: Sequence[PropertyFile], logs: Sequence[Path] = ()) -> None:
        self.files = files
        self._logs = logs
        self._sizes: list[int] = []
        self._moved = time.monotonic()

    def look(self) -> None:
        """Take in what is new."""
        grown = [file.read() for file in self.files]
        sizes = [_size(log) for log in self._logs]
        if any(grown) or sizes != self._sizes:
            self._sizes, self._moved = sizes, time.monotonic()

    @property
    def step(self) -> int:
        """The last step that all systems have finished; -1 before the first."""
        systems: dict[str, int] = {}
        for file in self.files:
            systems[file.system] = max(file.step, systems.get(file.system, -1))
        return min(systems.values(), default=-1)

    def seconds_still(self) -> float:
        """For how long nothing has happened."""
        return time.monotonic() - self._moved

    def summary(self) -> str:
        """Temperature and conserved quantity, or their ranges where there are several systems."""
        parts = []
        temperatures = [file.temperature for file in self.files if file.temperature is not None]
        if temperatures:
            low, high = min(temperatures), max(temperatures)
            parts.append(f"{low:.0f} K" if len(temperatures) == 1 else f"{low:.0f} to {high:.0f} K")
        energies = [file for file in self.files if file.conserved is not None and file.drift is not None]
        if energies:
            far = max(energies, key=lambda file: abs(file.drift or 0.0))
            unit = far.unit if far.unit not in ("", "automatic", "atomic_unit") else "Eh"
            if len(energies) == 1:
                parts.append(f"conserved {far.conserved:.5f} {unit}, drift {far.drift:+.2g}")
            else:
                parts.append(f"largest drift {far.drift:+.2g} {unit}")
        return ", ".join(parts)


def _size(file: Path) -> int:
    try:
        return file.stat().st_size
    except OSError:
        return -1
