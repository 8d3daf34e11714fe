"""LoRA and DoRA adapters in PEFT's files: adapter_config.json and adapter_model.safetensors."""

import collections
import dataclasses
import json
import pathlib
import re
from collections.abc import Mapping
from typing import Any

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
    Naming,
    Place,
    block_number,
    check_variant,
    fuse,
    layer_of,
    module_name,
    place,
)
from softbio_jax.interop.safe_load import load_arrays, save_arrays
from softbio_jax.models.config import VisionConfig
from softbio_jax.params import Tree, flatten, unflatten

# Fields that are read here, or that do not change what a loaded adapter computes.
_KNOWN_FIELDS = """
peft_type r lora_alpha lora_dropout use_dora use_rslora rank_pattern alpha_pattern target_modules
exclude_modules layers_to_transform layers_pattern inference_mode base_model_name_or_path task_type
auto_mapping revision peft_version megatron_core runtime_config loftq_config ephemeral_gpu_offload
qalora_group_size
"""
_KNOWN = frozenset(_KNOWN_FIELDS.split())
# Values that turn any other field off.
_OFF: tuple[Any, ...] = (None, False, 0, "", "none", "None", [], {})
_PLAIN_STARTS = (True, False, "gaussian")  # other initialisations of A and B change the base weights
CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
_TRUNK = "encoder/trunk/"
_TENSOR = re.compile(r"(.+)\.(lora_[AB]\.weight|lora_magnitude_vector)(?:\.weight)?")


@dataclasses.dataclass(frozen=True, kw_only=True)
class PeftConfig:
    """A PEFT LoRA configuration: one adapter, with other ranks and alphas for some modules."""

    lora: LoRAConfig
    rank_pattern: Mapping[str, int] = dataclasses.field(default_factory=dict)
    alpha_pattern: Mapping[str, float] = dataclasses.field(default_factory=dict)

    def of(self, module: str) -> LoRAConfig:
        """Returns the adapter of a module; as in PEFT, the first pattern that matches wins."""

        def look_up(patterns: Mapping[str, Any], default: Any) -> Any:
            matches = (v for pattern, v in patterns.items() if re.match(rf"(.*\.)?({pattern})$", module))
            return next(matches, default)

        rank = look_up(self.rank_pattern, self.lora.rank)
        alpha = float(look_up(self.alpha_pattern, self.lora.alpha))
        return dataclasses.replace(self.lora, rank=rank, alpha=alpha)


def read_config(path: pathlib.Path) -> PeftConfig:
    """Reads adapter_config.json.

    Raises:
      UserError: an unreadable file, another kind of adapter, or an unsupported field.
    """
    try:
        values = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise UserError(
            "unreadable adapter configuration",
            where=str(path),
            expected="the JSON that PEFT writes",
            found=type(error).__name__,
            fix="give the folder PEFT saved",
        ) from error
    found = values.get("peft_type") if isinstance(values, dict) else type(values).__name__
    if found != "LORA":
        raise UserError(
            "not a LoRA adapter",
            where=str(path),
            expected="peft_type LORA",
            found=repr(found),
            fix="give a LoRA or DoRA adapter",
        )
    for name, value in values.items():
        plain = name == "init_lora_weights" and value in _PLAIN_STARTS
        if name not in _KNOWN and not plain and value not in _OFF:
            raise UserError(
                "PEFT field that is not supported",
                where=f"{path} field {name}",
                expected="none, or a value that turns it off",
                found=repr(value),
                fix="save it without, or merge it with PEFT",
            )
    for name in ("r", "lora_alpha"):
        value = values.get(name)
        if not isinstance(value, int | float) or isinstance(value, bool):
            raise UserError(
                "PEFT field missing",
                where=f"{path} field {name}",
                expected="a number",
                found=repr(value),
                fix="give the folder PEFT saved",
            )
    lora = LoRAConfig(
        rank=int(values["r"]),
        alpha=float(values["lora_alpha"]),
        rslora=bool(values.get("use_rslora")),
        dropout=float(values.get("lora_dropout") or 0.0),
        dora=bool(values.get("use_dora")),
    )
    ranks, alphas = (values.get(f"{name}_pattern") or {} for name in ("rank", "alpha"))
    return PeftConfig(lora=lora, rank_pattern=ranks, alpha_pattern=alphas)


