"""From repetitions to medians, spreads and ratios, and the results as a Markdown table."""

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

_QUIET = 0.15  # cores that other processes may use before a row says so
_HEAD = "| work | ours | theirs | ratio | paired | target | |\n|---|---|---|---|---|---|---|"
_PREDICTIONS = (
    "| work | attention | memory predicted | measured | theirs | least time | measured |\n"
    "|---|---|---|---|---|---|---|"
)


def spread(values: Sequence[float]) -> float:
    """Returns the interquartile range, 0 of fewer than two values."""
    if len(values) < 2:
        return 0.0
    low, _, high = statistics.quantiles(values, n=4, method="inclusive")
    return high - low


def paired_ratio(ours: Sequence[float], theirs: Sequence[float]) -> float:
    """Returns the median of the ratios of repetitions that followed each other.

    Load that comes and goes touches both of a pair, so this moves less than the medians do.
    """
    return statistics.median(a / b for a, b in zip(ours, theirs, strict=True))


def compare(samples: Mapping[str, Sequence[float]], target: float | None) -> dict[str, Any]:
    """Compares the first entry with the best, by its median, of the others.

    Args:
      samples: the repetitions of each entry, as many of each, in the order they were taken.
      target: the largest ratio that counts as reached, or None.

    Returns:
      For each entry median, spread and samples; the best opponent's label, the ratio of medians,
      the median of paired ratios, and whether the former is within the target (None without one).
      With one entry, its median is compared with the target.
    """
    medians = {label: statistics.median(values) for label, values in samples.items()}
    entries = {
        label: {"median": medians[label], "spread": spread(values), "samples": list(values)}
        for label, values in samples.items()
    }
    ours, *others = samples
    found: dict[str, Any] = {"entries": entries, "target": target}
    value = medians[ours]
    if others:
        best = min(others, key=lambda label: medians[label])
        value = medians[ours] / medians[best]
        found |= {"best": best, "ratio": value, "paired_ratio": paired_ratio(samples[ours], samples[best])}
    return found | {"reached": None if target is None else value <= target}


def markdown(results: Sequence[Mapping[str, Any]]) -> str:
    """Returns a table with one row per case.

    Times are medians with the interquartile range after the sign; ratio is that of the medians,
    paired the median of the ratios of neighbouring repetitions; below 1 this package is better.
    """
    return "\n".join([_HEAD, *(row(result) for result in results)])


def predictions(results: Sequence[Mapping[str, Any]]) -> str:
    """Returns a table of what the planner predicted and what was measured; empty without a prediction.

    Memory is the device's. The time is a bound: no step can be faster.
    """
    lines = []
    for result in results:
        ours, *others = result["entries"]
        facts = result["facts"][ours]
        if not facts.get("device_bytes") or "predicted_bytes" not in facts:
            continue
        least = facts.get("predicted_seconds")
        theirs = [result["facts"][label].get("device_bytes", 0) for label in others]
        cells = [
            result["title"],
            facts["attention"],
            _gib(facts["predicted_bytes"]),
            _gib(facts["device_bytes"]),
            _gib(min(theirs)) if theirs else "-",
            f"{1e3 * least:.0f} ms" if least else "-",
            f"{1e3 * result['entries'][ours]['median']:.0f} ms",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join([_PREDICTIONS, *lines]) if lines else ""


def _gib(count: float) -> str:
    return f"{count / 2**30:.2f} GiB"


def row(result: Mapping[str, Any]) -> str:
    """Returns the row of one case."""
    entries = result["entries"]
    ours = next(iter(entries))
    cells = [result["title"], _value(entries[ours], result)]
    if "share_of_peak" in result:
        cells[-1] += f", {100 * result['share_of_peak']:.0f} % of peak"
    if "best" in result:
        best = result["best"]
        cells += [
            f"{_value(entries[best], result)} ({best})",
            f"{result['ratio']:.2f}",
            f"{result['paired_ratio']:.2f}" if len(entries[ours]["samples"]) > 1 else "-",
        ]
    else:
        cells += ["-", "-", "-"]
    verdict = {True: "reached", False: "**not reached**", None: ""}[result["reached"]]
    others = result["facts"].get(ours, {}).get("other_cores", 0.0)
    if others > _QUIET:
        verdict += f" (others used {others:.1f} cores"
        cpu = result.get("cpu_ratio")
        verdict += f"; ratio of processor time {cpu:.2f})" if cpu else ")"
    return f"| {' | '.join([*cells, _target(result), verdict])} |"


def _target(result: Mapping[str, Any]) -> str:
    if result["target"] is None:
        return "-"
    text = f"<= {result['target']:g}{_unit(result)}"
    return text + (f", >= {result['least_rate']:g} images/s" if result["least_rate"] else "")


def _unit(result: Mapping[str, Any]) -> str:
    if result["measure"] != "fact":
        return ""
    return {"percent": " %", "ratio": "", "seconds": " s"}[result["fact"].rsplit("_", 1)[-1]]


def _value(entry: Mapping[str, Any], result: Mapping[str, Any]) -> str:
    median, spread = entry["median"], entry["spread"]
    if result["measure"] == "memory":
        return f"{median:,.0f} MiB"
    if result["measure"] == "fact" and _unit(result) != " s":
        return f"{median:.2g}{_unit(result)}"
    if median < 1:
        text = f"{1e3 * median:.3g} ± {1e3 * spread:.2g} ms"
    else:
        text = f"{median:.2f} ± {spread:.2f} s"
    if result["images"]:
        text += f", {result['images'] / median:.3g} images/s"
    return text
