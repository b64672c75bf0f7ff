from types import SimpleNamespace

import pytest

from deltaqmmm.cli.console import formula, table, threads_in_words
from deltaqmmm.config.threads import Threads


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
