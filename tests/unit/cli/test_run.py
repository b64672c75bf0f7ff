"""What `deltaqmmm run` refuses before it starts anything, what it plans, and how it tells its progress."""

import io
import os
import re
import socket
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from deltaqmmm.cli import run_checks, run_group, run_plan
from deltaqmmm.cli.main import main, make_parser
from deltaqmmm.cli.run_progress import Progress
from deltaqmmm.config import read_config
from deltaqmmm.config.loading import load_split
from deltaqmmm.errors import ConfigError, ExternalToolError, InputError
from deltaqmmm.ipi.processes import End, Ending, Program
from deltaqmmm.ipi.simulation import ForceSocket, read_simulation
from deltaqmmm.potential import TERMS
from tests.corrections import write_model

CONFIG = '[system]\ntopology = "{topology}"\n[qm]\natoms = "0-11"\n{more}'
INPUT = """\
<simulation>
  <output prefix='run'> <properties filename='out'> [ step ] </properties> <checkpoint filename='chk'/> </output>
  <total_steps> 20 </total_steps>
  {forcefields}
  <system> <initialize nbeads='1'> <file mode='{mode}'> {init} </file> </initialize> </system>
</simulation>
"""
SOCKET = "<ffsocket name='{name}' mode='{mode}'> <address> {address} </address> {more} </ffsocket>"
OUTPUT = "<output prefix='run'> <checkpoint filename='chk'/> </output>"
CHECKPOINT = f"<simulation>{OUTPUT}<step>{{step}}</step><total_steps>20</total_steps>{{more}}</simulation>"


def ffsocket(name="all", mode="unix", address="here", more=""):
    return SOCKET.format(name=name, mode=mode, address=address, more=more)


@pytest.fixture
def work(tmp_path, data_folder):
    """A folder that can be run, and ways to spoil it."""
    folder = tmp_path / "w"
    folder.mkdir()
    systems = data_folder / "mm_systems"
    (folder / "init.xyz").write_text("342\n\n" + "H 0 0 0\n" * 342)

    def config(more=""):
        (folder / "config.toml").write_text(CONFIG.format(topology=systems / "uracil_droplet.prmtop", more=more))
        return read_config(folder / "config.toml")

    def write(forcefields=None, init="init.xyz", mode="xyz", name="input.xml"):
        text = INPUT.format(forcefields=ffsocket() if forcefields is None else forcefields, init=init, mode=mode)
        (folder / name).write_text(text)
        os.utime(folder / name, (1_000_000_000, 1_000_000_000))
        return read_simulation(folder / name)

    def checkpoint(name, step, time=1_000_000_100):
        (folder / name).write_text(
            CHECKPOINT.format(step=step, more="<system><beads natoms='342'/></system>" + ffsocket())
        )
        os.utime(folder / name, (time, time))

    config()
    write()
    return SimpleNamespace(folder=folder, config=config, write=write, checkpoint=checkpoint)


@pytest.fixture
def fails(work, capsys, monkeypatch):
    """Runs the command, which must end with one message before anything is started."""

    def start(*_):
        raise AssertionError("something was started")

    monkeypatch.setattr(run_group.Group, "start", start)

    def fails(message, *flags):
        assert main(["run", str(work.folder), *flags]) == 1
        captured = capsys.readouterr()
        assert re.search(message, captured.err), captured.err
        assert captured.err.startswith("deltaqmmm run: ")
        assert captured.err.count("\n") == 1
        assert not list(work.folder.glob("*.log"))
        return captured

    return fails


def options(work, *flags):
    return make_parser().parse_args(["run", str(work.folder), *flags])


def plan(work, *flags):
    return run_plan.make_plan(options(work, *flags))


