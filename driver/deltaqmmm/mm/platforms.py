"""Chooses an OpenMM platform and opens a context on it."""

from __future__ import annotations

import openmm

from deltaqmmm.errors import ConfigError
from deltaqmmm.mm.settings import OpenMMSettings

_AUTOMATIC_ORDER = ("CUDA", "HIP", "OpenCL", "CPU", "Reference")
_WITH_PRECISION = ("CUDA", "HIP", "OpenCL")


def available_platforms() -> tuple[str, ...]:
    """Return the names of the platforms that this OpenMM installation could load."""
    return tuple(openmm.Platform.getPlatform(index).getName() for index in range(openmm.Platform.getNumPlatforms()))


def open_context(system: openmm.System, settings: OpenMMSettings) -> openmm.Context:
    """Return a context for `system`.

    Raises:
        ConfigError: The platform is not there or does not start.
    """
    available = available_platforms()
    if settings.platform != "auto":
        if settings.platform not in available:
            failures = "; ".join(openmm.Platform.getPluginLoadFailures())
            raise ConfigError(
                f"OpenMM platform '{settings.platform}' is not available; here are {', '.join(available)}"
                + (f" (plugins that did not load: {failures})" if failures else "")
                + ". Take one of these or 'auto', or install OpenMM with that platform and its driver"
            )
        return _open(system, settings, settings.platform)
    failed: list[str] = []
    for name in _AUTOMATIC_ORDER:
        if name not in available or (name == "CPU" and settings.precision == "double"):
            continue
        try:
            return _open(system, settings, name)
        except ConfigError as error:
            # A GPU platform can be installed on a machine without a GPU: the next one is tried.
            failed.append(str(error))
    raise ConfigError("no OpenMM platform starts: " + "; ".join(failed))


def is_single_precision(context: openmm.Context, settings: OpenMMSettings) -> bool:
    """Return whether pair forces of this context are computed in single precision."""
    name = context.getPlatform().getName()
    return name != "Reference" and not (name in _WITH_PRECISION and settings.precision == "double")


def _open(system: openmm.System, settings: OpenMMSettings, name: str) -> openmm.Context:
    platform = openmm.Platform.getPlatformByName(name)
    properties: dict[str, str] = {}
    if name in _WITH_PRECISION:
        properties["Precision"] = settings.precision
    if name in ("CPU", "CUDA", "HIP"):
        properties["DeterministicForces"] = "true" if settings.deterministic else "false"
    if name == "CPU" and settings.threads is not None:
        properties["Threads"] = str(settings.threads)
    try:
        # The integrator is never stepped; a context must have one.
        return openmm.Context(system, openmm.VerletIntegrator(0.001), platform, properties)
    except openmm.OpenMMException as error:
        raise ConfigError(f"OpenMM platform '{name}' does not start: {error}") from error
