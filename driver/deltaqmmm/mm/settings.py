"""On what hardware and in which precision OpenMM computes."""

from __future__ import annotations

from dataclasses import dataclass

from deltaqmmm.errors import ConfigError

PRECISIONS = ("single", "mixed", "double")


@dataclass(frozen=True)
class OpenMMSettings:
    """Settings of the OpenMM engine.

    Attributes:
        platform: "CPU", "CUDA", "OpenCL", "HIP", "Reference", or "auto" (the first that works of CUDA, HIP, OpenCL,
            CPU, Reference).
        precision: "single", "mixed" or "double" on the GPU platforms. The CPU platform always computes pair forces in
            single precision, and Reference everything in double.
        threads: Threads of the CPU platform; None lets OpenMM take one per core.
        deterministic: Sum forces in a fixed order, so that equal positions give equal bits (CUDA, and CPU with one
            thread).
        virial: Also compute the strain derivative, by central differences: 12 more energies per frame.
        strain_step: Dimensionless step of those differences; None takes the best for the platform's precision.
    """

    platform: str = "auto"
    precision: str = "mixed"
    threads: int | None = None
    deterministic: bool = True
    virial: bool = False
    strain_step: float | None = None

    def __post_init__(self) -> None:
        """Refuse values that no platform understands."""
        if self.precision not in PRECISIONS:
            raise ConfigError(f"OpenMM precision: got '{self.precision}'; needed is one of {', '.join(PRECISIONS)}")
        if self.threads is not None and self.threads < 1:
            raise ConfigError(f"OpenMM threads: got {self.threads}; needed is at least 1, or nothing for one per core")
        if self.platform == "CPU" and self.precision == "double":
            raise ConfigError(
                "OpenMM's CPU platform computes in single precision only; for double precision take platform "
                "'Reference' (slow), or 'CUDA' or 'OpenCL' on a GPU"
            )
        if self.strain_step is not None and not 0.0 < self.strain_step < 0.01:
            raise ConfigError(f"OpenMM strain step: got {self.strain_step:g}; it must lie between 0 and 0.01")
