"""Distilled students against the same students trained on labels alone; docs/distillation.md is the protocol.

    python scripts/small_reproduction.py \
        --config=configs/distill_study.py:teacher=runs/foundation_study/runs/lora_long/x1-seed0 \
        --config.pretrained=vit_small_patch14_dinov2.safetensors \
        --workdir=runs/distill_study --records=docs/distill_study

Every cell draws `images` of FairFace, with age and gender, and a third as many of FER, with emotion, in the
same order and with the same augmentation: cells of one student differ by the loss alone. 60,000 are as many
as the teacher lora_long saw. All weights are trained.

Cells: b6_labels, b6_distilled and b6_feature, the first 6 of the 12 blocks of DINOv2 ViT-S/14 from their
pretrained weights (b6_feature also learns the teacher's feature); t16_labels and t16_distilled, PE-Core-T16
from random weights. images, batch_size and cells (names joined by "+") can be set as
configs/distill_study.py:teacher=DIR,cells=b6_labels+b6_distilled; digest=TEXT is the teacher's.
"""

import ml_collections

_SETS = ("fairface", "fer")
_STUDENTS = {
    "b6": {"variant": "dinov2-s14", "blocks": 6, "image_size": 98},
    "t16": {"variant": "PE-Core-T16-384", "blocks": 0, "image_size": 96},
}
_CELLS = ("b6_labels", "b6_distilled", "t16_labels", "t16_distilled", "b6_feature")
_DEFAULTS = {"teacher": "", "digest": "", "images": "60000", "batch_size": "64", "cells": ""}
_EXPRESSIONS = 3  # images of FairFace for one of FER
_WEIGHT, _TEMPERATURE = 0.9, 2.0
_RATES = {"b6": 3e-4, "t16": 1e-3}  # the middle of the search, of the heads


def get_config(arguments: str = "") -> ml_collections.ConfigDict:
    """Returns the study, from "teacher=DIR,images=N,cells=A+B,...": see the module."""
    chosen = _parse(arguments)
    names = [name for name in _CELLS if name in chosen["cells"].split("+") or not chosen["cells"]]
    study = {
        "name": "distill_study",
        "data_root": "data",
        "pretrained": "",
        "seeds": (0, 1, 2),
        "factors": (0.3, 1.0, 3.0),
        "search_share": 0.1,
        "untrained": tuple(name for name in names if name.startswith("t16")),
        "cells": ml_collections.ConfigDict({name: _cell(chosen, name) for name in names}, sort_keys=False),
    }
    return ml_collections.ConfigDict(study, sort_keys=False)


def _cell(chosen: dict[str, str], name: str) -> dict:
    student, _, arm = name.partition("_")
    rate = _RATES[student]
    images = {"fairface": int(chosen["images"]), "fer": int(chosen["images"]) // _EXPRESSIONS}
    batch = int(chosen["batch_size"])
    steps = max(4, sum(images.values()) // batch)
    distill = {
        "teacher": chosen["teacher"],
        "digest": chosen["digest"],
        "weight": _WEIGHT,
        "temperature": _TEMPERATURE,
        "feature": "cosine" if arm == "feature" else "none",
    }
    return {
        "seed": 0,
        "tasks": ("age", "gender", "emotion"),
        "model": _STUDENTS[student]
        | {
            "pretrained": "",
            "feature": "pooled",
            "head": {"kind": "linear", "batch_norm": True, "dropout": 0.2},
        },
        "method": {"name": "full"},
        "balancing": {"kind": "uncertainty"},
        "distill": {} if arm == "labels" else distill,
        "data": {
            "root": "",
            "train": tuple(f"{name}/train" for name in _SETS),
            "test": ("fairface/val", "fer/test"),
            "val_fraction": 0.2,
            "split_seed": 2026,
            "sampler": {"name": "mixture", "shares": {name: float(images[name]) for name in _SETS}},
        },
        "augment": {
            "flip": 0.5,
            "brightness": 0.2,
            "contrast": 0.2,
            "saturation": 0.2,
            "degrees": 10.0,
            "translate": 0.05,
            "scale": (0.9, 1.15),
            "erase": 0.0,
        },
        "optimizer": {
            "rates": {
                "heads": rate,
                "pooling": rate,
                "blocks": 0.1 * rate if student == "b6" else rate,
                "log_var": 5e-3,
            },
            "schedule": "cosine",
            "warmup_steps": max(1, steps // 20),
            "weight_decay": 0.01,
            "decay_all": False,
            "clip_norm": 1.0,
        },
        "compute": {"dtype": "float32"},  # on any device, as the stored tables
        "train": {
            "steps": steps,
            "batch_size": batch,
            "eval_batch_size": 128,
            "log_every": max(1, steps // 20),
            "eval_every": max(1, steps // 4),
            "checkpoint_every": max(1, steps // 4),
            "keep": 1,
            "patience": 0,
            "evaluate": "best",
        },
    }


def _parse(arguments: str) -> dict[str, str]:
    chosen = dict(_DEFAULTS)
    for pair in filter(None, arguments.split(",")):
        key, _, value = pair.partition("=")
        if key not in chosen or not value:
            raise ValueError(f"expected key=value with a key of {', '.join(chosen)}, found {pair!r}")
        if key == "cells":
            if unknown := sorted(set(value.split("+")) - set(_CELLS)):
                raise ValueError(f"cells are {', '.join(_CELLS)}, found {unknown[0]!r}")
        elif key in ("images", "batch_size") and (not value.isdigit() or int(value) < 1):
            raise ValueError(f"{key} is an integer of at least 1, found {value!r}")
        chosen[key] = value
    taught = [name for name in _CELLS if not name.endswith("labels")]
    if not chosen["teacher"] and (not chosen["cells"] or set(taught) & set(chosen["cells"].split("+"))):
        raise ValueError("teacher=DIR is missing: the run directory, saved model or hub id of the teacher")
    return chosen
