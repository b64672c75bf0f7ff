"""The learned correction beside DFTB: a committee of four, one network, and the floor.

Uracil is the worked example with its model. For larger molecules there is none: their networks have the same shape and
random weights, which cost as much. All terms are measured within the same evaluations, which take turns between the
models. The MM term is left out, so that nothing runs beside the two. The floor is the time of the networks' matrix
products alone.
"""

import re
import time
from contextlib import ExitStack
from itertools import pairwise, product

import numpy as np
import torch

from benchmarks.measurements import Result
from benchmarks.programs import Program
from benchmarks.systems import MOLECULES, ROOT, write_config
from deltaqmmm.threads import side_by_side, threads_of_loops

EXAMPLE = ROOT / "examples" / "uracil_water"
N_ATOMS = 5000
FRAME_STEP_BOHR = 1e-3
TERMS = ("dftb", "embedding", "correction")
MODELS = ("committee of four", "one network")


class CorrectionProgram:
    """Frames of a box that move a little from step to step, and the times of the terms.

    Args:
        config_file: The configuration, with its correction.
        batch: Frames in a batch.
    """

    def __init__(self, config_file, batch):
        from deltaqmmm.config import read_config
        from deltaqmmm.config.loading import load_potential
        from deltaqmmm.ml import load_model

        config = read_config(config_file)
        self._loaded = load_potential(config, terms=("dftb", "correction"))
        self._network = load_model(config.correction.model).network
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


def write_example(folder, threads, device):
    """The configuration of the worked example, without its correction."""
    text = (EXAMPLE / "box" / "config.toml").read_text()
    text = re.sub(r"(?m)^\[dftb\]$", f"[dftb]\nthreads = {threads}", text).split("[correction]")[0]
    text = text.replace('device = "cpu"', f'device = "{device}"')
    text = re.sub(r'"(system\.\w+)"', lambda match: f'"{EXAMPLE / "box" / match[1]}"', text)
    file = folder / f"example_{threads}.toml"
    file.write_text(text)
    return file


def write_random_model(file, config_file):
    """A model for a configuration, of the shape of the example's and with random weights."""
    from deltaqmmm.config import read_config
    from deltaqmmm.config.labels import label_settings
    from deltaqmmm.config.loading import load_potential
    from deltaqmmm.ml import CommitteeModel, CommitteeNetwork, ModelInfo, load_model, n_features, save_model

    shipped = load_model(EXAMPLE / "delta.safetensors")
    functions, shape = shipped.functions, shipped.network
    config = read_config(config_file)
    system = load_potential(config, terms=("dftb",)).system
    elements = tuple(sorted(set(system.qm_symbols)))
    count = n_features(functions, len(elements), len(shipped.info.mm_types))
    n_inputs = round(count * np.mean(shape.n_inputs) / shape.n_features)
    network = CommitteeNetwork(elements, count, [n_inputs] * len(elements), shape.hidden, shape.n_members).double()
    network.initialise([torch.Generator().manual_seed(member) for member in range(shape.n_members)])
    for element in elements:
        torch.nn.init.orthogonal_(
            network.get_buffer(f"transform_{element}"), 1e-3, torch.Generator().manual_seed(len(elements))
        )
    network.get_buffer("scale").fill_(1e-4)
    settings = label_settings(config, system)
    info = ModelInfo(
        target="delta",
        elements=elements,
        mm_types=shipped.info.mm_types,
        embedding=settings.embedding,
        level=settings.level,
        baseline=settings.baseline,
        n_members=shape.n_members,
        n_parameters=network.n_parameters,
    )
    save_model(file, CommitteeModel(info, functions, network, torch.zeros(len(elements), dtype=torch.float64)))


def prepare(session, key, threads, device):
    """The configurations of both models, by their names."""
    from deltaqmmm.ml import load_model, save_model

    folder = session.folder / key
    folder.mkdir(exist_ok=True)
    if key == "uracil" or session.options.quick:
        config, model = write_example(folder, threads, device), EXAMPLE / "delta.safetensors"
    else:
        box = session.box(key, N_ATOMS)
        config = write_config(box, folder / f"box_{threads}.toml", torch_threads=threads, device=device)
        config.write_text(config.read_text().replace('dispersion = "none"', 'dispersion = "d3bj"'))
        model = folder / "four.safetensors"
        if not model.is_file():
            write_random_model(model, config)
    one = folder / "one.safetensors"
    if not one.is_file():
        save_model(one, load_model(model).member(0))
    files = {}
    for name, file in zip(MODELS, (model, one), strict=True):
        files[name] = config.with_name(f"{config.stem}_{file.stem}.toml")
        files[name].write_text(f'{config.read_text()}\n[correction]\nmodel = "{file}"\n')
    return files


def run(session):
    """Time everything."""
    molecules = session.pick("molecules", ("uracil", "retinoate", "sam_cytosine"), ("uracil",))
    batches = session.pick("batches", (8,), (2,))
    threads = session.pick("threads", (1, 2), (1,))
    rounds = session.pick("rounds", 15, 3)
    settings = {"molecules": molecules, "batches": batches, "threads": threads, "rounds": rounds}
    result = Result("correction", settings)
    for key, device, n_threads in product(molecules, session.options.devices, threads):
        configs = prepare(session, key, n_threads, device)
        for batch in batches:
            measure(session, result, MOLECULES[key], configs, device, n_threads, batch, rounds)
    return result


def measure(session, result, molecule, configs, device, threads, batch, rounds):
    """Both models, in turn."""
    with ExitStack() as stack:
        models = {
            name: stack.enter_context(Program(CorrectionProgram, threads, config_file=config, batch=batch))
            for name, config in configs.items()
        }
        rows = {name: [] for name in MODELS}
        for program in models.values():
            program.call("turn", 2)
        label = f"correction: {molecule.title}, {device}, {threads} thread(s), batch of {batch}"
        with session.bar(label, rounds) as bar:
            for _ in range(rounds):
                for name, program in models.items():
                    rows[name] += program.call("turn", 2)[1:]
                bar.update()
    common = {"batch": batch, "threads": threads, "device": device}
    for name in MODELS:
        system = f"{molecule.title}, {name}"
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
        first = [*mine.system.split(", "), mine.device, mine.threads, mine.batch]
        rows.append([*first, dftb, embedding, mine.median, floor, mine.median / dftb])
    headers = ["QM region", "model", "device", "threads", "batch", "DFTB", "embedding", "correction", "products alone"]
    return [("The learned correction, ms per frame (medians)", [*headers, "correction / DFTB"], rows)]


def draw(result, folder):
    """No figure: the table says it."""
    return []
