"""How companions start, what they ignore, what they find, and when they end."""

import errno
import gc
import os
import resource
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from deltaqmmm.companions import IGNORED, Companion, ending, lifted
from deltaqmmm.errors import ExternalToolError
from tests.processes import ended, running

ROOT = Path(__file__).parents[2]
BEGIN = "import sys; from deltaqmmm.companions import attend; connection = attend(int(sys.argv[1])); "


@pytest.fixture
def start():
    started = []

    def begin(program, arguments=(), **settings):
        started.append(Companion(("-c", program), arguments, **settings))
        return started[-1]

    yield begin
    for companion in started:
        companion.end()


def test_question_and_answer(start):
    companion = start(BEGIN + "connection.send(connection.recv() + sys.argv[2])", ["b"])
    companion.connection.send("a")
    assert companion.connection.recv() == "ab"
    assert companion.status(20.0) == 0


@pytest.mark.parametrize("limit", ["files", "processes"])
def test_limits_of_the_machine_are_told(monkeypatch, limit):
    def refused(*arguments, **options):
        raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))

    before = os.listdir("/proc/self/fd")
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if limit == "files":
        resource.setrlimit(resource.RLIMIT_NOFILE, (len(before) + 1, hard))
    else:
        monkeypatch.setattr(subprocess, "Popen", refused)
    try:
        with pytest.raises(ExternalToolError, match=r"cannot be started .*ulimit -n.*ulimit -u"):
            Companion(("-c", "pass"))
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert os.listdir("/proc/self/fd") == before


def test_it_finds_modules_where_its_owner_does(start, tmp_path, monkeypatch):
    """Also what was put into sys.path by hand, in the same order, whatever the environment says."""
    for name, value in (("first", 1), ("second", 2)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "found_here.py").write_text(f"VALUE = {value}")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "second"))
    monkeypatch.setattr(sys, "path", [str(tmp_path / "first"), *sys.path, str(tmp_path / "second")])
    companion = start(BEGIN + "import found_here; connection.send(found_here.VALUE)")
    assert companion.connection.recv() == 1


def test_threads_of_libraries(start):
    companion = start(BEGIN + "import os; connection.send(os.environ['OMP_NUM_THREADS'])", threads=3)
    assert companion.connection.recv() == "3"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGUSR1])
def test_signals_to_the_group_do_not_reach_it_however_early(start, number):
    assert number in IGNORED
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [])
    companion = start("import time; time.sleep(0.3); " + BEGIN + "connection.send(connection.recv())")
    for _ in range(10):
        os.kill(companion.process.pid, number)
        time.sleep(0.05)
    companion.connection.send("alive")
    assert companion.connection.recv() == "alive"
    assert signal.pthread_sigmask(signal.SIG_BLOCK, []) == before


@pytest.mark.filterwarnings("ignore:subprocess .* is still running:ResourceWarning")
@pytest.mark.parametrize("thread", ["this", "another"])
def test_an_interruption_as_it_starts_leaves_nothing_behind(monkeypatch, thread):
    """It comes when the signal is let through again, or at once where another thread takes it."""
    started = []
    begin = subprocess.Popen.__init__

    def interrupted(self, *arguments, **options):
        begin(self, *arguments, **options)
        started.append(self.pid)
        if thread == "another":
            raise KeyboardInterrupt
        signal.pthread_kill(threading.get_ident(), signal.SIGUSR1)

    def interrupt(*arguments):
        raise KeyboardInterrupt

    descriptors = os.listdir("/proc/self/fd")
    before = signal.signal(signal.SIGUSR1, interrupt)
    try:
        with monkeypatch.context() as patch:
            patch.setattr(subprocess.Popen, "__init__", interrupted)
            with pytest.raises(KeyboardInterrupt):
                Companion(("-c", BEGIN + "import time; time.sleep(600)"))
    finally:
        signal.signal(signal.SIGUSR1, before)
    gc.collect()
    assert ended(started, 20.0)
    assert os.listdir("/proc/self/fd") == descriptors


