"""The evaluation directory: complete, readable back, and whole or absent."""

import json

import numpy as np
import pytest

from softbio_jax.errors import UserError
from softbio_jax.evaluation import evaluate, predictions_csv
from softbio_jax.evaluation.metrics import per_task
from tests.evaluation.fixtures import hand_made, random_predictions

MODEL = {"variant": "tiny", "method": "lora", "trainable_params": 10, "total_params": 100}


@pytest.fixture
def sets():
    return [
        random_predictions("fairface", n=50),
        random_predictions("raf_db", tasks=("emotion",), n=30),
        random_predictions("vggface2", n=40, synthetic_labels=("age",)),
    ]


def test_write_leaves_figures_predictions_and_pictures(tmp_path, sets):
    summary = evaluate.write(tmp_path, sets, model=MODEL)
    on_disk = json.loads((tmp_path / "eval" / "metrics.json").read_text())
    assert on_disk == summary
    assert on_disk["model"] == MODEL
    for item in sets:
        again = predictions_csv.load(tmp_path / "eval" / "predictions" / f"{item.name}.csv")
        for task in item.tasks():
            assert per_task.task_metrics(again, task) == summary["datasets"][item.name][task]
            picture = tmp_path / "eval" / "confusion" / f"{item.name}_{task}.png"
            assert picture.read_bytes().startswith(b"\x89PNG")
    assert summary["averaged_sets"] == {
        "age": ["fairface"],
        "gender": ["fairface", "vggface2"],
        "emotion": ["raf_db"],
    }
    genders = [summary["datasets"][s]["gender"]["accuracy"] for s in ("fairface", "vggface2")]
    assert summary["averages"]["gender"] == pytest.approx(sum(genders) / 2)


def test_write_replaces_an_earlier_evaluation_and_leaves_nothing_else(tmp_path, sets):
    evaluate.write(tmp_path, sets, model=MODEL)
    evaluate.write(tmp_path, sets[:1], model=MODEL)
    assert [p.name for p in tmp_path.iterdir()] == ["eval"]
    assert [p.name for p in (tmp_path / "eval" / "predictions").iterdir()] == ["fairface.csv"]


def test_a_failed_write_keeps_the_earlier_evaluation(tmp_path, sets, monkeypatch):
    evaluate.write(tmp_path, sets, model=MODEL)
    before = (tmp_path / "eval" / "metrics.json").read_text()

    def broken(*_args):
        raise OSError("disk full")

    monkeypatch.setattr(predictions_csv, "save", broken)
    with pytest.raises(OSError, match="disk full"):
        evaluate.write(tmp_path, sets[:1], model=MODEL)
    assert (tmp_path / "eval" / "metrics.json").read_text() == before


def test_two_test_sets_of_one_name_are_refused(tmp_path, sets):
    with pytest.raises(UserError, match=r"distinct names.*fairface, fairface"):
        evaluate.write(tmp_path, [sets[0], sets[0]], model=MODEL)
    assert not list(tmp_path.iterdir())


def test_text_table_shows_floor_and_averages():
    summary = evaluate.summarise(
        [hand_made("faces", "gender", [0, 0, 0, 1], [[1, 0], [1, 0], [0, 1], [0, 1]])], model=MODEL
    )
    header, _, row, averages = evaluate.text(summary).splitlines()
    assert header.split()[:3] == ["test", "set", "task"]
    # 3 of 4 right; always "male" would be 3 of 4; recalls 2/3 and 1; F1 4/5 and 2/3.
    assert row.split() == ["faces", "gender", "4", "75.00", "75.00", "83.33", "73.33"]
    assert averages.split() == ["averages:", "gender", "75.00", "overall", "75.00"]


def test_text_table_marks_synthetic_labels(sets):
    text = evaluate.text(evaluate.summarise(sets, model=MODEL))
    starred = [line for line in text.splitlines() if " * " in line]
    assert len(starred) == 1 and starred[0].startswith("vggface2  age *")
    assert "not in the averages" in text


def test_validation_fits_temperatures_and_features_are_kept(tmp_path, sets):
    validation = random_predictions("validation", n=200, skill=4.0)
    features = {"fairface": np.arange(100.0).reshape(50, 2)}
    summary = evaluate.write(tmp_path, sets, model=MODEL, validation=validation, features=features)
    assert set(summary["temperatures"]) == {"age", "gender"}
    age = summary["datasets"]["fairface"]["age"]["temperature"]
    assert age["value"] == summary["temperatures"]["age"]
    assert "temperature" not in summary["datasets"]["raf_db"]["emotion"]
    assert len(predictions_csv.load(tmp_path / "eval" / "validation.csv")) == 200
    with np.load(tmp_path / "eval" / "features" / "fairface.npz") as kept:
        assert kept["rows"].tolist() == list(range(50))
        np.testing.assert_array_equal(kept["features"], features["fairface"])


def test_kept_features_are_few_and_evenly_spaced(tmp_path):
    many = random_predictions("faces", n=2500, tasks=("gender",))
    evaluate.write(tmp_path, [many], model=MODEL, features={"faces": np.zeros((1000, 3))})
    with np.load(tmp_path / "eval" / "features" / "faces.npz") as kept:
        assert len(kept["rows"]) == evaluate.MAX_FEATURES
        assert (kept["rows"][0], kept["rows"][-1]) == (0, 2499)
        assert np.diff(kept["rows"]).max() <= 3


def test_features_of_other_rows_are_refused(tmp_path):
    few = random_predictions("faces", n=20, tasks=("gender",))
    with pytest.raises(ValueError, match="20 rows"):
        evaluate.write(tmp_path, [few], model=MODEL, features={"faces": np.zeros((19, 3))})
    assert not (tmp_path / "eval").exists()
