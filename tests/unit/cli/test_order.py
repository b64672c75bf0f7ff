import numpy as np
import pytest

from deltaqmmm.cli.order import CheckedOrder, check_order
from deltaqmmm.errors import FrameError
from deltaqmmm.system import System
from deltaqmmm.topology import NonbondedSettings, load_topology
from deltaqmmm.units import ANGSTROM

NO_CELL = np.eye(3)[None]


def test_the_right_order_passes(droplet):
    check_order(droplet.topology, droplet.system, NO_CELL, droplet.topology.positions[None])


def test_two_exchanged_water_atoms_are_named(droplet):
    positions = droplet.topology.positions.copy()
    # Oxygen atoms of two molecules far from each other, elements in order.
    positions[[12, 300]] = positions[[300, 12]]
    with pytest.raises(FrameError, match=r"atoms 12 and 13 \(counted from 0; O of WAT 2, H1 of WAT 2\) are bonded"):
        check_order(droplet.topology, droplet.system, NO_CELL, positions[None])


@pytest.mark.parametrize("order", [(1, 0, 2), (2, 0, 1)], ids=["O and H1 exchanged", "H, O, H"])
def test_another_order_inside_a_water_molecule_is_noticed(droplet, order):
    positions = droplet.topology.positions.copy()
    positions[12:15] = positions[[12 + place for place in order]]
    with pytest.raises(FrameError, match="WAT 2"):
        check_order(droplet.topology, droplet.system, NO_CELL, positions[None])


def test_a_carbon_and_its_hydrogen_exchanged_are_noticed(droplet):
    positions = droplet.topology.positions.copy()
    symbols, bonds = droplet.system.qm_symbols, droplet.topology.bonds
    carbon, hydrogen = next((i, j) for i, j in bonds if (symbols + ("",) * 999)[i] == "C" and symbols[j] == "H")
    positions[[carbon, hydrogen]] = positions[[hydrogen, carbon]]
    with pytest.raises(FrameError, match="of URA 1"):
        check_order(droplet.topology, droplet.system, NO_CELL, positions[None])


def test_another_server_is_checked_again(droplet):
    checked = CheckedOrder(lambda cells, positions: None, droplet.topology, droplet.system)
    good = droplet.topology.positions[None]
    checked(NO_CELL, good)
    checked.start_again()
    with pytest.raises(FrameError):
        checked(NO_CELL, 3.0 * good)


def test_a_whole_frame_in_other_units_is_noticed(droplet):
    with pytest.raises(FrameError, match="or in other units"):
        check_order(droplet.topology, droplet.system, NO_CELL, droplet.topology.positions[None] * ANGSTROM * 2)


def test_a_bond_that_breaks_in_the_qm_region_is_chemistry(droplet):
    positions = droplet.topology.positions.copy()
    hydrogen = droplet.system.qm_symbols.index("H")
    positions[hydrogen] += 20.0
    check_order(droplet.topology, droplet.system, NO_CELL, positions[None])


def test_a_scrambled_qm_region_is_not(droplet):
    positions = droplet.topology.positions.copy()
    positions[:12] = 3.0 * positions[:12]
    with pytest.raises(FrameError, match="of URA 1"):
        check_order(droplet.topology, droplet.system, NO_CELL, positions[None])


def test_wrapped_molecules_are_whole_in_a_periodic_cell(data_folder):
    systems = data_folder / "mm_systems"
    topology = load_topology(
        systems / "uracil_box.prmtop",
        systems / "uracil_box.rst7",
        NonbondedSettings(cutoff=7 * ANGSTROM, switch_distance=6 * ANGSTROM),
    )
    system = System.from_topology(topology, range(12), 0)
    shifts = np.random.default_rng(1).integers(-3, 4, size=topology.positions.shape)
    positions = topology.positions + shifts @ topology.cell
    check_order(topology, system, topology.cell[None], positions[None])
    positions[[30, 60]] = positions[[60, 30]]
    with pytest.raises(FrameError, match="bonded in the topology"):
        check_order(topology, system, topology.cell[None], positions[None])


def test_only_the_first_batch_is_checked_and_nothing_is_evaluated_if_it_fails(droplet):
    calls = []
    checked = CheckedOrder(lambda cells, positions: calls.append(len(positions)), droplet.topology, droplet.system)
    good = droplet.topology.positions[None]
    with pytest.raises(FrameError):
        checked(NO_CELL, 3.0 * good)
    assert calls == []
    checked(NO_CELL, good)
    checked(NO_CELL, 3.0 * good)
    assert calls == [1, 1]
