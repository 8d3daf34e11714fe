"""open_clip's layout of the two-tower model: timm's keys under `visual.trunk.`, the official text
keys under `text.`.

Source: open_clip at 89fb801, `PE-Core-*` configurations.
"""

from collections.abc import Mapping

import numpy as np

from softbio_jax.interop.timm import OFFICIAL_TO_TIMM

_TRUNK, _TEXT = "visual.trunk.", "text."


def from_official(arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Maps the official layout to open_clip's."""
    visual = {key: array for key, array in arrays.items() if key.startswith("visual.")}
    result = {_TRUNK + key: array for key, array in OFFICIAL_TO_TIMM.forward(visual).items()}
    for key, array in arrays.items():
        if key not in visual:
            result[key if key == "logit_scale" else _TEXT + key] = array
    return result


def to_official(arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Maps open_clip's layout to the official one, the inverse of `from_official`."""
    trunk = {
        key.removeprefix(_TRUNK): array for key, array in arrays.items() if key.startswith(_TRUNK)
    }
    rest = {
        key.removeprefix(_TEXT): array
        for key, array in arrays.items()
        if not key.startswith(_TRUNK)
    }
    return OFFICIAL_TO_TIMM.backward(trunk) | rest
