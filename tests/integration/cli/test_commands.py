"""The commands on a real system: uracil in a small periodic box of q-SPC/Fw water."""

import importlib.util
import json
import os
import shutil
import subprocess
import sys
import uuid
from pathlib import Path

import numpy as np
import pytest
from ase.io import read

from deltaqmmm.cli import differences
from deltaqmmm.cli.main import main
from deltaqmmm.config import read_config
from deltaqmmm.config.loading import load_potential
from deltaqmmm.units import ANGSTROM, HARTREE_IN_ELECTRONVOLT

CONFIG = """
[system]
topology = "uracil_box.prmtop"
coordinates = "uracil_box.rst7"
[qm]
residues = ["{residue}"]
charge = {charge}
[dftb]
parameters = "{parameters}"
[embedding]
inner_angstrom = 5.0
outer_angstrom = 7.5
[mm]
platform = "{platform}"
cutoff_angstrom = 7.0
[driver]
threads = 1
"""

INPUT = """
<simulation verbosity='low'>
  <output prefix='run'>
    <properties stride='1' filename='out' flush='1'> [ step, potential ] </properties>
  </output>
  <total_steps> 2 </total_steps>
  <prng> <seed> 5 </seed> </prng>
  {forcefield}
  <system>
    <initialize nbeads='2'>
      <file mode='xyz'> init.xyz </file>
      <velocities mode='thermal' units='kelvin'> 300 </velocities>
    </initialize>
    <forces> <force forcefield='qmmm'/> </forces>
    <ensemble> <temperature units='kelvin'> 300 </temperature> </ensemble>
    <motion mode='dynamics'>
      <dynamics mode='nve'> <timestep units='femtosecond'> 0.25 </timestep> </dynamics>
    </motion>
  </system>
</simulation>
"""


@pytest.fixture
def make_config(tmp_path, data_folder):
    for suffix in (".prmtop", ".rst7"):
        shutil.copy(data_folder / "mm_systems" / f"uracil_box{suffix}", tmp_path)

    def make(residue="URA", charge=0, parameters="3ob-3-1", platform="CPU", extra=""):
        file = tmp_path / "config.toml"
        text = CONFIG.format(residue=residue, charge=charge, parameters=parameters, platform=platform)
        file.write_text(text + extra)
        return file

    return make


@pytest.fixture
def loaded(make_config, slater_koster_folder):
    return load_potential(read_config(make_config()))


def write_ipi_xyz(file: Path, loaded, positions: np.ndarray) -> None:
    """i-PI's xyz, in angstrom."""
    lengths = np.diag(loaded.topology.cell) / ANGSTROM
    with file.open("w") as stream:
        for frame in positions:
            stream.write(f"{len(frame)}\n# CELL(abcABC): {' '.join(f'{v:.10f}' for v in lengths)} 90 90 90 ")
            stream.write("positions{angstrom} cell{angstrom}\n")
            for symbol, row in zip(loaded.system.symbols, frame / ANGSTROM, strict=True):
                stream.write(f"{symbol} {row[0]:.10f} {row[1]:.10f} {row[2]:.10f}\n")


def jiggled(loaded, n_frames: int) -> np.ndarray:
    noise = np.random.default_rng(2).normal(scale=0.02, size=(n_frames, *loaded.topology.positions.shape))
    return loaded.topology.positions + noise


def test_check_passes_on_every_class_of_atom(make_config, slater_koster_folder, capsys):
    assert main(["check", str(make_config()), "--atoms", "2"]) == 0
    text = capsys.readouterr().out
    lines = [line for line in text.splitlines() if line.endswith("  ok")]
    assert len(lines) == 7
    for name in ("DFTB, QM atoms", "DFTB, near MM atoms", "DFTB, MM atoms in the switch"):
        (line,) = [line for line in lines if name in line]
        assert line.split()[-5] == "2"
    assert text.index("C4 H4 N2 O2") < text.index("compiles the loops") < text.index("All forces agree.")
    assert "kJ/mol" in text


def test_check_warns_where_the_qm_region_feels_nothing(make_config, slater_koster_folder, capsys, monkeypatch):
    names = ("QM atoms", "near MM atoms", "MM atoms in the switch")
    rows = [differences.Comparison(f"DFTB, {name}", int(name == "QM atoms"), 0.1, 1e-9, 1e-6) for name in names]
    monkeypatch.setattr(differences, "compare_forces", lambda *_: rows)
    assert main(["check", str(make_config())]) == 0
    captured = capsys.readouterr()
    assert "WARNING: no MM atom is near enough to polarise the QM region" in captured.err
    assert "All forces agree." in captured.out


