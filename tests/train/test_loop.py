import json
import os
import re
import shutil
import types

import jax
import numpy as np
import optax
import pytest
from etils import epath

from softbio_jax import console
from softbio_jax.data import index
from softbio_jax.errors import UserError
from softbio_jax.evaluation import evaluate
from softbio_jax.params import flatten
from softbio_jax.runs import optimizer, restore
from softbio_jax.runs.session import Session
from softbio_jax.safety import locks
from softbio_jax.train import loop
from softbio_jax.train.preemption import Preemption
from tests.runs.tiny import changed, config_on, run_of


class Killed(BaseException):
    """Ends a run where a signal would."""


def _text(workdir, name):
    return (workdir / name).read_text()


def _leaves(workdir, step):
    return json.loads(_text(workdir, f"checkpoints/{step}/manifest.json"))["leaves"]


def _content(folder):
    """Every file of a folder and what is in it."""
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def module_patch():
    with pytest.MonkeyPatch.context() as patch:
        yield patch


@pytest.fixture(scope="module")
def runs(tmp_path_factory, data_root, module_patch):
    """An unbroken run, and one that ended in step 7 and was started again."""
    config = config_on(data_root)
    index.store_verdict(data_root / "synthetic_fairface", {"sha256": "5eed"})
    whole, broken = (tmp_path_factory.mktemp(name) for name in ("whole", "broken"))
    compiled = []
    jax.monitoring.register_event_duration_secs_listener(
        lambda event, seconds, **_: (
            compiled.append(event) if event == "/jax/core/compile/backend_compile_duration" else None
        )
    )
    counts, train = [], Session.train

    def counted(session, batch):
        before = len(compiled)
        metrics = train(session, batch)
        counts.append(len(compiled) - before)
        return metrics

    module_patch.setattr(Session, "train", counted)
    summary = loop.train_and_evaluate(*run_of(config), whole)

    def bomb(session, batch):
        if int(session.state.step) == 6:
            raise Killed
        return train(session, batch)

    module_patch.setattr(Session, "train", bomb)
    with pytest.raises(Killed):
        loop.train_and_evaluate(*run_of(config), broken)
    module_patch.setattr(Session, "train", train)
    loop.train_and_evaluate(*run_of(config), broken)
    return {"config": config, "whole": whole, "broken": broken, "summary": summary, "compilations": counts}


@pytest.mark.parametrize("name", ["metrics.jsonl", "eval/metrics.json"])
def test_a_resumed_run_writes_what_an_unbroken_one_writes(runs, name):
    assert _text(runs["broken"], name) == _text(runs["whole"], name)


def test_a_resumed_run_ends_in_the_same_bits(runs):
    assert _leaves(runs["broken"], 8) == _leaves(runs["whole"], 8)


@pytest.mark.parametrize(
    "change",
    [
        {"optimizer__name": "sgd", "optimizer__schedule": "inverse_sqrt", "optimizer__ema_decay": 0.9},
        {"optimizer__name": "adafactor", "optimizer__schedule": "polynomial"},
        {"optimizer__schedule": "plateau", "train__plateau_patience": 1, "train__eval_every": 2},
    ],
    ids=["average", "adafactor", "plateau"],
)
@pytest.mark.long
def test_other_optimizers_resume_exactly(config, tmp_path, monkeypatch, change):
    """With their rates in the metrics, and a validation of the average where there is one."""
    config, train = changed(config, train__log_every=1, **change), Session.train
    loop.train_and_evaluate(*run_of(config), tmp_path / "whole")

    def bomb(session, batch):
        if int(session.state.step) == 6:
            raise Killed
        return train(session, batch)

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(Session, "train", bomb)
        loop.train_and_evaluate(*run_of(config), tmp_path / "broken")
    loop.train_and_evaluate(*run_of(config), tmp_path / "broken")
    assert _leaves(tmp_path / "broken", 8) == _leaves(tmp_path / "whole", 8)
    for name in ("metrics.jsonl", "eval/metrics.json"):
        assert _text(tmp_path / "broken", name) == _text(tmp_path / "whole", name)
    assert "train/rate/heads" in _lines(tmp_path / "broken")[0]


def test_metrics_are_logged_once_and_in_order(runs):
    lines = [json.loads(line) for line in _text(runs["whole"], "metrics.jsonl").splitlines()]
    kinds = [(line["step"], "val" if "val/loss" in line else "train") for line in lines]
    assert kinds == [(3, "train"), (4, "val"), (6, "train"), (8, "train"), (8, "val")]


