"""`deltaqmmm compare`: our own engine and DFTB+ on the same frames."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from tqdm import tqdm

from deltaqmmm.cli.console import table
from deltaqmmm.cli.frames import Frame, read_frames
from deltaqmmm.cli.output import check_output, positive_integer
from deltaqmmm.config import Config, read_config
from deltaqmmm.errors import InputError
from deltaqmmm.results import FloatArray

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from deltaqmmm.potential import Potential

DESCRIPTION = """\
Compute frames with our own engine and with DFTB+, both in the embedding and with the [dftb] section of the
configuration, and print how far energies, charges and forces are apart, and the times. MM terms and the correction are
left out: they are the same for both. With [dftb] hsd DFTB+ reads that file and our engine takes its defaults.

The figure shows the differences of every frame. Times are medians over the batches, the first one (which compiles,
and starts from neutral atoms) left out where there are more."""

NAMES = ("builtin", "dftb+")


@dataclass(frozen=True)
class Results:
    """What one engine gives for F frames of N atoms, n of them QM.

    Attributes:
        energies: Of the DFTB term, shape (F,), hartree.
        charges: Shape (F, n), e.
        forces: Of the DFTB term on all atoms, shape (F, N, 3), hartree/bohr.
        cycles: SCC cycles, shape (F,).
        seconds: Wall time of the engine for each batch, per frame, shape (batches,).
    """

    energies: FloatArray
    charges: FloatArray
    forces: FloatArray
    cycles: FloatArray
    seconds: FloatArray

    @property
    def milliseconds(self) -> float:
        """Median time per frame, without the first batch if there are more."""
        return 1000.0 * float(np.median(self.seconds[1:] if len(self.seconds) > 1 else self.seconds))


@dataclass(frozen=True)
class Difference:
    """How far two engines are apart in one quantity.

    Attributes:
        name: The quantity.
        unit: Its unit.
        largest: Largest absolute difference in each frame, shape (F,).
        root_mean_square: Over all frames.
    """

    name: str
    unit: str
    largest: FloatArray
    root_mean_square: float


def add_parser(commands: Any, parents: Sequence[argparse.ArgumentParser]) -> None:  # noqa: ANN401 - private type of argparse
    """Add the command to the parser."""
    parser = commands.add_parser(
        "compare",
        parents=parents,
        help="our own DFTB engine and DFTB+ on the frames of a file",
        description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("config", type=Path, help="configuration file (`deltaqmmm config` explains it)")
    parser.add_argument("frames", type=Path, help="file of frames, as `deltaqmmm evaluate` reads them")
    parser.add_argument(
        "-o", "--output", type=Path, default=Path("compare.png"), help="figure to write, as PNG (default compare.png)"
    )
    parser.add_argument(
        "--batch", type=positive_integer, default=8, metavar="N", help="frames computed at once (default 8)"
    )
    parser.add_argument("-q", "--quiet", action="store_true", help="no progress bar")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Run the command."""
    from deltaqmmm.config.parts import load_split
    from deltaqmmm.training.figures import save_figure

    check_output(options.output)
    if options.output.suffix.lower() != ".png":
        raise InputError(f"{options.output}: the figure is written as PNG; give it a name that ends in .png.")
    config = read_config(options.config)
    _, system = load_split(config)
    # All frames are checked before the first is computed.
    frames = list(read_frames(options.frames, system))
    described, potentials = engines(config)
    print("\n".join(f"  {name:<8} {words}" for name, words in zip(NAMES, described, strict=True)))
    if config.dftb.hsd is not None:
        print(
            f"  Warning: DFTB+ computes what {config.dftb.hsd.name} says, and the builtin engine "
            f"{described_method(config)}: differences of the methods are among those below."
        )
    with tqdm(total=2 * len(frames), unit="frame", disable=options.quiet or not sys.stderr.isatty()) as bar:
        first, second = (compute(potential, frames, options.batch, bar.update) for potential in potentials)
    found = differences(first, second, system.qm_atoms)
    save_figure(difference_figure(found, (first, second)), options.output)
    print(f"\nDifferences on {len(frames)} frames of {options.frames}\n\n{difference_table(found)}")
    print(f"\n{time_table((first, second))}\n\n{options.output}")
    return 0


def engines(config: Config) -> tuple[tuple[str, str], tuple[Potential, Potential]]:
    """Both engines in words, and each in the embedding, alone.

    Raises:
        DeltaqmmmError: One of them cannot be made.
    """
    from deltaqmmm.config.parts import builtin_engine, cutoff_settings, dftbplus_engine, load_split, torch_device
    from deltaqmmm.config.threads import share_threads
    from deltaqmmm.embedding import CutoffEmbedding
    from deltaqmmm.potential import Potential
    from deltaqmmm.threads import choose_threads

    device = torch_device(config)
    _, system = load_split(config)
    embedding = CutoffEmbedding(system, cutoff_settings(config), device)
    ours, theirs = builtin_engine(config, system, device), dftbplus_engine(config, system, device)
    threads, program = share_threads(config).torch, theirs.program
    choose_threads(threads, compiled=ours.compiled)
    method = described_method(config)
    described = (
        f"{method}, on {device}, threads: {threads}",
        f"{method if config.dftb.hsd is None else config.dftb.hsd.name}, DFTB+ {theirs.library.version}, "
        f"processes: {program.workers}, threads of each: {program.threads}",
    )
    made = [Potential(system, None, embedding, engine, device=device) for engine in (ours, theirs)]
    return described, (made[0], made[1])


