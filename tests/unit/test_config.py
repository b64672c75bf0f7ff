from dataclasses import fields
from pathlib import Path

import pytest

from deltaqmmm.config import SECTIONS, explain_keys, read_config
from deltaqmmm.errors import ConfigError

MINIMAL = """\
[system]
topology = "system.prmtop"
[qm]
residues = ["URA"]
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "system.prmtop").touch()
    (tmp_path / "system.rst7").touch()
    (tmp_path / "slko").mkdir()
    return tmp_path


def write(folder: Path, text: str) -> Path:
    file = folder / "config.toml"
    file.write_text(text)
    return file


def message(folder: Path, text: str) -> str:
    with pytest.raises(ConfigError) as caught:
        read_config(write(folder, text))
    return str(caught.value)


def test_defaults(folder):
    config = read_config(write(folder, MINIMAL))
    assert config.file == folder / "config.toml"
    assert config.system.topology == folder / "system.prmtop"
    assert config.system.coordinates is None
    assert config.qm.residues == ("URA",)
    assert config.qm.charge == 0
    assert (config.dftb.model, config.dftb.parameters, config.dftb.hydrogen_damping_exponent) == ("dftb3", "3ob-3-1", 4)
    assert (config.embedding.inner_angstrom, config.embedding.outer_angstrom) == (12.0, 14.0)
    assert config.mm.virial is False


def test_every_kind_of_value(folder):
    config = read_config(
        write(
            folder,
            """
