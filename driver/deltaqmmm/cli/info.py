"""`deltaqmmm info`: what a dataset file or a model file holds."""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from deltaqmmm.cli.console import formula, table
from deltaqmmm.errors import InputError
from deltaqmmm.units import ANGSTROM, KJ_PER_MOL

if TYPE_CHECKING:
    from deltaqmmm.dataset import Dataset
    from deltaqmmm.ml import CommitteeModel
    from deltaqmmm.results import FloatArray

DESCRIPTION = """\
Print what a file holds. Of a dataset: the system, what the labels mean, where the frames come from, and how far the
baseline is from the reference. Of a model (.safetensors): what it corrects, what it knows, how it was trained, and its
errors. The whole file is read and checked."""


def add_parser(commands: Any, parents: Sequence[argparse.ArgumentParser]) -> None:  # noqa: ANN401 - private type of argparse
    """Add the command to the parser."""
    parser = commands.add_parser(
        "info",
        parents=parents,
        help="what a dataset or a model holds",
        description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("file", type=Path, help="dataset (HDF5) or model (.safetensors)")
    parser.add_argument("--failures", type=int, default=10, metavar="N", help="failed frames to list (default 10)")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Run the command."""
    if not options.file.is_file():
        raise InputError(f"{options.file}: there is no such file; give a dataset (.h5) or a model (.safetensors).")
    if options.file.suffix.lower() == ".safetensors":
        show_model(options.file)
    else:
        show_dataset(options.file, options.failures)
    return 0


def show_dataset(file: Path, failures: int) -> None:
    """Print what a dataset holds, and so many of its failed frames."""
    from deltaqmmm.dataset import read_dataset
    from deltaqmmm.dataset.schema import VERSION

    dataset = read_dataset(file)
    _title(file, f"dataset of deltaqmmm, version {VERSION}")
    _lines(overview(dataset))
    if dataset.frames:
        print(f"\n{sources_table(dataset)}\n\n{differences_table(dataset)}")
    shown = dataset.failures[:failures]
    if dataset.failures:
        print(f"\n{len(dataset.failures)} frames failed and were passed over:")
        print("\n".join(f"  {failure.source}: {failure.reason}" for failure in shown))
    if len(shown) < len(dataset.failures):
        print(f"  and {len(dataset.failures) - len(shown)} more (--failures N lists N of them)")


def show_model(file: Path) -> None:
    """Print what a model file holds."""
    from deltaqmmm.ml import load_model

    model = load_model(file)
    _title(file, "model of deltaqmmm")
    _lines(model_overview(model))
    metrics = model.info.provenance.get("metrics")
    if isinstance(metrics, Mapping) and metrics.get("rows"):
        print(f"\n{errors_table(metrics)}")


def model_overview(model: CommitteeModel) -> list[tuple[str, str]]:
    """Names and values of what a model is."""
    from deltaqmmm.dataset.contents import settings_hash

    info, functions = model.info, model.functions
    target = (
        "reference - baseline (delta)" if info.target == "delta" else "reference, in place of the baseline (direct)"
    )
    widths = ", ".join(map(str, model.network.hidden))
    inputs = zip(info.elements, model.network.n_inputs, strict=True)
    reaches = {
        "QM neighbours": functions.qm_cutoff,
        "angles and directions": functions.angular_cutoff,
        "MM sites": functions.mm_cutoff,
        "near MM sites": functions.mm_near_cutoff,
    }
    rows = [
        ("energy", target),
        ("members", f"{info.n_members}, of {info.n_parameters:,} parameters each; hidden layers of {widths}"),
        ("QM elements", ", ".join(f"{element} ({count} inputs)" for element, count in inputs)),
        ("MM types", f"{', '.join(info.mm_types)} (by {functions.mm_type_by}, weighted by {functions.mm_weight})"),
        ("cutoffs", ", ".join(f"{name} {reach / ANGSTROM:.4g}" for name, reach in reaches.items()) + " angstrom"),
    ]
    for name in ("embedding", "level", "baseline"):
        values: Mapping[str, object] = getattr(info, name)
        rows.append((name, f"{_inline(values)}  [{settings_hash(values)}]"))
    trained = {name: value for name, value in info.provenance.items() if name not in ("training", "metrics")}
    if trained:
        rows.append(("made with", _inline(trained)))
    training = info.provenance.get("training")
    if isinstance(training, Mapping):
        shown = dict(training)
        if "mm_gradient_cutoff" in shown:
            # In bohr there; in the configuration it is in angstrom.
            shown["mm_gradient_cutoff_angstrom"] = f"{shown.pop('mm_gradient_cutoff') / ANGSTROM:g}"
        rows.append(("training", _inline(shown)))
    return rows


def errors_table(metrics: Mapping[str, Any]) -> str:
    """The errors that were measured when the model was trained, MAE / RMSE."""
    names = ("energy", "qm_gradients", "near_mm_gradients", "mm_gradients")
    rows = [
        [row["model"], *[f"{row[name]['mae']:.3g} / {row[name]['rmse']:.3g}" if row[name] else "-" for name in names]]
        for row in cast("Sequence[Mapping[str, Any]]", metrics["rows"])
    ]
    header = [f"errors on {metrics['frames']}", "energy", "QM gradients", "MM gradients near", "all MM gradients"]
    return table(header, rows) + "\n  MAE / RMSE; energies in kJ/mol, gradients in kJ/mol/angstrom"


def _title(file: Path, kind: str) -> None:
    print(f"{file}: {kind}, atomic units, {file.stat().st_size / 1e6:.2f} MB")


def _lines(rows: Sequence[tuple[str, str]]) -> None:
    print("\n".join(f"  {name:<16} {value}" for name, value in rows))


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
