"""OpenMM contexts of one system: one on all threads for a single frame, and others for frames side by side.

OpenMM shares the work of one frame out among threads, which wait for each other several times per frame: with frames
enough, a frame on each thread is faster, and whatever else runs on a core delays one frame and not all threads. A
context on one thread also sums forces in the same order every time.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace

import openmm

from deltaqmmm.mm.imaging import Imager
from deltaqmmm.mm.platforms import open_context
from deltaqmmm.mm.settings import OpenMMSettings
from deltaqmmm.threads import parts_of


@dataclass(frozen=True, eq=False)
class Lane:
    """What one frame at a time is computed with.

    Attributes:
        context: OpenMM's; the integrator of it is never stepped.
        imager: Keeps molecules where they were in the frame before of this context; None without a cell.
    """

    context: openmm.Context
    imager: Imager | None


class Contexts:
    """The contexts of one system; opened when a batch needs them.

    Args:
        system: What they compute.
        settings: Platform, precision and threads.
        imager: For all of them, None without a cell: each gets a fresh one like it.

    Attributes:
        whole: What has all threads.

    Raises:
        ConfigError: The platform is not available.
    """

    def __init__(self, system: openmm.System, settings: OpenMMSettings, imager: Imager | None) -> None:
        self._system, self._imager = system, imager
        self.whole = self._lane(open_context(system, settings))
        platform = self.whole.context.getPlatform()
        self._settings = replace(settings, platform=platform.getName())
        # The other platforms use a whole card, or one thread whatever they are told.
        self._threads = (
            int(platform.getPropertyValue(self.whole.context, "Threads")) if platform.getName() == "CPU" else 1
        )
        self._opened: dict[int, list[Lane]] = {}
        self._pool = ThreadPoolExecutor(self._threads, thread_name_prefix="mm-frames")

    def _lane(self, context: openmm.Context) -> Lane:
        return Lane(context, None if self._imager is None else self._imager.fresh())

    def side_by_side(self, work: Callable[[Lane, int], None], n_frames: int) -> None:
        """Share frames out among contexts.

        Args:
            work: Computes one frame, by its number, with what no other frame is using.
            n_frames: How many frames there are.

        Raises:
            Exception: What `work` raised for the first frame that failed; nothing goes on behind it.
        """
        lanes = self._of_batch(n_frames)

        def run(lane: Lane, part: slice) -> None:
            for frame in range(part.start, part.stop):
                work(lane, frame)

        if len(lanes) == 1:
            run(lanes[0], slice(0, n_frames))
            return
        parts = parts_of(n_frames, len(lanes))
        running: list[Future[None]] = [
            self._pool.submit(run, lane, part) for lane, part in zip(lanes, parts, strict=True)
        ]
        errors = [future.exception() for future in running]
        for error in errors:
            if error is not None:
                raise error

    def _of_batch(self, n_frames: int) -> list[Lane]:
        """As many contexts as give each frame the most of the threads, in as few turns as there can be."""
        turns = max(1, -(-n_frames // self._threads))
        count = max(1, -(-n_frames // turns))
        if count == 1:
            return [self.whole]
        # Powers of two, so that batches of many sizes share few kinds of contexts.
        threads = 1 << ((self._threads // count).bit_length() - 1)
        opened = self._opened.setdefault(threads, [])
        while len(opened) < count:
            opened.append(self._lane(open_context(self._system, replace(self._settings, threads=threads))))
        return opened[:count]
