import csv
import dataclasses
import io
import json

import numpy as np
import pytest

from softbio_jax.console import QUIET, Console
from softbio_jax.errors import UserError
from softbio_jax.runs.data import training_images
from softbio_jax.safety import locks
from softbio_jax.train import loop
from softbio_jax.train.probing import sweep
from tests.runs.tiny import changed, config_on, run_of

RATES, DECAYS = (1e-3, 1e-2, 3e-2), (0.0, 0.3)


@pytest.fixture(scope="module")
def config(data_root, tmp_path_factory):
    return changed(
        config_on(data_root),
        method={"name": "lp"},
        augment={"flip": 1.0},
        train__cache_features=True,
        train__cache_views=2,
        train__steps=12,
        train__cache_dir=str(tmp_path_factory.mktemp("features")),
    )


@pytest.fixture(scope="module")
def swept(config, tmp_path_factory):
    run, data = run_of(config)
    folder = tmp_path_factory.mktemp("sweep")
    unseen = dataclasses.replace(data, test=[])
    said = io.StringIO()
    trials = sweep.sweep(run, unseen, folder, rates=RATES, decays=DECAYS, console=Console(out=said))
    (folder / "said.txt").write_text(said.getvalue())
    return trials, folder


def test_a_pair_is_the_run_of_its_own(swept, config, tmp_path):
    rate, decay = 3e-2, 0.3
    alone = changed(config, optimizer__rates__heads=rate, optimizer__weight_decay=decay, data__test=())
    loop.train_and_evaluate(*run_of(alone), tmp_path)
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    best = min((line for line in lines if "val/loss" in line), key=lambda line: line["val/loss"])
    (trial,) = (t for t in swept[0] if (t.rate, t.decay) == (rate, decay))
    assert trial.step == best.pop("step")
    assert trial.scalars == pytest.approx(best, rel=1e-5)


@pytest.mark.long
def test_every_pair_has_its_own_loss_scale(swept, config, tmp_path):
    run, data = run_of(changed(config, compute__dtype="float16", data__test=()))
    trials = sweep.sweep(run, data, tmp_path, rates=RATES, decays=DECAYS, console=QUIET)
    full = {(trial.rate, trial.decay): trial.loss for trial in swept[0]}
    assert {(trial.rate, trial.decay): trial.loss for trial in trials} == pytest.approx(full, rel=1e-2)
    assert not any(trial.skipped for trial in trials)
    session = sweep.SweepSession(run, rates=RATES, decays=(0.0,) * 3)
    assert session.state.loss_scale.scale.shape == (3,)


def test_rates_and_decays_make_a_difference(swept):
    losses = {(trial.rate, trial.decay): trial.loss for trial in swept[0]}
    assert len(losses) == 6
    assert np.unique(np.round(list(losses.values()), 7)).size == 6


def test_the_lowest_validation_loss_comes_first_in_the_files_too(swept):
    trials, folder = swept
    losses = [trial.loss for trial in trials]
    assert losses == sorted(losses)
    written = json.loads((folder / "sweep.json").read_text())
    assert written["best"]["val/loss"] == losses[0]
    assert [row["val/loss"] for row in written["trials"]] == losses
    rows = list(csv.DictReader((folder / "sweep.csv").open()))
    assert [float(row["val/loss"]) for row in rows] == losses
    assert f"--config.optimizer.rates.heads={trials[0].rate:g}" in sweep.text(trials)


def test_classes_without_training_images_are_told_and_recorded(swept, config):
    run, data = run_of(config)
    images = training_images(run.config, data)
    record = json.loads((swept[1] / "sweep.json").read_text())
    assert 0 in images["age"].values() and record["training_images"] == images
    assert record["warnings"] and record["warnings"][0].startswith("warning: age: no training image of")
    assert record["warnings"] == [
        line for line in (swept[1] / "said.txt").read_text().splitlines() if line.startswith("warning: ")
    ]


@pytest.mark.long
def test_a_pair_that_diverges_is_last_and_leaves_the_others_alone(swept, config, tmp_path):
    run, data = run_of(config)
    trials = sweep.sweep(run, data, tmp_path, rates=(1e-2, 1e38), decays=(0.0,))
    assert [trial.rate for trial in trials] == [1e-2, 1e38]
    assert trials[1].skipped > 0 and trials[0].skipped == 0
    (before,) = (t for t in swept[0] if (t.rate, t.decay) == (1e-2, 0.0))
    assert trials[0].scalars == pytest.approx(before.scalars, rel=1e-5)


@pytest.mark.parametrize(
    ("arguments", "changes", "told"),
    [
        ({"rates": (), "decays": (0.1,)}, {}, "--rates"),
        ({"rates": (0.0,), "decays": (0.1,)}, {}, "--rates.*above 0"),
        ({"rates": (0.1, 0.1), "decays": (0.1,)}, {}, "--rates.*different"),
        ({"rates": (0.1,), "decays": (-0.1,)}, {}, "--decays"),
        ({"rates": (0.1,), "decays": (0.1,)}, {"data__val_fraction": 0.0}, "val_fraction"),
        ({"rates": (0.1,), "decays": (0.1,)}, {"method": {"name": "ap"}}, "trains pooling"),
    ],
)
def test_what_cannot_be_swept_is_told(config, tmp_path, arguments, changes, told):
    run, data = run_of(changed(config, **changes))
    with pytest.raises(UserError, match=told):
        sweep.sweep(run, data, tmp_path, **arguments)
    assert list(tmp_path.iterdir()) == []


def test_a_workdir_in_use_is_refused(config, tmp_path):
    with locks.hold(tmp_path), pytest.raises(UserError, match="workdir is in use"):
        sweep.sweep(*run_of(config), tmp_path, rates=(0.1,), decays=(0.1,))
    assert list(tmp_path.iterdir()) == []