def test_check_notices_a_wrong_force(make_config, slater_koster_folder, capsys, monkeypatch):
    right = differences.Potential.warm_up

    def wrong(self, cells, positions):
        evaluation = right(self, cells, positions)
        evaluation.forces[:] *= 1.01
        return evaluation

    monkeypatch.setattr(differences.Potential, "warm_up", wrong)
    assert main(["check", str(make_config()), "--atoms", "1"]) == 1
    text = capsys.readouterr().out
    assert "FAILED" in text
    assert [line for line in text.splitlines() if line.startswith("  DFTB, QM") and line.endswith("OFF")]


def test_check_profiles_every_term_and_the_wire(make_config, slater_koster_folder, capsys):
    assert main(["check", str(make_config()), "--profile", "--batches", "1,3", "--steps", "2"]) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    header = next(line for line in lines if line[:1] == ["batch"])
    assert header[:4] == ["batch", "mm", "embedding", "dftb"]
    rows = [[float(word) for word in line] for line in lines if line[:1] in (["1"], ["3"])]
    assert [row[0] for row in rows] == [1.0, 3.0]
    for batch, mm, embedding, dftb, evaluation, wire, step, share, frame in rows:
        assert min(mm, embedding, dftb) > 0.0
        assert evaluation >= max(mm, embedding + dftb) - 0.1, "terms side by side, medians of each by itself"
        # Medians are taken column by column.
        assert 0.0 < wire < step
        assert share == pytest.approx(100.0 * wire / step, abs=0.2)
        assert frame == pytest.approx(step / batch, abs=0.02)


@pytest.mark.parametrize(
    ("flag", "value", "need"),
    [
        ("--batches", "0", "0: at least 1"),
        ("--batches", "2,x", "2,x: whole numbers separated by commas"),
        ("--steps", "0", "0: at least 1"),
    ],
)
def test_check_refuses_profiles_of_nothing(make_config, flag, value, need, capsys):
    with pytest.raises(SystemExit):
        main(["check", str(make_config()), "--profile", flag, value])
    assert need in capsys.readouterr().err


def test_check_needs_a_frame(make_config, slater_koster_folder, capsys):
    file = make_config()
    file.write_text(file.read_text().replace('coordinates = "uracil_box.rst7"\n', ""))
    # Without coordinates an Amber topology still knows its box.
    assert main(["check", str(file)]) == 1
    assert "--frames FILE" in capsys.readouterr().err


def test_evaluate(loaded, tmp_path, capsys):
    positions = jiggled(loaded, 3)
    write_ipi_xyz(tmp_path / "frames.xyz", loaded, positions)
    output = tmp_path / "out.extxyz"
    arguments = ["evaluate", str(tmp_path / "config.toml"), str(tmp_path / "frames.xyz"), "-o", str(output)]
    assert main([*arguments, "--batch", "2"]) == 0
    assert "3 frames" in capsys.readouterr().out
    expected = loaded.potential.evaluate(np.tile(loaded.topology.cell, (3, 1, 1)), positions)
    frames = read(output, index=":")
    for index, atoms in enumerate(frames):
        energy = atoms.get_potential_energy() / HARTREE_IN_ELECTRONVOLT
        # OpenMM's CPU platform computes in single precision, and the file of frames has rounded positions.
        assert energy == pytest.approx(expected.energies[index], abs=2e-5)
        assert atoms.get_charges()[:12] == pytest.approx(expected.extras["qm_charges"][index], abs=1e-6)
        assert atoms.get_charges()[12:15] == pytest.approx(loaded.topology.charges[12:15], abs=1e-6)


def test_evaluate_names_the_atom_that_is_out_of_order_and_writes_nothing(loaded, tmp_path, capsys):
    frames = tmp_path / "frames.xyz"
    write_ipi_xyz(frames, loaded, jiggled(loaded, 2))
    lines = frames.read_text().splitlines()
    # Frame 1, atoms 12 and 13: oxygen and hydrogen of the first water.
    first = len(lines) // 2 + 2 + 12
    lines[first], lines[first + 1] = lines[first + 1], lines[first]
    frames.write_text("\n".join(lines) + "\n")
    output = tmp_path / "out.xyz"
    assert main(["evaluate", str(tmp_path / "config.toml"), str(frames), "-o", str(output)]) == 1
    assert "frame 1 of" in (message := capsys.readouterr().err)
    assert "atom 12 (counted from 0) is H, and in the topology it is O" in message
    assert not output.exists()


