"""What happens where the members of a committee disagree: a warning, an end, and frames written out for labelling."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np

from deltaqmmm.errors import FrameError, SpreadError
from deltaqmmm.results import Evaluation, FloatArray
from deltaqmmm.units import ANGSTROM, BOHR_IN_ANGSTROM, KJ_PER_MOL

ENERGY_SPREAD, FORCE_SPREAD, SCALE = "committee_energy_spread", "committee_force_spread", "correction_scale"
"""The extras that a guard looks at."""

WARNING_SECONDS = 60.0
"""Shortest time between two warnings."""

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class SpreadLimits:
    """Above what spread the guard acts.

    Attributes:
        energy: Of the members' energies, hartree; None: no limit.
        force: Of the members' forces on the atom where it is largest, hartree/bohr; None: no limit.
    """

    energy: float | None = None
    force: float | None = None

    def excess(self, evaluation: Evaluation) -> FloatArray:
        """Spread over limit, the larger of the two quotients, shape (B,): above 1 the guard acts."""
        quotients = np.zeros((2, len(evaluation.energies)))
        for row, (name, limit) in enumerate(((ENERGY_SPREAD, self.energy), (FORCE_SPREAD, self.force))):
            if limit is not None:
                quotients[row] = np.asarray(evaluation.extras[name], dtype=np.float64) / limit
        largest: FloatArray = quotients.max(axis=0)
        return largest

    def __str__(self) -> str:
        """The limits in the units of the configuration."""
        shown = [] if self.energy is None else [f"{_kilojoules(self.energy)} of energy"]
        shown += [] if self.force is None else [f"{_kilojoules_per_angstrom(self.force)} of force"]
        return " and ".join(shown) or "none"


class FrameFile:
    """An extended xyz file that grows by whole frames, up to a number of them.

    Every frame is handed to the system in one piece, so that a kill leaves whole frames; a piece of a frame that a full
    disk or a crash left is cut off. Frames that are there already count.

    Attributes:
        file: The file.
        n_frames: How many frames it holds.
    """

    def __init__(self, file: Path, symbols: tuple[str, ...], *, periodic: bool, max_frames: int) -> None:
        """Look at what is there already.

        Args:
            file: Where frames are appended; made with the first one.
            symbols: Element of each atom.
            periodic: Whether frames have a cell.
            max_frames: How many frames the file may hold.

        Raises:
            FrameError: The file holds something else than frames of these atoms.
            OSError: It cannot be read.
        """
        self.file = file
        self.n_frames = 0
        self._symbols = symbols
        self._periodic = periodic
        self._max_frames = max_frames
        if file.exists():
            self._count()

    def is_full(self) -> bool:
        """Whether it holds as many frames as it may."""
        return self.n_frames >= self._max_frames

    def append(self, positions: FloatArray, cell: FloatArray, **info: int | float) -> None:
        """Write one frame.

        Args:
            positions: Shape (N, 3), bohr.
            cell: Lattice vectors as rows, shape (3, 3), bohr.
            info: What the comment line says beside cell and columns.

        Raises:
            OSError: It could not be written; the file is as before.
        """
        data = self._text(positions, cell, info).encode()
        with self.file.open("ab", buffering=0) as stream:
            before = stream.seek(0, 2)
            try:
                written = stream.write(data)
                if written != len(data):
                    raise OSError(f"only {written} of {len(data)} bytes could be written")
            except OSError:
                stream.truncate(before)
                raise
        self.n_frames += 1

    def _text(self, positions: FloatArray, cell: FloatArray, info: dict[str, int | float]) -> str:
        words = [
            f"{name}={value:.6g}" if isinstance(value, float) else f"{name}={value}" for name, value in info.items()
        ]
        if self._periodic:
            lattice = " ".join(f"{number:.10f}" for number in (cell * BOHR_IN_ANGSTROM).ravel())
            words = [f'Lattice="{lattice}" pbc="T T T"', *words]
        else:
            words = ['pbc="F F F"', *words]
        lines = [str(len(positions)), f"Properties=species:S:1:pos:R:3 {' '.join(words)}"]
        for symbol, (x, y, z) in zip(self._symbols, (positions * BOHR_IN_ANGSTROM).tolist(), strict=True):
            lines.append(f"{symbol:<2} {x:.10f} {y:.10f} {z:.10f}")
        return "\n".join([*lines, ""])

    def _count(self) -> None:
        """Count the whole frames, and cut off a piece of one at the end."""
        end, n_lines = 0, len(self._symbols) + 2
        with self.file.open("rb") as stream:
            while chunk := list(islice(stream, n_lines)):
                whole = len(chunk) == n_lines and chunk[-1].endswith(b"\n")
                self._check(chunk, whole)
                if not whole:
                    break
                end += sum(map(len, chunk))
                self.n_frames += 1
        if end < self.file.stat().st_size:
            with self.file.open("r+b") as stream:
                stream.truncate(end)

    def _check(self, chunk: list[bytes], whole: bool) -> None:
        """Refuse a file that this class has not written for these atoms."""
        count = str(len(self._symbols)).encode()
        counted = chunk[0].strip() == count or (len(chunk) == 1 and not whole and count.startswith(chunk[0]))
        symbols = [line.split()[0].decode(errors="replace") if line.split() else "" for line in chunk[2:]]
        # The last line of a piece may be cut inside its symbol.
        compared = symbols if whole else symbols[:-1]
        if not counted or compared != list(self._symbols[: len(compared)]):
            raise FrameError(
                f"{self.file}: holds something else than frames of the {len(self._symbols)} atoms of this system; "
                "frames cannot be appended to it. Name another file as [correction] frames_file, or move this one away."
            )


class Guard:
    """Looks at the spread of every frame of a run.

    Above a limit it warns (now and then), or raises; and it writes the worst frame of a step to a file, if the last
    frame written is long enough ago.

    Attributes:
        n_frames: Frames looked at.
        n_above: How many were above a limit.
        largest: Largest spreads so far, energy (hartree) and force (hartree/bohr).
    """

    def __init__(
        self,
        limits: SpreadLimits,
        *,
        stop: bool = False,
        frame_file: FrameFile | None = None,
        interval: int = 1,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Prepare.

        Args:
            limits: Above what the guard acts.
            stop: Raise `SpreadError` there.
            frame_file: Where frames above a limit go; None: nowhere.
            interval: Fewest steps (evaluations) between two frames that are written.
            clock: A monotonic clock, seconds.
        """
        self.limits = limits
        self.n_frames = 0
        self.n_above = 0
        self.largest = (0.0, 0.0)
        self._stop = stop
        self._frame_file = frame_file
        self._interval = interval
        self._clock = clock
        self._step = -1
        self._last_written: int | None = None
        self._last_warning: float | None = None
        self._silent = 0

    def inspect(self, cells: FloatArray, positions: FloatArray, evaluation: Evaluation) -> None:
        """Look at B frames.

        Args:
            cells: Lattice vectors as rows, shape (B, 3, 3), bohr.
            positions: Shape (B, N, 3), bohr.
            evaluation: What the potential says of them, with the spreads as extras.

        Raises:
            SpreadError: A spread is above its limit, and the guard is to stop there.
        """
        self._step += 1
        self.n_frames += len(positions)
        energy, force = (np.asarray(evaluation.extras[name]) for name in (ENERGY_SPREAD, FORCE_SPREAD))
        self.largest = (max(self.largest[0], float(energy.max())), max(self.largest[1], float(force.max())))
        excess = self.limits.excess(evaluation)
        n_above = int((excess > 1.0).sum())
        if n_above == 0:
            return
        self.n_above += n_above
        worst = int(excess.argmax())
        self._write(cells[worst], positions[worst], worst, evaluation)
        text = (
            f"the committee disagrees by {_kilojoules(float(energy[worst]))} in the energy and by "
            f"{_kilojoules_per_angstrom(float(force[worst]))} in the force on an atom, in frame {worst} (counted from "
            f"0) of step {self._step}; the limits are {self.limits}"
        )
        if self._stop:
            raise SpreadError(
                f"{text}. Nothing was sent for this step. The geometry is unlike what the model was trained on: label "
                'frames of this kind and train again, or raise the limit, or let action = "fade" lead back to the '
                "baseline."
            )
        self._warn(text, evaluation, worst, n_above)

    def summary(self) -> str:
        """One sentence on the run so far."""
        text = (
            f"Committee spread: at most {_kilojoules(self.largest[0])} and "
            f"{_kilojoules_per_angstrom(self.largest[1])}; {self.n_above} of {self.n_frames} frames above the limits"
        )
        if self._frame_file is not None and self._frame_file.n_frames:
            text += f"; {self._frame_file.file} holds {self._frame_file.n_frames} frames to label"
        return text + "."

    def _warn(self, text: str, evaluation: Evaluation, worst: int, n_above: int) -> None:
        now = self._clock()
        if self._last_warning is not None and now - self._last_warning < WARNING_SECONDS:
            self._silent += n_above
            return
        if SCALE in evaluation.extras:
            text += f"; the correction is scaled by {float(evaluation.extras[SCALE][worst]):.3f}"
        if self._silent:
            text += f" ({self._silent} more frames were above them since the last warning)"
        self._last_warning, self._silent = now, 0
        _logger.warning("%s.", text)

    def _write(self, cell: FloatArray, positions: FloatArray, index: int, evaluation: Evaluation) -> None:
        frame_file = self._frame_file
        if frame_file is None or frame_file.is_full():
            return
        recent = self._last_written is not None and self._step - self._last_written < self._interval
        if recent and not self._stop:
            return
        try:
            frame_file.append(
                positions,
                cell,
                step=self._step,
                batch_index=index,
                energy_spread_kj_per_mol=float(evaluation.extras[ENERGY_SPREAD][index]) / KJ_PER_MOL,
                force_spread_kj_per_mol_per_angstrom=float(evaluation.extras[FORCE_SPREAD][index])
                / KJ_PER_MOL
                * ANGSTROM,
            )
        except OSError as error:
            # The run is worth more than the frame.
            self._frame_file = None
            _logger.warning("%s: %s. No more frames are written.", frame_file.file, error)
            return
        self._last_written = self._step
        if frame_file.is_full():
            _logger.warning(
                "%s holds %d frames, as many as [correction] max_frames allows: no more are written.",
                frame_file.file,
                frame_file.n_frames,
            )


def _kilojoules(energy: float) -> str:
    return f"{energy / KJ_PER_MOL:.3g} kJ/mol"


def _kilojoules_per_angstrom(force: float) -> str:
    return f"{force / KJ_PER_MOL * ANGSTROM:.3g} kJ/mol/angstrom"
