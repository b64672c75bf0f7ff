"""The SCC with its safer retries."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import fields

import torch
from torch import Tensor

from deltaqmmm.dftb.choice import SolverChoice
from deltaqmmm.dftb.mixer import AndersonMixer
from deltaqmmm.dftb.problem import SCCProblem
from deltaqmmm.dftb.purification import Purification
from deltaqmmm.dftb.scc import SCCSolution, solve
from deltaqmmm.dftb.settings import DFTBSettings
from deltaqmmm.errors import ConvergenceError

logger = logging.getLogger(__name__)

CAREFUL_FRACTION = 0.05
CAREFUL_DEPTH = 20
CAREFUL_LENGTHENING = 3
ANNEALING = (0.03, 0.01, 0.003)
"""Electronic temperatures in hartree through which a frame with a small gap is led down to its own."""


def self_consistent(
    problem: SCCProblem,
    start: Tensor,
    settings: DFTBSettings,
    symbols: Sequence[str],
    screening: Tensor | None = None,
    choice: SolverChoice | None = None,
) -> SCCSolution:
    """Solve the SCC of B frames, retrying with safer set-ups the ones that fail.

    First by Newton's method from the given charges and inverse dielectric matrices, with the solver that is chosen
    (none: by diagonalisation); then, diagonalising, by plain Anderson mixing from neutral atoms with a small mixing
    fraction and a long memory; then the same from the charges of a hot electron gas that is cooled down in steps. The
    result of any of them meets the same tolerance.

    Raises:
        ConvergenceError: A frame failed all of them; names residual, cycles and the worst atom.
    """
    solver = None if choice is None else choice(problem, start)
    solution = solve(
        problem,
        start,
        settings.scc_tolerance,
        settings.max_scc_iterations,
        AndersonMixer(),
        newton=True,
        screening=screening,
        solver=solver,
    )
    if choice is not None and isinstance(solver, Purification) and not _all_finite(solution):
        choice.give_up_purification()
    for name, attempt in (("careful mixing", _careful), ("annealing", _annealed)):
        failed = torch.nonzero(~solution.converged).squeeze(-1)
        if len(failed) == 0:
            return solution
        logger.warning("SCC of %d frame(s) not converged; retrying with %s.", len(failed), name)
        _replace(solution, failed, attempt(problem.select(failed), torch.zeros_like(start[failed]), settings))
    failed = torch.nonzero(~solution.converged).squeeze(-1)
    if len(failed):
        raise ConvergenceError(_report(problem, solution, int(failed[0]), settings, symbols))
    return solution


def _all_finite(solution: SCCSolution) -> bool:
    return bool(torch.isfinite(solution.residual).all())


def _careful(problem: SCCProblem, start: Tensor, settings: DFTBSettings) -> SCCSolution:
    mixer = AndersonMixer(fraction=CAREFUL_FRACTION, depth=CAREFUL_DEPTH)
    return solve(problem, start, settings.scc_tolerance, CAREFUL_LENGTHENING * settings.max_scc_iterations, mixer)


def _annealed(problem: SCCProblem, start: Tensor, settings: DFTBSettings) -> SCCSolution:
    everything = torch.arange(len(start), device=start.device)
    for temperature in ANNEALING:
        if temperature > problem.temperature:
            start = _careful(problem.select(everything, temperature), start, settings).excess
    return _careful(problem, start, settings)


def _replace(solution: SCCSolution, frames: Tensor, better: SCCSolution) -> None:
    """Put the frames of a retry in their places; cycles add up."""
    better.iterations += solution.iterations[frames]
    for field in fields(solution):
        getattr(solution, field.name)[frames] = getattr(better, field.name)


def _report(
    problem: SCCProblem, solution: SCCSolution, frame: int, settings: DFTBSettings, symbols: Sequence[str]
) -> str:
    """What went wrong in one frame."""
    one = torch.tensor([frame], device=solution.excess.device)
    again = solve(problem.select(one), solution.excess[one], 0.0, 1, AndersonMixer())
    change = (again.excess - solution.excess[one]).abs()[0]
    worst = int(change.argmax())
    return (
        f"the SCC of frame {frame} of the batch did not converge: residual {float(solution.residual[frame]):.2e} e "
        f"after {int(solution.iterations[frame])} cycles, the safer retries included; needed "
        f"{settings.scc_tolerance:.1e} e. "
        f"Worst atom: {worst} ({symbols[worst]}), charge {-float(solution.excess[frame, worst]):+.4f} e, still "
        f"changing by {float(change[worst]):.1e} e. Look at the geometry and the total charge; a finite [dftb] "
        "electronic_temperature_kelvin helps where the gap is small, a larger max_scc_iterations where convergence is "
        "slow."
    )
