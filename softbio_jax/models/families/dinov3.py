"""DINOv3's variants: fields of `VisionConfig`.

Rotary positions of the patches alone, in no learned table; four registers, LayerScale, no bias of the keys,
and SwiGLU in those of "plus". Heads have 64 channels. The feature is the class token beside the mean of
the patches, as in the original's linear classifiers (`dinov3/eval/linear.py`, `dinov3/hub/classifiers.py`).

Source: Siméoni et al. 2025, arXiv:2508.10104; facebookresearch/dinov3, `dinov3/hub/backbones.py`, and timm
1.0.31 (facts).
"""

from typing import Any

import numpy as np

HEAD = 64  # channels of a head
BASE = 100.0
_COMMON = {
    "family": "dinov3",
    "image_size": 256,
    "patch_size": 16,
    "mean": (0.485, 0.456, 0.406),  # ImageNet's
    "std": (0.229, 0.224, 0.225),
    "patch_bias": True,
    "register_tokens": 4,
    "position_embedding": False,
    "rotary": "dinov3",
    "key_bias": False,
    "ln_pre": False,
    "pooling": "tok+avg",
    "layer_scale": 1e-5,
}


def periods(head_dim: int) -> np.ndarray:
    """Returns the periods 100^(i/d) of the rotary positions, i < d = head_dim / 4, float32."""
    axis = head_dim // 4
    exponents = np.float32(2) * np.arange(axis, dtype=np.float32) / np.float32(2 * axis)
    return (np.float32(BASE) ** exponents).astype(np.float32)


def _vit(width: int, layers: int, **fields: Any) -> dict[str, Any]:
    sizes = {"width": width, "layers": layers, "heads": width // HEAD, "mlp_width": 4 * width}
    return _COMMON | sizes | fields


_GATED = {"activation": "swiglu"}
VISION: dict[str, dict[str, Any]] = {
    "dinov3-s16": _vit(384, 12),
    "dinov3-s16plus": _vit(384, 12, **_GATED),
    "dinov3-b16": _vit(768, 12),
    "dinov3-l16": _vit(1024, 24),
    "dinov3-h16plus": _vit(1280, 32, **_GATED),
    # Small ones for tests.
    "tiny-dinov3": _vit(128, 2, image_size=32, patch_size=8, mlp_width=64),
    "tiny-dinov3-plus": _vit(128, 2, image_size=32, patch_size=8, mlp_width=64, **_GATED),
}
TEXT: dict[str, dict[str, Any]] = {}

TAG = "lvd1689m"  # of timm's names
_NAMES = {"small": "s16", "small_plus": "s16plus", "base": "b16", "large": "l16", "huge_plus": "h16plus"}
# Each without the biases of q and v, which are 0, and with them.
TIMM_NAMES = {
    f"vit_{name}_patch16_dinov3{biases}.{TAG}": f"dinov3-{size}"
    for biases in ("", "_qkvb")
    for name, size in _NAMES.items()
}
# The repositories of transformers' files on the hub, and the original's names.
OTHER_NAMES = {f"facebook/dinov3-vit{size}-pretrain-{TAG}": f"dinov3-{size}" for size in _NAMES.values()} | {
    f"dinov3_vit{size}": f"dinov3-{size}" for size in _NAMES.values()
}
