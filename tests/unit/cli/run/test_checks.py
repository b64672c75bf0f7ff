"""What `deltaqmmm run` refuses before it starts anything, and what it warns of."""

import os
import re
import socket
from pathlib import Path

import pytest

from deltaqmmm.cli import run_checks, run_plan
from deltaqmmm.cli.main import main
from deltaqmmm.config.loading import load_split
from deltaqmmm.errors import ExternalToolError, InputError
from deltaqmmm.ipi.simulation import ForceSocket
from deltaqmmm.potential import TERMS
from tests.corrections import write_model
from tests.unit.cli.run.inputs import CHECKPOINT, ffsocket, options, plan


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
        model = Path(__file__).parents[4] / "examples" / "uracil_water" / "delta.safetensors"
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
