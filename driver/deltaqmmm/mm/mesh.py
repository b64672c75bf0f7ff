"""The mesh of the particle-mesh Ewald sum: no finer than the cutoff deserves."""

from __future__ import annotations

import math

import openmm

from deltaqmmm.results import FloatArray

MESH_SHARE = 0.8
"""Points along each axis, as a share of what OpenMM takes. In q-SPC/Fw water with a cutoff of 9 angstrom the error of
the forces stays what the cutoff makes it, within 3 %: OpenMM's mesh is several times more precise than that."""
LEAST = 6


def set_mesh(system: openmm.System, lengths: FloatArray) -> None:
    """Choose the mesh of a system whose forces are summed with the particle-mesh Ewald method.

    The splitting stays OpenMM's: alpha = sqrt(-ln(2 d)) / r_c for an error tolerance d, and of its
    2 alpha L / (3 d^(1/5)) mesh points along an axis of length L the share above is taken, rounded up to a product of
    2, 3, 5 and 7, for which Fourier transforms are fast (http://docs.openmm.org/latest/userguide/theory/
    02_standard_forces.html#coulomb-interaction-with-particle-mesh-ewald). A mesh that the system brings with it is
    kept.

    Args:
        system: It is changed.
        lengths: Lengths L of the box along its axes, shape (3,), nm.
    """
    for force in system.getForces():
        if not isinstance(force, openmm.NonbondedForce) or force.getNonbondedMethod() != openmm.NonbondedForce.PME:
            continue
        # Units come and go with OpenMM's versions; their numbers are in nm here.
        given = force.getPMEParameters()[0]
        if float(getattr(given, "_value", given)) != 0.0:
            continue
        tolerance = force.getEwaldErrorTolerance()
        alpha = math.sqrt(-math.log(2.0 * tolerance)) / force.getCutoffDistance()._value
        points = [MESH_SHARE * 2.0 * alpha * float(length) / (3.0 * tolerance**0.2) for length in lengths]
        force.setPMEParameters(alpha, *(fast_length(math.ceil(count)) for count in points))


def fast_length(least: int) -> int:
    """The next number, at least `LEAST`, whose prime factors are 2, 3, 5 and 7."""
    length = max(least, LEAST)
    while True:
        rest = length
        for factor in (2, 3, 5, 7):
            while rest % factor == 0:
                rest //= factor
        if rest == 1:
            return length
        length += 1
