"""`deltaqmmm check`: the terms, finite-difference forces, and what each term costs."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from deltaqmmm.cli.console import WARMING_UP, describe, print_warnings, table
from deltaqmmm.cli.frames import Frame, read_frames
from deltaqmmm.cli.output import positive_integer
from deltaqmmm.config import read_config
from deltaqmmm.errors import ConfigError
from deltaqmmm.units import KJ_PER_MOL

if TYPE_CHECKING:
    from deltaqmmm.cli.differences import Comparison
    from deltaqmmm.config.loading import LoadedPotential

DESCRIPTION = """\
Compute the terms of one frame and what they cost, and compare forces with finite differences of the energy.

The DFTB term (with its embedding), the correction and the MM terms are differentiated separately, on QM atoms, near
MM atoms and MM atoms inside the switch of the embedding. MM energies in single precision are too coarse to
differentiate: so the MM terms are differentiated on OpenMM's Reference platform (double precision), and the forces of
the configured platform are compared with Reference on all atoms.

Tolerances (hartree/bohr): 1e-6 for the DFTB term (10 times scc_tolerance if that is more) and the correction; 1e-4
for the MM terms, whose Ewald sum has small steps at its cutoff; 2e-5, or 1e-4 of the largest force, between the
platforms. The exit status is 1 if one is exceeded.

