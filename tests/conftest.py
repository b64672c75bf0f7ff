"""What all tests share: one thread each, and a skip that says what is missing."""

from __future__ import annotations

import os
from pathlib import Path

# Before anything imports numpy or torch: the workers of pytest-xdist share the cores.
for _name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "OPENMM_CPU_THREADS"):
    os.environ.setdefault(_name, "1")

import pytest  # noqa: E402
import torch  # noqa: E402

torch.set_num_threads(1)

DATA = Path(__file__).parent / "data"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    # The longest first: at the end one worker would wait for another.
    items.sort(key=lambda item: item.get_closest_marker("slow") is None)
    if torch.cuda.is_available():
        return
    skip = pytest.mark.skip(reason=f"no CUDA device was found (torch {torch.__version__})")
    for item in items:
        if item.get_closest_marker("gpu") is not None:
            item.add_marker(skip)


@pytest.fixture(scope="session")
def data_folder() -> Path:
    """The folder of test data."""
    return DATA


@pytest.fixture(scope="session")
def slater_koster_folder() -> Path:
    """Folder of the 3ob-3-1 files of the AmberTools wheel; skips without it."""
    from deltaqmmm.dftb import DFTBSettings
    from deltaqmmm.dftb.slater_koster import candidate_folders

    candidates = candidate_folders(DFTBSettings())
    for folder in candidates:
        if (folder / "C-H.skf").is_file():
            return folder
    pytest.skip(f"no 3ob-3-1 Slater-Koster files in {', '.join(map(str, candidates))}")


@pytest.fixture(scope="session")
def dftbplus():
    """DFTB+ on this machine (`dftbplus.Library`); skips without it, saying where it was searched."""
    from deltaqmmm.dftb.dftbplus import find_library
    from deltaqmmm.errors import ExternalToolError

    try:
        return find_library()
    except ExternalToolError as error:
        pytest.skip(str(error))


@pytest.fixture
def make_engine(request):
    """make_engine(kind, symbols, charge, settings, ...): an engine whose processes end with the test."""
    from tests.engines import make_engine_of_kind

    made = []

    def make(kind, *arguments, **program):
        if kind == "dftb+":
            request.getfixturevalue("dftbplus")
        engine = make_engine_of_kind(kind, *arguments, **program)
        made.append(engine)
        return engine

    yield make
    for engine in made:
        if hasattr(engine, "close"):
            engine.close()
