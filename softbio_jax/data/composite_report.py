"""The composite beside the thesis' tables, as text and as a picture."""

from __future__ import annotations

import pathlib
from collections.abc import Sequence

from softbio_jax.data.composite import ClassRow
from softbio_jax.tasks import TASKS


def as_text(rows: Sequence[ClassRow]) -> str:
    """Lays the comparison out as aligned columns, one block a task."""
    lines = []
    for task in TASKS:
        block = [row for row in rows if row.task == task]
        if not block:
            continue
        total, thesis_total = sum(r.rows for r in block), sum(r.thesis_rows for r in block)
        lines.append(
            f"{task:<9} {'rows':>9} {'thesis':>9} {'diff':>8}   "
            f"{'drawn %':>8} {'thesis %':>8} {'z':>6}"
        )
        for r in block:
            lines.append(
                f"{r.name:<9} {r.rows:>9,} {r.thesis_rows:>9,} {r.rows - r.thesis_rows:>+8,}   "
                f"{100 * r.drawn:>8.2f} {100 * r.thesis_drawn:>8.2f} {r.z:>+6.2f}"
            )
        lines.append(f"{'total':<9} {total:>9,} {thesis_total:>9,} {total - thesis_total:>+8,}")
        lines.append("")
    return "\n".join(lines)


def write_picture(rows: Sequence[ClassRow], path: pathlib.Path) -> None:
    """Draws each class' share of the rows, of the draws, and of the draws in the thesis."""
    from matplotlib.figure import Figure

    tasks = [task for task in TASKS if any(row.task == task for row in rows)]
    figure = Figure(figsize=(4.5 * len(tasks), 3.6), layout="constrained")
    for axes, task in zip(figure.subplots(1, len(tasks), squeeze=False)[0], tasks, strict=True):
        block = [row for row in rows if row.task == task]
        total = max(sum(row.rows for row in block), 1)
        series = {
            "rows": [100 * row.rows / total for row in block],
            "drawn, expected": [100 * row.drawn for row in block],
            "drawn, thesis": [100 * row.thesis_drawn for row in block],
        }
        colours = ("0.75", "tab:blue", "tab:orange")
        for number, ((name, values), colour) in enumerate(
            zip(series.items(), colours, strict=True)
        ):
            places = [c + 0.27 * (number - 1) for c in range(len(block))]
            axes.bar(places, values, width=0.27, label=name, color=colour)
        axes.set_xticks(range(len(block)), [row.name for row in block], rotation=45)
        axes.set_title(task)
        axes.set_ylabel("% of labelled")
    axes.legend(frameon=False)
    figure.savefig(path, dpi=120)
