"""DFTB+ as the engine of the QM region: its shared library in worker processes."""

from deltaqmmm.dftb.dftbplus.engine import DFTBPlusEngine, DFTBPlusResult
from deltaqmmm.dftb.dftbplus.library import Library, find_library
from deltaqmmm.dftb.dftbplus.settings import DFTBPlusSettings

__all__ = ["DFTBPlusEngine", "DFTBPlusResult", "DFTBPlusSettings", "Library", "find_library"]
