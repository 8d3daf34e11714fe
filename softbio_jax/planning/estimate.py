"""An estimate of a step's time beside its bounds: no chip runs all of its units at their peak."""

from collections.abc import Mapping

from softbio_jax.runs.chips import Chip

# Share of the peak rates that well-kept programs reach; none was measured with this project.
# Products: Llama 2 70B on v5p by MaxText, 65 % (maxtext.readthedocs.io, optimized models tiering, read in
# November 2026). Memory and links: copies and STREAM triad on an H100, about 90 %.
PRODUCTS, TRANSFERS = 0.65, 0.9


def part_seconds(part: Mapping[str, float], chip: Chip, chips: int) -> float:
    """Estimates the time of a part of a step, see `parts.Costs`.

    The longer of its products and its traffic at the shares above. Where the compiler itself estimates
    the cycles of what it fuses, and the chip's clock is known, these replace the products outside of
    kernels: they include the vector units' work, which no bound has.

    Args:
      part: see `parts.Costs`.
      chip: each of them.
      chips: how many.
    """
    fused = 0.0
    products = part["flops"]
    if part["cycles"] and chip.clock:
        fused, products = part["cycles"] / chip.clock, part["kernel_flops"]
    traffic = part["bytes"] / (TRANSFERS * chip.bandwidth)
    return max(fused + products / (chips * PRODUCTS * chip.flops), traffic)


def step_seconds(parts: Mapping[str, Mapping[str, float]], sent: float, chip: Chip, chips: int) -> float:
    """Estimates the time of a step: its parts one after the other, then the transfers between chips.

    Args:
      parts: see `parts.Costs`.
      sent: bytes that a chip sends to others.
      chip: each of them.
      chips: how many.
    """
    links = sent / (TRANSFERS * chip.link) if chip.link else 0
    return sum(part_seconds(part, chip, chips) for part in parts.values()) + links
