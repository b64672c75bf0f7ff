"""The choice shared between runs."""

import numpy as np
import pytest

from deltaqmmm.errors import InputError
from deltaqmmm.sampling import farthest_in_turns, farthest_points, random_in_turns, shares


@pytest.fixture
def cloud():
    rng = np.random.default_rng(1)
    return rng.normal(size=(60, 5)), np.repeat([0, 1, 2], [30, 20, 10])


def test_shares():
    assert shares(10, 4) == [3, 3, 2, 2]
    assert shares(8, 4) == [2, 2, 2, 2]
    assert shares(1, 2) == [1, 0]


def test_every_first_part_holds_every_run(cloud):
    points, runs = cloud
    for chosen in (farthest_in_turns(points, runs, 22, per_turn=3), random_in_turns(runs, 22, 7, per_turn=3)):
        assert len(set(chosen.tolist())) == 22
        np.testing.assert_array_equal(runs[chosen[:18]], np.tile([0, 0, 0, 1, 1, 1, 2, 2, 2], 2))
        np.testing.assert_array_equal(np.bincount(runs[chosen]), shares(22, 3))


def test_frames_of_other_runs_count_as_taken(cloud):
    points, runs = cloud
    chosen = farthest_in_turns(points, runs, 6, per_turn=2)
    expected = farthest_points(points[:30], 2)
    np.testing.assert_array_equal(chosen[:2], expected)
    for place in range(2, 6):
        free = np.flatnonzero(runs == runs[chosen[place]])
        nearest = np.linalg.norm(points[free][:, None] - points[chosen[:place]], axis=2).min(axis=1)
        assert chosen[place] == free[np.argmax(nearest)]


def test_avoided_frames_repel(cloud):
    points, runs = cloud
    # A frame of no run, right where the first choice would be.
    first = farthest_in_turns(points, runs, 3)[0]
    more, marked = np.concatenate([points, points[[first]]]), np.append(runs, -1)
    chosen = farthest_in_turns(more, marked, 3, [60])
    assert first not in chosen
    assert 60 not in chosen
    distances = np.linalg.norm(points[:30] - points[first], axis=1)
    assert chosen[0] == np.argmax(distances)
    for seed in range(5):
        assert 5 not in random_in_turns(runs, 30, seed, [5])


def test_random_choice_is_of_all_and_seeded(cloud):
    _, runs = cloud
    np.testing.assert_array_equal(random_in_turns(runs, 20, 3), random_in_turns(runs, 20, 3))
    assert set(random_in_turns(runs, 20, 3)) != set(random_in_turns(runs, 20, 4))
    counts = sum(np.bincount(random_in_turns(runs, 15, seed), minlength=60) for seed in range(200))
    # 5 of 30, 5 of 20 and 5 of 10 frames: each frame in so many of 200 draws, give or take four standard deviations.
    for run, share in enumerate((1 / 6, 1 / 4, 1 / 2)):
        spread = 4.0 * np.sqrt(200 * share * (1.0 - share))
        assert np.abs(counts[runs == run] - 200 * share).max() < spread + 1.0


def test_a_run_with_too_few_frames(cloud):
    points, runs = cloud
    with pytest.raises(InputError, match="11 frames are to be taken from run 3 of 3, which has 10"):
        farthest_in_turns(points, runs, 33)
    with pytest.raises(InputError, match="which has 9"):
        random_in_turns(runs, 30, 1, [59])
