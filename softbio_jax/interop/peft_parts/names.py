"""Modules of a PEFT file and layers of ours, and the encoder that a module belongs to."""

import dataclasses
import re
from collections.abc import Container, Iterable, Mapping, Sequence
from typing import Literal

from softbio_jax.errors import UserError
from softbio_jax.models.config import TEXT, VisionConfig
from softbio_jax.models.flops import dense_layers

Naming = Literal["timm", "official", "official_linear"]
Tower = Literal["vision", "text"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Place:
    """A dense layer of an encoder, or the part of it that one torch module holds."""

    layer: str  # encoder/blocks/3/attn/qkv
    part: str = ""  # all; "q", "k", "v": one of a fused qkv layer; "q+kv": the pooling's two layers

    def slots(self) -> list[str]:
        """Returns the smallest parts that it holds; two modules must not share one."""
        if self.part == "q+kv":
            return ["pool/attn/q", "pool/attn/kv"]
        parts = self.part or ("qkv" if self.layer.endswith("/attn/qkv") else "")
        return [f"{self.layer} {part}" for part in parts] or [self.layer]


# Our layer in a block, or in the pooling -> the torch module's name.
_TIMM_MLP = {"mlp/c_fc": "mlp.fc1", "mlp/c_proj": "mlp.fc2"}
_MLP = {"mlp/c_fc": "mlp.c_fc", "mlp/c_proj": "mlp.c_proj"}
_OFFICIAL = {"attn/out": "attn.out_proj"} | _MLP
_BLOCK = {
    "timm": {"attn/qkv": "attn.qkv", "attn/out": "attn.proj"} | _TIMM_MLP,
    "official": {"attn/qkv": "attn.in_proj"} | _OFFICIAL,
}
_POOL = {"timm": {"attn/q": "q", "attn/kv": "kv", "attn/out": "proj"} | _TIMM_MLP, "official": _OFFICIAL}
_PARENT = {"timm": "blocks", "official": "transformer.resblocks"}
# The official modules whose wrapped forward is never called: PEFT would load an adapter and
# nothing would change, unless the modules are changed so that they are called (official_linear).
_DEAD = ("attn.in_proj", "attn.out_proj")
# torch's attention in a text block: PEFT wraps both of its projections under these names.
_TEXT_BLOCK = {"attn/qkv": "attn", "attn/out": "attn.base_layer.out_proj"} | _MLP
_PREFIX = re.compile(
    r"(?:base_model\.model\.)?(?:(?:backbone|model|timm_model)\.)?"
    r"(?:(?P<vision>visual\.trunk\.|visual\.|trunk\.|vision_model\.)|(?P<text>text\.|text_model\.))?"
)
_BARE = re.compile(r"transformer\.resblocks\.\d+\.(.+)")
# Outside blocks and pooling: timm's head is the projection.
_ALONE = {"head": "proj", "patch_embed.proj": "encoder/patch_embed", "conv1": "encoder/patch_embed"}
_SPLIT = re.compile(r"attn\.([qkv])(?:_proj)?")
# Classes that a model without a prefix may have been: core.vision_encoder.pe, and open_clip's.
_CLASSES: Mapping[str, Tower] = {"CLIP": "text", "TextTransformer": "text", "VisionTransformer": "vision"}


def place(module: str, bare: Tower = "vision") -> Place | None:
    """Returns the layer of a module in any naming, or None if the encoders have no such layer.

    bare is the encoder of official names of a block without a prefix.
    """
    prefix = _PREFIX.match(module)
    name = module[prefix.end() :]  # type: ignore[union-attr]
    if prefix["text"] or (is_bare(module) and bare == "text"):  # type: ignore[index]
        match = re.fullmatch(r"transformer\.resblocks\.(\d+)\.(.+)", name)
        inner = next((ours for ours, theirs in _TEXT_BLOCK.items() if match and match[2] == theirs), None)
        return Place(layer=f"text/blocks/{match[1]}/{inner}") if match and inner else None
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
    if name in _ALONE:
        return Place(layer=_ALONE[name])
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


def is_bare(module: str) -> bool:
    """Returns whether a module of a block has official names and no prefix.

    The official text encoder has such names in the model of both encoders, and the vision encoder
    where it is the whole model.
    """
    prefix = _PREFIX.match(module)
    named = prefix["vision"] or prefix["text"]  # type: ignore[index]
    return not named and bool(_BARE.fullmatch(module[prefix.end() :]))  # type: ignore[union-attr]


def tower_of_bare(
    sizes: Mapping[str, tuple[int, int]],
    config: VisionConfig,
    *,
    base_class: str,
    asked: Tower | None,
    where: str,
    beside: Sequence[str] = (),
) -> Tower:
    """Returns the encoder of a file's modules that have official names without a prefix.

    Args:
      sizes: module -> inputs and outputs, of all modules of the file.
      config: the variant.
      base_class: of the model that the adapter was trained on, as the file has it, or empty.
      asked: the user's word.
      where: the file, for the error.
      beside: names of the file's other weights.

    Raises:
      UserError: names, shapes and class leave a doubt or contradict each other, or the user's word.
    """
    bare = [module for module in sizes if is_bare(module)]
    if not bare and not any(map(is_bare, beside)):
        return asked or "vision"
    clues: dict[str, Tower] = {}
    if base_class in _CLASSES:
        clues[f"base class {base_class}"] = _CLASSES[base_class]
    clues |= _clues_of_names(bare, [*sizes, *beside])
    fits: list[Tower] = [tower for tower in ("vision", "text") if _fits(bare, sizes, config, tower)]
    if len(fits) == 1:
        clues["shapes"] = fits[0]
    if asked:
        clues[f"--tower={asked}"] = asked
    if not fits and not clues:
        return "vision"  # of another variant
    if len(set(clues.values())) == 1:
        return next(iter(clues.values()))
    told = ", ".join(f"{clue}: {tower}" for clue, tower in clues.items())
    raise UserError(
        "adapter of the vision encoder, or of the text encoder",
        where=f"{where} module {[*bare, *filter(is_bare, beside)][0]}",
        expected=f"names, shapes and base class that say which encoder of {config.name}",
        found=told or "official names without a prefix, which both have, and shapes that fit both",
        fix="correct the variant or the --tower, or save the adapter with visual. before its modules"
        if told
        else "add --tower=vision or --tower=text",
    )


def _clues_of_names(bare: Iterable[str], modules: Iterable[str]) -> dict[str, Tower]:
    """Returns what the names of a file's modules say about those without a prefix."""
    clues: dict[Tower, str] = {}
    for module in modules:
        prefix = _PREFIX.match(module)
        if prefix["vision"]:  # type: ignore[index]
            clues.setdefault("text", f"{module} beside it")
        elif prefix["text"] or module[prefix.end() :].startswith("attn_pool."):  # type: ignore[union-attr,index]
            clues.setdefault("vision", f"{module} beside it")
    for module in bare:
        inner = _BARE.fullmatch(module[_PREFIX.match(module).end() :])[1]  # type: ignore[union-attr,index]
        if inner in ("attn", "attn.base_layer.out_proj"):
            clues.setdefault("text", module)
        elif inner not in (*_MLP.values(), "attn.out_proj"):
            clues.setdefault("vision", module)
    return {clue: tower for tower, clue in clues.items()}


def _fits(
    bare: Iterable[str], sizes: Mapping[str, tuple[int, int]], config: VisionConfig, tower: Tower
) -> bool:
    """Returns whether modules have the shapes of a variant's encoder."""
    expected = layer_sizes(config)
    for module in bare:
        found = place(module, tower)
        if found is None and tower == "text" and module.endswith("attn.out_proj"):
            continue  # has the name, and is refused later
        if found is None or found.layer not in expected:
            return False
        if not found.part and expected[found.layer] != sizes[module]:
            return False
    return True


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
