"""Where DFTB+ is: its shared library and the Python module that calls it."""

from __future__ import annotations

import importlib.util
import os
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from deltaqmmm.errors import ExternalToolError

NAMES = ("libdftbplus.so", "libdftbplus.dylib")
VARIABLE = "DFTBPLUS_LIBRARY"
"""Environment variable with the path of the library, or of a folder that holds it."""

_FOLDERS = ("", "lib", "lib64")
_REMEDY = (
    "Install it with `conda install -c conda-forge 'dftbplus=*=nompi_*' dftbplus-python` and activate that "
    f"environment, or say where it is by [dftb] library or the environment variable {VARIABLE}."
)


@dataclass(frozen=True)
class Library:
    """DFTB+ on this machine.

    Attributes:
        file: The shared library.
        module: The file ``__init__.py`` of the Python module `dftbplus`.
        version: The release, or "unknown".
    """

    file: Path
    module: Path
    version: str


def find_library(given: Path | None = None) -> Library:
    """The library and its Python module.

    The library is taken from the first of these places that has it: `given`, or else the environment variable
    DFTBPLUS_LIBRARY (a file or a folder; then nothing else is searched); the active conda environment (CONDA_PREFIX),
    the active virtual environment (VIRTUAL_ENV) and that of this Python; beside an installed module `dftbplus`; the
    folders of LD_LIBRARY_PATH. The module that was installed with the library goes before another one.

    Raises:
        ExternalToolError: One of them is missing; the message says where it was searched and how to get it.
    """
    file = _find_file(given)
    module = next(_modules(file), None)
    if module is None:
        raise ExternalToolError(
            f"{file} is there, but not the Python module `dftbplus` that calls it: it is neither installed in this "
            f"Python nor found in {file.parent}/python3*/site-packages. Install it beside the library with "
            "`conda install -c conda-forge dftbplus-python`; DFTB+ that is compiled by hand needs WITH_API, "
            "WITH_PYTHON and BUILD_SHARED_LIBS."
        )
    return Library(file, module, _version(file))


def _find_file(given: Path | None) -> Path:
    for name, value in (("[dftb] library", given), (VARIABLE, os.environ.get(VARIABLE))):
        if value:
            place = Path(value).expanduser()
            found = place if place.is_file() else next(_inside(place), None)
            if found is None:
                raise ExternalToolError(
                    f"{name} = {place} is neither the shared library of DFTB+ nor a folder that holds {NAMES[0]}."
                )
            return found.absolute()
    searched: list[Path] = []
    for place in _places():
        found = next(_inside(place), None)
        if found is not None:
            return found.absolute()
        searched.append(place)
    listed = "\n  ".join(str(place) for place in dict.fromkeys(searched))
    raise ExternalToolError(
        f"DFTB+ was not found: there is no {NAMES[0]} in these folders, or in lib or lib64 in them:\n  {listed}\n"
        f"{_REMEDY}"
    )


def _inside(place: Path) -> Iterator[Path]:
    """The library in a folder, or in the folder of libraries of a prefix."""
    candidates = (place / folder / name for folder in _FOLDERS for name in NAMES)
    return (candidate for candidate in candidates if candidate.is_file())


def _places() -> Iterator[Path]:
    for prefix in (os.environ.get("CONDA_PREFIX"), os.environ.get("VIRTUAL_ENV"), sys.prefix):
        if prefix:
            yield Path(prefix)
    installed = _installed_module()
    if installed is not None:
        # <prefix>/lib/python3.x/site-packages/dftbplus/__init__.py
        yield from installed.parents[2:5]
    for variable in ("LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH"):
        for folder in os.environ.get(variable, "").split(os.pathsep):
            if folder:
                yield Path(folder)


def _installed_module() -> Path | None:
    spec = importlib.util.find_spec("dftbplus")
    return Path(spec.origin) if spec is not None and spec.origin else None


def _modules(file: Path) -> Iterator[Path]:
    for folder in (file.parent, file.parent.parent / "lib"):
        yield from sorted(folder.glob("python3*/site-packages/dftbplus/__init__.py"))
    installed = _installed_module()
    if installed is not None:
        yield installed


def _version(file: Path) -> str:
    """The release: the package's own file tells it, or conda's record."""
    # The file may be a link to one in another installation.
    for folder in dict.fromkeys((file.parent, file.resolve().parent)):
        for package in (folder / "pkgconfig").glob("dftb*.pc"):
            found = re.search(r"(?m)^Version: (\S+)", package.read_text(errors="replace"))
            if found:
                return found[1]
        for record in (folder.parent / "conda-meta").glob("dftbplus-[0-9]*.json"):
            return record.name.split("-")[1]
    return "unknown"
