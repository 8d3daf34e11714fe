"""SigLIP 2's layouts, mapped from the official one: transformers' and open_clip's.

timm's files of the vision encoder have the names of the Perception Encoder's timm files. open_clip has timm's
encoder, and the text encoder under the official names but for the projection, which is a linear layer.

Source: transformers 5.23 `models/siglip/modeling_siglip.py`, open_clip `transformer.py` (names and shapes).
"""

from collections.abc import Mapping

import numpy as np

from softbio_jax.interop import timm
from softbio_jax.interop.families.clip import EMBEDDINGS, blocks
from softbio_jax.interop.keymap import SAME, TRANSPOSE, KeyMap, Rule, lead, linear

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
