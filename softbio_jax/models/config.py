"""Every Perception Encoder variant by name, as frozen dataclasses.

Source: facebookresearch/perception_models at 3e352cc, `core/vision_encoder/config.py` (facts), and
timm 1.0.31 for the alias names.
"""

import dataclasses
from typing import Any, Literal, get_args

from softbio_jax.errors import UserError, nearest

Pooling = Literal["attn", "tok", "avg", "none"]
Resample = Literal["official", "timm"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class VisionConfig:
    """Shape of a vision encoder: L blocks of width D over a (image_size / patch_size)^2 grid.

    resample is the treatment of other grids. "official": bilinear positional embedding without
    antialias, integer rotary positions; "timm": bicubic with antialias, rotary positions rescaled
    to the stored grid. At image_size the two are the same.
    """

    name: str
    image_size: int  # pixels; the resolution of the stored positional embedding
    patch_size: int  # pixels
    width: int
    layers: int
    heads: int
    mlp_width: int
    class_token: bool = True
    pooling: Pooling = "attn"
    out_dim: int | None = None  # None: no projection
    ln_post: bool = True
    layer_scale: float | None = None  # initial gamma; None: no LayerScale
    pool_heads: int = 8  # the reference uses 8 for every width
    resample: Resample = "official"

    def __post_init__(self) -> None:
        if self.resample not in get_args(Resample):
            raise UserError(
                "unknown resampling",
                where="model.resample",
                expected=" or ".join(get_args(Resample)),
                found=repr(self.resample),
                fix="use one of them",
            )

    @property
    def grid(self) -> int:
        return self.image_size // self.patch_size

    @property
    def head_dim(self) -> int:
        return self.width // self.heads

    @property
    def tokens(self) -> int:
        return self.grid**2 + int(self.class_token)


@dataclasses.dataclass(frozen=True, kw_only=True)
class TextConfig:
    """Shape of a text encoder."""

    context: int
    width: int
    layers: int
    heads: int
    out_dim: int
    vocab: int = 49408

    @property
    def mlp_width(self) -> int:
        return 4 * self.width


@dataclasses.dataclass(frozen=True, kw_only=True)
class ComputeConfig:
    """How an encoder is computed; it changes speed and memory, never the parameters."""

    dtype: str = "float32"  # of activations; norms, softmax and losses stay float32
    remat: str = "none"  # one of `REMAT_POLICIES`
    unroll: int = 1  # blocks per scan iteration
    attention: Literal["auto", "xla", "cudnn"] = "xla"  # for jax.nn.dot_product_attention
    matmul_precision: str = "default"  # for jax.default_matmul_precision; "highest" for parity

    @property
    def recompute(self) -> bool:
        """Whether the backward pass recomputes attention's weights."""
        return self.remat == "attention"


def _core(
    name: str, image: int, patch: int, width: int, layers: int, heads: int, out: int | None, **kw: Any
) -> VisionConfig:
    shape: dict[str, Any] = {"mlp_width": 4 * width, "image_size": image, "patch_size": patch} | kw
    return VisionConfig(name=name, width=width, layers=layers, heads=heads, out_dim=out, **shape)


def _dense(name: str, image: int, patch: int, width: int, layers: int, heads: int, **kw: Any) -> VisionConfig:
    return _core(name, image, patch, width, layers, heads, None, pooling="none", ln_post=False, **kw)


_GIGANTIC = {"mlp_width": 8960, "class_token": False}
_CONFIGS = (
    _core("PE-Core-T16-384", 384, 16, 192, 12, 3, 512),
    _core("PE-Core-S16-384", 384, 16, 384, 12, 6, 512),
    _core("PE-Core-B16-224", 224, 16, 768, 12, 12, 1024),
    _core("PE-Core-L14-336", 336, 14, 1024, 24, 16, 1024),
    _core("PE-Core-G14-448", 448, 14, 1536, 50, 16, 1280, **_GIGANTIC),
    _dense("PE-Lang-L14-448", 448, 14, 1024, 23, 16, layer_scale=0.1),
    _dense("PE-Lang-L14-448-Tiling", 448, 14, 1024, 23, 16, layer_scale=0.1),
    _dense("PE-Lang-G14-448", 448, 14, 1536, 47, 16, layer_scale=0.1, **_GIGANTIC),
    _dense("PE-Lang-G14-448-Tiling", 448, 14, 1536, 47, 16, layer_scale=0.1, **_GIGANTIC),
    _dense("PE-Spatial-T16-512", 512, 16, 192, 12, 3),
    _dense("PE-Spatial-S16-512", 512, 16, 384, 12, 6),
    _dense("PE-Spatial-B16-512", 512, 16, 768, 12, 12),
    _dense("PE-Spatial-L14-448", 448, 14, 1024, 24, 16),
    _dense("PE-Spatial-G14-448", 448, 14, 1536, 50, 16, layer_scale=0.1, **_GIGANTIC),
    # Small ones for tests, the demo and small studies.
    _core("tiny-test", 32, 8, 32, 3, 2, 24),
    _core("tiny-demo", 48, 8, 96, 6, 4, 64),
    _core("tiny-faces", 48, 8, 192, 4, 6, 192),
    _core("tiny-reproduction", 48, 12, 128, 6, 4, 128),
)
VISION = {config.name: config for config in _CONFIGS}

TEXT = {
    name: TextConfig(context=context, width=width, layers=layers, heads=heads, out_dim=out)
    for name, context, width, layers, heads, out in (
        ("PE-Core-T16-384", 32, 512, 12, 8, 512),
        ("PE-Core-S16-384", 32, 512, 12, 8, 512),
        ("PE-Core-B16-224", 32, 1024, 24, 16, 1024),
        ("PE-Core-L14-336", 32, 1024, 24, 16, 1024),
        ("PE-Core-G14-448", 72, 1280, 24, 20, 1280),
        ("tiny-test", 32, 32, 2, 2, 24),
    )
}

TIMM_NAMES = {
    "vit_pe_core_tiny_patch16_384.fb": "PE-Core-T16-384",
    "vit_pe_core_small_patch16_384.fb": "PE-Core-S16-384",
    "vit_pe_core_base_patch16_224.fb": "PE-Core-B16-224",
    "vit_pe_core_large_patch14_336.fb": "PE-Core-L14-336",
    "vit_pe_core_gigantic_patch14_448.fb": "PE-Core-G14-448",
    "vit_pe_lang_large_patch14_448.fb": "PE-Lang-L14-448",
    "vit_pe_lang_large_patch14_448.fb_tiling": "PE-Lang-L14-448-Tiling",
    "vit_pe_lang_gigantic_patch14_448.fb": "PE-Lang-G14-448",
    "vit_pe_lang_gigantic_patch14_448.fb_tiling": "PE-Lang-G14-448-Tiling",
    "vit_pe_spatial_tiny_patch16_512.fb": "PE-Spatial-T16-512",
    "vit_pe_spatial_small_patch16_512.fb": "PE-Spatial-S16-512",
    "vit_pe_spatial_base_patch16_512.fb": "PE-Spatial-B16-512",
    "vit_pe_spatial_large_patch14_448.fb": "PE-Spatial-L14-448",
    "vit_pe_spatial_gigantic_patch14_448.fb": "PE-Spatial-G14-448",
}


def vision_config(name: str) -> VisionConfig:
    """Returns a variant by its PE name, or by timm's with or without the tag.

    Raises:
      UserError: no such variant.
    """
    for timm_name in (name, f"{name}.fb"):
        if timm_name in TIMM_NAMES:
            return VISION[TIMM_NAMES[timm_name]]
    if name not in VISION:
        raise UserError(
            "unknown variant",
            where="model.variant",
            expected=f"one of {', '.join(VISION)}",
            found=repr(name),
            fix=nearest(name, VISION, otherwise="use a name of that list, or its timm name"),
        )
    return VISION[name]
