"""i-PI and its drivers under one keeper: who ends first, and that nothing stays behind."""

import fcntl
import json
import os
import signal
import subprocess
import sys
from dataclasses import astuple
from pathlib import Path
from types import SimpleNamespace

import pytest

from deltaqmmm.ipi.processes import (
    End,
    Ending,
    Group,
    GroupSettings,
    Program,
    find_ipi,
    keep_old,
    last_lines,
    make_socket_folder,
)
from deltaqmmm.ipi.progress import PropertyFile, Watch
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


def last_step(table):
    """The last step in a property file; -1 if there is none."""
    file = PropertyFile(table)
    file.read()
    return file.step


def read(file):
    return file.read_text() if file.exists() else ""


@pytest.fixture
def make(tmp_path):
    made = []

    def settings(steps=LONG, driver_flags=("--sleep", "0.05"), drivers=1, programs=None, **more):
        folder = make_socket_folder()
        prefix = f"{folder}/"
        text = make_input(ffsocket("unix", "run"), steps=steps, beads=2, properties=["step", "potential"])
        (tmp_path / "input.xml").write_text(
            text.replace("filename='properties'", "filename='out'").replace("prefix='out'", "prefix='run'")
        )
        (tmp_path / "init.xyz").write_text(INIT)
        flags = ["-u", "-a", "run", "-S", prefix, "--log", "toy.jsonl", "--wait", str(PATIENCE), *driver_flags]
        logs = [f"driver_{number}.log" for number in range(drivers)]
        made.append(folder)
        return GroupSettings(
            **(
                {
                    "folder": tmp_path,
                    "server": Program("i-PI", [str(find_ipi()), "-S", prefix, "input.xml"], "ipi.log"),
                    "drivers": programs
                    or [Program("the driver", [sys.executable, str(CLIENT), *flags], log) for log in logs],
                    "environment": environment(),
                    "socket_folder": folder,
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
    """A group that has made some steps."""
    groups = []

    def start(**more):
        settings = make(**more)
        group = Group.start(settings)
        groups.append(group)
        logs = [tmp_path / driver.log for driver in settings.drivers]
        wait_until(lambda: last_step(tmp_path / "run.out") >= 2, PATIENCE, "two steps")
        wait_until(lambda: all("Connected" in read(log) for log in logs), PATIENCE, "all drivers")
        assert (settings.socket_folder / "run").exists()
        return SimpleNamespace(group=group, folder=tmp_path)

    yield start
    for group in groups:
        group.stop()


def ended(group):
    wait_until(lambda: group.poll() is not None, PATIENCE, "the end")
    return group.poll()


def gone(folder):
    wait_until(lambda: not processes_in(folder), PATIENCE, "the end of all processes")


@pytest.mark.parametrize("drivers", [1, 2])
def test_all_to_their_end(make, tmp_path, drivers):
    group = Group.start(make(steps=5, driver_flags=(), drivers=drivers))
    ending = ended(group)
    assert ending.well, ending.explain()
    assert last_step(tmp_path / "run.out") == 5
    assert group.stop() == ending
    assert not processes_in(tmp_path)


def test_no_driver(make, tmp_path):
    # i-PI alone, which waits for a driver that does not come.
    settings = make(drivers=0)
    group = Group.start(settings)
    # Its log tells later: Python writes to files in blocks.
    wait_until(lambda: any(settings.socket_folder.iterdir()), PATIENCE, "i-PI's socket")
    ending = group.stop()
    assert [end.program.name for end in ending.ends] == ["i-PI"]
    assert ending.server.asked
    assert not processes_in(tmp_path)


def test_stop(started):
    all_ = started(drivers=2)
    assert all_.group.poll() is None
    ending = all_.group.stop()
    assert not ending.well
    assert ending.first is None
    # i-PI was asked, the drivers were told by it, and all ended by themselves.
    assert [end.status for end in ending.ends] == [0, 0, 0]
    assert "i-PI sent EXIT" in read(all_.folder / "driver_0.log")
    assert (all_.folder / "RESTART").exists()
    assert not processes_in(all_.folder)


def test_a_driver_that_takes_long_does_not_cost_the_restart(make, tmp_path):
    # A step takes longer than anybody has to end.
    settings = make(driver_flags=("--sleep", "40"), grace_seconds=2.0)
    group = Group.start(settings)
    try:
        wait_until((tmp_path / "toy.jsonl").exists, PATIENCE, "the first evaluation")
        ending = group.stop()
    finally:
        group.stop()
    assert ending.server.status == 0
    assert ending.ends[1].status == -signal.SIGKILL
    assert (tmp_path / "RESTART").exists()
    assert not processes_in(tmp_path)


@pytest.mark.parametrize(("number", "drivers"), [(signal.SIGKILL, 1), (signal.SIGTERM, 1), (signal.SIGKILL, 2)])
def test_a_driver_dies(started, number, drivers):
    all_ = started(drivers=drivers)
    one = min(pid for pid, words in processes_in(all_.folder).items() if str(CLIENT) in words)
    os.kill(one, number)
    ending = ended(all_.group)
    assert not ending.well
    assert ending.ends[ending.first].program.name == "the driver"
    status = ending.ends[ending.first].status
    assert status in (-number, 128 + number)
    assert not processes_in(all_.folder)
    assert f"the driver ended with status {status}" in ending.explain()
    assert "ends with\n" in ending.explain()
    assert (all_.folder / "RESTART").exists()


def test_ipi_dies(started):
    all_ = started()
    os.kill(one_with(all_.folder, "input.xml"), signal.SIGKILL)
    ending = ended(all_.group)
    assert not ending.well
    assert ending.server == End(all_.group.settings.server, -9)
    assert "i-PI ended with status -9" in ending.explain()
    assert not processes_in(all_.folder)


def test_the_keeper_is_killed(started):
    all_ = started()
    folder = all_.group.settings.socket_folder
    os.kill(one_with(all_.folder, "warden.py"), signal.SIGKILL)
    gone(all_.folder)
    ending = ended(all_.group)
    assert not ending.well
    assert "keeps i-PI and its drivers together ended with status -9" in ending.explain()
    # i-PI ended in order and removed its socket; the folder around it was the keeper's.
    folder.rmdir()


def test_a_signal_to_all_leaves_a_restart(started):
    # As batch systems send it: i-PI gets a signal of its own, and must not get a second one at once.
    all_ = started(drivers=2)
    for pid in processes_in(all_.folder):
        os.kill(pid, signal.SIGTERM)
    ending = ended(all_.group)
    assert ending.server.status == 0
    assert (all_.folder / "RESTART").exists()
    assert not processes_in(all_.folder)


def test_the_owner_is_killed(make, tmp_path):
    settings = make(drivers=2)
    script = (
        "import json, sys, time; from pathlib import Path\n"
        "from deltaqmmm.ipi.processes import Group, GroupSettings, Program\n"
        "words = json.loads(sys.argv[1])\n"
        "words |= {name: Path(words[name]) for name in ('folder', 'socket_folder')}\n"
        "words |= {'server': Program(*words['server']), 'drivers': [Program(*one) for one in words['drivers']]}\n"
        "group = Group.start(GroupSettings(**words))\n"
        "time.sleep(600)\n"
    )
    words = {name: getattr(settings, name) for name in ("folder", "environment", "socket_folder")}
    words |= {"server": astuple(settings.server), "drivers": [astuple(driver) for driver in settings.drivers]}
    owner = subprocess.Popen([sys.executable, "-c", script, json.dumps(words, default=str)], env=environment())
    try:
        wait_until(lambda: last_step(tmp_path / "run.out") >= 2, PATIENCE, "two steps")
        assert len(processes_in(tmp_path)) == 4
    finally:
        owner.kill()
        owner.wait()
    gone(tmp_path)
    assert (tmp_path / "RESTART").exists()


def test_a_lock_is_held_until_all_have_ended(started, tmp_path):
    def lock():
        descriptor = os.open(tmp_path, os.O_RDONLY)
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return descriptor

    descriptor = lock()
    all_ = started(held=[descriptor])
    # As when its owner dies.
    os.close(descriptor)
    with pytest.raises(BlockingIOError):
        lock()
    all_.group.stop()
    os.close(lock())


def test_a_stall_is_seen(started):
    all_ = started(grace_seconds=2.0)
    os.kill(one_with(all_.folder, "toy_client.py"), signal.SIGSTOP)
    watch = Watch([PropertyFile(all_.folder / "run.out")])

    def stalled():
        watch.look()
        return watch.seconds_still() > 1.5

    wait_until(stalled, PATIENCE, "a stall")
    # One that does not react is killed after its time of grace.
    ending = all_.group.stop()
    assert ending.first is None
    assert [end.status for end in ending.ends] == [0, -9]
    assert not processes_in(all_.folder)


def test_a_program_that_is_not_there(make, tmp_path):
    ending = ended(Group.start(make(programs=[Program("the driver", ["/nowhere/driver"], "driver_0.log")])))
    assert not ending.well
    assert "/nowhere/driver" in ending.explain()
    assert not processes_in(tmp_path)


def test_logs(tmp_path):
    log = tmp_path / "a.log"
    assert "no log" in last_lines(log)
    log.write_text("".join(f"line {n}\n\n" for n in range(5000)))
    assert last_lines(log).splitlines()[-1] == "  line 4999"
    assert len(last_lines(log).splitlines()) == 8
    keep_old(log)
    log.write_text("new")
    keep_old(log)
    keep_old(log)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["#a.log#0#", "#a.log#1#"]
    assert (tmp_path / "#a.log#1#").read_text() == "new"


def test_whose_log_is_shown(tmp_path):
    def ending(first, *ends):
        names = ("i-PI", "the driver of a", "the driver of b")
        made = [End(Program(name, [], f"{name}.log"), *end) for name, end in zip(names, ends, strict=False)]
        return Ending(tmp_path, tuple(made), first)

    assert (
        Ending(tmp_path, error="could not be started: no such file").explain() == "could not be started: no such file"
    )
    assert ending(0, (0,), (0,), (0,)).well
    # One that was never connected has to be asked.
    assert ending(0, (0,), (0,), (143, True)).well
    assert not ending(None, (0, True), (0, True)).well
    # i-PI ended well, as it was told to, and a driver did not.
    failed = ending(0, (0,), (0,), (3,))
    assert not failed.well
    assert failed.explain().startswith("the driver of b ended with status 3; ")
    # i-PI failed, and the driver was the first to be seen to have ended.
    failed = ending(1, (1,), (0,))
    assert not failed.well
    assert failed.explain().startswith("i-PI ended with status 1; ")
    # A driver that lost i-PI ends well, but not the simulation.
    failed = ending(1, (0, True), (0,))
    assert not failed.well
    assert failed.explain().startswith("the driver of a ended with status 0 before i-PI did; ")
