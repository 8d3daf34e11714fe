"""From collected results to tables, with made-up numbers."""

import pytest
from scipy import stats

from softbio_jax.errors import UserError
from softbio_jax.thesis.study import claims, results, tables
from softbio_jax.thesis.study.collected import Collected
from softbio_jax.thesis.study.study import Trial
from tests.thesis.small_study import result

EMOTION = {"lora": (0.60, 0.62, 0.58), "ft": (0.50, 0.52, 0.54), "lora_emotion": (0.55, 0.59, 0.56)}


def collected_values():
    """Three cells of three seeds; the second factor lost the search."""
    runs, cells = [], {}
    for cell, values in EMOTION.items():
        tasks = ("emotion",) if cell == "lora_emotion" else ("emotion", "age", "gender")
        cells[cell] = {"tasks": tasks, "steps": 4, "batch_size": 16}
        for seed, emotion in enumerate(values):
            run = Trial(cell=cell, factor=1.0, seed=seed)
            runs.append(result(run, loss=1.0 + seed, emotion=emotion) | {"chosen": True})
        lost = Trial(cell=cell, factor=4.0, seed=0)
        runs.append(result(lost, loss=9.0, emotion=0.99) | {"chosen": False})
    failed = {"cell": "ft", "factor": 16.0, "rate": 1.0, "seed": 0, "validation_loss": None}
    runs.append(failed | {"failed": "not finite", "chosen": False, "date": "2026-11-22"})
    return {
        "schema": results.SCHEMA,
        "complete": False,
        "date": "2026-11-22",
        "jobs": 2,
        "machine": "2 CPU cores",
        "versions": {"jax": "0.10.2"},
        "seeds": [0, 1, 2],
        "factors": [1.0, 4.0, 16.0],
        "tower": {},
        "cells": cells,
        "runs": runs,
    }


@pytest.fixture
def made_up():
    return Collected(values=collected_values())


def rows_of(table):
    return {
        cells[0]: cells[1:]
        for line in table.splitlines()
        if (cells := [cell.strip() for cell in line.strip("|").split("|")])
    }


def test_a_cell_has_mean_both_intervals_and_the_arrow(made_up):
    rows = rows_of(tables.methods(made_up))
    half = stats.t.ppf(0.975, 2) * stats.sem([60.0, 62.0, 58.0])
    assert half == pytest.approx(4.968, abs=1e-3)
    assert rows["LoRA"][0] == "60.0 ± 5.0 [56.0, 64.0] (↑)"
    assert rows["LoRA"][1] == "30.0 ± 0.0 [26.0, 34.0]", "no single-task twin, no arrow"
    assert rows["LoRA"][4:] == ["1,234", "10"]
    assert rows["majority"][:4] == ["25.0"] * 4
    assert "LP" not in rows, "a cell that is not done has no row"


def test_an_arrow_without_brackets_means_that_the_interval_excludes_zero():
    values = collected_values()
    for run in values["runs"]:
        if run["cell"] == "lora_emotion":
            run["averages"]["emotion"] = EMOTION["lora"][run["seed"]] + 0.05
    rows = rows_of(tables.methods(Collected(values=values)))
    assert rows["LoRA"][0].endswith("] ↓")


def test_a_difference_is_paired_by_seed(made_up):
    rows = rows_of(tables.comparisons(made_up))
    test = stats.ttest_rel([60.0, 62.0, 58.0], [50.0, 52.0, 54.0])
    low, high = test.confidence_interval(0.95)
    emotion = rows["LoRA - FT"][0].strip("*")
    assert emotion == f"{(low + high) / 2:+.1f} ± {(high - low) / 2:.1f}"
    assert rows["LoRA - FT"][1] == "+0.0 ± 0.0"
    assert rows["LoRA - FT"][4] == "+1.13", "84.07 - 82.94 of the thesis"
    assert rows["LoRA - FT"][5] == "not decided"


def test_only_seeds_that_both_have_are_compared():
    values = collected_values()
    values["runs"] = [r for r in values["runs"] if (r["cell"], r["seed"]) != ("ft", 1)]
    change = Collected(values=values).difference("lora", "ft", "emotion")
    assert change.n == 2 and change.mean == pytest.approx((10.0 + 4.0) / 2)


