"""The DFTB of closed shells at zero temperature in compiled loops over frames, for processors."""

from deltaqmmm.dftb.compiled.frames import CompiledFrames, FrameResults

__all__ = ["CompiledFrames", "FrameResults"]
