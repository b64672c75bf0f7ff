"""A new system: solutes with GAFF2 parameters in a box of flexible water."""

from __future__ import annotations

import re
import tempfile
from pathlib import Path

import numpy as np

from deltaqmmm.build.amber import amber_home, make_topology, parametrise, write_water_mol2
from deltaqmmm.build.checks import smallest_edge
from deltaqmmm.build.molecule import Solute, read_solutes
from deltaqmmm.build.options import BuildOptions
from deltaqmmm.build.solvate import pdb_text, solvate
from deltaqmmm.build.source import Source, Stages, load_flexible, signed
from deltaqmmm.build.water import WaterModel, find_water_model, read_water_box
from deltaqmmm.build.write import write_rst7
from deltaqmmm.errors import InputError
from deltaqmmm.system import parse_selection
from deltaqmmm.units import ANGSTROM


def from_molecules(options: BuildOptions, folder: Path, stages: Stages) -> Source:
    """Parametrise and solvate; write system.prmtop and system.rst7."""
    model = find_water_model(options.water_model)
    with stages.stage("molecules", f"reading {len(options.molecules)} molecule(s)"):
        solutes = read_solutes(options.molecules, options.counts, options.names, options.charges, options.seed)
        box = read_water_box(model, amber_home() / "dat" / "leap" / "lib")
    with stages.stage("placement", f"placing solutes, ions and {options.water_model} water"):
        placement = solvate(
            solutes,
            box,
            as_given=options.placement == "as_given",
            gap=options.solute_gap_angstrom,
            padding=options.padding_angstrom,
            water_count=options.water_count,
            box_edges=options.box_edges_angstrom,
            smallest_edge=smallest_edge(options),
            cubic=options.box_shape == "cubic",
            salt_molar=options.salt_molar,
            seed=options.seed,
        )
    with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
        directory = Path(scratch)
        with stages.stage("parameters", f"GAFF2 atom types and {options.charge_scheme} charges"):
            parametrised = [parametrise(solute, options.charge_scheme, directory) for solute in solutes]
            write_water_mol2(directory / "WAT.mol2", box)
        with stages.stage("topology", f"topology of {len(placement.water_positions)} waters with tleap"):
            (directory / "box.pdb").write_text(pdb_text(placement, solutes))
            prmtop = make_topology(parametrised, model, directory / "box.pdb", placement.edges, directory)
        topology_file, coordinate_file = folder / "system.prmtop", folder / "system.rst7"
        topology_file.write_text(_without_date(prmtop.read_text()))
        write_rst7(coordinate_file, placement.positions * ANGSTROM, np.diag(placement.edges) * ANGSTROM)
    residues = options.qm_residues or tuple(solute.residue_name for solute in solutes)
    unknown = sorted(set(residues) - {solute.residue_name for solute in solutes})
    if unknown:
        raise InputError(
            f"The QM residue {unknown[0]} is none of the solutes ({', '.join(s.residue_name for s in solutes)}). Name "
            "solutes."
        )
    topology = load_flexible(topology_file, coordinate_file, options.cutoff_angstrom)
    selection = parse_selection(None, topology, residues)
    n_ions = len(placement.ion_names)
    notes = _solute_notes(options, solutes, residues)
    notes += [f"GAFF2 parameter to look at: {line}" for item in parametrised for line in item.guessed]
    if n_ions:
        notes.append(f"Na+ and Cl- have the parameters in {model.ion_parameters} (Joung and Cheatham, for SPC/E).")
    return Source(
        topology=topology,
        topology_file=topology_file,
        coordinate_file=coordinate_file,
        selection=selection,
        qm_residues=residues,
        qm_charge=sum(solute.charge * solute.count for solute in solutes if solute.residue_name in residues),
        n_ions=n_ions,
        title=" + ".join(solute.residue_name for solute in solutes) + " in water",
        facts=_facts(solutes, placement.ion_names, len(placement.water_positions), model),
        notes=tuple(notes),
    )


def _without_date(prmtop: str) -> str:
    """The text with the date of the first line zeroed, so that the same build gives the same file."""
    first, rest = prmtop.split("\n", 1)
    return re.sub(r"DATE *=.*", "DATE = 00/00/00  00:00:00", first).ljust(80) + "\n" + rest


def _facts(solutes: tuple[Solute, ...], ions: tuple[str, ...], n_waters: int, model: WaterModel) -> tuple[str, ...]:
    lines = [f"{s.count} x {s.residue_name}: `{s.source}`, charge {signed(s.charge)}, GAFF2" for s in solutes]
    lines += [f"{ions.count(name)} x {name}" for name in ("Na+", "Cl-") if name in ions]
    return (*lines, f"{n_waters} water molecules, {model.title}")


def _solute_notes(options: BuildOptions, solutes: tuple[Solute, ...], residues: tuple[str, ...]) -> list[str]:
    outside = [solute.residue_name for solute in solutes if solute.residue_name not in residues]
    if outside and options.charge_scheme == "gasteiger":
        return [
            f"{', '.join(outside)} is MM with Gasteiger charges, which are rough. Use AM1-BCC (charge scheme bcc) for "
            "MM solutes."
        ]
    return []
