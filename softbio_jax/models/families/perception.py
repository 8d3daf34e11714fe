"""The Perception Encoder's variants, and small ones of its architecture: fields of `VisionConfig`.

Source: facebookresearch/perception_models at 3e352cc, `core/vision_encoder/config.py` (facts), and
timm 1.0.31 for the alias names.
"""

from typing import Any


def _core(
    image: int, patch: int, width: int, layers: int, heads: int, out: int | None, **kw: Any
) -> dict[str, Any]:
    fields: dict[str, Any] = {"image_size": image, "patch_size": patch, "width": width, "layers": layers}
    return fields | {"heads": heads, "mlp_width": 4 * width, "out_dim": out} | kw


def _dense(image: int, patch: int, width: int, layers: int, heads: int, **kw: Any) -> dict[str, Any]:
    return _core(image, patch, width, layers, heads, None, pooling="none", ln_post=False, **kw)


def _text(context: int, width: int, layers: int, heads: int, out: int) -> dict[str, Any]:
    return {"context": context, "width": width, "layers": layers, "heads": heads, "out_dim": out}


_GIGANTIC = {"mlp_width": 8960, "class_token": False}
VISION = {
    "PE-Core-T16-384": _core(384, 16, 192, 12, 3, 512),
    "PE-Core-S16-384": _core(384, 16, 384, 12, 6, 512),
    "PE-Core-B16-224": _core(224, 16, 768, 12, 12, 1024),
    "PE-Core-L14-336": _core(336, 14, 1024, 24, 16, 1024),
    "PE-Core-G14-448": _core(448, 14, 1536, 50, 16, 1280, **_GIGANTIC),
    "PE-Lang-L14-448": _dense(448, 14, 1024, 23, 16, layer_scale=0.1),
    "PE-Lang-L14-448-Tiling": _dense(448, 14, 1024, 23, 16, layer_scale=0.1),
    "PE-Lang-G14-448": _dense(448, 14, 1536, 47, 16, layer_scale=0.1, **_GIGANTIC),
    "PE-Lang-G14-448-Tiling": _dense(448, 14, 1536, 47, 16, layer_scale=0.1, **_GIGANTIC),
    "PE-Spatial-T16-512": _dense(512, 16, 192, 12, 3),
    "PE-Spatial-S16-512": _dense(512, 16, 384, 12, 6),
    "PE-Spatial-B16-512": _dense(512, 16, 768, 12, 12),
    "PE-Spatial-L14-448": _dense(448, 14, 1024, 24, 16),
    "PE-Spatial-G14-448": _dense(448, 14, 1536, 50, 16, layer_scale=0.1, **_GIGANTIC),
    # Small ones for tests, the demo and small studies.
    "tiny-test": _core(32, 8, 32, 3, 2, 24),
    "tiny-demo": _core(48, 8, 96, 6, 4, 64),
    "tiny-faces": _core(48, 8, 192, 4, 6, 192),
    "tiny-reproduction": _core(48, 12, 128, 6, 4, 128),
}

TEXT = {
    "PE-Core-T16-384": _text(32, 512, 12, 8, 512),
    "PE-Core-S16-384": _text(32, 512, 12, 8, 512),
    "PE-Core-B16-224": _text(32, 1024, 24, 16, 1024),
    "PE-Core-L14-336": _text(32, 1024, 24, 16, 1024),
    "PE-Core-G14-448": _text(72, 1280, 24, 20, 1280),
    "tiny-test": _text(32, 32, 2, 2, 24),
}

TAG = "fb"  # of timm's names
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
# The hub's repositories of the original files, and of open_clip's.
OTHER_NAMES = {f"facebook/{name}": name for name in VISION if name.startswith("PE-")} | {
    "timm/PE-Core-T-16-384": "PE-Core-T16-384",
    "timm/PE-Core-S-16-384": "PE-Core-S16-384",
    "timm/PE-Core-B-16": "PE-Core-B16-224",
    "timm/PE-Core-L-14-336": "PE-Core-L14-336",
    "timm/PE-Core-bigG-14-448": "PE-Core-G14-448",
}
