"""Every Perception Encoder variant by name, as frozen dataclasses.

Source: facebookresearch/perception_models at 3e352cc, `core/vision_encoder/config.py` (facts), and
timm 1.0.31 for the alias names.
"""

import dataclasses
from typing import Annotated, Any, Literal

from softbio_jax.errors import UserError, nearest
from softbio_jax.ranges import Name, Range, check_fields

Pooling = Literal["attn", "tok", "avg", "none"]
Precision = Literal["default", "high", "highest", "bfloat16", "tensorfloat32", "float32"]
Resample = Literal["official", "timm"]
MOST_PIXELS = 4096  # a side of the model's images
# Beyond the largest published encoder, and small enough that shapes are computed at once.
Size = Annotated[int, Range(1, 2**16)]
Side = Annotated[int, Range(1, MOST_PIXELS)]
Count = Annotated[int, Range(1, 1024)]
_MOST_GRID = 256  # patches on a side


@dataclasses.dataclass(frozen=True, kw_only=True)
class VisionConfig:
    """Shape of a vision encoder: L blocks of width D over a (image_size / patch_size)^2 grid.

    resample is the treatment of other grids. "official": bilinear positional embedding without
    antialias, integer rotary positions; "timm": bicubic with antialias, rotary positions rescaled
    to the stored grid. At image_size the two are the same.
    """

    name: Annotated[str, Name()]
    image_size: Side  # pixels; the resolution of the stored positional embedding
    patch_size: Count  # pixels
    width: Size
    layers: Count
    heads: Count
    mlp_width: Size
    class_token: bool = True
    pooling: Pooling = "attn"
    out_dim: Size | None = None  # None: no projection
    ln_post: bool = True
    layer_scale: Annotated[float, Range(0, 1000)] | None = None  # initial gamma; None: no LayerScale
    pool_heads: Count = 8  # the reference uses 8 for every width
    resample: Resample = "official"

    def __post_init__(self) -> None:
        check_fields(self, "encoder")
        _require_multiple("width", self.width, "heads", self.heads)
        if self.pooling == "attn":
            _require_multiple("width", self.width, "pool_heads", self.pool_heads)
        if self.head_dim % 4:
            raise UserError(
                "bad config value",
                where="encoder.heads",
                expected="width / heads to be a multiple of 4, for rotary positions of two axes",
                found=f"{self.width} / {self.heads}",
                fix="correct the value",
            )
        self.check_image_size(self.image_size, where="encoder.image_size")

    def check_image_size(self, size: int, *, where: str) -> None:
        """Raises UserError unless images of `size` x `size` pixels are whole patches, and not too many."""
        patch = self.patch_size
        if size < patch or size % patch:
            below = max(size // patch, 1) * patch
            raise UserError(
                "image size is not a multiple of the patch size",
                where=where,
                expected=f"a multiple of {patch}",
                found=str(size),
                fix=f"set it to {below} or {below + patch}",
            )
        if size > min(patch * _MOST_GRID, MOST_PIXELS):
            most = min(patch * _MOST_GRID, MOST_PIXELS // patch * patch)
            raise UserError(
                "too large images",
                where=where,
                expected=f"at most {most}",
                found=str(size),
                fix=f"set it to {most}",
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

    context: Annotated[int, Range(2, 4096)]
    width: Size
    layers: Count
    heads: Count
    out_dim: Size
    vocab: Annotated[int, Range(2, 10**6)] = 49408

    def __post_init__(self) -> None:
        check_fields(self, "text")
        _require_multiple("width", self.width, "heads", self.heads)

    @property
    def mlp_width(self) -> int:
        return 4 * self.width


@dataclasses.dataclass(frozen=True, kw_only=True)
class ComputeConfig:
    """How an encoder is computed; it changes speed and memory, never the parameters."""

    # of activations; norms, softmax and losses stay float32
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    remat: str = "none"  # one of `REMAT_POLICIES`
    unroll: Count = 1  # blocks per scan iteration
    attention: Literal["auto", "xla", "cudnn"] = "xla"  # for jax.nn.dot_product_attention
    # for jax.default_matmul_precision; "highest" for parity
    matmul_precision: Precision = "default"

    def __post_init__(self) -> None:
        check_fields(self, "compute")

    @property
    def recompute(self) -> bool:
        """Whether the backward pass recomputes attention's weights."""
        return self.remat == "attention"


def _require_multiple(name: str, value: int, other: str, divisor: int) -> None:
    if value % divisor:
        raise UserError(
            "bad config value",
            where=f"encoder.{name}",
            expected=f"a multiple of {other} = {divisor}",
            found=str(value),
            fix="correct the value",
        )


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