def test_checkpoints_remember_the_audits(runs):
    audits = {
        role: "5eed" if "fairface" in role else None
        for role in (
            "train/synthetic_fairface/train",
            "train/synthetic_raf_db/train",
            "val/synthetic_fairface/train",
            "val/synthetic_raf_db/train",
            "test/synthetic_utkface/test",
            "test/synthetic_raf_db/test",
        )
    }
    for step in (4, 8):
        manifest = json.loads(_text(runs["broken"], f"checkpoints/{step}/manifest.json"))
        assert manifest["host"]["audits"] == audits
    recorded = json.loads(_text(runs["whole"], "run.json"))["data"]
    assert {role: entry["audit"] for role, entry in recorded.items()} == audits


def test_a_step_never_compiles(runs):
    # The step is compiled before the first batch; only placing that batch may compile a copy.
    assert runs["compilations"][1:] == [0] * 7


def test_newest_and_best_checkpoints_are_kept(runs):
    steps = {int(path.name) for path in (runs["whole"] / "checkpoints").iterdir()}
    best = json.loads(_text(runs["whole"], "run.json"))["best_step"]
    assert steps == {6, 8, best}


def test_evaluate_gives_what_the_end_of_training_gave(runs, tmp_path):
    assert evaluate.evaluate_run(runs["whole"], out=tmp_path) == runs["summary"]
    assert _text(tmp_path, "eval/metrics.json") == _text(runs["whole"], "eval/metrics.json")


def test_a_run_is_evaluated_on_other_sets_beside_its_own(runs, tmp_path, capsys):
    folder = tmp_path / "run"
    shutil.copytree(runs["whole"], folder)
    before = _content(folder)
    other = runs["config"]["data"]["train"][0]
    with pytest.raises(UserError, match="test images are also trained on"):
        evaluate.evaluate_run(folder, tests=[other])
    with pytest.raises(UserError, match="no such prepared split"):
        evaluate.evaluate_run(folder, tests=["nothing/test"])
    assert _content(folder) == before
    summary = evaluate.evaluate_run(folder, tests=["synthetic_raf_db/test"])
    assert list(summary["datasets"]) == ["synthetic_raf_db"]
    own = {"synthetic_raf_db": runs["summary"]["datasets"]["synthetic_raf_db"]}
    assert summary["datasets"] == own
    written = {path.parts[:2] for path in _content(folder).keys() - before.keys()}
    assert written == {("tests", "synthetic_raf_db-test")}


