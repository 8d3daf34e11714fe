"""Compiled steps as text: details of one, rows of a table, a verdict."""

from collections.abc import Mapping, Sequence

from softbio_jax.console import percent
from softbio_jax.planning.fit import Fit
from softbio_jax.runs.chips import CHIPS

CACHED = (
    "train.cache_features: this plan is of the step through the encoder. Such a run encodes each image "
    "once, without gradients; its steps on the cached features cost very little in comparison."
)
HEADER = (
    f"{'remat':<11}{'per chip':>9}{'batch':>7}{'arguments':>11}{'temporaries':>12}{'of limit':>9}"
    f"{'TFLOP':>10}{'GB moved':>10}{'images/s':>10}{'bound by':>9}{'epoch':>10}"
)


def details(found: Fit, *, epoch_images: int = 0) -> str:
    """Returns one line per value of a compiled step; with `epoch_images`, also the time of an epoch."""
    if found.fits:
        memory = {
            "arguments per chip": _memory(found.arguments),
            "temporaries per chip": _memory(found.temporaries),
        }
    else:
        memory = {"needed": found.needed}
    lines = {
        "chips": f"{found.chips}",
        "batch size": f"{found.batch_size} ({found.batch_size // found.chips} per chip)",
        "remat policy": found.remat,
        **memory,
        "memory per chip": _memory(found.limit) if found.limit else "unknown",
        "matmuls per step": f"{found.flops / 1e12:,.3f} TFLOP, loops multiplied out",
    }
    if found.traffic:
        moved = f"{found.traffic / 1e9:,.3f} GB"
        lines["bytes per chip and step"] = f"{moved} read and written, loops multiplied out"
    if found.sent:
        lines["sent per chip and step"] = f"{found.sent / 1e6:,.3f} MB to other chips"
    if found.estimated:
        lines["an estimate"] = "the arguments are exact; temporaries are as XLA lays them out for a CPU"
    if not found.fits:
        return _columns(lines)
    if found.compute_seconds:
        lines["compute at its peak"] = f"{1e3 * found.compute_seconds:,.1f} ms per step"
    if found.memory_seconds:
        lines["memory at its peak"] = f"{1e3 * found.memory_seconds:,.1f} ms per step"
    if found.link_seconds:
        lines["links at their peak"] = f"{1e3 * found.link_seconds:,.1f} ms per step"
    if rate := found.images_per_second:
        lines["bound"] = f"{rate:,.0f} images/s at most, by {found.bound_by}"
        if epoch_images:
            lines["an epoch"] = f"{_time(epoch_images / rate)} at least, {epoch_images:,} images"
    if found.estimated_seconds:
        rate = found.batch_size / found.estimated_seconds
        seconds = f"{1e3 * found.estimated_seconds:,.1f} ms per step"
        lines["an estimate, not measured"] = f"{seconds}, {rate:,.0f} images/s"
    return "\n".join(filter(None, [_columns(lines), by_part(found)]))


def by_part(found: Fit) -> str:
    """Returns a line per part of a step: its operations, bytes and what bounds it; "" if they are unknown."""
    if not found.parts:
        return ""
    header = f"{'by part':<26}{'TFLOP':>9}{'GB moved':>10}"
    known = bool(found.compute_seconds)
    rows = [header + (f"{'ms at least':>13}{'bound by':>10}{'ms, estimate':>14}" if known else "")]
    # The published rates by which the bounds of the whole step were computed.
    per_flop = found.compute_seconds / max(found.flops, 1)
    per_byte = found.memory_seconds / max(found.traffic, 1)
    for name, part in found.parts.items():
        row = f"  {name:<24}{part['flops'] / 1e12:>9,.3f}{part['bytes'] / 1e9:>10,.3f}"
        if known:
            compute, memory = part["flops"] * per_flop, part["bytes"] * per_byte
            row += f"{1e3 * max(compute, memory):>13,.2f}{'compute' if compute >= memory else 'memory':>10}"
            row += f"{1e3 * part['seconds']:>14,.2f}"
        rows.append(row)
    return "\n".join(rows)


