"""Reading of topologies: the three formats against each other, virtual sites, and everything that is refused."""

import shutil
from pathlib import Path

import numpy as np
import openmm
import pytest
from openmm import unit

from deltaqmmm.errors import TopologyError
from deltaqmmm.topology import NonbondedSettings, load_topology
from deltaqmmm.units import ANGSTROM, DALTON, NANOMETRE

DATA = Path(__file__).parents[1] / "data" / "mm_systems"
SHORT = NonbondedSettings(cutoff=8.0 * ANGSTROM, switch_distance=7.0 * ANGSTROM, ewald_tolerance=1e-5)
FILES = {
    "amber": ("uracil_box.prmtop", "uracil_box.rst7"),
    "gromacs": ("uracil_box.top", "uracil_box.gro"),
    "openmm": ("uracil_box.xml", "uracil_box.pdb"),
}

PDB_ARGON = "HETATM    1 AR   ARG A   1       0.000   0.000   0.000  1.00  0.00          AR\nEND\n"

GROMACS_RIGID = """
[ defaults ]
1 2 yes 0.5 0.8333
[ atomtypes ]
OW 8 15.9994 0.0 A 0.3166 0.6502
HW 1 1.008 0.0 A 0.0 0.0
[ moleculetype ]
SOL 2
[ atoms ]
1 OW 1 SOL OW 1 -0.8476 15.9994
2 HW 1 SOL HW1 1 0.4238 1.008
3 HW 1 SOL HW2 1 0.4238 1.008
{bonded}
[ system ]
water
[ molecules ]
SOL 2
"""


def load(kind):
    topology_file, coordinate_file = FILES[kind]
    return load_topology(DATA / topology_file, DATA / coordinate_file, SHORT)


def write_openmm(folder, system, pdb):
    (folder / "system.xml").write_text(openmm.XmlSerializer.serialize(system))
    (folder / "system.pdb").write_text(pdb)
    return folder / "system.xml", folder / "system.pdb"


def water_pdb(n_sites=3):
    names = [("O", "O"), ("H1", "H"), ("H2", "H"), ("M", "EP")][:n_sites]
    lines = [
        f"HETATM{i + 1:5d} {name:^4s} WAT A   1    {i * 0.9:8.3f}{(i == 2) * 0.9:8.3f}{0:8.3f}"
        f"  1.00  0.00          {element:>2s}"
        for i, (name, element) in enumerate(names)
    ]
    return "\n".join([*lines, "CONECT    1    2", "CONECT    1    3", "END", ""])


def water_system(n_sites=3, bonds=True):
    system = openmm.System()
    nonbonded, bond_force, angle_force = (
        openmm.NonbondedForce(),
        openmm.HarmonicBondForce(),
        openmm.HarmonicAngleForce(),
    )
    for mass in (16.0, 1.0, 1.0, 0.0)[:n_sites]:
        system.addParticle(mass)
        nonbonded.addParticle(0.0, 0.3, 0.0)
    if bonds:
        bond_force.addBond(0, 1, 0.1, 1000.0)
        bond_force.addBond(0, 2, 0.1, 1000.0)
        angle_force.addAngle(1, 0, 2, 1.9, 100.0)
    for force in (nonbonded, bond_force, angle_force):
        system.addForce(force)
    return system


def test_amber_arrays():
    topology = load("amber")
    n_waters = (topology.n_particles - 12) // 3
    assert topology.n_particles == 12 + 3 * n_waters
    assert topology.symbols[:15] == ("O", "C", "C", "C", "N", "C", "O", "N", "H", "H", "H", "H", "O", "H", "H")
    assert topology.residue_names[:13] == ("URA",) * 12 + ("WAT",)
    assert topology.atom_names[:2] == ("O1", "C1")
    assert topology.residue_indices[[0, 11, 12, 14, 15, -1]].tolist() == [0, 0, 1, 1, 2, n_waters]
    assert len(topology.bonds) == 12 + 2 * n_waters
    assert [0, 1] in topology.bonds.tolist()
    assert [12, 14] in topology.bonds.tolist()
    assert [13, 14] not in topology.bonds.tolist()
    np.testing.assert_allclose(topology.masses[12:15], np.array([16.0, 1.008, 1.008]) * DALTON, rtol=1e-12)
    np.testing.assert_allclose(topology.charges[12:15], [-0.84, 0.42, 0.42], atol=1e-6)
    assert abs(topology.charges.sum()) < 1e-5
    assert topology.periodic
    # last line of the coordinate file, in angstrom
    last = [float(x) for x in (DATA / "uracil_box.rst7").read_text().splitlines()[-1].split()]
    np.testing.assert_allclose(topology.cell, np.diag(last[:3]) * ANGSTROM, rtol=1e-12, atol=1e-12)
    first = [float(x) for x in (DATA / "uracil_box.rst7").read_text().splitlines()[2].split()]
    np.testing.assert_allclose(topology.positions[:2].ravel(), np.array(first) * ANGSTROM, rtol=1e-12)


