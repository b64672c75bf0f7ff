"""i-PI and a driver under one keeper: who ends first, and that nothing stays behind."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from deltaqmmm.ipi.processes import (
    Ending,
    Pair,
    PairSettings,
    find_ipi,
    last_lines,
    last_step,
    make_socket_folder,
)
from tests.integration.ipi.server import INIT, environment, ffsocket, make_input, wait_until

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="looks for processes in /proc")

CLIENT = Path(__file__).with_name("toy_client.py")
LONG = 100_000
# Seconds; a machine may be busy with other things.
PATIENCE = 150


def processes_in(folder):
    """Numbers and commands of all processes that run in a folder."""
    found = {}
    for place in Path("/proc").iterdir():
        try:
            if place.name.isdigit() and Path(os.readlink(place / "cwd")).is_relative_to(folder):
                words = (place / "cmdline").read_bytes().split(b"\0")
                if words[0]:
                    found[int(place.name)] = [word.decode() for word in words]
        except OSError:
            continue
    return found


def one_with(folder, name):
    """The process in a folder with a file of that name among the words of its command."""
    (pid,) = [pid for pid, command in processes_in(folder).items() if name in [Path(word).name for word in command]]
    return pid


@pytest.fixture
def make(tmp_path):
    made = []

    def settings(steps=LONG, driver_flags=("--sleep", "0.05"), **more):
        socket = make_socket_folder() / "run"
        prefix = f"{socket.parent}/"
        text = make_input(ffsocket("unix", "run"), steps=steps, beads=2, properties=["step", "potential"])
        (tmp_path / "input.xml").write_text(
            text.replace("filename='properties'", "filename='out'").replace("prefix='out'", "prefix='run'")
        )
        (tmp_path / "init.xyz").write_text(INIT)
        driver = [
            sys.executable,
            str(CLIENT),
            "-u",
            "-a",
            "run",
            "-S",
            prefix,
            "--log",
            "toy.jsonl",
            "--wait",
            str(PATIENCE),
            *driver_flags,
        ]
        made.append(socket.parent)
        return PairSettings(
            **(
                {
                    "folder": tmp_path,
                    "server": [str(find_ipi()), "-S", prefix, "input.xml"],
                    "driver": driver,
                    "socket": socket,
                    "environment": environment(),
                }
                | more
            )
        )

    yield settings
    for pid in processes_in(tmp_path):
        os.kill(pid, signal.SIGKILL)
    assert not [folder for folder in made if folder.exists()], "a socket was left"


@pytest.fixture
def started(make, tmp_path):
    """A pair that has made some steps."""
    pairs = []

    def start(**more):
        settings = make(**more)
        pair = Pair.start(settings)
        pairs.append(pair)
        wait_until(lambda: pair.step >= 2, PATIENCE, "two steps")
        assert settings.socket.exists()
        return SimpleNamespace(pair=pair, folder=tmp_path)

    yield start
    for pair in pairs:
        pair.stop()


def ended(pair):
    wait_until(lambda: pair.poll() is not None, PATIENCE, "the end")
    return pair.poll()


def gone(folder):
    wait_until(lambda: not processes_in(folder), PATIENCE, "the end of all processes")


def test_both_to_their_end(make, tmp_path):
    pair = Pair.start(make(steps=5, driver_flags=()))
    ending = ended(pair)
    assert ending.well, ending.explain(tmp_path)
    assert pair.step == 5
    assert pair.stop() == ending
    assert not processes_in(tmp_path)


def test_stop(started):
    both = started()
    assert both.pair.poll() is None
    assert both.pair.seconds_without_step() < PATIENCE
    ending = both.pair.stop()
    assert not ending.well
    assert ending.first is None
    # Both were asked, and ended by themselves.
    assert ending.server_status == 0
    assert ending.driver_status >= 0
    assert (both.folder / "RESTART").exists()
    assert not processes_in(both.folder)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_the_driver_dies(started, number):
    both = started()
    os.kill(one_with(both.folder, "toy_client.py"), number)
    ending = ended(both.pair)
    assert not ending.well
    assert ending.first == "driver"
    assert not processes_in(both.folder)
    assert f"the driver ended with status {ending.driver_status}" in ending.explain(both.folder)
    assert "driver.log ends with" in ending.explain(both.folder)


def test_ipi_dies(started):
    both = started()
    os.kill(one_with(both.folder, "input.xml"), signal.SIGKILL)
    ending = ended(both.pair)
    assert not ending.well
    assert (ending.first, ending.server_status) == ("server", -9)
    assert "i-PI ended with status -9" in ending.explain(both.folder)
    assert not processes_in(both.folder)


def test_the_keeper_is_killed(started):
    both = started()
    folder = both.pair.settings.socket.parent
    os.kill(one_with(both.folder, "warden.py"), signal.SIGKILL)
    gone(both.folder)
    assert not ended(both.pair).well
    # i-PI ended in order and removed its socket; the folder around it was the keeper's.
    folder.rmdir()


def test_the_owner_is_killed(make, tmp_path):
    settings = make()
    script = (
        "import json, sys, time; from pathlib import Path; from deltaqmmm.ipi.processes import Pair, PairSettings\n"
        "words = json.loads(sys.argv[1])\n"
        "words |= {name: Path(words[name]) for name in ('folder', 'socket')}\n"
        "pair = Pair.start(PairSettings(**words))\n"
        "time.sleep(600)\n"
    )
    words = {name: getattr(settings, name) for name in ("folder", "server", "driver", "socket", "environment")}
    command = [sys.executable, "-c", script, json.dumps(words, default=str)]
    owner = subprocess.Popen(command, env=environment())
    try:
        wait_until(lambda: last_step(tmp_path / "run.out") >= 2, PATIENCE, "two steps")
        assert len(processes_in(tmp_path)) == 3
    finally:
        owner.kill()
        owner.wait()
    gone(tmp_path)


def test_a_stall_is_seen(started):
    both = started(grace_seconds=2.0)
    driver = one_with(both.folder, "toy_client.py")
    os.kill(driver, signal.SIGSTOP)
    before = both.pair.step
    wait_until(lambda: both.pair.seconds_without_step() > 1.5, PATIENCE, "a stall")
    assert both.pair.step <= before + 2
    # One that does not react is killed after its time of grace.
    assert both.pair.stop().first is None
    assert not processes_in(both.folder)


def test_a_program_that_is_not_there(make, tmp_path):
    ending = ended(Pair.start(make(driver=["/nowhere/driver"])))
    assert not ending.well
    assert "/nowhere/driver" in ending.explain(tmp_path)
    assert not processes_in(tmp_path)


def test_steps_and_logs(tmp_path):
    table = tmp_path / "run.out"
    assert last_step(table) == -1
    table.write_text("# column 1 --> step\n")
    assert last_step(table) == -1
    table.write_text("# column 1 --> step\n  0.0e+00 -1.0\n  1.00000000e+03 -1.0\n  1.001")
    assert last_step(table) == 1000
    assert "no log" in last_lines(tmp_path / "none.log")
    table.write_text("".join(f"line {n}\n\n" for n in range(5000)))
    assert last_lines(table).splitlines()[-1] == "  line 4999"
    assert len(last_lines(table).splitlines()) == 8


def test_whose_log_is_shown(tmp_path):
    assert "could not" in Ending(None, None, None, "no such file").explain(tmp_path)
    # i-PI ended well, as it was told to, and the driver did not.
    assert "the driver ended with status 3" in Ending(0, 3, "server", None).explain(tmp_path)
    assert not Ending(0, 3, "server", None).well
