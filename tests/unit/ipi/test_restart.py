"""Checkpoints, outputs that are cut back to them, and files that go out of the way."""

import os

import pytest

from deltaqmmm.ipi import restart
from deltaqmmm.ipi.restart import cut_back, find_checkpoint, made_no_step, old_files, restore_prefix, set_aside
from deltaqmmm.ipi.simulation import read_simulation

INPUT = """\
<simulation{prefix}>
  <output prefix='run'>
    <properties stride='2' filename='out'> [ time, step ] </properties>
    <properties stride='5' filename='blind'> [ time ] </properties>
    <trajectory filename='pos' stride='2'> positions </trajectory>
    <trajectory filename='pdb' stride='2' format='pdb'> x_centroid </trajectory>
    <trajectory filename='q' stride='3' extra_type='q'> extras </trajectory>
    <checkpoint filename='chk' stride='10' overwrite='{overwrite}'/>
  </output>
  <smotion mode='remd'> <remd> <stride> 1 </stride> </remd> </smotion>
  <system> <initialize nbeads='2'> <file mode='xyz'> init.xyz </file> {more} </initialize> </system>
</simulation>
"""
CHECKPOINT = "<!-- made by i-PI -->\n<simulation{prefix}>{step}<total_steps>100</total_steps></simulation>\n"


class Folder:
    def __init__(self, place):
        self.place = place
        self.times = 1_000_000_000

    def input(self, overwrite="True", more="", prefix=""):
        file = self.place / "input.xml"
        file.write_text(INPUT.format(overwrite=overwrite, more=more, prefix=prefix))
        return read_simulation(file)

    def checkpoint(self, name, step, *, cut=None, prefix=""):
        """Each newer than the one before."""
        text = CHECKPOINT.format(step=f"<step>{step}</step>" if step else "", prefix=prefix)
        (self.place / name).write_text(text[:cut])
        self.times += 1
        os.utime(self.place / name, (self.times, self.times))
        return self.place / name


@pytest.fixture
def folder(tmp_path):
    return Folder(tmp_path)


def outputs(place, steps, beads=2, atoms=3):
    """The outputs of steps 0 to so many, as i-PI writes them."""
    head = "# column   1     --> time : The elapsed simulation time.\n# column   2     --> step : The current step.\n"
    rows = "".join(f"  {s * 20.0:.8e}   {s:.8e}   \n" for s in range(0, steps + 1, 2))
    (place / "run.out").write_text(head + rows)
    rows = "".join(f"  {s * 20.0:.8e}   \n" for s in range(0, steps + 1, 5))
    (place / "run.blind").write_text("# column   1     --> time : The elapsed time.\n" + rows)
    (place / "run.remd_idx").write_text("".join(f"{s:10d}     1     0\n" for s in range(steps) if s % 4))
    for bead in range(beads):
        (place / f"run.pos_{bead}.xyz").write_text("".join(frame(s, bead, atoms) for s in range(0, steps + 1, 2)))
        text = "".join(f" #EXTRAS(q)# Step:  {s:10d} \n 0.25 -0.25 {bead}\n" for s in range(0, steps + 1, 3))
        (place / f"run.q_{bead}").write_text(text)
    text = "".join(
        f"TITLE   Step:  {s:10d}  Bead:   {0:5d}\nCRYST1   10.000\n" + "ATOM      1\n" * atoms + "END\n"
        for s in range(0, steps + 1, 2)
    )
    (place / "run.pdb.pdb").write_text(text)
    return {file.name: file.read_text() for file in place.glob("run.*")}


def frame(step, bead, atoms):
    title = f"# CELL(abcABC): 10.0 10.0 10.0 90.0 90.0 90.0 Step:  {step:10d}  Bead: {bead:5d} positions{{angstrom}}"
    return f"{atoms}\n{title}  cell{{angstrom}}\n" + f"H  {step}.0  0.0  0.0\n" * atoms


