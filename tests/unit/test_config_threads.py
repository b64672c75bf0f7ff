"""How the cores are shared out between MM and torch."""

from types import SimpleNamespace

import pytest

from deltaqmmm.config import threads
from deltaqmmm.config.threads import Threads, available_cores, share_threads


def config(driver=0, mm=0, dftb=0):
    return SimpleNamespace(
        driver=SimpleNamespace(threads=driver), mm=SimpleNamespace(threads=mm), dftb=SimpleNamespace(threads=dftb)
    )


@pytest.fixture
def machine(monkeypatch, tmp_path):
    """Sets how many cores there are, without limits."""
    monkeypatch.delenv("OPENMM_CPU_THREADS", raising=False)
    monkeypatch.setattr(threads, "_CGROUPS", tmp_path)

    def set_cores(count):
        monkeypatch.setattr(threads.os, "sched_getaffinity", lambda _: set(range(count)), raising=False)

    return set_cores


@pytest.mark.parametrize(
    ("cores", "mm", "torch"), [(1, 1, 1), (2, 2, 1), (3, 3, 1), (4, 3, 1), (8, 6, 2), (16, 12, 4), (64, 48, 16)]
)
def test_the_qm_side_has_a_quarter_of_the_cores_and_mm_the_others(machine, cores, mm, torch):
    machine(cores)
    expected = Threads(cores=cores, mm=mm, torch=torch)
    assert share_threads(config()) == expected
    # the same number in the configuration, on another machine
    machine(3)
    assert share_threads(config(driver=cores)) == expected


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"dftb": 6}, Threads(16, 10, 6)),
        ({"mm": 4}, Threads(16, 4, 4)),
        ({"mm": 1, "dftb": 1}, Threads(16, 1, 1)),
        ({"mm": 16, "dftb": 16}, Threads(16, 16, 16)),
        ({"dftb": 16}, Threads(16, 1, 16)),
        ({"driver": 8, "mm": 2, "dftb": 2}, Threads(8, 2, 2)),
        ({"driver": 1, "mm": 1}, Threads(1, 1, 1)),
        # more than there are, if that is what is asked for
        ({"mm": 32}, Threads(32, 32, 8)),
        ({"driver": 2, "mm": 4}, Threads(2, 4, 1)),
    ],
)
def test_what_the_configuration_says_goes_first(machine, given, expected):
    machine(16)
    assert share_threads(config(**given)) == expected


def test_environment_and_container_limit_the_cores(machine, monkeypatch, tmp_path):
    machine(8)
    assert available_cores() == 8
    monkeypatch.setenv("OPENMM_CPU_THREADS", "3")
    assert available_cores() == 3
    assert share_threads(config()).cores == 3
    assert share_threads(config(driver=6)).cores == 6
    for nothing in ("", "0", "many", "99"):
        monkeypatch.setenv("OPENMM_CPU_THREADS", nothing)
        assert available_cores() == {"0": 1}.get(nothing, 8)
    monkeypatch.delenv("OPENMM_CPU_THREADS")
    for text, cores in (("250000 100000\n", 3), ("50000 100000\n", 1), ("max 100000\n", 8), ("", 8), ("nonsense", 8)):
        (tmp_path / "cpu.max").write_text(text)
        assert available_cores() == cores
    (tmp_path / "cpu.max").unlink()
    (tmp_path / "cpu").mkdir()
    for quota, cores in (("400000\n", 4), ("-1\n", 8)):
        (tmp_path / "cpu" / "cpu.cfs_quota_us").write_text(quota)
        (tmp_path / "cpu" / "cpu.cfs_period_us").write_text("100000\n")
        assert available_cores() == cores


def test_a_system_without_affinities(machine, monkeypatch):
    machine(8)
    monkeypatch.delattr(threads.os, "sched_getaffinity")
    monkeypatch.setattr(threads.os, "cpu_count", lambda: 5)
    assert available_cores() == 5
    monkeypatch.setattr(threads.os, "cpu_count", lambda: None)
    assert available_cores() == 1
