"""`deltaqmmm new`: a case of ipi_inputs/ for the user's own system."""

from __future__ import annotations

import argparse
import shlex
import shutil
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deltaqmmm.cli.output import positive_integer, positive_number
from deltaqmmm.errors import InputError

if TYPE_CHECKING:
    # Not loaded for --help.
    from deltaqmmm.cases import BuiltSystem, Case
    from deltaqmmm.ipi.simulation import Simulation

MANY_ATOMS = 1000
"""Above this a file that grows with the square of the atoms is spoken of: some hundreds of megabytes."""

DESCRIPTION = """\
Copy a case, a simulation that is ready to run, for a system of your own.

  deltaqmmm new --list
  deltaqmmm build mine "O=c1cc[nH]c(=O)[nH]1" --name URA --waters 350
  deltaqmmm new remd ladder --system mine --temperatures 300 309 318 328
  deltaqmmm run ladder

The new folder stands alone: i-PI's input with the start structure, addresses, beads and batch size, temperatures and
seed of this system filled in and all else as it stands in the case, the system's files and configuration, and the
README of the case. What depends on the molecule, such as the atoms of a collective variable, is listed for editing."""


def add_parser(commands: Any, parents: Sequence[argparse.ArgumentParser]) -> None:  # noqa: ANN401 - private type of argparse
    """Add the command to the parser."""
    parser = commands.add_parser(
        "new",
        parents=parents,
        help="copy a case (path integrals, replica exchange, metadynamics, ...) for a built system",
        description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("case", nargs="?", help="which one; --list shows them")
    add("folder", nargs="?", type=Path, help="folder to make")
    add("--list", action="store_true", help="show the cases and end")
    add("--system", type=Path, metavar="FOLDER", help="the system: a folder made by `deltaqmmm build`")
    add("--temperature", type=positive_number, metavar="K", help="of a case with one temperature")
    add("--temperatures", type=positive_number, nargs="+", metavar="K", help="of replica exchange, rising")
    add("--beads", type=positive_integer, metavar="N", help="of the ring polymer; the batch grows with it")
    add("--steps", type=positive_integer, metavar="N", help="length of the simulation")
    add("--timestep", type=positive_number, metavar="FS", help="time step, femtoseconds")
    add("--name", metavar="ADDRESS", help="address of the socket (default: the name of the folder)")
    add("--model", type=Path, metavar="FILE", help="a trained correction that fits the system, copied too")
    add("--seed", type=positive_integer, metavar="N", help="of i-PI's random numbers")
    add("-q", "--quiet", action="store_true", help="print only errors")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Run the command."""
    from deltaqmmm.cases import find_case, list_cases

    if options.list:
        cases = list_cases()
        width = max((len(case.name) for case in cases), default=0)
        for case in cases:
            print(f"{case.name:<{width}}  {case.title}")
        return 0
    if options.case is None or options.folder is None or options.system is None:
        raise InputError(
            "needed are a case, a folder to make and --system FOLDER: `deltaqmmm new pimd mine_pimd --system mine`. "
            "`deltaqmmm new --list` shows the cases."
        )
    _make(options, find_case(options.case))
    return 0


def _make(options: argparse.Namespace, case: Case) -> None:
    """Make the folder: all of it, checked, or nothing."""
    from deltaqmmm.build.ipi_input import socket_name
    from deltaqmmm.cases import Values, check_options, make_folder, read_system
    from deltaqmmm.cli.run_checks import check_plumed

    target = options.folder.absolute()
    _check_target(options.folder)
    system = read_system(options.system)
    address = options.name or socket_name(target.name)
    if socket_name(address) != address:
        raise InputError(f"--name {address}: letters, digits, - and _ are needed, at most 40.")
    values = Values(
        start="",
        address=address,
        temperature=options.temperature,
        temperatures=None if options.temperatures is None else tuple(options.temperatures),
        beads=options.beads,
        steps=options.steps,
        timestep=options.timestep,
        seed=options.seed,
    )
    check_options(case, values, options.model, system)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        work = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    except OSError as error:
        raise InputError(f"No folder can be made in {target.parent}: {error}. Choose another place.") from error
    try:
        folder = work / target.name
        folder.mkdir()
        make_folder(case, system, folder, values, options.model)
        check_correction(folder, system, options.model)
        missing = [name for name in case.keep if not (folder / name).is_file()]
        n_atoms = check_new(folder, case.inputs(), check_plumed, missing)
        if target.is_dir():
            target.rmdir()
        folder.rename(target)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    if not options.quiet:
        _report(options, case, missing, n_atoms)


def check_correction(folder: Path, system: BuiltSystem, model: Path | None) -> None:
    """A model that `deltaqmmm run` would refuse is refused here, with the names of the user's files.

    Args:
        folder: The new folder, whose configuration has the system's keys and those of the case.
        system: What it was made for.
        model: A trained correction that takes the place of the system's.

    Raises:
        InputError: The model cannot be used, or does not fit.
    """
    from deltaqmmm.cli.run_checks import check_model
    from deltaqmmm.config import read_config

    config = read_config(folder / "config.toml")
    correction = replace(config.correction, model=model or system.config.correction.model)
    check_model(replace(config, file=system.config.file, correction=correction))


def check_new(
    folder: Path,
    inputs: Sequence[Path],
    check_plumed: Callable[[Simulation, Path], None],
    missing: Sequence[str] = (),
) -> int:
    """What `deltaqmmm run` would refuse is refused here, but for start files that the user is told to make.

    Returns:
        The number of atoms.
    """
    from deltaqmmm.cli.run_checks import check_atoms, check_files
    from deltaqmmm.config import read_config
    from deltaqmmm.ipi.processes import find_ipi
    from deltaqmmm.ipi.simulation import read_simulation

    config, n_atoms = read_config(folder / "config.toml"), 0
    for number, file in enumerate(inputs):
        simulation = read_simulation(folder / file.name)
        there = tuple(one for one in simulation.start_files if one.name not in missing)
        simulation = replace(simulation, start_files=there)
        check_files(folder, simulation)
        if simulation.plumed:
            check_plumed(simulation, find_ipi())
        if number == 0:
            n_atoms = len(check_atoms(folder, simulation, config).atom_particles)
    return n_atoms


def _check_target(folder: Path) -> None:
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{folder} is a file; a folder is to be made there. Give another name.")
    if folder.is_dir() and any(folder.iterdir()):
        raise InputError(f"The folder {folder} exists and is not empty. Give another name.")


def _report(options: argparse.Namespace, case: Case, missing: Sequence[str], n_atoms: int) -> None:
    from deltaqmmm.cases import EDIT_MARK

    folder = shlex.quote(str(options.folder))
    print(f"{folder}: {case.title}.")
    first = False
    for name, what in case.edit.items():
        if name not in case.keep or name in missing:
            file = shlex.quote(str(options.folder / name))
            print(f"First {'make' if name in missing else 'edit'} {file}: {what}")
            first = True
    if any(name not in case.keep and not name.endswith(".xml") for name in case.edit):
        print(f"Remove the line '{EDIT_MARK} ...' of a file when it is done.")
    readme = shlex.quote(str(options.folder / "README.md"))
    print(f"{'Then run' if first else 'Run'} it with `deltaqmmm run {folder}`; {readme} says what to look at.")
    if case.bytes_of_pairs and n_atoms > MANY_ATOMS:
        gigabytes = 1e-9 * case.bytes_of_pairs * n_atoms**2
        print(
            f"Note: i-PI will write a RESTART of about {gigabytes:.2g} GB, as it grows with the square of the "
            f"{n_atoms:,} atoms. Take a smaller box or a droplet; README.md says what else helps."
        )
    for other in case.inputs()[1:]:
        print(f"Also: `deltaqmmm run {folder} --input {shlex.quote(other.name)}`")
