"""adapter_config.json: one LoRA or DoRA adapter, with other ranks and alphas for some modules."""

import collections
import dataclasses
import json
import math
import pathlib
import re
from collections.abc import Iterable, Mapping
from typing import Any

from softbio_jax.adapters.config import LoRAConfig
from softbio_jax.errors import UserError
from softbio_jax.interop.peft_parts.targets import WRAPPED, Targets, targets_of, unwrapped
from softbio_jax.safety import untrusted

# Fields that are read here, or that do not change what a loaded adapter computes. PEFT turns
# fan_in_fan_out off for the linear layers that the encoders have.
_KNOWN_FIELDS = """
peft_type r lora_alpha lora_dropout lora_bias bias use_dora use_rslora rank_pattern alpha_pattern
target_modules exclude_modules modules_to_save layers_to_transform layers_pattern fan_in_fan_out
init_lora_weights inference_mode base_model_name_or_path task_type auto_mapping revision peft_version
megatron_core runtime_config loftq_config eva_config corda_config lora_ga_config
ephemeral_gpu_offload qalora_group_size
"""
_KNOWN = frozenset(_KNOWN_FIELDS.split())
# Values that turn any other field off.
_OFF: tuple[Any, ...] = (None, False, 0, "", "none", "None", [], {})
# Initialisations of A and B that leave the base weights as they are; others change them.
_PLAIN_STARTS = (None, True, False, "gaussian", "eva", "orthogonal", "mica")
_TRAIN = "train a LoRA or DoRA adapter; PEFT cannot merge this kind"
_SAVED = "give the folder PEFT saved"
_MERGE = "merge it with PEFT (merge_and_unload) and convert the merged model"
# Kinds that PEFT cannot merge: they add inputs or modules, or choose between adapters.
_UNMERGED = (
    *("PROMPT_TUNING", "MULTITASK_PROMPT_TUNING", "P_TUNING", "PREFIX_TUNING", "ADAPTION_PROMPT"),
    *("CPT", "CARTRIDGE", "XLORA", "POLY", "SHADOW"),
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class PeftConfig:
    """A PEFT LoRA configuration: one adapter, with other ranks and alphas for some modules.

    base_class is of the model it was trained on, where PEFT noted it; version is PEFT's. biases:
    biases of the base were trained too; lora_bias: B has a bias; negated: lora_alpha is -alpha.
    """

    lora: LoRAConfig
    negated: bool = False
    rank_pattern: Mapping[str, int] = dataclasses.field(default_factory=dict)
    alpha_pattern: Mapping[str, float] = dataclasses.field(default_factory=dict)
    targets: Targets = Targets()
    biases: bool = False
    lora_bias: bool = False
    transposed: bool = False
    base_class: str = ""
    version: str = ""

    def of(self, module: str) -> tuple[LoRAConfig, bool]:
        """Returns the adapter of a module, and whether PEFT has its alpha with a minus.

        An update of scale -s is one of scale s whose B is -B.

        Raises:
          UserError: several patterns that match it, with other values. In PEFT the first one wins,
            but its files have them sorted.
        """
        module = module.removesuffix(WRAPPED)

        def look_up(name: str, patterns: Mapping[str, Any], default: Any) -> Any:
            matches = {p: v for p, v in patterns.items() if re.match(rf"(.*\.)?({p})$", module)}
            if len(set(matches.values())) > 1:
                raise UserError(
                    "patterns of one module that differ, whose order PEFT does not save",
                    where=f"{name} for {module}",
                    expected="one value",
                    found=" and ".join(f"{value} by {pattern!r}" for pattern, value in matches.items()),
                    fix="leave the one it was trained with in adapter_config.json",
                )
            return next(iter(matches.values()), default)

        rank = look_up("rank_pattern", self.rank_pattern, self.lora.rank)
        common = -self.lora.alpha if self.negated else self.lora.alpha
        alpha = float(look_up("alpha_pattern", self.alpha_pattern, common))
        return dataclasses.replace(self.lora, rank=rank, alpha=abs(alpha)), alpha < 0


def read_config(path: pathlib.Path) -> PeftConfig:
    """Reads adapter_config.json.

    Raises:
      UserError: an unreadable file, another kind of adapter, or an unsupported field.
    """
    try:
        wrong = "unreadable adapter configuration"
        values = untrusted.read_json(path, wrong=wrong, fix=_SAVED, finite=False)  # see _fits
    except OSError as error:
        raise UserError(
            "unreadable adapter configuration",
            where=str(path),
            expected="the JSON that PEFT writes",
            found=type(error).__name__,
            fix=_SAVED,
        ) from error
    found = values.get("peft_type")
    if found != "LORA":
        raise UserError(
            "not a LoRA adapter",
            where=str(path),
            expected="peft_type LORA",
            found=repr(found),
            fix=_TRAIN if found in _UNMERGED else _MERGE,
        )
    _check_fields(values, path)
    ranks, alphas = (_patterns(values, name, path) for name in ("rank_pattern", "alpha_pattern"))
    for name in ("r", "lora_alpha"):
        value = values.get(name)
        if not isinstance(value, int | float) or isinstance(value, bool) or not _fits(name, value):
            raise UserError(
                "PEFT field missing or out of range",
                where=f"{path} field {name}",
                expected="a whole number from 1" if name == "r" else "a finite number",
                found=repr(value),
                fix="give the folder PEFT saved",
            )
    lora = LoRAConfig(
        rank=int(values["r"]),
        alpha=abs(float(values["lora_alpha"])),
        rslora=bool(values.get("use_rslora")),
        dropout=float(values.get("lora_dropout") or 0.0),
        dora=bool(values.get("use_dora")),
    )
    saved_from = values.get("auto_mapping")
    base_class = saved_from.get("base_model_class") if isinstance(saved_from, dict) else ""
    return PeftConfig(
        lora=lora,
        negated=values["lora_alpha"] < 0,
        rank_pattern=ranks,
        alpha_pattern=alphas,
        targets=targets_of(values, str(path)),
        biases=values.get("bias") not in _OFF,
        lora_bias=bool(values.get("lora_bias")),
        transposed=bool(values.get("fan_in_fan_out")),
        base_class=str(base_class or ""),
        version=str(values.get("peft_version") or ""),
    )


def _check_fields(values: Mapping[str, Any], path: pathlib.Path) -> None:
    """Raises for a field that changes what the adapter computes and is not read here."""
    start = values.get("init_lora_weights")
    start = start.lower() if isinstance(start, str) else start
    if start not in _PLAIN_STARTS:
        raise UserError(
            "adapter that began by changing the base weights",
            where=f"{path} field init_lora_weights",
            expected="an adapter of the original weights",
            found=repr(start),
            fix=_MERGE
            if start == "loftq"
            else "save it again with path_initial_model_for_weight_conversion, or merge it with PEFT",
        )
    for name, value in values.items():
        if name not in _KNOWN and value not in _OFF:
            raise UserError(
                "PEFT field that is not supported",
                where=f"{path} field {name}",
                expected="none, or a value that turns it off",
                found=repr(value),
                fix=_TRAIN if name in ("alora_invocation_tokens", "arrow_config") else _MERGE,
            )


def _fits(name: str, value: float) -> bool:
    return math.isfinite(value) and (
        name not in ("r", "rank_pattern") or (value >= 1 and value == int(value))
    )


def _patterns(values: Mapping[str, Any], name: str, path: pathlib.Path) -> dict[str, Any]:
    """Returns a field of patterns, which must be regular expressions with numbers."""
    patterns = values.get(name) or {}
    try:
        numbers = {pattern: float(value) for pattern, value in patterns.items() if re.compile(pattern)}
    except (AttributeError, TypeError, ValueError, re.error) as error:
        numbers, why = {"": math.nan}, f": {error}"
    else:
        why = ""
    if not all(_fits(name, number) for number in numbers.values()):
        raise UserError(
            "PEFT patterns that cannot be read",
            where=f"{path} field {name}",
            expected="regular expressions, each with a finite number, of ranks a whole one from 1",
            found=f"{patterns!r}{why}",
            fix="give the folder PEFT saved",
        )
    plain: dict[str, Any] = {}
    for pattern, number in numbers.items():
        # In a file the names are read without torch's wrappers too.
        if unwrapped(pattern) in plain:
            raise UserError(
                "two patterns that are one without torch's wrappers",
                where=f"{path} field {name}",
                expected="each pattern once",
                found=pattern,
                fix="remove one of them",
            )
        plain[unwrapped(pattern)] = int(number) if name == "rank_pattern" else number
    return plain


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
        if match := re.fullmatch(r"(.*(?:blocks|layers?))\.(\d+)\.(.+)", module):
            blocks[match[1], match[3]].append(int(match[2]))
        else:
            whole.append(re.escape(module))
    for (parent, rest), numbers in blocks.items():
        which = "|".join(map(str, sorted(numbers)))
        which = f"({which})" if len(numbers) > 1 else which
        whole.append(rf"{re.escape(parent)}\.{which}\.{re.escape(rest)}")
    return sorted(whole)
