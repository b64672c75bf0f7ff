"""What `deltaqmmm run` plans, and what it does with files of an earlier run."""

from dataclasses import replace

from deltaqmmm.cli import run_plan
from deltaqmmm.ipi.simulation import read_simulation
from tests.unit.cli.run.inputs import ffsocket, options, plan


class TestPlans:
    def test_a_first_start(self, work):
        found = plan(work)
        assert (found.simulation.file.name, found.total_steps, found.goes_on, found.old) == ("input.xml", 20, False, ())
        assert plan(work, "--steps", "50").total_steps == 50

    def test_going_on(self, work):
        work.checkpoint("run.chk", 8)
        assert plan(work).simulation.file.name == "run.chk"
        work.checkpoint("RESTART", 9, time=1_000_000_200)
        found = plan(work)
        assert (found.simulation.file.name, found.simulation.step, found.goes_on) == ("RESTART", 9, True)

    def test_a_checkpoint_of_another_input(self, work, fails):
        """i-PI would go on with what the checkpoint holds, and take nothing from the input."""
        work.checkpoint("RESTART", 9)
        text = (work.folder / "input.xml").read_text()
        (work.folder / "RESTART").write_text((work.folder / "RESTART").read_text().replace("'342'", "'342' nbeads='8'"))
        fails("RESTART: is not of input.xml: beads of the systems 8 there, and 1 in input.xml. .*--fresh")
        assert plan(work, "--fresh").simulation.step == 0
        work.checkpoint("RESTART", 9)
        (work.folder / "input.xml").write_text(text.replace("mode='unix'", "mode='shm'"))
        fails("modes of <ffsocket> unix there, and shm in input.xml", "--continue")
        more = "<ffplumed name='p'> <plumed_dat> opes.dat </plumed_dat> <file mode='xyz'> init.xyz </file> </ffplumed>"
        (work.folder / "input.xml").write_text(text.replace("<total_steps>", more + "<total_steps>"))
        fails("input of PLUMED none there, and opes.dat in input.xml")

    def test_an_input_that_was_changed(self, work, fails):
        work.checkpoint("RESTART", 9, time=999_999_999)
        fails(r"input.xml was changed after RESTART \(step 9 of 20\) was written. .*--continue.*--fresh")
        assert plan(work, "--continue").simulation.step == 9
        found = plan(work, "--fresh")
        assert (found.simulation.file.name, found.goes_on) == ("input.xml", False)
        assert [file.name for file in found.old] == ["RESTART"]

    def test_finished(self, work, capsys):
        work.checkpoint("RESTART", 20)
        assert plan(work) is None
        out = capsys.readouterr().out
        assert "finished, RESTART is at step 20 of 20" in out
        assert f"`deltaqmmm run {work.folder} --steps 40` goes on" in out
        assert plan(work, "--steps", "40").goes_on

    def test_a_checkpoint_as_the_input(self, work):
        work.checkpoint("later.xml", 5)
        found = plan(work, "--input", "later.xml")
        assert (found.simulation.step, found.goes_on) == (5, True)
        (work.folder / "run.chk").touch()
        assert plan(work, "--input", "later.xml").old == ()
        found = plan(work, "--input", "later.xml", "--fresh")
        assert ([file.name for file in found.old], found.goes_on) == (["run.chk"], False)

    def test_no_driver_no_config(self, work, fails):
        work.write("<ffdirect name='d'> <pes> custom </pes> <pes_path> pes.py </pes_path> </ffdirect>")
        fails("<pes_path> of <ffdirect> names 'pes.py', and there is no such file")
        work.write("<ffdirect name='d'/>")
        (work.folder / "config.toml").unlink()
        assert plan(work).config is None


class TestClearingTheWay:
    def prepare(self, work, step):
        (work.folder / "run.out").write_text(f"# column   1     --> step\n 0.0\n {step}.0\n")
        (work.folder / "ipi.log").touch()
        (work.folder / "run.sh").touch()

    def test_an_earlier_run_is_kept(self, work, capsys):
        self.prepare(work, 7)
        run_plan.clear_the_way(plan(work), options(work))
        assert "1 files of an earlier run, without a checkpoint" in capsys.readouterr().out
        assert {file.name for file in (work.folder / "before_1").iterdir()} == {"run.out", "ipi.log"}
        assert (work.folder / "run.sh").exists()

    def test_a_start_without_a_step_is_not(self, work, capsys):
        self.prepare(work, 0)
        run_plan.clear_the_way(plan(work), options(work))
        assert "The files of a start that made no step are removed" in capsys.readouterr().out
        assert not (work.folder / "run.out").exists()
        assert not (work.folder / "before_1").exists()
        assert (work.folder / "run.sh").exists()

    def test_outputs_are_cut(self, work, capsys):
        (work.folder / "RESTART").write_text(
            (work.folder / "input.xml").read_text().replace("<total_steps>", "<step>5</step><total_steps>")
        )
        self.prepare(work, 7)
        found = plan(work)
        assert found.goes_on
        run_plan.clear_the_way(found, options(work))
        assert "what is later than step 5 in run.out now stands in before_1/" in capsys.readouterr().out
        assert (work.folder / "run.out").read_text() == "# column   1     --> step\n 0.0\n"

    def test_files_of_plumed_are_cut(self, work, capsys):
        more = "<ffplumed name='p'> <file mode='xyz'> init.xyz </file> <plumed_step> 5 </plumed_step> </ffplumed>"
        simulation = work.write(ffsocket() + more)
        (work.folder / "plumed.dat").write_text("OPES_METAD ARG=x PACE=2\n")
        (work.folder / "KERNELS").write_text("#! FIELDS time x\n 2 0.1\n 4 0.2\n 6 0.3\n")
        text = simulation.file.read_text().replace("<total_steps>", "<step>5</step><total_steps>")
        (work.folder / "RESTART").write_text(text)
        found = replace(plan(work), simulation=read_simulation(work.folder / "RESTART"))
        run_plan.clear_the_way(found, options(work))
        said = capsys.readouterr().out
        assert "what is later than step 5 in KERNELS now stands in before_1/" in said
        assert (work.folder / "KERNELS").read_text() == "#! FIELDS time x\n 2 0.1\n 4 0.2\n"
        assert "Note: PLUMED makes no deposit in its first step after a restart" in said
        assert "Note: without its state OPES_METAD goes on from KERNELS, which is not exact" in said
