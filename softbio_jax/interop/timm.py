"""timm's and open_clip's layouts, mapped from the official one; timm has no text encoder.

Source: timm 1.0.31, `timm/models/eva.py`.
"""

from collections.abc import Mapping

import numpy as np

from softbio_jax.interop.keymap import HEAD, SAME, SPLIT_ROWS, KeyMap, Rule, lead, linear

_BLOCK = "visual.transformer.resblocks.{i}"
_POOL = "visual.attn_pool"

# The official vision layout to timm's.
OFFICIAL_TO_TIMM = KeyMap(
    [
        *linear("visual.conv1", "patch_embed.proj"),
        Rule("visual.class_embedding", "cls_token", lead(2)),
        Rule("visual.positional_embedding", "pos_embed", lead(1)),
        *linear("visual.ln_pre", "norm_pre"),
        *linear("visual.ln_post", "norm"),
        *linear(f"{_BLOCK}.ln_1", "blocks.{i}.norm1"),
        Rule(f"{_BLOCK}.attn.in_proj_weight", "blocks.{i}.attn.qkv.weight", SAME),
        Rule(f"{_BLOCK}.attn.in_proj_bias", "blocks.{i}.attn.qkv.bias", SAME),
        *linear(f"{_BLOCK}.attn.out_proj", "blocks.{i}.attn.proj"),
        Rule(f"{_BLOCK}.ls_1.gamma", "blocks.{i}.gamma_1", SAME),
        *linear(f"{_BLOCK}.ln_2", "blocks.{i}.norm2"),
        *linear(f"{_BLOCK}.mlp.c_fc", "blocks.{i}.mlp.fc1"),
        *linear(f"{_BLOCK}.mlp.c_proj", "blocks.{i}.mlp.fc2"),
        Rule(f"{_BLOCK}.ls_2.gamma", "blocks.{i}.gamma_2", SAME),
        Rule(f"{_POOL}.probe", "attn_pool.latent", SAME),
        *(
            Rule(f"{_POOL}.attn.in_proj_{leaf}", (f"attn_pool.q.{leaf}", f"attn_pool.kv.{leaf}"), SPLIT_ROWS)
            for leaf in ("weight", "bias")
        ),
        *linear(f"{_POOL}.attn.out_proj", "attn_pool.proj"),
        *linear(f"{_POOL}.layernorm", "attn_pool.norm"),
        *linear(f"{_POOL}.mlp.c_fc", "attn_pool.mlp.fc1"),
        *linear(f"{_POOL}.mlp.c_proj", "attn_pool.mlp.fc2"),
        Rule("visual.proj", ("head.weight", "head.bias"), HEAD),
    ]
)


_TRUNK, _TEXT = "visual.trunk.", "text."  # open_clip's prefixes


def from_official(arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Maps the official layout to open_clip's."""
    visual = {key: array for key, array in arrays.items() if key.startswith("visual.")}
    result = {_TRUNK + key: array for key, array in OFFICIAL_TO_TIMM.forward(visual).items()}
    for key, array in arrays.items():
        if key not in visual:
            result[key if key.startswith("logit_") else _TEXT + key] = array
    return result


def to_official(arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Maps open_clip's layout to the official one, the inverse of `from_official`."""
    trunk = {key.removeprefix(_TRUNK): array for key, array in arrays.items() if key.startswith(_TRUNK)}
    rest = {key.removeprefix(_TEXT): array for key, array in arrays.items() if not key.startswith(_TRUNK)}
    return OFFICIAL_TO_TIMM.backward(trunk) | rest
