"""[correction] from the configuration file to the commands, with a model of random networks for uracil in a droplet."""

import logging
import re

import numpy as np
import pytest
from ase.io import read

from deltaqmmm.build.ipi_input import init_xyz
from deltaqmmm.cli import differences
from deltaqmmm.cli.console import describe, level_of_theory
from deltaqmmm.cli.ffdirect import DeltaQMMMDriver
from deltaqmmm.cli.main import main
from deltaqmmm.config import read_config
from deltaqmmm.config.loading import load_potential, load_split
from deltaqmmm.errors import ConfigError, FrameError, ModelError, SpreadError
from deltaqmmm.units import ANGSTROM, HARTREE_IN_ELECTRONVOLT, KJ_PER_MOL
from tests.corrections import write_model

CONFIG = """
[system]
topology = "{folder}/{name}.prmtop"
coordinates = "{folder}/{name}.rst7"
[qm]
residues = ["URA"]
[embedding]
inner_angstrom = {inner}
outer_angstrom = 8.0
[dftb]
model = "{model}"
[mm]
platform = "Reference"
cutoff_angstrom = 7.0
[driver]
threads = 1
"""


@pytest.fixture
def make(tmp_path, data_folder, slater_koster_folder):
    """Write a configuration, and (once) the model for its default form."""

    def write(correction="", inner=5.5, model="dftb3", name="uracil_droplet", with_model=True):
        text = CONFIG.format(folder=data_folder / "mm_systems", inner=inner, model=model, name=name)
        if with_model:
            text += '[correction]\nmodel = "model.safetensors"\n'
        (tmp_path / "config.toml").write_text(text + correction)
        return tmp_path / "config.toml"

    return write


@pytest.fixture
def model(make, tmp_path):
    def write(**changes):
        config = read_config(make(with_model=False))
        return write_model(tmp_path / "model.safetensors", config, load_split(config)[1], **changes)

    return write


def frame(loaded):
    return np.eye(3)[None], loaded.topology.positions[loaded.system.atom_particles][None]


def test_a_delta_model_adds_to_the_other_terms(make, model):
    model()
    loaded = load_potential(read_config(make()))
    baseline = load_potential(read_config(make(with_model=False)))
    result, without = (each.evaluate(*frame(each)) for each in (loaded, baseline))
    assert list(result.terms) == ["mm", "dftb", "correction"]
    # Twelve atoms of -2 hartree, and what the networks say.
    assert result.terms["correction"] == pytest.approx(-24.0, abs=1.0)
    assert result.terms["correction"] != pytest.approx(-24.0, abs=1e-6)
    assert result.energies - result.terms["correction"] == pytest.approx(without.energies, abs=1e-9)
    assert np.abs(result.forces - without.forces).max() > 1e-5
    assert result.extras["committee_energy_spread"] > 1e-6


def test_a_direct_model_replaces_dftb(make, model):
    model(target="direct")
    # The baseline of the configuration does not matter.
    config = read_config(make(model="dftb2"))
    loaded = load_potential(config)
    result = loaded.evaluate(*frame(loaded))
    assert loaded.dftb is None
    assert list(result.terms) == ["mm", "correction"]
    assert "qm_charges" not in result.extras
    text = describe(loaded)
    assert "model.safetensors: replaces DFTB, 3 networks" in text
    assert "\n  DFTB" not in text
    with pytest.raises(ConfigError, match=r"the term 'dftb' is asked for, but the model .* is a direct one"):
        load_potential(config, ["dftb"])


def test_terms_apart(make, model):
    model()
    config = read_config(make())
    whole = load_potential(config)
    expected = whole.evaluate(*frame(whole))
    parts = [load_potential(config, terms) for terms in (["dftb", "mm"], ["correction"])]
    assert parts[1].mm is None
    assert parts[1].dftb is None
    assert parts[0].correction is None
    results = [part.evaluate(*frame(part)) for part in parts]
    assert sum(result.energies for result in results) == pytest.approx(expected.energies, abs=1e-9)
    np.testing.assert_allclose(sum(result.forces for result in results), expected.forces, atol=1e-9)
    assert "terms      mm, dftb only: i-PI must add the others" in describe(parts[0])
    assert "terms      correction only" in describe(parts[1])
    assert "i-PI must add" not in describe(whole)


