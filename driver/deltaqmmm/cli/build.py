"""`deltaqmmm build`: from molecules, or an existing system, to a folder that runs."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from deltaqmmm.build import BuildOptions, BuildReport

DESCRIPTION = """\
Make a folder from which i-PI and the driver run: force field, starting positions, config.toml, input.xml, README.

  deltaqmmm build uracil "O=c1cc[nH]c(=O)[nH]1" --name URA --waters 1000
  deltaqmmm build complex host.mol2 guest.sdf --padding 12
  deltaqmmm build mine --topology system.prmtop --coordinates system.rst7 --qm-residues LIG

Flexible water only: i-PI has no rigid molecules with several beads."""


def add_parser(commands: Any, parents: Sequence[argparse.ArgumentParser]) -> None:  # noqa: ANN401 - private type of argparse
    """Add the command to the parser."""
    parser = commands.add_parser(
        "build",
        parents=parents,
        help="make a folder that runs, from molecules or an existing system",
        description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("folder", type=Path, help="folder to make; it appears when it is complete")
    parser.add_argument("molecules", nargs="*", help="SMILES strings, or .mol, .sdf or .mol2 files")
    parser.add_argument("--overwrite", action="store_true", help="replace a folder that is not empty")
    parser.add_argument("-q", "--quiet", action="store_true", help="print only errors")
    _add_solutes(parser.add_argument_group("solutes"))
    _add_box(parser.add_argument_group("box"))
    _add_existing(parser.add_argument_group("existing system, instead of molecules"))
    _add_preparation(parser.add_argument_group("preparation"))
    _add_run(parser.add_argument_group("run (input.xml and config.toml)"))
    parser.set_defaults(run=run)


def _add_solutes(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--name", action="append", default=[], metavar="NAME", help="residue name; once per molecule")
    group.add_argument("--count", action="append", type=int, default=[], metavar="N", help="copies; once per molecule")
    group.add_argument(
        "--charge",
        action="append",
        type=int,
        default=[],
        metavar="Q",
        help="net charge, e; once per molecule",
    )
    group.add_argument(
        "--charge-scheme",
        choices=("gasteiger", "bcc", "file"),
        default="gasteiger",
        help="MM charges: fast, AM1-BCC (minutes for 50 atoms), or those of the mol2 file. Those of QM molecules serve "
        "the preparation only (default %(default)s)",
    )
    group.add_argument(
        "--placement",
        choices=("side_by_side", "as_given"),
        default="side_by_side",
        help="of several solutes; as_given keeps the coordinates of the files (default %(default)s)",
    )
    group.add_argument(
        "--gap",
        type=float,
        default=3.0,
        metavar="ANGSTROM",
        help="smallest distance between solutes (default 3)",
    )


def _add_box(group: argparse._ArgumentGroup) -> None:
    size = group.add_mutually_exclusive_group()
    size.add_argument("--padding", type=float, metavar="ANGSTROM", help="from the solute to the faces (default 15)")
    size.add_argument("--waters", type=int, metavar="N", help="number of water molecules")
    size.add_argument("--box", type=float, nargs="+", metavar="ANGSTROM", help="one edge (cubic) or three")
    group.add_argument("--shape", choices=("cubic", "orthorhombic"), default="cubic", help="default %(default)s")
    group.add_argument("--water-model", default="qspcfw", metavar="MODEL", help="qspcfw (default) or spcfw")
    group.add_argument(
        "--cutoff", type=float, default=9.0, metavar="ANGSTROM", help="of MM interactions; at most half the box (9)"
    )
    group.add_argument("--salt", type=float, default=0.0, metavar="MOLAR", help="added NaCl, mol/l")


def _add_existing(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--topology", type=Path, metavar="FILE", help="Amber prmtop, GROMACS .top or OpenMM System .xml")
    group.add_argument("--coordinates", type=Path, metavar="FILE", help="Amber inpcrd/rst7, .gro or .pdb")
    group.add_argument("--include-dir", type=Path, metavar="FOLDER", help="where GROMACS includes are searched")
    group.add_argument("--qm-residues", nargs="+", default=[], metavar="NAME", help="residue names of the QM region")
    group.add_argument("--qm-atoms", default="", metavar="RANGES", help='QM atoms from 0, such as "0-11,15"')
    group.add_argument("--qm-charge", type=int, metavar="Q", help="charge of the QM region, e (default: MM charge)")


def _add_preparation(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--minimise",
        action=argparse.BooleanOptionalAction,
        help="default: only for a new system",
    )
    group.add_argument(
        "--equilibrate", type=float, metavar="PS", help="MM equilibration (default 2 ps, 0 for an existing system)"
    )
    group.add_argument(
        "--pressure", type=float, metavar="BAR", help="equilibrate at this pressure (default: fixed box)"
    )
    group.add_argument("--seed", type=int, default=1, metavar="N", help="of every random choice (default 1)")
    group.add_argument(
        "--reproducible",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="one CPU thread, so that a seed repeats to the last bit (default); the other is faster for large boxes",
    )


def _add_run(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--beads", type=int, default=4, metavar="N", help="path-integral beads (default 4)")
    group.add_argument("--temperature", type=float, default=300.0, metavar="KELVIN", help="default 300")
    group.add_argument("--timestep", type=float, default=0.5, metavar="FS", help="default 0.5")
    group.add_argument("--steps", type=int, default=1000, metavar="N", help="default 1000")
    group.add_argument("--ensemble", choices=("nvt", "nve"), default="nvt", help="default %(default)s")
    group.add_argument(
        "--threads", type=int, default=0, metavar="N", help="CPU threads, now and in config.toml (default 0: all)"
    )


def make_options(options: argparse.Namespace) -> BuildOptions:
    """The flags as `BuildOptions`."""
    from deltaqmmm.build import BuildOptions

    return BuildOptions(
        folder=options.folder,
        molecules=tuple(options.molecules),
        counts=tuple(options.count),
        names=tuple(options.name),
        charges=tuple(options.charge),
        charge_scheme=options.charge_scheme,
        placement=options.placement,
        solute_gap_angstrom=options.gap,
        water_model=options.water_model,
        padding_angstrom=options.padding,
        water_count=options.waters,
        box_edges_angstrom=tuple(options.box or ()),
        box_shape=options.shape,
        salt_molar=options.salt,
        qm_residues=tuple(options.qm_residues),
        qm_atoms=options.qm_atoms,
        qm_charge=options.qm_charge,
        topology=options.topology,
        coordinates=options.coordinates,
        include_dir=options.include_dir,
        cutoff_angstrom=options.cutoff,
        minimise=options.minimise,
        equilibrate_ps=options.equilibrate,
        pressure_bar=options.pressure,
        nbeads=options.beads,
        temperature_kelvin=options.temperature,
        timestep_femtosecond=options.timestep,
        steps=options.steps,
        ensemble=options.ensemble,
        threads=options.threads,
        seed=options.seed,
        reproducible=options.reproducible,
        overwrite=options.overwrite,
        show_progress=not options.quiet and sys.stderr.isatty(),
    )


def run(options: argparse.Namespace) -> int:
    """Run the command."""
    from deltaqmmm.build import build_system

    report = build_system(make_options(options), None if options.quiet else lambda line: print(line, flush=True))
    if not options.quiet:
        print(report_text(report))
    return 0


def report_text(report: BuildReport) -> str:
    """What was built, and what to do next."""
    from deltaqmmm.build.write import FIRST_COMMANDS

    box = "no box"
    if report.cell_angstrom is not None:
        box = " x ".join(f"{length:.1f}" for length in report.cell_angstrom) + " angstrom"
    where = ", ".join(report.qm_residues)
    rows = [
        ("system", f"{report.n_atoms} atoms, {report.n_waters} waters, {report.n_ions} ions, {box}"),
        ("QM region", f"{report.n_qm} atoms, charge {report.qm_charge:+d}" + (f", residues {where}" if where else "")),
        ("time", ", ".join(f"{stage} {seconds:.1f} s" for stage, seconds in report.seconds.items())),
    ]
    if report.minimised_energy_kj_per_mol is not None:
        rows.insert(2, ("MM energy", f"{report.minimised_energy_kj_per_mol:.1f} kJ/mol after minimisation"))
    lines = [f"Built {report.folder}", *[f"  {name:<10} {value}" for name, value in rows]]
    lines += [f"  note       {note}" for note in report.notes]
    lines += [
        "Next:",
        f"  cd {report.folder}",
        *(f"  {command:<37} {what}" for command, what in FIRST_COMMANDS),
        f"  By hand: i-pi input.xml > i-pi.log & deltaqmmm drive config.toml -u -a {report.socket_name}",
    ]
    return "\n".join(lines)
