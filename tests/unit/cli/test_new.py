"""`deltaqmmm new`: what it makes of a case and a system, and what it refuses before it writes anything."""

import re
import shutil
import tomllib
from pathlib import Path
from types import SimpleNamespace

import pytest

from deltaqmmm.build.ipi_input import init_xyz
from deltaqmmm.cases import library
from deltaqmmm.cli import run_checks
from deltaqmmm.cli.main import main
from deltaqmmm.config import read_config
from deltaqmmm.config.parts import load_split
from deltaqmmm.errors import InputError
from deltaqmmm.ipi.simulation import read_simulation
from deltaqmmm.topology import NonbondedSettings, load_topology
from deltaqmmm.units import ANGSTROM
from tests.corrections import write_model

CONFIG = """\
# By hand.
[system]
topology = "files/uracil_droplet.prmtop"  # the force field
coordinates = "files/uracil_droplet.rst7"
[qm]
atoms = "12-14"
[embedding]
kind = "all"
[mm]
platform = "CPU"       # "CPU", "CUDA"
cutoff_angstrom = 9.0
"""
INPUT = """\
<!-- deltaqmmm drive config.toml -u -a base -->
<simulation>
  <output prefix='run'> <properties filename='out'> [ step ] </properties> </output>
  <total_steps> 20 </total_steps>
  <prng> <seed> 3 </seed> </prng>
  <ffsocket name='all' mode='unix'> <address> base </address> <batch_size> {batch} </batch_size> </ffsocket>
  {more}
  <system> <!-- why -->
    <initialize nbeads='{beads}'>
      <file mode='xyz'> ../system/init.xyz </file>
      <velocities mode='thermal' units='kelvin'> 300 </velocities>
    </initialize>
    <forces> <force forcefield='all'/> </forces>
    <ensemble> <temperature units='kelvin'> 300 </temperature> </ensemble>
    <motion mode='dynamics'> <dynamics mode='nvt'> <timestep units='femtosecond'> 0.5 </timestep> </dynamics> </motion>
  </system>
</simulation>
"""
LADDER = """\
<simulation>
  <ffsocket name='all' mode='unix'> <address> base </address> <batch_size> 6 </batch_size> </ffsocket>
  <system_template>
    <labels> [ INDEX, TEMP ] </labels>
    <instance> [ 0, 300 ] </instance>
    <instance> [ 1, 320 ] </instance>
    <instance> [ 2, 340 ] </instance>
    <template> <system prefix='INDEX'>
      <initialize nbeads='2'>
        <file mode='xyz'> ../system/init.xyz </file>
        <velocities mode='thermal' units='kelvin'> TEMP </velocities>
      </initialize>
      <forces> <force forcefield='all'/> </forces>
      <ensemble> <temperature units='kelvin'> TEMP </temperature> </ensemble>
    </system> </template>
  </system_template>
  <smotion mode='remd'> <remd> <stride> 5 </stride> </remd> </smotion>
</simulation>
"""


@pytest.fixture
def work(tmp_path, data_folder, monkeypatch):
    """A library with cases of its own, and a built system."""
    systems = data_folder / "mm_systems"
    system = tmp_path / "mine"
    (system / "files").mkdir(parents=True)
    for ending in ("prmtop", "rst7"):
        shutil.copy(systems / f"uracil_droplet.{ending}", system / "files")
    (system / "config.toml").write_text(CONFIG)
    topology = load_topology(system / "files/uracil_droplet.prmtop", system / "files/uracil_droplet.rst7")
    (system / "init.xyz").write_text(init_xyz(topology.symbols, topology.positions, None))
    cases = tmp_path / "cases"

    def case(name="pimd", toml="", text=None, beads=4, batch=4, more="", **files):
        folder = cases / name
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "case.toml").write_text(f"title = 'of {name}'\n" + toml)
        (folder / "config.toml").write_text("")
        (folder / "README.md").write_text(
            f"# {name}\n\n![it](figure.png)\n\n    deltaqmmm drive config.toml -u -a base\n"
        )
        for unwanted in ("study.py", "study_more.py", "figure.png", "more.png", ".hidden"):
            (folder / unwanted).touch()
        (folder / "input.xml").write_text(text or INPUT.format(beads=beads, batch=batch, more=more))
        for file, content in files.items():
            (folder / file.replace("__", ".")).write_text(content)
        return folder

    monkeypatch.setattr(library, "LIBRARY", cases)
    case()
    return SimpleNamespace(case=case, system=system, target=tmp_path / "new", root=tmp_path)


