"""What the user's input and the files beside it were when the engine was made, workers keep."""

import gc
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from deltaqmmm.dftb import DFTBSettings
from deltaqmmm.dftb.dftbplus import snapshot as snapshot_module
from deltaqmmm.dftb.dftbplus.snapshot import Snapshot
from tests.processes import ended
from tests.unit.dftb.dftbplus import fake
from tests.unit.dftb.dftbplus.test_user_input import WATER
from tests.unit.dftb.test_engine import frame, potential


@pytest.fixture
def source(tmp_path, monkeypatch):
    """The folder of an input; the snapshots stand beside it."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    folder = tmp_path / "source"
    folder.mkdir()
    (folder / "my.hsd").write_text("Geometry = GenFormat {}\n")
    return folder


def test_what_lies_beside_is_copied_linked_or_left_out(source, monkeypatch, tmp_path):
    monkeypatch.setattr(snapshot_module, "LARGE_FILE", 100)
    contents = {"small": "a", "large": "b" * 200, "charges.bin": "c" * 200, "detailed.out": "d", "geo_end.xyz": "e"}
    for name, content in contents.items():
        (source / name).write_text(content)
    (source / "folder").mkdir()
    snapshot = Snapshot(source / "my.hsd", ["H"])
    for name in contents:
        (source / name).write_text("edited")
    furnished = tmp_path / "worker"
    furnished.mkdir()
    snapshot.furnish(furnished)
    assert {entry.name for entry in furnished.iterdir()} == {"my.hsd", "small", "large", "charges.bin", "folder"}
    assert (furnished / "small").read_text() == "a"
    assert (furnished / "large").read_text() == "edited"
    assert (furnished / "folder").is_dir()
    (furnished / "charges.bin").write_text("written by one worker")
    assert (snapshot.folder / "charges.bin").read_text() == contents["charges.bin"]
    assert (source / "charges.bin").read_text() == "edited"


def test_included_files_are_copied_wherever_they_are(source, tmp_path):
    (source / "deep").mkdir()
    (source / "deep" / "one.gen").write_text('raw <<< "deep/more.hsd"')
    (source / "deep" / "more.hsd").write_text("More = { <<< '../raw data.txt' }\n<<+ deep/more.hsd\n")
    (tmp_path / "raw data.txt").write_text("far")
    (source / "my.hsd").write_text('A = { <<< "deep/one.gen" }\n<<+ "deep/more.hsd"\n<<< "missing"\n')
    snapshot = Snapshot(source / "my.hsd", ["H"])
    for file in (source / "deep" / "one.gen", source / "deep" / "more.hsd", tmp_path / "raw data.txt"):
        file.write_text("edited")
    assert snapshot.text == ('A = { <<< "included_1_one.gen" }\n<<+ "included_2_more.hsd"\n<<< "missing"\n')
    assert (snapshot.folder / "included_1_one.gen").read_text() == 'raw <<< "deep/more.hsd"'
    assert (snapshot.folder / "included_2_more.hsd").read_text() == (
        'More = { <<< "included_3_raw_data.txt" }\n<<+ "included_2_more.hsd"\n'
    )
    assert (snapshot.folder / "included_3_raw_data.txt").read_text() == "far"


def test_the_folder_goes_with_the_snapshot(source):
    snapshot = Snapshot(source / "my.hsd", ["H"])
    folder = snapshot.folder
    assert folder.is_dir()
    del snapshot
    gc.collect()
    assert not folder.exists()


OWNER = """
import os
import sys
from pathlib import Path
import numpy as np
from deltaqmmm.dftb.dftbplus.library import Library
from deltaqmmm.dftb.dftbplus.pool import Pool
from deltaqmmm.dftb.dftbplus.process import Setup
from deltaqmmm.dftb.dftbplus.snapshot import Snapshot
folder = Path(sys.argv[2])
library = Library(Path("libdftbplus.so"), Path(sys.argv[1]), "25.1")
pool = Pool(Setup(library, f"3 {folder}", Snapshot(folder / "source" / "my.hsd", ["H"])), 2, 600.0)
pool.compute(np.zeros((2, 3, 3)), np.zeros((2, 3)))
child = os.fork()
if not child:
    sys.exit()
os.waitpid(child, 0)
print(*pool.processes, flush=True)
if sys.argv[3] == "killed":
    input()
"""


@pytest.mark.parametrize("end", ["killed", "normal"])
def test_the_folder_goes_however_the_owner_ends_and_stays_where_a_child_does(source, tmp_path, end):
    with subprocess.Popen(
        [sys.executable, "-c", OWNER, fake.__file__, tmp_path, end],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"TMPDIR": str(tmp_path)},
    ) as owner:
        pids = [int(word) for word in owner.stdout.readline().split()]
        assert len(pids) == 2
        if end == "killed":
            assert len(list(tmp_path.glob("deltaqmmm_dftbplus_*"))) == 3
            owner.kill()
    assert ended(pids)
    assert not list(tmp_path.glob("deltaqmmm_dftbplus_*"))


def test_an_edit_in_the_middle_of_a_run_changes_nothing(tmp_path, slater_koster_folder, make_engine):
    """A worker is killed, so that another one reads the input after it has been edited."""
    third = "ThirdOrderFull = Yes\nHubbardDerivs { O = -0.1575; H = -0.1857 }"
    words = {"folder": slater_koster_folder, "forces": "Yes", "parser": "", "tolerance": "1e-10", "rest": ""}
    plain, other = (WATER.format(hamiltonian=text, **words) for text in ("", third))
    (tmp_path / "included.hsd").write_text(plain + "\nGeometry = GenFormat {\n<<< geometry.gen\n}\n")
    (tmp_path / "geometry.gen").write_text("3 C\nO H\n1 1 0 0 0\n2 2 0 0 1\n3 2 0 1 0\n")
    (tmp_path / "my.hsd").write_text('<<+ "included.hsd"\n')
    engine = make_engine("dftb+", ["O", "H", "H"], 0, DFTBSettings(), hsd=tmp_path / "my.hsd")
    _, _, positions = frame("water")
    before = engine.evaluate(positions[None], potential(3)[None]).energies
    (tmp_path / "included.hsd").write_text(other)
    (tmp_path / "geometry.gen").write_text("nothing")
    (tmp_path / "my.hsd").write_text(other)
    os.kill(engine.processes[0], signal.SIGKILL)
    after = engine.evaluate(positions[None], potential(3)[None]).energies
    assert float((before - after).abs()) < 1e-10
    edited = make_engine("dftb+", ["O", "H", "H"], 0, DFTBSettings(), hsd=tmp_path / "my.hsd")
    assert float((before - edited.evaluate(positions[None], potential(3)[None]).energies).abs()) > 1e-4
    assert Path(engine._snapshot.folder).is_dir()
