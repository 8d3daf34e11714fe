"""The thesis' comparison: every method under one budget, its single-task twins, its ablations.

    python scripts/small_reproduction.py --config=configs/small_reproduction.py \
        --workdir=runs/small_reproduction --jobs=2

Every cell is a run configuration. It is trained with the first seed at every factor (of all its
learning rates except that of the log-variances); the factor with the lowest validation loss is then
trained with the other seeds. scale=small, the default, is a small encoder on 10,000 + 842 real
faces: pretrained on one half of FairFace, adapted on the other half. scale=thesis is the study
itself, PE-Core-L14-336 on the real composite with the runs of configs/thesis.py; set the weights by
--config.pretrained and the data by --config.data_root. Also: steps, batch_size and pretrain_steps
for the small scale, batch_size and epochs for the other, and cells (names joined by "+") for both.

Cells: lp, ft (the last sixth of the blocks, the pooling, the heads), lora, lora_plus, dora, mtlora
and mtlora_task (what the last block's kernels read: the shared stream, or each task's own);
lp_untrained, on random weights; lp, ft and lora on one task each; and lora with fixed task weights,
natural sampling, a quarter and four times the rank.
"""

import pathlib
import runpy

import ml_collections

_TASKS = ("age", "gender", "emotion")
_SINGLE = ("lp", "ft", "lora")
_DEFAULTS = {
    "small": {"steps": "750", "batch_size": "32", "pretrain_steps": "2000"},
    "thesis": {"batch_size": "256", "epochs": "20"},
}
_SMALL_RATE, _SMALL_PROBE_RATE = 2e-3, 8e-3  # the middle of the search; heads tolerate more
_RATIO = 6  # LoRA+: B's rate over A's, as in the thesis' code


def get_config(arguments: str = "") -> ml_collections.ConfigDict:
    """Returns the study, from "scale=small,steps=N,...": see the module."""
    scale, chosen = _parse(arguments)
    make, kinds = _small_cell if scale == "small" else _thesis_cell, _cells()
    names = [name for name in kinds if name in chosen["cells"].split("+") or not chosen["cells"]]
    cells = {name: make(chosen, **kinds[name]) for name in names}
    study = {
        "data_root": "data",
        "pretrained": "",  # the encoder's weights; empty where the study makes them itself
        "seeds": (0, 1, 2) if scale == "small" else (42, 43, 44),
        "factors": (0.25, 1.0, 4.0),
        # Cells whose encoder keeps its random weights.
        "untrained": tuple(name for name in names if name == "lp_untrained"),
        "cells": ml_collections.ConfigDict(cells, sort_keys=False),  # in the order of running
    }
    if scale == "small":
        study["pretrain"] = _pretrain(int(chosen["pretrain_steps"]))
    return ml_collections.ConfigDict(study, sort_keys=False)


def _cells() -> dict[str, dict]:
    """Returns the arguments of each cell, the rows of the thesis first."""
    cells: dict[str, dict] = {
        name: {"method": name} for name in ("lp", "ft", "lora", "lora_plus", "dora", "mtlora", "mtlora_task")
    }
    cells["lp_untrained"] = {"method": "lp"}
    for task in _TASKS:
        cells |= {f"{name}_{task}": {"method": name, "tasks": (task,)} for name in _SINGLE}
    return cells | {
        "lora_fixed": {"method": "lora", "balancing": "fixed"},
        "lora_natural": {"method": "lora", "sampler": "natural"},
        "lora_low_rank": {"method": "lora", "rank": 0.25},
        "lora_high_rank": {"method": "lora", "rank": 4},
    }


