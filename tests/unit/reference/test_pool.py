import os

import numpy as np
import pytest

pytest.importorskip("pyscf", reason="reference labels need PySCF: pip install 'deltaqmmm[reference]'")

from deltaqmmm.errors import ExternalToolError
from deltaqmmm.reference import ReferenceSettings, pool
from deltaqmmm.reference.pool import Pool
from deltaqmmm.reference.worker import Job, Refusal, WorkerSettings
from tests.processes import children


@pytest.fixture(autouse=True)
def stand_in(monkeypatch):
    monkeypatch.setattr(pool, "_PROGRAM", ("-c", "from tests.unit.reference.deadly import main; main()"))
    before = children(os.getpid())
    yield
    assert children(os.getpid()) == before


def settings(symbol="O", threads=1):
    return WorkerSettings((symbol,), 0, ReferenceSettings(), 0.0, threads)


def jobs(*identities):
    return [Job(identity, np.zeros((1, 3)), np.zeros((0, 3)), np.zeros(0)) for identity in identities]


def test_every_job_once():
    before = os.environ.get("OMP_NUM_THREADS")
    with Pool(settings(threads=3), 2) as workers:
        answers = {job.identity: answer for job, answer in workers.compute(jobs(*"abcde"))}
        assert answers == {name: (name, "3") for name in "abcde"}
    assert os.environ.get("OMP_NUM_THREADS") == before


def test_no_jobs_start_no_process():
    with Pool(settings(), 2) as workers:
        assert list(workers.compute([])) == []
        assert workers._workers == []


def test_a_job_that_kills_its_process_twice_is_refused_and_the_others_are_done():
    with Pool(settings(), 2) as workers:
        answers = {job.identity: answer for job, answer in workers.compute(jobs("a", "deadly", "b", "c"))}
    assert isinstance(answers["deadly"], Refusal)
    assert "SIGKILL" in answers["deadly"].reason
    assert [answers[name][0] for name in "abc"] == ["a", "b", "c"]
    assert len(answers) == 4


def test_leaving_early_ends_the_processes():
    with Pool(settings(), 2) as workers:
        for job, _ in workers.compute(jobs("slow", "a", "b")):
            assert job.identity == "a"
            break


@pytest.mark.parametrize(("symbol", "message"), [("refused", "no such functional"), ("broken", "could not start.*3")])
def test_processes_that_cannot_start(symbol, message):
    with Pool(settings(symbol), 1) as workers, pytest.raises(ExternalToolError, match=message):
        list(workers.compute(jobs("a")))
