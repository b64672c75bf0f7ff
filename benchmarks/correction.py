"""The learned correction beside DFTB on the worked example: a committee of four, one network, and the floor.

All terms are measured within the same evaluations, which take turns between the models. The MM term is left out, so
that nothing runs beside the two. The floor is the time of the networks' matrix products alone.
"""

import re
import time
from contextlib import ExitStack
from itertools import pairwise

import numpy as np
import torch

from benchmarks.measurements import Result
from benchmarks.programs import Program
from benchmarks.systems import ROOT
from deltaqmmm.threads import side_by_side, threads_of_loops

EXAMPLE = ROOT / "examples" / "uracil_water"
FRAME_STEP_BOHR = 1e-3
TERMS = ("dftb", "embedding", "correction")
MODELS = ("committee of four", "one network")


class CorrectionProgram:
    """Frames of the worked example that move a little from step to step, and the times of the terms.

    Args:
        folder: For the configuration.
        name: One of `MODELS`.
        threads: Of the QM side.
        batch: Frames in a batch.
        device: Where torch computes.
    """

    def __init__(self, folder, name, threads, batch, device):
        from deltaqmmm.config import read_config
        from deltaqmmm.config.loading import load_potential
        from deltaqmmm.ml import load_model, save_model

        model = EXAMPLE / "delta.safetensors"
        if name == "one network":
            whole, model = model, folder / "one.safetensors"
            save_model(model, load_model(whole).member(0))
        text = (EXAMPLE / "box" / "config.toml").read_text()
        text = re.sub(r"(?m)^\[dftb\]$", f"[dftb]\nthreads = {threads}", text).split("[correction]")[0]
        text = text.replace('device = "cpu"', f'device = "{device}"')
        text = re.sub(r'"(system\.\w+)"', lambda match: f'"{EXAMPLE / "box" / match[1]}"', text)
        config = folder / f"{name.replace(' ', '_')}_{threads}.toml"
        config.write_text(f'{text}[correction]\nmodel = "{model}"\n')
        self._loaded = load_potential(read_config(config), terms=("dftb", "correction"))
        self._network = load_model(model).network
        system, topology = self._loaded.system, self._loaded.topology
        generator = np.random.default_rng(batch)
        start = topology.positions[system.atom_particles]
        self._positions = start + 0.02 * generator.standard_normal((batch, *start.shape))
        self._velocities = FRAME_STEP_BOHR * generator.standard_normal(self._positions.shape)
        self._cells = np.stack([topology.cell] * batch)

    def turn(self, count):
        """Seconds of the terms and of the floor, for so many steps."""
        rows = []
        for _ in range(count):
            self._positions += self._velocities
            self._loaded.potential.evaluate(self._cells, self._positions)
            seconds = self._loaded.potential.seconds
            rows.append({**{term: seconds[term] for term in TERMS}, "floor": self._floor()})
        return rows

    def _floor(self):
        """The matrix products of all layers, forwards and backwards, on as many threads as our loops."""
        network, n_rows = self._network, self._positions.shape[0] * len(self._loaded.system.qm_symbols)
        widths = [network.n_features, *network.hidden, 1]
        pairs = [
            (torch.ones(network.n_members, n_rows, a).double(), torch.ones(network.n_members, a, b).double())
            for a, b in pairwise(widths)
        ]

        def multiply(rows):
            for left, right in pairs:
                torch.bmm(torch.bmm(left[:, rows], right), right.transpose(1, 2))

        start = time.perf_counter()
        side_by_side(multiply, n_rows, threads_of_loops())
        return time.perf_counter() - start


def run(session):
    """Time everything."""
    batches = session.pick("batches", (8,), (2,))
    threads = session.pick("threads", (1, 2), (1,))
    rounds = session.pick("rounds", 15, 3)
    result = Result("correction", {"batches": batches, "threads": threads, "rounds": rounds})
    for device in session.options.devices:
        for n_threads in threads:
            for batch in batches:
                measure(session, result, device, n_threads, batch, rounds)
    return result


def measure(session, result, device, threads, batch, rounds):
    """Both models, in turn."""
    words = {"folder": session.folder, "threads": threads, "batch": batch, "device": device}
    with ExitStack() as stack:
        models = {name: stack.enter_context(Program(CorrectionProgram, threads, name=name, **words)) for name in MODELS}
        rows = {name: [] for name in MODELS}
        for program in models.values():
            program.call("turn", 2)
        with session.bar(f"correction: {device}, {threads} thread(s), batch of {batch}", rounds) as bar:
            for _ in range(rounds):
                for name, program in models.items():
                    rows[name] += program.call("turn", 2)[1:]
                bar.update()
    common = {"batch": batch, "threads": threads, "device": device}
    for name in MODELS:
        system = f"uracil example, {name}"
        added = {
            term: result.add("deltaqmmm", term, system, [1000.0 / batch * row[term] for row in rows[name]], **common)
            for term in TERMS
        }
        floor = [1000.0 / batch * row["floor"] for row in rows[name]]
        result.ratio(added["correction"], result.add("BLAS", "matrix products", system, floor, **common))
        result.ratio(added["correction"], added["dftb"])


def tables(result):
    """The tables on the screen."""
    rows = []
    for mine in result.find("deltaqmmm", "correction"):
        here = {"system": mine.system, "device": mine.device, "threads": mine.threads, "batch": mine.batch}
        dftb, embedding = (result.find("deltaqmmm", name, **here)[0].median for name in ("dftb", "embedding"))
        floor = result.find("BLAS", "matrix products", **here)[0].median
        first = [mine.device, mine.threads, mine.batch, mine.system.split(", ")[1]]
        rows.append([*first, dftb, embedding, mine.median, floor, mine.median / dftb])
    headers = ["device", "threads", "batch", "model", "DFTB", "embedding", "correction", "products alone"]
    return [("The learned correction, ms per frame (medians)", [*headers, "correction / DFTB"], rows)]


def draw(result, folder):
    """No figure: the table says it."""
    return []
