"""The parts of a configuration as the package's own settings, and the topology: the units of the file end here."""

from __future__ import annotations

from pathlib import Path

import torch

from deltaqmmm.config.sections import Config
from deltaqmmm.config.threads import share_threads
from deltaqmmm.dftb import DFTBEngine, DFTBSettings
from deltaqmmm.dftb.dftbplus import DFTBPlusEngine, DFTBPlusSettings
from deltaqmmm.dftb.slater_koster import candidate_folders
from deltaqmmm.embedding import CutoffSettings
from deltaqmmm.errors import ConfigError
from deltaqmmm.mm import OpenMMSettings
from deltaqmmm.system import System, parse_selection
from deltaqmmm.topology import NonbondedSettings, Topology, load_topology
from deltaqmmm.topology_files import detect_kind
from deltaqmmm.units import ANGSTROM, KELVIN

EWALD_TOLERANCE = 5e-5
EWALD_TOLERANCE_WITH_VIRIAL = 1e-5
"""The virial comes from differences of energies under small strains, which see the error of the Ewald sum enlarged."""


def nonbonded_settings(config: Config) -> NonbondedSettings:
    """The [mm] distances and Ewald tolerance, in bohr."""
    mm = config.mm
    switch = mm.cutoff_angstrom - 1.0 if mm.switch_angstrom is None else mm.switch_angstrom
    return NonbondedSettings(
        cutoff=mm.cutoff_angstrom * ANGSTROM,
        switch_distance=switch * ANGSTROM if switch > 0.0 else None,
        ewald_tolerance=mm.ewald_tolerance or (EWALD_TOLERANCE_WITH_VIRIAL if mm.virial else EWALD_TOLERANCE),
        dispersion_correction=mm.dispersion_correction,
    )


def openmm_settings(config: Config) -> OpenMMSettings:
    """The hardware choices of [mm]."""
    mm = config.mm
    return OpenMMSettings(
        platform=mm.platform,
        precision=mm.precision,
        threads=share_threads(config).mm,
        deterministic=mm.deterministic,
        virial=mm.virial,
    )


def cutoff_settings(config: Config) -> CutoffSettings:
    """The [embedding] section, in bohr."""
    embedding = config.embedding
    everything = embedding.kind == "all"
    return CutoffSettings(
        inner=None if everything else embedding.inner_angstrom * ANGSTROM,
        outer=None if everything else embedding.outer_angstrom * ANGSTROM,
        smooth_minimum_sharpness=embedding.sharpness_per_bohr,
        blur_width=embedding.charge_blur_angstrom * ANGSTROM,
    )


def dftb_settings(config: Config) -> DFTBSettings:
    """The [dftb] section, energies in hartree."""
    dftb = config.dftb
    return DFTBSettings(
        model=dftb.model,
        parameters=dftb.parameters,
        parameter_folder=dftb.parameter_folder,
        hubbard_derivatives=dftb.hubbard_derivatives,
        highest_shells=dftb.highest_shells,
        damping_exponent=dftb.hydrogen_damping_exponent or None,
        electronic_temperature=dftb.electronic_temperature_kelvin * KELVIN,
        scc_tolerance=dftb.scc_tolerance,
        max_scc_iterations=dftb.max_scc_iterations,
        dispersion=dftb.dispersion,
        warm_start=dftb.warm_start,
        solver=dftb.solver,
    )


