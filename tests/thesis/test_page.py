"""docs/small_reproduction.md shows the committed results."""

import json

from softbio_jax.thesis.study import tables
from tests.thesis.small_study import ROOT

PAGE = ROOT / "docs" / "small_reproduction.md"
COLLECTED = ROOT / "docs" / "small_reproduction.json"


def test_the_page_shows_the_committed_results():
    text = PAGE.read_text()
    assert tables.filled(text, tables.tables_of(COLLECTED)) == text


def test_the_committed_results_hold_only_numbers():
    values = json.loads(COLLECTED.read_text())
    text = COLLECTED.read_text()
    assert "/home" not in text and "/tmp" not in text and ".jpg" not in text
    whole = len(values["cells"]) * (len(values["factors"]) + len(values["seeds"]) - 1)
    assert values["complete"] and len(values["runs"]) == whole
    for cell in values["cells"]:
        seeds = [run["seed"] for run in values["runs"] if run["cell"] == cell and run["chosen"]]
        assert sorted(seeds) == values["seeds"], "no seed dropped"
