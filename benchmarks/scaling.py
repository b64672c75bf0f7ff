"""Cost against QM atoms, MM atoms and batch size, with exponents fitted to log(time) against log(size).

QM atoms: the four molecules in boxes of 5,000 atoms for the whole step, and on recorded frames for DFTB alone, beside
DFTB+ and LAPACK. MM atoms: uracil in boxes of 1,500, 5,000 and 20,000 atoms. About 1,150 charges are in the field of
the QM region in all of them.
"""

import re

import numpy as np

from benchmarks import dftb, step
from benchmarks.measurements import Result
from benchmarks.systems import MOLECULES
from benchmarks.trajectories import prepare_frames, prepare_starts, with_charges

QM_BOX = 5000
MM_BOXES = (1500, 5000, 20000)
MM_MOLECULE = "uracil"
STEP_COLOURS = ("#0b5fa5", "#7a5195", "#e0a030", "#5b8e3e")
TERMS = (*step.TERMS.values(), "step")


def run(session):
    """Time everything."""
    molecules = session.pick("molecules", tuple(MOLECULES), (MM_MOLECULE,))
    batches = session.pick("batches", (1, 4, 16), (1, 4))
    threads = session.pick("threads", (1,), (1,))
    rounds = session.pick("rounds", 5, 1)
    settings = {"molecules": molecules, "batches": batches, "threads": threads, "rounds": rounds}
    settings |= {"qm_box": QM_BOX, "mm_boxes": MM_BOXES}
    result = Result("scaling", settings)
    boxes = {(key, QM_BOX) for key in molecules} | {(MM_MOLECULE, n_atoms) for n_atoms in MM_BOXES}
    if session.options.quick:
        boxes = {(MM_MOLECULE, QM_BOX)}
    for key, n_atoms in sorted(boxes, key=lambda pair: (list(MOLECULES).index(pair[0]), pair[1])):
        box = charged(session, session.box(key, n_atoms))
        starts = prepare_starts(box, session.folder, max(batches), max(threads), session.say)
        for device in session.options.devices:
            for n_threads in threads:
                step.measure(session, result, box, starts, device, n_threads, batches, rounds)
    for key in molecules:
        box = charged(session, session.box(key, dftb.N_ATOMS))
        count = dftb.TURNS * dftb.frames_in_turn(1)
        frames = prepare_frames(box, session.folder, max(batches), count, max(threads), session.say)
        for device in session.options.devices:
            for n_threads in threads:
                dftb.measure(session, result, box, frames, device, n_threads, batches, rounds, (False,))
    fit(result)
    return result


def charged(session, box):
    """The box with about the same number of charges in the field as every other."""
    return box if session.options.quick else with_charges(box, session.folder)


def molecule_of(measurement):
    """The QM region of a measurement."""
    return measurement.system.split(",")[0]


def fit(result):
    """The exponents, for each device, number of threads and batch size."""
    for device, threads, batch in dict.fromkeys(
        (m.device, m.threads, m.batch) for m in result.find("deltaqmmm", "step")
    ):
        here = {"device": device, "threads": threads, "batch": batch}
        name = f"{device}, {threads} thread(s), batch of {batch}"
        for program, quantity in (
            *(("deltaqmmm", term) for term in TERMS),
            ("LAPACK", "eigensolver, every cycle"),
        ):
            boxes = [m for m in result.find(program, quantity, **here) if "n_atoms" in m.facts]
            against(result, f"{program} {quantity}: {name}", "atoms", mm_boxes(boxes))
        for quantity in ("embedding in step", "step"):
            boxes = [m for m in result.find("deltaqmmm", quantity, **here) if "n_atoms" in m.facts]
            against(result, f"deltaqmmm {quantity}: {name}", "QM atoms", qm_boxes(boxes), "n_qm")
        for program, quantity in (
            ("deltaqmmm", "dftb"),
            ("LAPACK", "eigensolver, every cycle"),
            ("LAPACK", "eigensolver, once"),
        ):
            alone = [m for m in result.find(program, quantity, **here) if m.system.endswith("water")]
            against(result, f"{program} {quantity}, alone: {name}", "orbitals", alone, "n_orbitals")
    peers(result)
    for device, threads, system in dict.fromkeys(
        (m.device, m.threads, m.system) for m in result.find("deltaqmmm", "step")
    ):
        for term in TERMS:
            mine = result.find("deltaqmmm", term, device=device, threads=threads, system=system)
            what = f"deltaqmmm {term}, a call: {system}, {device}, {threads} thread(s)"
            calls = [measurement.median * measurement.batch for measurement in mine]
            result.fit(what, "batch", [measurement.batch for measurement in mine], calls)


