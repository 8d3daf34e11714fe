"""LoRA and DoRA adapters in PEFT's files: adapter_config.json and adapter_model.safetensors."""

import collections
import dataclasses
import pathlib

import jax.numpy as jnp
import numpy as np

from softbio_jax import files
from softbio_jax.adapters.config import AdapterRules, LoRAConfig
from softbio_jax.adapters.math import column_norm
from softbio_jax.adapters.merge import merge
from softbio_jax.errors import UserError
from softbio_jax.interop import stacking
from softbio_jax.interop.keymap import check_finite
from softbio_jax.interop.official import OFFICIAL, drop_prefix
from softbio_jax.interop.peft_layers import (
    Adapter,
    Layer,
    block_number,
    check_variant,
    fuse,
    kind_of,
    layer_of,
    rows,
)
from softbio_jax.interop.peft_parts.config import PeftConfig, config_of, patterns_of, read_config, to_json
from softbio_jax.interop.peft_parts.folder import CONFIG, WEIGHTS, files_of
from softbio_jax.interop.peft_parts.names import (
    Naming,
    Place,
    Tower,
    is_bare,
    is_bypassed,
    module_name,
    place,
    timm_modules,
    transformers_modules,
)
from softbio_jax.interop.peft_parts.targets import WRAPPED, check_targets
from softbio_jax.interop.peft_parts.tensors import PREFIX, by_module, native
from softbio_jax.interop.peft_parts.tower import tower_of_bare
from softbio_jax.interop.safe_load import load_arrays, save_arrays
from softbio_jax.models.config import VisionConfig
from softbio_jax.params import Tree, flatten, unflatten

_TRUNK = "encoder/trunk/"
# docs/parity.md: the versions in which PEFT's layer of torch's attention was measured. Those before
# 0.18 note none, and those before 0.15 have no such layer.
_MEASURED = (
    *("0.15.0", "0.15.2", "0.16.0", "0.17.0", "0.17.1", "0.18.0", "0.18.1"),
    *("0.19.0", "0.19.1", "0.20.0", "0.21.0", "0.21.1", "0.21.2"),
)


def read(directory: str | pathlib.Path, config: VisionConfig, *, tower: Tower | None = None) -> Adapter:
    """Reads a LoRA or DoRA adapter that PEFT saved, on timm's, the official or split modules.

    Every module keeps its own rank and alpha. Adapters of separate q, k and v become one of their
    ranks together on the fused layer, with their A side by side and their B on the diagonal.

    Args:
      directory: contains adapter_config.json and adapter_model.safetensors or .bin.
      config: the variant.
      tower: the encoder of official names without a prefix, where names, shapes and the class that
        PEFT noted leave a doubt.

    Raises:
      UserError: an unreadable file, another variant, a rank that does not fit, an unknown layer, two
        modules for one layer, or a doubt about the encoder.
    """
    file, weights = files_of(pathlib.Path(directory))
    settings, where = read_config(file), str(weights)
    arrays, _ = load_arrays(weights)
    check_finite(arrays, where=where)
    found, trained = by_module(arrays, settings, where=where)
    modules = {}
    for module, tensors in found.items():
        own, negated = settings.of(module.removeprefix(PREFIX))
        place_of = f"{where} module {module}"
        layer = layer_of(tensors, own, lora_bias=settings.lora_bias, where=place_of)
        if negated:
            bias = None if layer.bias is None else -layer.bias
            layer = dataclasses.replace(layer, b=-layer.b, bias=bias)
        modules[module] = layer
    if not modules:
        expected, fix = "lora_A and lora_B of a module", "give the file PEFT saved"
        raise UserError("an adapter without a layer", where=where, expected=expected, fix=fix)
    sizes = {module: (layer.a.shape[0], layer.b.shape[1]) for module, layer in modules.items()}
    bare = tower_of_bare(
        sizes, config, base_class=settings.base_class, asked=tower, where=where, beside=list(trained)
    )
    pieces: dict[Place, Layer] = {}
    holders: dict[str, str] = {}
    gated = config.activation == "swiglu"
    for module, layer in modules.items():
        if (there := place(module, bare, gated=gated)) is None:
            raise UserError(
                "adapter of a layer that the encoder does not have",
                where=f"{where} module {module}",
                expected=f"a layer of {config.name}",
                found=module,
                fix=f"give an adapter of the {bare if is_bare(module) else 'vision'} encoder alone",
            )
        if is_bypassed(module):
            # As target_modules=["out_proj", ...] makes them; training leaves them at their start.
            if layer.b.any():
                raise UserError(
                    "adapter of a layer that torch's attention does not call",
                    where=f"{where} module {module}",
                    expected="none, or one with B = 0",
                    found="another B",
                    fix="remove its tensors",
                )
            continue
        for slot in there.slots():
            if slot in holders:
                raise UserError(
                    "two modules for one layer",
                    where=where,
                    expected=f"one adapter of {slot}",
                    found=f"{holders[slot]} and {module}",
                    fix="remove one of them",
                )
            holders[slot] = module
        pieces[there] = _as_peft_adds_it(module, layer, settings, where)
    check_targets(settings.targets, (module.removeprefix(PREFIX) for module in found), where=where)
    layers = fuse(pieces, where=where)
    check_variant(layers, config, where=where)
    return Adapter(layers=layers, trained=native(trained, config, bare, where=where))


