"""Frames side by side in processes: the same results, each its own; how threads are shared out; and who dies when."""

import errno
import gc
import os
import re
import resource
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from deltaqmmm.errors import ConfigError, ExternalToolError, FrameError, NonFiniteError
from deltaqmmm.mm import workers
from deltaqmmm.mm.shared import SharedObject
from deltaqmmm.mm.workers import Workers, share_out
from deltaqmmm.potential import Potential
from tests.processes import ended, raised_in_fork, running

ROOT = Path(__file__).parents[3]


@pytest.mark.parametrize(
    ("threads", "n_frames", "expected"),
    [
        (1, 8, (1, 1)),  # one after the other
        (4, 1, (1, 4)),
        (3, 1, (1, 3)),
        (4, 2, (2, 2)),
        (4, 4, (4, 1)),
        (4, 6, (3, 1)),  # two turns of three are no slower than of four
        (7, 3, (3, 2)),
        (2, 0, (1, 2)),
    ],
)
def test_threads_are_shared_out(threads, n_frames, expected):
    assert share_out(n_frames, threads) == expected


def test_batches_of_many_sizes_share_processes():
    found = [share_out(n_frames, 8) for n_frames in range(2, 40)]
    assert all(count * threads <= 8 for count, threads in found)
    assert {threads for _, threads in found} == {1, 2, 4}


def test_other_platforms_start_no_process(box):
    engine = box.engine(platform="Reference", threads=4)
    engine.evaluate(np.stack([box.positions] * 2), np.stack([box.cell] * 2))
    assert engine._workers.processes == []


@pytest.fixture
def engine(box):
    engine = box.engine(platform="CPU", threads=2)
    yield engine
    engine._workers.close()


def evaluated(engine, box, n_frames=4):
    generator = np.random.default_rng(3)
    frames = box.positions + 0.01 * generator.standard_normal((n_frames, *box.positions.shape))
    return engine.evaluate(frames, np.stack([box.cell] * n_frames))


def test_processes_are_kept_from_batch_to_batch(engine, box):
    first = evaluated(engine, box)
    processes = engine._workers.processes
    assert len(processes) == 2
    larger = evaluated(engine, box, 7)
    assert engine._workers.processes == processes
    np.testing.assert_allclose(larger.forces[:4], first.forces, atol=1e-6)
    assert np.abs(larger.forces[6]).max() > 1e-3


def test_the_ewald_mesh_has_no_more_threads_than_the_rest(box, monkeypatch):
    """OpenMM would take one for each core of the machine, or what the environment says, in each process."""
    found = []
    for machine in ("1", "9"):
        monkeypatch.setenv("OPENMM_CPU_THREADS", machine)
        engine = box.engine(platform="CPU", threads=2)
        evaluated(engine, box)
        found.append([len(list(Path(f"/proc/{pid}/task").iterdir())) for pid in engine._workers.processes])
        assert os.environ["OPENMM_CPU_THREADS"] == machine
        engine._workers.close()
    assert found[0] == found[1]


@pytest.mark.parametrize("when", ["between", "computing"])
def test_a_process_that_dies_is_replaced(engine, box, when, caplog):
    expected = evaluated(engine, box)
    before = engine._workers.processes
    if when == "between":
        os.kill(before[1], signal.SIGKILL)
        found = evaluated(engine, box)
    else:
        os.kill(before[1], signal.SIGSTOP)
        with ThreadPoolExecutor(1) as pool:
            future = pool.submit(evaluated, engine, box)
            time.sleep(0.3)
            assert not future.done()
            os.kill(before[1], signal.SIGKILL)
            found = future.result(60.0)
    after = engine._workers.processes
    assert after[0] == before[0]
    assert after[1] != before[1]
    assert "was ended by the signal SIGKILL" in caplog.text
    np.testing.assert_allclose(found.forces, expected.forces, atol=1e-6)


