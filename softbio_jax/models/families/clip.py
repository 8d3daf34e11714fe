"""CLIP's variants: fields of `VisionConfig` and `TextConfig`.

A norm before the blocks, no rotary positions, the class token as the feature. OpenAI's have the quick GELU;
those with `-gelu` are open_clip's of the same shapes.

Source: Radford et al. 2021, arXiv:2103.00020; openai/CLIP `clip/model.py`, open_clip's model
configurations and timm 1.0.31 (facts).
"""

from typing import Any

_COMMON = {
    "family": "clip",
    "mean": (0.48145466, 0.4578275, 0.40821073),
    "std": (0.26862954, 0.26130258, 0.27577711),
    "rotary": False,
    "activation": "quick_gelu",
    "pooling": "tok",
    "resample": "timm",
    "resize": "center",
}


def _vit(image: int, patch: int, width: int, layers: int, heads: int, out: int) -> dict[str, Any]:
    sizes = {"image_size": image, "patch_size": patch, "width": width, "layers": layers, "heads": heads}
    return _COMMON | sizes | {"mlp_width": 4 * width, "out_dim": out}


def _text(width: int, layers: int, heads: int, context: int = 77) -> dict[str, Any]:
    sizes = {"width": width, "layers": layers, "heads": heads, "out_dim": width}
    return {"context": context, "activation": "quick_gelu"} | sizes


_OPENAI = {
    "clip-b32": (_vit(224, 32, 768, 12, 12, 512), _text(512, 12, 8)),
    "clip-b16": (_vit(224, 16, 768, 12, 12, 512), _text(512, 12, 8)),
    "clip-l14": (_vit(224, 14, 1024, 24, 16, 768), _text(768, 12, 12)),
    "clip-l14-336": (_vit(336, 14, 1024, 24, 16, 768), _text(768, 12, 12)),
    # A small one for tests.
    "tiny-clip": (_vit(32, 8, 32, 3, 2, 24), _text(24, 2, 2, context=16)),
}
_OPEN_CLIP = {f"{name}-gelu": _OPENAI[name] for name in ("clip-b32", "clip-b16", "clip-l14")}
_GELU = {"activation": "gelu"}
VISION = {name: vision for name, (vision, _) in _OPENAI.items()} | {
    name: vision | _GELU for name, (vision, _) in _OPEN_CLIP.items()
}
TEXT = {name: text for name, (_, text) in _OPENAI.items()} | {
    name: text | _GELU for name, (_, text) in _OPEN_CLIP.items()
}

TAG = "openai"  # of timm's names
TIMM_NAMES = {
    "vit_base_patch32_clip_quickgelu_224.openai": "clip-b32",
    "vit_base_patch16_clip_quickgelu_224.openai": "clip-b16",
    "vit_large_patch14_clip_quickgelu_224.openai": "clip-l14",
    "vit_large_patch14_clip_quickgelu_336.openai": "clip-l14-336",
    # LAION's large one reads pixels of another mean.
    "vit_base_patch32_clip_224.laion2b": "clip-b32-gelu",
    "vit_base_patch16_clip_224.laion2b": "clip-b16-gelu",
    "vit_base_patch32_clip_224.datacompxl": "clip-b32-gelu",
    "vit_base_patch16_clip_224.datacompxl": "clip-b16-gelu",
    "vit_large_patch14_clip_224.datacompxl": "clip-l14-gelu",
}
# Repositories of transformers' and open_clip's files on the hub.
OTHER_NAMES = {
    "openai/clip-vit-base-patch32": "clip-b32",
    "openai/clip-vit-base-patch16": "clip-b16",
    "openai/clip-vit-large-patch14": "clip-l14",
    "openai/clip-vit-large-patch14-336": "clip-l14-336",
    "laion/CLIP-ViT-B-32-laion2B-s34B-b79K": "clip-b32-gelu",
    "laion/CLIP-ViT-B-16-laion2B-s34B-b88K": "clip-b16-gelu",
}
