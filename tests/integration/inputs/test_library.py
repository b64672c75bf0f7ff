"""What every folder of ipi_inputs/ has, and that i-PI and `deltaqmmm run` accept all inputs as they stand there."""

import json
import re
import shutil
import subprocess
import sys

import numpy as np
import pytest

from deltaqmmm.cases import LIBRARY, find_case, list_cases
from deltaqmmm.cli import run_plan
from deltaqmmm.cli.main import main, make_parser
from deltaqmmm.config import read_config
from deltaqmmm.config.parts import load_split
from deltaqmmm.errors import InputError
from tests.corrections import write_model
from tests.integration.inputs.case import INPUTS
from tests.integration.ipi.server import environment, read_properties, unique_name
from tests.integration.pair import run_pair

SYSTEMS = {file.parent.name for file in INPUTS.glob("*/*.prmtop")}
CASES = sorted({file.parent.name for file in INPUTS.glob("*/input.xml")} - SYSTEMS)
XMLS = sorted(f"{file.parent.name}/{file.name}" for case in CASES for file in (INPUTS / case).glob("*.xml"))
STEPS, BEADS = 2, 2
# Of ipi_inputs/system/init.xyz, hartree; float32 forces of the CPU platform leave the last digits open.
FIRST_POTENTIAL = -25.79998

PARSE = """\
import json, sys
from ipi.inputs.simulation import InputSimulation
from ipi.utils.io.inputs.io_xml import xml_parse_file
refused = {}
for name in sys.argv[1:]:
    with open(name) as stream:
        root = xml_parse_file(stream).fields[0][1]
    try:
        InputSimulation().parse(root)
    except BaseException as error:
        refused[name] = repr(error)
print(json.dumps(refused))
"""


def test_there_are_cases():
    assert {"pimd", "ffdirect", "remd", "cluster"} <= set(CASES)
    assert [case.name for case in list_cases()] == CASES
    assert LIBRARY.resolve() == INPUTS


@pytest.mark.parametrize("case", CASES)
def test_a_case_has_all_its_parts(case):
    for name in ("README.md", "config.toml", "case.toml"):
        assert (INPUTS / case / name).is_file(), f"{case} lacks {name}"
    tests = INPUTS.parent / "tests" / "integration" / "inputs"
    assert (tests / f"test_{case}.py").is_file()
    assert f"| [`{case}`]({case}/README.md) |" in (INPUTS / "README.md").read_text()
    # What the README shows and names is there.
    text = (INPUTS / case / "README.md").read_text()
    for name in re.findall(r"\]\(([^):#]+)\)", text):
        assert (INPUTS / case / name).exists(), f"{case}/README.md: {name}"
    assert find_case(case).title


def test_the_table_has_no_others():
    rows = re.findall(r"^\| \[`(\w+)`\]\(", (INPUTS / "README.md").read_text(), flags=re.MULTILINE)
    assert sorted(rows) == CASES


def test_ipi_accepts_every_input():
    command = [sys.executable, "-c", PARSE, *(str(INPUTS / name) for name in XMLS)]
    done = subprocess.run(command, env=environment(), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1]) == {}


@pytest.mark.parametrize("name", XMLS)
def test_run_accepts_every_input(name):
    """All files are there, and atoms of the start structure and of the topology agree."""
    folder, file = name.split("/")
    options = make_parser().parse_args(["run", str(INPUTS / folder), "--input", file, "--fresh", "--quiet"])
    try:
        plan = run_plan.make_plan(options)
    except InputError as error:
        if "needs PLUMED" in str(error):
            pytest.skip(str(error))
        if "model" in find_case(folder).needs and "model" in str(error):
            return
        raise
    assert plan is not None
    assert plan.total_steps > 0


@pytest.mark.parametrize("case", CASES)
def test_new_makes_a_folder_that_stands_alone(case, tmp_path):
    """For a system, and a place, that the case has never seen."""
    words = ["new", case, str(tmp_path / "a" / "other"), "--system", str(INPUTS / "small"), "--quiet"]
    if "model" in find_case(case).needs:
        config = read_config(INPUTS / "small" / "config.toml")
        write_model(tmp_path / "model.safetensors", config, load_split(config)[1])
        words += ["--model", str(tmp_path / "model.safetensors")]
    if "plumed" in find_case(case).needs:
        pytest.importorskip("plumed", reason="PLUMED's Python module is not installed")
    assert main(words) == 0
    folder = tmp_path / "a" / "other"
    for file in folder.glob("*.xml"):
        assert "../" not in re.sub(r"<!--.*?-->", "", file.read_text(), flags=re.DOTALL), file.name
    assert "../" not in (folder / "config.toml").read_text()
    for unwanted in ("study.py", "figure.png", "case.toml", "study"):
        assert not (folder / unwanted).exists()


@pytest.mark.parametrize("case", ["pimd", "ffdirect"])
def test_a_folder_runs_where_it_is(case, tmp_path):
    """As its README says, with the system beside it."""
    for name in ("system", case):
        shutil.copytree(INPUTS / name, tmp_path / name, ignore=shutil.ignore_patterns("study"))
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
    properties = read_properties(folder / "run.out")
    assert list(properties["step"]) == list(range(STEPS + 1))
    assert all(np.isfinite(values).all() for values in properties.values())
    # The same start in every case, so the same first potential energy (hartree).
    assert properties["potential"][0] == pytest.approx(FIRST_POTENTIAL, abs=2e-4)
    charges = np.loadtxt(folder / "run.qm_charges_0")
    assert charges.shape == (STEPS + 1, 12)
    assert np.abs(charges.sum(axis=1)).max() < 1e-5
