"""What a dataset holds, in memory: frames, their labels, and what the labels mean."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
from scipy.spatial import cKDTree

from deltaqmmm.errors import DatasetError
from deltaqmmm.results import FloatArray, IntArray

if TYPE_CHECKING:
    from deltaqmmm.system import System

Json = Mapping[str, object]


@dataclass(frozen=True)
class Source:
    """Where a frame comes from.

    Attributes:
        file: Name of the file of frames.
        index: Its place in that file, from 0.
        temperature: Temperature of the simulation, kelvin; NaN if unknown.
        beads: Number of beads of the path integral; 1 for classical nuclei, 0 if unknown.
        bead: Which bead, from 0; -1 if unknown.
        step: Step of the simulation; -1 if unknown.
    """

    file: str
    index: int
    temperature: float = float("nan")
    beads: int = 0
    bead: int = -1
    step: int = -1

    def __str__(self) -> str:
        """The frame as messages name it."""
        return f"frame {self.index} of {self.file}"


@dataclass(frozen=True, eq=False)
class EnergyLabel:
    """Energy of the QM region among fixed effective charges, and its derivatives, by one method.

    The derivatives are partial: positions and effective charges are independent of each other. How the effective
    charges depend on the positions is the embedding's business.

    Attributes:
        energy: Hartree. Of the QM region and its interaction with the charges; without the charges among themselves.
        qm_gradients: dE/dR_a, shape (n_qm, 3), hartree/bohr.
        mm_gradients: dE/dr_j, shape (K, 3), hartree/bohr.
        mm_potentials: dE/dq_j, the potential of the QM region at the site, shape (K,), hartree/e.
    """

    energy: float
    qm_gradients: FloatArray
    mm_gradients: FloatArray
    mm_potentials: FloatArray

    def is_finite(self) -> bool:
        """Whether every number is finite."""
        arrays = (np.array(self.energy), self.qm_gradients, self.mm_gradients, self.mm_potentials)
        return all(bool(np.isfinite(array).all()) for array in arrays)


@dataclass(frozen=True, eq=False)
class LabelledFrame:
    """A frame as the QM side sees it, with its labels. K sites, periodic images included, no padding.

    Attributes:
        identity: Hash of the frame it was made from (all atoms and the cell).
        source: Where that frame comes from.
        qm_positions: Shape (n_qm, 3), bohr, made whole.
        mm_positions: Shape (K, 3), bohr, each a float32 number: labels are computed at exactly these positions.
        mm_charges: Effective charges (group weight times charge), shape (K,), e.
        mm_sites: Number of the site in the `SystemTable`, shape (K,).
        reference: By the reference method, dispersion included.
        baseline: By the baseline of the run, dispersion included if the run includes it.
        baseline_charges: Mulliken charges of the baseline, shape (n_qm,), e.
        scf_cycles: Cycles of the reference calculation.
        seconds: Its wall time.
    """

    identity: str
    source: Source
    qm_positions: FloatArray
    mm_positions: FloatArray
    mm_charges: FloatArray
    mm_sites: IntArray
    reference: EnergyLabel
    baseline: EnergyLabel
    baseline_charges: FloatArray
    scf_cycles: int = 0
    seconds: float = 0.0


@dataclass(frozen=True)
class Failure:
    """A frame that could not be labelled, and why."""

    identity: str
    source: Source
    reason: str


@dataclass(frozen=True, eq=False)
class SystemTable:
    """The QM region and the MM sites that frames refer to.

    Attributes:
        qm_symbols: Elements of the QM atoms.
        qm_charge: Total charge of the QM region, e.
        qm_atoms: Their atom numbers in the system, shape (n_qm,).
        site_types: ``residue:atom`` of each of the M sites.
        site_symbols: Element of each site, "" for a virtual site.
        site_charges: Full charge of each site, shape (M,), e.
    """

    qm_symbols: tuple[str, ...]
    qm_charge: int
    qm_atoms: IntArray
    site_types: tuple[str, ...]
    site_symbols: tuple[str, ...]
    site_charges: FloatArray

    @classmethod
    def from_system(cls, system: System) -> SystemTable:
        """The table of a system."""
        return cls(
            qm_symbols=system.qm_symbols,
            qm_charge=system.qm_charge,
            qm_atoms=system.qm_atoms,
            site_types=system.site_types,
            site_symbols=system.site_symbols,
            site_charges=system.site_charges,
        )

    def difference(self, other: SystemTable) -> str | None:
        """What differs, in words: this table's value, then the other's. None if nothing does."""
        if (self.qm_symbols, self.qm_charge) != (other.qm_symbols, other.qm_charge):
            return (
                f"QM region {' '.join(self.qm_symbols)} with charge {self.qm_charge:+d} there, and "
                f"{' '.join(other.qm_symbols)} with charge {other.qm_charge:+d} here"
            )
        if not np.array_equal(self.qm_atoms, other.qm_atoms):
            return f"QM atoms {self.qm_atoms.tolist()} there, and {other.qm_atoms.tolist()} here"
        if len(self.site_types) != len(other.site_types):
            return f"{len(self.site_types)} MM sites there, and {len(other.site_types)} here"
        mine = zip(self.site_types, self.site_symbols, self.site_charges.tolist(), strict=True)
        theirs = zip(other.site_types, other.site_symbols, other.site_charges.tolist(), strict=True)
        for site, (there, here) in enumerate(zip(mine, theirs, strict=True)):
            if there[:2] != here[:2] or abs(there[2] - here[2]) > 1e-9:
                return f"MM site {site} is {there[0]} with {there[2]:g} e there, and {here[0]} with {here[2]:g} e here"
        return None


@dataclass(frozen=True)
class LabelSettings:
    """All that decides what a label means, as flat tables of plain values.

    Attributes:
        embedding: Which charges the QM region feels.
        level: The reference method.
        baseline: The baseline method.
    """

    embedding: Json
    level: Json
    baseline: Json

    def tables(self) -> Mapping[str, Json]:
        """The three tables by the name that messages use."""
        return {"embedding": self.embedding, "level of theory": self.level, "baseline": self.baseline}

    def difference(self, other: LabelSettings) -> str | None:
        """What differs, in words: this one's value, then the other's. None if nothing does."""
        others = other.tables()
        found = []
        for name, table in self.tables().items():
            for key in dict.fromkeys([*table, *others[name]]):
                there, here = table.get(key), others[name].get(key)
                if canonical(there) != canonical(here):
                    found.append(f"{name}, {key}: {canonical(there)} there, and {canonical(here)} here")
        return "; ".join(found) or None


def canonical(value: object) -> str:
    """JSON with sorted keys: equal values give equal texts."""
    return json.dumps(value, sort_keys=True, separators=(", ", ": "), default=dict)


def settings_hash(table: Json) -> str:
    """The first 16 hexadecimal digits of the SHA-256 of a table."""
    return hashlib.sha256(canonical(table).encode()).hexdigest()[:16]


def frame_identity(positions: FloatArray, cell: FloatArray | None) -> str:
    """Hash of the positions (N, 3) and the cell of a frame: 32 hexadecimal digits."""
    digest = hashlib.sha256(np.ascontiguousarray(positions, dtype=np.float64).tobytes())
    if cell is not None:
        digest.update(np.ascontiguousarray(cell, dtype=np.float64).tobytes())
    return digest.hexdigest()[:32]


@dataclass(frozen=True, eq=False)
class Dataset:
    """Labelled frames of one system, all by the same methods.

    Attributes:
        system: QM region and MM sites.
        settings: What the labels mean.
        frames: The labelled frames.
        failures: Frames that were tried and passed over.
        provenance: Versions and dates, for the reader; nothing depends on them.
        mm_gradient_cutoff: Beyond this distance from the nearest QM atom, bohr, the derivatives by MM positions and
            charges were dropped to save space, and zeros stand for them.
    """

    system: SystemTable
    settings: LabelSettings
    frames: tuple[LabelledFrame, ...] = ()
    failures: tuple[Failure, ...] = ()
    provenance: Mapping[str, str] = field(default_factory=dict)
    mm_gradient_cutoff: float = math.inf

    def require(self, name: str, settings: LabelSettings | None, system: SystemTable | None) -> None:
        """Refuse other settings or another system than the ones at hand.

        Args:
            name: What this dataset is called in the message.
            settings: What is needed; None takes any.
            system: What is needed; None takes any.

        Raises:
            DatasetError: They differ; the message gives both values.
        """
        # Another system first: its baseline differs too, by elements, and says less about the cause.
        difference = None if system is None else self.system.difference(system)
        difference = difference or (None if settings is None else self.settings.difference(settings))
        if difference:
            raise DatasetError(
                f"{name} was made with other settings than the configuration's: {difference}. Use the configuration it "
                "was made with, or label the frames anew into another file."
            )

    def with_frames(self, frames: Iterable[LabelledFrame], failures: Iterable[Failure]) -> Dataset:
        """The same dataset with other frames and failures."""
        return replace(self, frames=tuple(frames), failures=tuple(failures))

    def thinned(self, cutoff: float) -> Dataset:
        """Drop the derivatives by MM positions and charges of far sites, by both methods.

        Args:
            cutoff: Distance from the nearest QM atom beyond which they are dropped, bohr.
        """
        if cutoff >= self.mm_gradient_cutoff:
            return self
        frames = []
        for frame in self.frames:
            near = cKDTree(frame.qm_positions).query(frame.mm_positions)[0] <= cutoff
            reference, baseline = (
                replace(
                    label,
                    mm_gradients=np.where(near[:, None], label.mm_gradients, 0.0),
                    mm_potentials=np.where(near, label.mm_potentials, 0.0),
                )
                for label in (frame.reference, frame.baseline)
            )
            frames.append(replace(frame, reference=reference, baseline=baseline))
        return replace(self, frames=tuple(frames), mm_gradient_cutoff=cutoff)

    def mm_types(self, frame: LabelledFrame) -> npt.NDArray[np.str_]:
        """``residue:atom`` of each site of a frame, shape (K,)."""
        return np.array(self.system.site_types)[frame.mm_sites]
