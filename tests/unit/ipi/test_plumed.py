"""PLUMED's inputs as far as a restart needs them, and its files cut back to a checkpoint."""

import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from deltaqmmm.errors import InputError
from deltaqmmm.ipi.plumed import end_of_step, find_plumed, read_actions, restore_states, warnings

METADYNAMICS = Path(__file__).parents[3] / "ipi_inputs" / "metadynamics"
OPES = """\
opes: OPES_METAD ...
  ARG=cv PACE=10   # comment with FILE=NOT
  STATE_WFILE=STATES STORE_STATES STATE_RFILE=STATE
... OPES_METAD
"""
HILLS = "#! FIELDS time cv height\n#! SET multivariate false\n 10 0.1 1.0\n 20 0.2 1.0\n"
STATE = "#! FIELDS time cv\n#! SET counter {count}\n {time} 0.1\n {time} 0.2\n"


def runs(folder, text, step=25, dat="plumed.dat"):
    (folder / dat).write_text(text)
    xml = f"<s><ffplumed><plumed_dat> {dat} </plumed_dat><plumed_step>{step}</plumed_step></ffplumed></s>"
    return find_plumed(ET.fromstring(xml), folder)


def outputs(folder, text):
    return runs(folder, text)[0].outputs()


class TestReading:
    @pytest.mark.parametrize(
        ("text", "files"),
        [
            ("METAD ARG=cv PACE=10\n", ["HILLS"]),
            ("m: METAD ARG=cv FILE=a/HILLS.x GRID_WFILE=grid\n", ["a/HILLS.x", "grid"]),
            ("# METAD ARG=cv\n", []),
            ("PRINT ARG=cv FILE=COLVAR\nPRINT ARG=cv\nPRINT ARG=d FILE=COLVAR\n", ["COLVAR"]),
            (OPES, ["KERNELS", "STATES"]),
            ("PBMETAD ARG=a,b PACE=5\n", ["HILLS.a", "HILLS.b"]),
            ("PBMETAD ARG=a,b PACE=5 FILE=H1,H2\n", ["H1", "H2"]),
            # What is read is no output.
            ("EXTERNAL ARG=cv FILE=bias.dat\nREAD FILE=OLD VALUES=cv\n", []),
            ("PRINT ARG={d1 d2} FILE=C\nENDPLUMED\nMETAD ARG=cv\n", ["C"]),
        ],
    )
    def test_what_is_written(self, tmp_path, text, files):
        assert outputs(tmp_path, text) == files

    def test_what_is_included(self, tmp_path):
        (tmp_path / "more.dat").write_text("PRINT ARG=x FILE=MORE\n")
        assert outputs(tmp_path, "INCLUDE FILE=more.dat\nMETAD ARG=x\n") == ["MORE", "HILLS"]
        # One that includes itself ends.
        assert set(outputs(tmp_path, "INCLUDE FILE=plumed.dat\nMETAD ARG=x\n")) == {"HILLS"}

    def test_one_that_is_missing(self, tmp_path):
        assert list(read_actions(tmp_path / "nowhere.dat")) == []

    def test_values(self, tmp_path):
        (opes,) = runs(tmp_path, OPES)[0].actions
        assert opes.name == "OPES_METAD"
        assert opes.values["PACE"] == "10"
        assert "STORE_STATES" in opes.flags

    def test_names_that_come_from_the_input(self, tmp_path):
        (tmp_path / "plumed.dat").write_text("METAD ARG=a\n")
        (first,) = find_plumed(ET.fromstring("<s><ffplumed/></s>"), tmp_path)
        assert (first.step, first.outputs()) == (0, ["HILLS"])

    def test_states_that_would_all_be_read(self, tmp_path):
        with pytest.raises(InputError, match="Give STATE_RFILE another name"):
            runs(tmp_path, OPES.replace("STATE_RFILE=STATE", "STATE_RFILE=STATES"))


class TestCutting:
    def cut(self, folder, content, step=25, text="METAD ARG=x\n"):
        file = folder / "table"
        file.write_text(content)
        place = end_of_step(file, runs(folder, text, step)[0])
        return None if place is None else content[:place]

    @pytest.mark.parametrize("step", [20, 25, 29])
    def test_hills(self, tmp_path, step):
        assert self.cut(tmp_path, HILLS + " 30 0.3 1.0\n 40 0.4 1.0\n", step) == HILLS

    def test_nothing_to_cut(self, tmp_path):
        assert self.cut(tmp_path, HILLS, 25) == HILLS
        assert self.cut(tmp_path, "", 25) == ""

    def test_a_header_goes_with_what_follows(self, tmp_path):
        header = HILLS[: HILLS.index(" 10")]
        assert self.cut(tmp_path, HILLS + header + " 30 0.3 1.0\n", 25) == HILLS
        assert self.cut(tmp_path, HILLS, 5) == ""
        kept = HILLS + header + " 24 0.3 1.0\n"
        assert self.cut(tmp_path, kept + header + " 30 0.3 1.0\n", 25) == kept

    def test_half_a_line(self, tmp_path):
        assert self.cut(tmp_path, HILLS + " 24 0.3", 25) == HILLS

    def test_states(self, tmp_path):
        kept = STATE.format(count=2, time=10) + STATE.format(count=3, time=20)
        assert self.cut(tmp_path, kept + STATE.format(count=4, time=30), 25) == kept

    @pytest.mark.parametrize(("unit", "factor"), [("fs", 1000), ("ns", 0.001), ("2.0", 0.5)])
    def test_units_of_time(self, tmp_path, unit, factor):
        rows = [f" {n * factor:f} 0.1\n" for n in (10, 20, 30)]
        content = "#! FIELDS time cv\n" + "".join(rows)
        assert self.cut(tmp_path, content, 25, f"UNITS TIME={unit}\n") == "#! FIELDS time cv\n" + "".join(rows[:2])

    @pytest.mark.parametrize("content", ["#! FIELDS cv bias\n 1 2\n", "9\n\nH 0 0 0\n", "30 0.1\n"])
    def test_another_kind_of_file(self, tmp_path, content):
        assert self.cut(tmp_path, content) is None