def test_a_run_without_a_test_set_says_so_and_how_to_evaluate_it(data_root, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(console, "_EVERY", 0.05)  # seconds between two lines in a log
    config = changed(config_on(data_root), data__test=(), train__steps=3, train__eval_every=3)
    run, data = run_of(config)
    assert loop.train_and_evaluate(run, data, tmp_path / "run") == {}
    lines = capsys.readouterr().out.splitlines()
    hint = f"scripts/evaluate.py --workdir={tmp_path / 'run'} --test=NAME/SPLIT"
    found = [number for number, line in enumerate(lines) if hint in line]
    assert len(found) == 2 and found[1] == len(lines) - 1
    assert any("compiled in" in line for line in lines[found[0] :])
    assert any(re.fullmatch(r"compiling the train step: \d:\d\d", line) for line in lines)
    with pytest.raises(UserError, match=r"the run has no test set: .*--test=NAME/SPLIT"):
        evaluate.evaluate_run(tmp_path / "run")
    assert not (tmp_path / "run" / "eval").exists()
    summary = evaluate.evaluate_run(tmp_path / "run", tests=["synthetic_raf_db/test"])
    assert list(summary["datasets"]) == ["synthetic_raf_db"]
    assert (tmp_path / "run" / "eval" / "metrics.json").is_file()


def test_other_data_are_an_error_in_the_run_and_a_warning_elsewhere(runs, tmp_path, capsys):
    folder, key = tmp_path / "run", "test/synthetic_raf_db/test"
    shutil.copytree(runs["whole"], folder)
    record = json.loads(_text(folder, "run.json"))
    record["data"][key]["fingerprint"] = "0" * 64
    (folder / "run.json").write_text(json.dumps(record))
    before = _content(folder)
    with pytest.raises(UserError, match=f"not the data of this run: {key} in .* --out$"):
        evaluate.evaluate_run(folder, out=folder)
    assert _content(folder) == before
    assert evaluate.evaluate_run(folder, out=tmp_path / "else") == runs["summary"]
    assert capsys.readouterr().out.startswith(f"warning: not the data of this run: {key} in ")


def test_training_moves_what_is_trained_and_nothing_else(runs):
    run, _ = run_of(runs["config"])
    fresh = Session(run)
    trained = restore.restore_run(runs["whole"])
    assert trained.base == fresh.base
    moved = {
        path
        for path, leaf in flatten(trained.state.trainable).items()
        if not np.array_equal(leaf, flatten(fresh.state.trainable)[path])
    }
    still = flatten(fresh.state.trainable).keys() - moved
    # A layer in front of a softmax shift, or one whose other factor is zero, may stand still.
    assert {path.split("/")[0] for path in moved} >= {"balance", "encoder", "heads"}
    assert not {path for path in still if path.startswith(("balance", "heads"))}


def test_only_trainable_leaves_have_moments(runs):
    run, _ = run_of(runs["config"])
    saved = _leaves(runs["whole"], 8)
    trainable = {path for path, group in run.groups.items() if group != "frozen"}
    moments = {path.split("/mu/")[1] for path in saved if "/mu/" in path}
    assert moments == trainable
    assert {p.removeprefix("trainable/") for p in saved if p.startswith("trainable/")} == trainable


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"optimizer__rates": {"adapter_a": 1.0}}, "parameter group without a learning rate"),
        ({"train__step": 8}, "unknown config key: config.train.step"),
        ({"train__steps": "8"}, "config.train.steps: expected an integer, found '8'"),
        ({"model__variant": "tiny-tset"}, "unknown variant"),
        ({"train__batch_size": 12}, "train.batch_size: expected a multiple of 8 devices"),
        ({"mesh": {"fsdp": 3}}, "mesh.fsdp: expected a divisor of 8 devices, found 3"),
        ({"train__profile_steps": (5, 2)}, "train.profile_steps: expected no values, or (low, high)"),
        ({"data__train": ("synthetic_fairface/nowhere",)}, "nowhere"),
    ],
)
def test_mistakes_are_one_line(config, tmp_path, change, named):
    with pytest.raises(UserError) as caught:
        loop.train_and_evaluate(*run_of(changed(config, **change)), tmp_path)
    assert named in str(caught.value)
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"seed": 4}, "seed was 3, is 4"),
        ({"train__steps": 9}, "train.steps was 8, is 9"),
        ({"model__variant": "tiny-demo"}, "model.variant was 'tiny-test', is 'tiny-demo'"),
    ],
)
def test_another_configuration_is_told_by_its_fields(runs, change, named):
    before = _content(runs["whole"])
    with pytest.raises(UserError, match="workdir holds another run") as caught:
        loop.train_and_evaluate(*run_of(changed(runs["config"], **change)), runs["whole"])
    assert named in str(caught.value)
    assert _content(runs["whole"]) == before


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"method": {"name": "lp"}}, "checkpoint does not fit this run"),
        ({"model__variant": "tiny-demo"}, "checkpoint does not fit this run"),
        ({"seed": 4}, "the frozen weights are not those"),
        ({"optimizer__rates__heads": 0.5}, "of another run"),
        ({"train__steps": 12}, "train.steps was 8, is 12"),
        ({"mesh": {"fsdp": 3}}, "mesh.fsdp: expected a divisor of 8 devices, found 3"),
        ({"train__batch_size": 12}, "train.batch_size: expected a multiple of 8 devices"),
        ({"model__pretrained": "nowhere/PE.safetensors"}, "nowhere/PE.safetensors"),
    ],
)
def test_checkpoints_that_do_not_belong_to_a_run_are_refused_and_stay(runs, tmp_path, change, named):
    """The folder has another run's checkpoints and no record of its own."""
    shutil.copytree(runs["whole"] / "checkpoints", tmp_path / "checkpoints")
    before = _content(tmp_path)
    with pytest.raises(UserError) as caught:
        loop.train_and_evaluate(*run_of(changed(runs["config"], **change)), tmp_path)
    assert named in str(caught.value)
    assert "\n" not in str(caught.value)
    assert _content(tmp_path) == before


def test_a_second_start_says_who_holds_the_directory_and_changes_nothing(runs):
    folder = runs["whole"]
    with locks.hold(folder):
        before = _content(folder)
        for start in (
            lambda: loop.train_and_evaluate(*run_of(runs["config"]), folder),
            lambda: evaluate.evaluate_run(folder, out=folder),
        ):
            with pytest.raises(UserError, match=f"workdir is in use: .* process {os.getpid()} on "):
                start()
        assert _content(folder) == before


def test_a_lock_that_is_lost_stops_the_run_before_it_saves(config, tmp_path, monkeypatch):
    save, saved = loop.Training.save, []

    def lose(training, step):
        saved.append(step)
        if step == 4:
            holder = json.loads(_text(tmp_path, locks.NAME))
            (tmp_path / locks.NAME).write_text(json.dumps(holder | {"token": "other", "host": "elsewhere"}))
        save(training, step)

    monkeypatch.setattr(loop.Training, "save", lose)
    with pytest.raises(UserError, match=r"taken over: .*elsewhere"):
        loop.train_and_evaluate(*run_of(config), tmp_path)
    assert saved == [2, 4]
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == ["2"]
    assert "elsewhere" in _text(tmp_path, locks.NAME)


