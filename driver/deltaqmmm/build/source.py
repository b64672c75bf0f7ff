"""What a new folder is made from, once topology and coordinates lie in it; and the timing of the stages."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from deltaqmmm.errors import InputError
from deltaqmmm.results import IntArray
from deltaqmmm.topology import NonbondedSettings, Topology, load_topology
from deltaqmmm.units import ANGSTROM

SWITCH_WIDTH_ANGSTROM = 1.0
Announce = Callable[[str], None]


@dataclass
class Stages:
    """Times the stages and announces them."""

    announce: Announce
    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def stage(self, name: str, message: str) -> Iterator[None]:
        """Announce a stage and keep its wall time under `name`."""
        self.announce(message)
        start = time.perf_counter()
        yield
        self.seconds[name] = time.perf_counter() - start


@dataclass(frozen=True)
class Source:
    """What is known once topology and coordinates lie in the new folder."""

    topology: Topology
    topology_file: Path
    coordinate_file: Path
    selection: IntArray
    qm_residues: tuple[str, ...]
    qm_charge: int
    n_ions: int
    title: str
    facts: tuple[str, ...]
    notes: tuple[str, ...]


def load_flexible(topology_file: Path, coordinate_file: Path, cutoff_angstrom: float) -> Topology:
    """Load a topology with positions as the driver will: rigid parts are refused.

    Raises:
        TopologyError: It cannot be used.
    """
    nonbonded = NonbondedSettings(
        cutoff=cutoff_angstrom * ANGSTROM, switch_distance=(cutoff_angstrom - SWITCH_WIDTH_ANGSTROM) * ANGSTROM
    )
    topology = load_topology(topology_file, coordinate_file, nonbonded)
    if topology.positions is None:
        raise InputError(f"{coordinate_file} holds no positions. Give a file with the positions of all atoms.")
    return topology


def signed(charge: int) -> str:
    """A charge as people write it: 0, +1, -2."""
    return f"{charge:+d}" if charge else "0"
