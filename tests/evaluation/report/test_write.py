"""The report's folder: complete, replaced as one, and right about groups and comparisons."""

import csv
import json

import numpy as np
import pytest

from softbio_jax.evaluation.metrics import comparison
from softbio_jax.evaluation.report import render, results, trust, write
from softbio_jax.tasks import MISSING


def empty(*_, **__):
    return write.Document(title="t", subtitle="s", highlights=(), sections=())


def test_everything_is_there_and_nothing_else(report):
    assert {path.name for path in report.iterdir()} == set(write.FILES)
    assert [path.name for path in (report / "cards").iterdir()] == ["lora.md"]


def test_a_second_report_replaces_the_first_and_leaves_strangers_alone(report, loaded, tmp_path, monkeypatch):
    (tmp_path / "figures").mkdir()
    (tmp_path / "figures" / "old.png").write_text("old")
    (tmp_path / "report.md").write_text("old")
    (tmp_path / "mine.txt").write_text("keep")
    monkeypatch.setattr(write, "compose", empty)
    write.write(loaded[:1], tmp_path)
    assert not (tmp_path / "figures" / "old.png").exists()
    assert "old" not in (tmp_path / "report.md").read_text()
    assert (tmp_path / "mine.txt").read_text() == "keep"


def test_a_failed_report_leaves_the_first_alone(loaded, tmp_path, monkeypatch):
    (tmp_path / "report.html").write_text("old")

    def broken(*_):
        raise OSError("disk full")

    monkeypatch.setattr(write, "compose", empty)
    monkeypatch.setattr(render, "document", broken)
    with pytest.raises(OSError, match="disk full"):
        write.write(loaded[:1], tmp_path)
    assert (tmp_path / "report.html").read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["report.html"]


def test_groups_file_counts_every_labelled_example(report, loaded):
    with (report / "fairness.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    chosen = [
        row
        for row in rows
        if (row["run"], row["test_set"], row["task"], row["groups"]) == ("lora", "fairface", "gender", "race")
    ]
    labels = loaded[0].predictions["fairface"].labels["gender"]
    assert sum(int(row["n"]) for row in chosen) == np.sum(labels != MISSING)
    assert {row["race"] for row in chosen} == {"Black", "Indian", "White"}
    assert {row["small"] for row in chosen} == {"True"}


def test_results_table_repeats_the_evaluation(loaded):
    metrics = loaded[0].summary["datasets"]["fairface"]["age"]
    section = results.results(loaded[:1])
    table = section.blocks[-1]
    row = next(row for row in table.rows if row[:2] == ("fairface", "age"))
    assert row[2] == str(metrics["n"])
    low, high = metrics["intervals"]["accuracy"]
    assert row[3] == f"{100 * metrics['accuracy']:.2f} [{100 * low:.1f}, {100 * high:.1f}]"
    starred = [row for row in table.rows if row[1].endswith("*")]
    assert [row[0] for row in starred] == ["vggface2"]


def test_averages_over_other_sets_are_called_out(loaded):
    table = results.results([loaded[0], loaded[3]]).blocks[1]
    assert any("Other & Co" in note and "not comparable" in note for note in table.notes)


def test_comparisons_are_against_the_first_run(loaded):
    assert trust.comparisons(loaded[:1]) is None
    (table,) = trust.comparisons(loaded).blocks
    assert "lora" in table.title
    row = next(row for row in table.rows if row[:3] == ("mtlora", "raf_db", "emotion"))
    found = comparison.compare(loaded[2].predictions["raf_db"], loaded[0].predictions["raf_db"], "emotion")
    assert row[7] == f"{found['first_only']} : {found['second_only']}"
    change = found["differences"]["accuracy"]["difference"]
    assert row[4].startswith(f"{100 * change:+.2f} [")
    pairs = {row[:3] for row in table.rows}
    assert ("lora_age", "fairface", "age") in pairs
    assert ("lora_age", "fairface", "gender") not in pairs


def test_the_subtitle_names_the_tasks_that_were_judged(loaded):
    assert write.subtitle(loaded[:1]).startswith("Age, gender and emotion from faces. Runs: lora.")
    assert write.subtitle(loaded[1:2]).startswith("Age from faces. Runs: lora_age. Written 2")


def test_highlights_are_those_of_the_run_with_the_most_tasks(report):
    text = (report / "report.md").read_text(encoding="utf-8")
    data = json.loads((report / "report.json").read_text(encoding="utf-8"))
    overall = data["runs"][0]["summary"]["averages"]["overall"]
    assert f"- **{100 * overall:.2f} %** overall accuracy (average of lora)" in text
    assert "- **2.00 %** of the weights trained (1,000 parameters)" in text