class TestWhatIsMissing:
    def test_folder(self, tmp_path, capsys):
        assert main(["run", str(tmp_path / "nowhere")]) == 1
        assert "no folder that can be read" in capsys.readouterr().err
        (tmp_path / "file").touch()
        assert main(["run", str(tmp_path / "file")]) == 1
        assert "no folder that can be read" in capsys.readouterr().err

    def test_permission(self, work, fails, monkeypatch):
        monkeypatch.setattr(run_checks.os, "access", lambda path, mode: path != work.folder)
        fails("cannot be written, and i-PI writes there")

    def test_a_model_that_does_not_fit(self, work, fails):
        model = Path(__file__).parents[3] / "examples" / "uracil_water" / "delta.safetensors"
        file = work.folder / "config.toml"
        file.write_text(file.read_text() + f'\n[correction]\nmodel = "{model}"\n')
        fails("was made with other settings than those of .*: baseline, dispersion: ")
        (work.folder / "no.model").write_text("none")
        file.write_text(file.read_text().replace(str(model), "no.model"))
        fails("no.model")

    def test_input(self, work, fails):
        fails("other.xml: no such i-PI input", "--input", "other.xml")
        (work.folder / "input.xml").write_text("<simulation>\n <output>\n</simulation>\n")
        fails("input.xml: no valid XML: mismatched tag in line 3")

    def test_config(self, work, fails):
        fails("other.toml: no such configuration file", "--config", "other.toml")
        (work.folder / "config.toml").write_text("[qm]\n")
        fails(r"config.toml: \[system\] topology is missing")

    def test_files_of_the_config(self, work, fails):
        work.config()
        text = (work.folder / "config.toml").read_text()
        (work.folder / "config.toml").write_text(text.replace("[qm]", 'coordinates = "no.rst7"\n[qm]'))
        fails("coordinates = .*there is no file '.*no.rst7'")
        (work.folder / "config.toml").write_text(text + '[correction]\nmodel = "no.safetensors"\n')
        fails(r"config.toml: \[correction\] model: there is no file .*/no.safetensors")
        (work.folder / "config.toml").write_text(text.replace("uracil_droplet", "no"))
        fails("topology = .*there is no file '.*no.prmtop'")

    def test_start_structure(self, work, fails):
        work.write(init="begin/init.xyz")
        fails("input.xml: <file> of <initialize> names 'begin/init.xyz', and there is no such file")

    def test_plumed(self, work, fails, tmp_path, monkeypatch):
        more = "<ffplumed name='p'> <file mode='xyz'> init.xyz </file> <plumed_dat> p.dat </plumed_dat> </ffplumed>"
        work.write(ffsocket() + more)
        fails("<plumed_dat> of <ffplumed> names 'p.dat', and there is no such file")
        (work.folder / "p.dat").touch()
        # i-PI's own Python decides, whatever is installed where the tests run.
        (tmp_path / "plumed.py").write_text("raise ModuleNotFoundError(\"No module named 'plumed'\")\n")
        monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)
        fails("<ffplumed> needs PLUMED, which .*python.*, the Python of i-PI, cannot load .*No module named 'plumed'")
        fails("`pip install --no-deps hillclimber`")
        (tmp_path / "plumed.py").write_text("class Plumed:\n    pass\n")
        assert plan(work).simulation.plumed
        (tmp_path / "plumed.py").write_text("def Plumed():\n    raise RuntimeError('no kernel')\n")
        fails("cannot load .RuntimeError: no kernel")

    def test_ipi(self, work, fails, monkeypatch):
        def nowhere():
            raise ExternalToolError("i-PI was not found")

        monkeypatch.setattr(run_plan, "find_ipi", nowhere)
        fails("i-PI was not found")


