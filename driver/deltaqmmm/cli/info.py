"""`deltaqmmm info`: what a dataset file holds."""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from deltaqmmm.cli.console import formula, table
from deltaqmmm.units import ANGSTROM, KJ_PER_MOL

if TYPE_CHECKING:
    from deltaqmmm.dataset import Dataset
    from deltaqmmm.results import FloatArray

DESCRIPTION = """\
Print what a dataset file holds: the system, what the labels mean, where the frames come from, and how far the baseline
is from the reference. The whole file is read and checked."""


def add_parser(commands: Any, parents: Sequence[argparse.ArgumentParser]) -> None:  # noqa: ANN401 - private type of argparse
    """Add the command to the parser."""
    parser = commands.add_parser(
        "info",
        parents=parents,
        help="what a dataset file holds",
        description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("file", type=Path, help="dataset file")
    parser.add_argument("--failures", type=int, default=10, metavar="N", help="failed frames to list (default 10)")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Run the command."""
    from deltaqmmm.dataset import read_dataset
    from deltaqmmm.dataset.schema import VERSION

    dataset = read_dataset(options.file)
    size = options.file.stat().st_size / 1e6
    print(f"{options.file}: dataset of deltaqmmm, version {VERSION}, atomic units, {size:.2f} MB")
    print("\n".join(f"  {name:<16} {value}" for name, value in overview(dataset)))
    if dataset.frames:
        print(f"\n{sources_table(dataset)}\n\n{differences_table(dataset)}")
    shown = dataset.failures[: options.failures]
    if dataset.failures:
        print(f"\n{len(dataset.failures)} frames failed and were passed over:")
        print("\n".join(f"  {failure.source}: {failure.reason}" for failure in shown))
    if len(shown) < len(dataset.failures):
        print(f"  and {len(dataset.failures) - len(shown)} more (--failures N lists N of them)")
    return 0


def overview(dataset: Dataset) -> list[tuple[str, str]]:
    """Names and values of what holds for all frames."""
    from deltaqmmm.dataset.contents import settings_hash

    system, settings = dataset.system, dataset.settings
    rows = [
        ("QM region", f"{len(system.qm_symbols)} atoms, {formula(system.qm_symbols)}, charge {system.qm_charge:+d}"),
        ("MM sites", f"{len(system.site_charges)} in the system, of {len(set(system.site_types))} types"),
    ]
    for name, values in settings.tables().items():
        rows.append((name, f"{_inline(values)}  [{settings_hash(values)}]"))
    rows.append(("made with", _inline(dataset.provenance)))
    rows.append(("frames", f"{len(dataset.frames)} labelled, {len(dataset.failures)} failed"))
    if dataset.frames:
        counts = [len(frame.mm_charges) for frame in dataset.frames]
        seconds = [frame.seconds for frame in dataset.frames]
        rows.append(("sites per frame", f"{np.mean(counts):.0f} ({min(counts)} to {max(counts)})"))
        if np.isfinite(dataset.mm_gradient_cutoff):
            rows.append(("MM gradients", f"within {dataset.mm_gradient_cutoff / ANGSTROM:g} angstrom of the QM region"))
        rows.append(("time per frame", f"{np.mean(seconds):.1f} s ({min(seconds):.1f} to {max(seconds):.1f} s)"))
    return rows


def sources_table(dataset: Dataset) -> str:
    """Frames by file, temperature and number of beads."""
    counts = Counter(
        (s.file, "" if np.isnan(s.temperature) else f"{s.temperature:g}", str(s.beads or ""))
        for s in (frame.source for frame in dataset.frames)
    )
    rows = [[file, kelvin, beads, str(count)] for (file, kelvin, beads), count in counts.items()]
    return table(["source", "kelvin", "beads", "frames"], rows)


def differences_table(dataset: Dataset) -> str:
    """Reference minus baseline: energies around their mean, and components of the gradients."""
    from deltaqmmm.dataset import EnergyLabel

    def delta(name: str) -> list[FloatArray]:
        pairs: list[tuple[EnergyLabel, EnergyLabel]] = [(frame.reference, frame.baseline) for frame in dataset.frames]
        return [getattr(reference, name) - getattr(baseline, name) for reference, baseline in pairs]

    energies = np.array(delta("energy"))
    gradient_unit = KJ_PER_MOL / ANGSTROM
    values = [
        ("energy, from its mean", "kJ/mol", (energies - energies.mean()) / KJ_PER_MOL),
        ("QM gradients", "kJ/mol/angstrom", np.concatenate(delta("qm_gradients")) / gradient_unit),
        ("MM gradients", "kJ/mol/angstrom", np.concatenate(delta("mm_gradients")) / gradient_unit),
    ]
    rows = [
        [name, f"{np.abs(v).mean():.4f}", f"{np.sqrt((v**2).mean()):.4f}", f"{np.abs(v).max():.3f}", unit]
        for name, unit, v in values
        if v.size
    ]
    return table(["reference - baseline", "mean |x|", "rms", "largest", "unit"], rows)


def _inline(values: Mapping[str, object]) -> str:
    return ", ".join(f"{name} {_plain(value)}" for name, value in values.items())


def _plain(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{name} {_plain(entry)}" for name, entry in value.items()) + "}"
    return str(value)
