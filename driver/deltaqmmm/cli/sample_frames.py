"""The frames of `deltaqmmm sample`: the start structure, the candidates of all runs, and those that are chosen."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ase import Atoms
from ase.geometry import cellpar_to_cell

from deltaqmmm.build.ipi_input import cell_parameters, init_xyz
from deltaqmmm.cli.frames import Frame, read_frames
from deltaqmmm.cli.sample_folders import RunFolder, RunPlan
from deltaqmmm.config import Config
from deltaqmmm.config.loading import load_potential
from deltaqmmm.config.parts import cutoff_settings
from deltaqmmm.embedding import CutoffEmbedding
from deltaqmmm.errors import FrameError, InputError
from deltaqmmm.results import FloatArray, IntArray
from deltaqmmm.sampling import describe_frames, farthest_in_turns, random_in_turns, shares, standardise
from deltaqmmm.system import System
from deltaqmmm.topology import Topology
from deltaqmmm.units import ANGSTROM

# Files hold five digits or more, and give the same descriptors to every digit when read again.
_SAME_FRAME = 1e-8


@dataclass(frozen=True)
class SampledSystem:
    """What frames are of, and what describes them.

    Attributes:
        config: Where it comes from.
        topology: All particles.
        system: The QM/MM split.
        embedding: What the QM region sees of its surroundings, on the CPU.
    """

    config: Config
    topology: Topology
    system: System
    embedding: CutoffEmbedding

    @classmethod
    def load(cls, config: Config) -> SampledSystem:
        """Load all that a driver would load, so that whatever is wrong with it shows before the first run."""
        loaded = load_potential(config)
        embedding = CutoffEmbedding(loaded.system, cutoff_settings(config), torch.device("cpu"))
        return cls(config, loaded.topology, loaded.system, embedding)

    def cell(self, frame: Frame) -> FloatArray | None:
        """The cell of a frame; None for an isolated system, for which i-PI writes one all the same."""
        return frame.cell if self.system.periodic else None

    def read_all(self, files: Sequence[Path]) -> list[tuple[FloatArray, FloatArray | None]]:
        """Positions and cells of all frames of some files."""
        return [(frame.positions, self.cell(frame)) for file in files for frame in read_frames(file, self.system)]


@dataclass(frozen=True)
class Candidates:
    """F frames to choose from, and A more that count as chosen.

    Attributes:
        plans: The runs.
        runs: Number of the run of each frame, -1 for those that cannot be chosen, shape (F + A,).
        beads: Bead of each, shape (F,).
        frames: Number of each in its file, counted from 0, shape (F,).
        descriptors: Shape (F + A, D).
    """

    plans: Sequence[RunPlan]
    runs: IntArray
    beads: IntArray
    frames: IntArray
    descriptors: FloatArray

    @property
    def n_free(self) -> int:
        """Number of frames that can be chosen."""
        return int((self.runs >= 0).sum())

    def choose(self, count: int, pick: str, seed: int) -> IntArray:
        """Choose frames.

        Args:
            count: How many.
            pick: "farthest" or "random".
            seed: Of the random choice.

        Raises:
            InputError: Some run has too few that were not chosen before, or two QM atoms coincide.
        """
        for number, (plan, share) in enumerate(zip(self.plans, shares(count, len(self.plans)), strict=True)):
            free = int((self.runs == number).sum())
            if share > free:
                raise InputError(
                    f"--count {count}: {share} frames are to come from the run {plan.name}, and {free} of its "
                    f"{plan.n_candidates} are not in the --avoid files. The runs are kept: ask for fewer frames."
                )
        if pick == "random":
            return random_in_turns(self.runs, count, seed)
        taken = range(len(self.beads), len(self.runs))
        return farthest_in_turns(self.descriptors, self.runs, count, taken)


def start_texts(sampled: SampledSystem, file: Path | None, count: int) -> list[str]:
    """The start structures as i-PI reads them.

    Args:
        sampled: What they must be of.
        file: Its frames are taken; None takes the coordinates of the configuration.
        count: How many are needed at most.

    Raises:
        InputError: There is none, or i-PI cannot have its cell.
    """
    if file is not None:
        frames = islice(read_frames(file, sampled.system), count)
        return [_start_text(sampled, frame.positions, sampled.cell(frame), frame.label) for frame in frames]
    topology = sampled.topology
    if topology.positions is None:
        raise InputError(
            f"{sampled.config.file}: names no [system] coordinates to start from: add them, or name a file with the "
            "start structure after the configuration."
        )
    positions = topology.positions[sampled.system.atom_particles]
    return [_start_text(sampled, positions, topology.cell, str(sampled.config.system.coordinates))]


def _start_text(sampled: SampledSystem, positions: FloatArray, cell: FloatArray | None, label: str) -> str:
    if cell is not None:
        lengths, angles = cell_parameters(cell)
        standard = np.asarray(cellpar_to_cell([*lengths, *angles]), dtype=np.float64)  # type: ignore[no-untyped-call]
        rotation = np.linalg.solve(cell, standard)
        if np.linalg.det(rotation) < 0.0:
            raise FrameError(
                f"{label}: its lattice vectors are left-handed, and i-PI needs right-handed ones: swap two."
            )
        positions = positions @ rotation
    return init_xyz(sampled.system.symbols, positions, cell)


def describe_all(
    sampled: SampledSystem,
    runs: RunFolder,
    avoided: Sequence[tuple[FloatArray, FloatArray | None]],
    bar: Any,  # noqa: ANN401 - tqdm ships no types
) -> Candidates:
    """Read and describe all candidates, and the frames that count as chosen.

    Args:
        sampled: What they are of.
        runs: The finished runs.
        avoided: Positions and cells of frames that count as chosen; a candidate that equals one cannot be chosen.
        bar: A progress bar of frames.

    Raises:
        InputError: The trajectories are not whole.
    """
    origins: list[tuple[int, int, int]] = []

    def frames() -> Iterator[tuple[FloatArray, FloatArray | None]]:
        for number, plan in enumerate(runs.plans):
            for bead, index, frame in _candidates(sampled, runs, plan):
                origins.append((number, bead, index))
                yield frame.positions, sampled.cell(frame)
                bar.update()
        yield from avoided

    with bar:
        bar.set_description("reading")
        parts = describe_frames(sampled.embedding, frames())
    found = np.array(origins, dtype=np.int64)
    numbers = np.concatenate([found[:, 0], np.full(len(avoided), -1)])
    together = np.concatenate(parts, axis=1)
    for seen in together[len(found) :]:
        numbers[: len(found)][np.abs(together[: len(found)] - seen).max(axis=1) < _SAME_FRAME] = -1
    return Candidates(runs.plans, numbers, found[:, 1], found[:, 2], standardise(*parts))


def _candidates(sampled: SampledSystem, runs: RunFolder, plan: RunPlan) -> Iterator[tuple[int, int, Frame]]:
    for bead, file in enumerate(runs.trajectories(plan)):
        count = 0
        for index, frame in enumerate(read_frames(file, sampled.system)):
            count += 1
            if index >= plan.first:
                yield bead, index, frame
        if count != plan.n_frames:
            raise InputError(
                f"{file}: holds {count} frames, and {plan.n_frames} are needed: remove the folder of this run and run "
                "the command again."
            )


def picked_atoms(sampled: SampledSystem, runs: RunFolder, candidates: Candidates, chosen: IntArray) -> list[Atoms]:
    """The chosen frames with their temperature, beads, bead, step and run, in the order of the choice."""
    wanted: dict[tuple[int, int], dict[int, int]] = {}
    for place, number in enumerate(chosen):
        key = int(candidates.runs[number]), int(candidates.beads[number])
        wanted.setdefault(key, {})[int(candidates.frames[number])] = place
    found: dict[int, Atoms] = {}
    stem = runs.folder.name.removesuffix(".runs")
    for (number, bead), places in wanted.items():
        plan = candidates.plans[number]
        info = {"temperature_kelvin": plan.temperature, "beads": plan.beads, "bead": bead}
        for index, frame in enumerate(read_frames(runs.trajectories(plan)[bead], sampled.system)):
            if index not in places:
                continue
            cell = sampled.cell(frame)
            found[places[index]] = Atoms(
                list(frame.symbols),
                frame.positions / ANGSTROM,
                cell=None if cell is None else cell / ANGSTROM,
                pbc=sampled.system.periodic,
                info={**info, "step": index * plan.stride, "run": f"{stem}_{plan.name}"},
            )
    return [found[place] for place in range(len(chosen))]
