"""Frames whose SCC failed in DFTB+, tried again with safer set-ups in processes of their own."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace

from deltaqmmm.dftb.dftbplus.hsd import Variation
from deltaqmmm.dftb.dftbplus.pool import Pool
from deltaqmmm.dftb.dftbplus.process import Answer, Death, Setup
from deltaqmmm.dftb.retry import ANNEALING, CAREFUL_DEPTH, CAREFUL_FRACTION, CAREFUL_LENGTHENING
from deltaqmmm.results import FloatArray

CAREFUL_CYCLES = 300
"""At least so many: DFTB+ begins them all from neutral atoms or charges, without what it has learned of the mixing."""
CAREFUL_MIXER = f"Anderson {{ MixingParameter = {CAREFUL_FRACTION}; Generations = {CAREFUL_DEPTH} }}"

logger = logging.getLogger(__name__)


class SaferSetups:
    """The same steps that our own engine takes: careful mixing, then from the charges of a hot electron gas.

    A user's own input is taken as it is, so all that is changed is the start: from neutral atoms in a new process.
    """

    def __init__(self, setup_of: Callable[[Variation | None], Setup], normal: Variation | None, timeout: float) -> None:
        """Prepare.

        Args:
            setup_of: The setup of a variation, or of the user's own input for None.
            normal: How the first attempt solves the SCC; None for the user's own input.
            timeout: Longest time for one frame, seconds.
        """
        self._setup_of = setup_of
        self._timeout = timeout
        self._normal = normal

    def solve(self, frame: int, positions: FloatArray, potential: FloatArray, first: Death) -> Answer | Death:
        """One frame; the cycles of all attempts add up. Where a process ends without a word from DFTB+, this ends too.

        Args:
            frame: Its number in the batch, for messages.
            positions: Shape (n, 3), bohr.
            potential: Shape (n,), hartree/e.
            first: How the first attempt failed.
        """
        cycles, death = first.cycles, first
        for name, variations in self._ladder():
            logger.warning("Frame %d of the batch: %s; retrying with %s.", frame, death.reason, name)
            outcome: Answer | Death = death
            start: FloatArray | None = None
            for variation in variations:
                varied = None if variation is None else replace(variation, start=start)
                outcome = self._attempt(varied, positions, potential)
                cycles += outcome.cycles
                if isinstance(outcome, Answer):
                    start = outcome.charges
                elif not outcome.by_dftbplus:
                    # No SCC has failed: the process died or hung, twice, and would with other set-ups too.
                    return replace(outcome, cycles=cycles)
            if isinstance(outcome, Answer):
                return replace(outcome, cycles=cycles)
            death = outcome
        return replace(death, cycles=cycles)

    def _ladder(self) -> list[tuple[str, list[Variation | None]]]:
        if self._normal is None:
            return [("a fresh start", [None])]
        careful = replace(
            self._normal,
            iterations=max(CAREFUL_LENGTHENING * self._normal.iterations, CAREFUL_CYCLES),
            mixer=CAREFUL_MIXER,
        )
        hotter = [replace(careful, temperature=value) for value in ANNEALING if value > careful.temperature]
        return [("careful mixing", [careful]), ("annealing", [*hotter, careful])]

    def _attempt(self, variation: Variation | None, positions: FloatArray, potential: FloatArray) -> Answer | Death:
        # The first attempt has shown that DFTB+ starts.
        pool = Pool(self._setup_of(variation), 1, self._timeout, proven=True)
        try:
            return pool.compute(positions[None], potential[None])[0]
        finally:
            pool.close()
