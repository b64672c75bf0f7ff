"""DFTB energy, gradient and charges in the field of water, on frames 0.5 fs apart, beside DFTB+ and LAPACK.

Ours is one call of `DFTBEngine.evaluate` for a batch of replicas. DFTB+ is the whole call of its Python API (geometry,
external potential and its gradient, energy, gradients, charges) on consecutive frames of one replica, so that it starts
from its own charges of 0.5 fs ago, with the eigensolver and the mixer that are fastest on the first frames. Neither
computes the potential: both are given it, and ours is the row "embedding".
"""

import math
from contextlib import ExitStack

import numpy as np

from benchmarks.dftbplus import DFTBPlus
from benchmarks.measurements import Result
from benchmarks.ours import DFTBProgram, EmbeddingProgram
from benchmarks.programs import Program
from benchmarks.systems import MOLECULES, write_config
from benchmarks.trajectories import CHARGES, prepare_frames, prepare_starts, with_charges

N_ATOMS = 1500
TURNS = 6
"""Turns in one pass over the frames; the first one warms up and is not counted."""

LARGEST_SMALL_BATCH = 8
ENERGY_LIMIT = 1e-6
GRADIENT_LIMIT = 5e-6
"""Hartree/bohr. DFTB+ differentiates its integrals numerically."""


def frames_in_turn(batch):
    """Frames of one turn; the first one is not counted, as another program was at work before it."""
    return 6 if batch <= LARGEST_SMALL_BATCH else 3


def run(session):
    """Time everything."""
    molecules = session.pick("molecules", tuple(MOLECULES), ("uracil",))
    batches = session.pick("batches", (1, 2, 4, 8, 16, 32, 64), (1, 4))
    threads = session.pick("threads", (1,), (1,))
    rounds = session.pick("rounds", 10, 2)
    settings = {"molecules": molecules, "batches": batches, "threads": threads, "rounds": rounds, "charges": CHARGES}
    result = Result("dftb", settings)
    for key in molecules:
        box = session.box(key, N_ATOMS)
        if not session.options.quick:
            box = with_charges(box, session.folder)
        frames = prepare_frames(box, session.folder, max(batches), TURNS * frames_in_turn(1), max(threads), session.say)
        for device in session.options.devices:
            for n_threads in threads:
                measure(session, result, box, frames, device, n_threads, batches, rounds, (False, True))
                embedding(session, result, box, device, n_threads, batches, rounds)
    return result


def measure(session, result, box, frames, device, threads, batches, rounds, fields):
    """All batch sizes of one molecule, with the field and without it (`fields`: whether to leave it out)."""
    config = write_config(box, session.folder / "dftb.toml", torch_threads=threads, device=device)
    with ExitStack() as stack:
        ours = stack.enter_context(Program(DFTBProgram, threads, config_file=config, frames_file=frames))
        peer = None
        if device == "cpu":
            peer = stack.enter_context(session.optional(result, "DFTB+", lambda: start_peer(config, frames, threads)))
        for gas in fields:
            system = f"{box.molecule.key}, {'gas' if gas else 'water'}"
            times = Times(batches)
            with session.bar(f"dftb: {system}, {device}, {threads} thread(s)", rounds) as bar:
                for program in filter(None, (ours, peer)):
                    program.call("choose", gas)
                for number in range(math.ceil(rounds / (TURNS - 1))):
                    turns = min(TURNS, rounds - number * (TURNS - 1) + 1)
                    sweep(ours, peer, times, turns, bar)
            add(result, system, ours, peer, times, device, threads)


def start_peer(config, frames, threads):
    """DFTB+ with our settings."""
    from deltaqmmm.config import read_config
    from deltaqmmm.config.loading import dftb_settings, load_split

    read = read_config(config)
    symbols = load_split(read)[1].qm_symbols
    return Program(
        DFTBPlus,
        threads,
        frames_file=frames,
        symbols=symbols,
        charge=read.qm.charge,
        settings=dftb_settings(read),
    )


