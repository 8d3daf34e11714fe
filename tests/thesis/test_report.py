"""Paper and Reproduced columns: the right value in the right cell, marked where it must be."""

import dataclasses

import pytest

from softbio_jax.tasks import TASKS
from softbio_jax.thesis import paper, report


def cell(table, row, column, *, occurrence=0):
    """The cell in the row that begins with `row`, under the n-th header `column`."""
    rows = [r for r in table.rows if r[: len(row)] == row]
    assert len(rows) == 1, f"{len(rows)} rows begin with {row}"
    columns = [i for i, name in enumerate(table.header) if name == column]
    return rows[0][columns[occurrence]]


def rows_of(loaded):
    own = [run for run in loaded if not run.external]
    return {method: report.multitask_run(own, method) for method in paper.METHODS}, own


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("fairface", "fairface"),
        ("FairFace/val", "fairface"),
        ("synthetic_raf_db", "raf_db"),
        ("RAF-DB", "raf_db"),
        ("utk", "utkface"),
        ("vggface2", "vggface2"),
        ("fer", None),
        ("lagenda", None),
    ],
)
def test_test_set_key(name, key):
    assert paper.test_set_key(name) == key


def test_a_report_on_other_test_sets_has_no_tables_of_the_thesis(loaded):
    assert len(report.sections(loaded)) == 1
    run = loaded[0]
    mine = {"mine": next(iter(run.summary["datasets"].values()))}
    own = dataclasses.replace(run, summary=run.summary | {"datasets": mine})
    assert report.sections([own]) == []


def test_printed_averages_have_the_vocabularys_tasks():
    for tasks in paper.ZERO_SHOT.values():
        assert set(tasks) <= set(TASKS)
    for values in paper.AVERAGES.values():
        assert set(values) == {*TASKS, "overall"}
    assert all(len(cells) == len(paper.SOTA_COLUMNS) for cells in paper.SOTA.values())


def test_the_row_of_a_method_is_its_run_with_the_most_tasks(loaded):
    rows, _ = rows_of(loaded)
    assert rows["lora"].name == "lora"  # and not lora_age
    assert rows["mtlora"].name == "mtlora"
    assert rows["zs"] is None


def test_zero_shot_table_without_a_zero_shot_run():
    table = report.zero_shot(None)
    assert cell(table, ("UTKFace", "age"), "Paper") == "48.62"
    assert cell(table, ("VGGFace2", "gender"), "Paper") == "95.78"
    assert {row[3] for row in table.rows} == {"–"}


def test_zero_shot_averages_by_the_rule():
    table = report.zero_shot_averages(None)
    assert cell(table, ("age",), "Paper") == "47.36"
    assert cell(table, ("age",), "Paper, by the rule from 4.1") == "47.365"
    assert cell(table, ("overall",), "Paper") == "69.61"
    assert cell(table, ("overall",), "Paper, by the rule from 4.1") == "70.202"
    assert any("70.20" in note for note in table.notes)


def test_another_selection_of_a_test_set_is_marked(loaded):
    lora = loaded[0]
    share = lora.summary["datasets"]["fairface"]["age"]["accuracy"]
    assert report.accuracy(lora, "fairface", "age") == f"{100 * share:.2f} ‡"
    assert report.accuracy(lora, "utkface", "age") == "–"


def test_the_thesis_own_test_set_is_not_marked(loaded, monkeypatch):
    lora = loaded[0]
    metrics = lora.summary["datasets"]["fairface"]["age"]
    monkeypatch.setattr(paper, "TEST_SETS", {"fairface": ("FairFace", metrics["n"])})
    assert report.accuracy(lora, "fairface", "age") == f"{100 * metrics['accuracy']:.2f}"


def test_arrows_against_the_single_task_run(loaded):
    rows, own = rows_of(loaded)
    table = report.method_averages(rows, own)
    assert cell(table, ("LoRA",), "age", occurrence=0) == "63.53 ↑"
    both, single = (run.summary["averages"]["age"] for run in own[:2])
    arrow = "↑" if both > single else "↓"
    assert both != single
    assert cell(table, ("LoRA",), "age", occurrence=1) == f"{100 * both:.2f} ‡ {arrow}"
    # No single-task run of gender, and none at all of MTLoRA.
    gender = rows["lora"].summary["averages"]["gender"]
    assert cell(table, ("LoRA",), "gender", occurrence=1) == f"{100 * gender:.2f} ‡"
    assert cell(table, ("MTLoRA",), "age", occurrence=1)[-1] == "‡"
    assert cell(table, ("LP",), "overall", occurrence=1) == "–"
    assert any("81.24" in note for note in table.notes)


def test_third_parties_stand_in_the_state_of_the_art(loaded):
    rows, _ = rows_of(loaded)
    table = report.state_of_the_art(rows, loaded)
    assert cell(table, ("MiVOLO 384",), "Paper") == "62.28"
    assert cell(table, ("APViT",), "Paper", occurrence=4) == "92.21 b"
    share = loaded[3].summary["datasets"]["fairface"]["age"]["accuracy"]
    assert cell(table, ("Other & Co (given)",), "Reproduced") == f"{100 * share:.2f} ‡"
    assert cell(table, ("Other & Co (given)",), "Reproduced", occurrence=4) == "–"


def test_a_third_party_named_like_a_quoted_row_fills_that_row(loaded):
    named = dataclasses.replace(loaded[3], name="MiVOLO 384")
    rows, _ = rows_of(loaded)
    table = report.state_of_the_art(rows, [*loaded[:3], named])
    assert cell(table, ("MiVOLO 384",), "Reproduced") != "–"
    assert not any("given" in row[0] for row in table.rows)


def test_balanced_emotion(loaded):
    rows, _ = rows_of(loaded)
    table = report.balanced_emotion(rows, loaded)
    metrics = loaded[0].summary["datasets"]["raf_db"]["emotion"]
    assert cell(table, ("LoRA",), "Paper", occurrence=1) == "85.90"
    balanced = f"{100 * metrics['balanced_accuracy']:.2f} ‡"
    assert cell(table, ("LoRA",), "Reproduced", occurrence=1) == balanced
