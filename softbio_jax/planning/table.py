"""What `fit` found, in text."""

from collections.abc import Sequence

from softbio_jax.planning.fit import Fit
from softbio_jax.train.chips import CHIPS

_GIB = 2**30


def details(found: Fit) -> str:
    """Returns one figure a line."""
    lines = [
        ("chips", f"{found.chips}"),
        ("batch size", f"{found.batch_size} ({found.batch_size // found.chips} a chip)"),
        ("remat policy", found.remat),
        ("arguments a chip", _memory(found.arguments)),
        ("temporaries a chip", _memory(found.temporaries)),
        ("memory a chip", _memory(found.limit) if found.limit else "unknown"),
        ("matrix operations a step", f"{found.flops / 1e12:,.3f} TFLOP, loops multiplied out"),
    ]
    if found.images_per_second:
        lines.append(("at the published peak", f"{found.images_per_second:,.0f} images/s at most"))
    if not found.fits:
        lines[3:5] = [("needed", found.needed)]
    return "\n".join(f"{name:<26}{value}" for name, value in lines)


def verdict(found: Fit, *, topology: str) -> str:
    """Returns one line: it fits with so much to spare, or it does not."""
    what = f"batch {found.batch_size} with remat {found.remat} on {topology}"
    if not found.fits:
        return f"does not fit: {what}: {found.needed}"
    used = found.arguments + found.temporaries
    share = f" ({100 * used / found.limit:.0f} % of {_memory(found.limit)})" if found.limit else ""
    return f"fits: {what}: {_memory(used)} a chip{share}"


def rows(found: Sequence[Fit]) -> str:
    """Returns one line a layout: policy, batch, memory, operations, bound."""
    return "\n".join(
        f"{f.remat:<12}{f.batch_size:>8}  "
        + (
            f"{_memory(f.arguments):>10}{_memory(f.temporaries):>11}"
            if f.fits
            else f"{f.needed:>21}"
        )
        + f"{f.flops / 1e12:>12,.2f} TFLOP"
        + (f"{f.images_per_second:>10,.0f} images/s" if f.images_per_second else "")
        + ("" if f.fits else "  does not fit")
        for f in found
    )


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


def _time(seconds: float) -> str:
    return f"{seconds / 3600:.1f} h" if seconds >= 3600 else f"{seconds / 60:.1f} min"


def _memory(count: float) -> str:
    return f"{count / _GIB:.2f} GiB"
