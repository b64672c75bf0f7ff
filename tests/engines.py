"""The kinds of engine that compute the QM region, for tests that all of them must pass."""

from __future__ import annotations

from dataclasses import replace

from deltaqmmm.dftb import DFTBEngine
from deltaqmmm.dftb.dftbplus import DFTBPlusEngine, DFTBPlusSettings

KINDS = ("compiled", "torch", "dftb+")


def make_engine_of_kind(kind, symbols, charge, settings, **program):
    """An engine; `program` holds fields of `DFTBPlusSettings`."""
    if kind == "dftb+":
        return DFTBPlusEngine(symbols, charge, settings, DFTBPlusSettings(**program))
    return DFTBEngine(symbols, charge, replace(settings, compiled=kind == "compiled"))
