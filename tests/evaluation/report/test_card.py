"""The result card: metadata a hub can read, and every part that a reader must find."""

import dataclasses
import json

import numpy as np
import pytest

from softbio_jax.evaluation import evaluate
from softbio_jax.evaluation.report import card, groups
from softbio_jax.evaluation.report.runs import RunResults
from softbio_jax.tasks import TASKS
from tests.evaluation.fixtures import hand_made


@pytest.fixture(scope="module")
def text(loaded):
    run = loaded[0]
    return card.render(run, groups.audits([run])[run.name])


def test_metadata_is_yaml_with_results(text, loaded):
    yaml = pytest.importorskip("yaml")
    _, block, _ = text.split("---\n", 2)
    fields = yaml.safe_load(block)
    assert fields["library_name"] == "softbio_jax"
    assert fields["datasets"] == ["fairface"]
    (model,) = fields["model-index"]
    found = {(r["dataset"]["name"], r["task"]["name"]): r["metrics"][0]["value"] for r in model["results"]}
    expected = loaded[0].summary["datasets"]["raf_db"]["emotion"]["accuracy"]
    assert found["raf_db", "emotion"] == pytest.approx(expected, abs=1e-6)
    assert len(found) == 5
    json.dumps(fields)


def test_every_part_is_there(text):
    for title in (
        "Results",
        "Fairness",
        "Training data and label masks",
        "Protocol",
        "Intended use",
        "Limits",
        "Licences",
        "Command",
    ):
        assert f"\n## {title}\n" in text
    assert "- fairface/train: 100 examples, labels: age 90, gender 100; fingerprint `01234567" in text
    assert "python scripts/train.py --config=configs/demo.py" in text
    assert "- fairface: CC BY 4.0" in text
    assert "- `method.rank`: 4" in text


def test_terms_go_by_the_longest_known_beginning():
    assert card.terms("RAF-DB").startswith("non-commercial")
    assert card.terms("synthetic_fairface").startswith("rendered")
    assert card.terms("my_faces") == "not known here: check them"


def test_a_bare_run_has_a_card_that_says_what_is_missing(loaded):
    text = card.render(loaded[2], {})
    assert "No audit columns." in text
    assert "not recorded" in text
    assert "no config.json" in text


def test_the_hub_reads_the_results_with_their_intervals(text, loaded):
    hub = pytest.importorskip("huggingface_hub")
    results = hub.ModelCard(text).data.eval_results
    assert len(results) == 15  # five test sets and tasks, three metrics
    found = next(r for r in results if (r.dataset_name, r.task_name) == ("raf_db", "emotion"))
    metrics = loaded[0].summary["datasets"]["raf_db"]["emotion"]
    assert (found.dataset_split, found.metric_type) == ("test", "accuracy")
    assert found.metric_args["n"] == metrics["n"]
    assert found.metric_args["interval_95"] == pytest.approx(metrics["intervals"]["accuracy"], abs=1e-6)


def test_limits_are_filled_in_from_the_run():
    labels = np.repeat([0, 1, 3], [60, 3, 60])
    answers = np.where(np.arange(123) % 2, labels, 3)
    faces = hand_made("my_faces", "emotion", labels, np.eye(7)[answers])
    race = np.where(labels == 0, "north", "south")
    faces = dataclasses.replace(faces, audit={"race": race})
    images = {"emotion": {name: 10 * (name != "fear") for name in TASKS["emotion"].classes}}
    run = RunResults(
        name="mine",
        path=None,
        summary=evaluate.summarise([faces], model={}, images=images),
        predictions={"my_faces": faces},
    )
    lines = card.found_limits(run, groups.audits([run])["mine"])
    for part in (
        "no training image of fear (3 test images show them)",
        "fewer than 5 test images, so nothing is known, of fear (3)",
        "lowest recall 50.00",
        "points between south and north",
    ):
        assert any(part in line for line in lines), (part, lines)
    assert not any("majority" in line for line in lines)
    shown = card.render(run, groups.audits([run])["mine"])
    limits = shown.partition("## Limits")[2]
    assert "no training image of fear" in limits and "access control" in limits
