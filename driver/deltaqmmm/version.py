"""The version of deltaqmmm, in one place: the build, the package and the command line read it here."""

from __future__ import annotations

__version__ = "0.1.0"
