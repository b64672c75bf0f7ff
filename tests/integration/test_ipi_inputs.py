"""Every folder of ipi_inputs/ runs on the real i-PI, as its README says, for a few steps."""

import re
import shutil
from pathlib import Path

import numpy as np
import pytest

from tests.integration.ipi.server import unique_name
from tests.integration.pair import run_pair

INPUTS = Path(__file__).parents[2] / "ipi_inputs"
CASES = sorted(path.parent.name for path in INPUTS.glob("*/input.xml"))
STEPS, BEADS = 2, 2
# Of ipi_inputs/system/init.xyz, hartree; float32 forces of the CPU platform leave the last digits open.
FIRST_POTENTIAL = -25.79998


def test_there_are_cases():
    assert {"pimd", "ffdirect"} <= set(CASES)


@pytest.mark.parametrize("case", CASES)
def test_case_runs(case, tmp_path):
    shutil.copytree(INPUTS, tmp_path, dirs_exist_ok=True)
    folder = tmp_path / case
    text = (folder / "input.xml").read_text()
    address = unique_name(case)
    for pattern, value in (
        (r"<total_steps>.*?</total_steps>", f"<total_steps> {STEPS} </total_steps>"),
        (r"<address>.*?</address>", f"<address> {address} </address>"),
        (r"<batch_size>.*?</batch_size>", f"<batch_size> {BEADS} </batch_size>"),
        (r"nbeads='\d+'", f"nbeads='{BEADS}'"),
        (r"stride='\d+'", "stride='1'"),
    ):
        text = re.sub(pattern, value, text)
    (folder / "input.xml").write_text(text)
    run_pair(folder, ["-u", "-a", address] if "<ffsocket" in text else None, timeout=120)
    properties = np.loadtxt(folder / "run.out")
    assert properties.shape[0] == STEPS + 1
    assert np.isfinite(properties).all()
    # The same start in every case, so the same first potential energy (hartree).
    assert properties[0, 5] == pytest.approx(FIRST_POTENTIAL, abs=2e-4)
    charges = np.loadtxt(folder / "run.qm_charges_0")
    assert charges.shape == (STEPS + 1, 12)
    assert np.abs(charges.sum(axis=1)).max() < 1e-5
