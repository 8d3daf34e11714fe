"""Classes without training images are marked in every table, chart and card of an evaluation."""

import json
import re

import numpy as np
import pytest

from softbio_jax import coverage
from softbio_jax.evaluation import evaluate
from softbio_jax.evaluation.report import card, features, gallery, groups, results, runs, training, write
from softbio_jax.tasks import TASKS
from tests.evaluation.fixtures import random_predictions

MODEL = {"variant": "tiny", "method": "lora", "trainable_params": 10, "total_params": 100}
IMAGES = {
    "gender": {"male": 4, "female": 4},
    "emotion": dict.fromkeys(TASKS["emotion"].classes, 5) | {"fear": 0, "sad": 0},
}
NOTE = "emotion: no training image of fear, sad"
SETS = [random_predictions("faces", tasks=("gender", "emotion"), n=60, skill=0.5)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The evaluations `marked`, `full` (every class has images) and `old` (no record)."""
    root = tmp_path_factory.mktemp("runs")
    full = {task: dict.fromkeys(counts, 5) for task, counts in IMAGES.items()}
    for name, images in (("marked", IMAGES), ("full", full), ("old", {})):
        evaluate.write(root / name, SETS, model=MODEL, images=images)
    path = root / "old" / "eval" / "metrics.json"
    values = json.loads(path.read_text())
    del values["training_images"]
    path.write_text(json.dumps(values))
    return root


@pytest.fixture(scope="module")
def marked(folder):
    return runs.load(folder / "marked", name="marked")


@pytest.fixture(scope="module", params=["full", "old"])
def unmarked(request, folder):
    return runs.load(folder / request.param, name=request.param)


def texts(table):
    return " ".join([table.title, *table.header, *(cell for row in table.rows for cell in row), *table.notes])


def shown(figure):
    """All text of a matplotlib figure."""
    from matplotlib.text import Text

    figure.canvas.draw()
    return [text.get_text() for text in figure.findobj(Text)]


def test_the_printed_table_says_it_and_counts_the_test_images(marked, unmarked):
    text = evaluate.text(marked.summary)
    classes = marked.summary["datasets"]["faces"]["emotion"]["per_class"]
    wrongly = classes["fear"]["n"] + classes["sad"]["n"]
    assert wrongly > 0 and f"{NOTE} ({wrongly} test images show them)" in text
    assert "emotion ‡" in text and "gender ‡" not in text
    assert "‡" not in evaluate.text(unmarked.summary)


def test_the_tables_and_charts_of_a_report(marked, unmarked):
    for section in (results.results([marked]), results.confusion([marked]), training.section([marked])):
        document = write.Document(title="", subtitle="", highlights=(), sections=(section,))
        figures = [figure for figure in document.figures() if "gender" not in figure.name]
        assert figures or document.tables()
        for figure in figures:
            assert any("‡" in text for text in shown(figure.figure)), figure.name
    tables = {
        table.title: texts(table) for table in results.results([marked]).blocks if table.kind == "table"
    }
    (per_task,) = [text for title, text in tables.items() if "per test set and task" in title]
    assert "emotion ‡" in per_task and NOTE in per_task and "gender ‡" not in per_task
    (per_class,) = [b for b in results.confusion([marked]).blocks if b.kind == "table"]
    assert {row[2] for row in per_class.rows if "‡" in row[2]} == {"fear ‡", "sad ‡"}
    assert f"‡ marked: {NOTE}." in per_class.notes
    assert any(NOTE in b.text and b.warning for b in results.results([marked]).blocks if b.kind == "text")
    whole = write.compose([unmarked], groups.audits([unmarked]))
    assert "‡" not in " ".join(map(texts, whole.tables()))


def test_the_classes_of_the_training_set_in_a_report(marked):
    counted = {t: {"raw": list(c.values()), "drawn": list(c.values())} for t, c in IMAGES.items()}
    run = runs.dataclasses.replace(marked, info={"sampling": counted})
    (table,) = [block for block in training.section([run]).blocks if block.kind == "table"]
    assert {row[1] for row in table.rows if "‡" in row[1]} == {"fear ‡", "sad ‡"} and NOTE in texts(table)


def test_a_run_among_several_is_named(folder, marked):
    pair = [runs.load(folder / "full", name="full"), marked]
    (per_class,) = [b for b in results.confusion(pair).blocks if b.kind == "table"]
    assert "fear ‡" in texts(per_class) and f"‡ marked: {NOTE}." in per_class.notes
    assert not any("‡ full" in note for note in per_class.notes)


def test_a_confusion_matrix_names_them(marked, tmp_path):
    (figure,) = [
        f
        for b in results.confusion([marked]).blocks
        if b.kind == "figures"
        for f in b.items
        if "emotion" in f.name
    ]
    labels = shown(figure.figure)
    assert (
        "fear ‡" in labels and any(label.startswith("sad ‡\n") for label in labels) and NOTE in figure.caption
    )


def test_the_card(marked, unmarked):
    text = card.render(marked, {})
    assert "emotion ‡" in text and NOTE in text
    assert "‡" not in card.render(unmarked, {})


def test_the_gallery_and_the_feature_space(marked, unmarked, monkeypatch):
    item, read = marked.predictions["faces"], lambda name: b"\x89PNG"
    page = gallery.render(item, read, count=20, images=marked.images)
    assert "truly fear ‡" in page and re.search("taken for (fear|sad) ‡", page) and NOTE in page
    assert "‡" not in gallery.render(item, read, images=unmarked.images)
    rows = 20
    monkeypatch.setattr(features, "HAS_T_SNE", False)
    found = (np.random.default_rng(0).normal(size=(rows, 4)),)
    labels = {task: item.labels.get(task, item.labels["emotion"])[:rows] for task in TASKS}
    monkeypatch.setattr(features, "points", lambda run: (*found, labels, item.ids[:rows].astype(str)))
    figures = [f for b in features.section([marked]).blocks if b.kind == "figures" for f in b.items]
    (by_emotion,) = [f for f in figures if "_emotion_" in f.name]
    assert "fear ‡" in shown(by_emotion.figure)


def test_the_record_is_in_the_evaluation(folder):
    values = json.loads((folder / "marked" / "eval" / "metrics.json").read_text())
    assert values["training_images"] == IMAGES
    assert coverage.KEY == "training_images"