def to_json(config: PeftConfig, *, target_modules: str, base_model: str) -> str:
    """Returns the text of adapter_config.json, with the fields that every PEFT since 0.9 reads.

    target_modules is a regex over complete module names; base_model is for information only.
    """
    lora = config.lora
    values = {
        "peft_type": "LORA",
        "task_type": None,
        "base_model_name_or_path": base_model,
        "inference_mode": True,
        "r": lora.rank,
        "lora_alpha": lora.alpha,
        "lora_dropout": lora.dropout,
        "use_rslora": lora.rslora,
        "use_dora": lora.dora,
        "bias": "none",
        "fan_in_fan_out": False,
        "modules_to_save": None,
        "target_modules": target_modules,
        "rank_pattern": dict(config.rank_pattern),
        "alpha_pattern": dict(config.alpha_pattern),
    }
    return json.dumps(values, indent=2) + "\n"


def read(directory: str | pathlib.Path, config: VisionConfig) -> Adapter:
    """Reads a LoRA or DoRA adapter that PEFT saved, on timm's, the official or split modules.

    Adapters of separate q, k and v become one of three times the rank on the fused layer, with
    their A side by side, their B on the diagonal, and the same scale.

    Args:
      directory: contains adapter_config.json and adapter_model.safetensors or .bin.
      config: the variant.

    Raises:
      UserError: an unreadable file, another variant, a rank that does not fit, or an unknown layer.
    """
    directory = pathlib.Path(directory)
    settings = read_config(directory / CONFIG)
    weights = (directory / WEIGHTS, (directory / WEIGHTS).with_suffix(".bin"))
    where = str(weights[1] if weights[1].is_file() and not weights[0].is_file() else weights[0])
    arrays, _ = load_arrays(where)
    check_finite(arrays, where=where)
    pieces: dict[Place, Layer] = {}
    for module, tensors in _modules(arrays, where).items():
        if (found := place(module)) is None:
            raise UserError(
                "adapter of a layer that the encoder does not have",
                where=f"{where} module {module}",
                expected=f"a layer of {config.name}",
                found=module,
                fix="give an adapter of the vision encoder",
            )
        name = module.removeprefix("base_model.model.")
        pieces[found] = layer_of(tensors, settings.of(name), where=f"{where} module {module}")
    layers = fuse(pieces, where=where)
    check_variant(layers, config, where=where)
    return Adapter(layers=layers)


def write(
    directory: str | pathlib.Path, adapter: Adapter, *, naming: Naming = "timm", base_model: str = ""
) -> None:
    """Writes an adapter so that `peft.PeftModel.from_pretrained` loads it.

    Args:
      directory: created if necessary; each file appears only once complete.
      adapter: from `collect` or `read`.
      naming: of the modules; "official_linear" is the official naming where every projection is a
        linear layer that is called.
      base_model: recorded in the configuration.

    Raises:
      UserError: the naming has no module for a layer, or PEFT would ignore its adapter.
    """
    directory = pathlib.Path(directory)
    modules = {path: module_name(path, naming) for path in adapter.layers}
    arrays: dict[str, np.ndarray] = {}
    for path, layer in adapter.layers.items():
        key = f"base_model.model.{modules[path]}"
        arrays[f"{key}.lora_A.weight"] = layer.a.T
        arrays[f"{key}.lora_B.weight"] = layer.b.T
        if layer.magnitude is not None:
            arrays[f"{key}.lora_magnitude_vector"] = layer.magnitude
    targets = "|".join(sorted({_pattern(module) for module in modules.values()}))
    text = to_json(_settings(adapter, modules), target_modules=targets, base_model=base_model)
    directory.mkdir(parents=True, exist_ok=True)
    arrays = {key: np.asarray(value, np.float32) for key, value in arrays.items()}
    save_arrays(directory / WEIGHTS, arrays, metadata={"format": "pt"})
    files.write_text(directory / CONFIG, text)


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
        layers[layer] = Layer(
            config=config, a=a, b=leaves[f"{layer}/lora_b"], magnitude=leaves.get(f"{layer}/dora_magnitude")
        )
    return Adapter(layers=layers)


