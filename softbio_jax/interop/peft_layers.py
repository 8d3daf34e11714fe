"""Adapted layers by our names, assembled from the modules of a PEFT file."""

import collections
import dataclasses
import math
import re
from collections.abc import Mapping
from typing import Literal

import numpy as np

from softbio_jax.adapters.config import AdapterRules, LoRAConfig
from softbio_jax.errors import UserError
from softbio_jax.models.config import VISION, VisionConfig
from softbio_jax.models.flops import dense_layers

Naming = Literal["timm", "official", "official_linear"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Place:
    """A dense layer of the encoder, or the part of it that one torch module holds."""

    layer: str  # encoder/blocks/3/attn/qkv
    part: str = ""  # all; "q", "k", "v": one of a fused qkv layer; "q+kv": the pooling's two layers


# Our layer in a block, or in the pooling -> the torch module's name.
_TIMM_MLP = {"mlp/c_fc": "mlp.fc1", "mlp/c_proj": "mlp.fc2"}
_OFFICIAL = {"attn/out": "attn.out_proj", "mlp/c_fc": "mlp.c_fc", "mlp/c_proj": "mlp.c_proj"}
_BLOCK = {
    "timm": {"attn/qkv": "attn.qkv", "attn/out": "attn.proj"} | _TIMM_MLP,
    "official": {"attn/qkv": "attn.in_proj"} | _OFFICIAL,
}
_POOL = {"timm": {"attn/q": "q", "attn/kv": "kv", "attn/out": "proj"} | _TIMM_MLP, "official": _OFFICIAL}
_PARENT = {"timm": "blocks", "official": "transformer.resblocks"}
# The official modules whose wrapped forward is never called: PEFT would load an adapter and
# nothing would change, unless the modules are changed so that they are called (official_linear).
_DEAD = ("attn.in_proj", "attn.out_proj")
_PREFIX = re.compile(
    r"(?:base_model\.model\.)?(?:visual\.trunk\.|visual\.|trunk\.|backbone\.|vision_model\.|model\.)?"
)
_SPLIT = re.compile(r"attn\.([qkv])(?:_proj)?")


def place(module: str) -> Place | None:
    """Returns the layer of a module in any naming, or None if the encoder has no such layer."""
    name = module[_PREFIX.match(module).end() :]  # type: ignore[union-attr]
    for naming, parent in _PARENT.items():
        if match := re.fullmatch(rf"{re.escape(parent)}\.(\d+)\.(.+)", name):
            block, inner = match.groups()
            if split := _SPLIT.fullmatch(inner):
                return Place(layer=f"encoder/blocks/{block}/attn/qkv", part=split[1])
            # Encoders with split q, k, v keep either naming for the other layers.
            for table in (_BLOCK[naming], *_BLOCK.values()):
                for layer, torch_name in table.items():
                    if inner == torch_name:
                        return Place(layer=f"encoder/blocks/{block}/{layer}")
            return None
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
    if layer.startswith("pool/"):
        inner, parent = _POOL[table].get(layer.removeprefix("pool/")), "attn_pool"
    else:
        _, _, block, rest = layer.split("/", 3)
        inner, parent = _BLOCK[table].get(rest), f"{_PARENT[table]}.{block}"
    if inner is None or (naming == "official" and inner in _DEAD):
        raise UserError(
            "PEFT would silently ignore this adapter on the official modules"
            if naming == "official"
            else "no module for this adapter",
            where=f"{layer} as {naming}",
            expected="a linear layer that is called",
            found="a raw parameter, or a layer that is bypassed",
            fix="write it with timm's names, or merge it",
        )
    return f"{parent}.{inner}"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Layer:
    """One adapted layer: A (in, R), B (R, out) and with DoRA the magnitude (out,)."""

    config: LoRAConfig
    a: np.ndarray
    b: np.ndarray
    magnitude: np.ndarray | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Adapter:
    """An adapter as layers by path: encoder/blocks/{i}/attn/qkv, pool/attn/out and so on."""

    layers: Mapping[str, Layer]

    def tail(self, config: VisionConfig) -> int:
        """Returns the tail of a model for the adapter: the last blocks that differ, or 0."""
        first, last = self._span()
        if (first, last) == (0, config.layers - 1) or last < 0:
            return 0
        return config.layers - (last + 1 if first == 0 else first)

    def rules(self, config: VisionConfig) -> AdapterRules:
        """Returns the rules of a model for the adapter."""
        first, _ = self._span()
        part = "(trunk|tail)"
        if self.tail(config):
            part = "trunk" if first == 0 else "tail"
        rules = {
            re.sub(r"encoder/blocks/\d+", f"encoder/{part}", path): layer.config
            for path, layer in self.layers.items()
        }
        return AdapterRules(rules=tuple(rules.items()))

    def _span(self) -> tuple[int, int]:
        numbers = [block_number(path) for path in self.layers if block_number(path) >= 0]
        return (min(numbers), max(numbers)) if numbers else (0, -1)


def block_number(layer: str) -> int:
    """Returns i of encoder/blocks/{i}/..., -1 outside the blocks."""
    match = re.match(r"encoder/blocks/(\d+)/", layer)
    return int(match[1]) if match else -1


def layer_of(tensors: Mapping[str, np.ndarray], config: LoRAConfig, *, where: str) -> Layer:
    """Returns a module's layer.

    Args:
      tensors: lora_A.weight (R, in), lora_B.weight (out, R) and lora_magnitude_vector of out.
      config: the adapter's configuration.
      where: the file and module, for the error.

    Raises:
      UserError: a missing tensor, or one that does not fit the configuration.
    """
    a, b = tensors.get("lora_A.weight"), tensors.get("lora_B.weight")
    magnitude = tensors.get("lora_magnitude_vector")
    if a is None or b is None or a.ndim != 2 or b.ndim != 2:
        raise UserError(
            "incomplete adapter",
            where=where,
            expected="lora_A and lora_B matrices",
            found=", ".join(f"{k} {v.shape}" for k, v in tensors.items()),
            fix="give the file PEFT saved",
        )
    if not a.shape[0] == b.shape[1] == config.rank:
        raise UserError(
            "adapter rank does not fit its configuration",
            where=where,
            expected=f"rank {config.rank}",
            found=f"A of rank {a.shape[0]}, B of rank {b.shape[1]}",
            fix="give weights and configuration of the same adapter",
        )
    if (magnitude is not None) != config.dora:
        raise UserError(
            "DoRA magnitudes do not fit the configuration",
            where=where,
            expected="magnitudes" if config.dora else "none, for use_dora is false",
            found="magnitudes" if magnitude is not None else "none",
            fix="give weights and configuration of the same adapter",
        )
    vector = None if magnitude is None else magnitude.reshape(-1)
    return Layer(config=config, a=a.T, b=b.T, magnitude=vector)


def fuse(pieces: Mapping[Place, Layer], *, where: str) -> dict[str, Layer]:
    """Returns layers by path: separate q, k, v joined, the pooling's fused projections split.

    Raises:
      UserError: parts of a layer that cannot be joined.
    """
    layers = {place.layer: layer for place, layer in pieces.items() if not place.part}
    split: dict[str, dict[str, Layer]] = collections.defaultdict(dict)
    for place, layer in pieces.items():
        if place.part == "q+kv":
            width = layer.a.shape[0]
            for name, rows in (("q", slice(0, width)), ("kv", slice(width, None))):
                own = None if layer.magnitude is None else layer.magnitude[rows]
                layers[f"pool/attn/{name}"] = dataclasses.replace(layer, b=layer.b[:, rows], magnitude=own)
        elif place.part:
            split[place.layer][place.part] = layer
    for name, parts in split.items():
        layers[name] = _joined(parts, f"{where} {name}")
    return layers


def _joined(parts: Mapping[str, Layer], where: str) -> Layer:
    """Joins adapters of q, k, v: A side by side, B on the diagonal, the same scale s."""
    first = next(iter(parts.values()))
    if any(layer.config != first.config for layer in parts.values()):
        raise UserError(
            "q, k and v have different adapters",
            where=where,
            expected="one rank and alpha",
            found="several",
            fix="train them with one configuration",
        )
    if first.config.dora and len(parts) < 3:
        raise UserError(
            "DoRA on some of q, k and v",
            where=where,
            expected="all three",
            found=", ".join(parts),
            fix="merge it with PEFT first",
        )
    width, rank = first.b.shape[1], first.config.rank
    ranks = rank * len(parts)
    b = np.zeros((ranks, 3 * width), np.float32)
    for i, (part, layer) in enumerate(parts.items()):
        column = "qkv".index(part) * width
        b[i * rank : (i + 1) * rank, column : column + width] = layer.b
    # alpha grows with the rank, so that s = alpha / R is unchanged.
    unit = math.sqrt(ranks) if first.config.rslora else ranks
    magnitudes = [m for p in "qkv" if p in parts and (m := parts[p].magnitude) is not None]
    return Layer(
        config=dataclasses.replace(first.config, rank=ranks, alpha=first.config.scale * unit),
        a=np.concatenate([layer.a for layer in parts.values()], axis=1),
        b=b,
        magnitude=np.concatenate(magnitudes) if first.config.dora else None,
    )


def check_variant(layers: Mapping[str, Layer], config: VisionConfig, *, where: str) -> None:
    """Checks that layers (by path, read from the file `where`) fit a variant.

    Raises:
      UserError: layers of another variant, or on other than all, the first or the last blocks.
    """
    if wrong := _misfit(layers, config):
        fits = [name for name, other in VISION.items() if not _misfit(layers, other)]
        raise UserError(
            "adapter of another variant",
            where=where,
            expected=config.name,
            found=f"{wrong}, as in {', '.join(fits)}" if fits else wrong,
            fix="name the variant it was trained on",
        )
    blocks: dict[str, set[int]] = collections.defaultdict(set)
    for path in layers:
        if (i := block_number(path)) >= 0:
            blocks[path.split("/", 3)[3]].add(i)
    for name, numbers in blocks.items():
        range_ = set(range(min(numbers), max(numbers) + 1))
        from_an_end = min(numbers) == 0 or max(numbers) == config.layers - 1
        if numbers != range_ or not from_an_end or numbers != next(iter(blocks.values())):
            raise UserError(
                "adapter on scattered blocks",
                where=f"{where} layer {name}",
                expected=f"all of 0..{config.layers - 1}, or those at an end",
                found=", ".join(map(str, sorted(numbers))),
                fix="merge it with PEFT first",
            )


def _misfit(layers: Mapping[str, Layer], config: VisionConfig) -> str:
    """Returns the first layer that the variant does not have, or an empty string."""
    sizes = {layer.path: (layer.inputs, layer.outputs) for layer in dense_layers(config)}
    for path, layer in layers.items():
        found = (layer.a.shape[0], layer.b.shape[1])
        stacked = re.sub(r"encoder/blocks/\d+/", "encoder/trunk/", path)
        if found != sizes.get(stacked) or block_number(path) >= config.layers:
            return f"{path} of {found[0]} x {found[1]}"
    return ""