def peers(result):
    """The exponents of the other programs."""
    for program, quantity in (("sander", "step"), ("OpenMM", "energy and forces"), ("OpenMM", "own dynamics")):
        boxes = [m for m in result.find(program, quantity) if m.device == "cpu"]
        for threads in dict.fromkeys(m.threads for m in boxes):
            same = [m for m in boxes if m.threads == threads]
            against(result, f"{program} {quantity}: {threads} thread(s)", "atoms", mm_boxes(same))
    for threads in dict.fromkeys(m.threads for m in result.find("DFTB+", "dftb")):
        alone = result.find("DFTB+", "dftb", threads=threads)
        against(result, f"DFTB+ dftb: {threads} thread(s)", "orbitals", alone, "n_orbitals")


def mm_boxes(measurements):
    """Those of the molecule whose box varies."""
    return [measurement for measurement in measurements if molecule_of(measurement) == MM_MOLECULE]


def qm_boxes(measurements):
    """Those in the box of the QM regions, which have nearly the same number of atoms."""
    return [measurement for measurement in measurements if abs(atoms(measurement) - QM_BOX) < 0.1 * QM_BOX]


def atoms(measurement):
    """Number of atoms, from the name of the system."""
    return int(measurement.system.split(",")[1].split()[0])


def one_of_each_size(measurements):
    """Those in the box of the QM regions, one for each number of QM atoms, ascending."""
    found = {MOLECULES[molecule_of(m)].n_atoms: m for m in qm_boxes(measurements)}
    return [found[size] for size in sorted(found)]


def against(result, what, variable, measurements, fact=None):
    """A fit of medians against a size."""
    sizes = [atoms(m) if fact is None else m.facts[fact] for m in measurements]
    result.fit(what, variable, sizes, [measurement.median for measurement in measurements])


def tables(result):
    """The tables on the screen."""
    largest = max(m.batch for m in result.find("deltaqmmm", "step"))
    rows = [
        [row["what"], row["variable"], row["exponent"], len(row["sizes"])]
        for row in result.fits
        if not re.search(r"batch of (\d+)", row["what"]) or row["what"].endswith(f"batch of {largest}")
    ]
    return [
        *step.tables(result),
        *(dftb.tables(result)),
        ("Exponents: time per frame (or call) ~ size^exponent", ["what", "variable", "exponent", "sizes"], rows),
    ]


def draw(result, folder):
    """Time per frame against QM atoms and against MM atoms, at the largest batch."""
    from benchmarks import figures

    files = []
    for device, threads in dict.fromkeys((m.device, m.threads) for m in result.find("deltaqmmm", "step")):
        here = {"device": device, "threads": threads}
        batch = max(m.batch for m in result.find("deltaqmmm", "step", **here))
        name = f"{device}_{threads}thread.png".replace(":", "")
        figure, (left, right) = figures.panels(2)
        figure.set_size_inches(figures.WIDTH, 4.2)
        qm_panels(figures, result, left, right, {**here, "batch": batch}, threads)
        files.append(figures.save(figure, folder / f"scaling_qm_{name}"))
        figure, (axis,) = figures.panels(1)
        mm_panel(figures, result, axis, {**here, "batch": batch}, threads)
        files.append(figures.save(figure, folder / f"scaling_mm_{name}"))
    return files


