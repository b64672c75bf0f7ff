"""What all benchmarks of one run share: options, a folder for files that go away, and what is shown on the screen."""

import contextlib
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from benchmarks.programs import ProgramFailedError, ProgramMissingError
from benchmarks.systems import MOLECULES, prepare_box, quick_box


@dataclass(frozen=True)
class Options:
    """What can be chosen; None leaves the choice to the benchmark.

    Attributes:
        molecules: Keys of `systems.MOLECULES`.
        atoms: Sizes of the boxes of `step` and `wire`.
        batches: Frames in a call.
        threads: Numbers of threads, each with as many cores.
        rounds: Turns of each program that count.
        output: Folder of JSON and figures.
        cache: Folder of boxes and trajectories.
        devices: Of torch and OpenMM.
        quick: Take the smallest of everything.
    """

    molecules: tuple[str, ...] | None
    atoms: tuple[int, ...] | None
    batches: tuple[int, ...] | None
    threads: tuple[int, ...] | None
    rounds: int | None
    output: Path
    cache: Path
    devices: tuple[str, ...]
    quick: bool


class Session:
    """One run of `python -m benchmarks`."""

    def __init__(self, options):
        self.options = options
        self._temporary = tempfile.TemporaryDirectory(prefix="deltaqmmm_benchmark_")
        self.folder = Path(self._temporary.name)
        options.cache.mkdir(parents=True, exist_ok=True)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._temporary.cleanup()

    def say(self, text):
        """A line on the screen, above the progress bar."""
        tqdm.write(text)

    def bar(self, label, total):
        """A progress bar with an estimate; a line where nobody looks on."""
        if not sys.stderr.isatty():
            self.say(label)
        return tqdm(total=total, desc=label, unit="turn", leave=False, disable=None)

    def pick(self, name, default, quick):
        """An option: as given, else the default, else the smallest."""
        given = getattr(self.options, name)
        if given is not None:
            return given
        return quick if self.options.quick else default

    def box(self, key, n_atoms):
        """A box from the cache; the quick one where everything shall be small."""
        if self.options.quick:
            return quick_box(self.options.cache)
        return prepare_box(MOLECULES[key], n_atoms, self.options.cache, self.say)

    @contextlib.contextmanager
    def optional(self, result, name, start):
        """A program that may be missing or fail: None then, and the reason is noted.

        Args:
            result: Where the reason goes.
            name: Of the program.
            start: Makes it.
        """
        try:
            program = start()
        except (ProgramMissingError, ProgramFailedError) as error:
            if name not in result.programs:
                self.say(f"without {name}: {str(error).splitlines()[0]}")
            result.missing(name, error)
            yield None
            return
        with program:
            yield program
