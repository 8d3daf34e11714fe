"""timm's encoders of the sizes that are compared, with peft's adapters in them."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import peft
import timm
import torch
from torch import nn

from softbio_jax.adapters.config import LoRAConfig
from softbio_jax.errors import UserError
from softbio_jax.interop import formats
from softbio_jax.models.config import TIMM_NAMES, VISION, VisionConfig
from training_parity.twin.dropout import GivenDropout

# Names of timm's projections by this package's, in a block and in the pooling.
BLOCK = {"attn/qkv": "attn.qkv", "attn/out": "attn.proj", "mlp/c_fc": "mlp.fc1", "mlp/c_proj": "mlp.fc2"}
POOL = {"attn/q": "q", "attn/kv": "kv", "attn/out": "proj", "mlp/c_fc": "mlp.fc1", "mlp/c_proj": "mlp.fc2"}


def build(config: VisionConfig, state: Mapping[str, np.ndarray]) -> nn.Module:
    """Returns timm's encoder of a variant, perhaps of fewer blocks or another size, without a head.

    Args:
      config: the variant.
      state: official `visual.` key -> array, without the projection.

    Raises:
      UserError: a family of which timm's modules are not known here.
    """
    if config.family == "perception":
        # The sizes are set one by one: the same call makes the encoders that only this package names.
        model = timm.create_model(
            "vit_pe_core_tiny_patch16_384",
            patch_size=config.patch_size,
            embed_dim=config.width,
            depth=config.layers,
            num_heads=config.heads,
            mlp_ratio=config.mlp_width / config.width,
            img_size=config.image_size,
            ref_feat_shape=(config.grid, config.grid),
            class_token=config.class_token,
            attn_pool_num_heads=config.pool_heads,
            init_values=config.layer_scale,
            num_classes=0,
            global_pool="map" if config.pooling == "attn" else "",
        )
    elif config.family == "dinov2" and config.activation == "gelu":
        names = {variant: name for name, variant in TIMM_NAMES.items()}
        model = timm.create_model(
            names.get(VISION[config.name].name, "vit_small_patch14_dinov2").partition(".")[0],
            patch_size=config.patch_size,
            embed_dim=config.width,
            depth=config.layers,
            num_heads=config.heads,
            img_size=config.image_size,
            num_classes=0,
        )
    else:
        raise UserError(
            "no twin of this encoder",
            where=config.name,
            expected="a Perception Encoder, or DINOv2 without SwiGLU",
            found=f"{config.family} with {config.activation}",
            fix="compare its forward pass: scripts/parity.py without --training",
        )
    file = formats.of(config, "timm")
    arrays = file.closed(file.from_official(state))
    model.load_state_dict({name: torch.from_numpy(np.array(array)) for name, array in arrays.items()})
    return model.requires_grad_(False)


def adapt(model: nn.Module, adapter: LoRAConfig, targets: Sequence[str], *, rounded: bool) -> None:
    """Puts peft's adapters into modules of timm's encoder, in place.

    Args:
      model: timm's encoder.
      adapter: R, alpha, rsLoRA, p and DoRA.
      targets: names of the modules.
      rounded: see `GivenDropout`, which takes the place of torch's.
    """
    settings = peft.LoraConfig(
        r=adapter.rank,
        lora_alpha=adapter.alpha,
        lora_dropout=adapter.dropout,
        use_rslora=adapter.rslora,
        use_dora=adapter.dora,
        bias="none",
        target_modules="|".join(re.escape(name) for name in targets),
    )
    peft.inject_adapter_in_model(settings, model)
    for name in targets:
        if adapter.dropout:
            model.get_submodule(name).lora_dropout["default"] = GivenDropout(adapter.dropout, rounded=rounded)


def rotary_table(angles: np.ndarray, prefix: int) -> torch.Tensor:
    """Returns timm's table (N, 2 head_dim) [sin, cos] of the patches, from the angles of all tokens."""
    turn = torch.from_numpy(angles[prefix:].astype(np.float64))
    return torch.cat([turn.sin(), turn.cos()], dim=-1)


def pooled(model: Any, config: VisionConfig, tokens: torch.Tensor) -> torch.Tensor:
    """Returns what the heads read of the final tokens (B, N, D)."""
    if config.pooling == "attn":
        return model.attn_pool(tokens)
    mean = tokens[:, config.prefix :].mean(dim=1)
    return {"tok": tokens[:, 0], "avg": tokens.mean(dim=1)}.get(
        config.pooling, torch.cat([tokens[:, 0], mean], dim=-1)
    )
