"""How many cores the driver uses, and how they are shared out between MM and torch."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from pathlib import Path

from deltaqmmm.config.sections import Config

LIMITING_VARIABLE = "OPENMM_CPU_THREADS"
"""Environment variable that limits how many cores are taken where the configuration does not say; OpenMM's own."""

QM_SHARE = 4
"""One core in so many is the QM side's."""

_CGROUPS = Path("/sys/fs/cgroup")


@dataclass(frozen=True)
class Threads:
    """The threads of a driver.

    Attributes:
        cores: How many cores it uses in all.
        mm: Threads of OpenMM on the CPU.
        torch: Threads of the QM side: of torch, and frames side by side.
    """

    cores: int
    mm: int
    torch: int


def share_threads(config: Config) -> Threads:
    """The threads that a configuration means, on this machine.

    [driver] threads says how many cores are used in all; 0 takes all that there are (see `available_cores`). MM and the
    QM side compute at the same time. The QM side has a quarter of the cores, at least one, and MM the others; with
    fewer than four MM has all of them, as the QM side is done long before it. [dftb] threads and [mm] threads, where
    they are given, go first.
    """
    torch, mm = config.dftb.threads, config.mm.threads
    cores = config.driver.threads or max(available_cores(), mm, torch)
    torch = torch or max(1, cores // QM_SHARE)
    return Threads(cores, mm or (max(1, cores - torch) if cores >= QM_SHARE else cores), torch)


def available_cores() -> int:
    """Cores that this process may use: those it may run on, within the quota of its container and the environment."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else (os.cpu_count() or 1)
    quota = _quota(_CGROUPS)
    if quota is not None:
        cores = min(cores, max(1, math.ceil(quota)))
    limit = os.environ.get(LIMITING_VARIABLE, "")
    return min(cores, max(1, int(limit))) if limit.isdecimal() else cores


def _quota(folder: Path) -> float | None:
    """Cores' worth of time that a container may use (Linux control groups, version 2 or 1); None without a limit."""
    try:
        if (folder / "cpu.max").is_file():
            quota, period = (folder / "cpu.max").read_text().split()
        else:
            quota = (folder / "cpu" / "cpu.cfs_quota_us").read_text()
            period = (folder / "cpu" / "cpu.cfs_period_us").read_text()
        return float(quota) / float(period) if float(quota) > 0.0 else None
    except (OSError, ValueError):  # "max", or no such file
        return None
