"""SigLIP 2's variants of fixed resolution: fields of `VisionConfig` and `TextConfig`.

No class token and no norm before the blocks; attention pooling, whose MLP is the blocks'. The feature is the
image embedding itself. Texts attend in both directions and are read at the last of 64 tokens. GELU is
computed by its tanh formula, as in training and in transformers; timm's definitions of B/16, So400m/14 and
the smaller two of L/16 have the exact one.

Source: Tschannen et al. 2025, arXiv:2502.14786; Zhai et al. 2023, arXiv:2303.15343; big_vision
`models/vit.py`, open_clip's model configurations, transformers 5.23 `models/siglip` and timm 1.0.31 (facts).
"""

from typing import Any

_EPS = 1e-6
_COMMON = {
    "family": "siglip2",
    "patch_bias": True,
    "class_token": False,
    "rotary": False,
    "ln_pre": False,
    "activation": "gelu_tanh",
    "norm_eps": _EPS,
    "pool_activation": "gelu_tanh",
    "pool_norm_eps": _EPS,
    "resample": "timm",
}


def _vit(
    image: int, patch: int, width: int, layers: int, heads: int, mlp: int | None = None
) -> dict[str, Any]:
    sizes = {"image_size": image, "patch_size": patch, "width": width, "layers": layers, "heads": heads}
    mlp = mlp or 4 * width
    return _COMMON | sizes | {"mlp_width": mlp, "pool_mlp_width": mlp, "pool_heads": heads}


def _text(width: int, layers: int, heads: int, **fields: Any) -> dict[str, Any]:
    sizes = {"context": 64, "vocab": 256_000, "width": width, "layers": layers, "heads": heads}
    own = {"activation": "gelu_tanh", "norm_eps": _EPS, "causal": False, "pooling": "last"}
    head = {"out_dim": width, "projection_bias": True, "logit_bias": True, "tokenizer": "gemma"}
    return sizes | own | head | fields


_BASE, _LARGE, _SO400M, _GIANT = (768, 12, 12), (1024, 24, 16), (1152, 27, 16, 4304), (1536, 40, 16)
_RATIO = 3.7362  # 4304 of 1152
_TEXTS = {
    "b": _text(768, 12, 12),
    "l": _text(1024, 24, 16),
    "so400m": _text(1152, 27, 16, mlp_ratio=_RATIO),
    "g": _text(1152, 27, 16, mlp_ratio=_RATIO, out_dim=1536),
    "tiny": _text(32, 2, 2, mlp_ratio=2.5, context=16, vocab=320),
}
VISION: dict[str, dict[str, Any]] = {
    "siglip2-b32-256": _vit(256, 32, *_BASE),
    **{f"siglip2-b16-{image}": _vit(image, 16, *_BASE) for image in (224, 256, 384, 512)},
    **{f"siglip2-l16-{image}": _vit(image, 16, *_LARGE) for image in (256, 384, 512)},
    **{f"siglip2-so400m14-{image}": _vit(image, 14, *_SO400M) for image in (224, 378)},
    **{f"siglip2-so400m16-{image}": _vit(image, 16, *_SO400M) for image in (256, 384, 512)},
    **{f"siglip2-g16-{image}": _vit(image, 16, *_GIANT) for image in (256, 384)},
    # A small one for tests.
    "tiny-siglip2": _vit(32, 8, 32, 3, 2, 80),
}
TEXT = {
    name: next(text for size, text in _TEXTS.items() if name.removeprefix("siglip2-").startswith(size))
    for name in VISION
}

TAG = "v2_webli"  # of timm's names
_NAMES = {"b": "base", "l": "large", "so400m": "so400m", "g": "giantopt"}


def _parts(name: str) -> tuple[str, str, str]:
    """Returns size, patch and image of siglip2-SIZEPATCH-IMAGE."""
    _, model, image = name.split("-")
    return model[:-2], model[-2:], image


_PUBLISHED = {name: _parts(name) for name in VISION if not name.startswith("tiny-")}
TIMM_NAMES = {
    f"vit_{_NAMES[size]}_patch{patch}_siglip_{image}.{TAG}": name
    for name, (size, patch, image) in _PUBLISHED.items()
}
# The hub's repositories of transformers' files, and of open_clip's.
_GOOGLE = _NAMES | {"g": "giant-opt"}
_OPEN_CLIP = {"b": "B", "l": "L", "so400m": "SO400M", "g": "gopt"}
OTHER_NAMES = {
    # There the images of So400m/14 have 384 pixels, of which the last 6 are not read.
    f"google/siglip2-{_GOOGLE[size]}-patch{patch}-{image.replace('378', '384')}": name
    for name, (size, patch, image) in _PUBLISHED.items()
} | {
    f"timm/ViT-{_OPEN_CLIP[size]}-{patch}-SigLIP2-{image}".removesuffix("-224"): name
    for name, (size, patch, image) in _PUBLISHED.items()
}