With --profile nothing is differentiated: beads move about the frame as in a run, in batches of several sizes, and the
time of each term and of the wire is printed."""


DEFAULT_BATCHES = (1, 4, 8, 16)


def add_parser(commands: Any, parents: Sequence[argparse.ArgumentParser]) -> None:  # noqa: ANN401 - private type of argparse
    """Add the command to the parser."""
    parser = commands.add_parser(
        "check",
        parents=parents,
        help="terms, finite-difference forces and times of one frame",
        description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("config", type=Path, help="configuration file (`deltaqmmm config` explains it)")
    parser.add_argument(
        "--frames", type=Path, metavar="FILE", help="take the first frame of this file, not the configured coordinates"
    )
    parser.add_argument(
        "--atoms", type=int, default=3, metavar="N", help="atoms per class (default 3); of the MM terms one"
    )
    parser.add_argument("--seed", type=int, default=1, metavar="N", help="of the choice of atoms (default 1)")
    parser.add_argument("--profile", action="store_true", help="print what a step costs, by term and batch size")
    parser.add_argument(
        "--batches",
        type=batch_sizes,
        default=DEFAULT_BATCHES,
        metavar="N,...",
        help=f"batch sizes of --profile (default {','.join(map(str, DEFAULT_BATCHES))})",
    )
    parser.add_argument(
        "--steps", type=positive_integer, default=10, metavar="N", help="steps of each in --profile (default 10)"
    )
    parser.set_defaults(run=run)


def batch_sizes(text: str) -> tuple[int, ...]:
    """Positive whole numbers separated by commas."""
    try:
        return tuple(positive_integer(word) for word in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text}: whole numbers separated by commas are needed") from None


def run(options: argparse.Namespace) -> int:
    """Run the command."""
    from deltaqmmm.cli.differences import compare_forces
    from deltaqmmm.cli.profiling import profile, profile_table
    from deltaqmmm.config.loading import load_potential

    loaded = load_potential(read_config(options.config))
    print(describe(loaded))
    frame = first_frame(loaded, options.frames)
    print(f"\n{WARMING_UP}", flush=True)
    if options.profile:
        rows = profile(loaded, frame, options.batches, options.steps)
        print(f"\nSteps of beads about {frame.label}\n\n{profile_table(rows)}")
        return 0
    print(f"\nTerms of {frame.label}\n\n{terms_table(loaded, frame)}")
    comparisons = compare_forces(loaded, frame, max(options.atoms, 1), options.seed)
    print(f"\nForces, hartree/bohr\n\n{comparison_table(comparisons)}")
    print_warnings(nothing_embedded(loaded, comparisons))
    failed = [comparison for comparison in comparisons if not comparison.passed]
    if failed:
        print(f"\nFAILED: {len(failed)} of {len(comparisons)} comparisons are beyond their tolerance.")
        return 1
    print("\nAll forces agree.")
    return 0


def first_frame(loaded: LoadedPotential, file: Path | None) -> Frame:
    """The frame to look at: the first of a file, or the coordinates of the configuration.

    Raises:
        ConfigError: There is neither.
    """
    if file is not None:
        return next(read_frames(file, loaded.system))
    topology, system, coordinates = loaded.topology, loaded.system, loaded.config.system.coordinates
    if topology.positions is None or coordinates is None:
        raise ConfigError(
            f"{loaded.config.file}: names no [system] coordinates: add them, or give a frame with --frames FILE."
        )
    return Frame(system.symbols, topology.positions[system.atom_particles], topology.cell, str(coordinates))


def terms_table(loaded: LoadedPotential, frame: Frame) -> str:
    """Energy of each term, and wall time of each part when everything is warm."""
    cells, positions = batch_of_one(frame)
    loaded.potential.warm_up(cells, positions)
    # A small displacement, as in a run: the SCC starts from nearby charges, not from its own solution.
    moved = positions + np.random.default_rng(0).normal(scale=0.005, size=positions.shape)
    loaded.potential.warm_up(cells, moved)
    seconds = dict(loaded.potential.seconds)
    evaluation = loaded.potential.warm_up(cells, positions)
    rows = []
    for name, values in evaluation.terms.items():
        energy = float(values[0])
        rows.append([name, f"{energy:.8f}", f"{energy / KJ_PER_MOL:.3f}", _milliseconds(seconds.pop(name, None))])
    total = seconds.pop("total", None)
    rows += [[name, "", "", _milliseconds(value)] for name, value in seconds.items()]
    energy = float(evaluation.energies[0])
    rows.append(["total", f"{energy:.8f}", f"{energy / KJ_PER_MOL:.3f}", _milliseconds(total)])
    text = table(["term", "hartree", "kJ/mol", "ms"], rows)
    return text + "\n\n  MM runs beside the other terms: the total time is less than the sum."


def nothing_embedded(loaded: LoadedPotential, comparisons: Sequence[Comparison]) -> list[list[str]]:
    """Where the QM region of a periodic system feels no MM atom at all: hardly what is meant.

    Args:
        loaded: The potential.
        comparisons: Of its forces, with a row for every class of MM atoms.
    """
    rows = [c for c in comparisons if c.name.startswith(("DFTB, ", "correction, ")) and "MM atoms" in c.name]
    if not loaded.system.periodic or not loaded.system.n_groups or not rows or any(row.n_atoms for row in rows):
        return []
    embedding = loaded.config.embedding
    return [
        [
            "no MM atom is near enough to polarise the QM region, which is computed as if in vacuum.",
            f"Look at the frame and at [embedding] inner_angstrom = {embedding.inner_angstrom:g} and",
            f"outer_angstrom = {embedding.outer_angstrom:g}.",
        ]
    ]


def batch_of_one(frame: Frame) -> tuple[np.ndarray, np.ndarray]:
    """Cells (1, 3, 3) and positions (1, N, 3), bohr."""
    cell = np.eye(3) if frame.cell is None else frame.cell
    return cell[None], frame.positions[None]


def comparison_table(comparisons: Sequence[Comparison]) -> str:
    """One line for each comparison."""
    rows = [
        [
            comparison.name,
            str(comparison.n_atoms) if comparison.n_atoms else "none",
            f"{comparison.largest_force:.1e}" if comparison.n_atoms else "",
            f"{comparison.error:.1e}" if comparison.n_atoms else "",
            f"{comparison.tolerance:.0e}",
            "ok" if comparison.passed else "OFF",
        ]
        for comparison in comparisons
    ]
    return table(["what", "atoms", "largest force", "error", "tolerance", ""], rows)


def _milliseconds(seconds: float | None) -> str:
    return "" if seconds is None else f"{1000.0 * seconds:.1f}"