def test_a_process_that_dies_twice_is_an_error(engine, box, monkeypatch):
    evaluated(engine, box)
    monkeypatch.setattr("deltaqmmm.mm.workers._PROGRAM", ("-c", "raise SystemExit(3)"))
    os.kill(engine._workers.processes[0], signal.SIGKILL)
    with pytest.raises(ExternalToolError, match="status 3, twice"):
        evaluated(engine, box)
    assert engine._workers.processes == []
    monkeypatch.undo()
    assert np.isfinite(evaluated(engine, box).energies).all()


def test_a_process_that_hangs_is_replaced(engine, box, monkeypatch, caplog):
    expected = evaluated(engine, box)
    before = engine._workers.processes
    replace = Workers._replace

    def patient(*arguments):
        # The other one has all the time that it needs to start.
        patch.undo()
        replace(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr("deltaqmmm.mm.workers.FRAME_SECONDS", 1.0)
        patch.setattr(Workers, "_replace", patient)
        os.kill(before[1], signal.SIGSTOP)
        found = evaluated(engine, box)
    after = engine._workers.processes
    assert after[0] == before[0]
    assert after[1] != before[1]
    assert ended(before[1:])
    (warning,) = caplog.messages
    assert "no answer within 2 s, so its process was ended. Its frames are computed once more" in warning
    np.testing.assert_allclose(found.forces, expected.forces, atol=1e-6)


def test_a_process_that_hangs_twice_is_an_error(engine, box, monkeypatch):
    evaluated(engine, box)
    before = engine._workers.processes
    with monkeypatch.context() as patch:
        patch.setattr("deltaqmmm.mm.workers.FRAME_SECONDS", 0.5)
        patch.setattr("deltaqmmm.mm.workers._PROGRAM", ("-c", "import time; time.sleep(600)"))
        os.kill(before[0], signal.SIGSTOP)
        with pytest.raises(ExternalToolError, match="no answer within 1 s, so its process was ended, twice"):
            evaluated(engine, box)
    assert engine._workers.processes == []
    assert ended(before)
    assert np.isfinite(evaluated(engine, box).energies).all()


def test_an_answer_that_is_there_is_not_late(engine, box, monkeypatch):
    """After the whole job was suspended, for one."""
    evaluated(engine, box)
    before = engine._workers.processes
    with_news = workers._with_news

    def later(shares):
        time.sleep(3.0)
        return with_news(shares)

    monkeypatch.setattr(workers, "FRAME_SECONDS", 1.0)
    monkeypatch.setattr(workers, "_with_news", later)
    evaluated(engine, box)
    assert engine._workers.processes == before


@pytest.mark.parametrize("in_qm_side", [False, True])
def test_an_interruption_while_a_process_hangs_is_no_wait(engine, box, monkeypatch, in_qm_side):
    """The thread of the MM term is free at once: it would hold up the end of the interpreter."""
    potential = Potential(box.system, engine, None, None)
    frames, cells = np.stack([box.positions] * 4), np.stack([box.cell] * 4)
    expected = potential.evaluate(cells, frames)
    processes = engine._workers.processes

    def interrupted(*arguments):
        raise KeyboardInterrupt

    os.kill(processes[1], signal.SIGSTOP)
    before = signal.signal(signal.SIGALRM, interrupted)
    try:
        with monkeypatch.context() as patch:
            if in_qm_side:
                patch.setattr(potential._qm_side, "evaluate", interrupted)
            else:
                signal.setitimer(signal.ITIMER_REAL, 1.0)
            start = time.monotonic()
            with pytest.raises(KeyboardInterrupt):
                potential.evaluate(cells, frames)
        assert potential._worker.submit(int).result(5.0) == 0
        assert time.monotonic() - start < 10.0
        assert ended(processes, 0.0)
    finally:
        signal.signal(signal.SIGALRM, before)
        for process in filter(running, processes):
            os.kill(process, signal.SIGKILL)
    np.testing.assert_allclose(potential.evaluate(cells, frames).energies, expected.energies, atol=1e-5)


def test_processes_start_side_by_side(engine, monkeypatch):
    """However much they need to know, and however long each takes to read it: here none ever does."""
    monkeypatch.setattr("deltaqmmm.mm.workers._PROGRAM", ("-c", "import time; time.sleep(600)"))
    frames, _ = engine._workers._common
    object.__setattr__(frames, "centre", "x" * 10_000_000)
    with ThreadPoolExecutor(1) as pool:
        assert len(pool.submit(engine._workers._companions, 3, 1).result(20.0)) == 3
    assert all(map(running, engine._workers.processes))


def test_an_interruption_leaves_no_answer_for_the_next_batch(engine, box, monkeypatch):
    """Not even one that comes while processes are being ended: whatever was asked before, results are of this batch."""
    expected = evaluated(engine, box)
    other = expected.forces[::-1]
    worker = engine._workers

    def interrupted(shares):
        raise KeyboardInterrupt

    for spoil in ("_with_news", "_end"):
        with monkeypatch.context() as patch:
            patch.setattr("deltaqmmm.mm.workers._with_news", interrupted)
            if spoil == "_end":
                patch.setattr("deltaqmmm.mm.workers._end", lambda started: None)
            with pytest.raises(KeyboardInterrupt):
                engine.evaluate(box.positions + np.zeros((4, 1, 1)) * other, np.stack([box.cell] * 4))
        assert bool(worker.processes) == (spoil == "_end")
        for _ in range(2):
            np.testing.assert_allclose(evaluated(engine, box).forces, expected.forces, atol=1e-6)


@pytest.mark.parametrize("n_frames", [1, 4])
@pytest.mark.parametrize("by_potential", [False, True])
def test_a_fork_is_refused(engine, box, n_frames, by_potential):
    """The processes are the owner's; so are OpenMM's threads, and that of a potential."""
    potential = Potential(box.system, engine, None, None)

    def evaluate():
        frames, cells = np.stack([box.positions] * n_frames), np.stack([box.cell] * n_frames)
        return potential.evaluate(cells, frames) if by_potential else engine.evaluate(frames, cells)

    evaluate()
    before = engine._workers.processes
    assert len(before) == (0 if n_frames == 1 else 2)
    assert re.match("ExternalToolError: .* before the process was forked", raised_in_fork(evaluate))
    assert engine._workers.processes == before
    assert np.isfinite(evaluate().energies).all()


def test_an_error_in_the_process_itself_is_told(engine, box, monkeypatch):
    """And not taken for a death: nothing is tried again, and no want of memory is blamed."""
    settings = engine._workers._common[1]
    object.__setattr__(settings, "platform", "Abacus")
    with pytest.raises(ConfigError, match="platform 'Abacus' is not available"):
        evaluated(engine, box)
    object.__setattr__(settings, "platform", "CPU")
    object.__setattr__(engine._workers, "_memory", (SharedObject("nonsense"), engine._workers._memory[1]))
    engine._workers.close()
    with pytest.raises(ExternalToolError, match="failed with ValueError: too many values"):
        evaluated(engine, box)


def test_too_few_descriptors_are_told(engine, box):
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (len(os.listdir("/proc/self/fd")) + 1, hard))
        with pytest.raises(ExternalToolError, match="ulimit -n"):
            evaluated(engine, box)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert np.isfinite(evaluated(engine, box).energies).all()


