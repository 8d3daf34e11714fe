"""Adapts an encoder to your own prepared data sets, by any method.

    python scripts/train.py --workdir=runs/mine \
        --config=configs/finetune.py:method=lora,tasks=emotion,train=fer/train,test=fer/test \
        --config.model.pretrained=assets/tiny_demo.safetensors

Expected, with the set that configs/real_faces.py prepares as data/fer (842 training images, 732
test images): emotion 64.6 % after 4 minutes on 2 shared CPU cores (2026-11-22).

method is one of lp, ap, ft4, full, lora, lora_plus, dora, mtlora, or a registered one without
arguments. tasks, train and test accept several names joined by "+". variant, steps, batch_size, rate
and dtype can be set the same way; the weights by --config.model.pretrained. rate is the learning
rate of heads, pooling and adapters; that of B is twice as high for lora_plus, that of unfrozen
blocks a tenth. 1e-3 suits the demo's tiny encoder, and DINOv2 ViT-S/14 by validation (ft4, lora and
mtlora; lp 3e-3: docs/foundation_study.md); start at 1e-4 for a large one. dtype=auto is what
the devices compute fastest: bfloat16, float16 on GPUs without it (T4, P100), float32 on a CPU.

optimizer=lbfgs, of method=lp, solves the heads as regularised logistic regressions on cached features, in
one step: each task's strength is chosen on the validation rows, and steps, batch_size and rate are not read.
"""

import ml_collections

_DEFAULTS = {
    "method": "lora",
    "tasks": "age+gender+emotion",
    "train": "",
    "test": "",
    "dtype": "auto",
    "variant": "tiny-demo",
    "steps": "400",
    "batch_size": "64",
    "rate": "1e-3",
    "optimizer": "adamw",
}

_STEPS = ("steps", "batch_size", "rate")
_UNCERTAINTY = {"kind": "uncertainty"}


def get_config(arguments: str = "") -> ml_collections.ConfigDict:
    """Returns the configuration of a run, from "method=NAME,tasks=A+B,..."."""
    chosen = _parse(arguments)
    tasks = tuple(chosen["tasks"].split("+"))
    steps, rate = int(chosen["steps"]), float(chosen["rate"])
    solved = chosen["optimizer"] == "lbfgs"
    return ml_collections.ConfigDict(
        {
            "seed": 0,
            "tasks": tasks,
            "model": {
                "variant": chosen["variant"],
                "image_size": 0,
                "pretrained": "",
                "feature": "pooled",
                "head": {"kind": "linear", "batch_norm": True, "dropout": 0.0 if solved else 0.2},
            },
            "method": _method(chosen["method"]),
            "balancing": {"kind": "fixed", "weights": {}} if solved or len(tasks) == 1 else _UNCERTAINTY,
            "data": {
                "root": "data",
                "train": _names(chosen["train"]),
                "test": _names(chosen["test"]),
                "val_fraction": 0.2,
                "split_seed": 2025,
                "sampler": {"name": "natural"},
                "workers": 0,
            },
            "augment": {
                "flip": 0.5,
                "brightness": 0.2,
                "contrast": 0.2,
                "saturation": 0.2,
                "degrees": 10.0,
                "translate": 0.05,
                "scale": (0.9, 1.1),
                "erase": 0.0,
            },
            "distill": {"teacher": ""},  # a trained model to learn from, see docs/distillation.md
            "compute": {"dtype": chosen["dtype"], "remat": "none"},
            "mesh": {"fsdp": 1},
            "optimizer": {"name": "lbfgs", "rates": {}, "refit": False}
            if solved
            else _optimizer(chosen, steps, rate),
            "train": {
                "steps": 1 if solved else steps,
                "batch_size": int(chosen["batch_size"]),
                "microbatches": 1,
                "eval_batch_size": 256,
                "log_every": 20,
                "eval_every": max(1, steps // 4),
                "checkpoint_every": max(1, min(100, steps // 4)),
                "keep": 2,
                "patience": 0,
                "evaluate": "best",
                "cache_features": solved,  # method lp only: the encoder runs once
            },
        }
    )


def _optimizer(chosen: dict[str, str], steps: int, rate: float) -> dict:
    return {
        "name": chosen["optimizer"],
        "rates": {
            "heads": rate,
            "pooling": rate,
            "blocks": 0.1 * rate,
            "adapter_a": rate,
            "adapter_b": 2 * rate if chosen["method"] == "lora_plus" else rate,
            "magnitude": rate,
            "log_var": 5e-3,
        },
        "schedule": "cosine",
        "warmup_steps": min(20, steps // 10),
        "weight_decay": 0.01,
        "decay_all": False,
        "clip_norm": 1.0,
    }


def _parse(arguments: str) -> dict[str, str]:
    chosen = dict(_DEFAULTS)
    for pair in filter(None, arguments.split(",")):
        key, _, value = pair.partition("=")
        if key not in chosen or not value:
            known = ", ".join(chosen)
            raise ValueError(f"expected key=value with a key of {known}, found {pair!r}")
        chosen[key] = value
        if key in _STEPS and "optimizer=lbfgs" in arguments.split(","):
            raise ValueError(f"lbfgs has no steps, so that {key} is not read; remove {pair!r}")
    for key in ("steps", "batch_size"):
        if not chosen[key].isdigit() or int(chosen[key]) < 1:
            raise ValueError(f"{key} is an integer of at least 1, found {chosen[key]!r}")
    return chosen


def _names(joined: str) -> tuple[str, ...]:
    return tuple(filter(None, joined.split("+")))


def _method(name: str) -> dict:
    lora = {"rank": 16, "alpha": 16.0, "rslora": False, "dropout": 0.0, "dora": False}
    if name == "ft4":
        return {"name": "ft", "blocks": 4}
    return {"name": name} | ({"lora": lora} if "lora" in name or name == "dora" else {})
