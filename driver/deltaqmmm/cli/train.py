"""`deltaqmmm train`: a committee of networks from labelled frames."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from tqdm import tqdm

from deltaqmmm.allocation import keep_freed_memory
from deltaqmmm.cli.console import qm_region
from deltaqmmm.cli.label import provenance
from deltaqmmm.cli.output import check_output, positive_integer
from deltaqmmm.cli.signals import Interruption, interrupted_by_signals
from deltaqmmm.config import Config, read_config
from deltaqmmm.errors import DatasetError, InputError
from deltaqmmm.units import ANGSTROM

if TYPE_CHECKING:
    from deltaqmmm.dataset import Dataset
    from deltaqmmm.ml import CommitteeModel
    from deltaqmmm.training import EpochReport, Trainer, TrainingSettings

DESCRIPTION = """\
Train a committee of networks on a dataset of labels ([training] and [network] of the configuration): with
target = "delta" on reference minus baseline, with target = "direct" on the reference alone. The finished model goes
into [correction] model.

Training ends after [training] epochs, or when no member has got better for [training] patience epochs; each member is
kept as it was at its best on the frames held out from it. The state of the run is kept in OUTPUT.checkpoint until the
model is written: after Ctrl-C or a kill the same command with --resume goes on.

Beside the model stand its errors (_metrics.md, with the uncorrected baseline's), figures (_parity.png, _loss.png,
_spread.png) and the errors of all epochs (_history.json). The errors are those on the --test frames; without them each
held-out frame is predicted by the members that have not learned it, and the spread is not judged."""

FEWEST_FRAMES = 10


def add_parser(commands: Any, parents: Sequence[argparse.ArgumentParser]) -> None:  # noqa: ANN401 - private type of argparse
    """Add the command to the parser."""
    parser = commands.add_parser(
        "train",
        parents=parents,
        help="a correction from labelled frames",
        description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("config", type=Path, help="configuration file (`deltaqmmm config` explains it)")
    parser.add_argument("dataset", type=Path, help="labelled frames, from `deltaqmmm label`")
    parser.add_argument("-o", "--output", type=Path, required=True, help="model file (safetensors) to write")
    parser.add_argument("--test", type=Path, metavar="DATASET", help="frames of other trajectories to judge it by")
    parser.add_argument("--resume", action="store_true", help="go on from OUTPUT.checkpoint if it is there")
    parser.add_argument("--members", type=positive_integer, metavar="N", help="instead of [training] members")
    parser.add_argument(
        "--frames",
        type=positive_integer,
        metavar="N",
        help="use N frames only, drawn by [training] seed (learning curves)",
    )
    parser.add_argument("-q", "--quiet", action="store_true", help="no progress bar and no summary")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Run the command."""
    output: Path = options.output
    check_output(output)
    check_inputs(output, [options.config, options.dataset, *([options.test] if options.test else [])])
    checkpoint = output.with_name(output.name + ".checkpoint")
    if checkpoint.exists() and not options.resume:
        raise InputError(
            f"{checkpoint}: is the state of a training that has not ended. Go on with --resume, or remove it to train "
            "from the start."
        )
    config = read_config(options.config)
    keep_freed_memory()
    import torch

    from deltaqmmm.config.training import symmetry_functions, training_settings
    from deltaqmmm.training import Trainer

    if config.training.threads:
        torch.set_num_threads(config.training.threads)
    settings = training_settings(config, options.members)
    dataset, test = read_frames(config, settings, options)
    region = qm_region(dataset.system.qm_symbols, dataset.system.qm_charge)
    origin = {**provenance(("torch", "numpy", "safetensors")), "dataset": options.dataset.name, "qm_region": region}
    with interrupted_by_signals(), _Progress(quiet=options.quiet) as progress:
        progress.begin("preparing", len(dataset.frames), 0, "frame")
        trainer = Trainer(dataset, settings, symmetry_functions(config), checkpoint, origin, progress.advance)
        model = train(trainer, checkpoint, progress)
        progress.close()
        finish(output, config, trainer, model, test, quiet=options.quiet)
        checkpoint.unlink(missing_ok=True)
    return 0


def check_inputs(output: Path, inputs: Sequence[Path]) -> None:
    """Refuse an output that is one of the inputs."""
    for file in inputs:
        if file.resolve() == output.resolve():
            raise InputError(f"{output}: is both input and output; name another file to write the model to.")