@pytest.mark.parametrize(
    ("words", "with_model", "expected"),
    [
        ("correction", False, r"the term 'correction' is asked for, but \[correction\] names no model"),
        ("", True, "no term is named: needed are one or more of mm, dftb, correction"),
        ("mm,xtb", True, "unknown term 'xtb'"),
    ],
)
def test_terms_that_cannot_be_served(make, model, capsys, words, with_model, expected):
    model()
    assert main(["drive", str(make(with_model=with_model)), "-u", "-a", "nobody", "--terms", words]) == 1
    assert re.search(expected, capsys.readouterr().err)


def test_what_the_user_reads_at_the_start(make, model):
    model()
    text = describe(
        load_potential(
            read_config(
                make(
                    "energy_spread_limit_kj_per_mol = 4\nforce_spread_limit_kj_per_mol_per_angstrom = 10\n"
                    'action = "stop"\nframes_file = "above.extxyz"\n'
                )
            )
        )
    )
    assert re.search(r"correction model\.safetensors: corrects DFTB, 3 networks of \d+ parameters", text)
    assert "fitted to pbe0-d3bj/def2-svp (" in text
    assert "density_fitting yes" in text
    assert "guard      stops above a spread of 4 kJ/mol of energy and 10 kJ/mol/angstrom of force" in text
    assert "frames above it go to above.extxyz, at most 200" in text
    assert level_of_theory({"functional": "hf", "basis": "sto-3g", "dispersion": "none"}) == "hf/sto-3g"


@pytest.mark.parametrize(
    ("known", "expected"),
    [
        (
            None,
            ["the model does not say for which QM region it was trained;", "this one is C4 H4 N2 O2, charge +0:"],
        ),
        ("C4 H4 N2 O2, charge +0", []),
        ("C2 H3 N, charge +0", ["the model was trained on another QM region, C2 H3 N, charge +0:"]),
    ],
)
def test_a_model_of_another_qm_region_of_the_same_elements_is_warned_of(make, model, known, expected):
    model(provenance={} if known is None else {"qm_region": known})
    text = describe(load_potential(read_config(make())))
    assert ("WARNING" in text) == bool(expected)
    assert all(words in text for words in expected)


def test_a_charge_that_is_not_the_force_fields_is_warned_of(make, capsys):
    file = make(with_model=False)
    loaded = load_potential(read_config(file))
    assert "WARNING" not in describe(loaded)
    file.write_text(file.read_text().replace('residues = ["URA"]', 'residues = ["URA"]\ncharge = -2'))
    loaded = load_potential(read_config(file))
    warning = "WARNING    the force field gives the QM region +0.00 e, and [qm] charge is -2:"
    assert warning in describe(loaded)
    # Commands that do not print what they load say it too.
    frames = file.with_name("frames.xyz")
    frames.write_text(init_xyz(loaded.system.symbols, loaded.topology.positions[loaded.system.atom_particles], None))
    assert main(["evaluate", str(file), str(frames), "-o", str(file.with_name("out.extxyz"))]) == 0
    assert capsys.readouterr().err.count("WARNING: the force field gives the QM region +0.00 e") == 1
    # A topology in which the QM atoms have no charges at all says nothing about them.
    loaded.topology.charges[loaded.system.atom_particles[loaded.system.qm_atoms]] = 0.0
    assert "WARNING" not in describe(loaded)


def test_other_settings_than_the_models(make, model):
    model()
    with pytest.raises(ModelError) as caught:
        load_potential(read_config(make(inner=6.0)))
    assert "embedding, inner_angstrom: 5.5 there, and 6.0 here" in str(caught.value)
    assert "Run with the settings it was trained for" in str(caught.value)
    with pytest.raises(ModelError, match='baseline, model: "dftb3" there, and "dftb2" here'):
        load_potential(read_config(make(model="dftb2")))
    # The parts that do not use the model are not held to it.
    load_potential(read_config(make(inner=6.0)), ["mm"])


