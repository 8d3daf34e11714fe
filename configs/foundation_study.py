"""The thesis' comparison on DINOv2 ViT-S/14 and real faces; docs/foundation_study.md is its protocol.

    python scripts/small_reproduction.py --config=configs/foundation_study.py \
        --config.pretrained=vit_small_patch14_dinov2.safetensors \
        --workdir=runs/foundation_study --records=docs/foundation_study

Every cell sees the same number of labels of a task: `images` of FairFace, with age and gender, and a
third as many of FER, with emotion. So a single-task cell has the labels of its task alone, and fewer
steps. Its rates are searched with the first seed on a quarter of the steps. Only lora_long differs: it
is lora with three times the labels, at the rates chosen for lora.

Cells: lp, ap (a new attention pooling), ft (the last 4 of 12 blocks), lora, lora_plus, dora, mtlora and
mtlora_task (what the last block's kernels read: the shared stream, or each task's own), full; and lp,
ft and lora on one task each; and lora_long. images, batch_size, image_size and cells (names joined by
"+") can be set as configs/foundation_study.py:cells=lp+lora.
"""

import ml_collections

_LABELS = {"age": "fairface", "gender": "fairface", "emotion": "fer"}
_TEST = {"fairface": "fairface/val", "fer": "fer/test"}
_METHODS = ("lp", "ap", "ft", "lora", "lora_plus", "dora", "mtlora", "mtlora_task", "full")
_SINGLE = ("lp", "ft", "lora")
_DEFAULTS = {"images": "20000", "batch_size": "64", "image_size": "98", "cells": ""}
_LONGER = 3  # labels of lora_long for one of lora
_EXPRESSIONS = 3  # images of FairFace for one of FER, which has a twelfth as many
_RANK = 16
_RATIO = 6  # LoRA+: B's rate over A's, as in the thesis' code
_RATE, _PROBE_RATE = 1e-3, 1e-2  # the middle of the search


def get_config(arguments: str = "") -> ml_collections.ConfigDict:
    """Returns the study, from "images=N,cells=A+B,...": see the module."""
    chosen = _parse(arguments)
    kinds = _cells()
    names = [name for name in kinds if name in chosen["cells"].split("+") or not chosen["cells"]]
    study = {
        "name": "foundation_study",
        "data_root": "data",
        "pretrained": "",
        "seeds": (0, 1, 2),
        "more_seeds": {name: (3, 4) for name in ("lp", "lora", "mtlora") if name in names},
        "factors": (0.3, 1.0, 3.0),
        "factor_of": {"lora_long": "lora"} if {"lora", "lora_long"} <= set(names) else {},
        "search_share": 0.25,
        "cells": ml_collections.ConfigDict(
            {name: _cell(chosen, **kinds[name]) for name in names}, sort_keys=False
        ),
    }
    return ml_collections.ConfigDict(study, sort_keys=False)


def _cells() -> dict[str, dict]:
    """Returns the arguments of each cell, the rows of the thesis first."""
    cells: dict[str, dict] = {name: {"method": name, "tasks": tuple(_LABELS)} for name in _METHODS}
    for task in _LABELS:
        cells |= {f"{name}_{task}": {"method": name, "tasks": (task,)} for name in _SINGLE}
    return cells | {"lora_long": {"method": "lora", "tasks": tuple(_LABELS), "times": _LONGER}}


def _cell(chosen: dict[str, str], *, method: str, tasks: tuple[str, ...], times: int = 1) -> dict:
    faces = times * int(chosen["images"])
    images = {"fairface": faces, "fer": faces // _EXPRESSIONS}
    sets = list(dict.fromkeys(_LABELS[task] for task in tasks))
    batch = int(chosen["batch_size"])
    steps = max(4, sum(images[name] for name in sets) // batch)
    rate = _PROBE_RATE if method == "lp" else _RATE
    return {
        "seed": 0,
        "tasks": tasks,
        "model": {
            "variant": "dinov2-s14",
            "image_size": int(chosen["image_size"]),
            "pretrained": "",
            "pooling": "attn" if method == "ap" else "",
            "feature": "pooled",
            "head": {"kind": "linear", "batch_norm": True, "dropout": 0.2},
        },
        "method": _method(method),
        "balancing": {"kind": "uncertainty" if len(tasks) > 1 else "fixed"},
        "data": {
            "root": "",
            "train": tuple(f"{name}/train" for name in sets),
            "test": tuple(_TEST[name] for name in sets),
            "val_fraction": 0.2,
            "split_seed": 2026,
            "sampler": {"name": "mixture", "shares": {name: float(images[name]) for name in sets}},
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
                "blocks": 0.1 * rate,
                "adapter_a": rate,
                "adapter_b": _RATIO * rate if method == "lora_plus" else rate,
                "magnitude": rate,
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
            "cache_features": method == "lp",
            "cache_views": 4,
        },
    }


def _method(name: str) -> dict:
    if name == "ft":
        return {"name": "ft", "blocks": 4}
    if name in ("lp", "ap", "full"):
        return {"name": name}
    lora = {"rank": _RANK, "alpha": float(_RANK), "rslora": False, "dropout": 0.0, "dora": False}
    own = {"base_input": "task" if name == "mtlora_task" else "shared"}
    return {"name": name.removesuffix("_task"), "lora": lora} | (own if "mtlora" in name else {})


def _parse(arguments: str) -> dict[str, str]:
    chosen = dict(_DEFAULTS)
    for pair in filter(None, arguments.split(",")):
        key, _, value = pair.partition("=")
        if key not in chosen or not value:
            raise ValueError(f"expected key=value with a key of {', '.join(chosen)}, found {pair!r}")
        if key == "cells":
            if unknown := sorted(set(value.split("+")) - set(_cells())):
                raise ValueError(f"cells are {', '.join(_cells())}, found {unknown[0]!r}")
        elif not value.isdigit() or int(value) < 1:
            raise ValueError(f"{key} is an integer of at least 1, found {value!r}")
        chosen[key] = value
    return chosen