def test_without_memory_that_has_no_name(engine, box, monkeypatch):
    """A Python that was built for an old system, as that of conda: a file stands for it."""
    expected = evaluated(engine, box)
    monkeypatch.delattr(os, "memfd_create")
    other = box.engine(platform="CPU", threads=2)
    np.testing.assert_allclose(evaluated(other, box).forces, expected.forces, atol=1e-6)
    other._workers.close()


def test_a_full_disk_is_an_error(engine, box, monkeypatch):
    def full(*arguments):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(ExternalToolError, match="No space left"):
        evaluated(engine, box)


def test_no_process_outlives_the_engine(box):
    engine = box.engine(platform="CPU", threads=2)
    evaluated(engine, box)
    processes = engine._workers.processes
    del engine
    gc.collect()
    assert ended(processes)


def test_no_process_outlives_a_kill(box, tmp_path):
    """Whoever dies, and however: they compute for nobody."""
    program = tmp_path / "owner.py"
    program.write_text(OWNER)
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "driver")])}
    owner = subprocess.Popen([sys.executable, program], stdout=subprocess.PIPE, text=True, env=environment)
    processes = [int(word) for word in owner.stdout.readline().split()]
    try:
        assert len(processes) == 2
        assert all(map(running, processes))
    finally:
        owner.kill()
        owner.communicate()
    assert ended(processes, 20.0)


