"""SigLIP 2's layouts, mapped from the official one: transformers', open_clip's and big_vision's.

timm's files of the vision encoder have the names of the Perception Encoder's timm files. open_clip has timm's
encoder, and the text encoder under the official names but for the projection, which is a linear layer.

big_vision is the code that trained it. Its kernels are (in, out), with the heads apart in attention, and the
blocks of an encoder are stacked or numbered.

Source: transformers 5.23 `models/siglip/modeling_siglip.py`, open_clip `transformer.py`, big_vision
`models/vit.py`, `models/proj/image_text/` (names and shapes).
"""

import re
from collections.abc import Mapping

import numpy as np

from softbio_jax.errors import UserError
from softbio_jax.interop import timm
from softbio_jax.interop.families.clip import EMBEDDINGS, blocks
from softbio_jax.interop.keymap import (
    SAME,
    THIRDS,
    THIRDS_TRANSPOSE,
    TRANSPOSE,
    Format,
    KeyMap,
    Rule,
    lead,
    linear,
)

_POOL, _HEAD = "visual.attn_pool", "vision_model.head"
# The official layout of both encoders to transformers'.
OFFICIAL_TO_TRANSFORMERS = KeyMap(
    [
        *linear("visual.conv1", f"{EMBEDDINGS}.patch_embedding"),
        Rule("visual.positional_embedding", f"{EMBEDDINGS}.position_embedding.weight", SAME),
        *linear("visual.ln_post", "vision_model.post_layernorm"),
        *blocks("visual.", "vision_model"),
        Rule(f"{_POOL}.probe", f"{_HEAD}.probe", SAME),
        *(
            Rule(f"{_POOL}.attn.in_proj_{x}", f"{_HEAD}.attention.in_proj_{x}", SAME)
            for x in ("weight", "bias")
        ),
        *linear(f"{_POOL}.attn.out_proj", f"{_HEAD}.attention.out_proj"),
        *linear(f"{_POOL}.layernorm", f"{_HEAD}.layernorm"),
        *linear(f"{_POOL}.mlp.c_fc", f"{_HEAD}.mlp.fc1"),
        *linear(f"{_POOL}.mlp.c_proj", f"{_HEAD}.mlp.fc2"),
        Rule("token_embedding.weight", "text_model.embeddings.token_embedding.weight", SAME),
        Rule("positional_embedding", "text_model.embeddings.position_embedding.weight", SAME),
        *linear("ln_final", "text_model.final_layer_norm"),
        *blocks("", "text_model"),
        Rule("text_projection", "text_model.head.weight", TRANSPOSE),
        Rule("text_projection_bias", "text_model.head.bias", SAME),
        *(Rule(name, name, lead(1)) for name in ("logit_scale", "logit_bias")),
    ]
)
_PROJECTION = KeyMap(
    [
        Rule("text.text_projection", "text.text_projection.weight", TRANSPOSE),
        Rule("text.text_projection_bias", "text.text_projection.bias", SAME),
    ]
)


