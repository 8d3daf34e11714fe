"""docs/latency.md: accuracies beside latencies, and a page that shows the committed figures."""

import json
import shutil

from tests.scripts import run_script
from tests.structure import ROOT

DOCS = ROOT / "docs"
AVERAGES = {"age": 0.5, "gender": 0.75, "emotion": 0.25}


def reported(folder, *flags):
    """Runs the command on copies of the page and its figures; returns the page."""
    for name in ("latency.md", "latency.json"):
        shutil.copy(DOCS / name, folder)
    given = (f"--report={folder / 'latency.json'}", f"--page={folder / 'latency.md'}")
    done = run_script("benchmarks/latency.py", *given, *flags)
    assert done.returncode == 0, done.stderr
    return (folder / "latency.md").read_text()


def test_the_page_shows_the_committed_figures(tmp_path):
    assert reported(tmp_path) == (DOCS / "latency.md").read_text()


def test_a_row_has_the_accuracy_of_its_own_precision(tmp_path):
    records, int8 = tmp_path / "docs", tmp_path / "int8"
    (records / "foundation_study").mkdir(parents=True)
    int8.mkdir()
    for seed, more in enumerate((0.0, 0.02)):
        averages = {task: value + more for task, value in AVERAGES.items()}
        path = records / "foundation_study" / f"lora-x1-seed{seed}.json"
        path.write_text(json.dumps({"averages": averages}))
    short = records / "foundation_study" / "lora-x1-seed0-share0.25.json"  # of a search
    short.write_text(json.dumps({"averages": dict.fromkeys(AVERAGES, 0.0)}))
    rows = [
        {"name": "litert float32", "accuracy": AVERAGES},
        {"name": "litert int8, calibrated", "accuracy": AVERAGES | {"age": 0.4375}},
    ]
    (int8 / "dinov2-s14-98.json").write_text(json.dumps({"model": "mine", "rows": rows}))
    page = reported(tmp_path, f"--records={records}", f"--int8={int8}")
    shown = {
        (cells[3], cells[4]): cells[12:15]
        for line in page.splitlines()
        if line.startswith("| dinov2-s14 | 98 |") and (cells := [cell.strip() for cell in line.split("|")])
    }
    assert shown["litert", "float32"] == shown["onnx", "float32"] == ["51.00", "76.00", "26.00"]
    assert shown["litert", "int8"] == ["43.75", "75.00", "25.00"]
    assert shown["onnx", "int8"] == ["", "", ""]
    assert "dinov2-s14 at 98 pixels: `lora`, seeds: 2." in page
