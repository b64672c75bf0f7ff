"""`deltaqmmm label`: reference and baseline labels of frames, into a dataset file."""

from __future__ import annotations

import argparse
import math
import sys
import time
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from tqdm import tqdm

from deltaqmmm.cli.console import print_warnings, system_warnings
from deltaqmmm.cli.frames import Frame, read_frames
from deltaqmmm.cli.output import check_output, positive_integer, positive_number
from deltaqmmm.cli.signals import interrupted_by_signals
from deltaqmmm.config import read_config
from deltaqmmm.config.threads import available_cores
from deltaqmmm.units import ANGSTROM
from deltaqmmm.version import __version__

if TYPE_CHECKING:
    from deltaqmmm.dataset import Dataset, Failure, Source
    from deltaqmmm.reference.labelling import RawFrame
    from deltaqmmm.system import System

DESCRIPTION = """\
Compute reference labels of frames with PySCF ([reference] of the configuration), and the baseline's beside them.

A label is the energy of the QM region in the effective charges of the embedding, with its derivatives by QM positions,
MM positions and effective charges (each at fixed others). Every finished frame is kept at once in OUTPUT.parts, so the
same command goes on after any interruption; at the end all frames are joined in OUTPUT. Frames that OUTPUT has already
are not computed again, so a dataset grows by naming more frames. Ctrl-C writes what is done so far.

A frame whose SCF fails, also after safer retries, is recorded with the reason and passed over: `deltaqmmm info OUTPUT`
lists it. The exit status is 1 only if no frame at all could be labelled."""


