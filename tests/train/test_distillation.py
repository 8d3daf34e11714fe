"""A tiny teacher, its students, and what they share with runs without one."""

import dataclasses
import json
import os
import re
import subprocess
import sys

import jax
import numpy as np
import pytest

import softbio_jax
from softbio_jax.data import sources
from softbio_jax.data.prepare import prepare
from softbio_jax.errors import UserError
from softbio_jax.params import combine, flatten
from softbio_jax.runs import build, directory
from softbio_jax.runs import data as data_lib
from softbio_jax.runs.config import config_from
from softbio_jax.runs.session import Session, train_step
from softbio_jax.runs.step import StepConfig
from softbio_jax.runs.teacher import with_cached_teacher
from softbio_jax.tasks import TASKS
from softbio_jax.train import loop
from softbio_jax.train.distillation import targets
from softbio_jax.train.distillation import teacher as teachers
from tests.data.trees import write_image
from tests.runs.taught import random_teacher, taught
from tests.runs.tiny import changed, config_on, run_of
from tests.structure import ROOT
from tests.train.test_features import OFF

FULL = {
    "method": {"name": "full"},
    "optimizer__rates": {"pooling": 1e-3, "blocks": 1e-3, "heads": 1e-2, "log_var": 1e-2},
}


class Killed(BaseException):
    """Ends a run where a signal would."""


@pytest.fixture(scope="module")
def teacher(tmp_path_factory, data_root):
    """A trained run whose images are larger than its students'."""
    workdir = tmp_path_factory.mktemp("teacher") / "large"
    config = changed(config_on(data_root), model__image_size=48, train__steps=4, seed=11, data__test=())
    loop.train_and_evaluate(*run_of(config), workdir)
    return workdir


@pytest.fixture
def student(data_root, teacher):
    distill = {"teacher": str(teacher), "feature": "cosine"}
    return changed(config_on(data_root), distill=distill, data__test=(), **FULL)


def _leaves(workdir, step):
    return json.loads((workdir / f"checkpoints/{step}/manifest.json").read_text())["leaves"]


def _lines(workdir, prefix="train/"):
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    return [line for line in lines if any(name.startswith(prefix) for name in line)]


def _killed_in_step_7(config, workdir, monkeypatch):
    train = Session.train

    def bomb(session, batch):
        if int(session.state.step) == 6:
            raise Killed
        return train(session, batch)

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(Session, "train", bomb)
        loop.train_and_evaluate(*run_of(config), workdir)


CACHED = {"distill__targets": "cached", "train__cache_views": 3, "method": {"name": "lp"}}


@pytest.mark.long
@pytest.mark.parametrize("changes", [{}, CACHED], ids=["live", "cached"])
def test_a_student_resumes_in_the_same_bits(student, changes, tmp_path, monkeypatch):
    student = changed(student, train__cache_dir=str(tmp_path / "targets"), **changes)
    loop.train_and_evaluate(*run_of(student), tmp_path / "whole")
    _killed_in_step_7(student, tmp_path / "broken", monkeypatch)
    with monkeypatch.context() as patch:  # what was cached is read
        patch.setattr(targets.ViewExtractor, "_compute", lambda *_: pytest.fail("computed again"))
        loop.train_and_evaluate(*run_of(student), tmp_path / "broken")
    assert _leaves(tmp_path / "broken", 8) == _leaves(tmp_path / "whole", 8)
    assert (tmp_path / "broken/metrics.jsonl").read_text() == (tmp_path / "whole/metrics.jsonl").read_text()
    line = _lines(tmp_path / "whole")[-1]
    assert {"train/teacher/age", "train/labels/age", "train/agreement/age", "train/teacher/feature"} <= set(
        line
    )
    # The projection belongs to the loss, and is no part of the model.
    saved = _leaves(tmp_path / "whole", 8)
    assert "trainable/distill/projection/kernel" in saved
    model = softbio_jax.load(tmp_path / "whole").bundle
    assert not any("distill" in path for path in flatten(model.variables))


@pytest.mark.long
def test_one_plain_view_is_cached_as_it_is_computed_live(student, tmp_path):
    """The teacher reads 48 pixels and the student 32, of the same views."""
    student = changed(student, augment=OFF, train__log_every=1, train__steps=4, data__val_fraction=0.0)
    for kind in ("live", "cached"):
        loop.train_and_evaluate(*run_of(changed(student, distill__targets=kind)), tmp_path / kind)
    live, cached = _lines(tmp_path / "live"), _lines(tmp_path / "cached")
    assert len(live) == len(cached) == 4
    for ours, theirs in zip(cached, live, strict=True):
        assert ours.keys() == theirs.keys()
        for name, value in theirs.items():
            assert ours[name] == pytest.approx(value, rel=2e-5, abs=2e-6), (name, ours["step"])