@pytest.mark.parametrize(("kind", "rounding"), [("gromacs", 0.51e-2), ("openmm", 0.51e-3)])
def test_formats_agree(kind, rounding):
    amber, other = load("amber"), load(kind)
    assert other.symbols == amber.symbols
    assert other.atom_names == amber.atom_names
    assert other.residue_names == amber.residue_names
    np.testing.assert_array_equal(other.residue_indices, amber.residue_indices)
    np.testing.assert_array_equal(other.bonds, amber.bonds)
    np.testing.assert_allclose(other.charges, amber.charges, atol=1e-6)
    np.testing.assert_allclose(other.masses, amber.masses, rtol=1e-3)
    np.testing.assert_allclose(other.cell, amber.cell, atol=rounding * ANGSTROM)
    shifts = np.rint((other.positions - amber.positions) @ np.linalg.inv(amber.cell))
    np.testing.assert_allclose(other.positions - shifts @ amber.cell, amber.positions, rtol=0, atol=rounding * ANGSTROM)


def test_droplet_is_not_periodic():
    topology = load_topology(DATA / "uracil_droplet.prmtop", DATA / "uracil_droplet.rst7")
    assert not topology.periodic
    assert topology.cell is None
    nonbonded = next(f for f in topology.openmm_system.getForces() if isinstance(f, openmm.NonbondedForce))
    assert nonbonded.getNonbondedMethod() == openmm.NonbondedForce.NoCutoff


def test_coordinates_may_be_left_out():
    topology = load_topology(DATA / "uracil_droplet.prmtop")
    assert topology.positions is None


@pytest.mark.parametrize("kind", ["amber", "gromacs"])
def test_nonbonded_settings_arrive(kind):
    topology_file, coordinate_file = FILES[kind]
    settings = NonbondedSettings(7.5 * ANGSTROM, None, 3e-4, False)
    system = load_topology(DATA / topology_file, DATA / coordinate_file, settings).openmm_system
    nonbonded = next(f for f in system.getForces() if isinstance(f, openmm.NonbondedForce))
    assert nonbonded.getNonbondedMethod() == openmm.NonbondedForce.PME
    assert nonbonded.getCutoffDistance().value_in_unit(unit.angstrom) == pytest.approx(7.5)
    assert nonbonded.getEwaldErrorTolerance() == 3e-4
    assert not nonbonded.getUseSwitchingFunction()
    assert not nonbonded.getUseDispersionCorrection()
    nonbonded = next(f for f in load(kind).openmm_system.getForces() if isinstance(f, openmm.NonbondedForce))
    assert nonbonded.getUseSwitchingFunction()
    assert nonbonded.getSwitchingDistance().value_in_unit(unit.angstrom) == pytest.approx(7.0)
    assert nonbonded.getUseDispersionCorrection()


def test_four_site_water():
    topology = load_topology(DATA / "four_site_water.xml", DATA / "four_site_water.pdb")
    assert topology.symbols[:4] == ("O", "H", "H", "")
    assert topology.masses[3] == 0.0
    assert topology.atom_particles[:4].tolist() == [0, 1, 2, 4]
    sites = topology.virtual_sites
    assert sites.particles[:2].tolist() == [3, 7]
    assert sites.parents[1].tolist() == [4, 5, 6]
    np.testing.assert_allclose(sites.weights.sum(axis=1), 1.0)
    assert topology.bonds[:3].tolist() == [[0, 1], [0, 2], [4, 5]]


