"""From molecules, or from an existing system, to a folder that runs."""

from __future__ import annotations

import shutil
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np

from deltaqmmm.build.checks import check_options
from deltaqmmm.build.existing import from_existing
from deltaqmmm.build.from_molecules import from_molecules
from deltaqmmm.build.ipi_input import cell_parameters, init_xyz, input_xml, socket_name
from deltaqmmm.build.minimise import Relaxed, density_g_per_cm3, relax
from deltaqmmm.build.options import BuildOptions, BuildReport
from deltaqmmm.build.source import SWITCH_WIDTH_ANGSTROM, Announce, Source, Stages, load_flexible, signed
from deltaqmmm.build.write import EMBEDDING_OUTER_ANGSTROM, config_toml, readme, write_rst7
from deltaqmmm.errors import InputError
from deltaqmmm.system import System
from deltaqmmm.topology import NonbondedSettings, Topology
from deltaqmmm.units import ANGSTROM, KJ_PER_MOL

_EQUILIBRATE_PS = 2.0


def build_system(options: BuildOptions, announce: Announce | None = None) -> BuildReport:
    """Make a folder from which i-PI and the driver run.

    Everything is made in a temporary folder beside the target, which takes the target's place when all is there: the
    folder is complete or does not exist.

    Args:
        options: What to build.
        announce: Called with one line at the start of every stage.

    Returns:
        What was built, with the time of each stage.

    Raises:
        InputError: An option, a molecule or a file cannot be used.
        TopologyError: The topology has rigid water, or the QM region is not possible.
        ExternalToolError: A program of AmberTools is missing or fails.
        NonFiniteError: Minimisation or equilibration goes wrong.
    """
    check_options(options)
    stages = Stages(announce or (lambda message: None))
    target = Path(options.folder).absolute()
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        work = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    except OSError as error:
        raise InputError(f"No folder can be made in {target.parent}: {error}. Choose another place.") from error
    try:
        folder = work / "folder"
        folder.mkdir()
        source = (
            from_molecules(options, folder, stages) if options.molecules else from_existing(options, folder, stages)
        )
        report = _finish(options, source, folder, target, stages)
        _put_in_place(folder, target, work)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return report


def _put_in_place(folder: Path, target: Path, work: Path) -> None:
    """Rename the finished folder to its final name; an old folder moves away first, and back if that fails."""
    if not target.exists():
        folder.rename(target)
        return
    old = work / "old"
    target.rename(old)
    try:
        folder.rename(target)
    except OSError:
        old.rename(target)
        raise


def _finish(options: BuildOptions, source: Source, folder: Path, target: Path, stages: Stages) -> BuildReport:
    """Check the QM region, relax the positions and write the remaining files."""
    topology = source.topology
    system = System.from_topology(topology, source.selection, source.qm_charge)
    relaxed = _relax(options, source, stages)
    changed = relaxed.positions is not topology.positions
    if changed and source.topology_file.suffix == ".prmtop":
        source.coordinate_file.unlink()
        source = replace(source, coordinate_file=folder / "system.rst7")
        write_rst7(source.coordinate_file, relaxed.positions, relaxed.cell)
        load_flexible(source.topology_file, source.coordinate_file, options.cutoff_angstrom)
    address = socket_name(target.name)
    (folder / "init.xyz").write_text(init_xyz(system.symbols, relaxed.positions[system.atom_particles], relaxed.cell))
    (folder / "input.xml").write_text(
        input_xml(
            address=address,
            nbeads=options.nbeads,
            temperature_kelvin=options.temperature_kelvin,
            timestep_femtosecond=options.timestep_femtosecond,
            steps=options.steps,
            ensemble=options.ensemble,
            seed=options.seed,
        )
    )
    (folder / "config.toml").write_text(
        config_toml(
            topology=source.topology_file.name,
            coordinates=source.coordinate_file.name,
            qm_residues=source.qm_residues,
            qm_atoms=options.qm_atoms,
            qm_charge=source.qm_charge,
            periodic=topology.periodic,
            cutoff_angstrom=options.cutoff_angstrom,
            switch_angstrom=_switch(options.cutoff_angstrom),
            threads=options.threads,
        )
    )
    report = _report(options, source, system, relaxed, target, address, stages)
    (folder / "README.md").write_text(_readme(report, source, relaxed))
    return report


