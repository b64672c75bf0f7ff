"""What a user chooses about DFTB+ beside the DFTB calculation itself."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from deltaqmmm.errors import ParameterError


@dataclass(frozen=True)
class DFTBPlusSettings:
    """How DFTB+ is run.

    Attributes:
        library: Its shared library, or a folder that holds it; None to search (see `library.find_library`).
        hsd: The user's own input, taken as it is; None to write one from the settings of the calculation.
        workers: Worker processes, each with one instance of DFTB+.
        threads: Threads of each of them.
        timeout: Longest time for one frame, seconds: then its process is ended.
    """

    library: Path | None = None
    hsd: Path | None = None
    workers: int = 1
    threads: int = 1
    timeout: float = 600.0

    def __post_init__(self) -> None:
        """Refuse numbers that nothing can be run with."""
        if self.workers < 1 or self.threads < 1:
            raise ParameterError(f"DFTB+ needs at least 1 worker and thread, got {self.workers} and {self.threads}.")
        if not self.timeout > 0.0:
            raise ParameterError(f"the time that DFTB+ may take for a frame must be positive, got {self.timeout} s.")
