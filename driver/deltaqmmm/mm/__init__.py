"""Molecular mechanics with OpenMM: all MM-MM terms and the Lennard-Jones part of QM-MM."""

from deltaqmmm.mm.openmm_engine import OpenMMEngine
from deltaqmmm.mm.settings import OpenMMSettings

__all__ = ["OpenMMEngine", "OpenMMSettings"]
