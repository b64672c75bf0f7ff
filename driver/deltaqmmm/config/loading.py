"""From a checked `Config` to a potential that is ready to evaluate frames."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from deltaqmmm.config.correction import LoadedCorrection, bind_correction, read_model
from deltaqmmm.config.parts import (
    cutoff_settings,
    dftb_engine,
    dftb_settings,
    load_split,
    nonbonded_settings,
    openmm_settings,
    read_topology,
    torch_device,
)
from deltaqmmm.config.sections import Config
from deltaqmmm.config.threads import Threads, share_threads
from deltaqmmm.dftb import DFTBEngine
from deltaqmmm.dftb.dftbplus import DFTBPlusEngine
from deltaqmmm.embedding import CutoffEmbedding
from deltaqmmm.errors import ConfigError
from deltaqmmm.mm import OpenMMEngine
from deltaqmmm.potential import TERMS, Potential
from deltaqmmm.results import Evaluation, FloatArray
from deltaqmmm.system import System
from deltaqmmm.threads import choose_threads
from deltaqmmm.topology import Topology

__all__ = [
    "LoadedPotential",
    "cutoff_settings",
    "dftb_settings",
    "load_potential",
    "load_split",
    "nonbonded_settings",
    "openmm_settings",
    "read_topology",
    "torch_device",
]


@dataclass(frozen=True)
class LoadedPotential:
    """What a configuration file describes, ready to compute.

    Attributes:
        config: The configuration.
        topology: All particles.
        system: The QM/MM split.
        mm: The classical terms; None where they are not served.
        embedding: What the QM region sees of its surroundings.
        dftb: The QM region; None where it is not served.
        correction: The learned correction; None where there is none, or it is not served.
        potential: The sum of the terms that are served.
        device: Where torch computes.
        threads: How the cores are shared out.
        complete: Whether these are all the terms that the configuration has.
    """

    config: Config
    topology: Topology
    system: System
    mm: OpenMMEngine | None
    embedding: CutoffEmbedding
    dftb: DFTBEngine | DFTBPlusEngine | None
    correction: LoadedCorrection | None
    potential: Potential
    device: torch.device
    threads: Threads
    complete: bool = True

    def evaluate(self, cells: FloatArray, positions: FloatArray) -> Evaluation:
        """Evaluate frames of a run: the potential, watched by the guard of the correction.

        Args:
            cells: Lattice vectors as rows, shape (B, 3, 3), bohr.
            positions: Shape (B, N, 3), bohr.

        Raises:
            SpreadError: The committee disagrees more than the configuration allows.
            DeltaqmmmError: See `Potential.evaluate`.
        """
        evaluation = self.potential.evaluate(cells, positions)
        if self.correction is not None and self.correction.guard is not None:
            self.correction.guard.inspect(cells, positions, evaluation)
        return evaluation


def choose_terms(config: Config, requested: Sequence[str] | None, target: str | None) -> tuple[str, ...]:
    """The terms to compute.

    Args:
        config: The configuration.
        requested: What is asked for; None asks for all that there are.
        target: Of the model of the configuration: "delta", "direct", or None without a model.

    Raises:
        ConfigError: A term is unknown, or the configuration does not have it.
    """
    there = {"mm": True, "dftb": target != "direct", "correction": target is not None}
    if requested is None:
        return tuple(name for name in TERMS if there[name])
    if not requested:
        raise ConfigError(f"no term is named: needed are one or more of {', '.join(TERMS)}.")
    for name in requested:
        if name not in TERMS:
            raise ConfigError(f"unknown term '{name}': needed are one or more of {', '.join(TERMS)}.")
        if not there[name]:
            reason = (
                "[correction] names no model: give one"
                if name == "correction"
                else f"the model {config.correction.model} is a direct one, which replaces dftb: leave it out"
            )
            raise ConfigError(f"{config.file}: the term '{name}' is asked for, but {reason}.")
    return tuple(name for name in TERMS if name in requested)


def load_potential(config: Config, terms: Sequence[str] | None = None) -> LoadedPotential:
    """Read the topology and parameters, and prepare every term.

    Args:
        config: The configuration.
        terms: The terms to compute, of "mm", "dftb" and "correction"; None for all that the configuration has.

    Raises:
        InputError: A file, a selection or a setting cannot be used, or a term that is asked for is not there.
    """
    threads = share_threads(config)
    device = torch_device(config)
    model = read_model(config)
    target = None if model is None else model.info.target
    chosen, available = choose_terms(config, terms, target), choose_terms(config, None, target)
    topology, system = load_split(config)
    dftb = mm = correction = None
    if "dftb" in chosen:
        dftb = dftb_engine(config, system, device)
    if model is not None and "correction" in chosen:
        correction = bind_correction(config, model, system, device)
    embedding = CutoffEmbedding(system, cutoff_settings(config), device)
    # MM is computed at the same time. Two sets of threads that wait for each other on the same cores are many times
    # slower than one thread of torch, whose matrices are small.
    compiled = embedding.compiled and (dftb is None or dftb.compiled)
    choose_threads(threads.torch, compiled=compiled and (correction is None or correction.engine.compiled))
    if "mm" in chosen:
        mm = OpenMMEngine(topology, system, openmm_settings(config))
    potential = Potential(
        system,
        mm,
        embedding,
        dftb,
        None if correction is None else correction.engine,
        committee=None if correction is None else correction.committee,
        virial=config.mm.virial,
        device=device,
    )
    return LoadedPotential(
        config,
        topology,
        system,
        mm,
        embedding,
        dftb,
        correction,
        potential,
        device,
        threads,
        complete=chosen == available,
    )