def test_a_cached_view_is_the_one_that_the_student_sees(data_root, tmp_path):
    """The teacher's outputs for the image that the step gets are those that were cached."""
    teacher = random_teacher(data_root)
    run = taught(changed(config_on(data_root), train__cache_views=4, distill={"targets": "cached"}), teacher)
    data, session = data_lib.open_all(run.config.data), targets.TargetSession(run, devices=jax.devices()[:1])
    session.cache(data, tmp_path)
    settings = StepConfig(augment=run.config.augment, balancing=run.config.balancing)
    mean = run.model.config.mean

    def seen(state, frozen, batch, key):
        return run.teacher.answers(teacher.variables, batch["image"])

    step = jax.jit(with_cached_teacher(seen, settings, seed=run.config.seed, image_size=48, mean=mean))
    batches, views = session.batches(data), []
    for _ in range(3):
        batch = next(batches)
        cached = session.targets(batch["index"])
        views.append(cached["teacher/view"])
        for name, values in step(None, None, batch | cached, None).items():
            np.testing.assert_allclose(cached[f"teacher/{name}"], values, rtol=1e-4, atol=1e-5)
    batches.close()
    assert set(np.concatenate(views)) == {0, 1, 2, 3}


def test_images_without_labels_are_learned_from(data_root):
    teacher = random_teacher(data_root, feature=True)
    run = taught(changed(config_on(data_root), augment=OFF, **FULL, optimizer__warmup_steps=0), teacher)
    session = Session(run, devices=jax.devices()[:1])
    session.compile()
    batch = {
        "image": np.random.default_rng(0).integers(1, 256, (16, 48, 48, 3), np.uint8),
        "index": np.arange(16),
    }
    for task in run.config.tasks:
        batch |= {f"mask/{task}": np.zeros(16, bool), f"labels/{task}": np.full(16, -1, np.int32)}
    metrics = [jax.device_get(session.train(batch)) for _ in range(6)]
    for task in run.config.tasks:
        assert metrics[-1][f"teacher/{task}"] < 0.8 * metrics[0][f"teacher/{task}"]
        assert metrics[0][f"count/{task}"] == 0 and metrics[0][f"labels/{task}"] == 0
    assert metrics[-1]["teacher/feature"] < metrics[0]["teacher/feature"]
    # Black images, as undecodable ones are loaded, teach nothing.
    before = jax.tree.map(np.array, session.state.trainable)
    blank = jax.device_get(session.train(batch | {"image": np.zeros_like(batch["image"])}))
    assert blank["loss/total"] == 0
    for part in ("heads", "balance"):
        jax.tree.map(np.testing.assert_array_equal, before[part], session.state.trainable[part])


def test_a_student_of_the_first_blocks_has_their_pretrained_weights(data_root):
    file = str(ROOT / "assets" / "tiny_demo.safetensors")
    model = {"variant": "tiny-demo", "pretrained": file, "head": {"kind": "linear"}}

    def params(**changes):
        run = build.build(changed(config_on(data_root), model=model | changes))
        state, frozen = build.start(run)
        return run.model.config, flatten(combine(state.trainable, frozen))

    (whole, all_blocks), (cut, first) = params(), params(blocks=2)
    assert (whole.layers, cut.layers, cut.published) == (6, 2, "tiny-demo") and cut.name != whole.name
    assert first.keys() == all_blocks.keys()
    for path, leaf in first.items():
        expected = all_blocks[path]
        if path.startswith("encoder/trunk/"):
            expected = expected[:2]
        if "lora" not in path and not path.startswith("heads/"):
            np.testing.assert_array_equal(leaf, expected, err_msg=path)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"model__blocks": 4}, "more blocks than the variant has: model.blocks: expected at most the 3"),
        ({"distill__teacher": "nowhere/large/model"}, "no such model"),
        ({"train__cache_features": True, "method": {"name": "lp"}}, "set distill.targets=cached"),
        ({"distill__digest": "123456789abc"}, "another teacher"),
        ({"distill__temperature": 0.0}, "distill.temperature: expected a number above 0"),
    ],
)
def test_mistakes_are_one_line(student, tmp_path, changes, words):
    with pytest.raises(UserError, match=re.escape(words)) as error:
        loop.train_and_evaluate(*run_of(changed(student, **changes)), tmp_path)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("classes", [None, ("one", "two")], ids=["absent", "others"])
def test_the_teacher_needs_the_tasks_with_the_same_classes(student, teacher, classes):
    found = teachers.opened(teacher)
    tasks = [task for task in found.tasks if task.name != "gender"]
    tasks += [dataclasses.replace(TASKS["gender"], classes=classes)] if classes else []
    other = dataclasses.replace(found, model=found.model.clone(tasks=tuple(tasks)))
    with pytest.raises(UserError, match="other classes: .*gender" if classes else "does not have this task"):
        teachers.load(config_from(student), other)


def test_another_teacher_is_refused_at_a_resumed_run(student, teacher, data_root, tmp_path):
    config, _ = teachers.load(config_from(student))
    run, data = build.build(config), data_lib.open_all(config.data)
    directory.write_start(run, data, tmp_path, audits=data_lib.audit_hashes(data))
    other = dataclasses.replace(config, distill=dataclasses.replace(config.distill, digest="123456789abc"))
    with pytest.raises(UserError, match=r"distill\.digest was"):
        directory.check_workdir(other, tmp_path)
    moved = dataclasses.replace(config, distill=dataclasses.replace(config.distill, teacher="moved"))
    directory.check_workdir(moved, tmp_path)


