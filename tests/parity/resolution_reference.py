"""Small towers at other resolutions through timm, with weights drawn by name.

  python tests/parity/resolution_reference.py   (needs torch and timm)

writes the golden that tests/models/test_resolutions.py compares with.
"""

import functools
import pathlib

import numpy as np

from softbio_jax.interop.goldens import named_state, named_uniform
from softbio_jax.interop.official import vision_shapes
from softbio_jax.interop.timm import OFFICIAL_TO_TIMM
from softbio_jax.models.config import VisionConfig

GOLDEN = pathlib.Path(__file__).parent.parent / "models" / "goldens" / "timm_resolutions.npz"
# Stored grid 8 x 8 of patches of 6: larger, wider, smaller, both at once.
SIZES = ((72, 72), (48, 90), (24, 30), (18, 84))


def config(class_token):
    return VisionConfig(
        name="small",
        image_size=48,
        patch_size=6,
        width=64,
        layers=2,
        heads=4,
        mlp_width=256,
        out_dim=32,
        class_token=class_token,
        resample="timm",
    )


def images(size):
    return named_uniform("image", (2, *size, 3))


def weights(tower):
    return named_state(vision_shapes(tower))


def timm_model(tower):
    """timm's tower of this shape, as its Perception Encoder entry points build theirs."""
    import torch
    from timm.models.eva import Eva

    model = Eva(
        img_size=tower.image_size,
        patch_size=tower.patch_size,
        embed_dim=tower.width,
        depth=tower.layers,
        num_heads=tower.heads,
        mlp_ratio=tower.mlp_width / tower.width,
        num_classes=tower.out_dim,
        global_pool="map",
        attn_type="rope",
        use_pre_transformer_norm=True,
        use_rot_pos_emb=True,
        ref_feat_shape=(tower.grid, tower.grid),
        rope_grid_offset=float(tower.class_token),
        rope_grid_indexing="xy",
        attn_pool_num_heads=tower.pool_heads,
        attn_pool_mlp_ratio=4.0,
        norm_layer=functools.partial(torch.nn.LayerNorm, eps=1e-5),
        class_token=tower.class_token,
        dynamic_img_size=True,
    ).eval()
    state = OFFICIAL_TO_TIMM.forward(weights(tower))
    tensors = {key: torch.from_numpy(np.array(array)) for key, array in state.items()}
    model.load_state_dict(tensors, strict=True)
    return model


def timm_tokens_and_embedding(tower, size):
    """Returns tokens after the blocks (2, N, D), the class token left out, and embeddings."""
    import torch

    pixels = torch.from_numpy(np.ascontiguousarray(images(size).transpose(0, 3, 1, 2)))
    with torch.inference_mode():
        model = timm_model(tower)
        blocks = model.forward_intermediates(pixels, output_fmt="NLC", intermediates_only=True)
        return [block.numpy() for block in blocks], model(pixels).numpy()


if __name__ == "__main__":
    arrays = {}
    for class_token in (True, False):
        for size in SIZES:
            name = f"{'class' if class_token else 'plain'}-{size[0]}x{size[1]}"
            arrays[name] = timm_tokens_and_embedding(config(class_token), size)[1]
    GOLDEN.parent.mkdir(exist_ok=True)
    np.savez_compressed(GOLDEN, **arrays)
