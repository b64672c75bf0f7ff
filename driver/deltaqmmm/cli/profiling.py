"""What a step costs, by term and batch size, and how much of it is the wire."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from deltaqmmm.cli.console import table
from deltaqmmm.cli.frames import Frame
from deltaqmmm.ipi import ExpectedFrames
from deltaqmmm.ipi.loopback import Loopback

if TYPE_CHECKING:
    from deltaqmmm.config.loading import LoadedPotential

WARM_UP_STEPS = 3
SPEED = 2e-3
"""Standard deviation of the displacements per step in bohr: about that of 0.5 fs at 300 K."""
SPREAD = 0.05
"""Standard deviation of the beads about the given frame, bohr."""
PARTS = ("mm", "embedding", "dftb", "correction")
NOTE = """\
  Medians over the steps; ms for the whole batch, the last column per frame. MM runs beside the other terms. The wire
  is all that is not the evaluation: reading frames, checking, packing results and extras, sending them through a socket
  in this process. i-PI's own time comes on top."""


def profile(loaded: LoadedPotential, frame: Frame, batches: Sequence[int], steps: int) -> list[dict[str, float]]:
    """Time steps of moving beads.

    Args:
        loaded: The potential.
        frame: Where the beads are.
        batches: Batch sizes.
        steps: Steps that the medians are taken over.

    Returns:
        For each batch size: "batch", and in seconds the medians of the terms, "total" (the evaluation), "wire" and
        "step".
    """
    return [_profile_batch(loaded, frame, batch, steps) for batch in batches]


def _profile_batch(loaded: LoadedPotential, frame: Frame, batch: int, steps: int) -> dict[str, float]:
    system = loaded.system
    generator = np.random.default_rng(batch)
    shape = (batch, *frame.positions.shape)
    positions = frame.positions + SPREAD * generator.standard_normal(shape)
    velocities = SPEED * generator.standard_normal(shape)
    cells = np.repeat((np.eye(3) if frame.cell is None else frame.cell)[None], batch, axis=0)
    rows: list[dict[str, float]] = []
    expected = ExpectedFrames(system.n_atoms, system.periodic)
    with Loopback(loaded.potential.evaluate, expected, batch) as server:
        for _ in range(WARM_UP_STEPS + steps):
            positions = positions + velocities
            step = server.step(cells, positions)
            seconds = dict(loaded.potential.seconds)
            rows.append({**seconds, "wire": step - seconds["total"], "step": step})
    loaded.potential.start_again()
    kept = rows[WARM_UP_STEPS:]
    return {"batch": batch, **{name: float(np.median([row[name] for row in kept])) for name in kept[0]}}


def profile_table(rows: Iterable[dict[str, float]]) -> str:
    """The rows of `profile` in milliseconds."""
    rows = list(rows)
    parts = [part for part in PARTS if part in rows[0]]
    header = ["batch", *parts, "evaluation", "wire", "step", "wire %", "per frame"]
    lines = []
    for row in rows:
        cells = [f"{1000.0 * row[name]:.2f}" for name in (*parts, "total", "wire", "step")]
        share, frame = 100.0 * row["wire"] / row["step"], 1000.0 * row["step"] / row["batch"]
        lines.append([f"{row['batch']:.0f}", *cells, f"{share:.1f}", f"{frame:.2f}"])
    return table(header, lines) + "\n\n" + NOTE
