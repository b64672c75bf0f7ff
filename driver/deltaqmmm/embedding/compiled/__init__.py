"""The cutoff embedding in double precision on the CPU by compiled loops: search, sites, potentials and the way back.

Importing it imports numba, which takes half a second: it is imported where such an embedding is made. The loops are
compiled at the first call, and kept on disk where numba finds a place for them. They run on one thread.
"""

from deltaqmmm.embedding.compiled.embedding import CompiledEmbedding

__all__ = ["CompiledEmbedding"]
