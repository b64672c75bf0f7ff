"""How the loops are kept on disk, and what happens where nothing can be kept."""

from __future__ import annotations

import errno
import importlib.util
import threading
import time

import numba
import pytest
from numba.core.caching import IndexDataCacheFile

from deltaqmmm import jit
from deltaqmmm.jit import Kernel


def imported(file):
    """A function from a file of its own, for numba keeps only such."""
    file.write_text("def is_positive(number):\n    return number > 0\n")
    specification = importlib.util.spec_from_file_location(file.stem, file)
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module.is_positive


def test_loops_are_kept_on_disk(tmp_path, monkeypatch):
    monkeypatch.setattr(numba.config, "CACHE_DIR", str(tmp_path / "kept"))
    kernel = Kernel(imported(tmp_path / "some.py"))
    assert kernel(1)
    assert len(list((tmp_path / "kept").rglob("*.nbc"))) == 1


def test_no_folder_to_keep_the_loops():
    room = {}
    exec("def is_positive(number):\n    return number > 0\n", room)  # in no file, which numba does not keep
    with pytest.raises(RuntimeError, match="no locator available"):
        numba.njit(cache=True)(room["is_positive"])
    kernel = Kernel(room["is_positive"])
    assert kernel(1)
    assert not kernel(-1)


def test_a_folder_that_can_no_longer_be_written(tmp_path, monkeypatch):
    folder = tmp_path / "kept"
    monkeypatch.setattr(numba.config, "CACHE_DIR", str(folder))
    kernel = Kernel(imported(tmp_path / "other.py"))
    assert folder.is_dir()
    # A file in its place.
    for inside in folder.iterdir():
        inside.rmdir()
    folder.rmdir()
    folder.write_text("")
    assert kernel(1)
    assert not kernel(-1)


@pytest.mark.parametrize("suffix", ["nbi", "nbc"])
@pytest.mark.parametrize("left", [0, 20])
def test_what_was_not_written_whole(tmp_path, monkeypatch, left, suffix):
    """After a crash of the machine, for one: it is compiled once more, and not at every start."""
    monkeypatch.setattr(numba.config, "CACHE_DIR", str(tmp_path / "kept"))
    source = tmp_path / "fourth.py"
    assert Kernel(imported(source))(1)
    (damaged,) = (tmp_path / "kept").rglob(f"*.{suffix}")
    damaged.write_bytes(damaged.read_bytes()[:left])
    for found in (0, 1):
        kernel = Kernel(imported(source))
        assert kernel(1)
        assert not kernel(-1)
        assert len(kernel._compiled.stats.cache_hits) == found


def test_what_was_not_written_whole_and_cannot_be_written(tmp_path, monkeypatch):
    monkeypatch.setattr(numba.config, "CACHE_DIR", str(tmp_path / "kept"))
    source = tmp_path / "fifth.py"
    assert Kernel(imported(source))(1)
    (index,) = (tmp_path / "kept").rglob("*.nbi")
    index.write_bytes(b"")

    def full(*arguments):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(IndexDataCacheFile, "_save_index", full)
    kernel = Kernel(imported(source))
    assert kernel(1)
    assert not kernel(-1)


def test_loops_are_compiled_anew_when_any_source_changes(tmp_path, monkeypatch):
    # numba looks at the file of the loop alone, which stays as it is.
    monkeypatch.setattr(numba.config, "CACHE_DIR", str(tmp_path / "kept"))
    for state in ("before", "before", "after"):
        monkeypatch.setattr(jit, "_state_of_sources", lambda _, state=state: state)
        kernel = Kernel(imported(tmp_path / "third.py"))
        assert kernel(1)
    assert len(list((tmp_path / "kept").rglob("*.nbi"))) == 2


def test_the_state_of_the_sources(tmp_path):
    """The files beside that of the function and in the folder above, where what it calls is."""
    folder = tmp_path / "room" / "compiled"
    folder.mkdir(parents=True)
    function = imported(folder / "loops.py")
    states = [jit._state_of_sources(function)]
    for file in (folder / "inner.py", folder.parent / "functions.py"):
        file.write_text("one = 1\n")
        states.append(jit._state_of_sources(function))
    (folder / "inner.py").write_text("one = 2\n")
    states.append(jit._state_of_sources(function))
    assert len(set(states)) == 4
    assert jit._state_of_sources(function) == states[-1]


def called_in_a_thread(kernel, found):
    thread = threading.Thread(target=lambda: found.append(kernel(1)))
    thread.start()
    return thread


def test_one_compiles_and_the_others_wait(tmp_path, monkeypatch):
    monkeypatch.setattr(numba.config, "CACHE_DIR", str(tmp_path / "kept"))
    source, found = tmp_path / "sixth.py", []
    first, second = Kernel(imported(source)), Kernel(imported(source))
    # As another process would: locks are of open files.
    with jit._alone(first._lock):
        thread = called_in_a_thread(second, found)
        assert first._call((1,))
        thread.join(0.3)
        assert not found
    thread.join(60.0)
    assert found == [True]
    assert len(second._compiled.stats.cache_hits) == 1
    assert not second._compiled.stats.cache_misses


def test_who_compiles_for_too_long_is_not_waited_for(tmp_path, monkeypatch):
    """It may be stopped."""
    monkeypatch.setattr(numba.config, "CACHE_DIR", str(tmp_path / "kept"))
    monkeypatch.setattr(jit, "_LONGEST_WAIT", 0.2)
    found, kernel = [], Kernel(imported(tmp_path / "seventh.py"))
    start = time.monotonic()
    with jit._alone(kernel._lock):
        called_in_a_thread(kernel, found).join(60.0)
        assert found == [True]
    assert time.monotonic() - start >= 0.2


@pytest.mark.parametrize("error", [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP])
def test_a_file_system_without_locks(tmp_path, monkeypatch, error):
    def refused(*arguments):
        raise OSError(error, "no locks")

    monkeypatch.setattr(numba.config, "CACHE_DIR", str(tmp_path / "kept"))
    monkeypatch.setattr(jit.fcntl, "flock", refused)
    assert Kernel(imported(tmp_path / "eighth.py"))(1)
    assert len(list((tmp_path / "kept").rglob("*.nbc"))) == 1
