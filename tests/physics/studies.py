"""The studies of ipi_inputs/, loaded from their folders."""

import importlib.util
import sys
from pathlib import Path

LIBRARY = Path(__file__).resolve().parents[2] / "ipi_inputs"


def load(case):
    """The study.py of a case."""
    spec = importlib.util.spec_from_file_location(f"{case}_study", LIBRARY / case / "study.py")
    study = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = study
    spec.loader.exec_module(study)
    return study
