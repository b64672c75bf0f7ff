"""Workers that fail, hang, grow and are killed, with a module that stands in for DFTB+."""

import errno
import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from deltaqmmm.companions import IGNORED
from deltaqmmm.dftb.dftbplus import pool as pool_module
from deltaqmmm.dftb.dftbplus.hsd import Variation
from deltaqmmm.dftb.dftbplus.library import Library
from deltaqmmm.dftb.dftbplus.pool import NOT_COMPUTED, Pool
from deltaqmmm.dftb.dftbplus.process import Answer, Death, Setup, Worker
from deltaqmmm.dftb.dftbplus.retry import SaferSetups
from deltaqmmm.errors import ExternalToolError
from tests.processes import ended, raised_in_fork
from tests.unit.dftb.dftbplus import fake

ATOMS = 3


@pytest.fixture
def setup(tmp_path):
    return Setup(Library(tmp_path / "libdftbplus.so", Path(fake.__file__), "25.1"), f"{ATOMS} {tmp_path}")


@pytest.fixture
def make_pool(setup):
    pools = []

    def make(workers=1, timeout=60.0, given=setup):
        pools.append(Pool(given, workers, timeout))
        return pools[-1]

    yield make
    for pool in pools:
        pool.close()


def frames(*kinds):
    """Positions and potentials of frames of these kinds."""
    generator = np.random.default_rng(len(kinds))
    positions, potentials = generator.standard_normal((len(kinds), ATOMS, 3)), generator.random((len(kinds), ATOMS))
    for frame, kind in zip(positions, kinds, strict=True):
        if kind:
            frame[0, 0] = kind
    return positions, potentials


def check_answers(outcomes, positions, potentials):
    for outcome, x, phi in zip(outcomes, positions, potentials, strict=True):
        assert isinstance(outcome, Answer)
        assert outcome.energy == pytest.approx(0.5 * np.sum(x**2) + 0.1 * phi.sum(), rel=1e-14)
        assert np.array_equal(outcome.gradients, x)
        assert outcome.cycles == 3


@pytest.mark.parametrize(("count", "workers"), [(1, 3), (5, 2), (7, 3)])
def test_a_batch_is_spread_over_the_workers_and_comes_back_in_order(make_pool, count, workers):
    pool = make_pool(workers)
    given = frames(*[0.0] * count)
    check_answers(pool.compute(*given), *given)
    assert len(pool.processes) == min(count, workers)
    check_answers(pool.compute(given[0][::-1], given[1][::-1]), given[0][::-1], given[1][::-1])


def test_the_others_are_computed_where_the_scc_of_one_frame_fails(make_pool):
    pool = make_pool(2)
    positions, potentials = frames(0.0, fake.SCC_FAILS, 0.0, 0.0, fake.SCC_FAILS)
    outcomes = pool.compute(positions, potentials)
    good = [0, 2, 3]
    check_answers([outcomes[i] for i in good], positions[good], potentials[good])
    for frame in (1, 4):
        death = outcomes[frame]
        assert isinstance(death, Death)
        assert death.by_dftbplus
        assert death.reason == 'DFTB+ says "SCC is NOT converged, maximal SCC iterations exceeded"'
        assert (death.cycles, death.residual) == (2, 0.76e-4)


def test_a_frame_whose_worker_crashes_is_tried_once_more(make_pool, caplog):
    pool = make_pool(2)
    given = frames(0.0, 0.0, fake.CRASHES_ONCE, 0.0)
    check_answers(pool.compute(*given), *given)
    assert "frame 2 of the batch" in caplog.text
    assert "SIGKILL" in caplog.text


def test_a_frame_that_always_crashes_is_given_up_and_others_are_not_tried(make_pool):
    pool = make_pool()
    outcomes = pool.compute(*frames(0.0, fake.CRASHES, fake.HANGS, 0.0))
    assert isinstance(outcomes[0], Answer)
    assert isinstance(outcomes[1], Death)
    assert not outcomes[1].by_dftbplus
    assert "SIGKILL" in outcomes[1].reason
    assert outcomes[2] is NOT_COMPUTED
    assert outcomes[3] is NOT_COMPUTED
    assert pool.processes == []
    given = frames(0.0, 0.0)
    check_answers(pool.compute(*given), *given)


def test_a_python_error_in_a_worker_is_told(make_pool, caplog):
    pool = make_pool()
    outcomes = pool.compute(*frames(fake.RAISES, 0.0))
    assert outcomes[0].reason == "its process failed with ValueError: no sense in the frame"
    assert not outcomes[0].by_dftbplus
    assert "Once more" in caplog.text


def test_a_python_error_at_the_start_is_told(make_pool, setup):
    pool = make_pool(given=Setup(setup.library, "unreadable"))
    with pytest.raises(ExternalToolError, match="could not be loaded: ValueError: no sense in the input"):
        pool.start()


def test_a_worker_killed_between_two_batches_is_replaced(make_pool):
    pool = make_pool(2)
    given = frames(0.0, 0.0, 0.0, 0.0)
    pool.compute(*given)
    killed = pool.processes[1]
    os.kill(killed, signal.SIGKILL)
    check_answers(pool.compute(*given), *given)
    assert killed not in pool.processes


