"""`deltaqmmm evaluate`: energies, forces and charges of given frames."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from tqdm import tqdm

from deltaqmmm.cli.console import print_warnings, system_warnings
from deltaqmmm.cli.frames import Frame, read_frames
from deltaqmmm.cli.output import check_output, positive_integer, write_whole
from deltaqmmm.config import read_config
from deltaqmmm.errors import InputError
from deltaqmmm.ipi import Evaluate
from deltaqmmm.results import Evaluation
from deltaqmmm.units import BOHR_IN_ANGSTROM, HARTREE_IN_ELECTRONVOLT

if TYPE_CHECKING:
    from deltaqmmm.system import System

DESCRIPTION = """\
Compute energies (eV), forces (eV/angstrom) and charges (e) of frames, and write them as an extended xyz file.

Read are i-PI's xyz and every format of ASE (extxyz, pdb, ...). The output follows ASE's conventions (`ase.io.read`
gives them back): energy, forces, stress if [mm] virial = true; per atom `charges`, Mulliken in the QM region and the
fixed MM charge elsewhere, and `qm` (1 in the QM region); per frame the terms as `energy_NAME`, `qm_dipole`
(e angstrom, about the centre of mass of the QM region) and `scc_iterations`; with a committee of corrections
`committee_energy_spread` (eV) and `committee_force_spread` (eV/angstrom), and `correction_scale` where it may fade. A
model that replaces DFTB gives no charges."""

_SPREADS = {
    "committee_energy_spread": HARTREE_IN_ELECTRONVOLT,
    "committee_force_spread": HARTREE_IN_ELECTRONVOLT / BOHR_IN_ANGSTROM,
    "correction_scale": 1.0,
}
"""Extras of a committee, and their units in the output."""


def add_parser(commands: Any, parents: Sequence[argparse.ArgumentParser]) -> None:  # noqa: ANN401 - private type of argparse
    """Add the command to the parser."""
    parser = commands.add_parser(
        "evaluate",
        parents=parents,
        help="energies, forces and charges of frames in a file",
        description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("config", type=Path, help="configuration file (`deltaqmmm config` explains it)")
    parser.add_argument("frames", type=Path, help="file of frames")
    parser.add_argument("-o", "--output", type=Path, required=True, help="extended xyz file to write")
    parser.add_argument(
        "--batch", type=positive_integer, default=16, metavar="N", help="frames computed at once (default 16)"
    )
    parser.add_argument("-q", "--quiet", action="store_true", help="no progress bar and no summary")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Run the command."""
    from deltaqmmm.config.loading import load_potential

    check_output(options.output)
    loaded = load_potential(read_config(options.config))
    if not options.quiet:
        print_warnings(system_warnings(loaded.config, loaded.topology, loaded.system))
    # All frames are checked before the first is computed: a bad one at the end would waste the rest.
    total = sum(1 for _ in read_frames(options.frames, loaded.system))
    start = time.perf_counter()
    with tqdm(total=total, unit="frame", disable=options.quiet or not sys.stderr.isatty()) as bar:
        frames = read_frames(options.frames, loaded.system)
        fixed_charges = loaded.topology.charges[loaded.system.atom_particles]
        results = evaluate_frames(
            frames, loaded.potential.warm_up, loaded.system, fixed_charges, options.batch, bar.update
        )
        write_whole(options.output, results)
    if not options.quiet:
        elapsed = time.perf_counter() - start
        print(f"{total} frames in {elapsed:.1f} s ({1000 * elapsed / total:.0f} ms per frame): {options.output}")
    return 0


def evaluate_frames(
    frames: Iterable[Frame],
    evaluate: Evaluate,
    system: System,
    fixed_charges: np.ndarray,
    batch: int,
    progress: Any = None,  # noqa: ANN401 - tqdm ships no types
) -> Iterator[Atoms]:
    """Yield ASE atoms that carry the results of each frame.

    Args:
        frames: Frames of the potential's system.
        evaluate: `evaluate(cells, positions)`. Unlike a run, a file may hold cells that differ.
        system: What the frames are of.
        fixed_charges: MM charges of all atoms, shape (N,), e: reported outside the QM region.
        batch: Number of frames evaluated at once.
        progress: Called with the number of frames done.
    """
    iterator = iter(frames)
    while chunk := list(islice(iterator, batch)):
        positions = np.stack([frame.positions for frame in chunk])
        cells = np.stack([np.eye(3) if frame.cell is None else frame.cell for frame in chunk])
        try:
            evaluation = evaluate(cells, positions)
        except InputError as error:
            labels = chunk[0].label if len(chunk) == 1 else f"{chunk[0].label} and the {len(chunk) - 1} after it"
            raise type(error)(f"{labels}: {error}") from error
        for index, frame in enumerate(chunk):
            yield to_atoms(frame, evaluation, index, system, fixed_charges)
        if progress is not None:
            progress(len(chunk))


def to_atoms(frame: Frame, evaluation: Evaluation, index: int, system: System, fixed_charges: np.ndarray) -> Atoms:
    """One frame of an evaluation as ASE atoms, in eV and angstrom."""
    cell = None if frame.cell is None else frame.cell * BOHR_IN_ANGSTROM
    atoms = Atoms(list(frame.symbols), positions=frame.positions * BOHR_IN_ANGSTROM, cell=cell, pbc=system.periodic)
    is_qm = np.zeros(system.n_atoms, dtype=np.int64)
    is_qm[system.qm_atoms] = 1
    atoms.set_array("qm", is_qm)  # type: ignore[no-untyped-call]
    results: dict[str, Any] = {
        "energy": float(evaluation.energies[index]) * HARTREE_IN_ELECTRONVOLT,
        "forces": evaluation.forces[index] * (HARTREE_IN_ELECTRONVOLT / BOHR_IN_ANGSTROM),
    }
    # A model that replaces DFTB gives no charges of the QM atoms.
    if "qm_charges" in evaluation.extras:
        charges = np.array(fixed_charges, dtype=np.float64)
        charges[system.qm_atoms] = evaluation.extras["qm_charges"][index]
        results["charges"] = charges
    if evaluation.strain_derivatives is not None and cell is not None:
        stress = evaluation.strain_derivatives[index] * HARTREE_IN_ELECTRONVOLT / abs(np.linalg.det(cell))
        stress = 0.5 * (stress + stress.T)
        results["stress"] = stress[[0, 1, 2, 1, 0, 0], [0, 1, 2, 2, 2, 1]]
    for name, values in evaluation.terms.items():
        atoms.info[f"energy_{name}"] = float(values[index]) * HARTREE_IN_ELECTRONVOLT
    if "qm_dipole" in evaluation.extras:
        atoms.info["qm_dipole"] = np.asarray(evaluation.extras["qm_dipole"][index]) * BOHR_IN_ANGSTROM
    if "scc_iterations" in evaluation.extras:
        atoms.info["scc_iterations"] = int(evaluation.extras["scc_iterations"][index])
    for name, unit in _SPREADS.items():
        if name in evaluation.extras:
            atoms.info[name] = float(evaluation.extras[name][index]) * unit
    atoms.calc = SinglePointCalculator(atoms, **results)  # type: ignore[no-untyped-call]
    return atoms
