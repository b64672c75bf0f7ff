"""What is read from an i-PI input, against what i-PI itself makes of it."""

import re
from pathlib import Path

import pytest

from deltaqmmm.errors import InputError
from deltaqmmm.ipi.connection import InetAddress, UnixAddress
from deltaqmmm.ipi.simulation import parse_input, read_simulation, with_total_steps

INPUTS = Path(__file__).parents[3] / "ipi_inputs"

FULL = """\
<!-- <total_steps> 7 </total_steps> <ffsocket name='no'/> -->
<simulation sockets_prefix='/scratch/ipi_'>
  <output prefix='run'>
    <properties stride='5' filename='out'> [ step, temperature ] </properties>
    <trajectory filename='pos' stride='20'> positions{angstrom} </trajectory>
    <trajectory filename='vel' format='ase'> velocities </trajectory>
    <trajectory filename='charges' extra_type='qm_charges'> extras </trajectory>
    <checkpoint filename='chk' stride='100'/>
  </output>
  <step> 40 </step>
  <total_steps>200</total_steps>
  <ffsocket name='mm_dftb' mode='shm'> <address> here </address> </ffsocket>
  <ffsocket name='far' mode='inet'> <address>0.0.0.0</address> <port> 4000 </port> <activelist>[0,1 , 2]</activelist>
  </ffsocket>
  <ffcommittee name='c'>
    <ffsocket name='a' mode='unix'> <address> a </address> <activelist> [ -1 ] </activelist> </ffsocket>
  </ffcommittee>
  <ffrotations name='r'> <ffsocket name='__DUMMY__'/> </ffrotations>
  <ffplumed name='p'> <file mode='xyz'> ref.xyz </file> <plumed_dat> bias.dat </plumed_dat> </ffplumed>
  <smotion mode='multi'> <smotion mode='remd'> <remd> <swapfile> pt </swapfile> </remd> </smotion> </smotion>
  <system prefix='cold'>
    <initialize nbeads='4'>
      <file mode='xyz'> init.xyz </file>
      <file> old.chk </file>
      <velocities mode='thermal' units='kelvin'> 300 </velocities>
      <positions mode='pdb' index='3'> one.pdb </positions>
      <masses mode='xyz' index='2'> masses.xyz </masses>
      <cell mode='manual'> [ 1,0,0,0,1,0,0,0,1 ] </cell>
    </initialize>
  </system>
  <system_template>
    <template>
      <system prefix='T1'> <initialize nbeads='4'> <file mode='xyz'> T.xyz </file> </initialize> </system>
    </template>
    <labels> [ T, T1 ] </labels>
    <instance> [ a, warm ] </instance>
    <instance> [ b, hot ] </instance>
  </system_template>
</simulation>
"""


@pytest.fixture
def write(tmp_path):
    def write(text):
        file = tmp_path / "input.xml"
        file.write_text(text)
        return file

    return write


def test_everything(write):
    found = read_simulation(write(FULL))
    assert (found.step, found.total_steps, found.plumed, found.n_atoms) == (40, 200, True, ())
    assert found.sockets_prefix == "/scratch/ipi_"
    assert [(one.name, one.mode, one.nested, one.n_active) for one in found.sockets] == [
        ("mm_dftb", "shm", False, None),
        ("far", "inet", False, 3),
        ("a", "unix", True, None),
    ]
    assert [one.under("/x/") for one in found.sockets] == [
        UnixAddress("here", "/x/"),
        InetAddress("localhost", 4000),
        UnixAddress("a", "/tmp/ipi_"),
    ]
    assert [(file.name, file.mode, file.whole) for file in found.start_files] == [
        ("init.xyz", "xyz", True),
        ("old.chk", "chk", True),
        ("one.pdb", "pdb", False),
        ("masses.xyz", "xyz", False),
        ("a.xyz", "xyz", True),
        ("b.xyz", "xyz", True),
        ("bias.dat", "", False),
        ("ref.xyz", "xyz", True),
    ]
    properties = [one for one in found.outputs if one.kind == "properties"]
    assert [(one.stem, one.stride, one.prefix) for one in properties] == [
        ("cold_run.out", 5, "cold"),
        ("warm_run.out", 5, "warm"),
        ("hot_run.out", 5, "hot"),
    ]
    assert [(one.stem, one.prefix) for one in found.outputs if one.kind == "checkpoint"] == [("run.chk", None)]


