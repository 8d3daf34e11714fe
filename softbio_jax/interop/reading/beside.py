"""What the configurations beside a file of weights say of its encoder, against the variant it is read as.

The shapes do not show the activation, the number of heads or the pixels that an encoder was trained on.
"""

import dataclasses
import json
import math
import pathlib
from collections.abc import Iterator, Mapping
from typing import Any

from softbio_jax.errors import UserError
from softbio_jax.interop.reading import identity, locate
from softbio_jax.models.config import VISION, VisionConfig
from softbio_jax.models.families.dinov3 import BASE

# The configurations of timm, open_clip and transformers beside weights, and their names of the pixels' two.
_FILES = ("config.json", "open_clip_config.json", "preprocessor_config.json")
_PIXELS = {"mean": "mean", "std": "std", "image_mean": "mean", "image_std": "std"}
# transformers' names of activations.
_ACTIVATIONS = {
    "gelu_python": "gelu",
    **dict.fromkeys(("gelu_pytorch_tanh", "gelu_new", "gelu_fast", "gelu_accurate"), "gelu_tanh"),
}


def check(weights: pathlib.Path, config: VisionConfig, metadata: Mapping[str, str]) -> None:
    """Checks what is written beside and in a file of weights.

    Args:
      weights: the file, or its folder.
      config: the variant that it is read as.
      metadata: of the file; ours name the variant.

    Raises:
      UserError: another variant, activation, number of heads, epsilon of norms, period of rotary positions,
        mean or standard deviation.
    """
    weights, _ = locate.split_level(weights)
    config = VISION.get(config.published, config)
    if (named := VISION.get(metadata.get("variant", ""))) is not None:
        _check_variant(named, config, where=f"{weights} metadata variant")
    for name in _FILES:
        path = (weights if weights.is_dir() else weights.parent) / name
        try:
            values = json.loads(path.read_text())
        except (OSError, ValueError):
            continue  # missing, or another kind of file
        for key, found in _pixels(values):
            if isinstance(found, list) and not _alike(found, getattr(config, _PIXELS[key])):
                raise UserError(
                    "weights trained with another normalisation",
                    where=f"{path} {key}",
                    expected=f"{list(getattr(config, _PIXELS[key]))}",
                    found=str(found),
                    fix=f"give weights of {config.name}, or correct the file if it belongs to others",
                )
        if isinstance(values, Mapping):
            if (named := identity.named_by_timm(values)) is not None:
                _check_variant(named, config, where=f"{path} architecture")
            for key, expected, found in _settings(values, config):
                _check_setting(key, expected, found, config, path)


def _check_variant(named: VisionConfig, config: VisionConfig, *, where: str) -> None:
    """Checks that two variants compute the same, where the shapes of their weights may be the same."""
    if dataclasses.replace(named, name=config.name) != config:
        raise UserError(
            f"checkpoint of {named.name} given for {config.name}",
            where=where,
            expected=config.name,
            found=named.name,
            fix=f"set the variant to {named.name}, or give another file",
        )


def _check_setting(key: str, expected: Any, found: Any, config: VisionConfig, path: pathlib.Path) -> None:
    if isinstance(found, str) or not isinstance(expected, int | float):
        same = _ACTIVATIONS.get(str(found), str(found)) == expected
    else:
        same = isinstance(found, int | float) and math.isclose(found, expected, rel_tol=1e-3)
    if not same:
        other = next(
            (
                name
                for name, variant in VISION.items()
                if variant == dataclasses.replace(config, name=name, activation=variant.activation)
                and variant.activation == _ACTIVATIONS.get(str(found), str(found))
            ),
            None,
        )
        raise UserError(
            "weights of an encoder that computes otherwise",
            where=f"{path} {key}",
            expected=f"{expected}, of {config.name}",
            found=str(found),
            fix=f"set the variant to {other}"
            if other
            else f"give weights of {config.name}, or correct the file if it belongs to others",
        )


def _settings(values: Mapping[str, Any], config: VisionConfig) -> Iterator[tuple[str, Any, Any]]:
    """Yields name, expected and found value of what a configuration says and no shape shows."""
    if identity.family_of(values) == config.family:
        own = values.get("vision_config", values)
        own = {**identity.OWN_DEFAULTS.get(config.family, {}), **own} if isinstance(own, Mapping) else {}
        fields: dict[str, Any] = {"num_attention_heads": config.heads, "layer_norm_eps": config.norm_eps}
        fields |= {"rope_theta": BASE} if config.rotary == "dinov3" else {}
        fields |= {"hidden_act": config.activation} if config.activation != "swiglu" else {}
        yield from ((key, expected, own[key]) for key, expected in fields.items() if key in own)
    model = values.get("model_cfg")
    if config.family == "clip" and isinstance(model, Mapping):
        vision = model.get("vision_cfg")
        if isinstance(vision, Mapping) and "timm_model_name" not in vision:
            found = "quick_gelu" if model.get("quick_gelu") else "gelu"
            yield "model_cfg.quick_gelu", config.activation, found


def _alike(found: list[Any], expected: tuple[float, ...]) -> bool:
    try:
        return all(abs(value - own) <= 1e-3 for value, own in zip(found, expected, strict=True))
    except (TypeError, ValueError):  # of another length, or no numbers
        return False


def _pixels(values: Any) -> Iterator[tuple[str, Any]]:
    """Yields the means and deviations of a configuration and of what is nested in it."""
    if isinstance(values, Mapping):
        for key, value in values.items():
            if key in _PIXELS:
                yield key, value
            else:
                yield from _pixels(value)
