"""What `fit` found, in text."""

from collections.abc import Sequence

from softbio_jax.planning.fit import Fit
from softbio_jax.runs.chips import CHIPS

_GIB = 2**30
CACHED = (
    "train.cache_features: what is planned is the step through the tower. Such a run takes each "
    "picture through it once, forward alone; its steps on the features cost next to nothing beside."
)
HEADER = (
    f"{'remat':<11}{'a chip':>7}{'batch':>7}{'arguments':>11}{'temporaries':>12}{'of limit':>9}"
    f"{'TFLOP':>10}{'GB moved':>10}{'images/s':>10}{'bound by':>9}{'epoch':>10}"
)


def details(found: Fit, *, epoch_images: int = 0) -> str:
    """Returns one figure a line.

    Args:
      found: a step that was compiled.
      epoch_images: of an epoch, whose time is told; 0: not told.
    """
    lines = [
        ("chips", f"{found.chips}"),
        ("batch size", f"{found.batch_size} ({found.batch_size // found.chips} a chip)"),
        ("remat policy", found.remat),
        ("arguments a chip", _memory(found.arguments)),
        ("temporaries a chip", _memory(found.temporaries)),
        ("memory a chip", _memory(found.limit) if found.limit else "unknown"),
        ("matrix operations a step", f"{found.flops / 1e12:,.3f} TFLOP, loops multiplied out"),
    ]
    if found.traffic:
        lines.append(
            ("bytes a chip and step", f"{found.traffic / 1e9:,.3f} GB read and written, loops multiplied out")
        )
    if found.compute_seconds:
        lines.append(("compute at its peak", f"{1e3 * found.compute_seconds:,.1f} ms a step"))
    if found.memory_seconds:
        lines.append(("memory at its peak", f"{1e3 * found.memory_seconds:,.1f} ms a step"))
    if rate := found.images_per_second:
        lines.append(("bound", f"{rate:,.0f} images/s at most, by {found.bound_by}"))
        if epoch_images:
            lines.append(("an epoch", f"{_time(epoch_images / rate)} at least, {epoch_images:,} images"))
    if not found.fits:
        lines[3:5] = [("needed", found.needed)]
    return "\n".join(f"{name:<26}{value}" for name, value in lines)


def verdict(found: Fit, *, topology: str) -> str:
    """Returns one line: it fits with so much to spare, or it does not."""
    what = f"batch {found.batch_size} with remat {found.remat} on {topology}"
    if not found.fits:
        return f"does not fit: {what}: {found.needed}"
    share = f" ({_share(found)} of {_memory(found.limit)})" if found.limit else ""
    return f"fits: {what}: {_memory(found.used)} a chip{share}"


def highest_bound(fits: Sequence[Fit]) -> str:
    """Returns one line: which of the steps that fit has the highest bound; empty if none has one.

    It is not always the largest batch: more rows at once may pass more through main memory a row.
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
    rate = found.images_per_second
    cells = [
        f"{found.remat:<11}",
        f"{found.batch_size // found.chips:>7,}",
        f"{found.batch_size:>7,}",
        f"{_memory(found.arguments):>11}" if found.fits else f"{'does not fit':>23}",
        f"{_memory(found.temporaries):>12}" if found.fits else "",
        f"{_share(found) if found.limit else '-':>9}",
        f"{found.flops / 1e12:>10,.1f}",
        f"{found.traffic / 1e9:>10,.1f}" if found.traffic else f"{'-':>10}",
        f"{rate:>10,.0f}" if found.fits and rate else f"{'-':>10}",
        f"{found.bound_by:>9}" if found.fits and rate else f"{'-':>9}",
        f"{_time(epoch_images / rate):>10}" if found.fits and rate and epoch_images else f"{'-':>10}",
    ]
    return "".join(cells)


def durations(found: Fit, *, steps: int, validation_steps: int) -> str:
    """Returns how long a run takes at best, a line a kind of chip at its published peak.

    Args:
      found: a fitted step.
      steps: of the whole run.
      validation_steps: from one validation to the next; 0 where there is none on the way.
    """
    lines = ["at the published peak of one chip, so at best:"]
    for name, chip in CHIPS.items():
        seconds = found.flops / chip.flops
        line = f"  {name:<6}{found.batch_size / seconds:>9,.0f} images/s"
        line += f"{_time(steps * seconds):>12} for {steps:,} steps"
        if validation_steps:
            line += f"{_time(validation_steps * seconds):>12} between validations"
        lines.append(line)
    return "\n".join(lines)


def _share(found: Fit) -> str:
    return f"{100 * found.used / found.limit:.0f} %" if found.used else "-"


def _time(seconds: float) -> str:
    if seconds >= 3600:
        return f"{seconds / 3600:.1f} h"
    return f"{seconds / 60:.1f} min" if seconds >= 60 else f"{seconds:.1f} s"


def _memory(count: float) -> str:
    return f"{count / _GIB:.2f} GiB"
