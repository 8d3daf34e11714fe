"""The result card: metadata a hub can read, and every part that a reader must find."""

import json

import pytest

from softbio_jax.evaluation.report import card, groups


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