OWNER = """
import time
from tests.unit.mm.conftest import load_case
from tests.unit.mm.test_workers import evaluated

box = load_case("uracil_box", range(12))
engine = box.engine(platform="CPU", threads=2)
evaluated(engine, box)
print(*engine._workers.processes, flush=True)
time.sleep(600.0)
"""


@pytest.mark.parametrize("virial", [False, True])
def test_every_result_is_its_own_frame_s(box, virial):
    """Against one frame after the other; molecules wrapped otherwise from frame to frame."""
    generator = np.random.default_rng(3)
    frames = box.positions + 0.05 * generator.standard_normal((5, *box.positions.shape))
    frames += generator.integers(-2, 3, size=(5, 1, 3)) @ box.cell
    cells = box.cell * (1.0 + 0.01 * np.arange(5))[:, None, None]
    expected = box.engine(platform="CPU", threads=1, virial=virial)
    engine = box.engine(platform="CPU", threads=3, virial=virial)
    for _ in range(2):
        found = engine.evaluate(frames, cells)
        for frame in range(5):
            single = expected.evaluate(frames[frame : frame + 1], cells[frame : frame + 1])
            assert found.energies[frame] == pytest.approx(single.energies[0], abs=2e-6)
            np.testing.assert_allclose(found.forces[frame], single.forces[0], atol=2e-6)
            if virial:
                np.testing.assert_allclose(found.strain_derivatives[frame], single.strain_derivatives[0], atol=5e-3)
    assert len(set(np.round(found.energies, 4))) == 5


@pytest.mark.parametrize("threads", [1, 2])
def test_an_error_that_shows_as_a_frame_is_computed_names_it(box, threads):
    """A ring that closes on its own image: uracil's, laid across the cell. Found by the process that computes it."""
    engine = box.engine(platform="CPU", threads=threads)
    frames, cells = np.stack([box.positions] * 4), np.stack([box.cell] * 4)
    engine.evaluate(frames, cells)
    ring = [1, 2, 3, 4, 5, 7]
    for place, atom in enumerate(ring):
        frames[2:, atom] = box.positions[ring[0]] + place / len(ring) * box.cell[0] + [0.0, place % 2, 0.0]
    with pytest.raises(FrameError, match=r"^frame 2 \(counted from 0\): the bond between atoms \d+ and \d+ closes"):
        engine.evaluate(frames, cells)


ANSWERS_ALONE = """
import sys
from deltaqmmm.companions import attend
connection = attend(int(sys.argv[1]))
while True:
    batch, *question = connection.recv()
    connection.send((batch, None))
"""


def test_a_frame_that_nobody_computed_is_an_error(engine, box, monkeypatch):
    """The results of the batch before stand for none of this one."""
    evaluated(engine, box)
    monkeypatch.setattr("deltaqmmm.mm.workers._PROGRAM", ("-c", ANSWERS_ALONE))
    os.kill(engine._workers.processes[1], signal.SIGKILL)
    with pytest.raises(NonFiniteError, match=r"energy \(nan\) of frame 2 "):
        evaluated(engine, box)


def test_errors_name_the_frame(box):
    engine = box.engine(platform="CPU", threads=2)
    frames = np.stack([box.positions] * 4)
    frames[2, 20] = frames[2, 40]
    with pytest.raises(NonFiniteError, match=r"frame 2 "):
        engine.evaluate(frames, np.stack([box.cell] * 4))
    with pytest.raises(FrameError):
        engine.evaluate(frames, np.stack([box.cell * 1.5] * 4))
    good = engine.evaluate(frames[:2], np.stack([box.cell] * 2))
    assert np.isfinite(good.energies).all()
