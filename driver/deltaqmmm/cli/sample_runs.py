"""The runs of `deltaqmmm sample`: several at once, followed to their end."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

from deltaqmmm.cli.sample_folders import INPUT, RunFolder, RunPlan
from deltaqmmm.errors import ExternalToolError
from deltaqmmm.ipi.keeping import CheckpointKeeper
from deltaqmmm.ipi.processes import Group, threads_environment
from deltaqmmm.ipi.progress import PropertyFile, Watch
from deltaqmmm.ipi.simulation import read_simulation

_PAUSE = 0.2


class Follower(Protocol):
    """Hears how the runs get on."""

    def advance(self, evaluations: int) -> None:
        """So many more frames were evaluated (fewer if a run was lost)."""

    def tell(self, text: str) -> None:
        """Something worth a line."""


@dataclass
class _Running:
    plan: RunPlan
    group: Group
    watch: Watch
    keeper: CheckpointKeeper
    began: float
    counted: int = 0


def run_all(
    folder: RunFolder, plans: Sequence[RunPlan], parallel: int, threads: int, stall_seconds: float, follower: Follower
) -> None:
    """Run trajectories to their end, several at once; the longest first.

    Args:
        folder: Where.
        plans: Which.
        parallel: How many at once.
        threads: Of each driver, where the configuration leaves it open.
        stall_seconds: A run without a step for so long is ended.
        follower: Hears of the progress.

    Raises:
        ExternalToolError: Some runs failed; the others were finished all the same.
    """
    waiting = deque(sorted(plans, key=lambda plan: -plan.cost))
    failures: list[str] = []
    environment = threads_environment(threads)
    with _stopped_at_the_end() as running:
        while waiting or running:
            while waiting and len(running) < parallel:
                plan = waiting.popleft()
                group, place = folder.start(plan, environment), folder.place(plan)
                watch = Watch([PropertyFile(place / "run.out")])
                keeper = CheckpointKeeper(place, read_simulation(place / INPUT))
                running.append(_Running(plan, group, watch, keeper, time.monotonic()))
            time.sleep(_PAUSE)
            for item in list(running):
                reason = _look_at(folder, item, stall_seconds, follower)
                if reason is None:
                    continue
                running.remove(item)
                if reason:
                    follower.advance(-item.counted)
                    follower.tell(f"The run {item.plan.name} failed: {reason}")
                    failures.append(f"{item.plan.name}: {reason}")
    if failures:
        raise ExternalToolError(
            f"{len(failures)} of {len(folder.plans)} runs failed, and no frames were chosen. The same command goes on "
            "with these and keeps the finished ones.\n" + "\n".join(failures)
        )


def _look_at(folder: RunFolder, item: _Running, stall_seconds: float, follower: Follower) -> str | None:
    """None while a run goes on, "" when it is complete, else why it failed."""
    ending = item.group.poll()
    # Looked at after the end was noticed, or the last steps would be missed.
    item.watch.look()
    item.keeper.look()
    step = item.watch.step
    done = max(step, 0) * item.plan.beads
    follower.advance(done - item.counted)
    item.counted = done
    if ending is not None:
        return folder.finish(item.plan, ending, step, time.monotonic() - item.began) or ""
    if item.watch.seconds_still() > stall_seconds:
        item.group.stop()
        place = folder.place(item.plan)
        return f"no step was finished within {stall_seconds:g} s (--stall), after step {step}: see the logs in {place}"
    return None


@contextmanager
def _stopped_at_the_end() -> Iterator[list[_Running]]:
    """A list of runs; whatever is still in it at the end is stopped."""
    running: list[_Running] = []
    try:
        yield running
    finally:
        for item in running:
            item.group.ask_to_stop()
        for item in running:
            item.group.stop()
