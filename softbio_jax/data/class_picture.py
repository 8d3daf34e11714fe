"""The class counts of a prepared data set as a picture."""

from __future__ import annotations

import pathlib
from collections.abc import Mapping
from typing import Any


def write(splits: Mapping[str, Any], path: pathlib.Path) -> None:
    """Draws a histogram for each task and split of a report.

    Args:
      splits: a report's "splits".
      path: the PNG to write.
    """
    from matplotlib.figure import Figure

    tasks = list(dict.fromkeys(task for part in splits.values() for task in part["class_counts"]))
    figure = Figure(figsize=(4.2 * len(tasks), 2.6 * len(splits)), layout="constrained")
    grid = figure.subplots(len(splits), len(tasks), squeeze=False)
    for line, (split, part) in zip(grid, splits.items(), strict=True):
        for axes, task in zip(line, tasks, strict=True):
            counts = part["class_counts"][task]
            bars = axes.bar(range(len(counts)), list(counts.values()), color="tab:blue")
            axes.bar_label(bars, fontsize=7)
            axes.set_xticks(range(len(counts)), list(counts), rotation=45, fontsize=8)
            axes.set_title(f"{split}: {task}", fontsize=10)
            axes.margins(y=0.15)
    figure.savefig(path, dpi=110)