def test_other_elements_and_mm_types(make, model, tmp_path):
    config = read_config(make(with_model=False))
    system = load_split(config)[1]

    class Other:
        """The same system, as a model of other atoms sees it."""

        def __init__(self, qm_symbols, site_symbols):
            self.qm_symbols, self.site_symbols, self.site_types = qm_symbols, site_symbols, system.site_types

        def __getattr__(self, name):
            return getattr(system, name)

    # Its baseline has other elements too, which would say less.
    write_model(tmp_path / "model.safetensors", config, Other(("C", "H", "O"), system.site_symbols))
    with pytest.raises(ModelError, match=r"model\.safetensors: the model knows the QM elements C, H, O.* also has N"):
        load_potential(read_config(make()))
    # With fewer elements it differs in keys of the baseline that nobody can set.
    write_model(tmp_path / "model.safetensors", config, Other((*system.qm_symbols, "S"), system.site_symbols))
    expected = (
        r"model\.safetensors was trained for a QM region of C, H, N, O, S, and this one has C, H, N, O: train one for"
    )
    with pytest.raises(ModelError, match=expected):
        load_potential(read_config(make()))
    hydrogens = tuple("H" for _ in system.site_symbols)
    write_model(tmp_path / "model.safetensors", config, Other(system.qm_symbols, hydrogens))
    with pytest.raises(ModelError, match=r"model\.safetensors: the model knows the MM types H .* have O"):
        load_potential(read_config(make()))


