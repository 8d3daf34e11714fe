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


def test_a_row_has_the_accuracy_of_its_own_file(tmp_path):
    compared = tmp_path / "compared"
    compared.mkdir()
    rows = [
        {"name": "JAX", "accuracy": dict.fromkeys(AVERAGES, 0.0)},
        {"name": "litert float32", "accuracy": AVERAGES},
        {"name": "litert int8", "accuracy": dict.fromkeys(AVERAGES, 0.0)},  # weights alone
        {"name": "litert int8, calibrated", "accuracy": AVERAGES | {"age": 0.4375}},
    ]
    (compared / "dinov2-s14-98.json").write_text(json.dumps({"model": "mine", "rows": rows}))
    page = reported(tmp_path, f"--compared={compared}")
    shown = {
        (cells[3], cells[4]): cells[12:15]
        for line in page.splitlines()
        if line.startswith("| dinov2-s14 | 98 |") and (cells := [cell.strip() for cell in line.split("|")])
    }
    assert shown["litert", "float32"] == ["50.00", "75.00", "25.00"]
    assert shown["litert", "int8"] == ["43.75", "75.00", "25.00"]
    assert shown["onnx", "float32"] == shown["onnx", "int8"] == ["", "", ""]
