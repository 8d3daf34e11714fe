"""adapter_config.json of PEFT: the fields that change what an adapter computes, and the rest."""

import dataclasses
import json
import pathlib
import re
from collections.abc import Mapping
from typing import Any

from softbio_jax.adapters.config import LoRAConfig
from softbio_jax.errors import UserError

# Read here, or of no consequence for what a loaded adapter computes.
_KNOWN = {
    "peft_type", "r", "lora_alpha", "lora_dropout", "use_dora", "use_rslora", "rank_pattern",
    "alpha_pattern", "target_modules", "exclude_modules", "layers_to_transform", "layers_pattern",
    "inference_mode", "base_model_name_or_path", "task_type", "auto_mapping", "revision",
    "peft_version", "megatron_core", "runtime_config", "loftq_config", "ephemeral_gpu_offload",
    "qalora_group_size",
}  # fmt: skip
# Whatever other field there is may only have a value that turns it off.
_OFF: tuple[Any, ...] = (None, False, 0, "", "none", "None", [], {})
_PLAIN_STARTS = (True, False, "gaussian")  # other starts of A and B change the base weights


@dataclasses.dataclass(frozen=True, kw_only=True)
class PeftConfig:
    """A PEFT LoRA configuration: one adapter, with another rank or alpha for some modules."""

    lora: LoRAConfig
    rank_pattern: Mapping[str, int] = dataclasses.field(default_factory=dict)
    alpha_pattern: Mapping[str, float] = dataclasses.field(default_factory=dict)

    def of(self, module: str) -> LoRAConfig:
        """Returns the adapter of a module, as PEFT looks patterns up: the first match wins."""
        return dataclasses.replace(
            self.lora,
            rank=_look_up(self.rank_pattern, module, self.lora.rank),
            alpha=float(_look_up(self.alpha_pattern, module, self.lora.alpha)),
        )


def read(path: pathlib.Path) -> PeftConfig:
    """Reads adapter_config.json.

    Raises:
      UserError: no or broken file, another kind of adapter, or a field that changes the adapter
        in a way not known here.
    """
    try:
        values = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise UserError("unreadable adapter configuration", where=str(path),
                        expected="the JSON that PEFT writes", found=type(error).__name__,
                        fix="give the folder PEFT saved") from error  # fmt: skip
    if not isinstance(values, dict) or values.get("peft_type") != "LORA":
        found = values.get("peft_type") if isinstance(values, dict) else type(values).__name__
        raise UserError("not a LoRA adapter", where=str(path), expected="peft_type LORA",
                        found=repr(found), fix="give a LoRA or DoRA adapter")  # fmt: skip
    for name, value in values.items():
        started = name == "init_lora_weights" and value in _PLAIN_STARTS
        if name not in _KNOWN and not started and value not in _OFF:
            raise UserError("PEFT field that is not supported", where=f"{path} field {name}",
                            expected="none, or a value that turns it off", found=repr(value),
                            fix="save it without, or merge it with PEFT")  # fmt: skip
    missing = [name for name in ("r", "lora_alpha") if not _is_number(values.get(name))]
    if missing:
        raise UserError("PEFT field missing", where=f"{path} field {missing[0]}",
                        expected="a number", found=repr(values.get(missing[0])),
                        fix="give the folder PEFT saved")  # fmt: skip
    return PeftConfig(
        lora=LoRAConfig(
            rank=int(values["r"]),
            alpha=float(values["lora_alpha"]),
            rslora=bool(values.get("use_rslora")),
            dropout=float(values.get("lora_dropout") or 0.0),
            dora=bool(values.get("use_dora")),
        ),
        rank_pattern=values.get("rank_pattern") or {},
        alpha_pattern=values.get("alpha_pattern") or {},
    )


def to_json(config: PeftConfig, *, target_modules: str, base_model: str) -> str:
    """Returns the text of adapter_config.json: the fields every PEFT since 0.9 reads.

    Args:
      config: the adapter.
      target_modules: a regex over whole module names.
      base_model: what the adapter belongs on, for the reader's information.
    """
    lora = config.lora
    values = {
        "peft_type": "LORA", "task_type": None, "base_model_name_or_path": base_model,
        "inference_mode": True, "r": lora.rank, "lora_alpha": lora.alpha,
        "lora_dropout": lora.dropout, "use_rslora": lora.rslora, "use_dora": lora.dora,
        "bias": "none", "fan_in_fan_out": False, "modules_to_save": None,
        "target_modules": target_modules, "rank_pattern": dict(config.rank_pattern),
        "alpha_pattern": dict(config.alpha_pattern),
    }  # fmt: skip
    return json.dumps(values, indent=2) + "\n"


def _look_up(patterns: Mapping[str, Any], module: str, default: Any) -> Any:
    for pattern, value in patterns.items():
        if re.match(rf"(.*\.)?({pattern})$", module):
            return value
    return default


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