def test_files_that_are_no_models(make, model, tmp_path):
    with pytest.raises(ModelError, match="there is no such model file"):
        load_potential(read_config(make()))
    model()
    file = tmp_path / "model.safetensors"
    content = file.read_bytes()
    file.write_bytes(content[: len(content) // 2])
    with pytest.raises(ModelError, match=r"model\.safetensors"):
        load_potential(read_config(make()))
    file.write_bytes(content.replace(b"bohr, hartree, e", b"angs, hartree, e"))
    with pytest.raises(ModelError, match="is in angs, hartree, e, and bohr, hartree, e are needed"):
        load_potential(read_config(make()))


def test_one_member_cannot_be_guarded(make, model):
    model(n_members=1)
    for extra, what in (("energy_spread_limit_kj_per_mol = 1", "limits"), ("committee_extras = true", "committee_ex")):
        with pytest.raises(ConfigError, match=rf"{what}.* has one member"):
            load_potential(read_config(make(extra + "\n")))
    loaded = load_potential(read_config(make()))
    assert "committee_energy_spread" not in loaded.evaluate(*frame(loaded)).extras


def test_guards_act_in_a_run_and_not_in_a_warm_up(make, model, tmp_path, caplog):
    model()
    limit = 'energy_spread_limit_kj_per_mol = 1e-6\nframes_file = "above.extxyz"\n'
    stopping = load_potential(read_config(make(limit + 'action = "stop"\n')))
    stopping.potential.warm_up(*frame(stopping))
    assert not (tmp_path / "above.extxyz").exists()
    with pytest.raises(SpreadError, match=r"limits are 1e-06 kJ/mol of energy\. Nothing was sent"):
        stopping.evaluate(*frame(stopping))
    warning = load_potential(read_config(make(limit)))
    with caplog.at_level(logging.WARNING):
        warning.evaluate(*frame(warning))
    assert "the committee disagrees by" in caplog.text
    frames = read(tmp_path / "above.extxyz", index=":")
    assert len(frames) == 2
    np.testing.assert_allclose(frames[0].positions * ANGSTROM, frame(warning)[1][0], atol=1e-9)
    (tmp_path / "above.extxyz").write_text("something else\n")
    with pytest.raises(FrameError, match=r"above\.extxyz"):
        load_potential(read_config(make(limit)))


def test_fading_takes_its_limits_from_the_configuration(make, model):
    model()
    loaded = load_potential(read_config(make()))
    plain = loaded.evaluate(*frame(loaded))
    spread = float(plain.extras["committee_energy_spread"][0]) / KJ_PER_MOL
    text = f'energy_spread_limit_kj_per_mol = {spread / 1.5}\naction = "fade"\nfade_width = 2.0\n'
    faded = load_potential(read_config(make(text)))
    result = faded.evaluate(*frame(faded))
    assert result.extras["correction_scale"] == pytest.approx(0.5)
    constant = -24.0
    expected = constant + 0.5 * (plain.terms["correction"] - constant)
    assert result.terms["correction"] == pytest.approx(expected, abs=1e-9)
    without = load_potential(read_config(make("include_offset = false\n")))
    assert without.evaluate(*frame(without)).terms["correction"] == pytest.approx(
        plain.terms["correction"] - constant, abs=1e-9
    )


def test_check_passes_a_correction_that_fades_within_a_short_way(make, model, capsys):
    model()
    loaded = load_potential(read_config(make()))
    spread = float(loaded.evaluate(*frame(loaded)).extras["committee_energy_spread"][0]) / KJ_PER_MOL
    # From all to nothing within a part of the spread, and this frame in the middle: a step of 0.005 bohr is too long.
    width = 0.003
    text = (
        f'energy_spread_limit_kj_per_mol = {spread / (1.0 + width / 2)}\naction = "fade"\nfade_width = {1.0 + width}\n'
    )
    assert main(["check", str(make(text)), "--atoms", "3"]) == 0
    assert "OFF" not in capsys.readouterr().out


def test_check_differentiates_the_correction(make, model, capsys, monkeypatch):
    model()
    assert main(["check", str(make()), "--atoms", "1"]) == 0
    text = capsys.readouterr().out
    for name in ("QM atoms", "near MM atoms", "MM atoms in the switch"):
        (line,) = [line for line in text.splitlines() if f"correction, {name}" in line]
        assert line.endswith("ok")
        assert line.split()[-5] == "1"
    (line,) = [line for line in text.splitlines() if line.startswith("  correction  ") and "-2" in line]
    assert len(line.split()) == 4, "energy in two units, and the time"
    right = differences.Potential.warm_up

    def wrong(self, cells, positions):
        evaluation = right(self, cells, positions)
        if self.terms == ("correction",):
            evaluation.forces[:] *= 1.5
        return evaluation

    monkeypatch.setattr(differences.Potential, "warm_up", wrong)
    assert main(["check", str(make()), "--atoms", "1"]) == 1
    assert [line for line in capsys.readouterr().out.splitlines() if "correction, QM" in line and line.endswith("OFF")]


@pytest.mark.parametrize("target", ["delta", "direct"])
def test_evaluate_writes_the_correction(make, model, tmp_path, target):
    model(target=target)
    loaded = load_potential(read_config(make()))
    result = loaded.evaluate(*frame(loaded))
    (tmp_path / "frames.xyz").write_text(init_xyz(loaded.system.symbols, loaded.topology.positions, None))
    assert (
        main(["evaluate", str(tmp_path / "config.toml"), str(tmp_path / "frames.xyz"), "-o", str(tmp_path / "o.xyz")])
        == 0
    )
    atoms = read(tmp_path / "o.xyz")
    assert atoms.info["energy_correction"] == pytest.approx(
        result.terms["correction"][0] * HARTREE_IN_ELECTRONVOLT, abs=1e-4
    )
    assert atoms.info["committee_energy_spread"] == pytest.approx(
        result.extras["committee_energy_spread"][0] * HARTREE_IN_ELECTRONVOLT, rel=1e-3
    )
    assert atoms.info["committee_force_spread"] == pytest.approx(
        result.extras["committee_force_spread"][0] * HARTREE_IN_ELECTRONVOLT * ANGSTROM, rel=1e-3
    )
    assert ("charges" in atoms.calc.results) == (target == "delta")


def test_ffdirect_takes_terms(make, model):
    model()
    driver = DeltaQMMMDriver(config=str(make()), terms="correction")
    assert driver.potential.terms == ("correction",)
    both = DeltaQMMMDriver(
        config=str(make('energy_spread_limit_kj_per_mol = 1e-6\naction = "stop"\n')), terms="mm dftb"
    )
    assert both.potential.terms == ("mm", "dftb")
    guarded = DeltaQMMMDriver(config=str(make('energy_spread_limit_kj_per_mol = 1e-6\naction = "stop"\n')))
    loaded = load_potential(read_config(make()))
    with pytest.raises(SpreadError):
        guarded(np.eye(3), frame(loaded)[1][0])
