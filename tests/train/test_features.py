import dataclasses
import json

import jax
import numpy as np
import pytest

from softbio_jax.data import pipeline, sources
from softbio_jax.errors import UserError
from softbio_jax.params import flatten
from softbio_jax.runs.session import Session
from softbio_jax.tasks import MISSING
from softbio_jax.train import loop
from softbio_jax.train.probing import features
from softbio_jax.train.probing import table as table_lib
from softbio_jax.train.probing.cached import CachedSession
from softbio_jax.train.probing.features import FeatureExtractor
from tests.recording import Recording
from tests.runs.tiny import changed, config_on, run_of

OFF = {
    "flip": 0.0,
    "brightness": 0.0,
    "contrast": 0.0,
    "saturation": 0.0,
    "degrees": 0.0,
    "translate": 0.0,
    "scale": (1.0, 1.0),
    "erase": 0.0,
}


class Killed(BaseException):
    """Ends a run where a signal would."""


def _lines(workdir):
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


def _leaves(workdir, step):
    return json.loads((workdir / f"checkpoints/{step}/manifest.json").read_text())["leaves"]


def _lp(data_root, **changes):
    return changed(config_on(data_root), method={"name": "lp"}, **changes)


@pytest.fixture(scope="module")
def runs(tmp_path_factory, data_root):
    """The same run with and without cached features, and a cached one killed and started again."""
    folder = tmp_path_factory.mktemp("cached")
    plain = _lp(data_root, augment=OFF)
    cached = changed(plain, train__cache_features=True, train__cache_dir=str(folder / "features"))
    summaries = {
        "plain": loop.train_and_evaluate(*run_of(plain), folder / "plain"),
        "cached": loop.train_and_evaluate(*run_of(cached), folder / "cached"),
    }
    with pytest.MonkeyPatch.context() as patch:
        push, pushed = CachedSession.push, []

        def bomb(session, batch):
            pushed.append(batch)
            if len(pushed) == 7:
                raise Killed
            return push(session, batch)

        patch.setattr(CachedSession, "push", bomb)
        with pytest.raises(Killed):
            loop.train_and_evaluate(*run_of(cached), folder / "broken")
    loop.train_and_evaluate(*run_of(cached), folder / "broken")
    return folder, summaries


def test_a_cached_run_has_the_metrics_of_the_uncached_one(runs):
    folder, _ = runs
    plain, cached = _lines(folder / "plain"), _lines(folder / "cached")
    assert [line.keys() for line in plain] == [line.keys() for line in cached]
    for ours, theirs in zip(cached, plain, strict=True):
        for name, value in theirs.items():
            assert ours[name] == pytest.approx(value, rel=1e-6, abs=1e-6), (name, ours["step"])


def test_a_cached_run_is_evaluated_as_the_uncached_one(runs):
    _, summaries = runs
    ours, theirs = (
        {
            path: value
            for path, value in flatten(summaries[name]["datasets"]).items()
            if isinstance(value, float) and "interval" not in path
        }
        for name in ("cached", "plain")
    )
    assert ours and ours == pytest.approx(theirs, rel=1e-5, abs=1e-6)


def test_averages_over_mirror_images_are_those_of_the_uncached_run(data_root, tmp_path):
    plain = _lp(data_root, augment=OFF, model__flip_average=True)
    run, data = run_of(changed(plain, train__cache_features=True))
    cached = CachedSession(run)
    cached.cache(data, tmp_path)
    uncached = Session(run_of(plain)[0])
    for dataset in data.val:
        assert dataset.fingerprint in cached.held
        found, wanted = (session.predict(dataset).logits for session in (cached, uncached))
        for task, logits in wanted.items():
            np.testing.assert_allclose(found[task], logits, atol=1e-5, err_msg=task)


def test_a_killed_cached_run_ends_in_the_same_bits(runs):
    folder, _ = runs
    assert _leaves(folder / "broken", 8) == _leaves(folder / "cached", 8)
    assert _lines(folder / "broken") == _lines(folder / "cached")


@pytest.fixture(scope="module")
def extraction(data_root):
    """A function that makes an extractor of a run, and its first data set."""

    def make(root, **changes):
        run, data = run_of(_lp(data_root, **changes))
        session = Session(run)
        extract = FeatureExtractor(run, session._frozen, base=session.base, mesh=session.mesh, root=root)
        return extract, data.train[0]

    return make


@pytest.fixture
def small_shards(monkeypatch):
    monkeypatch.setattr(features, "SHARD_ROWS", 8)


@pytest.mark.long
def test_an_interrupted_pass_keeps_its_whole_shards(extraction, small_shards, tmp_path):
    extract, dataset = extraction(tmp_path / "broken")
    seen = []

    def between():
        seen.append(0)
        if len(seen) == 3:
            raise Killed

    with pytest.raises(Killed):
        extract(dataset, views=1, name="train", console=Recording(between))
    console = Recording()
    resumed = extract(dataset, views=1, name="train", console=console)
    assert console.checks == 2  # 30 rows are 4 shards, of which two had been done
    whole = extraction(tmp_path / "whole")[0](dataset, views=1, name="train")
    np.testing.assert_array_equal(resumed.values, whole.values)
    assert not list(tmp_path.rglob("*.tmp"))


