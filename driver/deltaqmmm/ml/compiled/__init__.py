"""The correction in double precision on the CPU by compiled loops: what `features`, `structure` and `surroundings` do.

Importing it imports numba, which takes half a second: it is imported where a correction is evaluated. The loops are
compiled at the first call, and kept on disk where numba finds a place for them. Frames are shared out among
threads, in one piece from positions to derivatives by the moments: so threads wait for each other once.
"""

from deltaqmmm.ml.compiled.description import CompiledCorrection

__all__ = ["CompiledCorrection"]
