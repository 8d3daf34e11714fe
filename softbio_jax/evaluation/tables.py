"""One evaluation as a table for the terminal."""

from collections.abc import Mapping, Sequence
from typing import Any

HEADER = ("test set", "task", "n", "accuracy", "floor", "balanced", "macro-F1")


def text(summary: Mapping[str, Any]) -> str:
    """Lays out the figures of `evaluate.summarise` for reading, all in per cent.

    Args:
      summary: what `evaluate.summarise` or `evaluate.write` returned.

    Returns:
      Several lines: a row a test set and task with the majority class's accuracy (floor)
      beside it, then the averages. A star marks figures that stay out of the averages.
    """
    rows = []
    synthetic = summary["synthetic_labels"]
    for name, tasks in summary["datasets"].items():
        for task, figures in tasks.items():
            star = " *" if task in synthetic.get(name, ()) else ""
            rows.append(
                (
                    name,
                    task + star,
                    f"{figures['n']:,}",
                    *(
                        percent(figures[key])
                        for key in ("accuracy", "majority", "balanced_accuracy", "macro_f1")
                    ),
                )
            )
    lines = [aligned([HEADER, *rows])]
    averages = "   ".join(f"{task} {percent(value)}" for task, value in summary["averages"].items())
    lines.append(f"averages: {averages or 'none'}")
    if any(synthetic.values()):
        lines.append("* labels are a model's output: not in the averages")
    return "\n".join(lines)


def percent(value: float) -> str:
    """Returns a share as per cent with two decimals."""
    return f"{100 * value:.2f}"


def aligned(rows: Sequence[Sequence[str]]) -> str:
    """Returns rows of cells as aligned lines: the first two columns left, figures right."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = [
        "  ".join(
            cell.ljust(width) if i < 2 else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
    lines.insert(1, "  ".join("-" * width for width in widths))
    return "\n".join(lines)
