"""DINOv2's variants, with and without registers: fields of `VisionConfig`.

No rotary positions and no norm before the blocks; LayerScale, and in the largest SwiGLU. The feature is
the class token beside the mean of the patches, as in the original's linear classifiers.

Source: Oquab et al. 2023, arXiv:2304.07193; Darcet et al. 2023, arXiv:2309.16588 (registers);
facebookresearch/dinov2, `dinov2/hub/backbones.py`, and timm 1.0.31 (facts).
"""

from typing import Any

_COMMON = {
    "family": "dinov2",
    "image_size": 518,
    "patch_size": 14,
    "mean": (0.485, 0.456, 0.406),  # ImageNet's
    "std": (0.229, 0.224, 0.225),
    "patch_bias": True,
    "rotary": False,
    "ln_pre": False,
    "norm_eps": 1e-6,
    "pooling": "tok+avg",
    "layer_scale": 1e-5,
    "resample": "timm",
}
_REGISTERS = {"register_tokens": 4}


def _vit(width: int, layers: int, heads: int, **fields: Any) -> dict[str, Any]:
    sizes = {"width": width, "layers": layers, "heads": heads, "mlp_width": 4 * width}
    return _COMMON | sizes | fields


_SIZES: dict[str, dict[str, Any]] = {
    "dinov2-s14": _vit(384, 12, 6),
    "dinov2-b14": _vit(768, 12, 12),
    "dinov2-l14": _vit(1024, 24, 16),
    "dinov2-g14": _vit(1536, 40, 24, mlp_width=4096, activation="swiglu"),
}
VISION = _SIZES | {
    **{f"{name}-reg4": fields | _REGISTERS for name, fields in _SIZES.items()},
    # Small ones for tests.
    "tiny-dinov2": _vit(32, 3, 2, image_size=32, patch_size=8),
    "tiny-dinov2-reg4": _vit(
        32, 3, 2, image_size=32, patch_size=8, mlp_width=64, activation="swiglu", **_REGISTERS
    ),
}
TEXT: dict[str, dict[str, Any]] = {}

TAG = "lvd142m"  # of timm's names
_NAMES = {"small": "s", "base": "b", "large": "l", "giant": "g"}
TIMM_NAMES = {
    f"vit_{name}_patch14_{with_}dinov2.{TAG}": f"dinov2-{letter}14{suffix}"
    for with_, suffix in (("", ""), ("reg4_", "-reg4"))
    for name, letter in _NAMES.items()
}
# The repositories of transformers' files on the hub, and the original's names.
OTHER_NAMES = {
    f"facebook/dinov2-{with_}{name}": f"dinov2-{letter}14{suffix}"
    for with_, suffix in (("", ""), ("with-registers-", "-reg4"))
    for name, letter in _NAMES.items()
} | {
    f"dinov2_vit{letter}14{with_}": f"dinov2-{letter}14{suffix}"
    for with_, suffix in (("", ""), ("_reg", "-reg4"))
    for letter in _NAMES.values()
}
