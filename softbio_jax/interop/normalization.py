"""Whether weights want their pictures normalised as this project does it: (x - 0.5) / 0.5."""

import json
import pathlib
from collections.abc import Iterator, Mapping
from typing import Any

from softbio_jax.errors import UserError

_HALF = 0.5  # mean and standard deviation of pixels in [0, 1], of every channel
# What timm, open_clip and transformers put beside weights, and their names for the two.
_FILES = ("config.json", "open_clip_config.json", "preprocessor_config.json")
_NAMES = ("mean", "std", "image_mean", "image_std")


def check_beside(weights: pathlib.Path) -> None:
    """Looks into the configurations beside a file of weights.

    Args:
      weights: the file.

    Raises:
      UserError: one of them names another mean or standard deviation.
    """
    for name in _FILES:
        path = weights.parent / name
        try:
            values = json.loads(path.read_text())
        except (OSError, ValueError):
            continue  # there is none, or it is not theirs
        for key, found in _named(values):
            if isinstance(found, list) and any(abs(value - _HALF) > 1e-3 for value in found):
                raise UserError("weights trained with another normalisation",
                                where=f"{path} {key}", expected=f"{[_HALF] * 3}", found=str(found),
                                fix="give weights of the Perception Encoder, or correct the file "
                                "if it is of others")  # fmt: skip


def _named(values: Any) -> Iterator[tuple[str, Any]]:
    """Yields the means and deviations of a configuration and of what is nested in it."""
    if isinstance(values, Mapping):
        for key, value in values.items():
            if key in _NAMES:
                yield key, value
            else:
                yield from _named(value)
