"""Runs the PyTorch implementations and returns their stages as arrays, for the parity commands."""

import contextlib
import importlib
import pathlib
import sys
from collections.abc import Iterator, Mapping
from types import ModuleType
from typing import Any

import numpy as np

from softbio_jax.errors import UserError
from softbio_jax.interop import formats
from softbio_jax.interop.timm import OFFICIAL_TO_TIMM
from softbio_jax.models.config import TIMM_NAMES, TextConfig, VisionConfig

Arrays = Mapping[str, np.ndarray]


def official_module(checkout: str) -> ModuleType:
    """Imports the reference's model module from a checkout of perception_models.

    Raises:
      UserError: no such checkout, or a package that it imports is absent.
    """
    root = pathlib.Path(checkout)
    if not (root / "core" / "vision_encoder" / "pe.py").is_file():
        raise UserError(
            "no checkout of perception_models",
            where=checkout or "--checkout",
            expected="a folder with core/vision_encoder/pe.py",
            found="none",
            fix="git clone https://github.com/facebookresearch/perception_models and name its folder",
        )
    sys.path.insert(0, str(root))
    try:
        return _import("core.vision_encoder.pe")
    finally:
        sys.path.remove(str(root))


def official_rungs(
    checkout: str, config: VisionConfig, state: Arrays, images: np.ndarray, *, dtype: str = "float32"
) -> dict[str, np.ndarray]:
    """Runs the reference vision encoder in a type; see `ladder.vision_rungs` for stages and arguments."""
    module, torch = official_module(checkout), _import("torch")
    model = module.VisionTransformer(
        patch_size=config.patch_size,
        width=config.width,
        layers=config.layers,
        heads=config.heads,
        mlp_ratio=config.mlp_width / config.width,
        use_ln_post=config.ln_post,
        ls_init_value=config.layer_scale,
        image_size=config.image_size,
        use_cls_token=config.class_token,
        output_dim=config.out_dim,
        attn_pooler_heads=config.pool_heads,
        pool_type=config.pooling,
    )
    _load(torch, model, {key.removeprefix("visual."): array for key, array in state.items()}, dtype)
    stages = {"conv": model.conv1, "pre": model.ln_pre, "tokens": model.ln_post}
    rungs = _run(torch, model, stages, model.transformer.resblocks, images)
    turn = model.rope.freq[0].float().numpy()
    rotary = np.concatenate([np.sin(turn), np.cos(turn)], axis=-1)
    if config.pooling == "attn":
        with torch.inference_mode():
            pooled = _numpy(model.attn_pool(_tensor(torch, rungs["tokens"], dtype))[:, 0])
    else:
        pooled = _numpy(model._pool(_tensor(torch, rungs["tokens"], dtype)))
    return {"rotary": rotary} | _finish(rungs, pooled, projected=config.out_dim is not None)


def official_text_rungs(
    checkout: str,
    config: TextConfig,
    state: Arrays,
    ids: np.ndarray,
    embedding: np.ndarray,
    *,
    dtype: str = "float32",
) -> dict[str, np.ndarray]:
    """Runs the reference text encoder in a type; see `ladder.text_rungs` for stages and arguments."""
    module, torch = official_module(checkout), _import("torch")
    model = module.TextTransformer(
        context_length=config.context,
        vocab_size=config.vocab,
        width=config.width,
        heads=config.heads,
        layers=config.layers,
        output_dim=config.out_dim,
    )
    state = {key: array for key, array in state.items() if not key.startswith("visual.")}
    scale = _tensor(torch, state.pop("logit_scale"), dtype)
    _load(torch, model, state, dtype)
    with torch.inference_mode():
        text = model(torch.from_numpy(ids.astype(np.int64)))
        normalised = torch.nn.functional.normalize(text, dim=-1)
        image = torch.nn.functional.normalize(_tensor(torch, embedding, dtype), dim=-1)
        logits = scale.exp() * image @ normalised.T
    return {"text": _numpy(text), "text_normalised": _numpy(normalised), "logits": _numpy(logits)}