@pytest.mark.parametrize(
    ("stem", "ours", "others"),
    [
        (
            "cold_run.pos",
            "cold_run.pos_0.xyz cold_run.pos_12.xyz cold_run.pos.xyz",
            "run.pos_0.xyz cold_run.position.xyz",
        ),
        ("cold_run.vel", "cold_run.vel_0.extxyz", "cold_run.vel_0.xyz"),
        ("cold_run.charges", "cold_run.charges_3 cold_run.charges", "cold_run.charges.xyz cold_run.charges_a"),
        ("cold_run.out", "cold_run.out", "cold_run.out2 cold_run.out_1"),
        ("run.pt", "run.pt", "pt run.pt_0 cold_run.pt"),
        ("run.chk", "run.chk run.chk_17", "run.chk.bak xrun.chk run-chk"),
    ],
)
def test_names_of_files(write, stem, ours, others):
    output = next(one for one in read_simulation(write(FULL)).outputs if one.stem == stem)
    assert all(output.pattern().fullmatch(name) for name in ours.split())
    assert not any(output.pattern().fullmatch(name) for name in others.split())


def test_defaults_are_those_of_ipi(write):
    found = read_simulation(write("<simulation><ffsocket name='x'/><system/></simulation>"))
    assert (found.step, found.total_steps, found.sockets_prefix) == (0, 1000, "/tmp/ipi_")
    assert found.sockets[0].under("/x/") == InetAddress("localhost", 65535)
    assert [(one.kind, one.stem, one.stride) for one in found.outputs] == [
        ("properties", "i-pi.md", 10),
        ("trajectory", "i-pi.pos", 100),
        ("checkpoint", "i-pi.checkpoint", 1000),
    ]
    forcefields = pytest.importorskip("ipi.inputs.forcefields")
    simulation = pytest.importorskip("ipi.inputs.simulation").InputSimulation
    outputs = pytest.importorskip("ipi.inputs.outputs").InputOutputs
    fields = forcefields.InputFFSocket.fields
    assert fields["port"][1]["default"] == 65535
    assert fields["address"][1]["default"] == "localhost"
    assert forcefields.InputFFSocket.attribs["mode"][1]["default"] == "inet"
    assert simulation.fields["total_steps"][1]["default"] == 1000
    assert simulation.attribs["sockets_prefix"][1]["default"] == "/tmp/ipi_"
    made = outputs.make_default()
    assert made.prefix == "i-pi"
    assert [(one.filename, one.stride) for one in made] == [("md", 10), ("pos", 100), ("checkpoint", 1000)]


def test_the_inputs_of_the_package():
    for file in INPUTS.glob("*/input.xml"):
        found = read_simulation(file)
        assert found.total_steps > 0
        assert len(found.sockets) == len(list(parse_input(file).iter("ffsocket")))
        assert all((file.parent / start.name).is_file() for start in found.start_files)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("<simulation>\n<output>\n</simulation>", r"no valid XML: mismatched tag in line 3, column 3\. Look for a tag"),
        ("", r"no valid XML: no element found in line 1"),
        ("<interface/>", r"is no i-PI input: its root is <interface>, and <simulation> is needed"),
        ("<simulation><total_steps> 1e3 </total_steps></simulation>", r"<total_steps> is '1e3', and a whole number"),
        ("<simulation><ffsocket name='a' mode='tcp'/></simulation>", r"<ffsocket name='a'> has mode='tcp'"),
        ("<simulation><output><checkpoint stride='x'/></output></simulation>", r"stride of <checkpoint> is 'x'"),
        ("<simulation><system_template/></simulation>", r"no <template> with a <system>"),
    ],
)
def test_errors(write, text, message):
    file = write(text)
    with pytest.raises(InputError, match=re.escape(str(file)) + ": .*" + message):
        read_simulation(file)


def test_no_file(tmp_path):
    with pytest.raises(InputError, match="no such i-PI input"):
        read_simulation(tmp_path / "input.xml")
    with pytest.raises(InputError, match="cannot be read"):
        read_simulation(tmp_path)


@pytest.mark.parametrize("text", [FULL, "<simulation><step>3</step></simulation>"])
def test_another_number_of_steps(write, text):
    file = write(text)
    before = read_simulation(file)
    file.write_bytes(with_total_steps(parse_input(file), 12345))
    after = read_simulation(file)
    assert after.total_steps == 12345
    assert (after.step, after.sockets, after.outputs) == (before.step, before.sockets, before.outputs)


def test_atoms_of_a_checkpoint(write):
    text = (
        "<simulation><system><beads natoms='342' nbeads='2'/></system><system><beads natoms='0'/></system></simulation>"
    )
    assert read_simulation(write(text)).n_atoms == (342,)
