"""Chooses an OpenMM platform and opens a context on it."""

from __future__ import annotations

import os
from functools import cache

import openmm

from deltaqmmm.errors import ConfigError
from deltaqmmm.mm.partition import uses_ewald
from deltaqmmm.mm.settings import OpenMMSettings

_AUTOMATIC_ORDER = ("CUDA", "HIP", "OpenCL", "CPU", "Reference")
_MESH_VARIABLE = "OPENMM_CPU_THREADS"
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
        if name == "CPU" and settings.threads is not None and uses_ewald(system):
            _fix_mesh_threads(settings.threads)
        # The integrator is never stepped; a context must have one.
        return openmm.Context(system, openmm.VerletIntegrator(0.001), platform, properties)
    except openmm.OpenMMException as error:
        raise ConfigError(f"OpenMM platform '{name}' does not start: {error}") from error


@cache
def _fix_mesh_threads(threads: int) -> None:
    """Let the Ewald mesh of the CPU platform have so many threads, and not one for each core of the machine.

    OpenMM asks the environment for their number when a process first needs a mesh, and never again.
    """
    system = openmm.System()
    force = openmm.NonbondedForce()
    force.setNonbondedMethod(openmm.NonbondedForce.PME)
    force.setCutoffDistance(0.5)
    force.setPMEParameters(5.0, 8, 8, 8)
    positions = [openmm.Vec3(0.0, 0.0, 0.0), openmm.Vec3(0.5, 0.5, 0.5)]
    for charge in (1.0, -1.0):
        system.addParticle(1.0)
        force.addParticle(charge, 0.3, 0.0)
    system.addForce(force)
    before = os.environ.get(_MESH_VARIABLE)
    os.environ[_MESH_VARIABLE] = str(threads)
    try:
        platform = openmm.Platform.getPlatformByName("CPU")
        context = openmm.Context(system, openmm.VerletIntegrator(0.001), platform, {"Threads": "1"})
        context.setPositions(positions)
        context.getState(getEnergy=True)
    finally:
        if before is None:
            del os.environ[_MESH_VARIABLE]
        else:
            os.environ[_MESH_VARIABLE] = before