def _small_cell(
    chosen: dict[str, str],
    *,
    method: str,
    tasks: tuple[str, ...] = _TASKS,
    rank: float = 1,
    balancing: str = "uncertainty",
    sampler: str = "thesis",
) -> dict:
    several, steps = len(tasks) > 1, int(chosen["steps"])
    sets = [
        name for name, known in {"fairface": _TASKS[:2], "fer": _TASKS[2:]}.items() if set(known) & set(tasks)
    ]
    test = {"fairface": "fairface/val", "fer": "fer/test"}
    rate = _SMALL_PROBE_RATE if method == "lp" else _SMALL_RATE
    return {
        "seed": 0,
        "tasks": tasks,
        "model": {
            "variant": "tiny-reproduction",
            "pretrained": "",
            "feature": "pooled",
            "head": {"kind": "linear", "batch_norm": True, "dropout": 0.2},
        },
        "method": _small_method(method, int(8 * rank)),
        "balancing": {"kind": balancing if several else "fixed"},
        "data": {
            "root": "",
            "train": tuple(f"{name}/train" for name in sets),
            "test": tuple(test[name] for name in sets),
            "val_fraction": 0.2,
            "split_seed": 42,
            "sampler": _sampler(sampler, repeats=several),
        },
        "augment": {
            "flip": 0.5,
            "brightness": 0.2,
            "contrast": 0.2,
            "saturation": 0.2,
            "degrees": 10.0,
            "translate": 0.05,
            "scale": (0.9, 1.1),
            "erase": 0.5,
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
            "warmup_steps": steps // 20,
            "weight_decay": 0.01,
            "decay_all": False,
            "clip_norm": 1.0,
        },
        "compute": {"dtype": "float32"},  # on any device, as the stored tables
        "train": {
            "steps": steps,
            "batch_size": int(chosen["batch_size"]),
            "eval_batch_size": 256,
            "log_every": 50,
            "eval_every": max(1, steps // 3),
            "checkpoint_every": 0,
            "keep": 1,
            "patience": 0,
            "evaluate": "best",
            "cache_features": method == "lp",
            "cache_views": 4,
        },
    }


def _small_method(name: str, rank: int) -> dict:
    if name == "lp":
        return {"name": "lp"}
    if name == "ft":
        return {"name": "ft", "blocks": 1}  # of 6, as the thesis' 4 of 24
    lora = {"rank": rank, "alpha": float(rank), "rslora": False, "dropout": 0.0, "dora": False}
    own = {"base_input": "task" if name == "mtlora_task" else "shared"}
    return {"name": name.removesuffix("_task"), "lora": lora} | (own if "mtlora" in name else {})


def _thesis_cell(
    chosen: dict[str, str],
    *,
    method: str,
    tasks: tuple[str, ...] = _TASKS,
    rank: float = 1,
    balancing: str = "uncertainty",
    sampler: str = "thesis",
) -> dict:
    own = ",base_input=task" if method == "mtlora_task" else ""
    name = {"ft": "ft4", "mtlora_task": "mtlora"}.get(method, method)
    thesis = runpy.run_path(str(pathlib.Path(__file__).with_name("thesis.py")))["get_config"]
    config = thesis(
        f"method={name},tasks={'+'.join(tasks)}{own},"
        f"batch_size={chosen['batch_size']},epochs={chosen['epochs']}"
    ).to_dict()
    if rank != 1:
        config["method"]["lora"]["rank"] = int(64 * rank)
        config["method"]["lora"]["alpha"] = 64.0 * rank
    if balancing == "fixed":
        config["balancing"] = {"kind": "fixed"}
    if sampler != "thesis":
        config["data"]["sampler"] = _sampler(sampler, repeats=False)
    if method == "lp":
        config["train"] |= {"cache_features": True, "cache_views": 4}
    return config


def _sampler(name: str, *, repeats: bool) -> dict:
    # A single task repeats nothing, as in the thesis' code.
    return {"name": name} | ({"emotion_share": 0.334 * repeats} if name == "thesis" else {})


def _pretrain(steps: int) -> dict:
    """Returns the small encoder's pretraining; race is a pretext and never an output."""
    return {
        "variant": "tiny-reproduction",
        "data": "fairface/train",
        "column": "race",
        "fraction": 0.5,
        "split_seed": 2025,
        "components": 32,
        "steps": steps,
        "batch_size": 64,
        "rate": 1e-3,
        "seed": 0,
        "augment": {
            "flip": 0.0,
            "brightness": 0.2,
            "contrast": 0.2,
            "saturation": 0.2,
            "degrees": 5.0,
            "translate": 0.04,
            "scale": (0.93, 1.07),
            "erase": 0.25,
        },
    }


def _parse(arguments: str) -> tuple[str, dict[str, str]]:
    given = {}
    for pair in filter(None, arguments.split(",")):
        key, _, value = pair.partition("=")
        if not value:
            raise ValueError(f"expected key=value, found {pair!r}")
        given[key] = value
    scale = given.pop("scale", "small")
    if scale not in _DEFAULTS:
        raise ValueError(f"scale is one of {', '.join(_DEFAULTS)}, found {scale!r}")
    known = _DEFAULTS[scale] | {"cells": ""}
    for key, value in given.items():
        if key not in known:
            raise ValueError(f"of scale={scale} a key of {', '.join(known)}, found {key!r}")
        if key == "cells":
            if unknown := sorted(set(value.split("+")) - set(_cells())):
                raise ValueError(f"cells are {', '.join(_cells())}, found {unknown[0]!r}")
        elif not value.isdigit() or int(value) < 1:
            raise ValueError(f"{key} is an integer of at least 1, found {value!r}")
    return scale, known | given