def timm_rungs(
    config: VisionConfig, state: Arrays, images: np.ndarray, *, dtype: str = "float32"
) -> dict[str, np.ndarray]:
    """Runs timm's encoder in a type; see `ladder.vision_rungs`. Its own rule resamples positions."""
    torch, timm = _import("torch"), _import("timm")
    if config.family != "perception":
        return _timm_vit_rungs(torch, timm_vit(config), config, state, images, dtype)
    names = {variant: name for name, variant in TIMM_NAMES.items()}
    # Without num_classes the dense variants get no head, as their checkpoints have none.
    model = timm.create_model(
        names[config.name],
        depth=config.layers,
        dynamic_img_size=True,
        num_classes=config.out_dim or 0,
        global_pool="map" if config.pooling == "attn" else "",
    )
    _load(torch, model, OFFICIAL_TO_TIMM.forward(state), dtype)
    stages = {"conv": model.patch_embed.proj, "pre": model.norm_pre, "tokens": model.norm}
    if config.pooling == "attn":
        stages["pooled"] = model.attn_pool
    rungs = _run(torch, model, stages, model.blocks, images)
    rotary = _timm_rotary(model, config, images)
    pooled = rungs.get("pooled", rungs["tokens"])
    return {"rotary": rotary} | _finish(rungs, pooled, projected=config.out_dim is not None)


def timm_vit(config: VisionConfig) -> Any:
    """Returns timm's vision transformer of a variant's shape, with random weights."""
    if config.family == "dinov3":
        return timm_dinov3(config)
    gated, registers = config.activation == "swiglu", config.register_tokens > 0
    name = f"vit_{'giant' if gated else 'small'}_patch14_{'reg4_' if registers else ''}dinov2"
    if config.family == "clip":
        name = f"vit_base_patch32_clip_{'quickgelu_' if config.activation == 'quick_gelu' else ''}224"
    own = {}
    if config.family == "siglip2":
        # Some of timm's definitions have the exact GELU, with which they were not trained.
        name, own = "vit_base_patch16_siglip_224", {"act_layer": config.activation}
    return _import("timm").create_model(
        name,
        **own,
        img_size=config.image_size,
        patch_size=config.patch_size,
        embed_dim=config.width,
        depth=config.layers,
        num_heads=config.heads,
        mlp_ratio=config.fc_width / config.width,
        num_classes=config.out_dim or 0,
        dynamic_img_size=True,
    )


def timm_dinov3(config: VisionConfig, *, biases: bool = True) -> Any:
    """Returns timm's DINOv3 of a variant's shape, with or without biases of q and v."""
    gated = config.activation == "swiglu"
    return _import("timm").create_model(
        f"vit_small_{'plus_' if gated else ''}patch16_dinov3{'_qkvb' if biases else ''}",
        img_size=config.image_size,
        patch_size=config.patch_size,
        embed_dim=config.width,
        depth=config.layers,
        num_heads=config.heads,
        mlp_ratio=config.mlp_width / config.width,
    )