def write(
    directory: str | pathlib.Path,
    adapter: Adapter,
    *,
    naming: Naming = "timm",
    base_model: str = "",
    config: VisionConfig | None = None,
) -> None:
    """Writes an adapter so that `peft.PeftModel.from_pretrained` loads it.

    Its target_modules, rank_pattern and alpha_pattern name exactly the modules that it has. With
    layers of the text encoder, the names are those of the official model of both encoders.

    Args:
      directory: created if necessary; each file appears only once complete.
      adapter: from `collect` or `read`.
      naming: of the modules; "official_linear" is the official naming where every projection is a
        linear layer that is called.
      base_model: recorded in the configuration.
      config: the variant, for "transformers", whose q, k and v are separate, and for timm's modules of
        DINOv3's halves of SwiGLU: each gets the layer's A and its columns of B.

    Raises:
      UserError: the naming has no module for a layer, or PEFT would ignore its adapter.
    """
    directory = pathlib.Path(directory)
    check_plain(adapter, where=str(directory))
    both = bool(adapter.text().layers)
    arrays: dict[str, np.ndarray] = {}
    configs: dict[str, LoRAConfig] = {}
    for path, layer in adapter.layers.items():
        if naming == "transformers":
            assert config is not None, "the variant's sizes divide q, k and v"
            parts = transformers_modules(path, config)
        elif naming == "timm" and not both:
            parts = timm_modules(path, config)
        else:
            prefix = "visual." if both and not path.startswith("text/") else ""
            parts = [(prefix + module_name(path, naming), slice(None))]
        for module, columns in parts:
            key = f"base_model.model.{module}"
            arrays[f"{key}.lora_A.weight"] = layer.a.T
            arrays[f"{key}.lora_B.weight"] = layer.b[:, columns].T
            if layer.magnitude is not None:
                arrays[f"{key}.lora_magnitude_vector"] = layer.magnitude[columns]
            configs[module] = layer.config
    base_class = "" if naming in ("timm", "transformers") else "CLIP" if both else "VisionTransformer"
    targets = "|".join(patterns_of(configs))
    text = to_json(config_of(configs, base_class=base_class), target_modules=targets, base_model=base_model)
    directory.mkdir(parents=True, exist_ok=True)
    arrays = {key: np.asarray(value, np.float32) for key, value in arrays.items()}
    save_arrays(directory / WEIGHTS, arrays, metadata={"format": "pt"})
    files.write_text(directory / CONFIG, text)


def check_plain(adapter: Adapter, *, where: str) -> None:
    """Checks that an adapter is A, B and magnitudes alone, for the file `where`.

    Raises:
      UserError: biases of B, or weights that were trained whole.
    """
    biased = [path for path, layer in adapter.layers.items() if layer.bias is not None]
    if biased or adapter.trained:
        raise UserError(
            "biases of B have no place in this format"
            if biased
            else "weights that were trained whole have no place in this format",
            where=where,
            expected="A, B and magnitudes",
            found=", ".join([*biased, *adapter.trained][:3]),
            fix="fold them into their encoder: --base=ENCODER with an encoder's --dst_format",
        )


def collect(params: Tree, rules: AdapterRules) -> Adapter:
    """Returns the shared adapters in a model's parameters (any tail), without per-task ones.

    Raises:
      UserError: an adapter that no rule matches, or a formula that PEFT does not have.
    """
    for target, adapter in rules.rules:
        if not isinstance(adapter, LoRAConfig):
            raise UserError(
                "custom formula",
                where=target,
                expected="LoRA or DoRA, which PEFT has files for",
                found=type(adapter).__name__,
                fix="export the merged encoder: --format=safetensors",
            )
    flat = {path: np.asarray(leaf) for path, leaf in flatten(params).items()}
    trunk = next((len(leaf) for path, leaf in flat.items() if path.startswith(_TRUNK)), 0)
    leaves = stacking.unstack(flat)
    layers = {}
    for path, a in leaves.items():
        layer, _, name = path.rpartition("/")
        if name != "lora_a" or layer.endswith("/tasks"):
            continue
        config = rules.match(_stacked(layer, trunk))
        if not isinstance(config, LoRAConfig):
            raise UserError(
                "adapter without a rule",
                where=layer,
                expected="the rules of the model",
                found="no match",
                fix="pass the rules it was built with",
            )
        if not a.any() and not leaves[f"{layer}/lora_b"].any() and not config.dora:
            continue  # `attach` found no adapter on this block
        layers[layer] = Layer(
            config=config, a=a, b=leaves[f"{layer}/lora_b"], magnitude=leaves.get(f"{layer}/dora_magnitude")
        )
    return Adapter(layers=layers)


