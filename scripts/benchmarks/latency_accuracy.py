"""What is known of the accuracy of the models of docs/latency.md."""

import dataclasses
import json
import pathlib
import re
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from softbio_jax.tasks import TASKS

_FULL = re.compile(r"(\w+)-x[\d.]+-seed\d+\.json")  # of a trial with all its steps
# The encoder and size of studies, and the study and cell whose model is compared: the first with a full run.
_STUDIED: Mapping[tuple[str, int], Sequence[tuple[str, str]]] = {
    ("PE-Core-T16-384", 96): (("distill_study", "t16_distilled"),),
    ("dinov2-s14-first6", 98): (("distill_study", "b6_distilled"),),
    ("dinov2-s14", 98): tuple(("foundation_study", cell) for cell in ("lora_long", "lora", "ft")),
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Accuracies:
    """Accuracies in [0, 1] by encoder and size.

    Args:
      float32: task -> mean over the seeds of a study's cell.
      int8: format -> task -> that of one seed's calibrated file.
      sources: a sentence on each of `float32`.
    """

    float32: Mapping[tuple[str, int], Mapping[str, float]]
    int8: Mapping[tuple[str, int], Mapping[str, Mapping[str, float]]]
    sources: Sequence[str]

    def of(self, row: Mapping[str, Any]) -> Mapping[str, float]:
        """Returns task -> accuracy of a measured file, empty if it is not known."""
        key = (row["variant"], row["size"])
        if row["precision"] == "float32":
            return self.float32.get(key, {})
        return self.int8.get(key, {}).get(row["format"], {})


def accuracies(records: pathlib.Path, int8: pathlib.Path) -> Accuracies:
    """Returns what is known; nothing where there are no files.

    Args:
      records: a folder with a folder of records for each study.
      int8: a folder of {encoder}-{size}.json of export.py --compare.
    """
    exact, sources, rounded = {}, [], {}
    for key, cells in _STUDIED.items():
        name, size = key
        for study, cell in cells:
            if runs := _runs_of(records / study, cell):
                averages = [json.loads(path.read_text())["averages"] for path in runs]
                exact[key] = {task: statistics.mean(run[task] for run in averages) for task in TASKS}
                sources.append(f"{name} at {size} pixels: `{cell}`, seeds: {len(runs)}")
                break
        path = int8 / f"{name}-{size}.json"
        if path.is_file():
            rows = json.loads(path.read_text())["rows"]
            suffix = " int8, calibrated"
            rounded[key] = {
                row["name"].removesuffix(suffix): row["accuracy"]
                for row in rows
                if row["name"].endswith(suffix)
            }
    return Accuracies(float32=exact, int8=rounded, sources=sources)


def _runs_of(records: pathlib.Path, cell: str) -> list[pathlib.Path]:
    """Returns the records of a cell's runs with all their steps, one per seed."""
    found = sorted(records.glob(f"{cell}-*.json"))
    return [path for path in found if (match := _FULL.fullmatch(path.name)) and match[1] == cell]