def dftbplus_settings(config: Config) -> DFTBPlusSettings:
    """How [dftb] lets DFTB+ run: its workers share the cores of the QM side."""
    dftb, cores = config.dftb, share_threads(config).torch
    workers = dftb.workers or cores
    return DFTBPlusSettings(
        library=dftb.library,
        hsd=dftb.hsd,
        workers=workers,
        threads=max(1, cores // workers),
        timeout=dftb.timeout_seconds,
    )


def dftb_engine(config: Config, system: System, device: torch.device) -> DFTBEngine | DFTBPlusEngine:
    """The engine of [dftb] for the QM region.

    Raises:
        InputError: The parameters or the user's input cannot be used.
        ExternalToolError: DFTB+ is asked for, and missing.
    """
    return (builtin_engine if config.dftb.engine == "builtin" else dftbplus_engine)(config, system, device)


def check_parameters(config: Config) -> None:
    """Refuse the name of a Slater-Koster set that is nowhere, and say which there are.

    Raises:
        ConfigError: No folder that is searched has files.
    """
    dftb, folders = config.dftb, candidate_folders(dftb_settings(config))
    if dftb.parameter_folder is not None or any(_holds_parameters(folder) for folder in folders):
        return
    places = dict.fromkeys(folder.parent for folder in folders if folder.name == dftb.parameters)
    there = sorted(
        {one.name for place in places if place.is_dir() for one in place.iterdir() if _holds_parameters(one)}
    )
    remedy = (
        f"There are {', '.join(there)}: take one of them, or name"
        if there
        else "There are none at all: install AmberTools, which brings 3ob-3-1 and mio-1-1, or name"
    )
    raise ConfigError(
        f'{config.file}: [dftb] parameters = "{dftb.parameters}": no Slater-Koster set of this name was found in '
        f"{', '.join(map(str, places))}. {remedy} the folder of its files as parameter_folder."
    )


def _holds_parameters(folder: Path) -> bool:
    return folder.is_dir() and any(folder.glob("*-*.skf"))


def builtin_engine(config: Config, system: System, device: torch.device) -> DFTBEngine:
    """Our own engine, whatever [dftb] engine says."""
    check_parameters(config)
    return DFTBEngine(system.qm_symbols, config.qm.charge, dftb_settings(config), device)


def dftbplus_engine(config: Config, system: System, device: torch.device) -> DFTBPlusEngine:
    """DFTB+, whatever [dftb] engine says."""
    if config.dftb.hsd is None:
        check_parameters(config)
    settings, program = dftb_settings(config), dftbplus_settings(config)
    return DFTBPlusEngine(system.qm_symbols, config.qm.charge, settings, program, device)


def torch_device(config: Config) -> torch.device:
    """The device of [dftb] device.

    Raises:
        ConfigError: A CUDA device is asked for and torch finds none, or not that one.
    """
    name = config.dftb.device
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    device = torch.device(name)
    if device.type == "cuda":
        found = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if (device.index or 0) >= found:
            raise ConfigError(
                f'{config.file}: [dftb] device = "{name}": torch {torch.__version__} finds {found} CUDA devices here. '
                'Take "cpu" or "auto", or install a build of torch with CUDA.'
            )
    return device


def read_topology(config: Config) -> Topology:
    """The topology of [system], and its coordinates where given.

    Raises:
        ConfigError: A GROMACS topology stands alone: only its coordinate file tells whether there is a box.
    """
    if config.system.coordinates is None and detect_kind(config.system.topology) == "gromacs":
        raise ConfigError(
            f"{config.file}: [system] topology = {config.system.topology.name} is a GROMACS topology, which holds no "
            "box: give the .gro file as coordinates, or the system would be taken for an isolated one."
        )
    return load_topology(
        config.system.topology, config.system.coordinates, nonbonded_settings(config), config.system.include_folder
    )


def load_split(config: Config) -> tuple[Topology, System]:
    """Read the topology and split it into QM region and surroundings.

    Raises:
        InputError: A file or the selection cannot be used, or the embedding does not fit the system.
    """
    topology = read_topology(config)
    if topology.periodic and config.embedding.kind == "all":
        raise ConfigError(
            f'{config.file}: [embedding] kind = "all" needs an isolated system, and {config.system.topology.name} is '
            'periodic: take kind = "cutoff".'
        )
    selection = parse_selection(config.qm.atoms, topology, config.qm.residues)
    return topology, System.from_topology(topology, selection, config.qm.charge)
