"""The report's folder: complete, replaced as one, and right about groups and comparisons."""

import csv
import json
import os
import subprocess
import sys

import numpy as np
import pytest

from softbio_jax.evaluation import evaluate
from softbio_jax.evaluation.metrics import comparison, multiplicity
from softbio_jax.evaluation.report import document, groups, render, results, trust, write
from softbio_jax.evaluation.report.runs import RunResults
from softbio_jax.tasks import MISSING
from tests.evaluation.fixtures import hand_made
from tests.evaluation.report.conftest import ROOT


def empty(*_, **__):
    return write.Document(title="t", subtitle="s", highlights=(), sections=())


def test_everything_is_there_and_nothing_else(report):
    pages = {f"comparison.{form}" for form in ("html", "md", "tex")}  # the run and a third party
    assert {path.name for path in report.iterdir()} == {*write.FILES, *pages}
    assert [path.name for path in (report / "cards").iterdir()] == ["lora.md"]


def test_a_second_report_replaces_the_first_and_leaves_strangers_alone(report, loaded, tmp_path, monkeypatch):
    (tmp_path / "figures").mkdir()
    (tmp_path / "figures" / "old.png").write_text("old")
    for name in ("report.md", "comparison.html"):
        (tmp_path / name).write_text("old")
    (tmp_path / "mine.txt").write_text("keep")
    monkeypatch.setattr(write, "compose", empty)
    write.write(loaded[:1], tmp_path)
    assert not (tmp_path / "figures" / "old.png").exists()
    assert "old" not in (tmp_path / "report.md").read_text()
    assert not (tmp_path / "comparison.html").exists()  # of a report on several runs
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
    summary = data["runs"][0]["summary"]
    low, high = summary["average_intervals"]["overall"]
    shown = f"95 % interval {100 * low:.1f} to {100 * high:.1f}; majority class "
    assert f"- **{100 * summary['averages']['overall']:.1f} %** overall accuracy ({shown}" in text
    assert "- **2.00 %** of the weights trained (1,000 parameters)" in text


def test_a_run_of_one_task_has_nothing_of_the_others(loaded):
    content = write.compose(loaded[1:2], groups.audits(loaded[1:2]))
    assert [name for _, name, _ in content.highlights] == ["age accuracy", "of the weights trained"]
    for table in content.tables():
        assert not {"gender", "emotion", "overall"} & set(table.header), table.title
        for index, name in enumerate(table.header[table.text_columns :], table.text_columns):
            assert {row[index] for row in table.rows} - {"", "–"}, (table.title, name)


def test_headline_cards_say_what_chance_gives_and_how_many_were_seen(loaded):
    content = write.compose(loaded[1:2], groups.audits(loaded[1:2]))
    metrics = loaded[1].summary["datasets"]["fairface"]["age"]  # the only averaged set
    value, _, remark = content.highlights[0]
    assert value == f"{100 * metrics['accuracy']:.1f} %"
    low, high = (100 * bound for bound in metrics["intervals"]["accuracy"])
    assert f"{low:.1f} to {high:.1f}" in remark
    assert f"majority class {100 * metrics['majority']:.1f}; {metrics['n']} images of fairface" in remark


def test_paired_tests_are_adjusted_over_all_rows(loaded):
    (table,) = trust.comparisons(loaded).blocks
    raw = [
        comparison.compare(run.predictions[name], loaded[0].predictions[name], task)["p_value"]
        for run in loaded[1:]
        for name, task in results.judged([run])
    ]
    column = table.header.index("p adjusted")
    assert [row[column] for row in table.rows] == list(map(document.p_value, multiplicity.holm(raw)))
    assert [row[column - 1] for row in table.rows] == list(map(document.p_value, raw))


def test_a_class_that_is_too_small_says_so():
    labels = [0] * 20 + [1] * 3
    faces = hand_made("faces", "gender", labels, np.eye(2)[labels])
    run = RunResults(
        name="r", path=None, summary=evaluate.summarise([faces], model={}), predictions={"faces": faces}
    )
    table = results.confusion([run]).blocks[-1]
    female = next(row for row in table.rows if row[2] == "female")
    assert female[5] == "100.00 [too few]" and any("fewer than 5" in note for note in table.notes)


# The peak that wait4 returns is at least that of the process which started the program.
_PEAK = """
import atexit, pathlib, re
def peak():
    status = pathlib.Path("/proc/self/status").read_text()
    pathlib.Path("peak").write_text(re.search(r"VmHWM:\\s*(\\d+) kB", status)[1])
atexit.register(peak)
"""


@pytest.mark.long
def test_a_hundred_thousand_predictions_take_bounded_time_and_memory(tmp_path):
    """Evaluation and the whole report: at most two minutes of processor time and 2 GB each."""
    code = """
import pathlib, sys
import numpy as np
from softbio_jax.evaluation import evaluate
from tests.evaluation.fixtures import random_predictions
tasks = ("age", "gender", "emotion")
sets = [random_predictions("faces", tasks=tasks, n=100_000)]
validation = random_predictions("validation", tasks=tasks, n=5_000)
features = {"faces": np.random.default_rng(0).normal(size=(1000, 64))}
path = pathlib.Path(sys.argv[1])
evaluate.write(path, sets, model={"method": "lora"}, validation=validation, features=features)
"""
    report = f"""
import runpy, sys
sys.argv = ["report.py", "run", "--out=report"]
runpy.run_path({str(ROOT / "scripts" / "report.py")!r}, run_name="__main__")
"""
    environment = os.environ | {"PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"}
    spent, largest = 0.0, 0
    for number, command in enumerate((code, report)):
        program = f"{_PEAK}\n{command}"
        done = subprocess.Popen([sys.executable, "-c", program, "run"], cwd=tmp_path, env=environment)
        _, status, usage = os.wait4(done.pid, 0)
        done.returncode = os.waitstatus_to_exitcode(status)
        assert done.returncode == 0, number
        spent += usage.ru_utime + usage.ru_stime
        largest = max(largest, int((tmp_path / "peak").read_text()))
    assert (tmp_path / "report" / "report.html").is_file()
    assert spent < 120, f"{spent:.0f} s of processor time"
    assert largest < 2 * 2**20, f"{largest / 2**20:.2f} GiB"  # in KiB
