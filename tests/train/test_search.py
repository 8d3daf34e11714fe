"""Searches over configuration keys: trials are runs, resumed and never trained twice."""

import json
import shutil

import pytest

from softbio_jax.console import QUIET
from softbio_jax.errors import UserError
from softbio_jax.train import loop, search
from softbio_jax.train.preemption import Preempted, Preemption
from softbio_jax.train.progress import DivergedError
from tests.runs.tiny import changed, config_on, run_of

POINTS = search.combinations({"rates": [0.1, 3.0]})
THREE = search.combinations({"rates": [0.1, 1.0, 3.0]})


@pytest.fixture(scope="module")
def config(data_root):
    # On cached features, whose train step compiles in a moment.
    changes = {"train__steps": 8, "train__eval_every": 2, "train__cache_features": True}
    return changed(config_on(data_root), method={"name": "lp"}, **changes)


@pytest.fixture(scope="module")
def searched(config, tmp_path_factory):
    folder = tmp_path_factory.mktemp("search")
    return search.search(config, POINTS, folder, console=QUIET), folder


def lines(folder, trial):
    return (folder / trial.folder / "metrics.jsonl").read_text()


@pytest.mark.long
def test_a_trial_is_a_run_of_its_own(searched, config, tmp_path):
    trials, folder = searched
    (trial,) = (trial for trial in trials if trial.point["rates"] == 3.0)
    rates = {group: rate * (1 if group == "log_var" else 3.0) for group, rate in rates_of(config).items()}
    run, data = run_of(changed(config, optimizer__rates=rates))
    loop.train_and_evaluate(run, data, tmp_path)
    assert (tmp_path / "metrics.jsonl").read_text() == lines(folder, trial)
    assert (tmp_path / "eval").exists() and not (folder / trial.folder / "eval").exists()


def rates_of(config):
    return config["optimizer"]["rates"]


@pytest.mark.long
def test_trials_are_ranked_and_written(searched, tmp_path):
    trials, folder = searched
    losses = [trial.loss for trial in trials]
    assert losses == sorted(losses) and len(set(losses)) == 2
    assert {trial.ended for trial in trials} == {"finished"}
    written = json.loads((folder / "sweep.json").read_text())["trials"]
    assert [row["scalars"]["val/loss"] for row in written] == losses
    assert len((folder / "sweep.csv").read_text().splitlines()) == 3
    table = search.table(trials, folder).splitlines()
    assert trials[0].folder in table[2] and table[-1].endswith(trials[0].folder)
    copy = shutil.copytree(folder, tmp_path / "untested")
    values = json.loads((copy / trials[0].folder / "config.json").read_text())
    values["data"]["test"] = []
    (copy / trials[0].folder / "config.json").write_text(json.dumps(values))
    assert search.table(trials, copy).endswith(f"{trials[0].folder} --test=NAME/SPLIT")


@pytest.mark.long
def test_what_is_done_is_not_trained_again(searched, config, monkeypatch):
    trials, folder = searched
    monkeypatch.setattr(search, "_train", None)  # a call would fail
    assert [t.folder for t in search.search(config, POINTS, folder, console=QUIET)] == [
        t.folder for t in trials
    ]


@pytest.mark.long
def test_added_values_are_trained_beside_those_that_are_done(searched, config, tmp_path, monkeypatch):
    folder = shutil.copytree(searched[1], tmp_path / "search")
    trained, train = [], search._train
    monkeypatch.setattr(search, "_train", lambda c, t, *rest: (trained.append(t.point), train(c, t, *rest)))
    assert len(search.search(config, THREE, folder, console=QUIET)) == 3
    assert trained == [{"rates": 1.0}]


@pytest.mark.long
def test_halving_continues_the_better_trials_bit_for_bit(config, tmp_path):
    whole = search.search(config, THREE, tmp_path / "whole", console=QUIET)
    trials = search.search(config, THREE, tmp_path / "halved", eta=3, console=QUIET)
    assert sorted(trial.step for trial in trials) == [4, 4, 8]
    (twin,) = (trial for trial in whole if trial.point == trials[0].point)
    assert trials[0].ended == "finished"
    assert lines(tmp_path / "halved", trials[0]) == lines(tmp_path / "whole", twin)
    early = {trial.point["rates"]: trial.loss for trial in trials[1:]}
    rung = {
        t.point["rates"]: search._validations(tmp_path / "whole" / t.folder)[4]["val/loss"] for t in whole
    }
    assert early == {rate: rung[rate] for rate in early}
    assert all(rung[trials[0].point["rates"]] < loss for loss in early.values())


