"""What commands print: aligned tables, and the summary of what a configuration loads."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from deltaqmmm.units import ANGSTROM
from deltaqmmm.version import __version__

if TYPE_CHECKING:
    from deltaqmmm.config import Config
    from deltaqmmm.config.correction import LoadedCorrection
    from deltaqmmm.config.loading import LoadedPotential
    from deltaqmmm.ml import ModelInfo
    from deltaqmmm.system import System
    from deltaqmmm.topology import Topology

WARMING_UP = "Warming up. The first start compiles the loops, which takes a minute or two; they are kept on disk."
_CHARGE_TOLERANCE = 0.01
"""In e: force fields round the charges of a molecule."""


def table(header: Sequence[str], rows: Sequence[Sequence[str]], indent: str = "  ") -> str:
    """An aligned table: the first column to the left, the others to the right."""
    cells = [list(header), *[list(row) for row in rows]]
    widths = [max(len(row[column]) for row in cells) for column in range(len(header))]

    def line(row: Sequence[str]) -> str:
        aligned = [row[0].ljust(widths[0]), *[cell.rjust(w) for cell, w in zip(row[1:], widths[1:], strict=True)]]
        return (indent + "  ".join(aligned)).rstrip()

    rule = indent + "  ".join("-" * width for width in widths)
    return "\n".join([line(cells[0]), rule, *[line(row) for row in cells[1:]]])


def formula(symbols: Sequence[str]) -> str:
    """A sum formula in Hill order: C4 H4 N2 O2."""
    counts = Counter(symbols)
    first = [symbol for symbol in ("C", "H") if "C" in counts and symbol in counts]
    ordered = [*first, *sorted(symbol for symbol in counts if symbol not in first)]
    return " ".join(f"{symbol}{counts[symbol] if counts[symbol] > 1 else ''}" for symbol in ordered)


def qm_region(symbols: Sequence[str], charge: int) -> str:
    """Formula and charge: C2 H3 O2, charge -1."""
    return f"{formula(symbols)}, charge {charge:+d}"


def describe(loaded: LoadedPotential) -> str:
    """Some lines on what a configuration loads: system, QM region, terms, devices and threads."""
    config, system = loaded.config, loaded.system
    embedding = config.embedding
    topology = loaded.topology
    qm_particles = system.atom_particles[system.qm_atoms]
    residues = dict.fromkeys(f"{topology.residue_names[p]} {topology.residue_indices[p] + 1}" for p in qm_particles)
    shown = ", ".join(list(residues)[:5]) + (f" and {len(residues) - 5} more" if len(residues) > 5 else "")
    reach = (
        "all MM charges"
        if embedding.kind == "all"
        else f"MM charges switched off from {embedding.inner_angstrom:g} to {embedding.outer_angstrom:g} angstrom"
    )
    n_virtual = system.n_particles - system.n_atoms
    rows = [
        (
            "system",
            f"{config.system.topology.name}: {system.n_atoms} atoms"
            + (f" and {n_virtual} virtual sites" if n_virtual else "")
            + f", {'periodic' if system.periodic else 'isolated'}",
        ),
        ("QM region", f"{len(system.qm_atoms)} atoms, {qm_region(system.qm_symbols, system.qm_charge)}"),
        ("", f"in {shown}"),
        *_warning_rows(charge_warnings(loaded.topology, system)),
        *_term_rows(loaded, reach),
        ("threads", threads_in_words(loaded)),
        ("virial", "computed" if config.mm.virial else "not computed: constant volume only"),
    ]
    if loaded.dftb is not None or loaded.correction is not None:
        rows += _warning_rows(embedding_warnings(config, loaded.topology, system))
    lines = [f"deltaqmmm {__version__}, {config.file}"]
    return "\n".join([*lines, *[f"  {name:<10} {value}" for name, value in rows]])


def _warning_rows(found: Sequence[Sequence[str]]) -> list[tuple[str, str]]:
    return [("" if number else "WARNING", line) for lines in found for number, line in enumerate(lines)]


def system_warnings(config: Config, topology: Topology, system: System) -> list[list[str]]:
    """What may be wrong with a system whose QM region is embedded: for each doubt some lines."""
    return charge_warnings(topology, system) + method_warnings(config) + embedding_warnings(config, topology, system)


def charge_warnings(topology: Topology, system: System) -> list[list[str]]:
    """Where the charge of the QM region is not that of the force field, if this has charges there at all."""
    charges = topology.charges[system.atom_particles[system.qm_atoms]]
    total = float(charges.sum())
    if not charges.any() or abs(total - system.qm_charge) < _CHARGE_TOLERANCE:
        return []
    shown = f"{round(total, 2) + 0.0:+.2f}"  # no negative zero
    return [
        [
            f"the force field gives the QM region {shown} e, and [qm] charge is {system.qm_charge:+d}:",
            "right only if that is meant, as the rest of the system was made to go with the former.",
        ]
    ]


def method_warnings(config: Config) -> list[list[str]]:
    """Where the parts of the method were not made for each other."""
    dftb = config.dftb
    if dftb.dispersion == "none" or dftb.model != "dftb2":
        return []
    return [
        [
            f'[dftb] dispersion = "{dftb.dispersion}" takes the damping parameters of DFTB3,',
            'also with model = "dftb2", for which they were not fitted.',
        ]
    ]


def embedding_warnings(config: Config, topology: Topology, system: System) -> list[list[str]]:
    """Where a cutoff embedding has to do with ions."""
    embedding = config.embedding
    if embedding.kind != "cutoff" or not system.n_charged_groups:
        return []
    found = [
        [
            f"{system.n_charged_groups} MM groups (ions, charged residues) are not neutral:",
            "their whole Coulomb energy with the QM region is switched off over the cutoff, which pulls them",
            "across it. Keep them inside or outside the switch, or widen it ([embedding] inner, outer).",
        ]
    ]
    if topology.cell is not None and system.may_see_ions_twice(topology.cell, embedding.outer_angstrom * ANGSTROM):
        found.append(
            [
                f"the cell is narrower than twice the reach of the embedding ({embedding.outer_angstrom:g} angstrom):",
                "an ion may polarise the QM region together with its own image. Take a larger cell.",
            ]
        )
    return found


def model_warnings(info: ModelInfo, region: str) -> list[list[str]]:
    """Where a model was fitted to another QM region than this one, or does not say to which.

    Args:
        info: What the model is.
        region: The QM region here, as `qm_region` writes it.
    """
    learned = info.provenance.get("qm_region")
    if learned == region:
        return []
    if learned is None:
        return [
            [
                "the model does not say for which QM region it was trained;",
                f"this one is {region}: compare with `deltaqmmm info`.",
            ]
        ]
    return [
        [
            f"the model was trained on another QM region, {learned}:",
            "its errors are not known here; set limits of the spread, or train one for this region.",
        ]
    ]


def print_warnings(found: Sequence[Sequence[str]]) -> None:
    """On standard error, for what does not stand among the lines of `describe`."""
    for lines in found:
        print("WARNING: " + " ".join(lines), file=sys.stderr)


def _term_rows(loaded: LoadedPotential, reach: str) -> list[tuple[str, str]]:
    """The terms that are computed; which ones, if they are not all of them."""
    config = loaded.config
    dftb = config.dftb
    rows = []
    if loaded.dftb is not None:
        extra = "" if dftb.dispersion == "none" else f", {dftb.dispersion.upper()} dispersion"
        method = f"{dftb.model.upper()} {dftb.parameters}{extra}" if dftb.hsd is None else f"as {dftb.hsd.name} says"
        rows.append(("DFTB", f"{method}, {_dftb_program(loaded)}"))
        rows += _warning_rows(method_warnings(config))
    if loaded.correction is not None:
        rows += _correction_rows(
            loaded.correction, config, qm_region(loaded.system.qm_symbols, loaded.system.qm_charge)
        )
    if loaded.dftb is not None or loaded.correction is not None:
        rows.append(("embedding", reach))
    if loaded.mm is not None:
        rows.append(("MM", f"OpenMM on {loaded.mm.platform}"))
    if not loaded.complete:
        rows.append(("terms", f"{', '.join(loaded.potential.terms)} only: i-PI must add the others"))
    return rows


def _dftb_program(loaded: LoadedPotential) -> str:
    """What computes DFTB, and where."""
    from deltaqmmm.dftb.dftbplus import DFTBPlusEngine

    engine = loaded.dftb
    if not isinstance(engine, DFTBPlusEngine):
        return f"torch on {loaded.device}"
    workers = "1 process" if engine.program.workers == 1 else f"{engine.program.workers} processes"
    return f"DFTB+ {engine.library.version} in {workers}, {engine.library.file}"


def _correction_rows(correction: LoadedCorrection, config: Config, region: str) -> list[tuple[str, str]]:
    """The model, what it was fitted to, a warning if that may be another QM region than this one, and the guard."""
    info, section = correction.info, config.correction
    model = "" if section.model is None else section.model.name
    target = "corrects DFTB" if info.target == "delta" else "replaces DFTB"
    members = "1 network" if info.n_members == 1 else f"{info.n_members} networks"
    rows = [("correction", f"{model}: {target}, {members} of {info.n_parameters} parameters")]
    rows.append(("", f"fitted to {level_of_theory(info.level)}"))
    rows += _warning_rows(model_warnings(info, region))
    if not section.include_offset:
        rows.append(("", "without the constant part of its energy"))
    guard = correction.guard
    if guard is not None:
        verb = {"warn": "warns", "stop": "stops", "fade": "fades the correction"}[section.action]
        rows.append(("guard", f"{verb} above a spread of {guard.limits}"))
        if section.frames_file is not None:
            rows.append(("", f"frames above it go to {section.frames_file.name}, at most {section.max_frames}"))
    return rows


def level_of_theory(level: Mapping[str, object]) -> str:
    """A level of theory in one line: PBE0-D3BJ/def2-SVP, and the other settings as they stand."""
    shown = dict(level)
    name = str(shown.pop("functional", shown.pop("method", "?")))
    dispersion = str(shown.pop("dispersion", "none"))
    basis = shown.pop("basis", None)
    text = name + ("" if dispersion == "none" else f"-{dispersion}") + ("" if basis is None else f"/{basis}")
    rest = ", ".join(f"{key} {_plain(value)}" for key, value in shown.items() if value is not None)
    return f"{text} ({rest})" if rest else text


def _plain(value: object) -> str:
    return ("yes" if value else "no") if isinstance(value, bool) else str(value)


def threads_in_words(loaded: LoadedPotential) -> str:
    """How the cores are shared out: "8 cores: MM 6, and at the same time QM 2"."""
    threads = loaded.threads
    parts = [f"MM {threads.mm}"] if loaded.mm is not None and loaded.mm.platform == "CPU" else []
    if loaded.dftb is not None or loaded.correction is not None:
        parts.append(f"QM {threads.torch}")
    cores = f"{threads.cores} core{'s' if threads.cores != 1 else ''}"
    return f"{cores}: {', and at the same time '.join(parts)}" if parts else cores