class TestWhatDoesNotFit:
    def test_number_of_atoms(self, work, fails):
        (work.folder / "init.xyz").write_text("341\n\n")
        fails("init.xyz has 341 atoms, and uracil_droplet.prmtop of .*config.toml has 342")
        (work.folder / "init.xyz").write_text("<xyz>\n\n")
        fails("init.xyz: is no xyz file: its first line is '<xyz>'")
        (work.folder / "init.pdb").write_text("TITLE\n" + "ATOM\n" * 5 + "HETATM\n" * 6 + "END\n" + "ATOM\n" * 331)
        work.write(init="init.pdb", mode="pdb")
        fails("init.pdb has 11 atoms")
        (work.folder / "old.chk").write_text("<simulation><system><beads natoms='9'/></system></simulation>")
        work.write(init="old.chk", mode="chk")
        fails("old.chk has 9 atoms")
        work.write()
        (work.folder / "RESTART").write_text(
            CHECKPOINT.format(step=3, more=ffsocket() + "<system><beads natoms='12'/></system>")
        )
        fails("RESTART: a <system> has 12 atoms")

    def test_active_atoms(self, work, fails):
        (work.folder / "init.xyz").write_text("400\n\n")
        work.write(ffsocket(more="<activelist> [ 0, 1, 2 ] </activelist>"))
        fails("an <activelist> has 3 atoms, and uracil_droplet.prmtop has 342")
        work.write(ffsocket(more=f"<activelist> {list(range(342))} </activelist>"))
        assert plan(work).simulation.sockets[0].n_active == 342

    def test_steps(self, work, fails):
        work.checkpoint("RESTART", 12)
        fails("RESTART: is at step 12, and 10 are asked for: give a larger number", "--steps", "10")

    def test_correction_without_a_model(self, work, fails):
        work.write(ffsocket("mm_dftb") + ffsocket("correction", address="there"))
        fails(r"<ffsocket name='correction'> asks for the correction, and \[correction\] names no model")

    def test_replica_exchange_with_one_replica(self, work, fails):
        work.write(ffsocket() + "<smotion mode='remd'> <remd> <stride> 5 </stride> </remd> </smotion>")
        fails("input.xml: <remd> exchanges replicas, and there is one <system>: give two or more")

    @pytest.mark.parametrize(
        "system",
        [
            "<system><ensemble><temperature> 300 </temperature></ensemble></system>",
            "<system><ensemble><temperature units='automatic'> 300 </temperature></ensemble></system>",
            "<system_template><labels> [ T ] </labels> <instance> [ 300 ] </instance> <template> <system> <ensemble>"
            "<temperature> T </temperature></ensemble></system></template></system_template>",
        ],
    )
    def test_temperatures_in_kelvin_that_do_not_say_so(self, work, fails, system):
        work.write(ffsocket() + system)
        fails("input.xml: <temperature> is 300 in atomic units, which is 9.47e[+]07 K: give it units='kelvin'")
        work.write(ffsocket() + system.replace("300", "0.00095"))
        assert plan(work) is not None
        work.write(ffsocket() + re.sub(r"<temperature[^>]*>", "<temperature units='kelvin'>", system))
        assert plan(work) is not None

    def test_velocities_in_kelvin_that_do_not_say_so(self, work, fails):
        text = (work.folder / "input.xml").read_text()
        velocities = "<velocities mode='thermal'> 300 </velocities>"
        (work.folder / "input.xml").write_text(text.replace("</initialize>", velocities + "</initialize>"))
        fails("<velocities mode='thermal'> is 300 in atomic units, .* give it units='kelvin'")

    def test_a_file_that_ends_ipi(self, work, fails):
        (work.folder / "EXIT").touch()
        fails("EXIT: i-PI ends as soon as it sees this file: remove it")

    def test_nothing_to_go_on_from(self, work, fails):
        fails("has no checkpoint to go on from", "--continue")

    def test_two_at_once(self, work, fails):
        with run_checks.alone_in(work.folder):
            fails("another `deltaqmmm run` is at work there")
        assert plan(work) is not None


