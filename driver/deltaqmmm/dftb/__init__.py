"""SCC-DFTB (second order and DFTB3) in torch: batches of frames of one molecule in an external potential."""

from deltaqmmm.dftb.engine import DFTBEngine, DFTBResult
from deltaqmmm.dftb.settings import DFTBSettings

__all__ = ["DFTBEngine", "DFTBResult", "DFTBSettings"]
