"""Runs and third parties' predictions: what is read, and what is refused with its place."""

import json
import shutil

import numpy as np
import pytest

from softbio_jax.errors import UserError
from softbio_jax.evaluation import predictions_csv
from softbio_jax.evaluation.report import runs
from tests.evaluation.fixtures import random_predictions


@pytest.fixture
def run(run_folder, tmp_path):
    """A copy of the complete run that a test may break."""
    return shutil.copytree(run_folder / "lora", tmp_path / "lora")


def test_a_run_is_read_whole(loaded):
    complete = loaded[0]
    assert (complete.name, complete.method, complete.external) == ("lora", "lora", False)
    assert complete.tasks == ["age", "gender", "emotion"]
    assert set(complete.predictions) == {"fairface", "raf_db", "vggface2"}
    assert complete.predictions["vggface2"].synthetic_labels == ("age",)
    assert complete.config["method"]["rank"] == 4
    assert [line["step"] for line in complete.log] == [20, 40, 60, 60]
    assert complete.info["wall_time_s"] == 125.0


def test_what_a_run_lacks_is_empty(loaded):
    bare = loaded[1]
    assert bare.tasks == ["age"]
    assert (bare.config, bare.log, bare.info) == ({}, (), {})


def test_equal_names_are_told_apart_by_their_folders(run_folder, tmp_path):
    for parent in ("a", "b"):
        shutil.copytree(run_folder / "lora_age", tmp_path / parent / "run")
    found = runs.load_all([tmp_path / "a" / "run", tmp_path / "b" / "run"])
    assert [item.name for item in found] == ["a/run", "b/run"]


def test_the_same_run_twice_is_refused(run_folder):
    with pytest.raises(UserError, match="the same run twice"):
        runs.load_all([run_folder / "lora", run_folder / "lora"])


def test_a_run_without_evaluation_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"run without evaluation.*no such file.*evaluate\.py"):
        runs.load_all([tmp_path])


def test_a_run_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"no such run.*--workdir"):
        runs.load_all([tmp_path / "nowhere"])


def test_another_schema_is_refused(run):
    path = run / "eval" / "metrics.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "schema": 99}))
    with pytest.raises(UserError, match=r"another version.*found 99"):
        runs.load(run, name="run")


def test_an_older_evaluation_is_brought_up_to_date_from_its_predictions(run):
    path = run / "eval" / "metrics.json"
    now = json.loads(path.read_text())
    old = {key: value for key, value in now.items() if key != "average_intervals"}
    path.write_text(json.dumps({**old, "schema": 1}))
    assert json.loads(json.dumps(runs.load(run, name="run").summary)) == now


def test_a_cut_last_line_of_the_log_is_dropped_and_a_broken_one_named(run):
    path = run / "metrics.jsonl"
    whole = path.read_text()
    path.write_text(whole + '{"step": 80, "tra')
    assert len(runs.load(run, name="run").log) == 4
    path.write_text("{broken\n" + whole)
    with pytest.raises(UserError, match=r"metrics\.jsonl line 1"):
        runs.load(run, name="run")


def test_third_party_is_judged_on_the_runs_test_set(loaded):
    other = loaded[3]
    assert other.external and other.name == "Other & Co"
    assert list(other.predictions) == ["fairface"]
    np.testing.assert_array_equal(
        other.predictions["fairface"].labels["age"], loaded[0].predictions["fairface"].labels["age"]
    )


def test_several_files_of_one_name_are_one_model(loaded, tmp_path):
    for name, tasks in (("fairface", ("age", "gender")), ("raf_db", ("emotion",))):
        predictions_csv.save(random_predictions(name, tasks=tasks, n=40), tmp_path / f"{name}.csv")
    specs = [f"X:{tmp_path / 'fairface.csv'}", f"X:{tmp_path / 'raf_db.csv'}"]
    (found,) = runs.third_parties(specs, loaded[:1])
    assert found.tasks == ["age", "gender", "emotion"]


def edited(path, old, new, target):
    text = path.read_text()
    assert old in text
    target.write_text(text.replace(old, new))
    return target


def test_unknown_and_missing_ids_are_named_with_rows(run_folder, loaded, tmp_path):
    source, target = run_folder / "other.csv", tmp_path / "broken.csv"
    edited(source, "fairface/00003.jpg", "stranger.jpg", target)
    with pytest.raises(UserError, match=r"unknown id.*broken\.csv row 5.*'stranger\.jpg'"):
        runs.third_parties([f"X:{target}"], loaded[:1])
    lines = source.read_text().splitlines(keepends=True)
    target.write_text("".join(lines[:4] + lines[5:]))
    with pytest.raises(UserError, match=r"missing id.*row 4 of.*'fairface/00003\.jpg'"):
        runs.third_parties([f"X:{target}"], loaded[:1])


def test_an_id_of_two_test_sets_needs_its_set_named(run_folder, loaded, tmp_path):
    lora = loaded[0]
    double = {"fairface": lora.predictions["fairface"]}
    double["copy"] = lora.predictions["fairface"].take(np.arange(40), name="copy")
    twice = runs.RunResults(name="twice", path=None, summary=lora.summary, predictions=double)
    with pytest.raises(UserError, match=r"id of several test sets.*rows 2, 3, 4 and 37 more"):
        runs.third_parties([f"X:{run_folder / 'other.csv'}"], [twice])
    lines = (run_folder / "other.csv").read_text().splitlines()
    named = [lines[0] + ",test_set", *(line + ",copy" for line in lines[1:])]
    target = tmp_path / "named.csv"
    target.write_text("\n".join(named) + "\n")
    (found,) = runs.third_parties([f"X:{target}"], [twice])
    assert list(found.predictions) == ["copy"]


@pytest.mark.parametrize("spec", ["file.csv", ":file.csv", "X:"])
def test_a_spec_needs_a_name_and_a_file(spec, loaded):
    with pytest.raises(UserError, match=r"expected NAME:FILE\.csv"):
        runs.third_parties([spec], loaded[:1])
