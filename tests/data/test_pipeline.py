import functools
import json

import numpy as np
import pytest

from softbio_jax.data import decode, pipeline, sampling
from softbio_jax.errors import UserError
from softbio_jax.tasks import MISSING

SIZE = 16


def _train(datasets, **kwargs):
    return pipeline.train_batches(datasets, **({"image_size": SIZE, "batch_size": 4} | kwargs))


def _take(batches, count):
    return [next(batches) for _ in range(count)]


def _assert_equal(left, right):
    assert left.keys() == right.keys()
    for key in left:
        np.testing.assert_array_equal(left[key], right[key], err_msg=key)


def _merge(parts):
    return {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}


def test_batch_contract(faces, emotions):
    batch = next(_train([faces, emotions]))
    assert {key: (value.dtype.name, value.shape) for key, value in batch.items()} == {
        "image": ("uint8", (4, SIZE, SIZE, 3)),
        "index": ("int64", (4,)),
        **{f"labels/{task}": ("int32", (4,)) for task in ("age", "gender", "emotion")},
        **{f"mask/{task}": ("bool", (4,)) for task in ("age", "gender", "emotion")},
    }


def test_examples_and_masks_follow_the_sampler(faces, emotions):
    datasets = [faces, emotions]
    rows = sampling.Natural(size=18, seed=7).epoch(0)
    seen = _merge(_take(_train(datasets, seed=7, batch_size=6), 3))
    np.testing.assert_array_equal(seen["index"], np.arange(18))
    for position, row in enumerate(rows):
        dataset, example = (faces, row) if row < 12 else (emotions, row - 12)
        expected = decode.decode(dataset[example], size=SIZE)
        np.testing.assert_array_equal(seen["image"][position], expected)
        for task in ("age", "gender", "emotion"):
            known = task in dataset.labels
            label = dataset.labels[task][example] if known else MISSING
            assert seen[f"labels/{task}"][position] == label
            assert seen[f"mask/{task}"][position] == known


@pytest.mark.parametrize("process_count", [2, 4])
def test_same_global_batches_on_any_number_of_processes(faces, emotions, process_count):
    whole = _take(_train([faces, emotions], seed=1), 12)
    processes = [
        _train([faces, emotions], seed=1, process_index=p, process_count=process_count)
        for p in range(process_count)
    ]
    for batch in whole:
        _assert_equal(batch, _merge([next(process) for process in processes]))


def test_resumes_from_every_position(faces, emotions):
    unbroken = _take(_train([faces, emotions], seed=2), 10)
    running = _train([faces, emotions], seed=2)
    for step in range(10):
        state = json.loads(json.dumps(running.get_state()))
        resumed = _train([faces, emotions], seed=2)
        resumed.set_state(state)
        for expected in unbroken[step:]:
            _assert_equal(next(resumed), expected)
        next(running)


def test_resumes_on_another_number_of_processes(faces, emotions):
    whole = _train([faces, emotions], seed=3)
    _take(whole, 5)
    state = whole.get_state()
    parts = [_train([faces, emotions], seed=3, process_index=p, process_count=2) for p in (0, 1)]
    for part in parts:
        part.set_state(state)
    for _ in range(4):
        _assert_equal(next(whole), _merge([next(part) for part in parts]))
    assert parts[1].get_state() == whole.get_state()


def test_going_back_repeats(faces):
    batches = _train([faces])
    state = batches.get_state()
    first = _take(batches, 3)
    batches.set_state(state)
    for expected in first:
        _assert_equal(next(batches), expected)


@pytest.mark.parametrize("options", [{"threads": 1}, {"threads": 5}, {"batches_ahead": 1}])
def test_threads_change_nothing(faces, emotions, options):
    other = _train([faces, emotions], seed=4, **options)
    for expected in _take(_train([faces, emotions], seed=4), 9):
        _assert_equal(next(other), expected)


def test_worker_processes_change_nothing(faces, emotions):
    workers = _train([faces, emotions], seed=4, workers=2)
    for expected in _take(_train([faces, emotions], seed=4), 5):
        _assert_equal(next(workers), expected)
    workers.close()


@pytest.mark.parametrize("change", [{"seed": 6}, {"batch_size": 8}, {"datasets": 1}])
def test_state_of_another_stream_is_refused(faces, emotions, change):
    state = _train([faces, emotions], seed=5).get_state()
    datasets = [faces, emotions][: change.pop("datasets", 2)]
    other = _train(datasets, **({"seed": 5} | change))
    with pytest.raises(UserError, match="another sample stream"):
        other.set_state(state)