def to_open_clip(arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Maps the official layout to open_clip's."""
    named = timm.from_official(arrays)
    head = {key: named.pop(key) for key in list(named) if key.startswith("text.text_projection")}
    return named | _PROJECTION.forward(head)


def from_open_clip(arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Maps open_clip's layout to the official one, the inverse of `to_open_clip`."""
    named = dict(arrays)
    head = {key: named.pop(key) for key in list(named) if key.startswith("text.text_projection")}
    return timm.to_official(named | _PROJECTION.backward(head))


def _norm(source: str, target: str) -> list[Rule]:
    return [Rule(f"{source}.weight", f"{target}/scale", SAME), Rule(f"{source}.bias", f"{target}/bias", SAME)]


def _dense(source: str, target: str) -> list[Rule]:
    return [
        Rule(f"{source}.weight", f"{target}/kernel", TRANSPOSE),
        Rule(f"{source}.bias", f"{target}/bias", SAME),
    ]


def _block(source: str, target: str, *norms: tuple[str, str]) -> list[Rule]:
    """Returns the rules of an attention with its MLP, and of (official, big_vision) norms."""
    attention, mlp = f"{target}/MultiHeadDotProductAttention_0", f"{target}/MlpBlock_0"
    q, k, v = (f"{attention}/{part}" for part in ("query", "key", "value"))
    return [
        *(rule for ours, theirs in norms for rule in _norm(f"{source}.{ours}", f"{target}/{theirs}")),
        Rule(f"{source}.attn.in_proj_weight", tuple(f"{x}/kernel" for x in (q, k, v)), THIRDS_TRANSPOSE),
        Rule(f"{source}.attn.in_proj_bias", tuple(f"{x}/bias" for x in (q, k, v)), THIRDS),
        *_dense(f"{source}.attn.out_proj", f"{attention}/out"),
        *_dense(f"{source}.mlp.c_fc", f"{mlp}/Dense_0"),
        *_dense(f"{source}.mlp.c_proj", f"{mlp}/Dense_1"),
    ]


_NORMS = (("ln_1", "LayerNorm_0"), ("ln_2", "LayerNorm_1"))
_PATCH = "img/embedding/kernel"
# The official layout to big_vision's as `_opened` returns it.
_BIG_VISION = KeyMap(
    [
        Rule("visual.conv1.weight", _PATCH, SAME),
        Rule("visual.conv1.bias", "img/embedding/bias", SAME),
        Rule("visual.positional_embedding", "img/pos_embedding", lead(1)),
        *_block("visual.transformer.resblocks.{i}", "img/Transformer/encoderblock_{i}", *_NORMS),
        *_norm("visual.ln_post", "img/Transformer/encoder_norm"),
        Rule(f"{_POOL}.probe", "img/MAPHead_0/probe", SAME),
        *_block(_POOL, "img/MAPHead_0", ("layernorm", "LayerNorm_0")),
        Rule("token_embedding.weight", "txt/Embed_0/embedding", SAME),
        Rule("positional_embedding", "txt/pos_embedding", lead(1)),
        *_block("transformer.resblocks.{i}", "txt/Encoder_0/encoderblock_{i}", *_NORMS),
        *_norm("ln_final", "txt/Encoder_0/encoder_norm"),
        Rule("text_projection", "txt/head/kernel", SAME),
        Rule("text_projection_bias", "txt/head/bias", SAME),
        *(Rule(ours, theirs, lead(1)) for ours, theirs in (("logit_scale", "t"), ("logit_bias", "b"))),
    ]
)
_ATTENTION = re.compile(r".*/MultiHeadDotProductAttention_0/(query|key|value|out)/(kernel|bias)")


def _opened(arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Returns the arrays below `params/`, one per block, of torch's convolution and with the heads joined."""
    result: dict[str, np.ndarray] = {}
    for key, array in arrays.items():
        name = key.removeprefix("params/")
        parts = {name: array}
        if "/encoderblock/" in name:
            numbered = name.replace("encoderblock", "encoderblock_{}")
            parts = {numbered.format(i): part for i, part in enumerate(array)}
        result |= {own: _joined(own, part) for own, part in parts.items()}
    return result


def _joined(name: str, array: np.ndarray) -> np.ndarray:
    if name == _PATCH and array.ndim == 4:  # NaFlex has a matrix, which does not fit
        return array.transpose(3, 2, 0, 1)
    if not (match := _ATTENTION.fullmatch(name)):
        return array
    part, leaf = match.groups()
    if leaf == "bias":
        return array.reshape(-1)
    return array.reshape(-1, array.shape[-1]) if part == "out" else array.reshape(array.shape[0], -1)


def _closed(arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    raise UserError(
        "a format that is only read",
        where="big_vision",
        expected="official, timm, open_clip, transformers or softbio",
        found="big_vision",
        fix="write one of them",
    )


BIG_VISION = Format(
    name="big_vision",
    holds=lambda keys: _PATCH in keys or f"params/{_PATCH}" in keys,
    key=_PATCH,
    head=(),
    to_official=_BIG_VISION.backward,
    from_official=_BIG_VISION.forward,
    opened=_opened,
    closed=_closed,
)
