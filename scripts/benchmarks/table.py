"""The results as a Markdown table."""

from collections.abc import Mapping, Sequence
from typing import Any

_HEAD = "| work | ours | theirs | ratio | paired | target | |\n|---|---|---|---|---|---|---|"


def markdown(results: Sequence[Mapping[str, Any]]) -> str:
    """Returns a table with a row a case.

    Times are medians with the interquartile range after the sign; ratio is that of the medians,
    paired the median of the ratios of neighbouring repetitions; below 1 this package is better.
    """
    return "\n".join([_HEAD, *(row(result) for result in results)])


def row(result: Mapping[str, Any]) -> str:
    """Returns the row of one case."""
    entries = result["entries"]
    ours = next(iter(entries))
    cells = [result["title"], _value(entries[ours], result)]
    if "best" in result:
        best = result["best"]
        cells += [
            f"{_value(entries[best], result)} ({best})",
            f"{result['ratio']:.2f}",
            "-" if result["measure"] == "memory" else f"{result['paired_ratio']:.2f}",
        ]
    else:
        cells += ["-", "-", "-"]
    cells.append(_target(result))
    cells.append({True: "reached", False: "**not reached**", None: ""}[result["reached"]])
    return f"| {' | '.join(cells)} |"


def _target(result: Mapping[str, Any]) -> str:
    if result["target"] is None:
        return "-"
    return f"<= {result['target']:g}" + ("" if "best" in result else " s")


def _value(entry: Mapping[str, Any], result: Mapping[str, Any]) -> str:
    median, spread = entry["median"], entry["spread"]
    if result["measure"] == "memory":
        return f"{median:,.0f} MiB"
    if median < 1:
        text = f"{1e3 * median:.3g} ± {1e3 * spread:.2g} ms"
    else:
        text = f"{median:.2f} ± {spread:.2f} s"
    if result["images"]:
        text += f", {result['images'] / median:.3g} images/s"
    return text