@pytest.mark.parametrize("stop", [KeyboardInterrupt, UserError])
def test_a_save_that_cannot_read_its_metrics_keeps_no_step_without_them(stop):
    """Ctrl-C saves nothing; too many skipped updates save the last finite state."""
    training, saved = loop.Training.__new__(loop.Training), []

    def interrupted(*_):
        raise stop("now")

    training.__dict__.update(
        _check_lock=lambda: None,
        _record=interrupted,
        _stream=types.SimpleNamespace(get_state=dict),
        _audits={},
        session=types.SimpleNamespace(drain=list, state=None, training_images={}),
        history=types.SimpleNamespace(to_json=dict, best_step=None),
        manager=types.SimpleNamespace(save=lambda step, *_, **__: saved.append(step)),
    )
    with pytest.raises(stop):
        training.save(4)
    assert saved == ([4] if stop is UserError else [])


def test_weights_that_are_gone_are_told_at_the_next_start(runs, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(runs["whole"], run)
    gone = changed(runs["config"], model__pretrained=str(tmp_path / "gone.safetensors"))
    before = _content(run)
    with pytest.raises(UserError, match=r"gone\.safetensors") as caught:
        loop.train_and_evaluate(*run_of(gone), run)
    assert "\n" not in str(caught.value)
    assert _content(run) == before


def _lines(workdir):
    return [json.loads(line) for line in _text(workdir, "metrics.jsonl").splitlines()]


@pytest.mark.parametrize(
    ("before", "after"),
    [("float32", "bfloat16"), pytest.param("bfloat16", "float32", marks=pytest.mark.long)],
)
@pytest.mark.long
def test_the_frozen_weights_may_change_their_type(runs, tmp_path, before, after):
    """The digest in a checkpoint is that of the weights before they are narrowed."""
    whole, folder = runs["whole"], tmp_path / "resumed"
    if before == "bfloat16":
        whole = tmp_path / "whole"
        loop.train_and_evaluate(*run_of(changed(runs["config"], frozen_dtype=before)), whole)
    shutil.copytree(whole, folder)
    shutil.rmtree(folder / "checkpoints" / "8")
    loop.train_and_evaluate(*run_of(changed(runs["config"], frozen_dtype=after)), folder)
    found, expected = _lines(folder), _lines(whole)
    assert found[:3] == expected[:3]  # up to step 6, where it goes on
    assert found[3:] != expected[3:]
    for ours, theirs in zip(found[3:], expected[3:], strict=True):
        name = "val/loss" if "val/loss" in ours else "train/loss/total"
        np.testing.assert_allclose(ours[name], theirs[name], rtol=2e-2)


def test_updates_that_are_not_finite_end_the_run_with_the_last_good_state(config, tmp_path, monkeypatch):
    # A rate that no configuration may have.
    monkeypatch.setattr(optimizer, "schedule", lambda *_, **__: optax.constant_schedule(1e37))
    config = changed(config, train__max_skipped=2, train__steps=20, data__val_fraction=0.0)
    with pytest.raises(UserError, match="2 updates in a row skipped"):
        loop.train_and_evaluate(*run_of(config), tmp_path)
    lines = [json.loads(line) for line in _text(tmp_path, "skipped.jsonl").splitlines()]
    assert [line["step"] for line in lines][1] == lines[0]["step"] + 1
    assert all(len(line["examples"]) == 16 for line in lines)
    assert lines[0]["examples"][0].startswith("synthetic_")
    session = restore.restore_run(tmp_path)
    for leaf in jax.tree.leaves(session.state):
        assert np.isfinite(leaf).all()


def test_the_start_warns_of_classes_without_images(config, tmp_path, capsys):
    """Once for each task, before the first step, and in the record of the run."""
    shares = {"synthetic_fairface": 1.0, "synthetic_raf_db": 0.0}
    run, data = run_of(changed(config, data__sampler={"name": "mixture", "shares": shares}))
    with loop.Training(run, data, epath.Path(tmp_path), Preemption()) as training:
        lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("warning: ")]
        assert set(training.session.training_images["emotion"].values()) == {0}
    record = json.loads((tmp_path / "run.json").read_text())
    assert record["warnings"] == lines
    assert record["training_images"] == training.session.training_images
    (emotion,) = [line for line in lines if line.startswith("warning: emotion: ")]
    assert (
        "no training image of surprise, fear" in emotion and "no label in synthetic_utkface/test" in emotion
    )