class TestSockets:
    def test_the_same_address_twice(self, work):
        simulation = work.write(ffsocket("a") + ffsocket("b", mode="shm"))
        with pytest.raises(InputError, match="two <ffsocket>s, 'a' and 'b', have the same address, 'here'"):
            run_checks.check_sockets(simulation, "/x/")
        run_checks.check_sockets(work.write(ffsocket("a") + ffsocket("b", address="there")), "/x/")

    def test_a_path_that_is_too_long(self, work):
        with pytest.raises(InputError, match="unix sockets allow 107"):
            run_checks.check_sockets(work.write(ffsocket(address="a" * 104)), "/x/abc")

    def test_a_port_in_use(self, work, fails):
        with socket.socket() as other:
            other.bind(("localhost", 0))
            other.listen()
            port = other.getsockname()[1]
            simulation = work.write(ffsocket(mode="inet", address="localhost", more=f"<port> {port} </port>"))
            with pytest.raises(InputError, match=f"localhost, port {port}, .* is in use by another program"):
                run_checks.check_sockets(simulation, "/x/")
            # Nothing is touched before that.
            (work.folder / "run.out").write_text("# column   1     --> step\n 5.0\n")
            fails(f"port {port}, .* is in use")
            assert (work.folder / "run.out").exists()
        run_checks.check_sockets(simulation, "/x/")

    def test_a_host_that_is_not_this_one(self, work):
        simulation = work.write(ffsocket(mode="inet", address="192.0.2.1", more="<port> 31415 </port>"))
        with pytest.raises(InputError, match=r"192.0.2.1, port 31415, .* cannot be opened on this machine"):
            run_checks.check_sockets(simulation, "/x/")

    def test_one_inside_another_force_field(self, work, tmp_path, monkeypatch):
        monkeypatch.setattr("deltaqmmm.ipi.simulation.DEFAULT_SOCKET_PREFIX", f"{tmp_path}/ipi_")
        simulation = work.write(f"<ffcommittee name='c'> {ffsocket(address='inner')} </ffcommittee>")
        run_checks.check_sockets(simulation, "/x/")
        (tmp_path / "ipi_inner").touch()
        with pytest.raises(InputError, match=r"ipi_inner: the socket of <ffsocket name='all'> in .* exists"):
            run_checks.check_sockets(simulation, "/x/")


class TestTerms:
    def test_the_names_are_those_of_the_potential(self):
        assert run_checks.TERMS == TERMS

    @pytest.mark.parametrize(
        ("name", "terms"),
        [
            ("mm", ("mm",)),
            ("mm_dftb", ("mm", "dftb")),
            ("dftb+mm", ("dftb", "mm")),
            ("deltaqmmm", None),
            ("mmx", None),
            ("", None),
            ("mm_driver", None),
        ],
    )
    def test_what_a_name_asks_for(self, work, name, terms):
        assert run_checks.served_terms(ForceSocket(name, "unix", "a", 1), work.config()) == terms

    def test_what_nobody_serves(self, work):
        config = work.config()
        assert run_checks.unserved_terms([None], config) == []
        assert run_checks.unserved_terms([("mm",), ("dftb",)], config) == []
        assert run_checks.unserved_terms([("mm", "dftb")], config) == []
        assert run_checks.unserved_terms([("dftb",)], config) == ["mm"]
        (work.folder / "m.safetensors").touch()
        with_model = work.config('[correction]\nmodel = "m.safetensors"\n')
        # A direct model replaces DFTB: only the driver knows.
        assert run_checks.unserved_terms([("mm",)], with_model) == ["correction"]

    def test_a_note_is_made(self, work, capsys):
        work.write(ffsocket("dftb"))
        plan(work)
        assert "Note: no <ffsocket> is served the term 'mm'" in capsys.readouterr().out


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


class TestDoubts:
    """What only driver.log said."""

    def said(self, work, capsys, *flags):
        run_plan.clear_the_way(plan(work, *flags), options(work, *flags))
        captured = capsys.readouterr()
        assert ("begins with input.xml" in captured.out) == ("-q" not in flags)
        return captured.err

    def test_nothing_to_say(self, work, capsys):
        assert self.said(work, capsys) == ""

    def test_a_charge_that_is_not_the_force_fields(self, work, capsys):
        work.config("charge = -2\n")
        said = self.said(work, capsys)
        assert said.startswith(
            "WARNING: the force field gives the QM region +0.00 e, and [qm] charge is -2: right only"
        )
        assert said.count("\n") == 1
        assert self.said(work, capsys, "-q") == ""

    def test_dispersion_of_another_model(self, work, capsys):
        work.config('[dftb]\nmodel = "dftb2"\ndispersion = "d3bj"\n')
        assert "takes the damping parameters of DFTB3, also with model" in self.said(work, capsys)
        work.config('[dftb]\nmodel = "dftb3"\ndispersion = "d3bj"\n')
        assert self.said(work, capsys) == ""

    def test_a_model_of_another_qm_region(self, work, capsys, slater_koster_folder):
        config = work.config()
        write_model(
            work.folder / "m.safetensors",
            config,
            load_split(config)[1],
            provenance={"qm_region": "C2 H3 N, charge +0"},
        )
        work.config('[correction]\nmodel = "m.safetensors"\n')
        assert self.said(work, capsys).startswith(
            "WARNING: the model was trained on another QM region, C2 H3 N, charge +0"
        )
        # Of terms that nobody is served there is nothing to say.
        work.write(ffsocket("mm_dftb"))
        assert self.said(work, capsys) == ""

    def test_a_qm_region_that_cuts_a_molecule_is_refused(self, work, fails):
        work.config()
        file = work.folder / "config.toml"
        file.write_text(file.read_text().replace("0-11", "0-2"))
        fails("QM selection cuts the bond between")


