"""Which way from charges to a density is taken: what the settings say, or what was measured to be faster."""

from __future__ import annotations

import logging
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor

from deltaqmmm.dftb.density import Diagonalisation
from deltaqmmm.dftb.problem import SCCProblem
from deltaqmmm.dftb.purification import ChargeCycle, Purification
from deltaqmmm.dftb.replay import Recorder, Replay, power_of_two, recorder_for
from deltaqmmm.dftb.settings import DFTBSettings

logger = logging.getLogger(__name__)

REPEATS = 5
"""Timed calls of each way; their median counts."""
AGREEMENT = 1e-8
"""Largest difference in e between the charges of both ways with which purification may win; the SCC tolerance where
that is smaller."""


class SolverChoice:
    """Makes the solvers for one molecule on one device.

    "auto" measures both ways once for each power of two of the batch size, on the matrices at hand, and keeps the
    faster one for that size. The choice is that of the whole batch: it is not made again while frames leave it. A frame
    that cannot be purified, or not to the same charges, leaves it at diagonalisation.
    """

    def __init__(self, settings: DFTBSettings, device: torch.device, recorder: Recorder | None = None) -> None:
        """Nothing is measured yet.

        Args:
            settings: Its solver, electronic temperature and SCC tolerance count.
            device: Where the frames are.
            recorder: What records the cycles of purification; None for that of the device.
        """
        # Purification knows whole occupations only.
        hot = settings.solver == "auto" and settings.electronic_temperature > 0.0
        self._solver = "diagonalisation" if hot else settings.solver
        self._agreement = min(AGREEMENT, settings.scc_tolerance)
        self._device = device
        self._recorder = recorder or recorder_for(device)
        self._cycle: Replay | None = None
        self._purified: dict[int, bool] = {}

    def __call__(self, problem: SCCProblem, excess: Tensor) -> Diagonalisation | Purification:
        """The solver for B frames.

        Args:
            problem: The frames.
            excess: Charges to measure with, shape (B, n).

        Raises:
            LinAlgError: The overlap of a frame is not positive definite, or a diagonalisation fails.
        """
        basis = Diagonalisation.of(problem)
        if self._solver == "diagonalisation":
            return basis
        if self._cycle is None:
            self._cycle = Replay(ChargeCycle.of(problem), self._recorder)
        purification = Purification(basis, self._cycle)
        if self._solver == "purification":
            return purification
        size = power_of_two(len(excess))
        if size not in self._purified:
            self._purified[size] = self._purification_wins(basis, purification, excess, size)
        return purification if self._purified[size] else basis

    def give_up_purification(self) -> None:
        """Diagonalise from now on, where the choice is free: a frame could not be purified."""
        if self._solver == "auto":
            logger.warning("DFTB: the gap of a frame is too small for purification: diagonalisation from now on.")
            self._solver = "diagonalisation"

    def _purification_wins(self, basis: Diagonalisation, purification: Purification, excess: Tensor, size: int) -> bool:
        """Compare both ways, in charges and in time."""
        what = f"DFTB, up to {size} frame(s) of {excess.shape[1]} atoms, {basis.factor.shape[-1]} orbitals"
        # The first calls warm up: the memory is there, and what can be recorded is.
        difference = float((purification(excess).excess - basis(excess).excess).abs().amax())
        # In this order: it is False for what is not a number.
        if not difference <= self._agreement:
            logger.info("%s: diagonalisation, as purification differs by %.1e e.", what, difference)
            return False
        # In turns: whatever else goes on meets both.
        pairs = [
            (seconds_of(basis, excess, self._device), seconds_of(purification, excess, self._device))
            for _ in range(REPEATS)
        ]
        diagonalised, purified = (statistics.median(pair[way] for pair in pairs) for way in (0, 1))
        wins = purified < diagonalised
        logger.info(
            "%s, on %s: %s, as a cycle takes %.3f ms by diagonalisation and %.3f ms by purification.",
            what,
            self._device,
            "purification" if wins else "diagonalisation",
            1e3 * diagonalised,
            1e3 * purified,
        )
        return wins


def seconds_of(function: Callable[[Tensor], object], argument: Tensor, device: torch.device) -> float:
    """The time of a call, until the device has done it."""
    _wait_for(device)
    start = time.perf_counter()
    function(argument)
    _wait_for(device)
    return time.perf_counter() - start


def _wait_for(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