def test_a_teacher_that_was_not_read_is_a_mistake(student):
    with pytest.raises(UserError, match="the teacher was not read"):
        train_step(build.build(student))


def test_classes_that_the_teacher_was_trained_on_are_known(data_root):
    config = config_from(config_on(data_root))
    data, teacher = data_lib.open_all(config.data), random_teacher(data_root)
    own = data_lib.training_images(config, data)
    lacking = next((task, name) for task in own for name, count in own[task].items() if count == 0)
    known = {task: dict.fromkeys(classes, 5) for task, classes in own.items() if task != "gender"}
    found = data_lib.training_images(config, data, dataclasses.replace(teacher, training_images=known))
    assert found[lacking[0]][lacking[1]] == 5 and "gender" not in found
    assert all(found[task][name] >= count for task in found for name, count in own[task].items())


def test_the_chain_in_miniature(teacher, data_root, tmp_path):
    """Unlabelled images, a student by the command, its saved folder, a folder that runs without JAX."""
    pytest.importorskip("onnxruntime", reason="the extra onnx")
    for number in range(12):
        write_image(tmp_path / "photos" / f"{number}.jpg", number)
    prepare.prepare("images", source=str(tmp_path / "photos"), out=data_root / "photos")
    plain = sources.open_prepared(data_root / "photos", "train")
    assert plain.labels == {} and len(plain) == 12
    words = {
        "teacher": teacher,
        "config": "configs/finetune.py:method=full,steps=4,batch_size=16",
        "student": "tiny-test",
        "data": "synthetic_fairface/train,photos/train",
        "test": "synthetic_utkface/test",
        "workdir": tmp_path / "small",
        "config.data.root": data_root,
        "config.model.blocks": 2,
        "config.distill.weight": 0.9,
        "export": tmp_path / "robot",
        "format": "onnx",
    }
    command = [
        sys.executable,
        "-m",
        "softbio_jax",
        "distill",
        *(f"--{key}={value}" for key, value in words.items()),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stderr
    assert "teacher" in done.stdout and "tiny-test-first2" in json.dumps(
        json.loads((tmp_path / "small/eval/metrics.json").read_text())["model"]
    )
    listed = json.loads((tmp_path / "small/run.json").read_text())["data"]
    assert listed["train/photos/train"]["n"] == 12 and "val/photos/train" not in listed
    model = softbio_jax.load(tmp_path / "small")
    model.save(tmp_path / "saved")
    image = str(tmp_path / "photos" / "3.jpg")
    ours, theirs = (m.predict(image)[0].probabilities for m in (model, softbio_jax.load(tmp_path / "saved")))
    assert ours == theirs and set(ours) == {"age", "gender", "emotion"}
    config = json.loads((tmp_path / "robot" / "config.json").read_text())
    measured = config["quantisation"]["calibration"]["sources"]
    assert measured == ["synthetic_fairface/train", "photos/train"]
    alone = os.environ | {"PYTHONPATH": str(tmp_path / "blocked")}
    for name in ("jax", "softbio_jax"):
        (tmp_path / "blocked" / name).mkdir(parents=True)
        (tmp_path / "blocked" / name / "__init__.py").write_text("raise ImportError('blocked')")
    run = [sys.executable, tmp_path / "robot" / "run.py", image]
    answer = subprocess.run(run, env=alone, capture_output=True, text=True, timeout=60, check=False)
    assert answer.returncode == 0, answer.stderr
    assert all(task in answer.stdout for task in ours)
    # The folder is not written over, and nothing is trained before this is said.
    again = subprocess.run(command, capture_output=True, text=True, timeout=300, cwd=ROOT, check=False)
    assert again.returncode == 1 and "the destination exists: --export=" in again.stderr
    assert "step" not in again.stdout


def test_labels_may_be_missing_where_there_is_a_teacher(data_root):
    data = data_lib.open_all(config_from(config_on(data_root)).data)

    def without(sets, *tasks):
        keep = [{t: v for t, v in item.labels.items() if t not in tasks} for item in sets]
        return [dataclasses.replace(item, labels=labels) for item, labels in zip(sets, keep, strict=True)]

    less = dataclasses.replace(data, train=without(data.train, "emotion"))
    with pytest.raises(UserError, match="no training labels for emotion"):
        data_lib.check(less, tasks=tuple(TASKS), batch_size=16)
    data_lib.check(less, tasks=tuple(TASKS), batch_size=16, taught=True)
    none = dataclasses.replace(data, train=without(data.train, *TASKS), val=without(data.val, *TASKS))
    with pytest.raises(UserError, match="no validation labels"):
        data_lib.check(none, tasks=tuple(TASKS), batch_size=16, taught=True)
    data_lib.check(dataclasses.replace(none, val=[]), tasks=tuple(TASKS), batch_size=16, taught=True)