[system]
topology = "system.prmtop"
coordinates = "./system.rst7"
[qm]
atoms = [0, 1, 2]
charge = -1
[dftb]
model = "DFTB2"
parameter_folder = "slko"
hubbard_derivatives = { H = -0.2, O = -1 }
highest_shells = { S = 2 }
scc_tolerance = 1e-6
device = "CUDA:1"
[embedding]
inner_angstrom = 8
outer_angstrom = 10.5
[mm]
platform = "reference"
switch_angstrom = 0
[driver]
wait_seconds = 0
""",
        )
    )
    assert config.system.coordinates == folder / "system.rst7"
    assert config.qm.atoms == (0, 1, 2)
    assert config.qm.charge == -1
    assert config.dftb.model == "dftb2"
    assert config.dftb.parameter_folder == folder / "slko"
    assert dict(config.dftb.hubbard_derivatives) == {"H": -0.2, "O": -1.0}
    assert dict(config.dftb.highest_shells) == {"S": 2}
    assert config.dftb.device == "cuda:1"
    assert config.embedding.inner_angstrom == 8.0
    assert isinstance(config.embedding.inner_angstrom, float)
    assert config.mm.platform == "Reference"
    assert config.mm.switch_angstrom == 0.0
    assert config.driver.wait_seconds == 0.0


def test_paths_are_relative_to_the_file_not_to_the_working_folder(folder, monkeypatch):
    elsewhere = folder / "elsewhere"
    elsewhere.mkdir()
    file = write(folder, MINIMAL)
    monkeypatch.chdir(elsewhere)
    assert read_config(Path("../config.toml")).system.topology == folder / "system.prmtop"
    assert read_config(file).system.topology == folder / "system.prmtop"


def test_missing_file(folder):
    with pytest.raises(ConfigError, match=r"absent\.toml: no such configuration file"):
        read_config(folder / "absent.toml")


def test_a_folder_is_no_file(folder):
    with pytest.raises(ConfigError, match="cannot be read as a configuration file"):
        read_config(folder)


def test_malformed_toml_names_the_line(folder):
    text = message(folder, "[system]\ntopology = system.prmtop\n")
    assert "not valid TOML" in text
    assert "line 2" in text


def test_text_that_is_not_utf8(folder):
    file = folder / "config.toml"
    file.write_bytes(b'[system]\ntopology = "\xff"\n')
    with pytest.raises(ConfigError, match="cannot be read"):
        read_config(file)


@pytest.mark.parametrize(
    ("extra", "expected"),
    [
        ("[dftb]\nmodell = 'dftb3'", ["[dftb] has no key 'modell'", "did you mean 'model'?"]),
        ("[embedding]\ninner = 12", ["[embedding] has no key 'inner'", "'inner_angstrom'"]),
        ("[dftb]\nelectronic_temperature = 300", ["'electronic_temperature_kelvin'"]),
        ("[mm]\ninner_angstrom = 12", ["[mm] has no key 'inner_angstrom'", "belongs under [embedding]"]),
        ("[dftb]\nxyzzy = 1", ["'xyzzy'", "the keys of [dftb] are engine, model"]),
        ("[embeding]\nkind = 'all'", ["'embeding'", "did you mean [embedding]?"]),
        ("[xyzzy]", ["'xyzzy'", "[system], [qm], [dftb], [embedding], [mm], [reference], [training], [network], "]),
    ],
)
def test_unknown_names_are_refused_with_the_nearest_known_one(folder, extra, expected):
    text = message(folder, MINIMAL + extra)
    assert str(folder / "config.toml") in text
    for part in expected:
        assert part in text


def test_a_key_outside_any_section_is_told_where_it_belongs(folder):
    assert "'cutoff_angstrom' stands outside any section: move it under [mm]" in message(
        folder, "cutoff_angstrom = 9\n" + MINIMAL
    )


def test_a_section_that_is_a_value(folder):
    assert "'dftb' is the section [dftb], but was given the value 3" in message(folder, "dftb = 3\n" + MINIMAL)


@pytest.mark.parametrize(
    ("section", "line", "expected"),
    [
        ("dftb", "model = 'dftb1'", '[dftb] model = "dftb1": needed is "dftb3" or "dftb2"'),
        ("dftb", "model = 3", '[dftb] model = 3: needed is "dftb3"'),
        ("dftb", "engine = 'dftbplus'", '[dftb] engine = "dftbplus": needed is "builtin"'),
        ("dftb", "parameters = ''", '[dftb] parameters = "": needed is a text'),
        ("dftb", "parameter_folder = 'none'", "there is no folder"),
        ("dftb", "parameter_folder = 'system.prmtop'", "there is no folder"),
        ("dftb", "device = 'gpu'", '[dftb] device = "gpu": needed is "cpu", "cuda"'),
        ("dftb", "electronic_temperature_kelvin = -1", "= -1: needed is a number at least 0 and at most 100000"),
        ("dftb", "electronic_temperature_kelvin = '300'", '= "300": needed is a number'),
        ("dftb", "scc_tolerance = 0", "scc_tolerance = 0: needed is a number above 0"),
        ("dftb", "scc_tolerance = 0.1", "scc_tolerance = 0.1: needed is a number above 0 and at most 0.001"),
        ("dftb", "scc_tolerance = nan", "scc_tolerance = nan: needed is a number"),
        ("dftb", "scc_tolerance = true", "scc_tolerance = true: needed is a number"),
        ("dftb", "max_scc_iterations = 0", "max_scc_iterations = 0: needed is a whole number at least 1"),
        ("dftb", "max_scc_iterations = 10.0", "max_scc_iterations = 10.0: needed is a whole number"),
        ("dftb", "hubbard_derivatives = -0.1", "hubbard_derivatives = -0.1: needed is a table"),
        ("dftb", "hubbard_derivatives = { Xx = -0.1 }", "'Xx' is no element symbol"),
        ("dftb", "hubbard_derivatives = { H = 'a' }", 'hubbard_derivatives = { H = "a" }: needed is a number'),
        ("dftb", "highest_shells = { H = 3 }", "needed is a whole number at least 0 and at most 2"),
        ("dftb", "warm_start = 1", "warm_start = 1: needed is true or false"),
        ("embedding", "inner_angstrom = inf", "inner_angstrom = inf: needed is a number"),
        ("embedding", "inner_angstrom = 14", "outer_angstrom must be the larger one"),
        (
            "embedding",
            "inner_angstrom = 1.2\nouter_angstrom = 1.4",
            "outer_angstrom = 1.4: needed is a number at least 3",
        ),
        ("embedding", "kind = 'ewald'", 'kind = "ewald": needed is "cutoff" or "all"'),
        ("embedding", "kind = 'all'\ninner_angstrom = 5", 'inner_angstrom has no meaning with kind = "all"'),
        ("embedding", "charge_blur_angstrom = -1", "charge_blur_angstrom = -1: needed is"),
        ("embedding", "charge_blur_angstrom = true", "charge_blur_angstrom = true: needed is a number"),
        ("mm", "platform = 'GPU'", 'platform = "GPU": needed is "auto", "CPU"'),
        ("mm", "switch_angstrom = 9", "switch_angstrom = 9 must be below cutoff_angstrom = 9"),
        ("mm", "threads = -1", "threads = -1: needed is a whole number at least 0"),
        (
            "training",
            "smallest_variance = 0",
            "[training] smallest_variance = 0: needed is a number above 0 and below 1",
        ),
        (
            "training",
            "smallest_variance = 1",
            "[training] smallest_variance = 1: needed is a number above 0 and below 1",
        ),
        ("training", "whitening = -0.1", "[training] whitening = -0.1: needed is a number at least 0 and at most 0.5"),
        ("training", "whitening = 0.6", "[training] whitening = 0.6: needed is a number at least 0 and at most 0.5"),
        ("training", "averaging = -0.1", "[training] averaging = -0.1: needed is a number at least 0 and below 1"),
        ("training", "averaging = 1", "[training] averaging = 1: needed is a number at least 0 and below 1"),
        ("driver", "wait_seconds = -5", "wait_seconds = -5: needed is a number at least 0"),
    ],
)
def test_impossible_values(folder, section, line, expected):
    assert expected in message(folder, f"{MINIMAL}[{section}]\n{line}\n")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('[qm]\nresidues = ["A"]', "[system] topology is missing: give the path of an existing file"),
        ('[system]\ntopology = "no.prmtop"\n[qm]\nresidues = ["A"]', "there is no file"),
        ('[system]\ntopology = 3\n[qm]\nresidues = ["A"]', "topology = 3: needed is the path of an existing file"),
        ('[system]\ntopology = "system.prmtop"', "exactly one of residues and atoms, got neither"),
        (MINIMAL + 'atoms = "0-3"', "exactly one of residues and atoms, got both"),
        (MINIMAL.replace('["URA"]', "[]"), "residues = []: needed is a list of names"),
        (MINIMAL.replace('["URA"]', '"URA"'), 'residues = "URA": needed is a list of names'),
        (MINIMAL.replace('residues = ["URA"]', "atoms = []"), "atoms = []: needed is zero-based atom numbers"),
        (MINIMAL.replace('residues = ["URA"]', "atoms = [0, true]"), "atoms = [0, true]: needed is zero-based"),
        (MINIMAL + "charge = 0.5", "charge = 0.5: needed is a whole number"),
    ],
)
def test_system_and_qm(folder, text, expected):
    assert expected in message(folder, text)


def test_the_explanation_covers_every_key():
    text = explain_keys()
    for section, declared in SECTIONS.items():
        assert f"[{section}]" in text
        for entry in fields(declared):
            assert f"  {entry.name} " in text
            assert entry.metadata["meaning"]


def test_declared_defaults_satisfy_their_own_kinds(folder):
    for declared in SECTIONS.values():
        for entry in fields(declared):
            if isinstance(entry.default, str | int | float):
                assert entry.metadata["kind"].convert(entry.default, folder) == entry.default


CORRECTION = '[correction]\nmodel = "model.safetensors"\n'


def test_a_correction(folder):
    assert read_config(write(folder, MINIMAL)).correction.model is None
    correction = read_config(write(folder, MINIMAL + CORRECTION)).correction
    # It may name the model that is to be trained.
    assert correction.model == folder / "model.safetensors"
    assert (correction.action, correction.fade_width, correction.max_frames) == ("warn", 2.0, 200)
    assert (correction.committee_extras, correction.include_offset) == (False, True)
    text = 'energy_spread_limit_kj_per_mol = 5\naction = "fade"\nfade_width = 3\nframes_file = "above.extxyz"\n'
    correction = read_config(write(folder, MINIMAL + CORRECTION + text + "max_frames = 7\n")).correction
    assert correction.energy_spread_limit_kj_per_mol == 5.0
    assert correction.frames_file == folder / "above.extxyz"
    assert (correction.action, correction.fade_width, correction.max_frames) == ("fade", 3.0, 7)


@pytest.mark.parametrize(
    ("extra", "expected"),
    [
        ("[correction]\ncommittee_extras = true", "committee_extras but no model"),
        ('[correction]\nmodel = "absent/model.safetensors"', "there is no folder"),
        ('[correction]\nmodel = "slko"', "is a folder"),
        (CORRECTION + 'action = "stop"', "action has no meaning without a limit"),
        (CORRECTION + 'frames_file = "a.extxyz"', "frames_file has no meaning without a limit"),
        (CORRECTION + "energy_spread_limit_kj_per_mol = 0", "needed is a number above 0"),
        (
            CORRECTION + 'force_spread_limit_kj_per_mol_per_angstrom = 5\naction = "fade"',
            "would need second derivatives",
        ),
        (
            CORRECTION + "force_spread_limit_kj_per_mol_per_angstrom = 5\nenergy_spread_limit_kj_per_mol = 5\n"
            'action = "fade"',
            "acts on the energy spread alone",
        ),
        (CORRECTION + "energy_spread_limit_kj_per_mol = 5\nfade_width = 3", "fade_width has no meaning without action"),
        (
            CORRECTION + 'energy_spread_limit_kj_per_mol = 5\naction = "fade"\nfade_width = 1',
            "needed is a number above 1",
        ),
        (
            CORRECTION + "energy_spread_limit_kj_per_mol = 5\nmax_frames = 5",
            "max_frames has no meaning without frames_f",
        ),
        (CORRECTION + 'energy_spread_limit_kj_per_mol = 5\naction = "halt"', '"warn", "stop" or "fade"'),
    ],
)
def test_corrections_that_cannot_be_meant(folder, extra, expected):
    assert expected in message(folder, MINIMAL + extra)


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        ('hsd = "system.rst7"', 'engine = "builtin" does not read it'),
        ('engine = "dftb+"\nhsd = "no.hsd"', "there is no file"),
        ('engine = "dftb+"\nsolver = "purification"', 'solver has no meaning with engine = "dftb+"'),
        ('engine = "dftb+"\nwarm_start = true', 'warm_start has no meaning with engine = "dftb+"'),
        ('engine = "dftb+"\nhsd = "system.rst7"\nmodel = "dftb2"', "model has no meaning beside hsd = system.rst7"),
        ('engine = "dftb+"\nhsd = "system.rst7"\ndispersion = "d3bj"', "dispersion has no meaning beside hsd"),
        ('engine = "dftb"', 'needed is "builtin" or "dftb+"'),
        ('library = "absent"', "there is no file or folder"),
        ("workers = -1", "needed is a whole number at least 0"),
    ],
)
def test_engine(folder, keys, expected):
    assert expected in message(folder, f"{MINIMAL}\n[dftb]\n{keys}\n")


def test_an_input_of_dftbplus(folder):
    text = 'engine = "DFTB+"\nhsd = "system.rst7"\nlibrary = "."\nworkers = 2\nthreads = 4\ntimeout_seconds = 5'
    dftb = read_config(write(folder, f"{MINIMAL}\n[dftb]\n{text}\n")).dftb
    assert (dftb.engine, dftb.hsd, dftb.library) == ("dftb+", folder / "system.rst7", folder)
    assert (dftb.workers, dftb.timeout_seconds) == (2, 5.0)
