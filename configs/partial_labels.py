"""Masked, partial and full labels of age on real faces; docs/partial_labels.md is its protocol.

    python scripts/dev/coarsen_ages.py --data=data/fairface
    python scripts/small_reproduction.py --config=configs/partial_labels.py \
        --config.pretrained=vit_small_patch14_dinov2.safetensors \
        --workdir=runs/partial_labels --records=docs/partial_labels

Cells: METHOD_full; METHOD_RANGES_masked and METHOD_RANGES_partial, with half of the training ages coarsened
to the ranges of rafdb or adience, for the methods lp and lora. images, batch_size, image_size and cells
(names joined by "+") can be set as configs/partial_labels.py:cells=lp_full+lp_rafdb_masked.
"""

import ml_collections

_METHODS = {"lp": 1e-2, "lora": 1e-3}  # base rates of configs/foundation_study.py
_RANGES = ("rafdb", "adience")
_DEFAULTS = {"images": "12000", "batch_size": "64", "image_size": "98", "cells": ""}
_RANK = 16


def get_config(arguments: str = "") -> ml_collections.ConfigDict:
    """Returns the study, from "images=N,cells=A+B,...": see the module."""
    chosen = _parse(arguments)
    names = [name for name in _cells() if name in chosen["cells"].split("+") or not chosen["cells"]]
    study = {
        "name": "partial_labels",
        "data_root": "data",
        "pretrained": "",
        "seeds": (0, 1, 2, 3, 4),
        "factors": (1.0,),
        "cells": ml_collections.ConfigDict(
            {name: _cell(chosen, **_cells()[name]) for name in names}, sort_keys=False
        ),
    }
    return ml_collections.ConfigDict(study, sort_keys=False)


def _cells() -> dict[str, dict]:
    """Returns the arguments of each cell, those of a method together."""
    cells: dict[str, dict] = {}
    for method in _METHODS:
        cells[f"{method}_full"] = {"method": method, "data": "fairface", "partial": ()}
        for ranges in _RANGES:
            coarse = {"method": method, "data": f"fairface_{ranges}"}
            cells[f"{method}_{ranges}_masked"] = coarse | {"partial": ()}
            cells[f"{method}_{ranges}_partial"] = coarse | {"partial": ("age",)}
    return cells


def _cell(chosen: dict[str, str], *, method: str, data: str, partial: tuple[str, ...]) -> dict:
    batch = int(chosen["batch_size"])
    steps = max(4, int(chosen["images"]) // batch)
    rate = _METHODS[method]
    lora = {"rank": _RANK, "alpha": float(_RANK), "rslora": False, "dropout": 0.0, "dora": False}
    return {
        "seed": 0,
        "tasks": ("age",),
        "model": {
            "variant": "dinov2-s14",
            "image_size": int(chosen["image_size"]),
            "pretrained": "",
            "feature": "pooled",
            "head": {"kind": "linear", "batch_norm": True, "dropout": 0.2},
        },
        "method": {"name": method} | ({"lora": lora} if method == "lora" else {}),
        "balancing": {"kind": "fixed"},
        "data": {
            "root": "",
            "train": (f"{data}/train",),
            "test": ("fairface/val",),
            "val_fraction": 0.2,
            "split_seed": 2026,
            "sampler": {"name": "natural"},
            "labels": {"partial": partial},
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
            "rates": {"heads": rate, "adapter_a": rate, "adapter_b": rate},
            "schedule": "cosine",
            "warmup_steps": max(1, steps // 20),
            "weight_decay": 0.01,
            "decay_all": False,
            "clip_norm": 1.0,
        },
        "compute": {"dtype": "float32"},
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
            "cache_views": 1,  # the same for all seeds
        },
    }


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
