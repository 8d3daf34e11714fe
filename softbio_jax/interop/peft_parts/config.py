"""adapter_config.json: one LoRA or DoRA adapter, with other ranks and alphas for some modules."""

import collections
import dataclasses
import json
import pathlib
import re
from collections.abc import Iterable, Mapping
from typing import Any

from softbio_jax.adapters.config import LoRAConfig
from softbio_jax.errors import UserError

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
# torch's attention: PEFT looks its output projection up under the attention's name.
_WRAPPED = ".base_layer.out_proj"


@dataclasses.dataclass(frozen=True, kw_only=True)
class PeftConfig:
    """A PEFT LoRA configuration: one adapter, with other ranks and alphas for some modules.

    base_class is of the model it was trained on, where PEFT noted it; version is PEFT's.
    """

    lora: LoRAConfig
    rank_pattern: Mapping[str, int] = dataclasses.field(default_factory=dict)
    alpha_pattern: Mapping[str, float] = dataclasses.field(default_factory=dict)
    base_class: str = ""
    version: str = ""

    def of(self, module: str) -> LoRAConfig:
        """Returns the adapter of a module; as in PEFT, the first pattern that matches wins."""
        module = module.removesuffix(_WRAPPED)

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
    ranks, alphas = (_patterns(values, name, path) for name in ("rank_pattern", "alpha_pattern"))
    saved_from = values.get("auto_mapping")
    base_class = saved_from.get("base_model_class") if isinstance(saved_from, dict) else ""
    return PeftConfig(
        lora=lora,
        rank_pattern=ranks,
        alpha_pattern=alphas,
        base_class=str(base_class or ""),
        version=str(values.get("peft_version") or ""),
    )


def _patterns(values: Mapping[str, Any], name: str, path: pathlib.Path) -> dict[str, Any]:
    """Returns a field of patterns, which must be regular expressions with numbers."""
    patterns = values.get(name) or {}
    try:
        numbers = {pattern: float(value) for pattern, value in patterns.items() if re.compile(pattern)}
    except (AttributeError, TypeError, ValueError, re.error) as error:
        raise UserError(
            "PEFT patterns that cannot be read",
            where=f"{path} field {name}",
            expected="regular expressions, each with a number",
            found=f"{patterns!r}: {error}",
            fix="give the folder PEFT saved",
        ) from error
    return {key: int(value) if name == "rank_pattern" else value for key, value in numbers.items()}


def to_json(config: PeftConfig, *, target_modules: str, base_model: str) -> str:
    """Returns the text of adapter_config.json, with the fields that every PEFT since 0.9 reads.

    target_modules is a regex over complete module names; base_model is for information only.
    """
    lora = config.lora
    values: dict[str, Any] = {
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
    if config.base_class:
        library = "core.vision_encoder.pe"
        values["auto_mapping"] = {"base_model_class": config.base_class, "parent_library": library}
    return json.dumps(values, indent=2) + "\n"


def config_of(configs: Mapping[str, LoRAConfig], *, base_class: str = "") -> PeftConfig:
    """Returns the configuration of modules: the most common adapter, and patterns for the others.

    Raises:
      UserError: adapters that differ in more than rank and alpha.
    """
    common = collections.Counter(configs.values()).most_common(1)[0][0]
    ranks: dict[int, list[str]] = collections.defaultdict(list)
    alphas: dict[float, list[str]] = collections.defaultdict(list)
    for module, config in configs.items():
        same = dataclasses.replace(config, rank=common.rank, alpha=common.alpha)
        if same != common:
            raise UserError(
                "PEFT has one kind of adapter per file",
                where=module,
                expected=str(common),
                found=str(config),
                fix="use the same dropout, rslora and dora everywhere",
            )
        if config.rank != common.rank:
            ranks[config.rank].append(module)
        if config.alpha != common.alpha:
            alphas[config.alpha].append(module)
    return PeftConfig(
        lora=common,
        rank_pattern={
            pattern: int(rank) for rank, modules in ranks.items() for pattern in patterns_of(modules)
        },
        alpha_pattern={
            pattern: alpha for alpha, modules in alphas.items() for pattern in patterns_of(modules)
        },
        base_class=base_class,
    )


def patterns_of(modules: Iterable[str]) -> list[str]:
    """Returns regexes that match exactly these complete module names, one per layer of the blocks."""
    blocks: dict[tuple[str, str], list[int]] = collections.defaultdict(list)
    whole = []
    for module in modules:
        if match := re.fullmatch(r"(.*blocks)\.(\d+)\.(.+)", module):
            blocks[match[1], match[3]].append(int(match[2]))
        else:
            whole.append(re.escape(module))
    for (parent, rest), numbers in blocks.items():
        which = "|".join(map(str, sorted(numbers)))
        which = f"({which})" if len(numbers) > 1 else which
        whole.append(rf"{re.escape(parent)}\.{which}\.{re.escape(rest)}")
    return sorted(whole)