class Times:
    """Samples of one molecule: seconds per call."""

    def __init__(self, batches):
        self.batches = batches
        self.ours = {batch: [] for batch in batches}
        self.cycles = {batch: [] for batch in batches}
        self.solver = {batch: [] for batch in batches}
        self.solver_once = {batch: [] for batch in batches}
        self.products = {batch: [] for batch in batches}
        self.peer = []
        self.energy_differences = []
        self.gradient_differences = []


def sweep(ours, peer, times, turns, bar):
    """One pass over the frames with engines that remember nothing, all programs in turn."""
    for batch in times.batches:
        ours.call("start", batch)
    theirs = {}
    for turn in range(turns):
        if peer is not None:
            rows = peer.call("turn", *frame_range(turn, 1))
            theirs |= zip(range(*frame_range(turn, 1)), rows, strict=True)
            times.peer += [row["seconds"] for row in rows[1:] if turn > 0]
        for batch in times.batches:
            rows = ours.call("turn", batch, *frame_range(turn, batch))
            for index, row in zip(range(*frame_range(turn, batch)), rows, strict=True):
                compare(times, row, theirs.get(index))
            if turn > 0:
                count(times, ours, batch, rows[1:])
        if turn > 0:
            bar.update()


def frame_range(turn, batch):
    """First frame of a turn, and the one after its last."""
    length = frames_in_turn(batch)
    return turn * length, (turn + 1) * length


def count(times, ours, batch, rows):
    """Take in the calls of a turn, and time what cannot be beaten for the same number of cycles."""
    cycles = round(np.mean([row["cycles"] for row in rows]))
    times.ours[batch] += [row["seconds"] for row in rows]
    times.cycles[batch] += [row["cycles"] for row in rows]
    times.solver[batch].append(ours.call("eigensolver", cycles))
    times.solver_once[batch].append(ours.call("eigensolver", batch))
    times.products[batch].append(ours.call("products", cycles))


def compare(times, ours, theirs):
    """Differences of energy and gradient on one frame."""
    if theirs is None:
        return
    gradients = ours["gradients"] + ours["charges"][:, None] * theirs["potential_gradients"]
    times.energy_differences.append(abs(ours["energy"] - theirs["energy"]))
    times.gradient_differences.append(np.abs(gradients - theirs["gradients"]).max())


def add(result, system, ours, peer, times, device, threads):
    """Measurements, ratios and checks of one molecule."""
    facts = ours.call("facts")
    other = None
    if peer is not None:
        told = peer.call("facts")
        cycles = told.pop("scc_cycles")
        result.present("DFTB+", version=told.pop("version"))
        told = {**facts, **told, "scc_cycles_per_frame": float(np.mean(cycles))}
        samples = [1000.0 * seconds for seconds in times.peer]
        other = result.add("DFTB+", "dftb", system, samples, threads=threads, facts=told)
        result.check("energy, deltaqmmm - DFTB+", system, max(times.energy_differences), ENERGY_LIMIT, "hartree")
        largest = max(times.gradient_differences)
        result.check("gradient, deltaqmmm - DFTB+", system, largest, GRADIENT_LIMIT, "hartree/bohr")
    for batch in times.batches:
        per_frame = 1000.0 / batch
        common = {"batch": batch, "threads": threads, "device": device}
        cycles = float(np.mean(times.cycles[batch])) / batch
        told = {**facts, "scc_cycles_per_frame": cycles, "device_memory_mib": ours.call("memory")}
        mine = result.add("deltaqmmm", "dftb", system, per_frame * np.array(times.ours[batch]), **common, facts=told)
        for program, quantity, seconds in (
            ("LAPACK", "eigensolver, every cycle", times.solver),
            ("LAPACK", "eigensolver, once", times.solver_once),
            ("BLAS", "matrix products, every cycle", times.products),
        ):
            floor = result.add(program, quantity, system, per_frame * np.array(seconds[batch]), **common, facts=facts)
            result.ratio(mine, floor)
        if other is not None:
            result.ratio(other, mine)


