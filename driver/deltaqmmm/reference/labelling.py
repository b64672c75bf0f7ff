"""A labelling run: frames in, a dataset out."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from deltaqmmm.dataset import Dataset, EnergyLabel, Failure, LabelledFrame, Source
from deltaqmmm.embedding import CutoffEmbedding
from deltaqmmm.errors import DeltaqmmmError
from deltaqmmm.qm_side import QMEngine
from deltaqmmm.reference.baseline import EmbeddedFrame, embed, label_baseline
from deltaqmmm.reference.calculator import ReferenceResult
from deltaqmmm.reference.pool import Pool
from deltaqmmm.reference.store import LabelStore
from deltaqmmm.reference.worker import Job, Refusal, WorkerSettings
from deltaqmmm.results import FloatArray


@dataclass(frozen=True, eq=False)
class RawFrame:
    """A frame of the whole system.

    Attributes:
        identity: Its hash, by `dataset.contents.frame_identity`.
        source: Where it comes from.
        positions: Shape (N, 3), bohr.
        cell: Shape (3, 3), bohr, or None.
    """

    identity: str
    source: Source
    positions: FloatArray
    cell: FloatArray | None


@dataclass(frozen=True)
class Labeller:
    """What labels frames.

    Attributes:
        embedding: The embedding of the run.
        baseline: The DFTB engine of the run.
        worker: What the reference processes compute.
        processes: Their number.
    """

    embedding: CutoffEmbedding
    baseline: QMEngine
    worker: WorkerSettings
    processes: int

    def run(self, frames: Iterable[RawFrame], store: LabelStore, progress: Callable[[Failure | None], None]) -> None:
        """Label frames, each kept in the store as soon as it is finished.

        Args:
            frames: Frames that the store does not have.
            store: Where labels and failures go.
            progress: Called after each frame, with its failure if it failed.

        Raises:
            OutputError: A label cannot be kept (a full disk).
            ExternalToolError: The reference method cannot be started.
        """
        prepared: dict[str, tuple[EmbeddedFrame, EnergyLabel, FloatArray]] = {}

        def jobs() -> Iterator[Job]:
            for frame in frames:
                try:
                    embedded = embed(self.embedding, frame.positions, frame.cell, frame.identity, frame.source)
                    label, charges = label_baseline(self.baseline, self.worker.blur_width, embedded)
                except DeltaqmmmError as error:
                    failed(frame.identity, frame.source, f"baseline: {error}")
                    continue
                prepared[frame.identity] = embedded, label, charges
                yield Job(frame.identity, embedded.qm_positions, embedded.mm_positions, embedded.mm_charges)

        def failed(identity: str, source: Source, reason: str) -> None:
            failure = Failure(identity, source, reason)
            store.add_failure(failure)
            progress(failure)

        with Pool(self.worker, self.processes) as pool:
            for job, answer in pool.compute(jobs()):
                embedded, label, charges = prepared.pop(job.identity)
                if isinstance(answer, Refusal):
                    failed(job.identity, embedded.source, answer.reason)
                    continue
                store.add(_labelled(embedded, answer, label, charges))
                progress(None)


def _labelled(
    frame: EmbeddedFrame, result: ReferenceResult, baseline: EnergyLabel, charges: FloatArray
) -> LabelledFrame:
    return LabelledFrame(
        identity=frame.identity,
        source=frame.source,
        qm_positions=frame.qm_positions,
        mm_positions=frame.mm_positions,
        mm_charges=frame.mm_charges,
        mm_sites=frame.mm_sites,
        reference=result.label,
        baseline=baseline,
        baseline_charges=charges,
        scf_cycles=result.scf_cycles,
        seconds=result.seconds,
    )


def label_frames(
    labeller: Labeller,
    frames: list[RawFrame],
    output: Path,
    empty: Dataset,
    *,
    retry_failed: bool,
    mm_gradient_cutoff: float = math.inf,
    progress: Callable[[Failure | None], None],
    begin: Callable[[int, int], None],
) -> Dataset:
    """Label what is missing and write the output.

    Args:
        labeller: What labels frames.
        frames: All frames of the output; those with equal hashes count once.
        output: The dataset file.
        empty: A dataset without frames: system, settings and provenance.
        retry_failed: Try frames again that failed before.
        mm_gradient_cutoff: Beyond this distance from the QM region the output leaves out MM gradients, bohr.
        progress: Called after each frame, with its failure if it failed.
        begin: Called once with the number of frames, and how many of them are done already.

    Returns:
        What was written.

    Raises:
        DatasetError: Another process works on the output, it was made with other settings, or it cannot be written.
    """
    unique = {frame.identity: frame for frame in reversed(frames)}
    order = list(dict.fromkeys(frame.identity for frame in frames))
    with LabelStore(output, empty, mm_gradient_cutoff) as store:
        if retry_failed:
            store.forget_failures()
        missing = [i for i in order if i not in store.frames and i not in store.failures]
        begin(len(order), len(order) - len(missing))
        try:
            labeller.run((unique[identity] for identity in missing), store, progress)
        except KeyboardInterrupt:
            # What is done so far is a dataset that can be used; the parts stay, and the same command goes on.
            store.join(order)
            raise
        dataset = store.join(order)
        store.remove()
        return dataset
