"""Adapted layers by our names, assembled from the modules of a PEFT file."""

import collections
import dataclasses
import math
import re
from collections.abc import Callable, Mapping

import numpy as np

from softbio_jax.adapters.config import AdapterRules, LoRAConfig
from softbio_jax.errors import UserError
from softbio_jax.interop.peft_parts.names import HALVES, Place, layer_sizes
from softbio_jax.models.config import VISION, VisionConfig


@dataclasses.dataclass(frozen=True, kw_only=True)
class Layer:
    """One adapted layer: A (in, R), B (R, out), with DoRA the magnitude (out,), and B's bias (out,)."""

    config: LoRAConfig
    a: np.ndarray
    b: np.ndarray
    magnitude: np.ndarray | None = None
    bias: np.ndarray | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Adapter:
    """An adapter as layers by path: encoder/blocks/{i}/attn/qkv, pool/attn/out and so on.

    Every layer has its own configuration. A model's layers are stacked, with one rule per stack:
    `rules` has the most common configuration of its blocks, and `rows` brings the others to it.
    trained are weights of the encoder that were trained whole, by path, one entry per block.
    """

    layers: Mapping[str, Layer]
    trained: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)

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
            kind.replace("/blocks/*/", f"/{part if kind.startswith('encoder') else 'trunk'}/"): common
            for kind, common in self.common().items()
        }
        return AdapterRules(rules=tuple(rules.items()))

    def common(self) -> dict[str, LoRAConfig]:
        """Returns the most common configuration of each layer's blocks, by paths with * for i."""
        configs: dict[str, list[LoRAConfig]] = collections.defaultdict(list)
        for path, layer in self.layers.items():
            configs[kind_of(path)].append(layer.config)
        # An alpha of 0 turns an adapter off; no other update is a multiple of it.
        configs = {kind: [c for c in found if c.alpha] or found for kind, found in configs.items()}
        return {kind: collections.Counter(found).most_common(1)[0][0] for kind, found in configs.items()}

    def text(self) -> "Adapter":
        """Returns the part of the text encoder."""
        return self._of(lambda path: path.startswith("text/"))

    def vision(self) -> "Adapter":
        """Returns the part of the vision encoder."""
        return self._of(lambda path: not path.startswith("text/"))

    def _of(self, chosen: Callable[[str], bool]) -> "Adapter":
        layers = {path: layer for path, layer in self.layers.items() if chosen(path)}
        return Adapter(layers=layers, trained={p: leaf for p, leaf in self.trained.items() if chosen(p)})

    def _span(self) -> tuple[int, int]:
        numbers = [block_number(path) for path in self.layers if path.startswith("encoder/blocks/")]
        return (min(numbers), max(numbers)) if numbers else (0, -1)


def block_number(layer: str) -> int:
    """Returns i of encoder/blocks/{i}/..., -1 outside the blocks."""
    match = re.match(r"(?:encoder|text)/blocks/(\d+)/", layer)
    return int(match[1]) if match else -1


def kind_of(layer: str) -> str:
    """Maps encoder/blocks/{i}/x to encoder/blocks/*/x; other layers are unchanged."""
    return re.sub(r"/blocks/\d+/", "/blocks/*/", layer)


def rows(blocks: Mapping[int, Layer], numbers: range, config: LoRAConfig, *, where: str) -> list[Layer]:
    """Returns one layer per block of a stack, all with the same configuration.

    Another alpha goes into B. A block without an adapter has A = 0 and B = 0, whose gradients are 0
    too, so that it stays without one.

    Args:
      blocks: block number -> layer; at least one.
      numbers: the blocks of the stack.
      config: of the stack.
      where: the stack, for the error.

    Raises:
      UserError: other ranks, or DoRA on some blocks.
    """
    result = []
    first = next(iter(blocks.values()))
    for i in numbers:
        layer = blocks.get(i)
        if layer is None and not config.dora:
            empty = dataclasses.replace(first, a=np.zeros_like(first.a), b=np.zeros_like(first.b))
            result.append(dataclasses.replace(empty, config=config))
            continue
        if layer is None or dataclasses.replace(layer.config, alpha=config.alpha) != config:
            raise UserError(
                "adapters that do not stack",
                where=f"{where} block {i}",
                expected=f"rank {config.rank}{' of DoRA' if config.dora else ''}, as on other blocks",
                found="none" if layer is None else f"rank {layer.config.rank}",
                fix="fold it into its encoder: scripts/convert.py --base=ENCODER",
            )
        if layer.config != config:
            ratio = np.float32(layer.config.scale / config.scale)
            layer = dataclasses.replace(layer, config=config, b=layer.b * ratio)
        result.append(layer)
    return result


