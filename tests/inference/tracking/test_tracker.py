"""Drawn boxes that move, cross, vanish and return: which keep their number."""

import itertools

import numpy as np
import pytest

from softbio_jax.errors import UserError
from softbio_jax.inference.tracking.tracker import Tracker, TrackerConfig, iou

STEP = 0.1  # seconds between frames


def box(x, y=50.0, side=40.0):
    return (x, y, x + side, y + side)


def follow(frames, config=TrackerConfig(), step=STEP):
    """Returns the numbers that a tracker gives to the boxes of every frame."""
    tracker = Tracker(config)
    return [tracker.update(i * step, boxes) for i, boxes in enumerate(frames)]


def area(box):
    return max(0.0, box[2] - box[0]) * max(0.0, box[3] - box[1])


def test_overlap_is_that_of_each_pair():
    rng = np.random.default_rng(0)
    corners = rng.uniform(0, 100, (2, 30, 2))
    boxes = np.concatenate([corners, corners + rng.uniform(0, 60, (2, 30, 2))], axis=-1)
    found = iou(*boxes)
    for (i, a), (j, b) in itertools.product(enumerate(boxes[0]), enumerate(boxes[1])):
        both = area((max(a[0], b[0]), max(a[1], b[1]), min(a[2], b[2]), min(a[3], b[3])))
        assert found[i, j] == pytest.approx(both / (area(a) + area(b) - both))
    assert iou(np.array([[3.0, 3, 3, 3]]), np.array([[3.0, 3, 3, 3]])) == 0  # empty


def test_two_faces_keep_their_numbers_in_any_order_of_the_detector():
    rng = np.random.default_rng(1)
    frames, wanted = [], []
    for i in range(30):
        boxes, order = [box(100 + 3 * i), box(400 - 2 * i, y=55)], rng.permutation(2)
        frames.append([boxes[k] for k in order])
        wanted.append([int(k) for k in order])
    first = frames[0] != [box(100), box(400, y=55)]
    assert follow(frames) == [[number ^ first for number in row] for row in wanted]


def test_faces_that_cross_keep_their_numbers():
    frames = [[box(0 + 20 * i), box(400 - 20 * i)] for i in range(21)]
    assert follow(frames) == [[0, 1]] * 21
    # Given in the order of their places, and where both are in one place, only their speeds tell them apart.
    ordered = [sorted(row) for row in frames]
    assert follow(ordered) == [[0, 1]] * 10 + [[0, 1]] + [[1, 0]] * 10


def test_the_largest_overlap_in_all_wins_not_the_nearest_box_of_the_first():
    # The first track's best box is the second one's only one.
    found = follow([[box(0), box(30)], [box(17), box(-16)]])
    assert found[1] == [1, 0]


@pytest.mark.parametrize(("missing", "same"), [(5, True), (12, False)])
def test_a_gap_ends_a_track_only_if_it_is_long(missing, same):
    moving = [[box(5 * i)] for i in range(30)]
    frames = moving[:8] + [[]] * missing + moving[8 + missing :]
    found = follow(frames, TrackerConfig(gap=1.0))
    assert found[:8] == [[0]] * 8
    assert found[8 + missing :] == [[0 if same else 1]] * (22 - missing)


def test_one_leaves_and_another_comes_to_its_place_later():
    frames = [[box(0), box(200)]] * 5 + [[box(200)]] * 15 + [[box(200), box(0)]] * 3
    found = follow(frames)
    assert found[4] == [0, 1] and found[5] == found[19] == [1] and found[-1] == [1, 2]


def test_a_jump_is_another_face():
    assert follow([[box(0)], [box(300)]]) == [[0], [1]]
    assert follow([[box(0)], [box(30)]], TrackerConfig(overlap=0.1)) == [[0], [0]]
    assert follow([[box(0)], [box(30)]], TrackerConfig(overlap=0.2)) == [[0], [1]]  # 10 of 70


def test_a_fast_face_is_followed_at_uneven_times():
    tracker = Tracker()
    times = [0.0, 0.1, 0.2, 0.5, 0.6, 1.2, 1.3]
    # 150 pixels a second: 90 between two frames, more than the width of the box.
    assert [tracker.update(t, [box(150 * t)]) for t in times] == [[0]] * len(times)


def test_the_first_speed_counts_in_full():
    tracker = Tracker()
    assert [tracker.update(t, [box(150 * t)]) for t in (0.0, 0.1, 0.5)] == [[0]] * 3


def test_times_that_do_not_advance_change_no_speed():
    tracker = Tracker()
    for t in (0.0, 0.1, 0.1, 0.2):
        assert tracker.update(t, [box(100 * t)]) == [0]


@pytest.mark.parametrize("wrong", [{"overlap": 0.0}, {"overlap": 1.5}, {"gap": -1.0}, {"memory": 2.0}])
def test_a_wrong_setting_is_one_line(wrong):
    with pytest.raises(UserError, match=f"track.{next(iter(wrong))}") as error:
        TrackerConfig(**wrong)
    assert "\n" not in str(error.value)