def _switch(cutoff_angstrom: float) -> float | None:
    """The switching distance that config.toml must name: None where it is the driver's default."""
    default = NonbondedSettings()
    switch = round(cutoff_angstrom - SWITCH_WIDTH_ANGSTROM, 6)
    same = default.switch_distance is not None and abs(default.switch_distance / ANGSTROM - switch) < 1e-6
    return None if same else switch


def _relax(options: BuildOptions, source: Source, stages: Stages) -> Relaxed:
    new = bool(options.molecules)
    minimise = new if options.minimise is None else options.minimise
    equilibrate_ps = (_EQUILIBRATE_PS if new else 0.0) if options.equilibrate_ps is None else options.equilibrate_ps
    topology = source.topology
    what = [
        *(["minimising"] if minimise else []),
        *([f"equilibrating {equilibrate_ps:g} ps"] if equilibrate_ps else []),
    ]
    with stages.stage("relaxation", " and ".join(what) or "taking the positions as they are"):
        return relax(
            topology,
            topology.atom_particles[source.selection],
            minimise=minimise,
            equilibrate_ps=equilibrate_ps,
            temperature_kelvin=options.temperature_kelvin,
            pressure_bar=options.pressure_bar,
            threads=1 if options.reproducible else options.threads,
            seed=options.seed,
            show_progress=options.show_progress,
        )


def _report(
    options: BuildOptions,
    source: Source,
    system: System,
    relaxed: Relaxed,
    target: Path,
    address: str,
    stages: Stages,
) -> BuildReport:
    cell = None
    if relaxed.cell is not None:
        a, b, c = (float(length) / ANGSTROM for length in cell_parameters(relaxed.cell)[0])
        cell = (a, b, c)
    minimised = relaxed.minimised_energy
    return BuildReport(
        folder=target,
        n_atoms=len(system.symbols),
        n_qm=len(system.qm_atoms),
        n_waters=_count_waters(source.topology),
        n_ions=source.n_ions,
        qm_residues=source.qm_residues,
        qm_charge=source.qm_charge,
        cell_angstrom=cell,
        socket_name=address,
        minimised_energy_kj_per_mol=None if minimised is None else minimised / KJ_PER_MOL,
        seconds=stages.seconds,
        notes=(*source.notes, *_ion_notes(system, relaxed)),
    )


def _ion_notes(system: System, relaxed: Relaxed) -> list[str]:
    """A word on ions in a cell that is small for the embedding."""
    outer = EMBEDDING_OUTER_ANGSTROM
    if relaxed.cell is None or not system.may_see_ions_twice(relaxed.cell, outer * ANGSTROM):
        return []
    return [
        f"The cell is narrower than {2.0 * outer:g} angstrom: an ion may polarise the QM region together with its own "
        "image. Take more water."
    ]


def _count_waters(topology: Topology) -> int:
    """Number of residues with exactly one oxygen and two hydrogens."""
    atoms = topology.atom_particles
    elements = np.array(topology.symbols)[atoms]
    residues = topology.residue_indices[atoms]
    n_residues = int(topology.residue_indices.max()) + 1
    total = np.bincount(residues, minlength=n_residues)
    oxygens = np.bincount(residues[elements == "O"], minlength=n_residues)
    hydrogens = np.bincount(residues[elements == "H"], minlength=n_residues)
    return int(np.sum((total == 3) & (oxygens == 1) & (hydrogens == 2)))


def _readme(report: BuildReport, source: Source, relaxed: Relaxed) -> str:
    facts = [*source.facts, f"{report.n_atoms} atoms, {report.n_qm} of them QM (charge {signed(report.qm_charge)})"]
    if relaxed.cell is not None and report.cell_angstrom is not None:
        edges = " x ".join(f"{edge:.2f}" for edge in report.cell_angstrom)
        facts.append(f"box {edges} angstrom, {density_g_per_cm3(source.topology, relaxed.cell):.3f} g/cm3")
    files = [
        (source.topology_file.name, "topology and MM force field"),
        (source.coordinate_file.name, "coordinates in the order of the topology"),
        ("init.xyz", "where i-PI starts"),
        ("input.xml", "i-PI's input"),
        ("config.toml", "settings of the driver"),
    ]
    return readme(source.title, facts, report.notes, report.socket_name, files)