def layer_of(
    tensors: Mapping[str, np.ndarray], config: LoRAConfig, *, lora_bias: bool = False, where: str
) -> Layer:
    """Returns a module's layer.

    Args:
      tensors: lora_A (R, in), lora_B (out, R), or both of a convolution; lora_B.bias and
        lora_magnitude_vector of out.
      config: the adapter's configuration.
      lora_bias: whether B has a bias.
      where: the file and module, for the error.

    Raises:
      UserError: a missing tensor, or one that does not fit the configuration.
    """
    a, b = tensors.get("lora_A"), tensors.get("lora_B")
    magnitude, bias = tensors.get("lora_magnitude_vector"), tensors.get("lora_B.bias")
    if a is not None and b is not None and a.ndim == 4 and b.shape[2:] == (1, 1):
        # A convolution of patches (R, in, rows, columns), and one of single pixels: products of matrices.
        a, b = a.transpose(0, 2, 3, 1).reshape(len(a), -1), b[:, :, 0, 0]
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
    if (bias is not None) != lora_bias:
        raise UserError(
            "biases of B do not fit the configuration",
            where=where,
            expected="a bias of B" if lora_bias else "none, for lora_bias is false",
            found="one" if bias is not None else "none",
            fix="give weights and configuration of the same adapter",
        )
    for name, vector in (("lora_magnitude_vector", magnitude), ("lora_B.bias", bias)):
        if vector is not None and vector.size != b.shape[0]:
            raise UserError(
                "a vector of another length",
                where=f"{where} {name}",
                expected=str(b.shape[0]),
                found="x".join(map(str, vector.shape)),
                fix="give the file PEFT saved",
            )
    vectors = [None if vector is None else vector.reshape(-1) for vector in (magnitude, bias)]
    return Layer(config=config, a=a.T, b=b.T, magnitude=vectors[0], bias=vectors[1])


def fuse(pieces: Mapping[Place, Layer], *, where: str) -> dict[str, Layer]:
    """Returns layers by path: separate q, k, v and halves joined, the pooling's fused projections split.

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
    """Joins adapters of q, k, v, or of SwiGLU's halves: A side by side, B on the diagonal, one scale s."""
    order = HALVES if set(parts) <= set(HALVES) else tuple("qkv")
    first = next((layer for layer in parts.values() if layer.config.alpha), next(iter(parts.values())))
    if first.config.dora and len(parts) < len(order):
        raise UserError(
            f"DoRA on some of {', '.join(order)}",
            where=where,
            expected="all of them",
            found=", ".join(parts),
            fix="merge it with PEFT first",
        )
    sizes = {part: (layer.a.shape[0], layer.b.shape[1]) for part, layer in parts.items()}
    if len(set(sizes.values())) > 1:
        raise UserError(
            f"{', '.join(order[:-1])} and {order[-1]} of different sizes",
            where=where,
            expected="one size",
            found=", ".join(f"{part} {inputs} x {outputs}" for part, (inputs, outputs) in sizes.items()),
            fix="give the file PEFT saved",
        )
    width = first.b.shape[1]
    ranks = sum(layer.config.rank for layer in parts.values())
    outputs = len(order) * width
    b, bias = np.zeros((ranks, outputs), np.float32), np.zeros(outputs, np.float32)
    row = 0
    for part, layer in parts.items():
        column, rank, config = order.index(part) * width, layer.config.rank, layer.config
        same = config.scale == first.config.scale
        ratio = np.float32(1 if same else config.scale / first.config.scale)
        b[row : row + rank, column : column + width] = layer.b * ratio
        if layer.bias is not None:
            bias[column : column + width] = layer.bias * ratio
        row += rank
    # alpha grows with the rank, so that s = alpha / R is unchanged.
    unit = math.sqrt(ranks) if first.config.rslora else ranks
    magnitudes = [m for p in order if p in parts and (m := parts[p].magnitude) is not None]
    return Layer(
        config=dataclasses.replace(first.config, rank=ranks, alpha=first.config.scale * unit),
        a=np.concatenate([layer.a for layer in parts.values()], axis=1),
        b=b,
        magnitude=np.concatenate(magnitudes) if first.config.dora else None,
        bias=bias if first.bias is not None else None,
    )


def check_variant(layers: Mapping[str, Layer], config: VisionConfig, *, where: str) -> None:
    """Checks that layers (by path, read from the file `where`) fit a variant.

    Raises:
      UserError: layers of another variant, or a bias of keys that have none.
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
    for path, layer in layers.items():
        if layer.bias is None or config.key_bias or not path.endswith("/attn/qkv"):
            continue
        if np.split(layer.bias, 3)[1].any():
            raise UserError(
                "a bias of the keys, which the encoder does not have",
                where=f"{where} {path}",
                expected=f"zeros in the second third, as of {config.name}",
                found="other values",
                fix="train without lora_bias",
            )


def _misfit(layers: Mapping[str, Layer], config: VisionConfig) -> str:
    """Returns the first layer that the variant does not have, or an empty string."""
    sizes = layer_sizes(config)
    for path, layer in layers.items():
        found = (layer.a.shape[0], layer.b.shape[1])
        if found != sizes.get(path):
            return f"{path} of {found[0]} x {found[1]}"
    return ""
