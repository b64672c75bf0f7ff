from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from deltaqmmm.cli.console import formula, method_warnings, print_warnings, system_warnings, table, threads_in_words
from deltaqmmm.config.threads import Threads
from deltaqmmm.system import System
from deltaqmmm.topology import NonbondedSettings, load_topology
from deltaqmmm.units import ANGSTROM


def test_table_aligns_its_columns():
    text = table(["term", "hartree"], [["mm", "-1.5"], ["dftb", "-100.25"]], indent="")
    assert text == "term  hartree\n----  -------\nmm       -1.5\ndftb  -100.25"


def test_formula_in_hill_order():
    assert formula(["O", "H", "N", "C", "C", "H"]) == "C2 H2 N O"
    assert formula(["O", "H", "H"]) == "H2 O"
    assert formula(["H", "Br", "C"]) == "C H Br"


@pytest.mark.parametrize(
    ("threads", "platform", "embedded", "expected"),
    [
        (Threads(1, 1, 1), "CPU", True, "1 core: MM 1, and at the same time QM 1"),
        (Threads(16, 12, 4), "CPU", True, "16 cores: MM 12, and at the same time QM 4"),
        (Threads(16, 12, 4), "CPU", False, "16 cores: MM 12"),
        (Threads(16, 12, 4), "CUDA", True, "16 cores: QM 4"),
        (Threads(16, 12, 4), None, True, "16 cores: QM 4"),
        (Threads(16, 12, 4), "CUDA", False, "16 cores"),
    ],
)
def test_threads_in_words(threads, platform, embedded, expected):
    mm = None if platform is None else SimpleNamespace(platform=platform)
    loaded = SimpleNamespace(threads=threads, mm=mm, dftb=object() if embedded else None, correction=None)
    assert threads_in_words(loaded) == expected


@pytest.mark.parametrize(
    ("ions", "edge", "kind", "expected"),
    [
        (False, 18.0, "cutoff", []),
        (True, 18.0, "cutoff", ["not neutral", "narrower than twice the reach of the embedding (9.5 angstrom)"]),
        (True, 20.0, "cutoff", ["not neutral"]),
        (True, None, "cutoff", ["not neutral"]),
        (True, 18.0, "all", []),
    ],
)
def test_warnings_of_ions(data_folder, capsys, ions, edge, kind, expected):
    """One water of the box made an ion; what is the only doubt then."""
    files = (data_folder / f"mm_systems/uracil_box.{kind}" for kind in ("prmtop", "rst7"))
    topology = load_topology(*files, NonbondedSettings(8.0 * ANGSTROM, 7.0 * ANGSTROM))
    system = System.from_topology(topology, range(12))
    if ions:
        system.site_charges[system.site_groups == 0] += 0.5
    cell = None if edge is None else edge * ANGSTROM * np.eye(3)
    dftb = SimpleNamespace(model="dftb2", dispersion="none")
    config = SimpleNamespace(dftb=dftb, embedding=SimpleNamespace(kind=kind, outer_angstrom=9.5))
    print_warnings(system_warnings(config, replace(topology, cell=cell), system))
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == len(expected)
    for line, words in zip(lines, expected, strict=True):
        assert line.startswith("WARNING: ")
        assert words in line


@pytest.mark.parametrize(
    ("model", "dispersion", "warned"),
    [("dftb2", "d3bj", True), ("dftb3", "d3bj", False), ("dftb2", "none", False)],
)
def test_parameters_of_another_model_are_warned_of(model, dispersion, warned):
    found = method_warnings(SimpleNamespace(dftb=SimpleNamespace(model=model, dispersion=dispersion)))
    assert [lines[0].startswith('[dftb] dispersion = "d3bj" takes the damping') for lines in found] == [True] * warned
