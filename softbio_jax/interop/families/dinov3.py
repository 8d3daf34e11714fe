"""DINOv3's layouts, mapped from the official one: timm's, the original's and transformers'.

Keys have no bias: the original masks theirs, which is 0 once read. timm's files without the biases of q and
v are read with zeros, and written with them, for the models with `qkvb` in their names. The original stores
the periods of its rotary positions, rounded to bfloat16: they are checked, and written in float32. A mask
token is kept as DINOv2's is.

Source: timm 1.0.31 `timm/models/eva.py`, facebookresearch/dinov3 `dinov3/models/vision_transformer.py`
and `dinov3/layers`, and transformers 5.23 `models/dinov3_vit` (names and shapes).
"""

import re
from collections.abc import Mapping

import numpy as np

from softbio_jax.errors import UserError
from softbio_jax.interop.families.dinov2 import either
from softbio_jax.interop.keymap import HALVES, SAME, THIRDS, WITHOUT_KEY, Format, KeyMap, Rule, lead, linear
from softbio_jax.interop.official import MASK
from softbio_jax.models.families.dinov3 import BASE, HEAD, periods

_BLOCK = "visual.transformer.resblocks.{i}"
_PERIODS, _BIAS, _KERNEL = "rope_embed.periods", ".attn.qkv.bias", ".attn.qkv.weight"
_ROUNDING = 2.0**-8  # of bfloat16, relative


def _common(*, patch: str, registers: str, block: str, scale: str, out: str) -> list[Rule]:
    """Returns the rules that all layouts have, by their names for the parts."""
    return [
        *linear("visual.conv1", patch),
        Rule("visual.register_tokens", registers, lead(1)),
        *linear("visual.ln_post", "norm"),
        *linear(f"{_BLOCK}.ln_1", f"{block}.norm1"),
        Rule(f"{_BLOCK}.ls_1.gamma", f"{block}.{scale.format(1)}", SAME),
        *linear(f"{_BLOCK}.ln_2", f"{block}.norm2"),
        Rule(f"{_BLOCK}.ls_2.gamma", f"{block}.{scale.format(2)}", SAME),
        *linear(f"{_BLOCK}.attn.out_proj", f"{block}.{out}"),
    ]


def _mlp(block: str, *names: str) -> list[Rule]:
    """Returns the rules of an MLP: two layers or, with SwiGLU, gate, value and the last."""
    *first, last = (f"{block}.mlp.{name}" for name in names)
    expand = [
        Rule(
            f"{_BLOCK}.mlp.c_fc.{leaf}",
            tuple(f"{name}.{leaf}" for name in first),
            HALVES if first[1:] else SAME,
        )
        for leaf in ("weight", "bias")
    ]
    return [*expand, *linear(f"{_BLOCK}.mlp.c_proj", last)]


def _torch(*names: str, mask: bool) -> KeyMap:
    """Returns timm's layout or, with mask, the original's."""
    block = "blocks.{i}"
    attention = [Rule(f"{_BLOCK}.attn.in_proj_weight", f"{block}.attn.qkv.weight", SAME)]
    if mask:
        attention.append(Rule(f"{_BLOCK}.attn.in_proj_bias", f"{block}.attn.qkv.bias", SAME))
    else:
        biases = tuple(f"{block}.attn.{part}_bias" for part in "qv")
        attention.append(Rule(f"{_BLOCK}.attn.in_proj_bias", biases, WITHOUT_KEY))
    return KeyMap(
        [
            *_common(
                patch="patch_embed.proj",
                registers="storage_tokens" if mask else "reg_token",
                block=block,
                scale="ls{}.gamma" if mask else "gamma_{}",
                out="attn.proj",
            ),
            *attention,
            *_mlp(block, *names),
            Rule("visual.class_embedding", "cls_token", lead(2)),
            *([Rule(MASK, "mask_token", lead(1))] if mask else []),
        ]
    )


