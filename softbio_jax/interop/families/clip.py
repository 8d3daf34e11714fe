"""CLIP's layout in transformers, mapped from the official one.

OpenAI's and open_clip's files have the names of the Perception Encoder's official ones, and timm's of
the vision encoder those of its timm files.

Source: transformers 5.23 `models/clip/modeling_clip.py` (names and shapes).
"""

from softbio_jax.interop.keymap import SAME, THIRDS, TRANSPOSE, KeyMap, Rule, linear


def blocks(source: str, target: str) -> list[Rule]:
    """Returns the rules of the blocks of an encoder, between the prefixes of two layouts."""
    source, target = f"{source}transformer.resblocks.{{i}}", f"{target}.encoder.layers.{{i}}"
    names = {"ln_1": "layer_norm1", "ln_2": "layer_norm2", "attn.out_proj": "self_attn.out_proj"}
    names |= {"mlp.c_fc": "mlp.fc1", "mlp.c_proj": "mlp.fc2"}
    return [
        *(
            Rule(
                f"{source}.attn.in_proj_{leaf}",
                tuple(f"{target}.self_attn.{part}_proj.{leaf}" for part in "qkv"),
                THIRDS,
            )
            for leaf in ("weight", "bias")
        ),
        *(
            rule
            for ours, theirs in names.items()
            for rule in linear(f"{source}.{ours}", f"{target}.{theirs}")
        ),
    ]


EMBEDDINGS = "vision_model.embeddings"
# The official layout of both encoders to transformers'.
OFFICIAL_TO_TRANSFORMERS = KeyMap(
    [
        Rule("visual.conv1.weight", f"{EMBEDDINGS}.patch_embedding.weight", SAME),
        Rule("visual.class_embedding", f"{EMBEDDINGS}.class_embedding", SAME),
        Rule("visual.positional_embedding", f"{EMBEDDINGS}.position_embedding.weight", SAME),
        *linear("visual.ln_pre", "vision_model.pre_layrnorm"),  # their spelling
        *linear("visual.ln_post", "vision_model.post_layernorm"),
        *blocks("visual.", "vision_model"),
        Rule("visual.proj", "visual_projection.weight", TRANSPOSE),
        Rule("token_embedding.weight", "text_model.embeddings.token_embedding.weight", SAME),
        Rule("positional_embedding", "text_model.embeddings.position_embedding.weight", SAME),
        *linear("ln_final", "text_model.final_layer_norm"),
        *blocks("", "text_model"),
        Rule("text_projection", "text_projection.weight", TRANSPOSE),
        Rule("logit_scale", "logit_scale", SAME),
    ]
)