class TestFinding:
    def test_none(self, folder):
        found = find_checkpoint(folder.place, folder.input())
        assert (found.simulation, found.unreadable) == (None, ())

    @pytest.mark.parametrize("names", [("RESTART", "run.chk"), ("run.chk", "RESTART"), ("RESTART", "run.chk_3")])
    def test_the_newest(self, folder, names):
        start = folder.input("False")
        # A later run can be at an earlier step.
        folder.checkpoint(names[0], 70)
        newest = folder.checkpoint(names[1], 40)
        folder.checkpoint("run.other", 90)
        folder.checkpoint("RESTART.old", 90)
        found = find_checkpoint(folder.place, start).simulation
        assert (found.file, found.step, found.total_steps) == (newest, 40, 100)

    def test_one_that_is_cut_short(self, folder):
        start = folder.input()
        old = folder.checkpoint("#run.chk#0#", 30)
        new = folder.checkpoint("run.chk", 40, cut=60)
        found = find_checkpoint(folder.place, start)
        assert found.simulation.file == old
        assert found.unreadable == (new,)

    def test_one_of_the_beginning(self, folder):
        start = folder.input()
        folder.checkpoint("run.chk", 50)
        # Newer: the run that is there now has made no step.
        folder.checkpoint("RESTART", 0)
        assert find_checkpoint(folder.place, start).simulation is None

    def test_one_that_the_input_begins_from(self, folder):
        start = folder.input(more="<velocities mode='chk'> RESTART </velocities>")
        folder.checkpoint("RESTART", 50)
        assert find_checkpoint(folder.place, start).simulation is None
        assert old_files(folder.place, start) == []


class TestCuttingBack:
    @pytest.mark.parametrize("block", [64, 200, 1 << 20])
    def test_to_a_checkpoint(self, folder, monkeypatch, block):
        monkeypatch.setattr(restart, "_BLOCK", block)
        start = folder.input()
        wanted = outputs(folder.place, 11)
        all_ = outputs(folder.place, 30)
        assert len(all_) == 8
        names, kept = cut_back(folder.place, start, 11)
        assert {file.name: file.read_text() for file in folder.place.glob("run.*")} == wanted
        assert sorted(names) == sorted(all_)
        assert kept == folder.place / "before_1"
        assert {name: wanted[name] + (kept / name).read_text() for name in names} == all_
        # Nothing more to do.
        assert cut_back(folder.place, start, 11) == ([], None)
        assert [path.name for path in folder.place.glob("before_*")] == ["before_1"]

    def test_half_a_line(self, folder):
        start = folder.input()
        all_ = outputs(folder.place, 9)
        # Of step 10, which stands in the checkpoint.
        with (folder.place / "run.out").open("a") as stream:
            stream.write("  1.2000")
        names, kept = cut_back(folder.place, start, 10)
        assert names == ["run.out"]
        assert (folder.place / "run.out").read_text() == all_["run.out"]
        assert (kept / "run.out").read_text() == "  1.2000"

    def test_half_a_frame(self, folder):
        start = folder.input()
        wanted = outputs(folder.place, 12)
        with (folder.place / "run.pos_0.xyz").open("a") as stream:
            stream.write(frame(14, 0, 3)[:-20])
        assert cut_back(folder.place, start, 12)[0] == ["run.pos_0.xyz"]
        assert (folder.place / "run.pos_0.xyz").read_text() == wanted["run.pos_0.xyz"]

    def test_to_nothing(self, folder):
        start = folder.input()
        outputs(folder.place, 4)
        (folder.place / "run.pos_0.xyz").write_text(frame(20, 0, 3))
        cut_back(folder.place, start, 1)
        assert (folder.place / "run.pos_0.xyz").read_text() == ""
        assert (folder.place / "run.pos_1.xyz").read_text() == frame(0, 1, 3)


