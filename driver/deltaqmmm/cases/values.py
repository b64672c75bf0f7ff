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
        n_atoms: Of the whole system.
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
    n_atoms: int = 0

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
            "n_atoms": str(self.n_atoms),
            # Zero-based lists, as i-PI has them; the first atom is 1 in PLUMED.
            "qm_atoms": list_text(self.qm_atoms),
            "mm_atoms": list_text([n for n in range(self.n_atoms) if n not in qm]),
            "qm_atoms_plumed": ",".join(str(n + 1) for n in self.qm_atoms),
        }


NEED_THE_SYSTEM = frozenset({"n_atoms", "qm_atoms", "mm_atoms", "qm_atoms_plumed"})
"""Values for which the topology is read."""


def list_text(numbers: list[int] | tuple[int, ...]) -> str:
    """A list as i-PI reads it."""
    return "[ " + ", ".join(map(str, numbers)) + " ]"