class TestStates:
    def test_the_last_one_is_what_is_read(self, tmp_path):
        first, second = STATE.format(count=2, time=10), STATE.format(count=3, time=20)
        (tmp_path / "STATES").write_text(first + second)
        (tmp_path / "STATE").write_text("old")
        restore_states(tmp_path, runs(tmp_path, OPES))
        assert (tmp_path / "STATE").read_text() == second
        assert (tmp_path / "STATES").read_text() == first + second

    @pytest.mark.parametrize("text", [OPES.replace("STORE_STATES", ""), OPES.replace("STATE_RFILE=STATE", "")])
    def test_without(self, tmp_path, text):
        (tmp_path / "STATES").write_text(STATE.format(count=2, time=10))
        restore_states(tmp_path, runs(tmp_path, text))
        assert not (tmp_path / "STATE").exists()


class TestWarnings:
    def told(self, folder, text, step):
        return " ".join(warnings(folder, runs(folder, text, step)))

    def test_none(self, tmp_path):
        (tmp_path / "HILLS").write_text(HILLS)
        assert self.told(tmp_path, "METAD ARG=x PACE=10\n", 25) == ""
        assert self.told(tmp_path, "METAD ARG=x PACE=@P\n", 99) == ""

    def test_a_first_step_that_makes_no_deposit(self, tmp_path):
        (tmp_path / "HILLS").write_text(HILLS)
        assert "would have made one in step 30" in self.told(tmp_path, "METAD ARG=x PACE=10\n", 29)

    def test_hills_that_were_lost(self, tmp_path):
        (tmp_path / "HILLS").write_text(HILLS)
        assert "HILLS ends at step 20, and the checkpoint is of step 45" in self.told(
            tmp_path, "METAD ARG=x PACE=10\n", 45
        )
        (tmp_path / "HILLS").unlink()
        assert "HILLS ends at step 0" in self.told(tmp_path, "METAD ARG=x PACE=10\n", 45)

    def test_states(self, tmp_path):
        (tmp_path / "KERNELS").write_text(HILLS)
        (tmp_path / "STATE").write_text(STATE.format(count=3, time=20))
        assert self.told(tmp_path, OPES, 25) == ""
        assert "without its state" in self.told(tmp_path, OPES.replace("STATE_RFILE=STATE", ""), 25)
        (tmp_path / "STATE").write_text(STATE.format(count=2, time=10))
        assert "STATE holds the state of step 10, and the last deposit before the checkpoint (step 25) was at 20" in (
            self.told(tmp_path, OPES, 25)
        )
        (tmp_path / "STATE").unlink()
        assert "STATE holds the state of step -" in self.told(tmp_path, OPES, 25)


class TestStridesOfTheCase:
    """The steps from which the inputs of the case go on, and the deposits next to them."""

    def steps(self, file, dat):
        """Those of checkpoints and of RESTART within the run, and PACE."""
        root = ET.parse(METADYNAMICS / file).getroot()
        (pace,) = (int(a.values["PACE"]) for a in read_actions(METADYNAMICS / dat) if "PACE" in a.values)
        total = int(root.findtext("total_steps"))
        strides = int(root.find("output/checkpoint").get("stride")), int(root.get("safe_stride"))
        return *(range(stride, total + 1, stride) for stride in strides), pace

    @pytest.mark.parametrize(("file", "dat"), [("input.xml", "plumed"), ("beads.xml", "plumed"), ("opes.xml", "opes")])
    def test_no_deposit_is_left_out(self, file, dat):
        checkpoints, restarts, pace = self.steps(file, f"{dat}.dat")
        assert not [step for step in (*checkpoints, *restarts) if (step + 1) % pace == 0]

    def test_opes_goes_on_from_few_steps_with_a_deposit(self):
        checkpoints, restarts, pace = self.steps("opes.xml", "opes.dat")
        assert len(checkpoints) == 39
        assert not [step for step in checkpoints if step % pace == 0]
        assert sum(step % pace == 0 for step in restarts) == len(restarts) // 25
