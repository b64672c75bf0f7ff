"""`python -m benchmarks`: what it writes, what it leaves out, and the parts that measure nothing."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from benchmarks import dftbplus, wire
from benchmarks.measurements import Result, table
from benchmarks.programs import Program, ProgramFailedError, ProgramMissingError

ROOT = Path(__file__).parents[2]


def run_quick(folder, *words, **environment):
    """Run a benchmark at its smallest and return its exit status, JSON and output."""
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "benchmarks",
            *words,
            "--quick",
            "--output",
            folder / "out",
            "--cache",
            folder / "cache",
        ],
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1"} | environment,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode in (0, 1), done.stderr
    file = folder / "out" / f"{words[0]}.json"
    assert file.is_file(), done.stdout + done.stderr
    return done.returncode, json.loads(file.read_text()), done.stdout


@pytest.fixture(scope="module")
def without_dftbplus(tmp_path_factory):
    folder = tmp_path_factory.mktemp("benchmarks")
    missing = folder / "libdftbplus.so"
    return folder, *run_quick(folder, "dftb", "--batches", "2", "--rounds", "1", DFTBPLUS_LIBRARY=str(missing))


@pytest.mark.slow
def test_the_file_says_what_was_measured_and_on_what(without_dftbplus):
    folder, status, result, output = without_dftbplus
    assert status == 0
    assert (result["schema"], result["case"]) == (1, "dftb")
    assert result["settings"]["batches"] == [2]
    assert result["hardware"]["processor"]
    assert result["hardware"]["cores"] >= 1
    assert result["versions"]["torch"]
    assert {row["system"] for row in result["measurements"]} == {"uracil, water", "uracil, gas"}
    for row in result["measurements"]:
        samples = row["samples"]
        assert row["unit"] == "ms per frame"
        assert row["median"] == pytest.approx(np.median(samples), rel=1e-5)
        assert row["minimum"] <= row["quartiles"][0] <= row["median"] <= row["quartiles"][1] <= row["maximum"]
        assert min(samples) > 0.0
    (ours,) = [row for row in result["measurements"] if row["name"].startswith("deltaqmmm/dftb/uracil, water/")]
    assert (ours["batch"], ours["threads"], ours["device"]) == (2, 1, "cpu")
    # One round: a turn of six frames, of which the first does not count.
    assert len(ours["samples"]) == 5
    assert (ours["n_qm"], ours["n_orbitals"]) == (12, 36)
    assert "uracil, water" in output
    assert (folder / "out" / "dftb_cpu_1thread.png").stat().st_size > 10_000


@pytest.mark.slow
def test_ratios_are_ratios_of_the_medians(without_dftbplus):
    _, _, result, _ = without_dftbplus
    medians = {row["name"]: row["median"] for row in result["measurements"]}
    assert len(medians) == len(result["measurements"])
    assert {row["denominator"].split("/")[0] for row in result["ratios"]} == {"LAPACK", "BLAS"}
    for row in result["ratios"]:
        assert row["value"] == pytest.approx(medians[row["numerator"]] / medians[row["denominator"]], rel=1e-12)


@pytest.mark.slow
def test_a_missing_program_is_left_out_with_the_reason(without_dftbplus):
    folder, _, result, output = without_dftbplus
    entry = result["programs"]["DFTB+"]
    assert entry["available"] is False
    assert entry["reason"].startswith(f"DFTBPLUS_LIBRARY = {folder / 'libdftbplus.so'} is neither")
    assert f"DFTB+: left out: {entry['reason']}" in output
    assert not [row for row in result["measurements"] if row["program"] == "DFTB+"]


@pytest.mark.slow
def test_dftbplus_computes_the_same_energies(tmp_path):
    try:
        library = dftbplus.find().file
    except ProgramMissingError as error:
        pytest.skip(str(error))
    status, result, _ = run_quick(tmp_path, "dftb", "--batches", "1", "--rounds", "1", DFTBPLUS_LIBRARY=str(library))
    assert status == 0
    assert result["programs"]["DFTB+"]["available"]
    energies = [row for row in result["checks"] if row["what"].startswith("energy")]
    assert [row["system"] for row in energies] == ["uracil, water", "uracil, gas"]
    for row in energies:
        assert row["passed"]
        assert 0.0 < row["largest"] < 1e-9
    (row,) = [row for row in result["ratios"] if row["numerator"].startswith("DFTB+/dftb/uracil, water/")]
    assert row["denominator"] == "deltaqmmm/dftb/uracil, water/cpu/threads=1/batch=1"


class Counting:
    """A program for tests."""

    def __init__(self, fate="works"):
        if fate == "missing":
            raise ProgramMissingError("it is not there")
        self._fate = fate

    def threads(self):
        print("a line that nobody wants to see")
        return os.environ["OMP_NUM_THREADS"], len(os.sched_getaffinity(0))

    def end(self):
        print("last words", flush=True)
        os._exit(3)

    def fail(self):
        raise ValueError("this went wrong")


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="this system does not tell the cores of a process")
def test_a_program_runs_on_its_own_threads_and_cores(capfd, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    monkeypatch.delenv("MKL_NUM_THREADS", raising=False)
    with Program(Counting, 1) as program:
        assert program.call("threads") == ("1", 1)
    assert os.environ["OMP_NUM_THREADS"] == "7"
    assert "MKL_NUM_THREADS" not in os.environ
    assert "nobody" not in capfd.readouterr().out


def test_a_program_that_fails_says_why():
    with pytest.raises(ProgramMissingError, match="it is not there"):
        Program(Counting, 1, fate="missing")
    with Program(Counting, 1) as program, pytest.raises(ProgramFailedError, match="this went wrong"):
        program.call("fail")
    with Program(Counting, 1) as program, pytest.raises(ProgramFailedError, match=r"status 3.*\n.*last words"):
        program.call("end")


def test_parts_of_a_batch_count_as_one_step():
    # Four beads; the second step comes in two parts. Five steps are left out, as i-PI and the driver warm up.
    durations = [1.0] * 7 + [2.0, 3.0] + [1.0] * 2
    frames = [4] * 7 + [1, 3] + [4] * 2
    begins = np.concatenate([[0.0], np.cumsum(np.array(durations) + 0.5)[:-1]])
    times = np.stack([begins, begins + durations, np.array(frames, dtype=float)], axis=1)
    steps, evaluations, exchanges = wire.by_step(times, 4)
    assert exchanges == pytest.approx(1.1)
    np.testing.assert_allclose(evaluations, [1.0, 1.0, 5.0, 1.0])
    np.testing.assert_allclose(steps - evaluations, [0.5, 0.5, 1.0, 0.5])


def test_exponents_are_those_of_the_times():
    result = Result("scaling", {})
    result.fit("cubic", "orbitals", [10, 20, 40], [2e-3 * 10**3, 2e-3 * 20**3, 2e-3 * 40**3])
    result.fit("one size only", "atoms", [10, 10], [1.0, 2.0])
    (row,) = result.fits
    assert row["exponent"] == pytest.approx(3.0)
    assert row["ms_at_1"] == pytest.approx(2e-3)


def test_a_check_above_its_limit_does_not_pass():
    result = Result("dftb", {})
    for largest in (0.5e-6, 2e-6):
        result.check("energy", "uracil", largest, 1e-6, "hartree")
    assert [row["passed"] for row in result.checks] == [True, False]


def test_two_measurements_of_one_name_are_refused():
    result = Result("dftb", {})
    first = result.add("deltaqmmm", "dftb", "uracil", [2.0, 4.0, 3.0])
    second = result.add("deltaqmmm", "dftb", "uracil", [1.0, 2.0], batch=8)
    assert result.ratio(first, second) == pytest.approx(2.0)
    assert result.find("deltaqmmm", "dftb", batch=8) == [second]
    with pytest.raises(ValueError, match="batch=8"):
        result.add("deltaqmmm", "dftb", "uracil", [1.0], batch=8)


def test_a_table_shows_three_digits_and_a_dash_for_nothing():
    lines = table(["system", "ms"], [["uracil", 12.3456], ["benzene", None]]).splitlines()
    assert lines[2].split() == ["|", "uracil", "|", "12.3", "|"]
    assert lines[3].split() == ["|", "benzene", "|", "-", "|"]
    assert len({len(line) for line in lines}) == 1