def embedding(session, result, box, device, threads, batches, rounds):
    """The time of the embedding, with its derivatives, beside the DFTB of the same frames."""
    starts = prepare_starts(box, session.folder, max(batches), threads, session.say)
    config = write_config(box, session.folder / "embedding.toml", torch_threads=threads, device=device)
    system = f"{box.molecule.key}, water"
    turns = min(3, rounds)
    with session.bar(f"dftb: {system}, embedding", len(batches) * turns) as bar:
        for batch in batches:
            with Program(EmbeddingProgram, threads, config_file=config, starts_file=starts, batch=batch) as program:
                seconds = []
                for _ in range(turns):
                    seconds += program.call("turn", 3)[1:]
                    bar.update()
            common = {"batch": batch, "threads": threads, "device": device}
            result.add("deltaqmmm", "embedding", system, 1000.0 / batch * np.array(seconds), **common)


def tables(result):
    """The tables on the screen."""
    rows = []
    for mine in result.find("deltaqmmm", "dftb"):
        same = {"system": mine.system, "threads": mine.threads}
        here = {**same, "batch": mine.batch, "device": mine.device}
        other = next(iter(result.find("DFTB+", "dftb", **same)), None)
        floors = [
            result.find(program, quantity, **here)[0].median
            for program, quantity in (
                ("LAPACK", "eigensolver, every cycle"),
                ("LAPACK", "eigensolver, once"),
                ("BLAS", "matrix products, every cycle"),
            )
        ]
        seen = next(iter(result.find("deltaqmmm", "embedding", **here)), None)
        rows.append(
            [
                mine.system,
                mine.device,
                mine.threads,
                mine.batch,
                mine.median,
                mine.spread,
                mine.facts["scc_cycles_per_frame"],
                other and other.median,
                other and other.spread,
                other and other.facts["scc_cycles_per_frame"],
                other and other.median / mine.median,
                *floors,
                mine.median / floors[0],
                seen and seen.median,
            ]
        )
    headers = ["system", "device", "threads", "batch", "DFTB", "spread", "cycles", "DFTB+", "spread", "cycles"]
    headers += ["DFTB+ / ours", "eigh all", "eigh once", "products", "ours / eigh all", "embedding"]
    return [("DFTB energy, gradient and charges, ms per frame (medians; spread: quartiles)", headers, rows)]


def draw(result, folder):
    """Time per frame against batch size, a panel for each molecule in water; one figure for each number of threads."""
    from benchmarks import figures

    files = []
    cases = dict.fromkeys((m.device, m.threads) for m in result.find("deltaqmmm", "dftb"))
    for device, threads in cases:
        here = {"device": device, "threads": threads}
        systems = [
            name
            for name in dict.fromkeys(m.system for m in result.find("deltaqmmm", "dftb", **here))
            if name.endswith("water")
        ]
        figure, axes = figures.panels(len(systems))
        for axis, system in zip(axes, systems, strict=True):
            mine = result.find("deltaqmmm", "dftb", system=system, **here)
            batches = [measurement.batch for measurement in mine]
            figures.line(axis, batches, mine, color=figures.COLOURS["deltaqmmm"], label="deltaqmmm, DFTB")
            for other in result.find("DFTB+", "dftb", system=system, threads=threads):
                figures.level(axis, other, color=figures.COLOURS["DFTB+"], linestyle="--", label="DFTB+ (one frame)")
            for quantity, style in (("eigensolver, every cycle", "-."), ("eigensolver, once", ":")):
                floor = result.find("LAPACK", quantity, system=system, **here)
                label = f"LAPACK {quantity}"
                figures.line(axis, batches, floor, color=figures.COLOURS["LAPACK"], linestyle=style, label=label)
            seen = result.find("deltaqmmm", "embedding", system=system, **here)
            figures.line(axis, batches, seen, color="#e0a030", label="deltaqmmm, embedding")
            figures.batch_axis(axis, batches)
            figures.time_axis(axis)
            molecule = MOLECULES[system.split(",")[0]]
            axis.set_title(f"{molecule.title}: {molecule.n_atoms} atoms, {mine[0].facts['n_orbitals']} orbitals")
        handles, labels = axes[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=3, frameon=False, fontsize=8)
        name = f"dftb_{device}_{threads}thread.png".replace(":", "")
        files.append(figures.save(figure, folder / name))
    return files
