"""Tiny encoders of torch: timm's class, and modules with the official names and no forward pass."""

import functools

import numpy as np
import torch
from timm.models.eva import Eva
from torch import nn

from softbio_jax.interop import formats
from softbio_jax.interop.goldens import named_state
from softbio_jax.interop.timm import OFFICIAL_TO_TIMM
from softbio_jax.models.config import vision_config

CONFIG = vision_config("tiny-test")
IMAGES = np.random.default_rng(3).uniform(-1, 1, (2, 32, 32, 3)).astype(np.float32)


@functools.cache
def official_state(*, text=False):
    return dict(named_state(formats.official_shapes("tiny-test", text=text)))


def tensors(state):
    return {key: torch.from_numpy(np.array(array)) for key, array in state.items()}


def timm_tower():
    model = Eva(
        img_size=32,
        patch_size=8,
        embed_dim=32,
        depth=3,
        num_heads=2,
        mlp_ratio=4.0,
        num_classes=24,
        global_pool="map",
        attn_type="rope",
        use_pre_transformer_norm=True,
        use_rot_pos_emb=True,
        ref_feat_shape=(4, 4),
        rope_grid_offset=1.0,
        rope_grid_indexing="xy",
        attn_pool_num_heads=8,
        attn_pool_mlp_ratio=4.0,
        norm_layer=functools.partial(torch.nn.LayerNorm, eps=1e-5),
        class_token=True,
    ).eval()
    model.load_state_dict(tensors(OFFICIAL_TO_TIMM.forward(official_state())))
    return model


def run_torch(model):
    with torch.no_grad():
        return model(torch.from_numpy(IMAGES.transpose(0, 3, 1, 2).copy())).numpy()


class Part(nn.Module):
    """Modules by name."""


class CLIP(Part):
    """The name of the official class of both encoders, which PEFT notes."""


class VisionTransformer(Part):
    """The name of the official class of the vision encoder."""


def official_both():
    """The official model of both encoders, by names and shapes; it cannot run."""
    return assembled(CLIP(), official_state(text=True))


def official_vision():
    """The official vision encoder alone, by names and shapes; it cannot run."""
    state = official_state()
    return assembled(VisionTransformer(), {k.removeprefix("visual."): v for k, v in state.items()})


def assembled(root, state):
    """Puts a module of torch into root for each name of a state dict."""
    for key, array in state.items():
        *parents, leaf = key.split(".")
        module = root
        for depth, name in enumerate(parents):
            if not hasattr(module, name):
                module.add_module(name, _module(".".join(parents[: depth + 1]), state))
            module = getattr(module, name)
        if not hasattr(module, leaf):
            module.register_parameter(leaf, nn.Parameter(torch.zeros(array.shape)))
    root.load_state_dict(tensors(state))
    return root.eval()


def _module(name, state):
    weight, bias = state.get(f"{name}.weight"), f"{name}.bias" in state
    mine = name.startswith("visual.") or not any(key.startswith("visual.") for key in state)
    of_text = name.startswith("transformer.") and not mine
    if name.endswith("attn_pool.attn") or (of_text and name.endswith(".attn")):
        return nn.MultiheadAttention(state[f"{name}.in_proj_weight"].shape[1], 4, batch_first=True)
    if weight is None:
        return Part()
    if name == "token_embedding":
        return nn.Embedding(*weight.shape)
    if weight.ndim == 4:
        return nn.Conv2d(weight.shape[1], weight.shape[0], weight.shape[2:], bias=bias)
    if weight.ndim == 2:
        return nn.Linear(weight.shape[1], weight.shape[0], bias=bias)
    return nn.LayerNorm(weight.shape[0], bias=bias)
