"""An i-PI socket driver for DFTB QM/MM forces."""

from __future__ import annotations

from deltaqmmm.version import __version__

__all__ = ["__version__"]
