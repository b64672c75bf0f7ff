"""The last whole checkpoint of a running simulation, kept beside i-PI's own.

i-PI 3.3 writes a <checkpoint> over the one before: a kill in that moment leaves half of it, or an empty file.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable
from pathlib import Path

from deltaqmmm.atomic import write_atomically
from deltaqmmm.errors import OutputError
from deltaqmmm.ipi.restart import KEPT_SUFFIX
from deltaqmmm.ipi.simulation import Simulation

SECONDS_BETWEEN_COPIES = 5.0
_END = b"</simulation>"
_TAIL = 64


class CheckpointKeeper:
    """Copies checkpoints that are whole, `run.checkpoint` to `run.checkpoint.kept`, with their times.

    Args:
        folder: Where i-PI runs.
        simulation: What names the checkpoints.
        clock: A monotonic clock, seconds.
    """

    def __init__(self, folder: Path, simulation: Simulation, clock: Callable[[], float] = time.monotonic) -> None:
        names = [output.stem for output in simulation.outputs if output.kind == "checkpoint"]
        self._times = {folder / name: -1 for name in names}
        self._clock = clock
        self._due = clock()

    def look(self) -> None:
        """Copy what is new, if the last copy is not too recent; where there is no room, go on without."""
        if self._clock() < self._due:
            return
        for file, copied in self._times.items():
            try:
                status = file.stat()
                content = b"" if status.st_mtime_ns == copied else file.read_bytes()
            except FileNotFoundError:
                continue
            if not content[-_TAIL:].rstrip().endswith(_END):
                continue
            kept = file.with_name(file.name + KEPT_SUFFIX)
            with contextlib.suppress(OutputError, OSError):
                write_atomically(kept, content)
                os.utime(kept, ns=(status.st_atime_ns, status.st_mtime_ns))
            self._times[file] = status.st_mtime_ns
            self._due = self._clock() + SECONDS_BETWEEN_COPIES