def test_an_interruption_as_signals_are_blocked_leaves_nothing_behind(monkeypatch):
    block = signal.pthread_sigmask

    def interrupted(how, mask):
        before = block(how, mask)
        if mask == IGNORED:
            raise KeyboardInterrupt
        return before

    descriptors, blocked = os.listdir("/proc/self/fd"), block(signal.SIG_BLOCK, [])
    with monkeypatch.context() as patch:
        patch.setattr(signal, "pthread_sigmask", interrupted)
        with pytest.raises(KeyboardInterrupt):
            Companion(("-c", "pass"))
    assert block(signal.SIG_BLOCK, []) == blocked
    assert os.listdir("/proc/self/fd") == descriptors


def test_a_forked_child_does_not_keep_it(tmp_path):
    """The child has the other end of its standard input too, and lives on when the owner is killed."""
    program = tmp_path / "owner.py"
    program.write_text(
        "import os, time\nfrom deltaqmmm.companions import Companion\n"
        f"companion = Companion(('-c', {BEGIN + 'connection.send(1); connection.recv()'!r}))\n"
        "companion.connection.recv()\nchild = os.fork()\n"
        "if child: print(companion.process.pid, child, flush=True)\ntime.sleep(600)\n"
    )
    environment = os.environ | {"PYTHONPATH": str(ROOT / "driver")}
    owner = subprocess.Popen([sys.executable, program], stdout=subprocess.PIPE, text=True, env=environment)
    companion, child = (int(word) for word in owner.stdout.readline().split())
    try:
        owner.kill()
        owner.wait()
        assert ended([companion], 20.0)
        assert running(child)
    finally:
        os.kill(child, signal.SIGKILL)
        owner.stdout.close()


@pytest.mark.filterwarnings("ignore:subprocess .* is still running:ResourceWarning")
def test_one_that_is_dropped_ends():
    """Also in the middle of its work; nobody has told it to end."""
    companion = Companion(("-c", BEGIN + "connection.send(1); import time; time.sleep(600)"))
    companion.connection.recv()
    process = companion.process.pid
    del companion
    gc.collect()
    assert ended([process], 20.0)


def test_standard_input_and_output_that_are_closed(tmp_path):
    program = tmp_path / "owner.py"
    program.write_text(
        "import os, pathlib, sys\nfrom deltaqmmm.companions import Companion, lifted\n"
        "assert os.open(os.devnull, os.O_RDONLY) == 0\nassert lifted(0) > 2\n"
        f"companion = Companion(('-c', {BEGIN + 'connection.send(connection.recv())'!r}))\n"
        "companion.connection.send('heard')\n"
        "pathlib.Path(sys.argv[1]).write_text(companion.connection.recv())\ncompanion.end()\n"
    )
    command = f'exec "{sys.executable}" "{program}" "{tmp_path / "out"}" <&- >&- 2>&-'
    environment = os.environ | {"PYTHONPATH": str(ROOT / "driver")}
    assert subprocess.run(["bash", "-c", command], env=environment, check=False, timeout=60).returncode == 0
    assert (tmp_path / "out").read_text() == "heard"


def test_lifted():
    reading, writing = os.pipe()
    try:
        assert lifted(reading) == reading > 2
    finally:
        os.close(reading)
        os.close(writing)


def test_how_it_ended(start):
    companion = start("raise SystemExit(7)")
    assert ending(companion.status(20.0)) == "its process ended with status 7"
    companion = start("import time; time.sleep(600)")
    companion.process.kill()
    assert "SIGKILL (by hand, or for want of memory)" in ending(companion.status(20.0))
    assert ending(-(signal.SIGRTMIN + 3)) == f"its process was ended by the signal {signal.SIGRTMIN + 3}"
    companion = start("import os, sys, time; os.close(int(sys.argv[1])); time.sleep(600)")
    with pytest.raises(EOFError):
        companion.connection.recv()
    assert ending(companion.status(0.1)) == "its process closed its socket and did not end"