def new(work, *words, case="pimd"):
    return main(["new", case, str(work.target), "--system", str(work.system), *map(str, words)])


@pytest.fixture
def fails(work, capsys):
    """Runs the command, which must end with one message and leave nothing behind."""

    def fails(message, *words, case="pimd"):
        before = sorted(work.root.iterdir())
        assert new(work, *words, case=case) == 1
        captured = capsys.readouterr()
        assert re.search(message, captured.err), captured.err
        assert captured.err.startswith("deltaqmmm new: ")
        assert captured.err.count("\n") == 1
        assert sorted(work.root.iterdir()) == before

    return fails


def text_of(work, name="input.xml"):
    return (work.target / name).read_text()


def make_model(work):
    """A model of random networks that fits to the system, beside it."""
    config = read_config(work.system / "config.toml")
    write_model(work.root / "m.safetensors", config, load_split(config)[1])
    return work.root / "m.safetensors"


class TestWhatIsMade:
    def test_all_else_stays_as_it_is(self, work):
        assert new(work, "-q") == 0
        expected = INPUT.format(beads=4, batch=4, more="").replace("../system/init.xyz", "init.xyz")
        assert text_of(work) == expected.replace("base", "new")
        assert {file.name for file in work.target.iterdir()} == {
            "README.md",
            "config.toml",
            "init.xyz",
            "input.xml",
            "uracil_droplet.prmtop",
            "uracil_droplet.rst7",
        }
        assert text_of(work, "README.md") == "# pimd\n\n    deltaqmmm drive config.toml -u -a new\n"

    def test_values(self, work):
        words = ["--beads", 8, "--temperature", 350.5, "--steps", 7, "--timestep", 0.25, "--seed", 99]
        words += ["--name", "here", "-q"]
        assert new(work, *words) == 0
        text = text_of(work)
        for part in (
            "nbeads='8'",
            "<batch_size> 8 </batch_size>",
            "<velocities mode='thermal' units='kelvin'> 350.5 </velocities>",
            "<temperature units='kelvin'> 350.5 </temperature>",
            "<total_steps> 7 </total_steps>",
            "<timestep units='femtosecond'> 0.25 </timestep>",
            "<seed> 99 </seed>",
            "<address> here </address>",
            "-u -a here -->",
            "<!-- why -->",
        ):
            assert part in text, part
        assert read_simulation(work.target / "input.xml").total_steps == 7

    def test_the_configuration_is_that_of_the_system(self, work):
        work.case(toml="[config.mm]\nvirial = true\ncutoff_angstrom = 8.0\n[config.dftb]\nmodel = 'dftb2'\n")
        assert new(work, "-q") == 0
        lines = text_of(work, "config.toml").splitlines()
        assert lines[0] == "# By hand."
        assert 'topology = "uracil_droplet.prmtop"     # the force field' in lines
        assert 'platform = "CPU"       # "CPU", "CUDA"' in lines
        config = read_config(work.target / "config.toml")
        assert config.system.topology.parent == work.target
        assert (config.mm.virial, config.mm.cutoff_angstrom, config.dftb.model) == (True, 8.0, "dftb2")
        assert tomllib.loads(text_of(work, "config.toml"))["qm"] == {"atoms": "12-14"}

    def test_batches_keep_their_relation(self, work):
        work.case(batch=2)
        assert new(work, "--beads", 16, "-q") == 0
        assert "<batch_size> 8 </batch_size>" in text_of(work)

    def test_several_sockets(self, work):
        more = "<ffsocket name='mm+dftb' mode='shm'> <address> other </address> </ffsocket>"
        more += "<ffsocket name='far' mode='inet'> <address> 0.0.0.0 </address> </ffsocket>"
        work.case(more=more)
        assert new(work, "-q") == 0
        assert re.findall(r"<address> (\S+) </address>", text_of(work)) == ["new_all", "new_mm-dftb", "0.0.0.0"]

    def test_a_ladder(self, work):
        work.case("remd", text=LADDER)
        assert new(work, "--temperatures", 290, 305.5, "--beads", 3, "-q", case="remd") == 0
        text = text_of(work)
        lines = "    <instance> [ 0, 290 ] </instance>\n    <instance> [ 1, 305.5 ] </instance>\n    <template>"
        assert lines in text
        assert "<batch_size> 6 </batch_size>" in text
        assert "nbeads='3'" in text
        # Batches of one replica stay that.
        work.case("remd", text=LADDER.replace("<batch_size> 6", "<batch_size> 2"))
        shutil.rmtree(work.target)
        assert new(work, "--temperatures", 290, 305, "--beads", 5, "-q", case="remd") == 0
        assert "<batch_size> 5 </batch_size>" in text_of(work)

    def test_further_inputs_and_files(self, work, capsys):
        toml = "[edit]\n'p.dat' = 'the atoms'\n[fill.'p.dat']\n"
        toml += "'TEMP=(\\S+)' = 'temperature'\n'QM=(\\S+)' = 'qm_atoms_plumed'\n"
        files = {
            "beads__xml": INPUT.format(beads=2, batch=2, more=""),
            "p__dat": "TEMP=300 QM=1,2\nTEMP=300\n",
            "go__sh": "deltaqmmm drive config.toml -u -a base\n",
        }
        folder = work.case("meta", toml=toml, beads=1, batch=1, **files)
        (folder / "go.sh").chmod(0o755)
        assert new(work, "--temperature", 310, "--beads", 6, case="meta") == 0
        assert text_of(work, "p.dat") == "# EDIT BEFORE RUNNING: the atoms\nTEMP=310 QM=13,14,15\nTEMP=310\n"
        assert text_of(work, "go.sh").endswith("-a new\n")
        assert (work.target / "go.sh").stat().st_mode & 0o100
        # Of several inputs only those with beads change their number.
        assert "nbeads='1'" in text_of(work)
        assert "nbeads='6'" in text_of(work, "beads.xml")
        out = capsys.readouterr().out
        assert f"\nFirst edit {work.target / 'p.dat'}: the atoms\nRemove the line '# EDIT BEFORE RUNNING: ...'" in out
        assert f"\nThen run it with `deltaqmmm run {work.target}`" in out
        assert f"`deltaqmmm run {work.target} --input beads.xml`" in out

    def test_a_file_that_grows_with_the_square_of_the_atoms(self, work, capsys, monkeypatch):
        work.case("matrix", toml="bytes_of_pairs = 400000\n")
        assert new(work, case="matrix") == 0
        assert "RESTART" not in capsys.readouterr().out
        shutil.rmtree(work.target)
        monkeypatch.setattr("deltaqmmm.cli.new.MANY_ATOMS", 300)
        assert new(work, case="matrix") == 0
        assert "Note: i-PI will write a RESTART of about 47 GB, as it grows with the square of the 342 atoms" in (
            capsys.readouterr().out
        )
        shutil.rmtree(work.target)
        assert new(work) == 0
        assert "RESTART" not in capsys.readouterr().out

    def test_the_line_that_asks_for_an_edit(self, work):
        toml = "[edit]\n'job.sh' = 'nodes'\n'input.xml' = 'strides'\n'config.toml' = 'the model'\n"
        work.case("cluster", toml=toml, job__sh="#!/bin/bash\n#SBATCH --nodes=1\n")
        assert new(work, "-q", case="cluster") == 0
        assert text_of(work, "job.sh") == "#!/bin/bash\n# EDIT BEFORE RUNNING: nodes\n#SBATCH --nodes=1\n"
        assert "EDIT" not in text_of(work)
        assert text_of(work, "config.toml").startswith("# EDIT BEFORE RUNNING: the model\n# By hand.\n")
        assert read_config(work.target / "config.toml").qm.atoms == "12-14"

    def test_a_folder_with_blanks(self, work, capsys):
        work.target = work.root / "my new"
        assert new(work, "--name", "x") == 0
        out = capsys.readouterr().out
        assert f"\nRun it with `deltaqmmm run '{work.target}'`; '{work.target / 'README.md'}' says" in out
        assert "First" not in out

    def test_outputs_are_of_the_atoms_of_the_system(self, work):
        text = INPUT.format(beads=4, batch=4, more="").replace("[ step ]", "[ step, kinetic_cv(8), kinetic_cv(9) ]")
        work.case(toml="[lists]\nkinetic_cv = 'qm_hydrogens'\n", text=text)
        assert new(work, "-q") == 0
        # A water: O, H, H.
        expected = "    [ step, kinetic_cv(13), kinetic_cv(14) ]\n"
        assert expected in text_of(work)
        work.case(toml="[lists]\nkinetic_cv = 'qm_atoms'\n", text=text)
        shutil.rmtree(work.target)
        assert new(work, "-q") == 0
        assert expected.replace("step", "step, kinetic_cv(12)") in text_of(work)

    def test_start_files_that_are_kept(self, work, capsys):
        text = INPUT.format(beads=4, batch=4, more="").replace("system/init.xyz", "system/band.xyz")
        toml = "keep = ['band.xyz']\n[edit]\n'band.xyz' = 'made by band.py'\n"
        work.case("reaction", toml=toml, text=text)
        assert new(work, case="reaction") == 0
        assert "<file mode='xyz'> band.xyz </file>" in text_of(work)
        assert not (work.target / "band.xyz").exists()
        out = capsys.readouterr().out
        assert f"\nFirst make {work.target / 'band.xyz'}: made by band.py\nThen run it" in out
        # Nothing is started without it.
        assert main(["run", str(work.target)]) == 1
        assert "names 'band.xyz', and there is no such file" in capsys.readouterr().err
        shutil.rmtree(work.target)
        band = (work.system / "init.xyz").read_text() * 4
        (work.system / "band.xyz").write_text(band)
        assert new(work, case="reaction") == 0
        assert text_of(work, "band.xyz") == band
        assert "First" not in capsys.readouterr().out

    def test_a_model(self, work):
        make_model(work)
        work.case("weighted", toml="needs = ['model']\n[config.correction]\ncommittee_extras = true\n")
        assert new(work, "--model", work.root / "m.safetensors", "-q", case="weighted") == 0
        correction = read_config(work.target / "config.toml").correction
        assert correction.model == work.target / "m.safetensors"
        assert correction.committee_extras

    @pytest.mark.parametrize("kind", ["gromacs", "openmm"])
    def test_other_kinds_of_topologies(self, work, data_folder, kind):
        top, coordinates = {"gromacs": ("top", "gro"), "openmm": ("xml", "pdb")}[kind]
        systems, own = data_folder / "mm_systems", work.system / "files"
        shutil.copy(systems / f"uracil_box.{coordinates}", own)
        if kind == "gromacs":
            # Whatever is included is in one file afterwards.
            lines = (systems / "uracil_box.top").read_text().splitlines(keepends=True)
            (own / "half.itp").write_text("".join(lines[: len(lines) // 2]))
            (own / "uracil_box.top").write_text('#include "half.itp"\n' + "".join(lines[len(lines) // 2 :]))
        else:
            shutil.copy(systems / "uracil_box.xml", own)
        (work.system / "config.toml").write_text(
            f'[system]\ntopology = "files/uracil_box.{top}"\ncoordinates = "files/uracil_box.{coordinates}"\n'
            '[qm]\natoms = "0-11"\n[mm]\ncutoff_angstrom = 8.0\n'
        )
        shorter = NonbondedSettings(cutoff=8.0 * ANGSTROM, switch_distance=None)
        topology = load_topology(own / f"uracil_box.{top}", own / f"uracil_box.{coordinates}", shorter)
        (work.system / "init.xyz").write_text(init_xyz(topology.symbols, topology.positions, topology.cell))
        assert new(work, "-q") == 0
        shutil.rmtree(work.system)
        config = read_config(work.target / "config.toml")
        assert config.system.topology == work.target / f"uracil_box.{top}"
        copied = load_topology(config.system.topology, config.system.coordinates, shorter)
        assert copied.symbols == topology.symbols

    def test_an_empty_folder_and_list(self, work, capsys):
        work.target.mkdir()
        work.case("zeta", toml="")
        assert new(work, "-q") == 0
        assert main(["new", "--list"]) == 0
        assert capsys.readouterr().out == "pimd  of pimd\nzeta  of zeta\n"


class TestWhatIsRefused:
    def test_an_unknown_case(self, fails):
        fails("'pimb' is no case. The nearest is 'pimd'. There are: pimd", case="pimb")
        fails("'xyz' is no case. There are: pimd", case="xyz")

    def test_a_case_that_lacks_a_file(self, work, fails):
        folder = work.case("broken")
        (folder / "config.toml").unlink()
        fails("broken: the case lacks config.toml", case="broken")
        work.case("broken", more="<ffplumed name='p'> <plumed_dat> no.dat </plumed_dat> </ffplumed>")
        fails("<plumed_dat> of <ffplumed> names 'no.dat', and there is no such file", case="broken")

    def test_a_folder_with_something_in_it(self, work, fails):
        work.target.mkdir()
        (work.target / "mine").touch()
        fails("exists and is not empty")
        shutil.rmtree(work.target)
        work.target.touch()
        fails("is a file")

    def test_words_that_are_missing(self, capsys):
        assert main(["new", "pimd"]) == 1
        assert "needed are a case, a folder to make and --system" in capsys.readouterr().err

    def test_a_system_that_lacks_a_file(self, work, fails):
        (work.system / "init.xyz").rename(work.root / "init.xyz")
        fails("mine: has no structure to start from: init.xyz")
        (work.root / "init.xyz").rename(work.system / "init.xyz")
        (work.system / "files" / "uracil_droplet.prmtop").unlink()
        fails("topology = .*there is no file")
        (work.system / "config.toml").unlink()
        fails("mine: has no config.toml")
        shutil.rmtree(work.system)
        fails("mine: there is no such folder")

    def test_a_topology_that_does_not_fit(self, work, fails):
        (work.system / "init.xyz").write_text("2\n\nH 0 0 0\nH 0 0 1\n")
        fails("init.xyz has 2 atoms, and uracil_droplet.prmtop of .*config.toml has 342")

    def test_options_without_a_place(self, work, fails):
        work.case("nvt", beads=1)
        fails("--beads 2: the case 'nvt' is one of classical nuclei", "--beads", 2, case="nvt")
        fails("--temperatures is for replica exchange", "--temperatures", 300, 310)
        work.case("remd", text=LADDER)
        fails("--temperature: the case 'remd' has several", "--temperature", 300, case="remd")
        work.case("piglet", toml="[fixed]\nbeads = 'the matrices are for 6.'\n")
        fails("--beads cannot be given for the case 'piglet': the matrices are for 6", "--beads", 2, case="piglet")
        fails("--name a b: letters, digits, - and _", "--name", "a b")

    def test_a_ladder_of_one(self, work, fails):
        work.case("remd", text=LADDER)
        fails("--temperatures 300: a ladder of one temperature", "--temperatures", 300, case="remd")
        fails("--temperatures 310 300: must rise", "--temperatures", 310, 300, case="remd")

    def test_a_model_that_is_missing(self, work, fails):
        work.case("weighted", toml="needs = ['model']\n")
        fails("needs a trained correction, and .*config.toml names none", case="weighted")
        fails("--model no.safetensors: there is no such file", "--model", "no.safetensors")

    def test_a_model_that_does_not_fit(self, work, fails):
        """As `deltaqmmm run` refuses it; what is named are files that are there."""
        model, config = make_model(work), work.system / "config.toml"
        work.case("weighted", toml="needs = ['model']\n[config.embedding]\ncharge_blur_angstrom = 0.5\n")
        (work.root / "none.safetensors").touch()
        fails(
            rf"{model} was made with other settings than those of {config}: "
            r"embedding, charge_blur_angstrom: 0\.0 there, and 0\.5 here\. Run with the settings",
            *("--model", model),
            case="weighted",
        )
        fails(r"none\.safetensors: is no model of deltaqmmm", "--model", work.root / "none.safetensors")
        # The system's own, too.
        config.write_text(CONFIG.replace('"all"', '"cutoff"') + f'[correction]\nmodel = "{model}"\n')
        fails(rf'{model} was made .* {config}: embedding, kind: "all" there, and "cutoff" here')
        config.write_text(CONFIG.replace("12-14", "0-11"))
        fails(rf"{model}: the model knows the QM elements H, O.* also has C, N", "--model", model)
        assert new(work, "-q") == 0

    def test_plumed_that_is_missing(self, work, fails, monkeypatch):
        def nowhere(*_):
            raise InputError("<ffplumed> needs PLUMED")

        monkeypatch.setattr(run_checks, "check_plumed", nowhere)
        work.case("meta", more="<ffplumed name='p'> <plumed_dat> p.dat </plumed_dat> </ffplumed>", p__dat="")
        fails("needs PLUMED", case="meta")

    @pytest.mark.parametrize(
        ("toml", "message"),
        [
            ("nmae = 1\n", "'nmae' is not known"),
            ("needs = ['cp2k']\n", "needs 'cp2k': known are plumed, model"),
            ("[fixed]\nbead = ''\n", "'bead' is no option"),
            ("[fill.'README.md']\n'(no)thing' = 'beads'\n", "has nothing like"),
            ("[fill.'README.md']\n'(p)' = 'bead'\n", r"\[fill\] names 'bead'"),
            ("[lists]\nkinetic_cv = 'hydrogens'\n", r"\[lists\] names 'hydrogens'"),
            ("[lists]\natom_v = 'qm_atoms'\n", r"has no output 'atom_v\(...\)'"),
            ("[config.mm]\ncutof = 1\n", "cutof"),
        ],
    )
    def test_a_declaration_that_is_wrong(self, work, fails, toml, message):
        work.case("wrong", toml=toml)
        fails(message, case="wrong")

    def test_a_configuration_in_another_style(self, work, fails):
        config = work.system / "config.toml"
        config.write_text('mm.platform = "CPU"\nembedding = { kind = "all" }\n' + CONFIG.split("[embedding]")[0])
        assert new(work, "-q") == 0
        shutil.rmtree(work.target)
        work.case(toml="[config.mm]\nvirial = true\n")
        fails("config.toml: could not be changed for the case")


def test_help_needs_no_numbers(capsys):
    with pytest.raises(SystemExit) as ended:
        main(["new", "--help"])
    assert ended.value.code == 0
    assert "usage: deltaqmmm new" in capsys.readouterr().out


def test_the_library_is_part_of_the_package():
    assert Path(library.__file__).parents[1] / "data" / "ipi_inputs" == library.LIBRARY
    assert (library.LIBRARY / "pimd" / "input.xml").is_file()