class TestDrivers:
    def made(self, work, forcefields, number=1, more=""):
        simulation = work.write(forcefields)
        return run_group.make_drivers(simulation.sockets, work.config(more), "/x/", number)

    def test_one(self, work):
        (driver,) = self.made(work, ffsocket(address="here"))
        assert (driver.name, driver.log) == ("the driver", "driver.log")
        assert driver.command[-5:] == ["-u", "-a", "here", "-S", "/x/"]
        assert "--terms" not in driver.command

    def test_several(self, work):
        inet = ffsocket("dftb", mode="inet", address="0.0.0.0", more="<port> 4000 </port>")
        drivers = self.made(work, ffsocket("mm", mode="shm") + inet, number=2)
        assert [driver.name for driver in drivers] == [f"the driver {t} {n}" for t in ("mm", "dftb") for n in (1, 2)]
        assert [driver.log for driver in drivers] == [f"driver_{t}_{n}.log" for t in ("mm", "dftb") for n in (1, 2)]
        assert drivers[0].command[-7:] == ["--shm", "-a", "here", "-S", "/x/", "--terms", "mm"]
        assert drivers[2].command[-6:] == ["-a", "localhost", "-p", "4000", "--terms", "dftb"]
        # The flags are those of the command.
        for driver in drivers:
            make_parser().parse_args(list(driver.command[driver.command.index("drive") :]))

    def test_names_that_are_alike(self, work):
        drivers = self.made(work, ffsocket("a b") + ffsocket("a/b", address="there"))
        assert len({driver.log for driver in drivers}) == 2


class TestProgress:
    def watch(self, step, summary="300 K"):
        return SimpleNamespace(step=step, summary=lambda: summary)

    def test_lines_in_a_log(self):
        now, stream = [0.0], io.StringIO()
        with Progress(stream, 100, 200, clock=lambda: now[0]) as progress:
            progress.update(self.watch(-1))
            now[0] = 50.0
            # The step that it began from stands there already.
            progress.update(self.watch(100))
            progress.update(self.watch(101))
            assert stream.getvalue() == ""
            now[0] = 60.0
            progress.update(self.watch(111))
            assert stream.getvalue() == "step 111 of 200 (56%), 01:29 left, 1 s per step, 300 K\n"
            now[0] = 119.0
            progress.update(self.watch(150))
            assert stream.getvalue().count("\n") == 1
            now[0] = 121.0
            progress.update(self.watch(151, ""))
            assert stream.getvalue().endswith("\nstep 151 of 200 (76%), 01:09 left, 1.4 s per step\n")

    def test_a_bar_on_a_terminal(self):
        class Terminal(io.StringIO):
            def isatty(self):
                return True

        stream = Terminal()
        with Progress(stream, 100, 200) as progress:
            progress.update(self.watch(-1))
            progress.update(self.watch(150, "301 K, conserved -1.00000 Eh, drift +1e-05"))
        shown = stream.getvalue().split("\r")[-1]
        assert "150/200" in shown
        assert "301 K, conserved -1.00000 Eh, drift +1e-05" in shown
        assert shown.endswith("\n")
        stream = Terminal()
        with Progress(stream, 0, 200, quiet=True) as progress:
            progress.update(self.watch(150))
        assert stream.getvalue() == ""


