"""The official Perception Encoder checkpoint layout (facebookresearch/perception_models).

The formats of all families meet in it: what the Perception Encoder does not have is named in the same
way, as conv1.bias and register_tokens. The text encoder's keys have no prefix, as the model of both
encoders is a subclass of it there; the vision encoder's start with `visual.`.
"""

from collections.abc import Mapping

import numpy as np

from softbio_jax.interop.keymap import CONV, SAME, SPLIT_ROWS, SPLIT_ROWS_TRANSPOSE, TRANSPOSE, KeyMap, Rule
from softbio_jax.models.config import TextConfig, VisionConfig

# (official leaf, our leaf, transform), identical in both encoders.
_MLP = (
    ("mlp.c_fc.weight", "mlp/c_fc/kernel", TRANSPOSE),
    ("mlp.c_fc.bias", "mlp/c_fc/bias", SAME),
    ("mlp.c_proj.weight", "mlp/c_proj/kernel", TRANSPOSE),
    ("mlp.c_proj.bias", "mlp/c_proj/bias", SAME),
)
_ATTENTION_OUT = (
    ("attn.out_proj.weight", "attn/out/kernel", TRANSPOSE),
    ("attn.out_proj.bias", "attn/out/bias", SAME),
)


def _norm(source: str, target: str) -> tuple:
    return ((f"{source}.weight", f"{target}/scale", SAME), (f"{source}.bias", f"{target}/bias", SAME))


_BLOCK = (
    *_norm("ln_1", "ln_1"),
    ("attn.in_proj_weight", "attn/qkv/kernel", TRANSPOSE),
    ("attn.in_proj_bias", "attn/qkv/bias", SAME),
    *_ATTENTION_OUT,
    *_norm("ln_2", "ln_2"),
    *_MLP,
)
_LAYER_SCALE = (  # only in vision encoders
    ("ls_1.gamma", "ls_1/gamma", SAME),
    ("ls_2.gamma", "ls_2/gamma", SAME),
)
_POOL = (
    ("probe", "probe", SAME),
    ("attn.in_proj_weight", ("attn/q/kernel", "attn/kv/kernel"), SPLIT_ROWS_TRANSPOSE),
    ("attn.in_proj_bias", ("attn/q/bias", "attn/kv/bias"), SPLIT_ROWS),
    *_ATTENTION_OUT,
    *_norm("layernorm", "layernorm"),
    *_MLP,
)
_VISION = (
    ("conv1.weight", "encoder/patch_embed/kernel", CONV),
    ("conv1.bias", "encoder/patch_embed/bias", SAME),
    ("class_embedding", "encoder/class_embedding", SAME),
    ("register_tokens", "encoder/register_tokens", SAME),
    ("mask_token", "encoder/mask_token", SAME),
    ("positional_embedding", "encoder/positional_embedding", SAME),
    *_norm("ln_pre", "encoder/ln_pre"),
    *_norm("ln_post", "encoder/ln_post"),
    ("proj", "proj", SAME),  # already (in, out)
)
_TEXT = (
    ("token_embedding.weight", "text/token_embedding", SAME),
    ("positional_embedding", "text/positional_embedding", SAME),
    *_norm("ln_final", "text/ln_final"),
    ("text_projection", "text/text_projection", SAME),  # already (in, out)
    ("text_projection_bias", "text/text_projection_bias", SAME),
    ("logit_scale", "logit_scale", SAME),
    ("logit_bias", "logit_bias", SAME),
)


def _rules(table: tuple, source: str = "", target: str = "") -> list[Rule]:
    return [
        Rule(source + key, target + path, transform)
        if isinstance(path, str)
        else Rule(source + key, tuple(target + name for name in path), transform)
        for key, path, transform in table
    ]


MASK, MASK_KEY = "visual.mask_token", "encoder/mask_token"
# The official layout to ours, one entry per block.
OFFICIAL = KeyMap(
    [
        *_rules(_VISION, "visual."),
        *_rules(_BLOCK + _LAYER_SCALE, "visual.transformer.resblocks.{i}.", "encoder/blocks/{i}/"),
        *_rules(_POOL, "visual.attn_pool.", "pool/"),
        *_rules(_TEXT),
        *_rules(_BLOCK, "transformer.resblocks.{i}.", "text/blocks/{i}/"),
    ]
)


