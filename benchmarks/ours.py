"""Our own programs that take turns: the DFTB engine on recorded frames, and the whole step of molecular dynamics."""

import time

import numpy as np
import torch

from benchmarks import floors
from benchmarks.trajectories import Replicas


def _load(config_file, terms=None):
    from deltaqmmm.config import read_config
    from deltaqmmm.config.loading import load_potential

    return load_potential(read_config(config_file), terms=terms)


def _memory(device):
    """Largest device memory in use so far, MiB; None on the CPU."""
    return torch.cuda.max_memory_allocated() / 2**20 if torch.device(device).type == "cuda" else None


class DFTBProgram:
    """`DFTBEngine.evaluate` on recorded frames.

    Args:
        config_file: Configuration of the box.
        frames_file: The recorded frames.
    """

    def __init__(self, config_file, frames_file):
        self._config_file = config_file
        self._loaded = _load(config_file, terms=("dftb",))
        self._device = self._loaded.device
        with np.load(frames_file) as data:
            self._positions = data["qm_positions"]
            self._recorded = data["potentials"]
        self._engines = {}

    def choose(self, gas):
        """Leave the field out, or take it in."""
        self._potentials = self._recorded * (0.0 if gas else 1.0)
        self._engines.clear()

    def facts(self):
        """Sizes of the problem."""
        return {"n_qm": len(self._loaded.system.qm_symbols), "n_orbitals": self._loaded.dftb.n_orbitals}

    def memory(self):
        """Largest device memory so far, MiB."""
        return _memory(self._device)

    def start(self, batch):
        """A new engine for this batch size, which remembers nothing: no frame is shown to an engine twice."""
        self._engines[batch] = _load(self._config_file, terms=("dftb",)).dftb

    def turn(self, batch, first, last):
        """Evaluate frames `first` to `last` - 1: seconds, SCC cycles, and the energies and gradients of replica 0."""
        rows = []
        for index in range(first, last):
            positions = torch.as_tensor(self._positions[index, :batch]).to(self._device)
            potentials = torch.as_tensor(self._potentials[index, :batch]).to(self._device)
            floors.synchronise(self._device)
            start = time.perf_counter()
            result = self._engines[batch].evaluate(positions, potentials)
            floors.synchronise(self._device)
            seconds = time.perf_counter() - start
            rows.append(
                {
                    "seconds": seconds,
                    "cycles": int(result.iterations.sum()),
                    "energy": float(result.energies[0]),
                    "gradients": result.gradients[0].detach().cpu().numpy(),
                    "charges": result.charges[0].detach().cpu().numpy(),
                }
            )
        return rows

    def eigensolver(self, count):
        """Seconds of so many diagonalisations in one batch."""
        return floors.eigensolver_seconds(self._loaded.dftb.n_orbitals, count, self._device)

    def products(self, count):
        """Seconds of the matrix products of so many SCC cycles in one batch."""
        return floors.product_seconds(self._loaded.dftb.n_orbitals, count, self._device)


class EmbeddingProgram:
    """Embedding and DFTB of whole frames without MM, of which the time of the embedding is taken.

    Args:
        config_file: Configuration of the box.
        starts_file: Start points of the replicas, which move on freely from there.
        batch: Number of replicas.
    """

    def __init__(self, config_file, starts_file, batch):
        self._loaded = _load(config_file, terms=("dftb",))
        self._replicas = Replicas(self._loaded, np.load(starts_file)["positions"][:batch])
        self._replicas.still()

    def turn(self, count):
        """Seconds of the embedding of so many steps."""
        rows = []
        for _ in range(count):
            self._replicas.drift()
            self._loaded.potential.evaluate(self._replicas.cells, self._replicas.positions)
            rows.append(self._loaded.potential.seconds["embedding"])
        return rows


class StepProgram:
    """Steps of molecular dynamics of a batch of replicas, of which the evaluation is timed.

    Args:
        config_file: Configuration of the box.
        starts_file: Start points of the replicas.
        batch: Number of replicas.
    """

    def __init__(self, config_file, starts_file, batch):
        self._loaded = _load(config_file)
        self._device = self._loaded.device
        self._replicas = Replicas(self._loaded, np.load(starts_file)["positions"][:batch], seed=batch)
        self._batch = batch

    def facts(self):
        """Sizes of the problem."""
        system = self._loaded.system
        return {
            "n_qm": len(system.qm_symbols),
            "n_orbitals": self._loaded.dftb.n_orbitals,
            "n_atoms": system.n_atoms,
        }

    def memory(self):
        """Largest device memory so far, MiB."""
        return _memory(self._device)

    def turn(self, count):
        """Make steps: seconds of the evaluation and of its terms, and SCC cycles."""
        rows = []
        for _ in range(count):
            self._replicas.drift()
            floors.synchronise(self._device)
            start = time.perf_counter()
            evaluation = self._replicas.evaluate()
            floors.synchronise(self._device)
            total = time.perf_counter() - start
            self._replicas.kick()
            cycles = int(evaluation.extras["scc_iterations"].sum())
            rows.append({**self._loaded.potential.seconds, "total": total, "cycles": cycles})
        return rows

    def mm_alone(self, count):
        """Seconds of our MM engine with nothing beside it."""
        rows = []
        for _ in range(count):
            self._replicas.drift()
            start = time.perf_counter()
            self._loaded.mm.evaluate(self._replicas.positions, self._replicas.cells)
            rows.append(time.perf_counter() - start)
            self._replicas.evaluate()
            self._replicas.kick()
        return rows

    def eigensolver(self, count):
        """Seconds of so many diagonalisations in one batch."""
        return floors.eigensolver_seconds(self._loaded.dftb.n_orbitals, count, self._device)