def test_evaluate_into_a_folder_that_is_not_there(make_config, tmp_path, capsys):
    output = tmp_path / "absent" / "out.xyz"
    assert main(["evaluate", str(make_config()), "frames.xyz", "-o", str(output)]) == 1
    assert "there is no folder" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"residue": "LIG"}, "no residue is named 'LIG'"),
        ({"charge": 1}, "only closed shells"),
        ({"parameters": "4ob"}, "no Slater-Koster set of this name"),
        ({"extra": "[dftb2]\n"}, "did you mean [dftb]?"),
    ],
)
def test_drive_refuses_bad_input_before_it_connects(options, expected, make_config, slater_koster_folder, capsys):
    assert main(["drive", str(make_config(**options)), "-u", "-a", "nobody", "--wait", "0"]) == 1
    captured = capsys.readouterr()
    assert expected in captured.err
    assert "Traceback" not in captured.err
    assert "Waiting" not in captured.out


def test_drive_without_a_server(make_config, slater_koster_folder, capsys):
    name = f"nobody-{uuid.uuid4().hex}"
    assert main(["drive", str(make_config()), "-u", "-a", name, "--wait", "0.2"]) == 1
    captured = capsys.readouterr()
    assert "Warmed up on uracil_box.rst7" in captured.out
    assert f"No i-PI server at unix socket /tmp/ipi_{name} within 0.2 s" in captured.err


def potentials(folder: Path) -> np.ndarray:
    return np.loadtxt(folder / "run.out")[:, 1]


def test_drive_and_ffdirect_serve_the_same_energies(loaded, make_config, tmp_path):
    pytest.importorskip("ipi", reason="i-PI is not installed")
    ipi = shutil.which("i-pi", path=os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")]))
    if ipi is None:
        pytest.skip("the program i-pi was not found")
    make_config(platform="Reference")
    write_ipi_xyz(tmp_path / "init.xyz", loaded, loaded.topology.positions[None])
    name = f"cli-{uuid.uuid4().hex}"
    socket = f"<ffsocket name='qmmm' mode='unix'><address> {name} </address></ffsocket>"
    (tmp_path / "socket.xml").write_text(INPUT.format(forcefield=socket))
    file = importlib.util.find_spec("deltaqmmm.cli.ffdirect").origin
    direct = (
        f"<ffdirect name='qmmm'><pes> custom </pes><pes_path> {file} </pes_path>"
        "<parameters> { config: config.toml } </parameters></ffdirect>"
    )
    (tmp_path / "direct.xml").write_text(INPUT.format(forcefield=direct))
    environment = {**os.environ, "PYTHONPATH": str(Path(file).parents[2]), "PYTHONWARNINGS": "ignore"}

    server = subprocess.Popen([ipi, "socket.xml"], cwd=tmp_path, env=environment, stdout=subprocess.DEVNULL)
    try:
        driver = subprocess.run(
            [sys.executable, "-m", "deltaqmmm.cli.main", "drive", "config.toml", "-u", "-a", name],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert server.wait(timeout=60) == 0
    finally:
        server.kill()
    assert driver.returncode == 0, driver.stderr
    assert "Warmed up" in driver.stdout
    assert "EXIT" in driver.stdout
    over_socket = potentials(tmp_path)
    (tmp_path / "run.out").unlink()

    subprocess.run([ipi, "direct.xml"], cwd=tmp_path, env=environment, check=True, capture_output=True, timeout=120)
    np.testing.assert_allclose(potentials(tmp_path), over_socket, rtol=0, atol=1e-9)
    assert len(over_socket) == 3


def test_ffdirect_called_as_ipi_calls_it(loaded, make_config, monkeypatch, tmp_path):
    from deltaqmmm.cli.ffdirect import DeltaQMMMDriver
    from deltaqmmm.errors import ConfigError

    make_config()
    monkeypatch.chdir(tmp_path)
    driver = DeltaQMMMDriver(config="config.toml", verbosity=object())
    cell = np.ascontiguousarray(loaded.topology.cell.T)
    positions = jiggled(loaded, 2)
    results = driver([cell, cell], list(positions))
    single = driver(cell, positions[0])
    assert single[0] == pytest.approx(results[0][0], abs=1e-6)
    assert single[1].shape == positions[0].shape
    assert len(json.loads(single[3])["qm_charges"]) == 12
    with pytest.raises(ConfigError, match=r"config: config\.toml"):
        DeltaQMMMDriver()