def test_a_frame_that_takes_too_long_is_ended(make_pool):
    pool = make_pool(timeout=1.5)
    start = time.monotonic()
    outcomes = pool.compute(*frames(fake.HANGS))
    assert time.monotonic() - start < 30.0
    assert "no answer within 1.5 s" in outcomes[0].reason


def test_a_stopped_worker_with_a_large_share_is_ended(make_pool, caplog):
    """The share is more than the socket holds."""
    pool = make_pool(timeout=2.0)
    pool.compute(*frames(0.0))
    stopped = pool.processes[0]
    given = frames(*[0.0] * 12_000)
    assert given[0].nbytes + given[1].nbytes > 1e6
    os.kill(stopped, signal.SIGSTOP)
    rescue = threading.Timer(30.0, os.kill, (stopped, signal.SIGCONT))
    rescue.start()
    start = time.monotonic()
    check_answers(pool.compute(*given), *given)
    seconds = time.monotonic() - start
    rescue.cancel()
    assert seconds < 25.0
    assert "no answer within 2 s" in caplog.text
    assert stopped not in pool.processes


def test_signals_leave_workers_to_their_owner(make_pool):
    pool = make_pool()
    given = frames(0.0)
    pool.compute(*given)
    worker = pool.processes
    for number in IGNORED:
        os.kill(worker[0], number)
    check_answers(pool.compute(*given), *given)
    assert pool.processes == worker
    assert {signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2} < set(IGNORED)


def test_a_worker_that_grows_is_renewed_and_others_are_not(make_pool, monkeypatch):
    monkeypatch.setattr(pool_module, "GROWTH", 100 << 20)
    pool = make_pool()
    given = frames(0.0)
    pool.compute(*given)
    first = pool.processes
    pool.compute(*given)
    assert pool.processes == first
    # 64 MB each.
    pool.compute(*frames(fake.GROWS, fake.GROWS, fake.GROWS))
    check_answers(pool.compute(*given), *given)
    assert pool.processes != first
    assert ended(first)


def test_a_worker_that_is_killed_as_it_starts_is_replaced(make_pool, monkeypatch, caplog):
    pool = make_pool(2)
    given = frames(0.0, 0.0)
    pool.start()
    receive = Worker.receive_readiness
    killed = []

    def unlucky(self):
        if not killed:
            killed.append(self.process.pid)
            self.process.kill()
        return receive(self)

    monkeypatch.setattr(Worker, "receive_readiness", unlucky)
    check_answers(pool.compute(*given), *given)
    assert "could not start" in caplog.text
    assert ended(killed)


@pytest.mark.parametrize("problem", [ExternalToolError, KeyboardInterrupt])
def test_a_worker_that_does_not_start_twice_leaves_nothing_behind(make_pool, monkeypatch, tmp_path, problem):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    pool = make_pool(2)
    given = frames(0.0, 0.0)
    pool.start()
    tried = []

    def unlucky(self):
        tried.append(self)
        raise problem("not now") if len(tried) > 1 else ExternalToolError("did not start")

    with monkeypatch.context() as patch:
        patch.setattr(Worker, "receive_readiness", unlucky)
        with pytest.raises(problem, match="not now"):
            pool.compute(*given)
    assert len(tried) == 2
    assert ended([worker.process.pid for worker in tried], 0.0)
    assert not list(tmp_path.glob("deltaqmmm_dftbplus_*"))
    check_answers(pool.compute(*given), *given)


def test_a_worker_of_a_safer_setup_that_is_killed_as_it_starts_is_replaced(setup, monkeypatch, caplog):
    receive = Worker.receive_readiness
    killed = []

    def unlucky(self):
        if not killed:
            killed.append(self.process.pid)
            self.process.kill()
        return receive(self)

    monkeypatch.setattr(Worker, "receive_readiness", unlucky)
    safer = SaferSetups(lambda variation: setup, Variation(100, 0.0), 60.0)
    positions, potentials = frames(0.0)
    found = safer.solve(0, positions[0], potentials[0], Death("first", by_dftbplus=True))
    check_answers([found], positions, potentials)
    assert "could not start" in caplog.text
    assert ended(killed)


def test_a_safer_setup_that_crashes_ends_the_ladder(setup, caplog):
    """No other set-up is tried, each of which would take its time twice."""
    safer = SaferSetups(lambda variation: setup, Variation(100, 0.0), 60.0)
    positions, potentials = frames(fake.CRASHES)
    found = safer.solve(0, positions[0], potentials[0], Death("first", by_dftbplus=True, cycles=7))
    assert isinstance(found, Death)
    assert not found.by_dftbplus
    assert "SIGKILL" in found.reason
    assert found.cycles == 7
    assert "careful mixing" in caplog.text
    assert "annealing" not in caplog.text


def test_what_dftbplus_says_at_start_is_told(make_pool, setup):
    pool = make_pool(given=Setup(setup.library, "nonsense"))
    with pytest.raises(ExternalToolError, match=r"could not start: DFTB\+ says .Unprocessed node"):
        pool.start()
    assert pool.processes == []


