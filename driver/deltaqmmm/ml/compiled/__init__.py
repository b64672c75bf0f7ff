"""The correction in double precision on the CPU by compiled loops: what `features`, `structure` and `surroundings` do.

Importing it imports numba, which takes half a second: it is imported where a correction is evaluated. The loops are
compiled at the first call, and kept on disk where numba finds a place for them. They run on one
thread: shared out among two, these waited for each other longer than the loops take.
"""

from deltaqmmm.ml.compiled.description import CompiledDescriptor

__all__ = ["CompiledDescriptor"]
