"""From a molecule, or from an existing system, to a folder from which i-PI and the driver run.

Lengths are in angstrom in this package where a name or docstring says so, as everything it meets is a file or a program
in angstrom.
"""

from deltaqmmm.build.builder import build_system
from deltaqmmm.build.options import BuildOptions, BuildReport

__all__ = ["BuildOptions", "BuildReport", "build_system"]
