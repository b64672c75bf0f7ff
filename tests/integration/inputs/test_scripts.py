"""Scripts beside inputs and in the examples find what they import: most of them run in `make physics` or by hand."""

import importlib.util
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
SCRIPTS = sorted(
    str(file.relative_to(ROOT)) for folder in ("ipi_inputs", "examples") for file in (ROOT / folder).glob("*/*.py")
)


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_script_finds_what_it_imports(script, monkeypatch):
    # As when it is run: what lies beside it can be imported.
    monkeypatch.setattr(sys, "path", [str((ROOT / script).parent), *sys.path])
    specification = importlib.util.spec_from_file_location("script_under_test", ROOT / script)
    module = importlib.util.module_from_spec(specification)
    # Data classes look their module up.
    monkeypatch.setitem(sys.modules, "script_under_test", module)
    specification.loader.exec_module(module)
