"""Runs on partial labels: what reaches the step, on one device and on eight, and the complete way."""

import dataclasses
import json

import jax
import numpy as np
import pytest

from softbio_jax.data import sampling
from softbio_jax.errors import UserError
from softbio_jax.evaluation.report.runs import load_all
from softbio_jax.evaluation.report.write import write
from softbio_jax.runs import build, parallel
from softbio_jax.runs import data as data_lib
from softbio_jax.runs.session import train_step
from softbio_jax.tasks import AGE, AGE_SPANS
from softbio_jax.train import loop
from softbio_jax.train.probing import table as tables
from softbio_jax.train.probing.features import Features
from tests.runs import mixed
from tests.runs.tiny import changed, run_of

PARTIAL = {"partial": ("age", "emotion")}


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return mixed.prepare_mixed(tmp_path_factory.mktemp("mixed"))


def first_batch(config, size=128):
    _, data = run_of(config)
    with_size = changed(config, train__batch_size=size)
    return next(data_lib.train_batches(build.build(with_size).config, data, image_size=32)), data


def test_hard_labels_reach_the_step_as_ever(root):
    batch, data = first_batch(mixed.config_of(root), size=64)
    assert set(batch) == {"image", "index"} | {
        f"{kind}/{task}" for kind in ("labels", "mask") for task in ("age", "gender", "emotion")
    }
    assert all(not dataset.targets for dataset in data.train)


def test_every_source_keeps_what_it_says(root):
    batch, data = first_batch(mixed.config_of(root, **PARTIAL))
    stream = sampling.Stream(sampling.make("natural")(data.train, 3))
    rows = stream[batch["index"]]
    starts = np.cumsum([0, *map(len, data.train)])
    seen = set()
    for place, row in enumerate(rows):
        dataset = data.train[which := int(np.searchsorted(starts, row, side="right")) - 1]
        example, weights = row - starts[which], batch["target/age"][place]
        allowed = np.flatnonzero(weights)
        if dataset.name == "utkface":
            assert allowed.tolist() == [int(dataset.columns["years"][example])]
        elif dataset.name == "fairface":
            assert allowed.tolist() == list(range(*AGE_SPANS[dataset.labels["age"][example]]))
        elif dataset.name == "rafdb":
            first, *last = dataset.columns["age_group"][example].rstrip("+").split("-")
            assert allowed.tolist() == list(range(int(first), int(last[0]) + 1 if last else 101))
            assert batch["labels/age"][place] == -1 and batch["mask/emotion"][place]
        else:
            votes = np.array(dataset.columns["votes_emotion"][example].split(), float)
            np.testing.assert_allclose(batch["votes/emotion"][place], votes / votes.sum(), rtol=1e-6)
            assert not batch["mask/age"][place]
        assert batch["mask/age"][place] == (dataset.name != "ferplus")
        seen.add(dataset.name)
    assert len(seen) == 4


def test_cached_rows_have_the_same_targets(root):
    config = mixed.config_of(root, **PARTIAL)
    batch, data = first_batch(config)
    mesh = parallel.make_mesh(fsdp=1, devices=jax.devices()[:1])

    def parts(decoded):
        return [
            (one, Features(values=np.zeros((1, len(one), 4), np.float32), decoded=np.full(len(one), decoded)))
            for one in data.train
        ]

    table = tables.training_table(parts(True), config["tasks"], mesh)
    rows = sampling.Stream(sampling.make("natural")(data.train, 3))[batch["index"]]
    found = tables.gather(table, rows, batch["index"], jax.random.key(0), tasks=config["tasks"])
    assert set(found) == set(batch) - {"image", "index"} | {"feature"}
    for name in set(found) - {"feature"}:
        np.testing.assert_array_equal(found[name], batch[name], err_msg=name)
    table = tables.training_table(parts(False), config["tasks"], mesh)
    found = tables.gather(table, rows, batch["index"], jax.random.key(0), tasks=config["tasks"])
    assert not any(np.asarray(found[f"mask/{task}"]).any() for task in config["tasks"])