def described_method(config: Config) -> str:
    """The method of our own engine in words."""
    return f"{config.dftb.model.upper()} {config.dftb.parameters}"


def compute(potential: Potential, frames: Iterable[Frame], batch: int, progress: Callable[[int], object]) -> Results:
    """All frames, in their order.

    Args:
        potential: The DFTB term in its embedding.
        frames: Frames of its system.
        batch: Number of frames computed at once.
        progress: Called with the number of frames done.
    """
    parts, seconds = [], []
    iterator = iter(frames)
    while chunk := list(islice(iterator, batch)):
        positions = np.stack([frame.positions for frame in chunk])
        cells = np.stack([np.eye(3) if frame.cell is None else frame.cell for frame in chunk])
        try:
            parts.append(potential.warm_up(cells, positions))
        except InputError as error:
            raise type(error)(f"{chunk[0].label} and those after it: {error}") from error
        seconds.append(potential.seconds["dftb"] / len(chunk))
        progress(len(chunk))
    return Results(
        energies=np.concatenate([part.energies for part in parts]),
        charges=np.concatenate([np.asarray(part.extras["qm_charges"], dtype=np.float64) for part in parts]),
        forces=np.concatenate([part.forces for part in parts]),
        cycles=np.concatenate([np.asarray(part.extras["scc_iterations"], dtype=np.float64) for part in parts]),
        seconds=np.array(seconds),
    )


def differences(first: Results, second: Results, qm_atoms: np.ndarray) -> list[Difference]:
    """Energies, charges, and the forces on QM and on MM atoms.

    Args:
        first: Of one engine.
        second: Of the other one.
        qm_atoms: Indices of the QM atoms, shape (n,).
    """
    forces = second.forces - first.forces
    others = np.setdiff1d(np.arange(forces.shape[1]), qm_atoms)
    quantities = [
        ("energy", "hartree", second.energies - first.energies),
        ("charges", "e", second.charges - first.charges),
        ("forces, QM atoms", "hartree/bohr", forces[:, qm_atoms]),
    ]
    if len(others):
        quantities.append(("forces, MM atoms", "hartree/bohr", forces[:, others]))
    return [
        Difference(
            name, unit, np.abs(values.reshape(len(values), -1)).max(axis=1), float(np.sqrt(np.mean(np.square(values))))
        )
        for name, unit, values in quantities
    ]


def difference_table(found: Sequence[Difference]) -> str:
    """One line for each quantity."""
    rows = [
        [
            entry.name,
            entry.unit,
            f"{entry.largest.max():.1e}",
            str(int(entry.largest.argmax())),
            f"{entry.root_mean_square:.1e}",
        ]
        for entry in found
    ]
    return table(["quantity", "unit", "largest", "in frame", "root mean square"], rows)


def time_table(results: Sequence[Results]) -> str:
    """What each engine took."""
    rows = [
        [name, f"{entry.milliseconds:.2f}", f"{entry.cycles.mean():.1f}"]
        for name, entry in zip(NAMES, results, strict=True)
    ]
    return table(["engine", "ms per frame", "SCC cycles"], rows)


def difference_figure(found: Sequence[Difference], results: Sequence[Results]) -> Figure:
    """The largest difference in every frame, by quantity, and the time of every batch."""
    from matplotlib.figure import Figure

    from deltaqmmm.training.figures import COLOURS, WIDTH

    figure = Figure(figsize=(WIDTH, 2.6), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(2, 1))
    for entry, colour in zip(found, COLOURS, strict=False):
        # A difference of exactly nothing has no place on a logarithmic axis.
        shown = np.maximum(entry.largest, 1e-16)
        left.plot(shown, ".", markersize=3, color=colour, label=f"{entry.name} ({entry.unit})")
    left.set(yscale="log", xlabel="frame", ylabel="largest difference")
    left.legend(fontsize=6.5, frameon=False, loc="upper center", bbox_to_anchor=(0.5, 1.22), ncols=2)
    for name, result, colour in zip(NAMES, results, COLOURS, strict=False):
        right.plot(1000.0 * result.seconds, ".-", linewidth=0.7, markersize=3, color=colour, label=name)
    right.set(yscale="log", xlabel="batch", ylabel="ms per frame")
    right.legend(fontsize=6.5, frameon=False)
    for axis in (left, right):
        axis.tick_params(which="both", labelsize=7)
        axis.xaxis.label.set_size(8)
        axis.yaxis.label.set_size(8)
        axis.spines[["top", "right"]].set_visible(False)
    return figure
