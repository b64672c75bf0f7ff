"""The correction through the real i-PI: terms on sockets of their own, guards, and its committee."""

import contextlib
import re
import sys

import numpy as np
import pytest
from ase.io import read

from deltaqmmm.build.ipi_input import init_xyz
from deltaqmmm.cli.label import read_all
from deltaqmmm.cli.main import main
from deltaqmmm.config import read_config
from deltaqmmm.config.loading import load_potential, load_split
from tests.corrections import write_model
from tests.integration.ipi.server import IpiServer, Process, unique_name

BEADS, STEPS = 2, 6
ATOMS = (*range(12), 12, 13, 50, 200, 341)
COLUMNS = ", ".join(f"atom_x(atom={atom};bead={bead})" for bead in range(BEADS) for atom in ATOMS)

CONFIG = """
[system]
topology = "{folder}/uracil_droplet.prmtop"
coordinates = "{folder}/uracil_droplet.rst7"
[qm]
residues = ["URA"]
[dftb]
scc_tolerance = 1e-11
[embedding]
inner_angstrom = 5.5
outer_angstrom = 8.0
[mm]
platform = "Reference"
virial = true
[driver]
threads = 1
[correction]
model = "model.safetensors"
"""

INPUT = """
<simulation verbosity='low' floatformat='%25.17e'>
  <output prefix='out'>
    <properties stride='1' filename='properties'> [ step, potential, {columns} ] </properties>
    {trajectories}
  </output>
  <total_steps> {steps} </total_steps>
  <prng> <seed> 5 </seed> </prng>
  {forcefields}
  <system>
    <initialize nbeads='{beads}'>
      <file mode='xyz'> init.xyz </file>
      <velocities mode='thermal' units='kelvin'> 300 </velocities>
    </initialize>
    <forces> {forces} </forces>
    <ensemble> <temperature units='kelvin'> 300 </temperature> </ensemble>
    <motion mode='dynamics'>
      <dynamics mode='nve'> <timestep units='femtosecond'> 0.5 </timestep> </dynamics>
    </motion>
  </system>
</simulation>
"""


@pytest.fixture
def folder(tmp_path, data_folder, slater_koster_folder):
    (tmp_path / "config.toml").write_text(CONFIG.format(folder=data_folder / "mm_systems"))
    config = read_config(tmp_path / "config.toml")
    topology, system = load_split(config)
    # Strong enough to move atoms, and members that disagree.
    write_model(tmp_path / "model.safetensors", config, system, spread=3.0)
    (tmp_path / "init.xyz").write_text(init_xyz(system.symbols, topology.positions, None))
    return tmp_path


def socket(name, address):
    return f"<ffsocket name='{name}' mode='unix' pbc='false'> <address> {address} </address> </ffsocket>"


def drive(folder, address, *flags, config="config.toml"):
    command = [sys.executable, "-m", "deltaqmmm.cli.main", "drive", folder / config, "-u", "-a", address, *flags]
    return Process(command, folder, f"{address}.log")


def input_of(forcefields, forces, trajectories="", steps=STEPS):
    return INPUT.format(
        columns=COLUMNS, beads=BEADS, steps=steps, forcefields=forcefields, forces=forces, trajectories=trajectories
    )


def run(folder, xml, drivers):
    """Run i-PI to its end with drivers given as (address, flags...); all must end well."""
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(IpiServer(folder, xml, init=None))
        processes = [stack.enter_context(drive(folder, *driver)) for driver in drivers]
        assert server.wait(120) == 0
        assert [process.wait(20) for process in processes] == [0] * len(processes)
        return server.properties()


def positions(table):
    return np.column_stack([values for name, values in table.items() if name.startswith("atom_x")])


def test_terms_on_sockets_of_their_own_give_the_same_trajectory(folder):
    one = unique_name("whole")
    whole = run(folder, input_of(socket("all", one), "<force forcefield='all'/>"), [(one,)])
    first, second = unique_name("base"), unique_name("corr")
    xml = input_of(
        socket("base", first) + socket("corr", second), "<force forcefield='base'/> <force forcefield='corr'/>"
    )
    apart = run(folder, xml, [(first, "--terms", "mm,dftb"), (second, "--terms", "correction")])
    assert len(whole["step"]) == STEPS + 1
    np.testing.assert_allclose(apart["potential"], whole["potential"], atol=1e-9, rtol=0.0)
    np.testing.assert_allclose(positions(apart), positions(whole), atol=1e-9, rtol=0.0)
    assert np.abs(positions(whole)[-1] - positions(whole)[0]).max() > 1e-3
    base_only = run(folder, input_of(socket("all", one), "<force forcefield='all'/>"), [(one, "--terms", "mm,dftb")])
    assert np.abs(positions(base_only) - positions(whole)).max() > 1e-6, "the correction should be felt"


def test_ipi_reads_the_committee(folder):
    """The mean that i-PI takes of the members is what the driver sends, and its uncertainty is the spread."""
    config = folder / "config.toml"
    one = unique_name("plain")
    extras = "<trajectory filename='x' stride='1' extra_type='{}' format='xyz'> extras </trajectory>"
    xml = input_of(
        socket("all", one), "<force forcefield='all'/>", extras.format("committee_energy_spread").replace("'x'", "'s'")
    )
    plain = run(folder, xml, [(one,)])
    spreads = extra_values(folder / "out.s_0")
    config.write_text(config.read_text() + "committee_extras = true\n")
    two = unique_name("members")
    committee = f"<ffcommittee name='all'> <parse_json> True </parse_json> {socket('one', two)} </ffcommittee>"
    xml = input_of(committee, "<force forcefield='all'/>", extras.format("committee_uncertainty"))
    members = run(folder, xml, [(two,)])
    np.testing.assert_allclose(members["potential"], plain["potential"], atol=1e-9, rtol=0.0)
    np.testing.assert_allclose(positions(members), positions(plain), atol=1e-9, rtol=0.0)
    uncertainty = extra_values(folder / "out.x_0")
    assert len(uncertainty) == STEPS + 1
    np.testing.assert_allclose(uncertainty, spreads, rtol=1e-5)
    assert min(spreads) > 1e-5