@pytest.mark.parametrize("problem", ["no folder", "full", "no process"])
def test_a_worker_that_cannot_be_started_is_told(make_pool, monkeypatch, tmp_path, problem):
    def full(*arguments, **options):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "nowhere" if problem == "no folder" else tmp_path))
    if problem == "full":
        monkeypatch.setattr(Path, "write_text", full)
    elif problem == "no process":
        monkeypatch.setattr(subprocess, "Popen", full)
    with pytest.raises(ExternalToolError, match="ulimit -u" if problem == "no process" else "TMPDIR"):
        make_pool().compute(*frames(0.0))
    assert not list(tmp_path.glob("deltaqmmm_dftbplus_*"))


def test_a_module_that_cannot_be_loaded_is_told(make_pool, setup, tmp_path):
    broken = tmp_path / "__init__.py"
    broken.write_text("import nothing_of_this_name")
    pool = make_pool(given=Setup(Library(setup.library.file, broken, "25.1"), setup.text))
    with pytest.raises(ExternalToolError, match=r"could not be loaded: ModuleNotFoundError.*nothing_of_this_name"):
        pool.start()


def test_no_process_and_no_folder_is_left_behind(make_pool, monkeypatch, tmp_path):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    pool = make_pool(3)
    pool.compute(*frames(0.0, 0.0, fake.SCC_FAILS))
    pids = pool.processes
    assert list(tmp_path.glob("deltaqmmm_dftbplus_*"))
    pool.close()
    assert ended(pids)
    assert not list(tmp_path.glob("deltaqmmm_dftbplus_*"))


OWNER = """
import sys
from pathlib import Path
import numpy as np
from deltaqmmm.dftb.dftbplus.library import Library
from deltaqmmm.dftb.dftbplus.pool import Pool
from deltaqmmm.dftb.dftbplus.process import Setup
pool = Pool(Setup(Library(Path("libdftbplus.so"), Path(sys.argv[1]), "25.1"), f"3 {sys.argv[2]}"), 2, 600.0)
pool.compute(np.zeros((2, 3, 3)), np.zeros((2, 3)))
print(*pool.processes, flush=True)
hanging = np.zeros((2, 3, 3))
hanging[:, 0, 0] = float(sys.argv[3])
pool.compute(hanging, np.zeros((2, 3)))
"""


@pytest.mark.parametrize("kind", [fake.HANGS, 0.0], ids=["computing", "idle"])
def test_workers_end_when_their_owner_is_killed(tmp_path, kind):
    """Also in the middle of a calculation; their folders go with them."""
    script = OWNER if kind else f"{OWNER}\nimport time; time.sleep(600)"
    with subprocess.Popen(
        [sys.executable, "-c", script, fake.__file__, tmp_path, str(kind)],
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"TMPDIR": str(tmp_path)},
    ) as owner:
        pids = [int(word) for word in owner.stdout.readline().split()]
        assert len(pids) == 2
        time.sleep(0.3)
        owner.kill()
    assert ended(pids)
    assert not list(tmp_path.glob("deltaqmmm_dftbplus_*"))


FORKS = """
import os
import sys
from pathlib import Path
import numpy as np
from deltaqmmm.dftb.dftbplus.library import Library
from deltaqmmm.dftb.dftbplus.pool import Pool
from deltaqmmm.dftb.dftbplus.process import Setup
pool = Pool(Setup(Library(Path("libdftbplus.so"), Path(sys.argv[1]), "25.1"), f"3 {sys.argv[2]}"), 1, 600.0)
pool.compute(np.zeros((1, 3, 3)), np.zeros((1, 3)))
before = pool.processes
child = os.fork()
if not child:
    # Ends normally, with all that is to be done at the end of the interpreter.
    sys.exit()
os.waitpid(child, 0)
folders = list(Path(sys.argv[2]).glob("deltaqmmm_dftbplus_*/output.txt"))
pool.compute(np.zeros((1, 3, 3)), np.zeros((1, 3)))
print(len(folders), before == pool.processes)
"""


@pytest.mark.parametrize("work", [Pool.start, lambda pool: pool.compute(*frames(0.0))], ids=["start", "compute"])
def test_a_fork_is_refused(make_pool, work):
    """The workers are the owner's: two that read from one socket would have each other's answers."""
    pool = make_pool()
    given = frames(0.0)
    pool.compute(*given)
    before = pool.processes
    assert re.match("ExternalToolError: .* before the process was forked", raised_in_fork(lambda: work(pool)))
    check_answers(pool.compute(*given), *given)
    assert pool.processes == before


def test_a_forked_process_that_ends_leaves_the_worker_and_its_folder(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", FORKS, fake.__file__, tmp_path],
        capture_output=True,
        text=True,
        env=os.environ | {"TMPDIR": str(tmp_path)},
        timeout=120,
        check=False,
    )
    assert done.stdout.split() == ["1", "True"], done.stderr
    assert not list(tmp_path.glob("deltaqmmm_dftbplus_*"))