def by_line(found: Fit) -> str:
    """Returns a line per operation and line of the package: the bytes that a chip moves in a step."""
    if not found.lines:
        return "no bytes are known of this step"
    rows = [f"{'GB moved':>10}{'share':>8}  {'operation':<24}line"]
    for line in found.lines:
        share = f"{percent(line['bytes'] / found.traffic, 1)} %"
        rows.append(f"{line['bytes'] / 1e9:>10,.3f}{share:>8}  {line['operation']:<24}{line['line'] or '-'}")
    rest = found.traffic - sum(line["bytes"] for line in found.lines)
    return "\n".join([*rows, f"{rest / 1e9:>10,.3f}{percent(rest / found.traffic, 1) + ' %':>8}  others"])


def _columns(lines: Mapping[str, str]) -> str:
    return "\n".join(f"{name:<26}{value}" for name, value in lines.items())


def verdict(found: Fit, *, topology: str) -> str:
    """Returns one line: the step fits, with the memory that it uses, or it does not."""
    what = f"batch {found.batch_size} with remat {found.remat} on {topology}"
    if not found.fits:
        about = "an estimate, " if found.estimated else ""
        return f"does not fit: {what}: {about}{found.needed}"
    share = f" ({_share(found)} of {_memory(found.limit)})" if found.limit else ""
    about = "about " if found.estimated else ""
    return f"fits: {what}: {about}{_memory(found.used)} per chip{share}"


def highest_bound(fits: Sequence[Fit]) -> str:
    """Returns one line on the fitting step with the highest bound, or "" if none has a bound.

    It is not always the largest batch: more rows at once may move more bytes per row.
    """
    bounds = [(found.images_per_second or 0.0, found) for found in fits if found.fits]
    rate, best = max(bounds, key=lambda pair: pair[0], default=(0.0, None))
    if best is None or not rate:
        return ""
    return (
        f"highest bound: batch {best.batch_size} with remat {best.remat}: "
        f"{rate:,.0f} images/s at most, by {best.bound_by}"
    )


def row(found: Fit, *, epoch_images: int = 0) -> str:
    """Returns one line under `HEADER`."""
    rate = found.images_per_second if found.fits else None
    memory = f"{_memory(found.arguments):>11}{_memory(found.temporaries):>12}"
    traffic = f"{found.traffic / 1e9:,.1f}" if found.traffic else "-"
    bound = (f"{rate:,.0f}", found.bound_by) if rate else ("-", "-")
    epoch = _time(epoch_images / rate) if rate and epoch_images else "-"
    return (
        f"{found.remat:<11}{found.batch_size // found.chips:>9,}{found.batch_size:>7,}"
        f"{memory if found.fits else 'does not fit':>23}{_share(found):>9}{found.flops / 1e12:>10,.1f}"
        f"{traffic:>10}{bound[0]:>10}{bound[1]:>9}{epoch:>10}"
    )


def durations(found: Fit, *, steps: int, validation_steps: int) -> str:
    """Returns a lower bound of a run's time, one line per kind of chip at its published peak.

    `validation_steps` are those between two validations; 0: there is none before the end.
    """
    lines, width = ["at the published peak of one chip, so at best:"], max(map(len, CHIPS))
    for name, chip in CHIPS.items():
        seconds = found.flops / chip.flops
        line = f"  {name:<{width}}{found.batch_size / seconds:>12,.0f} images/s"
        line += f"{_time(steps * seconds):>12} for {steps:,} steps"
        if validation_steps:
            line += f"{_time(validation_steps * seconds):>12} between validations"
        lines.append(line)
    return "\n".join(lines)


def _share(found: Fit) -> str:
    return f"{percent(found.used / found.limit, 0)} %" if found.used and found.limit else "-"


def _time(seconds: float) -> str:
    if seconds >= 3600:
        return f"{seconds / 3600:.1f} h"
    return f"{seconds / 60:.1f} min" if seconds >= 60 else f"{seconds:.1f} s"


def _memory(count: float) -> str:
    return f"{count / 2**30:.2f} GiB"