def add_parser(commands: Any, parents: Sequence[argparse.ArgumentParser]) -> None:  # noqa: ANN401 - private type of argparse
    """Add the command to the parser."""
    parser = commands.add_parser(
        "label",
        parents=parents,
        help="reference energies and gradients of frames, into a dataset file",
        description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("config", type=Path, help="configuration file (`deltaqmmm config` explains it)")
    parser.add_argument("frames", type=Path, nargs="+", help="files of frames, as `deltaqmmm evaluate` takes them")
    parser.add_argument("-o", "--output", type=Path, required=True, help="dataset file (HDF5) to write or extend")
    parser.add_argument(
        "--processes", type=positive_integer, metavar="N", help="frames computed at once (default: cores / threads)"
    )
    parser.add_argument("--threads", type=positive_integer, default=1, metavar="N", help="threads of each (default 1)")
    parser.add_argument(
        "--mm-gradients-within",
        type=positive_number,
        default=math.inf,
        metavar="ANGSTROM",
        help="leave out the MM gradients of sites farther than this from the QM region: a smaller file",
    )
    parser.add_argument("--retry-failed", action="store_true", help="try frames again that failed before")
    parser.add_argument("-q", "--quiet", action="store_true", help="no progress bar and no summary")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Run the command."""
    check_output(options.output)
    config = read_config(options.config)
    from deltaqmmm.config.labels import label_settings, load_label_parts, reference_settings
    from deltaqmmm.dataset import Dataset, SystemTable
    from deltaqmmm.reference.calculator import ReferenceCalculator
    from deltaqmmm.reference.labelling import Labeller, label_frames
    from deltaqmmm.reference.worker import WorkerSettings

    parts = load_label_parts(config)
    blur_width = parts.embedding.settings.blur_width
    reference = reference_settings(config)
    # Whatever is wrong with the method shows here, before any frame is read.
    ReferenceCalculator(parts.system.qm_symbols, config.qm.charge, reference, blur_width)
    processes = options.processes or max(1, available_cores() // options.threads)
    worker = WorkerSettings(parts.system.qm_symbols, config.qm.charge, reference, blur_width, options.threads)
    labeller = Labeller(parts.embedding, parts.dftb, worker, processes)
    frames = read_all(options.frames, parts.system)
    empty = Dataset(
        SystemTable.from_system(parts.system), label_settings(config, parts.system), provenance=provenance()
    )
    if not options.quiet:
        print_warnings(system_warnings(config, parts.topology, parts.system))
    report = _Progress(quiet=options.quiet, output=options.output)
    with report, interrupted_by_signals():
        dataset = label_frames(
            labeller,
            frames,
            options.output,
            empty,
            retry_failed=options.retry_failed,
            mm_gradient_cutoff=options.mm_gradients_within * ANGSTROM,
            progress=report.advance,
            begin=report.begin,
        )
    if not options.quiet:
        print(report.summary(dataset))
    return 0 if dataset.frames else 1


def read_all(files: Sequence[Path], system: System) -> list[RawFrame]:
    """All frames of the files: every one is checked before the first is computed."""
    from deltaqmmm.dataset.contents import frame_identity
    from deltaqmmm.reference.labelling import RawFrame

    found = []
    for file in files:
        for index, frame in enumerate(read_frames(file, system)):
            cell = frame.cell if system.periodic else None
            identity = frame_identity(frame.positions, cell)
            found.append(RawFrame(identity, source_of(file, index, frame), frame.positions, cell))
    return found


def source_of(file: Path, index: int, frame: Frame) -> Source:
    """Where a frame comes from, with what its file says about temperature, beads and step."""
    from deltaqmmm.dataset import Source

    info = frame.info
    return Source(
        file=file.name,
        index=index,
        temperature=_info_number(info, "temperature_kelvin", float("nan")),
        beads=int(_info_number(info, "beads", 0)),
        bead=int(_info_number(info, "bead", -1)),
        step=int(_info_number(info, "step", -1)),
    )


def _info_number(info: Mapping[str, object], name: str, absent: float) -> float:
    value = info.get(name, absent)
    if isinstance(value, int | float | np.integer | np.floating) and np.isfinite(value):
        return float(value)
    return absent


LABEL_PACKAGES = ("pyscf", "gpu4pyscf", "dftd3", "torch", "numpy", "h5py")


def provenance(packages: Sequence[str] = LABEL_PACKAGES) -> dict[str, str]:
    """Versions and the date, for the reader of a dataset or a model."""
    found = {"deltaqmmm": __version__, "date": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())}
    for package in packages:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


class _Progress:
    """The progress bar, with an estimate of the time left."""

    def __init__(self, *, quiet: bool, output: Path) -> None:
        self._quiet = quiet
        self._output = output
        self._bar: Any = None
        self._start = time.perf_counter()
        self._computed = 0

    def __enter__(self) -> _Progress:
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.close()

    def begin(self, total: int, done: int) -> None:
        """Start the bar; frames that were done before do not count in the estimate."""
        if done and not self._quiet:
            print(f"{done} of {total} frames are done already.", flush=True)
        # Without a terminal a line now and then is enough.
        interval = 0.5 if sys.stderr.isatty() else 60.0
        self._bar = tqdm(
            total=total, initial=done, unit="frame", disable=self._quiet, mininterval=interval, maxinterval=interval,
            smoothing=0.0, dynamic_ncols=True,
        )  # fmt: skip

    def advance(self, failure: Failure | None) -> None:
        """One frame is finished."""
        self._computed += 1
        if failure is not None and not self._quiet:
            self._bar.write(f"{failure.source} is passed over: {failure.reason}.", file=sys.stderr)
        self._bar.update()

    def summary(self, dataset: Dataset) -> str:
        """What was done and what the output holds."""
        elapsed = time.perf_counter() - self._start
        each = f" ({elapsed / self._computed:.1f} s per frame)" if self._computed else ""
        text = f"{self._computed} frames computed in {elapsed:.0f} s{each}. {self._output} holds {len(dataset.frames)}"
        if dataset.failures:
            text += f"; {len(dataset.failures)} failed and are passed over (`deltaqmmm info` says why)"
        return text + "."
