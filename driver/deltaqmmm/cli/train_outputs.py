"""What `deltaqmmm train` leaves beside the model: the table of errors, figures and the history."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from deltaqmmm.atomic import write_atomically
from deltaqmmm.cli.console import level_of_theory
from deltaqmmm.training.figures import loss_figure, parity_figure, save_figure, spread_figure
from deltaqmmm.training.metrics import OFFSET_NOTE, metrics_table

if TYPE_CHECKING:
    from collections.abc import Sequence

    from deltaqmmm.ml import ModelInfo
    from deltaqmmm.training import EpochReport
    from deltaqmmm.training.judging import Judgement


def beside(output: Path, ending: str) -> Path:
    """A file beside the model: ``model_parity.png`` for ``model.safetensors``."""
    return output.with_name(output.stem + ending)


def report(info: ModelInfo, judgement: Judgement, where: str, threads: int) -> str:
    """The errors in words and a table, as Markdown.

    Args:
        info: Header of the model.
        judgement: Its errors.
        where: On what frames.
        threads: CPU threads of the timing.
    """
    members = "one network" if info.n_members == 1 else f"a committee of {info.n_members} networks"
    lines = [
        f"Errors against {level_of_theory(info.level)} on {where}, as MAE / RMSE, for {members} with the target "
        f'"{info.target}" (trained on {info.provenance["frames"]} frames in {info.provenance["epochs"]} epochs).',
        "",
        metrics_table(judgement.rows),
        "",
        OFFSET_NOTE + " MM gradients are partial derivatives at fixed effective charges. The parameters are those of "
        f"one network; the time is that of all of them with gradients, in batches of up to 8 frames on {threads} "
        f"thread{'s' if threads != 1 else ''}, without the baseline.",
    ]
    if judgement.spreads is not None:
        spreads = judgement.spreads
        lines += [
            "",
            "Correlation of the committee's spread with its true error over these frames: "
            f"energy {spreads.energy}; largest QM gradient {spreads.gradient}.",
        ]
    return "\n".join(lines) + "\n"


def write_outputs(
    output: Path, text: str, history: Sequence[EpochReport], judgement: Judgement, names: tuple[str, str]
) -> list[Path]:
    """Write all of it, each file whole or not at all.

    Args:
        output: The model file.
        text: The report.
        history: All epochs.
        judgement: Errors of the model.
        names: Of the model and of the baseline.

    Returns:
        The files that were written.

    Raises:
        OutputError: A file cannot be written.
    """
    written = [beside(output, "_metrics.md"), beside(output, "_history.json"), beside(output, "_parity.png")]
    write_atomically(written[0], text.encode())
    write_atomically(written[1], (json.dumps([entry.to_json() for entry in history]) + "\n").encode())
    save_figure(parity_figure(judgement.frames, judgement.model, judgement.baseline, *names), written[2])
    if history:
        figure = loss_figure(
            [entry.epoch for entry in history],
            [entry.learning_rate for entry in history],
            np.stack([entry.training for entry in history]),
            np.stack([entry.validation for entry in history]),
        )
        written.append(beside(output, "_loss.png"))
        save_figure(figure, written[-1])
    # One of an earlier run would not belong to this model.
    spread_file = beside(output, "_spread.png")
    spread_file.unlink(missing_ok=True)
    if judgement.spreads is not None:
        written.append(spread_file)
        save_figure(spread_figure(judgement.spreads), spread_file)
    return written