def qm_panels(figures, result, left, right, here, threads):
    """DFTB alone against orbitals, and the step against QM atoms."""
    batch = here["batch"]
    for program, quantity, label, style in (
        ("deltaqmmm", "dftb", f"deltaqmmm, batch of {batch}", "-"),
        ("DFTB+", "dftb", "DFTB+", "--"),
        ("LAPACK", "eigensolver, every cycle", "LAPACK, every cycle", "-."),
        ("LAPACK", "eigensolver, once", "LAPACK, once", ":"),
    ):
        wanted = here if program != "DFTB+" else {"threads": threads}
        rows = [m for m in result.find(program, quantity, **wanted) if m.system.endswith("water")]
        rows.sort(key=lambda m: m.facts["n_orbitals"])
        sizes = [m.facts["n_orbitals"] for m in rows]
        if rows:
            label += exponent(sizes, rows)
            figures.line(left, sizes, rows, color=figures.COLOURS[program], linestyle=style, label=label)
    left.set_title("DFTB alone")
    sizes_axis(left, sizes, "orbitals of the QM region")
    for quantity, colour in zip(("step", *step.TERMS.values()), STEP_COLOURS, strict=True):
        rows = one_of_each_size([m for m in result.find("deltaqmmm", quantity, **here) if "n_atoms" in m.facts])
        sizes = [m.facts["n_qm"] for m in rows]
        if rows:
            figures.line(right, sizes, rows, color=colour, label=quantity)
    others = one_of_each_size(result.find("sander", "step", threads=threads))
    if others:
        sizes = [MOLECULES[molecule_of(m)].n_atoms for m in others]
        figures.line(right, sizes, others, color=figures.COLOURS["sander"], linestyle="--", label="sander, step")
    right.set_title(f"step, {QM_BOX:,} atoms")
    sizes_axis(right, sizes, "QM atoms")
    for axis in (left, right):
        figures.time_axis(axis)
        figures.legend_below(axis, 1)


def mm_panel(figures, result, axis, here, threads):
    """The terms against the number of atoms."""
    for quantity, colour in zip(("step", *step.TERMS.values()), STEP_COLOURS, strict=True):
        rows = mm_boxes([m for m in result.find("deltaqmmm", quantity, **here) if "n_atoms" in m.facts])
        if rows:
            sizes = [atoms(m) for m in rows]
            figures.line(axis, sizes, rows, color=colour, label=quantity + exponent(sizes, rows))
    for program, quantity, label, style in (
        ("sander", "step", "sander, step", "--"),
        ("OpenMM", "energy and forces", "OpenMM alone, frames", "-."),
    ):
        rows = mm_boxes(result.find(program, quantity, threads=threads, device=here["device"]))
        if rows:
            sizes = [atoms(m) for m in rows]
            colour = figures.COLOURS[program]
            figures.line(axis, sizes, rows, color=colour, linestyle=style, label=label + exponent(sizes, rows))
    axis.set_title(f"uracil in water, {threads} thread(s), batch of {here['batch']}")
    sizes_axis(axis, sizes, "atoms")
    figures.time_axis(axis)
    figures.legend_below(axis, 3)


def sizes_axis(axis, sizes, label):
    """Sizes as they are, on a logarithmic axis."""
    axis.set_xscale("log")
    ticks = sorted(set(sizes))
    # Labels of near sizes would lie on each other.
    ticks = [size for place, size in enumerate(ticks) if place == 0 or size > 1.15 * ticks[place - 1]]
    axis.set_xticks(ticks, [f"{size:,}" for size in ticks])
    axis.minorticks_off()
    axis.set_xlabel(label)


def exponent(sizes, measurements):
    """The fitted exponent as text."""
    if len(set(sizes)) < 2:
        return ""
    slope = np.polyfit(np.log(sizes), np.log([measurement.median for measurement in measurements]), 1)[0]
    return f" ~ size$^{{{slope:.2f}}}$"
