"""The toy potential as a custom PES file of i-PI's <ffdirect>."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
from toy_potential import evaluate

from deltaqmmm.ipi import DirectDriver, ExpectedFrames

__DRIVER_NAME__ = "toy"
__DRIVER_CLASS__ = "ToyDriver"


class ToyDriver(DirectDriver):
    """i-PI passes the <parameters> and `verbosity` to the constructor."""

    def __init__(self, verbosity: object = None) -> None:
        super().__init__(evaluate, ExpectedFrames(3))