def extra_values(file):
    return [float(line) for line in file.read_text().splitlines() if line.strip() and "#" not in line]


def test_ipis_weighted_baseline(folder):
    """V = V_b + s^2 / (s^2 + sigma^2) V_c with s = 0.1 hartree, for a correction without its large constant part."""
    config = folder / "config.toml"
    config.write_text(config.read_text() + "committee_extras = true\ninclude_offset = false\n")
    first, second = unique_name("wbase"), unique_name("wcorr")
    committee = (
        "<ffcommittee name='all'> <parse_json> True </parse_json> <baseline_name> base </baseline_name> "
        f"<baseline_uncertainty> 0.1 </baseline_uncertainty> {socket('base', first)} {socket('corr', second)} "
        "</ffcommittee>"
    )
    xml = input_of(committee, "<force forcefield='all'/>", steps=2)
    table = run(folder, xml, [(first, "--terms", "mm,dftb"), (second, "--terms", "correction")])
    loaded = load_potential(read_config(config))
    frame = loaded.topology.positions[loaded.system.atom_particles]
    result = loaded.evaluate(np.eye(3)[None], frame[None])
    spread = result.extras["committee_energy_spread"][0]
    weight = 0.1**2 / (0.1**2 + spread**2)
    assert 0.05 < weight < 0.95
    expected = result.energies[0] - (1.0 - weight) * result.terms["correction"][0]
    # The start file has rounded positions.
    assert table["potential"][0] == pytest.approx(expected, abs=1e-5)


def spread_at_start(folder):
    loaded = load_potential(read_config(folder / "config.toml"))
    frame = loaded.topology.positions[loaded.system.atom_particles]
    return float(loaded.evaluate(np.eye(3)[None], frame[None]).extras["committee_energy_spread"][0]) * 2625.4996


def test_a_spread_above_the_limit_stops_the_driver_and_sends_nothing(folder):
    config = folder / "config.toml"
    limit = 0.5 * spread_at_start(folder)
    config.write_text(
        config.read_text()
        + f'energy_spread_limit_kj_per_mol = {limit}\naction = "stop"\nframes_file = "above.extxyz"\n'
    )
    address = unique_name("stop")
    with (
        IpiServer(folder, input_of(socket("all", address), "<force forcefield='all'/>"), init=None) as server,
        drive(folder, address) as driver,
    ):
        assert driver.wait(60) == 1
        assert re.search(r"deltaqmmm drive: the committee disagrees by .* Nothing was sent", driver.output)
        assert "Traceback" not in driver.output
        assert re.search(
            r"Committee spread: at most .* 1 of 1 frames above the limits; .* 1 frames to label", driver.output
        )
        # i-PI has no force, so no step is done, and it waits for another driver.
        assert server.running
    properties = folder / "out.properties"
    assert not properties.exists() or not [x for x in properties.read_text().splitlines() if not x.startswith("#")]
    (frame,) = read(folder / "above.extxyz", index=":")
    assert frame.info["energy_spread_kj_per_mol"] == pytest.approx(2.0 * limit, rel=1e-2)


def test_a_warning_leaves_the_run_alone_and_writes_frames_to_label(folder):
    config = folder / "config.toml"
    address = unique_name("warn")
    xml = input_of(
        socket("all", address),
        "<force forcefield='all'/>",
        "<trajectory filename='all' stride='1' format='xyz'> extras </trajectory>",
    )
    plain = run(folder, xml, [(address,)])
    config.write_text(
        config.read_text() + "force_spread_limit_kj_per_mol_per_angstrom = 1e-3\n"
        'frames_file = "above.extxyz"\nmax_frames = 3\nframes_interval_steps = 4\n'
    )
    table = run(folder, xml, [(address,)])
    np.testing.assert_allclose(positions(table), positions(plain), atol=1e-10)
    log = (folder / f"{address}.log").read_text()
    assert log.count("WARNING: the committee disagrees") == 1
    assert "WARNING: " + str(folder / "above.extxyz") + " holds 3 frames" in log
    frames = read(folder / "above.extxyz", index=":")
    # Unbatched: each bead is an evaluation of its own.
    assert [frame.info["step"] for frame in frames] == [0, 4, 8]
    # What was written can be labelled and evaluated again.
    raw = read_all([folder / "above.extxyz"], load_split(read_config(config))[1])
    assert [each.source.step for each in raw] == [0, 4, 8]
    assert main(["evaluate", str(config), str(folder / "above.extxyz"), "-o", str(folder / "again.extxyz"), "-q"]) == 0
    again = read(folder / "again.extxyz", index=":")
    for written, evaluated in zip(frames, again, strict=True):
        expected = written.info["force_spread_kj_per_mol_per_angstrom"]
        assert evaluated.info["committee_force_spread"] * 96.48533 == pytest.approx(expected, rel=1e-4)
    text = (folder / "out.all_0").read_text()
    for name in ("energy_mm", "energy_dftb", "energy_correction", "committee_energy_spread", "committee_force_spread"):
        assert f'"{name}": ' in text