@pytest.mark.parametrize(
    "site",
    [
        openmm.TwoParticleAverageSite(0, 1, 0.3, 0.7),
        openmm.ThreeParticleAverageSite(0, 2, 1, 0.5, 0.2, 0.3),
        openmm.OutOfPlaneSite(0, 1, 2, -0.3, -0.4, 4.5),
    ],
    ids=["two", "three", "out-of-plane"],
)
def test_virtual_site_position_is_openmms(tmp_path, site):
    system = water_system(4)
    system.setVirtualSite(3, site)
    topology = load_topology(*write_openmm(tmp_path, system, water_pdb(4)))
    context = openmm.Context(
        topology.openmm_system, openmm.VerletIntegrator(0.001), openmm.Platform.getPlatformByName("Reference")
    )
    positions = np.random.default_rng(3).normal(size=(4, 3))
    context.setPositions(positions / NANOMETRE)
    context.computeVirtualSites()
    state = context.getState(getPositions=True)
    expected = state.getPositions(asNumpy=True).value_in_unit(unit.nanometer)[3] * NANOMETRE
    sites = topology.virtual_sites
    parents = positions[sites.parents[0]]
    ours = sites.weights[0] @ parents + sites.cross[0] * np.cross(parents[1] - parents[0], parents[2] - parents[0])
    np.testing.assert_allclose(ours, expected, atol=1e-12)


def test_rigid_amber_water_is_refused():
    with pytest.raises(TopologyError, match=r"residue WAT 1 .*FlexibleWater on") as caught:
        load_topology(DATA / "rigid_water.prmtop", DATA / "rigid_water.rst7")
    assert "i-PI has no rigid molecules with several beads" in str(caught.value)


@pytest.mark.parametrize(
    ("bonded", "accepted"),
    [
        ("[ settles ]\n1 1 0.1 0.1633", False),
        ("[ bonds ]\n1 2 1 0.1 345000\n[ constraints ]\n1 3 1 0.1", False),
        (
            "#ifdef FLEXIBLE\n[ bonds ]\n1 2 1 0.1 345000\n1 3 1 0.1 345000\n[ angles ]\n2 1 3 1 109.47 383\n"
            "#else\n[ settles ]\n1 1 0.1 0.1633\n#endif",
            True,
        ),
    ],
    ids=["settles", "constraint", "flexible"],
)
def test_gromacs_water(tmp_path, bonded, accepted):
    path = tmp_path / "water.top"
    path.write_text(GROMACS_RIGID.format(bonded=bonded))
    if accepted:
        assert len(load_topology(path).bonds) == 4
    else:
        with pytest.raises(TopologyError, match=r"HOH 1 .*constrained.*i-PI has no rigid"):
            load_topology(path)


def test_constraint_in_openmm_system_is_refused(tmp_path):
    system = water_system()
    system.addConstraint(1, 2, 0.16)
    with pytest.raises(TopologyError, match=r"WAT 1 \(atom H1\).*H2 is constrained"):
        load_topology(*write_openmm(tmp_path, system, water_pdb()))


def test_bond_without_term_is_refused(tmp_path):
    with pytest.raises(TopologyError, match=r"WAT 1 \(atom O\): its bond to atom H1 has no bonded term"):
        load_topology(*write_openmm(tmp_path, water_system(bonds=False), water_pdb()))


def test_missing_files():
    with pytest.raises(TopologyError, match=r"topology file 'nowhere.prmtop' does not exist"):
        load_topology(Path("nowhere.prmtop"))
    with pytest.raises(TopologyError, match=r"coordinate file 'nowhere.rst7' does not exist"):
        load_topology(DATA / "uracil_box.prmtop", Path("nowhere.rst7"))


def test_atom_count_of_coordinates_must_match():
    with pytest.raises(TopologyError, match=r"uracil_droplet.rst7' holds \d+ particles, but .*uracil_box.prmtop"):
        load_topology(DATA / "uracil_box.prmtop", DATA / "uracil_droplet.rst7", SHORT)
    with pytest.raises(TopologyError, match=r"four_site_water.pdb' holds 48 particles"):
        load_topology(DATA / "uracil_box.xml", DATA / "four_site_water.pdb")


