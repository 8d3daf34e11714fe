"""Modules of a PEFT file and layers of ours, and the encoder that a module belongs to."""

import dataclasses
import re
from collections.abc import Container, Mapping, Sequence
from typing import Literal

from softbio_jax.errors import UserError
from softbio_jax.models.config import TEXT, VisionConfig
from softbio_jax.models.flops import dense_layers

Naming = Literal["timm", "official", "official_linear", "transformers"]
Tower = Literal["vision", "text"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Place:
    """A dense layer of an encoder, or the part of it that one torch module holds."""

    layer: str  # encoder/blocks/3/attn/qkv
    # all; "q", "k", "v": one of a fused qkv layer; "gate", "up": a half of SwiGLU's c_fc; "q+kv": the
    # pooling's two layers
    part: str = ""

    def slots(self) -> list[str]:
        """Returns the smallest parts that it holds; two modules must not share one."""
        if self.part == "q+kv":
            return ["pool/attn/q", "pool/attn/kv"]
        if self.part in HALVES:
            return [f"{self.layer} {self.part}"]
        parts = self.part or ("qkv" if self.layer.endswith("/attn/qkv") else "")
        return [f"{self.layer} {part}" for part in parts] or [self.layer]


HALVES = ("gate", "up")


# Our layer in a block, or in the pooling -> the torch module's name.
_TIMM_MLP = {"mlp/c_fc": "mlp.fc1", "mlp/c_proj": "mlp.fc2"}
_GATED_MLP = {"mlp/c_fc": "mlp.w12", "mlp/c_proj": "mlp.w3"}  # DINOv2's original
# Where SwiGLU's halves are modules of their own: DINOv3's in timm and in the original.
_GATES = {"mlp.fc1_g": "gate", "mlp.fc1_x": "up", "mlp.w1": "gate", "mlp.w2": "up"}
_MLP = {"mlp/c_fc": "mlp.c_fc", "mlp/c_proj": "mlp.c_proj"}
_OFFICIAL = {"attn/out": "attn.out_proj"} | _MLP
_BLOCK = {
    "timm": {"attn/qkv": "attn.qkv", "attn/out": "attn.proj"} | _TIMM_MLP,
    "official": {"attn/qkv": "attn.in_proj"} | _OFFICIAL,
}
_POOL = {"timm": {"attn/q": "q", "attn/kv": "kv", "attn/out": "proj"} | _TIMM_MLP, "official": _OFFICIAL}
_HEAD = "vision_model.head"  # transformers' pooling, whose attention is torch's
_PARENT = {"timm": "blocks", "official": "transformer.resblocks"}
# transformers' parts of a block, by its version 4 and its version 5, which has more separate modules.
_TRANSFORMERS = re.compile(r"(?:encoder\.)?layers?\.(\d+)\.(.+)")
_TRANSFORMERS_BLOCK: dict[str, tuple[str, str]] = {
    **{f"attention.attention.{name}": ("attn/qkv", name[0]) for name in ("query", "key", "value")},
    **{
        f"{parent}.{name}_proj": ("attn/qkv", name) for parent in ("attention", "self_attn") for name in "qkv"
    },
    "self_attn.out_proj": ("attn/out", ""),
    **{name: ("attn/out", "") for name in ("attention.output.dense", "attention.o_proj")},
    **{name: ("mlp/c_fc", "") for name in ("mlp.fc1", "mlp.weights_in")},
    **{name: ("mlp/c_proj", "") for name in ("mlp.fc2", "mlp.weights_out", "mlp.down_proj")},
    **{f"mlp.{name}_proj": ("mlp/c_fc", name) for name in HALVES},
}
# Where they are written: version 5's modules of each layer, side by side, by family.
_MLP_FC = {"mlp/c_fc": ("mlp.fc1",), "mlp/c_proj": ("mlp.fc2",)}
_SELF_ATTENTION = {
    "attn/qkv": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    "attn/out": ("self_attn.out_proj",),
    **_MLP_FC,
}
_WRITTEN: Mapping[str, Mapping[str, Sequence[str]]] = {
    "dinov2": {
        "attn/qkv": ("attention.q_proj", "attention.k_proj", "attention.v_proj"),
        "attn/out": ("attention.o_proj",),
        **_MLP_FC,
    },
    "dinov3": {
        "attn/qkv": ("attention.q_proj", "attention.k_proj", "attention.v_proj"),
        "attn/out": ("attention.o_proj",),
        "mlp/c_fc": ("mlp.up_proj",),
        "mlp/c_proj": ("mlp.down_proj",),
    },
    "clip": _SELF_ATTENTION,
    "siglip2": _SELF_ATTENTION,
}
_WRITTEN_GATED = {"mlp/c_fc": ("mlp.gate_proj", "mlp.up_proj"), "mlp/c_proj": ("mlp.down_proj",)}
_BLOCKS = {
    ("dinov2", "encoder"): "encoder.layer",
    ("dinov3", "encoder"): "model.layer",
    **{(family, "encoder"): "vision_model.encoder.layers" for family in ("clip", "siglip2")},
    **{(family, "text"): "text_model.encoder.layers" for family in ("clip", "siglip2")},
}
# The official modules whose wrapped forward is never called: PEFT would load an adapter and
# nothing would change, unless the modules are changed so that they are called (official_linear).
_DEAD = ("attn.in_proj", "attn.out_proj")
# torch's attention in a text block: PEFT wraps both of its projections under these names.
_TEXT_BLOCK = {"attn/qkv": "attn", "attn/out": "attn.base_layer.out_proj"} | _MLP
_OUTER = re.compile(
    r"(?:base_model\.model\.)?(?:(?:backbone|model|timm_model|dinov2|dinov2_with_registers)\.)?"
)
_PREFIX = re.compile(
    _OUTER.pattern
    + r"(?:(?P<vision>visual\.trunk\.|visual\.|trunk\.|vision_model\.)|(?P<text>text\.|text_model\.))?"
)
_BARE = re.compile(r"(?:transformer\.resblocks|encoder\.layers)\.\d+\.(.+)")
# Outside blocks and pooling: timm's head is the projection.
_ALONE = {"head": "proj", "patch_embed.proj": "encoder/patch_embed", "conv1": "encoder/patch_embed"}
# transformers' names of them.
_ALONE_THERE = {"visual_projection": "proj"} | {
    f"embeddings.{name}": "encoder/patch_embed"
    for name in ("patch_embeddings.projection", "patch_embeddings", "patch_embedding")
}
# DINOv2's parts of a block in transformers 5, as its files name them.
_IN_FILES = {
    f"{x}_proj": f"attention.{name}" for x, name in zip("qkv", ("query", "key", "value"), strict=True)
}
_IN_FILES["o_proj"] = "output.dense"
_SPLIT = re.compile(r"attn\.([qkv])(?:_proj)?")


def place(module: str, bare: Tower = "vision", *, gated: bool = True) -> Place | None:
    """Returns the layer of a module in any naming, or None if the encoders have no such layer.

    Args:
      module: its name.
      bare: the encoder of official names of a block without a prefix.
      gated: whether the MLP is SwiGLU's, of which up_proj is a half; else it is the layer.
    """
    prefix = _PREFIX.match(module)
    name = module[prefix.end() :]  # type: ignore[union-attr]
    if prefix["text"] or (is_bare(module) and bare == "text"):  # type: ignore[index]
        if match := _TRANSFORMERS.fullmatch(name):
            layer, part = _TRANSFORMERS_BLOCK.get(match[2], ("", ""))
            return Place(layer=f"text/blocks/{match[1]}/{layer}", part=part) if layer else None
        match = re.fullmatch(r"transformer\.resblocks\.(\d+)\.(.+)", name)
        inner = next((ours for ours, theirs in _TEXT_BLOCK.items() if match and match[2] == theirs), None)
        return Place(layer=f"text/blocks/{match[1]}/{inner}") if match and inner else None
    for naming, parent in _PARENT.items():
        if match := re.fullmatch(rf"{re.escape(parent)}\.(\d+)\.(.+)", name):
            block, inner = match.groups()
            if split := _SPLIT.fullmatch(inner):
                return Place(layer=f"encoder/blocks/{block}/attn/qkv", part=split[1])
            if inner in _GATES:
                return Place(layer=f"encoder/blocks/{block}/mlp/c_fc", part=_GATES[inner])
            # Encoders with split q, k, v keep either naming for the other layers.
            for table in (_BLOCK[naming], *_BLOCK.values(), _GATED_MLP):
                for layer, torch_name in table.items():
                    if inner == torch_name:
                        return Place(layer=f"encoder/blocks/{block}/{layer}")
            return None
    if match := _TRANSFORMERS.fullmatch(name):
        layer, part = _TRANSFORMERS_BLOCK.get(match[2], ("", ""))
        part = part if gated or part != "up" else ""
        return Place(layer=f"encoder/blocks/{match[1]}/{layer}", part=part) if layer else None
    if alone := _ALONE.get(name) or _ALONE_THERE.get(name):
        return Place(layer=alone)
    if name.startswith("head."):
        name = re.sub(r"^head\.(attention\b)?", lambda found: f"attn_pool.{'attn' * bool(found[1])}", name)
    if name.startswith("attn_pool."):
        inner = name.removeprefix("attn_pool.")
        if inner in ("attn", "attn.in_proj"):  # fused q, k, v
            return Place(layer="pool/attn/q", part="q+kv")
        inner = inner.replace("attn.base_layer.out_proj", "attn.out_proj")
        for table in _POOL.values():
            for layer, torch_name in table.items():
                if inner == torch_name:
                    return Place(layer=f"pool/{layer}")
    return None


def module_name(layer: str, naming: Naming) -> str:
    """Returns the torch module of a layer such as encoder/blocks/3/attn/qkv or pool/attn/out.

    Raises:
      UserError: the naming has no module for it, or PEFT would ignore its adapter.
    """
    table = "timm" if naming == "timm" else "official"
    if layer in _ALONE.values():
        inner, parent = ("head" if (layer, naming) == ("proj", "timm") else None), ""
    elif layer.startswith("pool/"):
        inner, parent = _POOL[table].get(layer.removeprefix("pool/")), "attn_pool"
    else:
        encoder, _, block, rest = layer.split("/", 3)
        inner, parent = _BLOCK[table].get(rest), f"{_PARENT[table]}.{block}"
        if encoder == "text" and naming != "official":
            inner = None
    if inner is None or (naming == "official" and inner in _DEAD):
        raise UserError(
            "PEFT would silently ignore this adapter on the official modules"
            if naming == "official"
            else "no module for this adapter",
            where=f"{layer} as {naming}",
            expected="a linear layer that is called",
            found="a raw parameter, a convolution, or a layer that is bypassed",
            fix="write it with timm's names, or merge it: --base=ENCODER",
        )
    return f"{parent}.{inner}".lstrip(".")


def timm_modules(layer: str, config: VisionConfig | None) -> list[tuple[str, slice]]:
    """Returns timm's modules of a layer, each with its part of the layer's outputs.

    Raises:
      UserError: timm has no module for it.
    """
    name = module_name(layer, "timm")
    if config is None or (config.family, config.activation) != ("dinov3", "swiglu") or name[-3:] != "fc1":
        return [(name, slice(None))]
    return [(f"{name}_g", slice(config.mlp_width)), (f"{name}_x", slice(config.mlp_width, None))]


def transformers_modules(layer: str, config: VisionConfig) -> list[tuple[str, slice]]:
    """Returns transformers' modules of a layer, each with its part of the layer's outputs.

    Raises:
      UserError: transformers has no module for it, or no encoder of this family.
    """
    encoder, _, block, rest = [*layer.split("/", 3), "", "", ""][:4]
    if config.family == "siglip2" and layer in ("pool/mlp/c_fc", "pool/mlp/c_proj"):
        (name,) = _MLP_FC[layer.removeprefix("pool/")]
        return [(f"{_HEAD}.{name}", slice(None))]
    gated = _WRITTEN_GATED if config.activation == "swiglu" else {}
    names = {**_WRITTEN.get(config.family, {}), **gated}.get(rest)
    parent = _BLOCKS.get((config.family, encoder))
    if names is None or parent is None:
        raise UserError(
            "no module of transformers for this adapter",
            where=f"{layer} of {config.name}",
            expected=f"a layer of the blocks of {' or '.join(_WRITTEN)}",
            found=layer,
            fix="write it with timm's names, or merge it: --base=ENCODER",
        )
    width = layer_sizes(config)[layer][1] // len(names)
    return [(f"{parent}.{block}.{name}", slice(i * width, (i + 1) * width)) for i, name in enumerate(names)]


def inner_name(name: str, bare: Tower, official: Container[str]) -> str:
    """Returns the official name of a weight in the model of both encoders, or else timm's.

    Args:
      name: with any prefix.
      bare: the encoder of official names without a prefix.
      official: all official names.
    """
    prefix = _PREFIX.match(name)
    rest = name[prefix.end() :]  # type: ignore[union-attr]
    of_text = prefix["text"] or (bare == "text" and not prefix["vision"])  # type: ignore[index]
    if of_text and rest in official and not rest.startswith("visual."):
        return rest
    return f"visual.{rest}" if f"visual.{rest}" in official else rest if not of_text else name


def name_in_files(name: str, bare: Tower, known: Container[str]) -> str:
    """Returns the name of a weight in transformers' files among `known`, or the name as it is.

    Args:
      name: of a model in memory, with any prefix.
      bare: the encoder of names without a prefix.
      known: the names in its files.
    """
    rest = _OUTER.sub("", name, count=1)
    renamed = re.sub(r"(?<=\.attention\.)([qkvo]_proj)", lambda found: _IN_FILES[found[1]], rest)
    encoder = "text_model" if bare == "text" else "vision_model"
    return next((found for found in (rest, renamed, f"{encoder}.{rest}") if found in known), name)


def is_bypassed(module: str) -> bool:
    """Returns whether PEFT's layer of a module is never called: it is inside torch's attention."""
    return module.endswith("head.attention.out_proj")


def is_bare(module: str) -> bool:
    """Returns whether a module of a block has official or transformers' names and no prefix.

    The official text encoder has such names in the model of both encoders, and the vision encoder
    where it is the whole model. In transformers 5 both have them where they are the whole model.
    """
    named, rest = parted(module)
    return named is None and bool(_BARE.fullmatch(rest))


def parted(module: str) -> tuple[Tower | None, str]:
    """Returns the encoder that a module's prefix names, if any, and the name without prefix."""
    prefix = _PREFIX.match(module)
    named: Tower | None = "vision" if prefix["vision"] else "text" if prefix["text"] else None  # type: ignore[index]
    return named, module[prefix.end() :]  # type: ignore[union-attr]


def layer_sizes(config: VisionConfig) -> dict[str, tuple[int, int]]:
    """Returns the inputs and outputs of every dense layer of a variant, one entry per block."""
    sizes = {"encoder/patch_embed": (3 * config.patch_size**2, config.width)}
    if config.out_dim:
        sizes["proj"] = (config.width, config.out_dim)
    for layer in dense_layers(config):
        for i in range(config.layers):
            path = layer.path.replace("encoder/trunk/", f"encoder/blocks/{i}/")
            sizes[path] = (layer.inputs, layer.outputs)
    if text := TEXT.get(config.name):
        width, hidden = text.width, text.mlp_width
        block = {
            "attn/qkv": (width, 3 * width),
            "attn/out": (width, width),
            "mlp/c_fc": (width, hidden),
            "mlp/c_proj": (hidden, width),
        }
        for i in range(text.layers):
            sizes |= {f"text/blocks/{i}/{name}": size for name, size in block.items()}
    return sizes