class TestConclusions:
    def conclude(self, work, ending, log="", *, interrupted=False, stall="1800"):
        (work.folder / "ipi.log").write_text(log)
        made = options(work, "--stall", stall)
        found = SimpleNamespace(
            folder=work.folder,
            start=read_simulation(work.folder / "input.xml"),
            simulation=read_simulation(work.folder / "input.xml"),
            total_steps=20,
        )
        return run_group.conclude(found, made, ending, 10.0, interrupted=interrupted)

    def ending(self, work, status=0, first=0):
        return Ending(work.folder, (End(Program("i-PI", [], "ipi.log"), status, first is None),), first)

    def test_finished(self, work, capsys):
        work.checkpoint("RESTART", 20)
        assert self.conclude(work, self.ending(work)) == 0
        # Ctrl-C in the last moment changes nothing.
        assert self.conclude(work, self.ending(work, first=None), interrupted=True) == 0
        assert self.conclude(work, self.ending(work), interrupted=True) == 0
        assert capsys.readouterr().out.count("Finished: 20 steps in 10 s, step 20 of 20.") == 3

    def test_stopped(self, work, capsys):
        assert self.conclude(work, self.ending(work, first=None), interrupted=True) == 130
        assert f"Stopped at step 0 of 20; `deltaqmmm run {work.folder}` begins anew." in capsys.readouterr().out
        # A failure in that moment is one all the same.
        with pytest.raises(ExternalToolError, match="i-PI ended with status 1"):
            self.conclude(work, self.ending(work, 1), interrupted=True)

    @pytest.mark.parametrize(
        ("log", "reason"),
        [
            ("", ""),
            ("with message: ' @SOFTEXIT: EXIT file detected. Restartable as is: YES.'", " (EXIT file detected)"),
            # What i-PI writes depends on where it finds the file.
            (
                "@simulation.run: EXIT file detected! Bye bye!\n !W! Soft exit has been requested with message: "
                "' @ SIMULATION: Exiting cleanly. I-PI reports success. Restartable as is: NO.'",
                " (EXIT file detected)",
            ),
            ("@simulation.run: Wall clock time expired! Bye bye!", " (Wall clock time expired)"),
        ],
    )
    def test_ended_by_ipi(self, work, capsys, log, reason):
        work.checkpoint("RESTART", 7)
        assert self.conclude(work, self.ending(work), log) == 0
        assert f"i-PI ended by itself at step 7 of 20{reason}; `deltaqmmm run {work.folder}`" in capsys.readouterr().out

    def test_converged(self, work, capsys):
        work.checkpoint("RESTART", 7)
        log = (
            "requested with message: 'Geometry optimization converged. Exiting simulation I-PI reports success. "
            "Restartable as is: NO.'"
        )
        assert self.conclude(work, self.ending(work), log) == 0
        said = "Finished at step 7 of 20: Geometry optimization converged. Exiting simulation.\n"
        assert capsys.readouterr().out == said

    def test_a_problem_that_ipi_reports_with_status_0(self, work):
        log = "Soft exit has been requested with message: 'x I-PI reports a problem. Restartable as is: NO.'"
        with pytest.raises(ExternalToolError, match="i-PI reports a problem and ended at step 0 of 20"):
            self.conclude(work, self.ending(work), log)

    def test_a_failure(self, work):
        work.checkpoint("run.chk", 7)
        with pytest.raises(ExternalToolError, match=r"(?s)status 3; .*reason\nAll are ended, at step 7.*\(run.chk\)"):
            self.conclude(work, self.ending(work, 3), "reason\n")

    def test_a_stall(self, work):
        with pytest.raises(ExternalToolError, match=r"nothing has happened for 60 s \(--stall\).*step 0 of 20"):
            self.conclude(work, None, stall="60")


def test_help_needs_no_numbers(capsys):
    with pytest.raises(SystemExit) as ended:
        main(["run", "--help"])
    assert ended.value.code == 0
    assert "usage: deltaqmmm run" in capsys.readouterr().out
    with pytest.raises(SystemExit) as ended:
        main(["run", ".", "--fresh", "--continue"])
    assert ended.value.code == 2


def test_config_errors_are_input_errors():
    # The message of a configuration is shown as it is.
    assert issubclass(ConfigError, InputError)
