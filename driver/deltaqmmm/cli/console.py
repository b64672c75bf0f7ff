"""What commands print: aligned tables, and the summary of what a configuration loads."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

from deltaqmmm.version import __version__

if TYPE_CHECKING:
    from deltaqmmm.config.loading import LoadedPotential


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


def describe(loaded: LoadedPotential) -> str:
    """Some lines on what a configuration loads: system, QM region, terms, devices and threads."""
    import torch

    config, system = loaded.config, loaded.system
    dftb, embedding, mm = config.dftb, config.embedding, config.mm
    topology = loaded.topology
    qm_particles = system.atom_particles[system.qm_atoms]
    residues = dict.fromkeys(f"{topology.residue_names[p]} {topology.residue_indices[p] + 1}" for p in qm_particles)
    shown = ", ".join(list(residues)[:5]) + (f" and {len(residues) - 5} more" if len(residues) > 5 else "")
    reach = (
        "all MM charges"
        if embedding.kind == "all"
        else f"MM charges switched off from {embedding.inner_angstrom:g} to {embedding.outer_angstrom:g} angstrom"
    )
    extra = "" if dftb.dispersion == "none" else f", {dftb.dispersion.upper()} dispersion"
    threads = f", {mm.threads or config.driver.threads or 'all'} threads" if loaded.mm.platform == "CPU" else ""
    virial = "computed" if mm.virial else "not computed: constant volume only"
    n_virtual = system.n_particles - system.n_atoms
    rows = [
        (
            "system",
            f"{config.system.topology.name}: {system.n_atoms} atoms"
            + (f" and {n_virtual} virtual sites" if n_virtual else "")
            + f", {'periodic' if system.periodic else 'isolated'}",
        ),
        ("QM region", f"{len(system.qm_atoms)} atoms, {formula(system.qm_symbols)}, charge {system.qm_charge:+d}"),
        ("", f"in {shown}"),
        ("DFTB", f"{dftb.model.upper()} {dftb.parameters}{extra}, torch on {loaded.device}, {_threads(torch)}"),
        ("embedding", reach),
        ("MM", f"OpenMM on {loaded.mm.platform}{threads}"),
        ("virial", virial),
    ]
    if embedding.kind == "cutoff" and system.n_charged_groups:
        rows.append(("WARNING", f"{system.n_charged_groups} MM groups (ions, charged residues) are not neutral:"))
        rows.append(
            ("", "their whole Coulomb energy with the QM region is switched off over the cutoff, which pulls them")
        )
        rows.append(("", "across it. Keep them inside or outside the switch, or widen it ([embedding] inner, outer)."))
    lines = [f"deltaqmmm {__version__}, {config.file}"]
    return "\n".join([*lines, *[f"  {name:<10} {value}" for name, value in rows]])


def _threads(torch: object) -> str:
    count = int(torch.get_num_threads())  # type: ignore[attr-defined]
    return f"{count} thread{'s' if count != 1 else ''}"
