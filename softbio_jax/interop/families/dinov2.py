"""DINOv2's layouts, mapped from the official one: timm's, the original's and transformers'.

timm's files of the encoders with registers hold the class token's position added to the class token, and
no row for it; read, that row is 0. Only the original's and transformers' have a mask token, which
masked pretraining alone reads: it is kept where a file has one, and 0 where it is written without.

Source: timm 1.0.31 `timm/models/vision_transformer.py`, facebookresearch/dinov2
`dinov2/models/vision_transformer.py` and transformers 5.23 `models/dinov2` (names and shapes).
"""

import re
from collections.abc import Mapping

import numpy as np

from softbio_jax.interop.keymap import SAME, THIRDS, Format, KeyMap, Rule, Step, lead, linear
from softbio_jax.interop.official import MASK, without_mask

_BLOCK = "visual.transformer.resblocks.{i}"


def _table(
    *, patch: str, positions: str, registers: str, norm: str, block: str, scale: str, first: str, last: str
) -> list[Rule]:
    """Returns the rules that all layouts have, by their names for the parts."""
    return [
        *linear("visual.conv1", patch),
        Rule("visual.positional_embedding", positions, lead(1)),
        Rule("visual.register_tokens", registers, lead(1)),
        *linear("visual.ln_post", norm),
        *linear(f"{_BLOCK}.ln_1", f"{block}.norm1"),
        Rule(f"{_BLOCK}.ls_1.gamma", f"{block}.{scale.format(1)}", SAME),
        *linear(f"{_BLOCK}.ln_2", f"{block}.norm2"),
        Rule(f"{_BLOCK}.ls_2.gamma", f"{block}.{scale.format(2)}", SAME),
        *linear(f"{_BLOCK}.mlp.c_fc", f"{block}.mlp.{first}"),
        *linear(f"{_BLOCK}.mlp.c_proj", f"{block}.mlp.{last}"),
    ]


def _torch(*, registers: str, first: str = "fc1", last: str = "fc2", mask: bool = False) -> KeyMap:
    """Returns timm's layout or, with mask, the original's."""
    rules = _table(
        patch="patch_embed.proj",
        positions="pos_embed",
        registers=registers,
        norm="norm",
        block="blocks.{i}",
        scale="ls{}.gamma",
        first=first,
        last=last,
    )
    attention = [
        Rule(f"{_BLOCK}.attn.in_proj_{leaf}", f"blocks.{{i}}.attn.qkv.{leaf}", SAME)
        for leaf in ("weight", "bias")
    ]
    attention += linear(f"{_BLOCK}.attn.out_proj", "blocks.{i}.attn.proj")
    tokens = [Rule("visual.class_embedding", "cls_token", lead(2))]
    return KeyMap([*rules, *attention, *tokens, *([Rule(MASK, "mask_token", lead(1))] if mask else [])])


def _transformers(*, first: str, last: str) -> KeyMap:
    block = "encoder.layer.{i}"
    rules = _table(
        patch="embeddings.patch_embeddings.projection",
        positions="embeddings.position_embeddings",
        registers="embeddings.register_tokens",
        norm="layernorm",
        block=block,
        scale="layer_scale{}.lambda1",
        first=first,
        last=last,
    )
    separate = ("query", "key", "value")
    attention = [
        Rule(
            f"{_BLOCK}.attn.in_proj_{leaf}",
            tuple(f"{block}.attention.attention.{name}.{leaf}" for name in separate),
            THIRDS,
        )
        for leaf in ("weight", "bias")
    ]
    attention += linear(f"{_BLOCK}.attn.out_proj", f"{block}.attention.output.dense")
    tokens = [
        Rule("visual.class_embedding", "embeddings.cls_token", lead(2)),
        Rule(MASK, "embeddings.mask_token", lead(1)),
    ]
    return KeyMap([*rules, *attention, *tokens])


def gated(arrays: Mapping[str, np.ndarray]) -> bool:
    """Returns whether c_fc has the two halves of SwiGLU."""
    first, last = (
        arrays.get(f"visual.transformer.resblocks.0.mlp.{name}.weight") for name in ("c_fc", "c_proj")
    )
    return first is not None and last is not None and first.shape[0] == 2 * last.shape[1]


def either(plain: KeyMap, with_gate: KeyMap, sign: str, *, mask: bool = True) -> tuple[Step, Step]:
    """Returns to_official and from_official of a layout with other names for SwiGLU, as `sign`."""

    def to_official(arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        return (with_gate if any(sign in key for key in arrays) else plain).backward(arrays)

    def from_official(arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        token = arrays.get("visual.class_embedding")
        given = dict(arrays) if mask else without_mask(arrays)
        if mask and token is not None:
            given.setdefault(MASK, np.zeros_like(token))
        return (with_gate if gated(arrays) else plain).forward(given)

    return to_official, from_official


_TIMM = _torch(registers="reg_token")


def _from_timm(arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Adds the row of the class token's position where a file has registers: 0, as it is in the token."""
    result = dict(arrays)
    table = result.get("pos_embed")
    if "reg_token" in result and table is not None and table.ndim == 3:
        result["pos_embed"] = np.concatenate([np.zeros_like(table[:, :1]), table], axis=1)
    return result


def _to_timm(arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    result = dict(arrays)
    if "reg_token" in result:
        first, result["pos_embed"] = np.split(result["pos_embed"], [1], axis=1)
        if first.any():  # else the token's bits are kept, with the signs of its zeros
            result["cls_token"] = result["cls_token"] + first
    return result


def _without_chunks(arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Renames blocks.CHUNK.BLOCK, as training saves them, to blocks.BLOCK."""
    return {re.sub(r"^blocks\.\d+\.(\d+)\.", r"blocks.\1.", key): array for key, array in arrays.items()}


_ORIGINAL = either(
    _torch(registers="register_tokens", mask=True),
    _torch(registers="register_tokens", mask=True, first="w12", last="w3"),
    ".mlp.w12.",
)
_TRANSFORMERS = either(
    _transformers(first="fc1", last="fc2"),
    _transformers(first="weights_in", last="weights_out"),
    ".mlp.weights_in.",
)
_PATCH = "patch_embed.proj.weight"
_PATCHES = "embeddings.patch_embeddings.projection.weight"
FORMATS = {
    format_.name: format_
    for format_ in (
        Format(
            name="official",
            holds=lambda keys: _PATCH in keys and "mask_token" in keys,
            key=_PATCH,
            head=("head.", "linear_head."),
            to_official=_ORIGINAL[0],
            from_official=_ORIGINAL[1],
            opened=_without_chunks,
        ),
        Format(
            name="timm",
            holds=lambda keys: _PATCH in keys,
            key=_PATCH,
            head=("head.", "fc_norm."),
            to_official=_TIMM.backward,
            from_official=lambda arrays: _TIMM.forward(without_mask(arrays)),
            opened=_from_timm,
            closed=_to_timm,
        ),
        Format(
            name="transformers",
            holds=lambda keys: _PATCHES in keys,
            key=_PATCHES,
            head=("classifier.",),
            to_official=_TRANSFORMERS[0],
            from_official=_TRANSFORMERS[1],
        ),
    )
}
