"""What is filled into the files of a case."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Values:
    """What a user asks for. None leaves what the case has.

    Attributes:
        start: Name of the file that i-PI starts from.
        address: Of the socket.
        temperature: Kelvin.
        temperatures: Of replica exchange, kelvin, rising.
        beads: Of the ring polymer.
        steps: Of the simulation.
        timestep: Femtoseconds.
        seed: Of i-PI's random numbers.
        qm_atoms: Zero-based numbers of the QM atoms.
        symbols: Element of each atom of the whole system.
        kept: Names of start files that are not replaced by `start`.
    """

    start: str
    address: str
    temperature: float | None = None
    temperatures: tuple[float, ...] | None = None
    beads: int | None = None
    steps: int | None = None
    timestep: float | None = None
    seed: int | None = None
    qm_atoms: tuple[int, ...] = ()
    symbols: tuple[str, ...] = ()
    kept: tuple[str, ...] = ()

    def named(self) -> dict[str, str | None]:
        """The values by the names that the [fill] section of a case.toml uses; None for those to be left alone."""
        qm = set(self.qm_atoms)
        return {
            "address": self.address,
            "temperature": None if self.temperature is None else f"{self.temperature:g}",
            "beads": None if self.beads is None else str(self.beads),
            "steps": None if self.steps is None else str(self.steps),
            "timestep": None if self.timestep is None else f"{self.timestep:g}",
            "seed": None if self.seed is None else str(self.seed),
            "n_atoms": str(len(self.symbols)),
            # Zero-based lists, as i-PI has them; the first atom is 1 in PLUMED.
            "qm_atoms": list_text(self.qm_atoms),
            "mm_atoms": list_text([n for n in range(len(self.symbols)) if n not in qm]),
            "qm_atoms_plumed": ",".join(str(n + 1) for n in self.qm_atoms),
        }

    def groups(self) -> dict[str, tuple[int, ...]]:
        """Groups of atoms, zero-based numbers, by the names that the [lists] section of a case.toml uses."""
        first: dict[str, int] = {}
        for atom in self.qm_atoms:
            first.setdefault(self.symbols[atom], atom)
        return {
            "qm_atoms": self.qm_atoms,
            "qm_hydrogens": tuple(atom for atom in self.qm_atoms if self.symbols[atom] == "H"),
            # Of each element of the QM region its first atom.
            "qm_elements": tuple(first.values()),
        }


EDIT_MARK = "# EDIT BEFORE RUNNING:"
"""How the line begins that stands in a file which depends on the molecule, until a user has edited the file."""
NEED_THE_SYSTEM = frozenset({"n_atoms", "qm_atoms", "mm_atoms", "qm_atoms_plumed"})
"""Values for which the topology is read."""


def list_text(numbers: list[int] | tuple[int, ...]) -> str:
    """A list as i-PI reads it."""
    return "[ " + ", ".join(map(str, numbers)) + " ]"