def read_frames(
    config: Config, settings: TrainingSettings, options: argparse.Namespace
) -> tuple[Dataset, Dataset | None]:
    """The training and test frames, checked against the configuration and each other.

    Raises:
        DatasetError: A dataset cannot be used, was made with other settings, or has too few frames; or test frames are
            among the training frames.
    """
    from deltaqmmm.config.labels import label_settings
    from deltaqmmm.config.parts import load_split
    from deltaqmmm.dataset import SystemTable, read_dataset

    _, system = load_split(config)
    needed = label_settings(config, system), SystemTable.from_system(system)
    dataset = choose_frames(read_dataset(options.dataset, *needed), options.frames, settings.seed, options.dataset)
    count, least = len(dataset.frames), max(FEWEST_FRAMES, settings.members)
    if count < least:
        raise DatasetError(
            f"{options.dataset}: {count} frames to train {settings.members} members on, and at least {least} are "
            "needed: label more frames, or take fewer members."
        )
    fits_sites = max(settings.mm_gradient_weight, settings.mm_potential_weight) > 0.0
    if fits_sites and dataset.mm_gradient_cutoff < settings.mm_gradient_cutoff * (1.0 - 1e-9):
        raise DatasetError(
            f"{options.dataset}: keeps MM gradients within {dataset.mm_gradient_cutoff / ANGSTROM:g} angstrom of the "
            "QM region, and [training] mm_gradient_cutoff_angstrom is "
            f"{settings.mm_gradient_cutoff / ANGSTROM:g}: lower it, or label with more of them."
        )
    if options.test is None:
        return dataset, None
    test = read_dataset(options.test, *needed)
    if not test.frames:
        raise DatasetError(f"{options.test}: holds no labelled frames to test the model on.")
    learned = {frame.identity for frame in dataset.frames}
    common = sum(frame.identity in learned for frame in test.frames)
    if common:
        raise DatasetError(
            f"{options.test}: {common} of its {len(test.frames)} frames are among the training frames of "
            f"{options.dataset}, so that their errors say nothing: test with frames of other trajectories."
        )
    return dataset, test


def choose_frames(dataset: Dataset, count: int | None, seed: int, name: Path) -> Dataset:
    """Some frames of a dataset: for one seed, the fewer are always among the more."""
    if count is None:
        return dataset
    total = len(dataset.frames)
    if count > total:
        raise DatasetError(f"{name}: has {total} frames, and --frames {count} were asked for: give at most {total}.")
    chosen = np.sort(np.random.default_rng(seed).permutation(total)[:count])
    return dataset.with_frames((dataset.frames[place] for place in chosen), dataset.failures)


def train(trainer: Trainer, checkpoint: Path, progress: _Progress) -> CommitteeModel:
    """Train to the end; an interruption waits for the end of the epoch, whose state is kept."""
    try:
        with Interruption() as interruption:
            progress.begin("training", trainer.settings.epochs, trainer.epochs_done, "epoch")

            def after_epoch(report: EpochReport) -> None:
                progress.epoch(report)
                if interruption.came:
                    trainer.save()
                    raise KeyboardInterrupt

            return trainer.run(after_epoch)
    except KeyboardInterrupt:
        progress.close()
        kept = "Nothing is kept yet."
        if checkpoint.exists():
            kept = f"{checkpoint} keeps the state: the same command with --resume goes on."
        print(f"Stopped after epoch {trainer.epochs_done}. {kept}", file=sys.stderr)
        raise


def finish(
    output: Path, config: Config, trainer: Trainer, model: CommitteeModel, test: Dataset | None, *, quiet: bool
) -> None:
    """Judge the model, and write it with all that goes beside it."""
    import torch

    from deltaqmmm.cli.train_outputs import report, write_outputs
    from deltaqmmm.config.training import baseline_name
    from deltaqmmm.ml import save_model
    from deltaqmmm.training.judging import judge, judge_held_out

    names = ("Delta" if model.info.target == "delta" else "direct", baseline_name(config))
    if test is not None:
        judgement = judge(model, test, *names)
        where = f"{len(judgement.frames)} test frames"
    else:
        held_out = [trainer.held_out(member) for member in range(model.n_members)]
        judgement = judge_held_out(model, trainer.dataset, held_out, *names)
        where = f"{len(judgement.frames)} validation frames, each by the members that have not learned it"
    metrics = {"frames": where, "rows": [row.to_json() for row in judgement.rows]}
    info = replace(model.info, provenance={**model.info.provenance, "metrics": metrics})
    save_model(output, replace(model, info=info))
    text = report(info, judgement, where, torch.get_num_threads())
    written = write_outputs(output, text, trainer.history, judgement, names)
    if not quiet:
        print(text)
        print(f"{output}, {', '.join(file.name for file in written)} are written.")


class _Progress:
    """The progress bars, with an estimate of the time left."""

    def __init__(self, *, quiet: bool) -> None:
        self._quiet = quiet
        self._bar: Any = None

    def __enter__(self) -> _Progress:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def begin(self, name: str, total: int, done: int, unit: str) -> None:
        """Start a bar; what was done before does not count in the estimate."""
        self.close()
        # Without a terminal a line now and then is enough.
        interval = 0.5 if sys.stderr.isatty() else 60.0
        self._bar = tqdm(
            desc=name, total=total, initial=done, unit=unit, disable=self._quiet, mininterval=interval,
            maxinterval=interval, smoothing=0.0, dynamic_ncols=True,
        )  # fmt: skip

    def advance(self, count: int) -> None:
        """Some more frames are prepared."""
        self._bar.update(count)

    def epoch(self, report: EpochReport) -> None:
        """One more epoch is done: show the members' mean errors on the frames held out."""
        energy, qm_gradient, mm_gradient = report.validation.mean(axis=0)
        self._bar.set_postfix_str(
            f"validation RMSE: energy {energy:.3g} kJ/mol, QM gradient {qm_gradient:.3g}, MM {mm_gradient:.3g} "
            "kJ/mol/angstrom",
            refresh=False,
        )
        self._bar.update()

    def close(self) -> None:
        """End the bar."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None