@pytest.mark.parametrize("process_count", [1, 2, 4])
@pytest.mark.parametrize("batch_size", [4, 8, 32])
def test_evaluation_sees_every_example_once(faces, batch_size, process_count):
    passes = [
        pipeline.eval_batches(
            faces, image_size=SIZE, batch_size=batch_size, process_index=p, process_count=process_count
        )
        for p in range(process_count)
    ]
    assert {len(batches) for batches in passes} == {-(-12 // batch_size)}
    parts = [list(batches) for batches in passes]
    assert {len(part) for part in parts} == {-(-12 // batch_size)}
    seen = _merge([_merge(step) for step in zip(*parts, strict=True)])
    valid = seen["valid"]
    np.testing.assert_array_equal(seen["example"][valid], np.arange(12))
    np.testing.assert_array_equal(seen["labels/age"][valid], faces.labels["age"])
    assert valid.sum() == 12
    assert (seen["example"][~valid] == -1).all()
    assert not any(seen[f"mask/{task}"][~valid].any() for task in ("age", "gender", "emotion"))
    assert not seen["image"][~valid].any()


class _Broken:
    """A data set some of whose images are broken; slots in for a disk that lost bytes."""

    def __init__(self, dataset, broken):
        self._dataset, self._broken = dataset, broken

    def __getattr__(self, name):
        return getattr(self._dataset, name)

    def __len__(self):
        return len(self._dataset)

    def __getitem__(self, example):
        data = self._dataset[example]
        return data[: len(data) // 2] if example in self._broken else data


def test_broken_images_are_masked_and_listed(faces):
    broken = _Broken(faces, {2, 9})
    batches = _train([broken], seed=8, batch_size=12, max_rejected=0.2)
    rows = sampling.Natural(size=12, seed=8)
    for epoch in range(2):
        batch = next(batches)
        lost = np.isin(rows.epoch(epoch), (2, 9))
        for task in ("age", "gender"):
            np.testing.assert_array_equal(batch[f"mask/{task}"], ~lost)
            labels = faces.labels[task][rows.epoch(epoch)]
            np.testing.assert_array_equal(batch[f"labels/{task}"], np.where(lost, MISSING, labels))
        assert not batch["image"][lost].any()
        assert batch["image"][~lost].any(axis=(1, 2, 3)).all()
    assert sorted(r.id for r in batches.rejected) == ["faces/train:train/10.jpg", "faces/train:train/3.jpg"]
    assert all("truncated" in r.reason for r in batches.rejected)


def test_too_many_broken_images_stop_the_run(faces):
    batches = _train([_Broken(faces, {2, 9})], batch_size=12, max_rejected=0.1)
    with pytest.raises(UserError, match=r"expected at most 1 of 12.*train/3\.jpg"):
        next(batches)


def test_broken_images_in_evaluation(faces):
    batches = pipeline.eval_batches(_Broken(faces, {11}), image_size=SIZE, batch_size=8, max_rejected=0.1)
    last = list(batches)[-1]
    assert last["valid"].tolist() == [True] * 4 + [False] * 4
    assert last["mask/age"].tolist() == [True] * 3 + [False] * 5
    assert [r.id for r in batches.rejected] == ["faces/train:train/12.jpg"]


def test_batch_size_that_processes_cannot_share(faces):
    with pytest.raises(UserError, match="a multiple of 3 processes, found 4"):
        _train([faces], process_count=3)


def test_no_examples(faces):
    with pytest.raises(UserError, match="no examples"):
        _train([faces.take(np.array([], dtype=np.int64))])


class _First:
    """The first batches of a stream, as Grain's own test of checkpoints wants them."""

    def __init__(self, make, steps):
        self._make, self._steps = make, steps

    def __iter__(self):
        return _FirstIterator(self._make(), self._steps)


class _FirstIterator:
    def __init__(self, batches, steps):
        self._batches, self._steps = batches, steps
        self.get_state, self.set_state = batches.get_state, batches.set_state

    def __iter__(self):
        return self

    def __next__(self):
        if self.get_state()["step"] == self._steps:
            raise StopIteration
        return next(self._batches)


@pytest.mark.parametrize("name", ["natural", "thesis", "balanced"])
def test_grains_own_test_of_checkpoints(faces, emotions, name):
    from grain.experimental import assert_equal_output_after_checkpoint

    make = functools.partial(_train, [faces, emotions], seed=9, batch_size=6, sampler=sampling.make(name))
    assert_equal_output_after_checkpoint(_First(make, steps=8))