def attach(params: Tree, adapter: Adapter) -> Tree:
    """Returns params with the adapter's leaves beside the kernels.

    The tail of params must be the adapter's, unless the adapter is on every block.
    """
    flat = {path: np.asarray(leaf) for path, leaf in flatten(params).items()}
    trunk = next((len(leaf) for path, leaf in flat.items() if path.startswith(_TRUNK)), 0)
    rows: dict[str, list[np.ndarray]] = collections.defaultdict(list)
    for path in sorted(adapter.layers, key=block_number):
        layer, stacked = adapter.layers[path], _stacked(path, trunk)
        rows[f"{stacked}/lora_a"].append(layer.a)
        rows[f"{stacked}/lora_b"].append(layer.b)
        if layer.magnitude is not None:
            rows[f"{stacked}/dora_magnitude"].append(layer.magnitude)
            norm = column_norm(jnp.asarray(flat[f"{stacked}/kernel"]))
            rows[f"{stacked}/dora_base_norm"] = [np.asarray(norm)]
    for path, arrays in rows.items():
        stacked_already = path.startswith("pool/") or path.endswith("/dora_base_norm")
        flat[path] = arrays[0] if stacked_already else np.stack(arrays)
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
    return layer.replace(f"encoder/blocks/{i}/", f"encoder/{'trunk' if i < trunk else 'tail'}/")


def _modules(arrays: Mapping[str, np.ndarray], where: str) -> dict[str, dict[str, np.ndarray]]:
    """Groups an adapter file's tensors by module."""
    modules: dict[str, dict[str, np.ndarray]] = collections.defaultdict(dict)
    for key, array in arrays.items():
        if not (match := _TENSOR.fullmatch(key)):
            raise UserError(
                "not a tensor of a LoRA adapter",
                where=f"{where} key {key}",
                expected="lora_A, lora_B or lora_magnitude_vector",
                found=key,
                fix="save the adapter without modules_to_save and biases",
            )
        modules[match[1]][match[2]] = array.astype(np.float32)
    return modules


def _settings(adapter: Adapter, modules: Mapping[str, str]) -> PeftConfig:
    """Returns the configuration: the most common adapter, and patterns for the others."""
    configs = {path: layer.config for path, layer in adapter.layers.items()}
    common = collections.Counter(configs.values()).most_common(1)[0][0]
    ranks, alphas = {}, {}
    for path, config in configs.items():
        same = dataclasses.replace(config, rank=common.rank, alpha=common.alpha)
        if same != common:
            raise UserError(
                "PEFT has one kind of adapter per file",
                where=path,
                expected=str(common),
                found=str(config),
                fix="use the same dropout, rslora and dora everywhere",
            )
        if config.rank != common.rank:
            ranks[_pattern(modules[path])] = config.rank
        if config.alpha != common.alpha:
            alphas[_pattern(modules[path])] = config.alpha
    return PeftConfig(lora=common, rank_pattern=ranks, alpha_pattern=alphas)


def _pattern(module: str) -> str:
    """Returns a regex over complete module names, the same for every block."""
    return re.sub(r"\\\.\d+\\\.", lambda _: r"\.\d+\.", re.escape(module))