def test_malformed_files(tmp_path):
    text = (DATA / "uracil_box.prmtop").read_text()
    (tmp_path / "cut.prmtop").write_text(text[: len(text) // 3])
    with pytest.raises(TopologyError, match=r"cut.prmtop' cannot be read"):
        load_topology(tmp_path / "cut.prmtop")
    (tmp_path / "bad.rst7").write_text("not coordinates\n")
    with pytest.raises(TopologyError, match=r"bad.rst7' cannot be read"):
        load_topology(DATA / "uracil_box.prmtop", tmp_path / "bad.rst7")
    (tmp_path / "bad.xml").write_text("<System/>")
    shutil.copy(DATA / "uracil_box.pdb", tmp_path)
    with pytest.raises(TopologyError, match=r"bad.xml' cannot be read"):
        load_topology(tmp_path / "bad.xml", tmp_path / "uracil_box.pdb")
    (tmp_path / "some.dat").write_text("something else")
    with pytest.raises(TopologyError, match=r"some.dat' is of no known format"):
        load_topology(tmp_path / "some.dat")
    (tmp_path / "include.top").write_text('#include "nowhere.itp"\n')
    with pytest.raises(TopologyError, match=r"include.top' cannot be read.*nowhere.itp"):
        load_topology(tmp_path / "include.top")


def test_positions_must_be_finite(tmp_path):
    lines = (DATA / "uracil_droplet.rst7").read_text().splitlines()
    lines[2] = "         nan" + lines[2][12:]
    (tmp_path / "nan.rst7").write_text("\n".join(lines) + "\n")
    with pytest.raises(TopologyError, match="not finite"):
        load_topology(DATA / "uracil_droplet.prmtop", tmp_path / "nan.rst7")


def test_openmm_system_needs_names(tmp_path):
    with pytest.raises(TopologyError, match="give a PDB file"):
        load_topology(DATA / "uracil_box.xml")
    with pytest.raises(TopologyError, match="give a PDB file"):
        load_topology(DATA / "uracil_box.xml", DATA / "uracil_box.gro")
    (tmp_path / "force.xml").write_text(openmm.XmlSerializer.serialize(openmm.NonbondedForce()))
    with pytest.raises(TopologyError, match="holds a NonbondedForce; needed is a System"):
        load_topology(tmp_path / "force.xml", DATA / "uracil_box.pdb")


def test_charges_come_from_one_nonbonded_force(tmp_path):
    system = openmm.System()
    system.addParticle(39.95)
    with pytest.raises(TopologyError, match="0 NonbondedForce objects; exactly one"):
        load_topology(*write_openmm(tmp_path, system, PDB_ARGON))


def test_massless_atom_is_refused(tmp_path):
    system = openmm.System()
    system.addParticle(0.0)
    force = openmm.NonbondedForce()
    force.addParticle(0.0, 0.3, 0.1)
    system.addForce(force)
    with pytest.raises(TopologyError, match=r"ARG 1 .*mass 0 dalton and no virtual site"):
        load_topology(*write_openmm(tmp_path, system, PDB_ARGON))


def test_unsupported_virtual_site_is_refused(tmp_path):
    system = water_system(4)
    site = openmm.LocalCoordinatesSite(0, 1, 2, (1, 0, 0), (-1, 1, 0), (0, -1, 1), (0.01, 0, 0))
    system.setVirtualSite(3, site)
    with pytest.raises(TopologyError, match=r"atom M\): virtual site of kind LocalCoordinatesSite is not supported"):
        load_topology(*write_openmm(tmp_path, system, water_pdb(4)))


def test_cutoff_beyond_half_the_cell_is_refused():
    with pytest.raises(TopologyError, match=r"9.000 angstrom, is more than half the width of the cell, 17"):
        load_topology(DATA / "uracil_box.prmtop", DATA / "uracil_box.rst7")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"cutoff": -1.0}, "cutoff.*positive length"),
        ({"cutoff": 10.0, "switch_distance": 12.0}, "switch distance.*between 0 and the cutoff"),
        ({"ewald_tolerance": 0.0}, "Ewald tolerance"),
    ],
)
def test_settings_that_make_no_sense(arguments, message):
    with pytest.raises(TopologyError, match=message):
        NonbondedSettings(**arguments)


def test_describe_names_atom_and_residue():
    assert load("amber").describe(12) == "O in WAT 2 (particle 12)"


def test_box_of_the_coordinate_file_goes_first(tmp_path):
    lines = (DATA / "uracil_box.rst7").read_text().splitlines()
    lines[-1] = "  18.5000000  19.0000000  20.0000000" + lines[-1][36:]
    (tmp_path / "larger.rst7").write_text("\n".join(lines) + "\n")
    topology = load_topology(DATA / "uracil_box.prmtop", tmp_path / "larger.rst7", SHORT)
    np.testing.assert_allclose(np.diagonal(topology.cell) / ANGSTROM, [18.5, 19.0, 20.0])
