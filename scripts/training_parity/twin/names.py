"""The twin's tensors by this package's paths: which tensors a leaf is, and how they lie in it."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn

from softbio_jax.errors import UserError
from training_parity.masks import Masks
from training_parity.twin.dropout import GivenDropout
from training_parity.twin.model import Model, places
from training_parity.twin.mtlora import MTLoRA

# Where this package and torch name a part differently; the same in all blocks.
_BLOCK_NORMS, _POOL_NORMS = {"ln_1": "norm1", "ln_2": "norm2"}, {"layernorm": "norm"}
_OUTER = {"ln_pre": "norm_pre", "ln_post": "norm", "patch_embed": "patch_embed.proj"}
_TOKENS = {
    "class_embedding": "cls_token",
    "positional_embedding": "pos_embed",
    "register_tokens": "reg_token",
}
_HEAD = {"norm": 0, "dense_0": 2, "dense_out": -1}
_LEAF = {"kernel": "weight", "scale": "weight", "bias": "bias"}


class Leaf(NamedTuple):
    """Tensors that are one leaf of this package: stacked, then of its shape."""

    tensors: Sequence[nn.Parameter]
    shape: tuple[int, ...]

    def read(self, get: Callable[[nn.Parameter], torch.Tensor | None]) -> np.ndarray:
        """Returns the leaf made of what `get` returns for each tensor; zeros for None."""
        parts = []
        for tensor in self.tensors:
            value = get(tensor)
            value = torch.zeros_like(tensor) if value is None else value.detach()
            parts.append(_turned(value).cpu().numpy())
        return np.stack(parts).reshape(self.shape)

    def write(self, array: np.ndarray) -> None:
        """Puts a leaf into the tensors."""
        turned = [_turned(tensor.detach()).shape for tensor in self.tensors]
        parts = np.ascontiguousarray(array).reshape(len(self.tensors), *turned[0])
        with torch.no_grad():
            for tensor, part in zip(self.tensors, parts, strict=True):
                values = torch.from_numpy(np.asarray(part))
                back = (3, 2, 0, 1) if tensor.ndim == 4 else (1, 0) if tensor.ndim == 2 else None
                tensor.copy_(values if back is None else values.permute(back))


def _turned(tensor: torch.Tensor) -> torch.Tensor:
    """Returns a tensor as it lies here: (out, in) as (in, out), convolutions likewise."""
    if tensor.ndim == 4:
        return tensor.permute(2, 3, 1, 0)
    return tensor.T if tensor.ndim == 2 else tensor


def leaves(model: Model, shapes: dict[str, tuple[int, ...]]) -> dict[str, Leaf]:
    """Returns the tensors of each path.

    Args:
      model: the twin's.
      shapes: path -> shape of the leaf.

    Raises:
      UserError: a path that has no tensor here.
    """
    found = {}
    for path, shape in shapes.items():
        try:
            tensors = _tensors(model, path)
        except (AttributeError, KeyError, IndexError) as error:
            raise UserError(
                "no tensor of the twin for a trained leaf",
                where=path,
                expected="a leaf of a head, a projection, a norm, a token or an adapter",
                found=str(error),
                fix="leave it frozen, or name its tensor in training_parity/twin/names.py",
            ) from error
        found[path] = Leaf(tensors, shape)
    return found


def _tensors(model: Model, path: str) -> list[nn.Parameter]:
    parts = path.split("/")
    if parts[0] == "balance":
        return [model.log_var[parts[1]]]
    if parts[0] == "heads":
        module: Any = model.heads[parts[1]]
        return [getattr(module[_HEAD[parts[2]]], _LEAF[parts[3]])]
    if path in ("pool/probe", "pool/task_probe"):
        parting = model.encoder
        own = isinstance(parting, MTLoRA) and path.endswith("task_probe")
        return list(parting.pooling.probes) if own else [model.timm.attn_pool.latent]
    if parts[0] == "pool":
        return _of_part(model, path, [model.timm.attn_pool], "pool/", _POOL_NORMS)
    if parts[1] in ("trunk", "tail"):
        cut = len(model.timm.blocks) - model.case.run.model.tail
        blocks = list(model.timm.blocks)[:cut] if parts[1] == "trunk" else list(model.timm.blocks)[cut:]
        return _of_part(model, path, blocks, f"encoder/{parts[1]}/", _BLOCK_NORMS)
    if parts[1] in _TOKENS:
        return [getattr(model.timm, _TOKENS[parts[1]])]
    return [getattr(model.timm.get_submodule(_OUTER[parts[1]]), _LEAF[parts[2]])]


def _of_part(
    model: Model, path: str, modules: Sequence[Any], prefix: str, norms: dict[str, str]
) -> list[nn.Parameter]:
    """Returns the tensors of a leaf in each of the blocks, or in the pooling."""
    layer, _, name = path.rpartition("/")
    inner = layer.removeprefix(prefix)
    if inner in norms:
        return [getattr(module.get_submodule(norms[inner]), _LEAF[name]) for module in modules]
    if name == "gamma":
        vector, part = {"ls_1": ("gamma_1", "ls1"), "ls_2": ("gamma_2", "ls2")}[inner]
        return [getattr(m, vector) if hasattr(m, vector) else getattr(m, part).gamma for m in modules]
    own = layer.endswith("/tasks")
    found = [place for place in places(model.case) if place.path == layer.removesuffix("/tasks")]
    if own:
        parting = model.encoder
        tasks = [_task_layer(parting, place.module) for place in found]
        return [tensor for t in tasks for tensor in getattr(t.updates, {"lora_a": "a", "lora_b": "b"}[name])]
    projections = [model.timm.get_submodule(place.module) for place in found]
    if name == "lora_a":
        return [module.lora_A["default"].weight for module in projections]
    if name == "lora_b":
        return [module.lora_B["default"].weight for module in projections]
    if name == "dora_magnitude":
        return [module.lora_magnitude_vector["default"].weight for module in projections]
    return [getattr(module, _LEAF[name]) for module in projections]


def _task_layer(parting: MTLoRA, module: str) -> Any:
    part: Any = parting.pooling if module.startswith("attn_pool.") else parting.parting
    return getattr(part, module.rpartition(".")[2])


def give_masks(model: Model, masks: Masks) -> None:
    """Puts the masks of a step, by the paths of their layers here, into the twin's dropouts."""
    for path, drawn in masks.items():
        for module, mask in zip(_dropouts(model, path), drawn, strict=True):
            module.mask = torch.tensor(mask)


def _dropouts(model: Model, path: str) -> list[GivenDropout]:
    parts = path.split("/")
    if parts[0] == "heads":
        return [model.heads[parts[1]][1]]
    found = [place.module for place in places(model.case) if place.path == path.removesuffix("/tasks")]
    if path.endswith("/tasks"):
        return [_task_layer(model.encoder, module).updates.dropout for module in found]
    return [model.timm.get_submodule(module).lora_dropout["default"] for module in found]
