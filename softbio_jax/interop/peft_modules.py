"""Where PEFT's adapted modules are in the tower, for every naming of the tower's layers."""

import dataclasses
import re
from typing import Literal

from softbio_jax.errors import UserError

Naming = Literal["timm", "official", "thesis"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Place:
    """A dense layer of the tower, or the part of it that one torch module holds.

    part says which: "" all of it, "q", "k", "v" a projection of a fused qkv layer, "q+kv" both
    of the pooling's two.
    """

    layer: str  # encoder/blocks/3/attn/qkv
    part: str = ""


# Our layer in a block, or in the pooling -> the torch module's name.
_BLOCK = {
    "timm": {"attn/qkv": "attn.qkv", "attn/out": "attn.proj", "mlp/c_fc": "mlp.fc1",
             "mlp/c_proj": "mlp.fc2"},
    "official": {"attn/qkv": "attn.in_proj", "attn/out": "attn.out_proj",
                 "mlp/c_fc": "mlp.c_fc", "mlp/c_proj": "mlp.c_proj"},
}  # fmt: skip
_POOL = {
    "timm": {"attn/q": "q", "attn/kv": "kv", "attn/out": "proj", "mlp/c_fc": "mlp.fc1",
             "mlp/c_proj": "mlp.fc2"},
    "official": {"attn/out": "attn.out_proj", "mlp/c_fc": "mlp.c_fc", "mlp/c_proj": "mlp.c_proj"},
}  # fmt: skip
_PARENT = {"timm": "blocks", "official": "transformer.resblocks"}
# The official modules whose wrapped forward is never called: PEFT would load an adapter and
# nothing would change. The thesis' towers are changed so that it is called.
_DEAD = ("attn.in_proj", "attn.out_proj")
_PREFIX = re.compile(
    r"(?:base_model\.model\.)?(?:visual\.trunk\.|visual\.|trunk\.|backbone\.|vision_model\.|model\.)?"
)
_SPLIT = re.compile(r"attn\.([qkv])(?:_proj)?")


def place(module: str) -> Place | None:
    """Returns where a module of any naming is, or None if the tower has no such layer."""
    name = module[_PREFIX.match(module).end() :]  # type: ignore[union-attr]
    for naming, parent in _PARENT.items():
        if match := re.fullmatch(rf"{re.escape(parent)}\.(\d+)\.(.+)", name):
            block, inner = match.groups()
            if split := _SPLIT.fullmatch(inner):
                return Place(layer=f"encoder/blocks/{block}/attn/qkv", part=split[1])
            # Split towers keep either naming for the rest.
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
      UserError: the naming has no module for it, or one whose adapter PEFT would ignore.
    """
    table = "timm" if naming == "timm" else "official"
    if layer.startswith("pool/"):
        inner, parent = _POOL[table].get(layer.removeprefix("pool/")), "attn_pool"
    else:
        _, _, block, rest = layer.split("/", 3)
        inner, parent = _BLOCK[table].get(rest), f"{_PARENT[table]}.{block}"
    if inner is None or (naming == "official" and inner in _DEAD):
        raise UserError("PEFT would silently ignore this adapter on the official modules"
                        if naming == "official" else "no module for this adapter",
                        where=f"{layer} as {naming}", expected="a linear layer that is called",
                        found="a raw parameter, or a layer that is bypassed",
                        fix="write it with timm's names, or merge it")  # fmt: skip
    return f"{parent}.{inner}"