def test_the_search_is_shown_with_what_it_chose(made_up):
    rows = rows_of(tables.rates(made_up))
    assert rows["`ft`"] == ["**1.0000**", "9.0000", "diverged", "0.01"]


def test_other_metrics_are_averaged_over_the_test_sets(made_up):
    rows = rows_of(tables.balanced(made_up, tables.METHODS))
    assert rows["LoRA"][0].startswith("50.0 ± ") and rows["LoRA"][1] == "20.0 ± 0.0"
    assert rows["LoRA"][4].startswith("40.0 ± ")


def test_the_state_counts_what_is_missing(made_up):
    text = tables.state(made_up)
    assert "13 of 15 runs, 1 of them diverged" in text and "2 CPU cores" in text


def test_all_tasks_against_three_models():
    values = collected_values()
    for cell in ("lora_age", "lora_gender"):
        values["cells"][cell] = {"tasks": (cell.removeprefix("lora_"),), "steps": 4, "batch_size": 16}
        for seed in range(3):
            run = Trial(cell=cell, factor=1.0, seed=seed)
            values["runs"].append(result(run, age=0.33, gender=0.7) | {"chosen": True})
    rows = rows_of(tables.single(Collected(values=values)))
    assert rows["LoRA, all tasks minus one"][1:3] == ["**-3.0 ± 0.0**", "+0.0 ± 0.0"]
    expected = (60.0 - (55.0 + 59.0 + 56.0) / 3 - 3.0 + 0.0) / 3
    assert rows["LoRA, all tasks minus one"][3].startswith(f"{expected:+.1f}")


def test_a_page_gets_its_tables_and_nothing_else_changes():
    text = "# Page\n\n<!-- table: rates -->\nold\n<!-- end -->\n\nwords\n"
    new = tables.filled(text, {"rates": "| a |"})
    assert new == "# Page\n\n<!-- table: rates -->\n\n| a |\n\n<!-- end -->\n\nwords\n"
    assert tables.filled(new, {"rates": "| a |"}) == new


@pytest.mark.parametrize("text", ["# Page\n", "<!-- table: nothing -->\n<!-- end -->\n"])
def test_a_page_without_the_right_markers_is_reported(text):
    with pytest.raises(UserError, match="no place for the tables"):
        tables.filled(text, {"rates": "| a |"})


@pytest.mark.parametrize(
    ("content", "message"),
    [(None, "no collected results"), ("{", "damaged results"), ("{}", "schema"), ("[]", "schema")],
)
def test_what_cannot_be_read_is_reported(tmp_path, content, message):
    path = tmp_path / "results.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(UserError, match=message):
        tables.tables_of(path)


def test_claims_are_tested_over_seeds_and_corrected_for_the_whole_family(made_up):
    found = {(row[1], row[2]): row[3:] for row in claims.rows(made_up)}
    assert {name for name, _ in found} == {"LoRA - FT_4", "LoRA, all - one"}  # of the others no cell is there
    p = [stats.ttest_rel(EMOTION["lora"], EMOTION[other]).pvalue for other in ("ft", "lora_emotion")]
    smaller, larger = sorted(p)
    adjusted = {smaller: 15 * smaller, larger: max(15 * smaller, 14 * larger)}
    for name, value in zip(("LoRA - FT_4", "LoRA, all - one"), p, strict=True):
        seeds, _, shown, corrected, verdict = found[name, "emotion"]
        assert (seeds, shown, corrected) == ("3", f"{value:.3f}", f"{min(1, adjusted[value]):.3f}")
        assert verdict == "not decided"
    assert found["LoRA - FT_4", "age"] == ["3", "+0.0 ± 0.0", "1.000", "1.000", "not decided"]


def test_a_claim_that_survives_the_correction_has_a_direction():
    values = collected_values()
    for run in values["runs"]:
        if run["cell"] == "ft" and run["chosen"]:
            run["averages"]["emotion"] = EMOTION["lora"][run["seed"]] + 0.1 + 0.001 * run["seed"]
    found = {(row[1], row[2]): row[-1] for row in claims.rows(Collected(values=values))}
    assert found["LoRA - FT_4", "emotion"] == "lower"
