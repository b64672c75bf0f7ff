"""The user's own input and what lies beside it, as they were when the engine was made.

Workers are started again in the middle of a run: all of them must compute with the same input, also where somebody
edits it meanwhile.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import tempfile
import weakref
from collections.abc import Sequence
from fnmatch import fnmatch
from pathlib import Path

from deltaqmmm.dftb.dftbplus import worker
from deltaqmmm.dftb.dftbplus.hsd import read_user_input

LARGE_FILE = 4 << 20
"""Bytes up to which files beside the user's input are copied; larger ones and folders are seen through links."""
WRITTEN = ("detailed.out", "band.out", "results.tag", "autotest.tag", "md.out", "geo_end.*")
"""What DFTB+ writes and does not read."""
READ_AND_WRITTEN = ("charges.bin", "charges.dat")
"""What DFTB+ writes and may read: each worker has its own."""

_INCLUSION = re.compile(r"""(<<[<+])[ \t]*(?:"([^"\n]+)"|'([^'\n]+)'|([^\s"'{}#]+))""")


class Snapshot:
    """A folder that workers are furnished from; it goes with this object, and with its workers if the owner is killed.

    Attributes:
        folder: The folder.
        text: The input. Files that it includes (and that these include) are copies in the folder.
    """

    def __init__(self, hsd: Path, symbols: Sequence[str]) -> None:
        """Read the input and what it includes, and copy what lies beside it.

        Args:
            hsd: The user's input.
            symbols: Elements of the QM region.

        Raises:
            ParameterError: The input cannot be read.
        """
        text = read_user_input(hsd, symbols)
        self._source = hsd.resolve().parent
        self._included: dict[str, str] = {}
        self.folder = Path(tempfile.mkdtemp(prefix="deltaqmmm_dftbplus_"))
        self._finalizer = weakref.finalize(self, _remove, self.folder, os.getpid())
        for entry in self._source.iterdir():
            if entry.name in (worker.INPUT, worker.PROCESSED) or _is_one_of(entry.name, WRITTEN):
                continue
            with contextlib.suppress(OSError):
                if entry.is_file() and (entry.stat().st_size <= LARGE_FILE or _is_one_of(entry.name, READ_AND_WRITTEN)):
                    shutil.copy(entry, self.folder / entry.name)
                else:
                    (self.folder / entry.name).symlink_to(entry)
        self.text = self._with_copies(text)

    def furnish(self, folder: Path) -> None:
        """Let relative paths work in a folder as they do beside the user's input, and none of his files be written."""
        for entry in self.folder.iterdir():
            if _is_one_of(entry.name, READ_AND_WRITTEN):
                shutil.copy(entry, folder / entry.name)
            else:
                (folder / entry.name).symlink_to(entry)

    def _with_copies(self, text: str) -> str:
        """The text with copies in place of the files that it includes; one that cannot be read is DFTB+'s to tell."""
        return _INCLUSION.sub(lambda found: self._copied(found[0], found[1], found[2] or found[3] or found[4]), text)

    def _copied(self, words: str, operator: str, given: str) -> str:
        """An inclusion of the copy, in place of these words that include the file `given`."""
        key = f"{operator} {given}"
        if key not in self._included:
            name = f"included_{len(self._included) + 1}_{re.sub(r'[^A-Za-z0-9.-]', '_', Path(given).name)}"
            try:
                content = (self._source / given).read_text(encoding="utf-8", errors="surrogateescape")
            except OSError:
                return words
            # Known before its own inclusions are followed, so that a file which includes itself comes to an end.
            self._included[key] = name
            copy = self._with_copies(content) if operator == "<<+" else content
            (self.folder / name).write_text(copy, encoding="utf-8", errors="surrogateescape")
        return f'{operator} "{self._included[key]}"'


def _is_one_of(name: str, patterns: Sequence[str]) -> bool:
    return any(fnmatch(name, pattern) for pattern in patterns)


def _remove(folder: Path, owner: int) -> None:
    """A forked process that ends leaves the folder to its owner."""
    if os.getpid() == owner:
        shutil.rmtree(folder, ignore_errors=True)