def _transformers(*names: str) -> KeyMap:
    block = "layer.{i}"
    q, k, v = (f"{block}.attention.{part}_proj" for part in "qkv")
    return KeyMap(
        [
            *_common(
                patch="embeddings.patch_embeddings",
                registers="embeddings.register_tokens",
                block=block,
                scale="layer_scale{}.lambda1",
                out="attention.o_proj",
            ),
            Rule(f"{_BLOCK}.attn.in_proj_weight", (f"{q}.weight", f"{k}.weight", f"{v}.weight"), THIRDS),
            Rule(f"{_BLOCK}.attn.in_proj_bias", (f"{q}.bias", f"{v}.bias"), WITHOUT_KEY),
            *_mlp(block, *names),
            Rule("visual.class_embedding", "embeddings.cls_token", lead(2)),
            Rule(MASK, "embeddings.mask_token", lead(2)),
        ]
    )


_ORIGINAL = either(_torch("fc1", "fc2", mask=True), _torch("w1", "w2", "w3", mask=True), ".mlp.w1.")
_TIMM = either(
    _torch("fc1", "fc2", mask=False), _torch("fc1_g", "fc1_x", "fc2", mask=False), ".mlp.fc1_g.", mask=False
)
_TRANSFORMERS = either(
    _transformers("up_proj", "down_proj"),
    _transformers("gate_proj", "up_proj", "down_proj"),
    ".mlp.gate_proj.",
)


def _from_original(arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Maps the original layout to the official one, without the biases that its masks hide."""
    result = dict(arrays)
    _check_periods(result.pop(_PERIODS, periods(HEAD)))
    for key in arrays:
        if key.endswith(f"{_BIAS}_mask"):
            mask, bias = result.pop(key), key.removesuffix("_mask")
            result[bias] = np.where(mask == 0, np.zeros_like(result[bias]), result[bias])
    return _ORIGINAL[0](result)


def _to_original(arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    result = _ORIGINAL[1](arrays)
    for key in [key for key in result if key.endswith(_BIAS)]:
        q, k, v = np.split(result[key], 3)
        result[key] = np.concatenate([q, np.zeros_like(k), v])
        result[f"{key}_mask"] = np.concatenate([np.ones_like(q), np.zeros_like(k), np.ones_like(v)])
    return result | ({_PERIODS: periods(HEAD)} if "cls_token" in result else {})


def _check_periods(found: np.ndarray) -> None:
    wanted = periods(HEAD)
    if np.any(np.abs(found.astype(np.float32) - wanted) > _ROUNDING * wanted):
        raise UserError(
            "rotary positions of other periods",
            where=_PERIODS,
            expected=f"{BASE:g}^(i/{len(wanted)}), up to {wanted[-1]:.4g}",
            found=f"up to {float(found.max()):.4g}",
            fix="give weights of a published DINOv3",
        )


def _with_biases(arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Adds biases of q and v that are 0 to blocks that have none."""
    result = dict(arrays)
    for key, kernel in arrays.items():
        if key.endswith(_KERNEL):
            block = key.removesuffix("qkv.weight")
            names = [f"{block}{part}_bias" for part in "qv"]
            if not any(name in arrays for name in names):
                result |= {name: np.zeros(kernel.shape[-1:], kernel.dtype) for name in names}
    return result


def _as_version_4(arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Renames model.layer, as transformers 5 has the blocks in memory, to layer, as its files do."""
    return {re.sub(r"^model\.layer\.", "layer.", key): array for key, array in arrays.items()}


_PATCH = "patch_embed.proj.weight"
_PATCHES = "embeddings.patch_embeddings.weight"
FORMATS = {
    format_.name: format_
    for format_ in (
        Format(
            name="official",
            holds=lambda keys: _PATCH in keys and "storage_tokens" in keys,
            key=_PATCH,
            head=("head.", "linear_head."),
            to_official=_from_original,
            from_official=_to_original,
        ),
        Format(
            name="timm",
            holds=lambda keys: _PATCH in keys,
            key=_PATCH,
            head=("head.", "fc_norm."),
            to_official=_TIMM[0],
            from_official=_TIMM[1],
            opened=_with_biases,
        ),
        Format(
            name="transformers",
            holds=lambda keys: _PATCHES in keys,
            key=_PATCHES,
            head=("classifier.",),
            to_official=_TRANSFORMERS[0],
            from_official=_TRANSFORMERS[1],
            opened=_as_version_4,
        ),
    )
}
