"""Replicas of a box that move by our own forces: start points, and recorded frames 0.5 fs apart.

Start points are taken from one chain of molecular dynamics in which all velocities are drawn anew now and then. Frames
are recorded from a batch of replicas that start there, after some steps of their own. Both are kept beside the box.
"""

from dataclasses import replace

import numpy as np

from benchmarks.programs import Program
from benchmarks.systems import write_config

TIME_STEP_FEMTOSECOND = 0.5
TEMPERATURE_KELVIN = 300.0
REDRAW_STEPS = 20
EQUILIBRATION_STEPS = 120
STEPS_BETWEEN_STARTS = 8
FIRST_STEPS = 10
"""Steps of each replica before the first frame is recorded."""

CHARGES = 1150
"""Charges in whose field DFTB is timed."""


class Replicas:
    """A batch of copies of a box, propagated by velocity Verlet."""

    def __init__(self, loaded, positions, seed=1):
        from deltaqmmm.units import FEMTOSECOND

        self.loaded = loaded
        self.positions = positions.copy()
        self.cells = np.stack([loaded.topology.cell] * len(positions))
        self._masses = loaded.system.masses[:, None]
        self._time_step = TIME_STEP_FEMTOSECOND * FEMTOSECOND
        self._generator = np.random.default_rng(seed)
        self.draw_velocities()
        self._forces = None

    def draw_velocities(self):
        """Velocities of a thermal ensemble."""
        from deltaqmmm.units import KELVIN

        spread = np.sqrt(TEMPERATURE_KELVIN * KELVIN / self._masses)
        self.velocities = spread * self._generator.standard_normal(self.positions.shape)

    def still(self):
        """No forces: the replicas move on freely."""
        self._forces = np.zeros_like(self.positions)

    def drift(self):
        """The first half of a step: what comes before the evaluation."""
        if self._forces is None:
            self._forces = self.loaded.potential.evaluate(self.cells, self.positions).forces
        self.velocities += 0.5 * self._time_step * self._forces / self._masses
        self.positions += self._time_step * self.velocities

    def evaluate(self):
        """Evaluate the frames."""
        evaluation = self.loaded.potential.evaluate(self.cells, self.positions)
        self._forces = evaluation.forces
        return evaluation

    def kick(self):
        """The last half of a step."""
        self.velocities += 0.5 * self._time_step * self._forces / self._masses

    def step(self):
        """A whole step."""
        self.drift()
        evaluation = self.evaluate()
        self.kick()
        return evaluation


class Recorder:
    """Makes start points and frames; lives in a process of its own."""

    def __init__(self, box, config_file, threads):
        self.box = box
        self.config_file = write_config(box, config_file, threads=threads)

    def _load(self):
        from deltaqmmm.config import read_config
        from deltaqmmm.config.loading import load_potential

        return load_potential(read_config(self.config_file))

    def starts(self, file, count):
        """Write start points, shape (count, N, 3), bohr."""
        loaded = self._load()
        chain = Replicas(loaded, loaded.topology.positions[loaded.system.atom_particles][None])
        points = []
        for step in range(EQUILIBRATION_STEPS + count * STEPS_BETWEEN_STARTS):
            if step % REDRAW_STEPS == 0:
                chain.draw_velocities()
            chain.step()
            if step >= EQUILIBRATION_STEPS and (step - EQUILIBRATION_STEPS) % STEPS_BETWEEN_STARTS == 0:
                points.append(chain.positions[0].copy())
        _save(file, positions=np.stack(points))

    def frames(self, file, starts_file, replicas, count):
        """Write frames: what DFTB sees of each replica, and the gradient of the potential for the first one."""
        import torch

        loaded = self._load()
        batch = Replicas(loaded, np.load(starts_file)["positions"][:replicas])
        for _ in range(FIRST_STEPS):
            batch.step()
        rows = {"qm_positions": [], "potentials": [], "potential_gradients": [], "n_charges": []}
        for _ in range(count):
            batch.step()
            seen = loaded.embedding(torch.as_tensor(batch.positions), torch.as_tensor(batch.cells))
            qm, mm = seen.qm_positions.detach().numpy(), seen.mm_positions[0].detach().numpy()
            charges = seen.mm_charges.detach().numpy()
            vectors = qm[0][:, None] - mm[None]
            weights = charges[0] / np.linalg.norm(vectors, axis=-1) ** 3
            rows["qm_positions"].append(qm)
            rows["potentials"].append(seen.potentials.detach().numpy())
            rows["potential_gradients"].append(-(weights[..., None] * vectors).sum(axis=1))
            rows["n_charges"].append((charges != 0.0).sum(axis=1))
        _save(file, **{name: np.array(values) for name, values in rows.items()})

    def outer_angstrom(self, charges):
        """End of the embedding, angstrom, for which about this many charges are in the field of the first frame."""
        low, high = 4.0, 16.0
        while high - low > 0.05:
            middle = 0.5 * (low + high)
            if self._charges(replace(self.box, outer_angstrom=middle)) < charges:
                low = middle
            else:
                high = middle
        return round(high, 1)

    def _charges(self, box):
        import torch

        from deltaqmmm.config import read_config
        from deltaqmmm.config.loading import load_potential

        file = write_config(box, self.config_file.with_name("charges.toml"))
        loaded = load_potential(read_config(file), terms=("dftb",))
        positions = loaded.topology.positions[loaded.system.atom_particles][None]
        seen = loaded.embedding(torch.as_tensor(positions), torch.as_tensor(loaded.topology.cell[None]))
        return int((seen.mm_charges != 0.0).sum())


def _save(file, **arrays):
    partial = file.with_suffix(".partial.npz")
    np.savez(partial, **arrays)
    partial.replace(file)


def with_charges(box, folder, charges=CHARGES):
    """The box with its embedding cut off where about this many charges are within."""
    file = box.folder / f"outer_{charges}.txt"
    if not file.is_file():
        with Program(Recorder, 1, box=box, config_file=folder / "recorder.toml", threads=1) as recorder:
            file.write_text(f"{recorder.call('outer_angstrom', charges)}\n")
    return replace(box, outer_angstrom=float(file.read_text()))


def prepare_starts(box, folder, count, threads, say):
    """The file of at least this many start points; they are made if there are fewer."""
    file = box.folder / "starts.npz"
    if not has(file, "positions", (count,)):
        with Program(Recorder, threads, box=box, config_file=folder / "recorder.toml", threads=threads) as recorder:
            make_starts(recorder, box, file, count, say)
    return file


def make_starts(recorder, box, file, count, say):
    """Have the start points made."""
    say(f"{box.label}: molecular dynamics for {count} start points")
    recorder.call("starts", file, count)


def prepare_frames(box, folder, replicas, count, threads, say):
    """The file of recorded frames of so many replicas; they are made if there are fewer."""
    file = box.folder / f"frames_{box.outer_angstrom}.npz"
    starts = box.folder / "starts.npz"
    if not has(file, "potentials", (count, replicas)):
        with Program(Recorder, threads, box=box, config_file=folder / "recorder.toml", threads=threads) as recorder:
            if not has(starts, "positions", (replicas,)):
                make_starts(recorder, box, starts, replicas, say)
            say(f"{box.label}: {count} frames of {replicas} replicas")
            recorder.call("frames", file, starts, replicas, count)
    return file


def has(file, name, shape):
    """Whether an array of a file has at least this shape in its first dimensions."""
    if not file.is_file():
        return False
    with np.load(file) as data:
        return all(there >= wanted for there, wanted in zip(data[name].shape, shape, strict=False))