def test_a_damaged_shard_is_computed_again(extraction, small_shards, tmp_path):
    extract, dataset = extraction(tmp_path)
    before = extract(dataset, views=1, name="train")
    shards = sorted(tmp_path.rglob("*.safetensors"))
    damaged = bytearray(shards[1].read_bytes())
    damaged[-20] ^= 1
    shards[1].write_bytes(damaged)
    shards[2].write_bytes(shards[2].read_bytes()[:50])
    console = Recording()
    after = extract(dataset, views=1, name="train", console=console)
    assert console.checks == 2
    np.testing.assert_array_equal(after.values, before.values)


def test_the_first_view_is_the_picture_and_the_others_differ(extraction, tmp_path):
    extract, dataset = extraction(tmp_path / "a")
    found = extract(dataset, views=3, name="train").values
    clean = extraction(tmp_path / "b", augment=OFF)[0](dataset, views=2, name="train").values
    np.testing.assert_array_equal(found[0], clean[0])
    np.testing.assert_allclose(clean[1], clean[0], rtol=1e-5, atol=1e-6)
    distances = np.abs(found[:, None] - found[None]).mean(axis=(2, 3))
    assert (distances[~np.eye(3, dtype=bool)] > 1e-3).all()


@pytest.mark.long
def test_views_do_not_depend_on_the_batch(extraction, tmp_path):
    extract, dataset = extraction(tmp_path / "a")
    other, _ = extraction(tmp_path / "b", train__eval_batch_size=8)
    ours, theirs = (e(dataset, views=2, name="train").values for e in (extract, other))
    np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("changes", "same"),
    [
        ({"seed": 4}, [False, False]),  # other weights, as none are pretrained
        ({"augment": {"flip": 0.1}}, [True, False]),
        ({"model__image_size": 64}, [False, False]),
        ({"train__steps": 9, "train__batch_size": 8}, [True, True]),
    ],
)
def test_a_store_is_named_after_what_its_features_follow_from(extraction, tmp_path, changes, same):
    (ours, dataset), (theirs, _) = extraction(tmp_path), extraction(tmp_path, **changes)
    folders = [[e._store(dataset, view).folder for view in (0, 1)] for e in (ours, theirs)]
    assert [a == b for a, b in zip(*folders, strict=True)] == same


def test_a_broken_picture_keeps_its_row_and_loses_its_labels(extraction, small_shards, tmp_path, monkeypatch):
    extract, dataset = extraction(tmp_path)
    read, broken = sources.PreparedDataset.__getitem__, dataset.records[9]
    monkeypatch.setattr(
        sources.PreparedDataset,
        "__getitem__",
        lambda self, i: b"no picture" if self.records[i] == broken else read(self, i),
    )
    with pytest.raises(UserError, match=r"too many images.*found 1"):
        extract(dataset, views=1, name="train")
    monkeypatch.setattr(pipeline, "MAX_REJECTED", 0.1)
    found = extract(dataset, views=1, name="train")  # from the shards
    assert np.flatnonzero(~found.decoded).tolist() == [9]
    labels = table_lib.labels_of(dataset, found, "gender")
    assert labels[9] == MISSING and (np.delete(labels, 9) >= 0).all()


def test_positions_draw_their_view(data_root):
    features = np.arange(3, dtype=np.float32)[:, None, None] + np.zeros((3, 5, 2), np.float32)
    table = {"feature": features, "labels/age": np.array([0, 1, MISSING, 3, 4], np.int32)}
    rows, index = np.tile(np.arange(5), 60), np.arange(300)
    batch = table_lib.gather(
        jax.tree.map(jax.numpy.asarray, table), rows, index, jax.random.key(0), tasks=["age"]
    )
    counts = np.bincount(np.asarray(batch["feature"][:, 0], int), minlength=3)
    assert (counts > 70).all() and counts.sum() == 300
    np.testing.assert_array_equal(batch["mask/age"], np.asarray(rows) != 2)
    shifted = table_lib.gather(
        jax.tree.map(jax.numpy.asarray, table), rows[9:], index[9:], jax.random.key(0), tasks=["age"]
    )
    np.testing.assert_array_equal(shifted["feature"], batch["feature"][9:])


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"method": {"name": "ap"}}, "ap, which trains pooling"),
        ({"method": {"name": "ft", "blocks": 1}}, "ft1, which trains blocks, pooling"),
        ({"train__cache_views": 0}, "train.cache_views"),
    ],
)
def test_what_cannot_be_cached_is_told_in_a_line(data_root, tmp_path, changes, told):
    config = _lp(data_root, train__cache_features=True, optimizer__rates__blocks=1e-3)
    with pytest.raises(UserError, match=told) as error:
        loop.train_and_evaluate(*run_of(changed(config, **changes)), tmp_path)
    assert "\n" not in str(error.value)


def test_a_folder_that_cannot_be_written_is_told(extraction, tmp_path):
    (tmp_path / "file").write_text("")
    extract, dataset = extraction(tmp_path / "file")
    with pytest.raises(UserError, match=r"features cannot be written.*train\.cache_dir"):
        extract(dataclasses.replace(dataset), views=1, name="train")
