"""The variant of weights by the configuration that timm, transformers or open_clip saved beside them."""

import pathlib
from collections.abc import Mapping
from typing import Any

from softbio_jax.errors import UserError
from softbio_jax.interop.reading import locate
from softbio_jax.models.config import VISION, VisionConfig, vision_config
from softbio_jax.safety import untrusted

_CONFIG, _OPEN_CLIP = "config.json", "open_clip_config.json"
# transformers' model_type -> family, and whether there are registers.
_TYPES = {
    "dinov2": ("dinov2", False),
    "dinov2_with_registers": ("dinov2", True),
    "dinov3_vit": ("dinov3", True),
    "clip": ("clip", False),
    "siglip": ("siglip2", False),
}
# transformers' names of the sizes.
_SIZES = {"hidden_size": "width", "num_hidden_layers": "layers", "patch_size": "patch_size"}
# Of the vision encoders alone, whose configurations have no vision_config.
_ALONE = {"clip_vision_model": "clip", "siglip_vision_model": "siglip2"}
# What a vision_config does not name.
_DEFAULTS = {"hidden_size": 768, "num_hidden_layers": 12, "image_size": 224}
OWN_DEFAULTS: Mapping[str, Mapping[str, Any]] = {
    "clip": {"patch_size": 32, "hidden_act": "quick_gelu"},
    "siglip2": {"patch_size": 16},
}
_VOCABULARY = 256_000  # by which SigLIP 2's differ from SigLIP's
# What open_clip's configurations say of CLIP's vision encoder; any other key is of another architecture.
_CLIP_KEYS = {"image_size", "width", "layers", "patch_size"}


def variant_of(source: str) -> str:
    """Returns the variant of a file, folder or hub id: by its configuration, else by the hub id itself.

    Args:
      source: as of `locate.resolve`; of a hub id, its config.json is downloaded.

    Raises:
      UserError: no source, no configuration, or one of an encoder that is none of `VISION`.
    """
    if not source:
        raise UserError(
            "no weights to find the variant by",
            where="model.variant: auto",
            expected="model.pretrained, a hub id or weights with their config.json",
            found="none",
            fix="name the variant, or the weights",
        )
    values = _config(source)
    hub_id = source if locate.is_hub_id(source) else None
    for name in (values.get("architecture"), _by_sizes(values), _by_open_clip(values), hub_id):
        if isinstance(name, str):
            try:
                return vision_config(_tagged(name, values)).name
            except UserError:
                continue
    found = values.get("architecture") or values.get("model_type") or _by_open_clip(values) or "none"
    raise UserError(
        "weights whose variant is not known",
        where=source,
        expected=f"a {_CONFIG} of timm or transformers, or {_OPEN_CLIP}, of one of {', '.join(VISION)}",
        found=str(found),
        fix="set model.variant to the variant",
    )


def family_of(values: Mapping[str, Any]) -> str | None:
    """Returns the family of a configuration of transformers, or None for any other."""
    name = str(values.get("model_type"))
    return _ALONE.get(name) or _TYPES.get(name, (None, False))[0]


def named_by_timm(values: Mapping[str, Any]) -> VisionConfig | None:
    """Returns the variant of a configuration of timm, or None for any other."""
    name = values.get("architecture")
    try:
        return vision_config(_tagged(name, values)) if isinstance(name, str) else None
    except UserError:
        return None


def _tagged(name: str, values: Mapping[str, Any]) -> str:
    """Returns timm's name with its tag, where that is a name of its own."""
    details = values.get("pretrained_cfg")
    tag = details.get("tag") if isinstance(details, Mapping) else None
    full = f"{name}.{tag}"
    try:
        return vision_config(full).name
    except UserError:
        return name


def _by_sizes(values: Mapping[str, Any]) -> str | None:
    """Returns the variant of a configuration of transformers."""
    family, registers = _TYPES.get(str(values.get("model_type")), (None, False))
    wanted = {ours: values.get(theirs) for theirs, ours in _SIZES.items()}
    if family and family in OWN_DEFAULTS and isinstance(own := values.get("vision_config"), Mapping):
        own = {**_DEFAULTS, **OWN_DEFAULTS[family], **own}
        wanted = {ours: own[theirs] for theirs, ours in _SIZES.items()}
        wanted["image_size"] = own["image_size"]
        if family == "clip":
            wanted["activation"] = own["hidden_act"]
    if family == "siglip2":
        text = values.get("text_config")
        if not isinstance(text, Mapping) or text.get("vocab_size") != _VOCABULARY:
            return None
        # Pixels that fill no patch are not read.
        patch, image = wanted["patch_size"], wanted.get("image_size")
        if isinstance(patch, int) and isinstance(image, int) and patch > 0:
            wanted["image_size"] = image // patch * patch
    if family == "dinov3":
        wanted["activation"] = "swiglu" if values.get("use_gated_mlp") else "gelu"

    def fits(config: VisionConfig) -> bool:
        same = all(getattr(config, name) == value for name, value in wanted.items())
        return config.family == family and (config.register_tokens > 0) == registers and same

    return next((name for name, config in VISION.items() if fits(config)), None)


def _by_open_clip(values: Mapping[str, Any]) -> str | None:
    """Returns the variant, or timm's name of it, of a configuration of open_clip."""
    model = values.get("model_cfg")
    if not isinstance(model, Mapping):
        return None
    vision, text = model.get("vision_cfg"), model.get("text_cfg")
    if not isinstance(vision, Mapping) or not isinstance(text, Mapping):
        return None
    if isinstance(name := vision.get("timm_model_name"), str):
        return None if "siglip" in name and text.get("vocab_size") != _VOCABULARY else name
    if set(vision) != _CLIP_KEYS:
        return None
    wanted = {"activation": "quick_gelu" if model.get("quick_gelu") else "gelu", **vision}

    def fits(config: VisionConfig) -> bool:
        return config.family == "clip" and all(getattr(config, key) == wanted[key] for key in wanted)

    return next((name for name, config in VISION.items() if fits(config)), None)


def _config(source: str) -> Mapping[str, Any]:
    """Returns the configuration beside weights, empty if there is none."""
    path, _ = locate.split_level(pathlib.Path(source))
    if locate.is_hub_id(source):
        path = locate.resolve(source)  # which downloads the configurations too
    folder, wrong = path if path.is_dir() else path.parent, "a damaged configuration"
    for name in (_CONFIG, _OPEN_CLIP):
        try:
            return untrusted.read_json(folder / name, wrong=wrong, fix="set model.variant")
        except OSError:
            continue
    return {}