@pytest.mark.parametrize("age", ["years", pytest.param("classes", marks=pytest.mark.long)])
def test_eight_devices_are_one(root, age):
    """Half of the devices hold no label of a task."""
    labels = PARTIAL | {"noise": {"fairface": {"gender": 0.2}}, "smoothing": 0.1}
    config = changed(mixed.config_of(root, **labels), model__head__age=age, model__head__dropout=0.0)
    batch, _ = first_batch(config, size=32)
    for task in config["tasks"]:
        batch[f"mask/{task}"] = batch[f"mask/{task}"] & (np.arange(32) < 16)
    run, found = build.build(config), []
    step = train_step(run)
    batch["feature"] = np.random.default_rng(0).standard_normal((32, run.model.config.width), np.float32)
    del batch["image"]  # the encoder's part is tests/distributed/test_exactness.py
    for devices in (1, 8):
        mesh = parallel.make_mesh(fsdp=1, devices=jax.devices()[:devices])
        state, frozen = build.start(run, mesh)
        placed, key = parallel.to_global(batch, mesh), jax.random.key(0)
        with jax.set_mesh(mesh):
            jitted, metrics = jax.jit(step), []
            for _ in range(2):
                state, out = jitted(state, frozen, placed, key)
                metrics.append(jax.device_get(out))
        found.append(metrics)
    for one, eight in zip(*found, strict=True):
        for name in one:
            np.testing.assert_allclose(one[name], eight[name], rtol=2e-5, atol=1e-6, err_msg=name)
    assert found[0][0]["count/age"] > 0


def test_a_balanced_sampler_weighs_partial_labels_by_their_expectation(root):
    _, data = first_batch(mixed.config_of(root, **PARTIAL))
    expected = sampling.expected_classes(data.train, ("age",))["age"]
    labels = np.concatenate([one.labels.get("age", np.full(len(one), -1)) for one in data.train])
    full = labels >= 0
    np.testing.assert_array_equal(expected[full], np.eye(9)[labels[full]])
    shares = np.bincount(labels[full], minlength=9)
    rafdb = data.train[2]
    offset = sum(map(len, data.train[:2]))
    row = rafdb.columns["age_group"].tolist().index("20-39")
    wanted = np.zeros(9)
    wanted[[3, 4]] = shares[[3, 4]] + [0, 0]
    # RAF-DB's 70+ is a full label too, of another class.
    np.testing.assert_allclose(expected[offset + row], wanted / wanted.sum())
    p = sampling.make("balanced")(data.train, 0).probabilities
    drawn = (p[:, None] * expected).sum(axis=0)
    by_hand = np.zeros(len(p))
    for task in ("age", "gender", "emotion"):
        if task == "gender":
            gender = np.concatenate([one.labels.get("gender", np.full(len(one), -1)) for one in data.train])
            q = (gender[:, None] == np.arange(2)).astype(float)
        else:
            q = sampling.expected_classes(data.train, (task,))[task]
        n = q.sum(axis=0)
        by_hand += (q[:, n > 0] / n[n > 0]).sum(axis=1) / (n > 0).sum()
    np.testing.assert_allclose(p, by_hand / by_hand.sum())
    assert drawn.max() > 0


@pytest.mark.parametrize(
    ("labels", "says"),
    [
        ({"partial": ("years",)}, r"data\.labels\.partial: expected one of age.*'years'"),
        ({"noise": {"imdb": {"age": 0.1}}}, r"data\.labels\.noise: expected one of utkface.*'imdb'"),
        ({"noise": {"rafdb": {"mood": 0.1}}}, r"data\.labels\.noise\.rafdb.*'mood'"),
        ({"noise": {"rafdb": {"age": 1.5}}}, r"data\.labels\.noise\.rafdb\.age: expected a rate"),
        ({"noise": {"rafdb": {"gender": ((1.0, 0.0), (0.5, 0.4))}}}, r"noise\.rafdb\.gender: expected"),
        ({"partial": ("emotion",), "noise": {"rafdb": {"emotion": 0.1}}}, "votes and noise for one task"),
        (
            {"noise": {"utkface": {"emotion": 0.1}}},
            r"noise\.utkface\.emotion: expected labels of .* found none",
        ),
        (
            {"noise": {"rafdb": {"gender": 0.5}}},
            r"leaves nothing of the labels: .*rafdb\.gender.* found 0\.5",
        ),
        ({"noise": {"rafdb": 0.1}}, r"data\.labels\.noise\.rafdb: expected a mapping, found 0\.1"),
        ({"smoothing": 1.0}, r"data\.labels\.smoothing"),
    ],
)
def test_what_is_no_configuration_of_labels(root, labels, says):
    with pytest.raises(UserError, match=says):
        run_of(mixed.config_of(root, **labels))


def test_ranges_inside_the_classes_of_the_head_are_not_partial(root):
    config = changed(mixed.config_of(root, partial=("age",)), data__train=("utkface/train",))
    config |= {"tasks": ("age", "gender")}
    says = r"no partial label of age: .*, utkface/train:train/\d+_.*found one class, .*head\.age=years"
    for age in ("classes", "ordinal", "years"):
        _, data = run_of(changed(config, model__head__age=age, data__test=()))
        arguments = {
            "tasks": ("age", "gender"),
            "batch_size": 8,
            "partial": ("age",),
            "years": age == "years",
        }
        if age == "years":
            data_lib.check(data, **arguments)
            continue
        with pytest.raises(UserError, match=says):
            data_lib.check(data, **arguments)