class TestPlumed:
    """Its files are cut, and moved, as those of i-PI are."""

    DAT = "METAD ARG=x PACE=10 FILE=sub/HILLS\nPRINT ARG=x FILE=COLVAR\nEXTERNAL ARG=x FILE=bias.dat\n"
    ROWS = "#! FIELDS time x\n 10 0.1\n 20 0.2\n"

    def prepare(self, folder, step):
        (folder.place / "sub").mkdir()
        (folder.place / "plumed.dat").write_text(self.DAT)
        for name in ("sub/HILLS", "COLVAR", "bias.dat"):
            (folder.place / name).write_text(self.ROWS)
        file = folder.place / "input.xml"
        more = f"<ffplumed><file mode='xyz'> init.xyz </file><plumed_step> {step} </plumed_step></ffplumed>"
        folder.input()
        file.write_text(file.read_text().replace("<system>", more + "<system>"))
        return read_simulation(file)

    def test_cutting_back(self, folder):
        # The steps of PLUMED count, which may be others than those of i-PI.
        names, kept = cut_back(folder.place, self.prepare(folder, 15), 500)
        assert names == ["HILLS", "COLVAR"]
        for name in ("sub/HILLS", "COLVAR"):
            assert (folder.place / name).read_text() == self.ROWS[: self.ROWS.index(" 20")]
            assert (kept / name.split("/")[-1]).read_text() == " 20 0.2\n"
        assert (folder.place / "bias.dat").read_text() == self.ROWS

    def test_old_files(self, folder):
        start = self.prepare(folder, 0)
        (folder.place / "bck.0.COLVAR").touch()
        (folder.place / "sub" / "bck.12.HILLS").touch()
        files = old_files(folder.place, start)
        assert {file.name for file in files} == {"HILLS", "bck.12.HILLS", "COLVAR", "bck.0.COLVAR"}
        assert not made_no_step(files, start)
        for file in files:
            file.write_text("#! FIELDS time x\n 10 0.")
        assert made_no_step(files, start)


class TestOldFiles:
    def test_what_is_moved_and_what_stays(self, folder):
        start = folder.input()
        outputs(folder.place, 4)
        ours = {file.name for file in folder.place.glob("run.*")}
        for name in ("RESTART", "run.chk", "#RESTART#0#", "#run.out#12#", "#run.pos_0.xyz#0#"):
            (folder.place / name).touch()
            ours.add(name)
        for name in ("init.xyz", "config.toml", "run.sh", "run.out.png", "#notes#", "run", "model.safetensors"):
            (folder.place / name).touch()
        files = old_files(folder.place, start)
        assert {file.name for file in files} == ours
        (folder.place / "before_1").mkdir()
        assert set_aside(files, folder.place).name == "before_2"
        assert {file.name for file in (folder.place / "before_2").iterdir()} == ours
        assert old_files(folder.place, start) == []

    def test_a_start_without_a_step(self, folder):
        start = folder.input()
        outputs(folder.place, 0)
        folder.checkpoint("RESTART", 0)
        folder.checkpoint("run.chk", 0)
        with (folder.place / "run.out").open("a") as stream:
            stream.write("  20.0000   1.0")
        files = old_files(folder.place, start)
        assert len(files) == 10
        assert made_no_step(files, start)

    @pytest.mark.parametrize(
        ("name", "text"),
        [
            ("run.out", "# column   2     --> step\n 0.0 0.0\n 20.0 2.0\n"),
            ("run.pos_0.xyz", frame(0, 0, 3) + frame(2, 0, 3)),
            ("#run.q_1#0#", " #EXTRAS(q)# Step:   3 \n 0.1\n"),
            ("RESTART", CHECKPOINT.format(step="<step>1</step>", prefix="")),
            ("run.chk", "<simulation"),
        ],
    )
    def test_a_start_with_one(self, folder, name, text):
        start = folder.input()
        outputs(folder.place, 0)
        folder.checkpoint("RESTART", 0)
        (folder.place / name).write_text(text)
        assert not made_no_step(old_files(folder.place, start), start)


class TestPrefix:
    @pytest.mark.parametrize("given", ["", " sockets_prefix='/scratch/me_'"])
    def test_it_is_that_of_the_input_again(self, folder, given):
        start = folder.input(prefix=given)
        mine = folder.checkpoint("RESTART", 5, prefix=" verbosity='low' sockets_prefix='/tmp/ipi_abc/' mode='md'")
        other = folder.checkpoint("run.chk", 5, prefix=" sockets_prefix='/tmp/ipi_xyz/'")
        before, time = other.read_text(), mine.stat().st_mtime_ns
        restore_prefix(folder.place, start, "/tmp/ipi_abc/")
        assert mine.read_text() == CHECKPOINT.format(step="<step>5</step>", prefix=f" verbosity='low'{given} mode='md'")
        assert mine.stat().st_mtime_ns == time
        assert other.read_text() == before
