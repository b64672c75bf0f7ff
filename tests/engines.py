"""The kinds of engine that compute the QM region, for tests that all of them must pass."""

from __future__ import annotations

from dataclasses import replace

from deltaqmmm.dftb import DFTBEngine
from deltaqmmm.dftb.choice import SolverChoice
from deltaqmmm.dftb.dftbplus import DFTBPlusEngine, DFTBPlusSettings
from tests.tracing import TracingRecorder

KINDS = ("compiled", "torch", "replayed", "dftb+")
"""Ours by compiled loops; by torch, with the solver that is faster here; by torch as on a CUDA device, that is by
recorded purification where the occupations are whole; and DFTB+."""


def make_engine_of_kind(kind, symbols, charge, settings, **program):
    """An engine; `program` holds fields of `DFTBPlusSettings`."""
    if kind == "dftb+":
        return DFTBPlusEngine(symbols, charge, settings, DFTBPlusSettings(**program))
    engine = DFTBEngine(symbols, charge, replace(settings, compiled=kind == "compiled"))
    return replayed(engine) if kind == "replayed" else engine


def replayed(engine):
    """Make an engine purify by recorded cycles, where its occupations are whole."""
    solver = "auto" if engine.settings.electronic_temperature > 0.0 else "purification"
    engine._choice = SolverChoice(replace(engine.settings, solver=solver), engine.device, TracingRecorder())
    return engine