def vision_shapes(config: VisionConfig) -> dict[str, tuple[int, ...]]:
    """Returns every `visual.` key of a variant with its shape in the file."""
    width, size = config.width, config.patch_size
    shapes: dict[str, tuple[int, ...]] = {}
    if config.class_token:
        shapes["class_embedding"] = (width,)
    if config.register_tokens:
        shapes["register_tokens"] = (config.register_tokens, width)
    if config.position_embedding:
        shapes["positional_embedding"] = (config.tokens - config.register_tokens, width)
    if config.out_dim is not None:
        shapes["proj"] = (config.feature_width, config.out_dim)
    shapes["conv1.weight"] = (width, 3, size, size)
    if config.patch_bias:
        shapes["conv1.bias"] = (width,)
    for norm, has in (("ln_pre", config.ln_pre), ("ln_post", config.ln_post)):
        shapes |= _norm_shapes(norm, width) if has else {}
    layer_scale = config.layer_scale is not None
    for i in range(config.layers):
        block = _block_shapes(width, config.mlp_width, layer_scale=layer_scale)
        block |= {"mlp.c_fc.weight": (config.fc_width, width), "mlp.c_fc.bias": (config.fc_width,)}
        shapes |= _under(f"transformer.resblocks.{i}.", block)
    if config.pooling == "attn":
        pool = _attention_shapes(width) | _mlp_shapes(width, config.pool_hidden)
        pool |= {"probe": (1, 1, width)} | _norm_shapes("layernorm", width)
        shapes |= _under("attn_pool.", pool)
    return _under("visual.", shapes)


def without_mask(arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Returns arrays without the token that stands for masked patches, which pretraining alone reads."""
    return {key: array for key, array in arrays.items() if key != MASK}


def text_shapes(config: TextConfig) -> dict[str, tuple[int, ...]]:
    """Returns every key of a text encoder, including `logit_scale` and any `logit_bias`, with its shape."""
    width = config.width
    shapes: dict[str, tuple[int, ...]] = {
        "positional_embedding": (config.context, width),
        "text_projection": (width, config.out_dim),
        "logit_scale": (),
        "token_embedding.weight": (config.vocab, width),
    }
    shapes |= {"text_projection_bias": (config.out_dim,)} if config.projection_bias else {}
    shapes |= {"logit_bias": ()} if config.logit_bias else {}
    for i in range(config.layers):
        block = _block_shapes(width, config.mlp_width, layer_scale=False)
        shapes |= _under(f"transformer.resblocks.{i}.", block)
    return shapes | _norm_shapes("ln_final", width)


def add_prefix(arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Returns a vision encoder saved without prefix under its keys in the complete model."""
    if "conv1.weight" in arrays:
        return {f"visual.{key}": array for key, array in arrays.items()}
    return dict(arrays)


def drop_prefix(arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Returns a vision encoder without text under the keys of the reference's vision class."""
    if all(key.startswith("visual.") for key in arrays):
        return {key.removeprefix("visual."): array for key, array in arrays.items()}
    return dict(arrays)


def _block_shapes(width: int, hidden: int, *, layer_scale: bool) -> dict[str, tuple[int, ...]]:
    shapes = _norm_shapes("ln_1", width) | _norm_shapes("ln_2", width)
    shapes |= _attention_shapes(width) | _mlp_shapes(width, hidden)
    return shapes | ({"ls_1.gamma": (width,), "ls_2.gamma": (width,)} if layer_scale else {})


def _attention_shapes(width: int) -> dict[str, tuple[int, ...]]:
    return {
        "attn.in_proj_weight": (3 * width, width),
        "attn.in_proj_bias": (3 * width,),
        "attn.out_proj.weight": (width, width),
        "attn.out_proj.bias": (width,),
    }


def _mlp_shapes(width: int, hidden: int) -> dict[str, tuple[int, ...]]:
    return {
        "mlp.c_fc.weight": (hidden, width),
        "mlp.c_fc.bias": (hidden,),
        "mlp.c_proj.weight": (width, hidden),
        "mlp.c_proj.bias": (width,),
    }


def _norm_shapes(name: str, width: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": (width,), f"{name}.bias": (width,)}


def _under(prefix: str, shapes: dict[str, tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
    return {prefix + key: shape for key, shape in shapes.items()}
