"""The tensors of a PEFT file: adapters by module, and the weights that were trained beside them."""

import collections
import re
from collections.abc import Mapping

import ml_dtypes
import numpy as np

from softbio_jax.errors import UserError
from softbio_jax.interop import formats
from softbio_jax.interop.official import OFFICIAL, text_shapes, vision_shapes, without_mask
from softbio_jax.interop.peft_parts.config import PeftConfig
from softbio_jax.interop.peft_parts.names import Tower, inner_name, name_in_files
from softbio_jax.models.config import TEXT, VisionConfig

PREFIX = "base_model.model."
_NO_BIAS = "head.bias"  # timm's, which stays 0
# The adapter's name is there if a state dict was saved by other means than save_pretrained.
_TENSOR = re.compile(
    r"(?P<module>.+)\.(?P<part>lora_[AB]|lora_magnitude_vector)"
    r"(?:\.(?!(?:weight|bias)$)(?P<name>[^.]+))?(?:\.(?P<leaf>weight|bias))?"
)
_PARTS = {
    ("lora_A", "weight"): "lora_A",
    ("lora_B", "weight"): "lora_B",
    ("lora_B", "bias"): "lora_B.bias",
    ("lora_magnitude_vector", None): "lora_magnitude_vector",
    ("lora_magnitude_vector", "weight"): "lora_magnitude_vector",
}
Tensors = dict[str, np.ndarray]


def by_module(
    arrays: Mapping[str, np.ndarray], settings: PeftConfig, *, where: str
) -> tuple[dict[str, Tensors], Tensors]:
    """Sorts a file's tensors.

    Returns:
      (module -> lora_A, lora_B, lora_B.bias, lora_magnitude_vector in float32, and name -> weights
      that were trained whole: modules_to_save and biases).

    Raises:
      UserError: a tensor of neither kind, two of one place, integers, or several adapters.
    """
    modules: dict[str, Tensors] = collections.defaultdict(dict)
    trained: Tensors = {}
    keys: dict[tuple[str, str], str] = {}
    adapters: set[str] = set()
    for key, array in arrays.items():
        if array.dtype.kind != "f" and array.dtype != ml_dtypes.bfloat16:
            raise UserError(
                "a tensor that is no floating-point number",
                where=f"{where} key {key}",
                expected="float32, float16 or bfloat16",
                found=str(array.dtype),
                fix="save the adapter before it is quantised",
            )
        match = _TENSOR.fullmatch(key)
        part = _PARTS.get((match["part"], match["leaf"])) if match else None
        if match and part:
            module = match["module"]
            adapters.add(match["name"] or "")
        else:
            module, part = _trained_name(key, settings, where), ""
        if (module, part) in keys:
            raise UserError(
                "two tensors for one place",
                where=where,
                expected=f"one {part or 'array'} of {module}",
                found=f"{keys[module, part]} and {key}",
                fix="remove one of them",
            )
        keys[module, part] = key
        if part:
            modules[module][part] = array.astype(np.float32)
        else:
            trained[module] = array.astype(np.float32)
    if len(adapters) > 1:
        raise UserError(
            "several adapters in one file",
            where=where,
            expected="one",
            found=", ".join(sorted(name or "one without a name" for name in adapters)),
            fix="save one by model.save_pretrained(FOLDER, selected_adapters=[NAME])",
        )
    return dict(modules), trained


def _trained_name(key: str, settings: PeftConfig, where: str) -> str:
    """Returns the name in the base model of a tensor that was trained whole."""
    name = key.replace(".base_layer.", ".")
    module, _, leaf = name.removeprefix(PREFIX).rpartition(".")
    if settings.targets.saves(module) or (settings.biases and "bias" in leaf):
        return name
    embedding = "lora_embedding_" in key or "token_adapter." in key
    raise UserError(
        "adapter of an embedding" if embedding else "not a tensor of a LoRA adapter",
        where=f"{where} key {key}",
        expected="lora_A, lora_B, lora_magnitude_vector, or what modules_to_save and bias name",
        found=key,
        fix="merge it with PEFT (merge_and_unload) and convert the merged model"
        if embedding
        else "save the adapter by PEFT's model.save_pretrained",
    )


def native(trained: Tensors, config: VisionConfig, bare: Tower, *, where: str) -> Tensors:
    """Returns trained weights of timm's or official names by our paths, one entry per block.

    Args:
      trained: from `by_module`.
      config: the variant.
      bare: the encoder of official names without a prefix.
      where: the file, for errors.

    Raises:
      UserError: a name or shape that the encoder does not have, or two names for one weight.
    """
    text = TEXT.get(config.name)
    known = vision_shapes(config) | (text_shapes(text) if text else {})
    unset = {key: np.broadcast_to(np.float32("nan"), shape) for key, shape in known.items()}
    visual = {key: array for key, array in unset.items() if key.startswith("visual.")}
    family = formats.FAMILIES[config.family]
    others = [name for name in ("timm", "transformers") if name in family]
    layouts: dict[str, Tensors] = {
        name: family[name].from_official(visual if name == "timm" else unset) for name in others
    }
    layouts["official"] = unset
    owners: dict[str, str] = {}
    for name, array in trained.items():
        key = inner_name(name, bare, known)
        layout = next((name for name in ("official", *others) if key in layouts[name]), "timm")
        if key not in layouts[layout] and "transformers" in family:
            theirs = name_in_files(name, bare, layouts["transformers"])
            key, layout = (theirs, "transformers") if theirs in layouts["transformers"] else (key, layout)
        expected = layouts[layout][key].shape if key in layouts[layout] else None
        if expected != array.shape or (key == _NO_BIAS and array.any()):
            raise UserError(
                "trained weights that the encoder does not have",
                where=f"{where} key {name}",
                expected="a bias of 0, as the projection has none"
                if key == _NO_BIAS
                else "x".join(map(str, expected or ())) or f"a weight of {config.name}",
                found="x".join(map(str, array.shape)),
                fix="merge it with PEFT (merge_and_unload) and convert the merged model"
                if expected is None and re.search(r"\.\d+\.", name)  # of a block, not a head
                else "remove it from the file, and from modules_to_save and bias in adapter_config.json",
            )
        owners[_claim(owners, f"{layout} {key}", name, where)] = name
        layouts[layout][key] = array
    for name in others:
        layouts[name] = without_mask(family[name].to_official(layouts[name]))
    result: Tensors = {}
    for layout, arrays in layouts.items():
        found = {path: leaf for path, leaf in OFFICIAL.forward(arrays).items() if _set(leaf)}
        for path, leaf in found.items():
            if np.isnan(leaf).any():
                raise UserError(
                    "trained weights of some of q, k and v",
                    where=where,
                    expected="all of them, as they are one array here",
                    found=f"a part of {path}",
                    fix="merge it with PEFT (merge_and_unload) and convert the merged model",
                )
        owners |= {_claim(owners, path, f"one of {layout}", where): f"one of {layout}" for path in found}
        result |= found
    return result


def _set(leaf: np.ndarray) -> bool:
    # Of the thirds of q, k and v any may be set.
    ends = (leaf.flat[i * (leaf.size // 3)] for i in range(3)) if leaf.size >= 3 else leaf.flat
    return not all(np.isnan(value) for value in ends)


def _claim(owners: Mapping[str, str], place: str, name: str, where: str) -> str:
    if place in owners:
        raise UserError(
            "two names of one weight",
            where=where,
            expected=f"one of {place}",
            found=f"{owners[place]} and {name}",
            fix="remove one of them",
        )
    return place
