"""The text of the files, and options that are refused."""

from __future__ import annotations

import tomllib
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import numpy as np
import pytest

from deltaqmmm.build import BuildOptions
from deltaqmmm.build.checks import check_options
from deltaqmmm.build.existing import flatten_includes
from deltaqmmm.build.ipi_input import cell_parameters, init_xyz, input_xml, socket_name
from deltaqmmm.build.write import config_toml, write_rst7
from deltaqmmm.errors import InputError
from deltaqmmm.units import ANGSTROM

CONFIG = {
    "topology": "system.prmtop",
    "coordinates": "system.rst7",
    "qm_residues": ("URA",),
    "qm_atoms": "",
    "qm_charge": 0,
    "periodic": True,
    "cutoff_angstrom": 9.0,
    "switch_angstrom": None,
    "threads": 2,
}
INPUT = {
    "address": "uracil",
    "nbeads": 4,
    "temperature_kelvin": 300.0,
    "timestep_femtosecond": 0.5,
    "steps": 100,
    "ensemble": "nvt",
    "seed": 7,
}


def test_config_has_the_agreed_keys_and_a_comment_on_each():
    text = config_toml(**CONFIG)
    assert tomllib.loads(text) == {
        "system": {"topology": "system.prmtop", "coordinates": "system.rst7"},
        "qm": {"residues": ["URA"], "charge": 0},
        "dftb": {
            "model": "dftb3",
            "parameters": "3ob-3-1",
            "dispersion": "none",
            "electronic_temperature_kelvin": 0.0,
            "scc_tolerance": 1e-8,
            "device": "cpu",
        },
        "embedding": {"kind": "cutoff", "inner_angstrom": 12.0, "outer_angstrom": 14.0},
        "mm": {"platform": "CPU", "cutoff_angstrom": 9.0, "virial": False},
        "driver": {"threads": 2},
    }
    assert all("#" in line for line in text.splitlines() if "=" in line)


def test_config_of_atoms_without_a_box():
    config = tomllib.loads(config_toml(**(CONFIG | {"qm_residues": (), "qm_atoms": "0-11", "periodic": False})))
    assert config["qm"] == {"atoms": "0-11", "charge": 0}
    assert config["embedding"] == {"kind": "all"}


def test_config_of_another_cutoff_moves_the_switch():
    config = tomllib.loads(config_toml(**(CONFIG | {"cutoff_angstrom": 8, "switch_angstrom": 7.0})))
    assert config["mm"] == {"platform": "CPU", "cutoff_angstrom": 8.0, "switch_angstrom": 7.0, "virial": False}


def test_input_xml_of_path_integrals_and_of_classical_dynamics():
    root = ElementTree.fromstring(input_xml(**INPUT))
    assert root.find("system/initialize").get("nbeads") == "4"
    assert root.findtext("ffsocket/batch_size").strip() == "4"
    assert root.find("system/motion/dynamics/thermostat").get("mode") == "pile_l"
    classical = ElementTree.fromstring(input_xml(**(INPUT | {"nbeads": 1})))
    assert classical.find("system/motion/dynamics/thermostat").get("mode") == "svr"
    free = ElementTree.fromstring(input_xml(**(INPUT | {"ensemble": "nve"})))
    assert free.find("system/motion/dynamics/thermostat") is None
    assert free.find("system/motion/dynamics").get("mode") == "nve"


def test_socket_name_is_short_and_plain():
    assert socket_name("uracil in water/100%") == "uracil-in-water-100"
    assert len(socket_name("x" * 200)) == 40
    assert socket_name("%%") == "deltaqmmm"


