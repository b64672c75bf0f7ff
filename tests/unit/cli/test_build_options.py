from dataclasses import fields
from pathlib import Path

import pytest

from deltaqmmm.build import BuildOptions, BuildReport
from deltaqmmm.cli.build import make_options, report_text
from deltaqmmm.cli.main import make_parser


def build_options(*words):
    return make_options(make_parser().parse_args(["build", *words]))


def test_the_defaults_are_those_of_the_library():
    ours = build_options("folder", "O")
    library = BuildOptions(folder=Path("folder"), molecules=("O",))
    for entry in fields(BuildOptions):
        if entry.name != "show_progress":
            assert getattr(ours, entry.name) == getattr(library, entry.name), entry.name


@pytest.mark.parametrize(
    ("words", "field", "value"),
    [
        (["O", "CC"], "molecules", ("O", "CC")),
        (["O", "--name", "URA", "--name", "LIG"], "names", ("URA", "LIG")),
        (["O", "--count", "2"], "counts", (2,)),
        (["O", "--charge=-1"], "charges", (-1,)),
        (["O", "--charge-scheme", "bcc"], "charge_scheme", "bcc"),
        (["O", "--placement", "as_given"], "placement", "as_given"),
        (["O", "--gap", "4"], "solute_gap_angstrom", 4.0),
        (["O", "--padding", "9"], "padding_angstrom", 9.0),
        (["O", "--waters", "1000"], "water_count", 1000),
        (["O", "--box", "20", "21", "22"], "box_edges_angstrom", (20.0, 21.0, 22.0)),
        (["O", "--shape", "orthorhombic"], "box_shape", "orthorhombic"),
        (["O", "--water-model", "spcfw"], "water_model", "spcfw"),
        (["O", "--salt", "0.15"], "salt_molar", 0.15),
        (["--topology", "a.prmtop"], "topology", Path("a.prmtop")),
        (["--coordinates", "a.rst7"], "coordinates", Path("a.rst7")),
        (["--include-dir", "ff"], "include_dir", Path("ff")),
        (["--qm-residues", "A", "B"], "qm_residues", ("A", "B")),
        (["--qm-atoms", "0-3"], "qm_atoms", "0-3"),
        (["--qm-charge", "-2"], "qm_charge", -2),
        (["O", "--no-minimise"], "minimise", False),
        (["O", "--equilibrate", "5"], "equilibrate_ps", 5.0),
        (["O", "--pressure", "1"], "pressure_bar", 1.0),
        (["O", "--beads", "32"], "nbeads", 32),
        (["O", "--temperature", "310"], "temperature_kelvin", 310.0),
        (["O", "--timestep", "0.25"], "timestep_femtosecond", 0.25),
        (["O", "--steps", "10"], "steps", 10),
        (["O", "--ensemble", "nve"], "ensemble", "nve"),
        (["O", "--threads", "4"], "threads", 4),
        (["O"], "threads", 0),
        (["O", "--seed", "9"], "seed", 9),
        (["O", "--no-reproducible"], "reproducible", False),
        (["O", "--cutoff", "8"], "cutoff_angstrom", 8.0),
        (["O", "--overwrite"], "overwrite", True),
        (["O", "--quiet"], "show_progress", False),
    ],
)
def test_every_flag_reaches_its_option(words, field, value):
    assert getattr(build_options("folder", *words), field) == value


def test_two_sizes_of_a_box_exclude_each_other(capsys):
    with pytest.raises(SystemExit):
        build_options("folder", "O", "--padding", "9", "--waters", "10")
    assert "not allowed with" in capsys.readouterr().err


def test_report_says_what_to_do_next():
    report = BuildReport(
        folder=Path("mine"),
        n_atoms=3012,
        n_qm=12,
        n_waters=1000,
        n_ions=0,
        qm_residues=("URA",),
        qm_charge=0,
        cell_angstrom=(31.0, 31.0, 31.0),
        socket_name="mine",
        minimised_energy_kj_per_mol=-1.0,
        seconds={"structure": 1.25},
        notes=("charges are Gasteiger's",),
    )
    text = report_text(report)
    assert "3012 atoms, 1000 waters, 0 ions, 31.0 x 31.0 x 31.0 angstrom" in text
    following = [line.strip() for line in text[text.index("Next:") :].splitlines()[1:]]
    assert following[0] == "cd mine"
    # One command that does it all comes before the two by hand.
    commands = [
        "deltaqmmm check config.toml",
        "deltaqmmm run .",
        "deltaqmmm plot .",
        "deltaqmmm new CASE FOLDER --system .",
    ]
    assert [line[: len(command)] for line, command in zip(following[1:5], commands, strict=True)] == commands
    assert following[5] == "By hand: i-pi input.xml > i-pi.log & deltaqmmm drive config.toml -u -a mine"
    assert "charges are Gasteiger's" in text