def _timm_rotary(model: Any, config: VisionConfig, images: np.ndarray) -> np.ndarray:
    """Returns [sin, cos] of all tokens; those before the patches are not turned."""
    grid = (images.shape[1] // config.patch_size, images.shape[2] // config.patch_size)
    rotary = model.rope.get_embed(shape=grid).float().numpy()
    half, prefix = rotary.shape[1] // 2, config.prefix
    unturned = np.concatenate([np.zeros((prefix, half)), np.ones((prefix, half))], axis=-1)
    return np.concatenate([unturned.astype(np.float32), rotary])


def _timm_vit_rungs(
    torch: Any, model: Any, config: VisionConfig, state: Arrays, images: np.ndarray, dtype: str
) -> dict[str, np.ndarray]:
    timm_format = formats.of(config, "timm")
    _load(torch, model, timm_format.closed(timm_format.from_official(state)), dtype)
    stages = {"conv": model.patch_embed.proj, "pre": model.norm_pre, "tokens": model.norm}
    if config.pooling == "attn":
        stages["pooled"] = model.attn_pool
    rungs = _run(torch, model, stages, model.blocks, normalised(config, images, dtype))
    tokens = rungs["tokens"]
    pooled = rungs.get("pooled", tokens[:, 0])
    if config.pooling == "tok+avg":
        pooled = np.concatenate([pooled, tokens[:, config.prefix :].mean(axis=1)], axis=-1)
    rotary = {"rotary": _timm_rotary(model, config, images)} if config.rotary else {}
    return rotary | _finish(rungs, pooled, projected=config.out_dim is not None)


def normalised(config: VisionConfig, images: np.ndarray, dtype: str = "float32") -> np.ndarray:
    """Returns images in [-1, 1] as (v - mean) / std of pixels v in [0, 1]."""
    exact = (images.astype(np.float64) * 0.5 + 0.5 - config.mean) / config.std
    return exact.astype(np.float64 if dtype == "float64" else np.float32)


def _load(torch: Any, model: Any, state: Arrays, dtype: str) -> None:
    tensors = {key: torch.from_numpy(np.array(array)) for key, array in state.items()}
    model.load_state_dict(tensors, strict=True)
    model.to(getattr(torch, dtype)).eval()


def _tensor(torch: Any, array: np.ndarray, dtype: str) -> Any:
    return torch.from_numpy(np.array(array)).to(getattr(torch, dtype))


def _numpy(tensor: Any) -> np.ndarray:
    return (tensor.float() if tensor.itemsize < 4 else tensor).numpy()


def _run(
    torch: Any, model: Any, stages: Mapping[str, Any], blocks: Any, images: np.ndarray
) -> dict[str, np.ndarray]:
    """Runs the model on (B, H, W, 3), recording the named modules and each block."""
    rungs: dict[str, np.ndarray] = {}
    named = dict(stages) | {f"block_{i + 1:02d}": block for i, block in enumerate(blocks)}
    first = next(iter(model.parameters()))
    pixels = torch.from_numpy(np.ascontiguousarray(images.transpose(0, 3, 1, 2))).to(first.dtype)
    with _recorded(named, rungs), torch.inference_mode():
        rungs["output"] = _numpy(model(pixels))
    return rungs


@contextlib.contextmanager
def _recorded(modules: Mapping[str, Any], rungs: dict[str, np.ndarray]) -> Iterator[None]:
    def record(name: str) -> Any:
        def hook(_module: Any, inputs: tuple, output: Any) -> None:
            if name == "pre":
                rungs["positions"] = _numpy(inputs[0]).copy()
            rungs[name] = _numpy(output).copy()

        return hook

    handles = [module.register_forward_hook(record(name)) for name, module in modules.items()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _finish(rungs: dict[str, np.ndarray], pooled: np.ndarray, *, projected: bool) -> dict[str, np.ndarray]:
    """Renames the recorded outputs to the ladder's stages, in forward order."""
    maps = rungs.pop("conv")
    result = {"patches": maps.reshape(*maps.shape[:2], -1).transpose(0, 2, 1)}
    result |= {name: array for name, array in rungs.items() if name not in ("pooled", "output")}
    result["pooled"] = pooled
    if projected:
        output = rungs["output"]
        norm = np.maximum(np.linalg.norm(output, axis=-1, keepdims=True), 1e-12)
        result |= {"embedding": output, "embedding_normalised": output / norm}
    return result


def _import(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise UserError(
            "a package is missing",
            where=name,
            expected="the parity extra",
            found=str(error),
            fix="make test-parity sets it up, or pip install 'softbio-jax[parity]'",
        ) from error
