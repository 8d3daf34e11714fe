"""Which encoder the modules of a PEFT file belong to whose official names have no prefix."""

from collections.abc import Iterable, Mapping, Sequence

from softbio_jax.errors import UserError
from softbio_jax.interop.peft_parts.names import HALVES, Tower, is_bare, layer_sizes, parted, place
from softbio_jax.models.config import VisionConfig

_FAMILIES, _KINDS = ("CLIP", "Siglip"), ("Transformer", "Model")
# How many modules share the outputs of a layer.
_PARTS = dict.fromkeys("qkv", 3) | dict.fromkeys(HALVES, 2)
# Names of weights that only one of transformers' encoders has.
_ONLY: Mapping[Tower, tuple[str, ...]] = {
    "vision": (
        "attn_pool.",
        "head.",
        "embeddings.patch_",
        "embeddings.class_",
        "pre_layrnorm.",
        "post_layernorm.",
    ),
    "text": ("embeddings.token_", "final_layer_norm."),
}
# Classes that a model without a prefix may have been: core.vision_encoder.pe's, open_clip's, transformers'.
_CLASSES: Mapping[str, Tower] = {
    "CLIP": "text",
    **{f"{family}Text{kind}": "text" for family in ("", *_FAMILIES) for kind in _KINDS},
    **{f"{family}Vision{kind}": "vision" for family in ("", *_FAMILIES) for kind in _KINDS},
}


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
    listed = ", ".join(f"{clue}: {tower}" for clue, tower in clues.items())
    raise UserError(
        "adapter of the vision encoder, or of the text encoder",
        where=f"{where} module {[*bare, *filter(is_bare, beside)][0]}",
        expected=f"names, shapes and base class that say which encoder of {config.name}",
        found=listed or "official names without a prefix, which both have, and shapes that fit both",
        fix="correct the variant or the --tower, or save the adapter with visual. before its modules"
        if listed
        else "add --tower=vision or --tower=text",
    )


def _clues_of_names(bare: Iterable[str], modules: Iterable[str]) -> dict[str, Tower]:
    """Returns what the names of a file's modules say about those without a prefix."""
    clues: dict[Tower, str] = {}
    for module in modules:
        named, rest = parted(module)
        if named == "vision":
            clues.setdefault("text", f"{module} beside it")
        elif named == "text":
            clues.setdefault("vision", f"{module} beside it")
        for tower, names in _ONLY.items():
            if named is None and rest.startswith(names):
                clues.setdefault(tower, f"{module} beside it")
    for module in bare:
        parent, _, _, inner = parted(module)[1].split(".", 3)  # transformer.resblocks.3.attn
        if parent == "encoder":  # transformers' blocks are alike
            continue
        if inner in ("attn", "attn.base_layer.out_proj"):
            clues.setdefault("text", module)
        elif inner not in ("mlp.c_fc", "mlp.c_proj", "attn.out_proj"):
            clues.setdefault("vision", module)
    return {clue: tower for tower, clue in clues.items()}


def _fits(
    bare: Iterable[str], sizes: Mapping[str, tuple[int, int]], config: VisionConfig, tower: Tower
) -> bool:
    """Returns whether modules have the shapes of a variant's encoder."""
    expected = layer_sizes(config)
    for module in bare:
        found = place(module, tower, gated=config.activation == "swiglu")
        if found is None and tower == "text" and module.endswith("attn.out_proj"):
            continue  # has the name, and is refused later
        if found is None or found.layer not in expected:
            return False
        inputs, outputs = expected[found.layer]
        if (inputs, outputs // _PARTS.get(found.part, 1)) != sizes[module]:
            return False
    return True
