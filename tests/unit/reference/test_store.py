from dataclasses import replace
from pathlib import Path

import pytest

from deltaqmmm.dataset import Failure, Source, read_dataset, write_dataset
from deltaqmmm.errors import DatasetError
from deltaqmmm.reference.store import LabelStore
from tests.unit.dataset.conftest import dataset, make_frame  # noqa: F401 - a fixture

FRAMES = [make_frame(number, 4) for number in range(4)]
IDS = [frame.identity for frame in FRAMES]
FAILURE = Failure("e" * 32, Source("x.xyz", 9), "no convergence")


@pytest.fixture
def empty(dataset):  # noqa: F811
    return dataset.with_frames([], [])


@pytest.fixture
def output(tmp_path):
    return tmp_path / "out.h5"


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_run_from_beginning_to_end(output, empty):
    with LabelStore(output, empty) as store:
        for number in (2, 0, 3):
            store.add(FRAMES[number])
        store.add_failure(FAILURE)
        assert not output.exists()
        store.join(IDS)
        store.remove()
    back = read_dataset(output, empty.settings, empty.system)
    assert [frame.identity for frame in back.frames] == [IDS[0], IDS[2], IDS[3]]
    assert [failure.reason for failure in back.failures] == ["no convergence"]
    assert names(output.parent) == ["out.h5"]


def test_what_was_finished_before_a_kill_is_there_again(output, empty):
    with LabelStore(output, empty) as store:
        store.add(FRAMES[1])
        store.add_failure(FAILURE)
    (store.folder / ".half.h5.abc.part").write_bytes(b"\x89HDF half of a frame")
    with LabelStore(output, empty) as store:
        assert list(store.frames) == [IDS[1]]
        assert list(store.failures) == [FAILURE.identity]
        assert not list(store.folder.glob(".*part"))


@pytest.mark.parametrize("written", [False, True])
def test_an_interruption_while_a_frame_is_kept(output, empty, monkeypatch, written):
    """Before its part is on disk or just after: the frame is in what is joined then."""

    def interrupted(*arguments):
        if written:
            write_dataset(*arguments)
        raise KeyboardInterrupt

    with LabelStore(output, empty) as store:
        for keep, content in ((store.add, FRAMES[0]), (store.add_failure, FAILURE)):
            with monkeypatch.context() as patch:
                patch.setattr("deltaqmmm.reference.store.write_dataset", interrupted)
                with pytest.raises(KeyboardInterrupt):
                    keep(content)
        joined = store.join(IDS)
    assert [frame.identity for frame in joined.frames] == IDS[:1]
    assert joined.failures == (FAILURE,)


def test_a_kill_between_joining_and_removing_doubles_nothing(output, empty):
    with LabelStore(output, empty) as store:
        store.add(FRAMES[0])
        store.add(FRAMES[1])
        store.join(IDS)
    with LabelStore(output, empty) as store:
        store.add(FRAMES[2])
        store.join(IDS)
        store.remove()
    assert [frame.identity for frame in read_dataset(output).frames] == IDS[:3]


def test_frames_of_an_earlier_run_stay_at_the_beginning(output, empty):
    write_dataset(output, empty.with_frames([FRAMES[3]], []))
    with LabelStore(output, empty) as store:
        store.add(FRAMES[0])
        store.join([IDS[0]])
    assert [frame.identity for frame in read_dataset(output).frames] == [IDS[3], IDS[0]]


def test_a_failure_that_succeeds_later(output, empty):
    with LabelStore(output, empty) as store:
        store.add_failure(replace(FAILURE, identity=IDS[0]))
        store.forget_failures()
        assert not store.failures
        store.add(FRAMES[0])
        dataset = store.join(IDS)
    assert (len(dataset.frames), len(dataset.failures)) == (1, 0)
    with LabelStore(output, empty) as store:
        assert not store.failures


def test_two_at_once(output, empty):
    with LabelStore(output, empty), pytest.raises(DatasetError, match="another process is labelling"):
        LabelStore(output, empty).__enter__()
    with LabelStore(output, empty):
        pass


@pytest.mark.parametrize("earlier", [False, True], ids=["new", "old output"])
def test_one_that_finishes_as_another_begins(output, empty, monkeypatch, earlier):
    """It joins its frames when the other has looked at the output and has no lock yet."""
    if earlier:
        write_dataset(output, empty.with_frames([FRAMES[0]], []))
    first, second = LabelStore(output, empty), LabelStore(output, empty)
    first.__enter__()
    first.add(FRAMES[1])
    first.add_failure(FAILURE)
    mkdir = Path.mkdir

    def late(*arguments, **options):
        monkeypatch.undo()
        first.join(IDS)
        first.remove()
        first.__exit__(None, None, None)
        mkdir(*arguments, **options)

    monkeypatch.setattr(Path, "mkdir", late)
    with second:
        second.add(FRAMES[2])
        second.join(IDS)
        second.remove()
    back = read_dataset(output, empty.settings, empty.system)
    assert [frame.identity for frame in back.frames] == [*IDS[: int(earlier)], *IDS[1:3]]
    assert [failure.reason for failure in back.failures] == [FAILURE.reason]


@pytest.mark.parametrize("place", ["output", "part"])
def test_other_settings_touch_nothing(output, empty, place):
    if place == "output":
        write_dataset(output, empty)
    else:
        with LabelStore(output, empty) as store:
            store.add(FRAMES[0])
    before = names(output.parent)
    other = replace(empty, settings=replace(empty.settings, level={"functional": "b3lyp"}))
    with pytest.raises(DatasetError, match='"pbe0" there, and "b3lyp" here'):
        LabelStore(output, other).__enter__()
    assert names(output.parent) == before
    with LabelStore(output, empty):
        pass


def test_a_foreign_output_is_not_overwritten(output, empty):
    output.write_text("my thesis")
    with pytest.raises(DatasetError, match="no dataset"):
        LabelStore(output, empty).__enter__()
    assert output.read_text() == "my thesis"
    assert names(output.parent) == ["out.h5"]


def test_the_folder_keeps_what_others_put_there(output, empty):
    with LabelStore(output, empty) as store:
        (store.folder / "notes.txt").write_text("mine")
        store.remove()
    assert names(store.folder) == ["notes.txt"]