def test_init_xyz_and_rst7_of_a_triclinic_cell(tmp_path):
    cell = np.array([[20.0, 0.0, 0.0], [5.0, 19.0, 0.0], [-3.0, 4.0, 21.0]]) * ANGSTROM
    positions = np.array([[0.1, 0.2, 0.3], [-1.0, 30.0, 2.5]]) * ANGSTROM
    lines = init_xyz(("O", "H"), positions, cell).splitlines()
    numbers = [float(word) for word in lines[1].split(":")[1].split()[:6]]
    lengths, angles = cell_parameters(cell)
    np.testing.assert_allclose(numbers, [*(lengths / ANGSTROM), *angles], atol=1e-8)
    assert angles[2] == pytest.approx(np.degrees(np.arctan2(19.0, 5.0)))
    assert lines[1].endswith("cell{angstrom} positions{angstrom}")
    np.testing.assert_allclose([float(word) for word in lines[3].split()[1:]], [-1.0, 30.0, 2.5])
    write_rst7(tmp_path / "a.rst7", positions, cell)
    values = [float(word) for line in (tmp_path / "a.rst7").read_text().splitlines()[2:] for word in line.split()]
    np.testing.assert_allclose(values[:6], (positions / ANGSTROM).reshape(-1), atol=1e-7)
    np.testing.assert_allclose(values[6:], numbers, atol=1e-6)


def test_without_a_box_ipi_gets_a_large_one():
    assert "1000.00000000" in init_xyz(("H",), np.zeros((1, 3)), None).splitlines()[1]


def test_includes_are_flattened(tmp_path):
    (tmp_path / "ff").mkdir()
    (tmp_path / "ff" / "types.itp").write_text("[ atomtypes ]\n")
    (tmp_path / "solute.itp").write_text("[ moleculetype ]")
    top = tmp_path / "system.top"
    top.write_text('#include "types.itp"\n#include "solute.itp"\n#ifdef POSRES\n#include "posre.itp"\n#endif\nend\n')
    text = "".join(flatten_includes(top, tmp_path / "ff"))
    assert text == '[ atomtypes ]\n[ moleculetype ]\n#ifdef POSRES\n#include "posre.itp"\n#endif\nend\n'
    with pytest.raises(InputError, match=r"includes types\.itp, which is not in"):
        flatten_includes(top, None)
    (tmp_path / "loop.top").write_text('#include "loop.top"\n')
    with pytest.raises(InputError, match="include each other"):
        flatten_includes(tmp_path / "loop.top", None)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"molecules": ()}, "Nothing to build"),
        ({"topology": Path("a.prmtop")}, "Both molecules and an existing topology"),
        ({"water_model": "opc"}, "is rigid"),
        ({"water_count": 0}, "0 water molecules"),
        ({"water_count": 100, "padding_angstrom": 12.0}, "more than once"),
        ({"box_edges_angstrom": (20.0, 20.0)}, "2 box edges"),
        ({"box_edges_angstrom": (10.0,)}, "at least 18.5"),
        ({"cutoff_angstrom": 12.0, "box_edges_angstrom": (24.0,)}, "at least 24.5"),
        ({"cutoff_angstrom": 1.0}, "at least 4 angstrom"),
        ({"charge_scheme": "resp"}, "charge_scheme is 'resp'; it can be gasteiger or bcc or file"),
        ({"nbeads": 0}, "nbeads is 0"),
        ({"padding_angstrom": float("nan")}, "padding_angstrom is nan"),
        ({"temperature_kelvin": -1.0}, "temperature_kelvin is -1"),
        ({"salt_molar": -0.1}, "salt_molar is -0.1"),
        ({"qm_atoms": "0-3"}, "qm_atoms is for existing systems"),
        ({"qm_charge": 1}, "qm_charge is for existing systems"),
        ({"molecules": (), "topology": Path("a.prmtop")}, "needs its QM region"),
    ],
)
def test_options_that_are_refused(tmp_path, changes, message):
    options = {"folder": tmp_path / "new", "molecules": ("CO",)} | changes
    with pytest.raises(InputError, match=message):
        check_options(BuildOptions(**options))


def test_folder_that_is_not_empty_is_kept(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("precious")
    with pytest.raises(InputError, match="exists and is not empty"):
        check_options(BuildOptions(folder=tmp_path, molecules=("CO",)))
    check_options(BuildOptions(folder=tmp_path, molecules=("CO",), overwrite=True))
    with pytest.raises(InputError, match="is a file"):
        check_options(BuildOptions(folder=tmp_path / "file", molecules=("CO",)))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match="contains the current folder"):
        check_options(BuildOptions(folder=tmp_path, molecules=("CO",), overwrite=True))