@pytest.mark.long
def test_an_interrupted_search_continues(searched, config, tmp_path, monkeypatch):
    stops = iter([False] * 11 + [True])  # in the second trial
    monkeypatch.setattr(Preemption, "stops_after", lambda self, step: next(stops, False))
    with pytest.raises(Preempted):
        search.search(config, POINTS, tmp_path, console=QUIET)
    trials = search.search(config, POINTS, tmp_path, console=QUIET)
    assert [lines(tmp_path, t) for t in trials] == [lines(searched[1], t) for t in searched[0]]


@pytest.mark.long
def test_a_trial_that_diverges_is_last_and_not_started_again(searched, config, tmp_path, monkeypatch):
    folder = shutil.copytree(searched[1], tmp_path / "search")
    started = []

    def diverges(training, last):
        started.append(last)
        raise DivergedError("not finite")

    monkeypatch.setattr(search.Training, "run", diverges)
    more = search.combinations({"rates": [9.0, 0.1, 3.0]})
    for _ in range(2):
        trials = search.search(config, more, folder, console=QUIET)
        assert [t.ended for t in trials] == ["finished"] * 2 + ["diverged"]
    assert started == [8]
    with pytest.raises(UserError, match="every trial diverged"):
        search.search(config, more[:1], folder, console=QUIET)


@pytest.mark.parametrize(
    ("trials", "steps", "every", "eta", "expected"),
    [
        (9, 900, 100, 3, [(9, 100), (3, 300), (1, 900)]),
        (10, 900, 100, 3, [(10, 100), (3, 300), (1, 900)]),
        (8, 80, 10, 2, [(8, 10), (4, 20), (2, 40), (1, 80)]),
        (4, 100, 100, 2, [(1, 100)]),
        (5, 100, 30, 2, [(5, 30), (2, 60), (1, 100)]),
        (1, 10, 5, 3, [(1, 10)]),
        (7, 10, 5, 0, [(7, 10)]),
    ],
)
def test_rungs(trials, steps, every, eta, expected):
    assert search.rungs(trials, steps=steps, every=every, eta=eta) == expected


@pytest.mark.parametrize(
    ("over", "changes", "reported"),
    [
        ({}, {}, "nothing to sweep over"),
        ({"data.train": [("a/train",)]}, {}, "cannot be compared"),
        ({"tasks": [("age",)]}, {}, "cannot be compared"),
        ({"train.stpes": [1]}, {}, "train.stpes.*write 'steps'"),
        ({"seed.x": [1]}, {}, "config.seed.x"),
        ({"seed": [0, 0]}, {}, "given twice"),
        ({"optimizer.clip_norm": [-1.0]}, {}, "optimizer.clip_norm"),
        ({"method.name": ["lrop"]}, {}, "unknown method"),
        ({"seed": [0]}, {"data__val_fraction": 0.0}, "val_fraction"),
    ],
)
def test_what_cannot_be_searched_is_reported_before_anything_is_written(
    over, changes, reported, config, tmp_path
):
    with pytest.raises(UserError, match=reported):
        search.search(changed(config, **changes), search.combinations(over), tmp_path, console=QUIET)
    assert list(tmp_path.iterdir()) == []


def test_every_trial_is_trained_to_its_own_end(config, tmp_path, monkeypatch):
    trained = {}

    def train(own, trial, workdir, last, preemption):
        trained[trial.point["train.steps"]] = last
        trial.step, trial.scalars = last, {"val/loss": 1.0 / last}

    monkeypatch.setattr(search, "_train", train)
    search.search(config, search.combinations({"train.steps": [4, 12, 6]}), tmp_path, console=QUIET)
    assert trained == {4: 4, 12: 12, 6: 6}


def test_halving_needs_validations(config, tmp_path):
    with pytest.raises(UserError, match="eval_every"):
        search.search(changed(config, train__eval_every=0), POINTS, tmp_path, eta=3, console=QUIET)


def test_values_on_the_command_line():
    given = [
        "rates=0.3,1",
        "config.seed=0, 1",
        "optimizer.schedule=cosine,plateau",
        "augment.scale=(1,2),(1,3)",
    ]
    assert search.parse(given) == {
        "rates": [0.3, 1],
        "seed": [0, 1],
        "optimizer.schedule": ["cosine", "plateau"],
        "augment.scale": [(1, 2), (1, 3)],
    }


@pytest.mark.parametrize("given", ["seed", "seed=", "=1", "rates=0", "rates=x,1"])
def test_bad_values_on_the_command_line(given):
    with pytest.raises(UserError, match="--over="):
        search.parse([given])
