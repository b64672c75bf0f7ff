"""From a checked `Config` to what labels are made with, and to the tables that say what a label means."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import torch

from deltaqmmm.config.parts import (
    cutoff_settings,
    dftb_engine,
    dftb_settings,
    load_split,
    torch_device,
)
from deltaqmmm.config.sections import Config
from deltaqmmm.dataset import LabelSettings
from deltaqmmm.dftb import DFTBEngine
from deltaqmmm.dftb.dftbplus import DFTBPlusEngine
from deltaqmmm.dftb.slater_koster import find_file
from deltaqmmm.embedding import CutoffEmbedding
from deltaqmmm.reference import ReferenceSettings
from deltaqmmm.system import System
from deltaqmmm.topology import Topology


@dataclass(frozen=True)
class LabelParts:
    """The parts of a potential that a label needs: no MM engine.

    Attributes:
        topology: All particles.
        system: The QM/MM split.
        embedding: What the QM region sees of its surroundings.
        dftb: The baseline.
    """

    topology: Topology
    system: System
    embedding: CutoffEmbedding
    dftb: DFTBEngine | DFTBPlusEngine


def load_label_parts(config: Config) -> LabelParts:
    """Read the topology and parameters.

    Raises:
        InputError: A file, a selection or a setting cannot be used.
    """
    torch.set_num_threads(config.dftb.threads or 1)
    device = torch_device(config)
    topology, system = load_split(config)
    return LabelParts(
        topology, system, CutoffEmbedding(system, cutoff_settings(config), device), dftb_engine(config, system, device)
    )


def reference_settings(config: Config) -> ReferenceSettings:
    """The [reference] section."""
    reference = config.reference
    return ReferenceSettings(
        functional=reference.functional,
        basis=reference.basis,
        density_fitting=reference.density_fitting,
        auxiliary_basis=reference.auxiliary_basis,
        grid_level=reference.grid_level,
        grid_response=reference.grid_response,
        dispersion=reference.dispersion,
        energy_tolerance=reference.energy_tolerance_hartree,
        max_cycles=reference.max_scf_cycles,
        memory=reference.memory_megabyte,
        device=reference.device,
    )


def label_settings(config: Config, system: System) -> LabelSettings:
    """What decides the meaning of a label: embedding, level of theory and baseline."""
    return LabelSettings(
        embedding=_embedding_table(config),
        level=reference_settings(config).level(),
        baseline=_baseline_table(config, system),
    )


def _embedding_table(config: Config) -> dict[str, object]:
    embedding = config.embedding
    table: dict[str, object] = {"kind": embedding.kind, "charge_blur_angstrom": embedding.charge_blur_angstrom}
    if embedding.kind == "cutoff":
        table["inner_angstrom"] = embedding.inner_angstrom
        table["outer_angstrom"] = embedding.outer_angstrom
        table["sharpness_per_bohr"] = embedding.sharpness_per_bohr
    return table


def _baseline_table(config: Config, system: System) -> dict[str, object]:
    """The DFTB settings that change energies, and the contents of the parameter files, wherever they lie.

    Which engine computes with them does not matter: both give the same.
    """
    settings, dftb = dftb_settings(config), config.dftb
    if dftb.hsd is not None:
        return {"method": "DFTB+", "input": _digest([dftb.hsd.read_bytes()])}
    elements = sorted(set(system.qm_symbols))
    table: dict[str, object] = {
        "method": "DFTB",
        "model": dftb.model,
        "parameters": dftb.parameters,
        "parameter_files": _digest([find_file(settings, a, b).read_bytes() for a in elements for b in elements]),
        "dispersion": dftb.dispersion,
        "electronic_temperature_kelvin": dftb.electronic_temperature_kelvin,
        "highest_shells": {element: settings.highest_shell(element) for element in elements},
    }
    if settings.third_order:
        table["hydrogen_damping_exponent"] = dftb.hydrogen_damping_exponent
        table["hubbard_derivatives"] = {element: settings.hubbard_derivative(element) for element in elements}
    return table


def _digest(contents: list[bytes]) -> str:
    digest = hashlib.sha256()
    for content in contents:
        digest.update(hashlib.sha256(content).digest())
    return digest.hexdigest()[:16]