def attach(params: Tree, adapter: Adapter) -> Tree:
    """Returns params with the adapter's leaves beside the kernels, for a model with its rules.

    The tail of params must be the adapter's, unless the adapter is on every block. Blocks with
    another alpha, or without an adapter, compute what they did.

    Raises:
      UserError: blocks whose adapters do not stack, or a layer that params do not have.
    """
    flat = {path: np.asarray(leaf) for path, leaf in flatten(params).items()}
    trunk = next((len(leaf) for path, leaf in flat.items() if path.startswith(_TRUNK)), 0)
    stacks: dict[str, dict[int, str]] = collections.defaultdict(dict)
    for path in adapter.layers:
        stacks[_stacked(path, trunk)][block_number(path)] = path
    common = adapter.common()
    biased = {_stacked(path, trunk) for path, layer in adapter.layers.items() if layer.bias is not None}
    for stack, paths in stacks.items():
        kernel = None if stack == "encoder/patch_embed" else flat.get(f"{stack}/kernel")
        if kernel is None or stack in biased:
            raise UserError(
                "adapter of a layer that the model does not have"
                if kernel is None
                else "a model has no lora_bias",
                where=stack,
                expected="a layer of its blocks or pooling" if kernel is None else "A and B without a bias",
                found=stack if kernel is None else "a bias of B",
                fix="fold it into its encoder: scripts/convert.py --base=ENCODER",
            )
        alone = stack.startswith("pool/")
        first = trunk if stack.startswith("encoder/tail/") else 0
        numbers = range(-1, 0) if alone else range(first, first + len(kernel))
        blocks = {i: adapter.layers[path] for i, path in paths.items()}
        layers = rows(blocks, numbers, common[kind_of(next(iter(paths.values())))], where=stack)
        leaves = {"lora_a": [layer.a for layer in layers], "lora_b": [layer.b for layer in layers]}
        if layers[0].magnitude is not None:
            leaves["dora_magnitude"] = [np.asarray(layer.magnitude) for layer in layers]
            flat[f"{stack}/dora_base_norm"] = np.asarray(column_norm(jnp.asarray(kernel)))
        for name, arrays in leaves.items():
            flat[f"{stack}/{name}"] = arrays[0] if alone else np.stack(arrays)
    return unflatten(flat)


def merged(params: Tree, rules: AdapterRules, *, task: int | None = None) -> dict[str, np.ndarray]:
    """Returns the vision encoder with its adapters folded in, under the official keys.

    Args:
      params: a model's nested dict, with any tail; heads and balancer are ignored.
      rules: the rules of the model.
      task: with per-task adapters, the task to merge.

    Raises:
      UserError: adapters that do not fold.
    """
    vision: Tree = {name: params[name] for name in ("encoder", "pool", "proj") if name in params}
    plain = stacking.unstack(flatten(merge(vision, rules, task=task)))
    return drop_prefix(OFFICIAL.backward(plain))


def _stacked(layer: str, trunk: int) -> str:
    """Maps encoder/blocks/{i}/x to encoder/trunk/x or encoder/tail/x."""
    if (i := block_number(layer)) < 0:
        return layer
    if layer.startswith("text/"):
        return layer.replace(f"text/blocks/{i}/", "text/trunk/")
    return layer.replace(f"encoder/blocks/{i}/", f"encoder/{'trunk' if i < trunk else 'tail'}/")


def _as_peft_adds_it(module: str, layer: Layer, settings: PeftConfig, where: str) -> Layer:
    """Returns a layer as PEFT applies it: the output projection of torch's attention counts twice."""
    outer = module.endswith(WRAPPED)
    if not outer and not module.endswith(".attn"):
        return layer
    version = settings.version
    measured = version in _MEASURED or not version
    if not measured or settings.transposed or settings.lora_bias:
        raise UserError(
            "adapter of torch's attention as it was not measured",
            where=f"{where} module {module}",
            expected=f"peft_version {_MEASURED[0]} to {_MEASURED[-1]}, which add the output's update twice"
            if not measured
            else "no lora_bias and no fan_in_fan_out",
            found=version if not measured else "one of them",
            fix="merge it with the PEFT that trained it",
        )
    scale = 2 if outer else 1
    return dataclasses.replace(
        layer, config=dataclasses.replace(layer.config, alpha=scale * layer.config.alpha)
    )
