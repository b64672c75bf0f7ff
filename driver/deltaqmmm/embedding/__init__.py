"""What the QM region sees of the MM surroundings: effective point charges and the potentials they make."""

from deltaqmmm.embedding.cutoff import CutoffEmbedding
from deltaqmmm.embedding.frames import CutoffSettings, EmbeddedFrames

__all__ = ["CutoffEmbedding", "CutoffSettings", "EmbeddedFrames"]