@pytest.mark.parametrize("labels", [{"partial": ("emotion",)}, {"noise": {"rafdb": {"emotion": 0.1}}}])
def test_labels_of_a_task_that_is_not_trained_are_refused(root, labels):
    config = mixed.config_of(root, **labels) | {"tasks": ("age", "gender")}
    with pytest.raises(
        UserError, match=r"not trained: data\.labels\.\S+: expected one of age, gender, found emo"
    ):
        run_of(config)


def test_noise_of_rate_zero_is_no_partial_label_that_is_missing(root):
    config = changed(mixed.config_of(root, noise={"rafdb": {"gender": 0.0}}), data__test=())
    run, data = run_of(config)
    partial = run.config.data.labels.partial
    data_lib.check(data, tasks=("age", "gender"), batch_size=8, partial=partial)
    plain, _ = first_batch(mixed.config_of(root), size=64)
    noisy, _ = first_batch(config, size=64)
    wanted = np.eye(2)[plain["labels/gender"]][plain["mask/gender"]]
    np.testing.assert_array_equal(noisy["target/gender"][plain["mask/gender"]], wanted)


def test_partial_labels_of_data_without_a_label_are_refused(root):
    config = changed(mixed.config_of(root, partial=("emotion",)), data__train=("rafdb/train",), data__test=())
    _, data = run_of(config)
    nothing = data.train[0].targets["emotion"].masked(np.zeros(len(data.train[0]), bool))
    data.train[0] = dataclasses.replace(data.train[0], targets={"emotion": nothing})
    with pytest.raises(
        UserError, match=r"no partial label of emotion: data\.labels\.partial: .*found no label"
    ):
        data_lib.check(data, tasks=("gender",), batch_size=8, partial=("emotion",), taught=True)


def test_a_bad_range_names_its_row(root):
    _, data = run_of(mixed.config_of(root))
    rafdb = data.train[2]
    rafdb.columns["age_group"][1] = "39-20"
    with pytest.raises(UserError, match=rf"a reversed age range: rafdb/train:{rafdb.columns['id'][1]}"):
        data_lib.with_partial_labels(
            data.train, build.build(mixed.config_of(root, **PARTIAL)).config.data.labels
        )


@pytest.mark.long
def test_mixed_sources_end_to_end(root, tmp_path):
    config = changed(mixed.config_of(root, **PARTIAL), model__head__age="years")
    run, data = run_of(config)
    loop.train_and_evaluate(run, data, tmp_path / "run")
    about = json.loads((tmp_path / "run" / "run.json").read_text())
    labels = about["labels"]
    ranges = [one for one in data.train[2].columns["age_group"] if one != "70+"]
    assert labels["age"]["partial"] == len(ranges)
    assert labels["age"]["full"] == sum(map(len, data.train[:3])) - len(ranges)
    assert labels["age"]["none"] == len(data.train[3])
    assert labels["emotion"]["partial"] > 0
    assert all(about["training_images"]["age"].values())
    (results,) = load_all([tmp_path / "run"])
    assert "age" in results.summary["datasets"]["utkface"]
    assert results.summary["datasets"]["utkface"]["age"]["n"] == 40
    assert "expected_years" in results.predictions["utkface"].audit
    write([results], tmp_path / "report")
    report = json.loads((tmp_path / "report" / "report.json").read_text())
    by_title = {table["title"]: table for table in report["tables"]}
    assert [tuple(row[1:]) for row in by_title["Labels of the training rows"]["rows"]] == [
        (task, *map(str, counts.values())) for task, counts in labels.items()
    ]
    for title in ("Expected age against true years", "Against the votes of annotators"):
        assert by_title[title]["rows"]
    minors = by_title["People below an age who are predicted to have reached it"]["rows"]
    assert {row[1] for row in minors} == {"utkface", "fairface", "rafdb"}
    ((_, name, count, *_),) = by_title["Expected age against labelled ranges"]["rows"]
    assert (name, count) == ("rafdb", str(sum(group != "" for group in data.test[2].columns["age_group"])))
    assert "age" not in results.summary["datasets"]["rafdb"]  # no class is known
    assert "not an age gate" in (tmp_path / "report" / "report.html").read_text()
    assert AGE.name in results.summary["averages"]
