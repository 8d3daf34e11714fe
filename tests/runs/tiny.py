"""Drawn faces in three small sets, and a run on them that takes seconds."""

import copy

from softbio_jax.data.prepare import prepare
from softbio_jax.runs import build
from softbio_jax.runs.data import open_all

SETS = {"synthetic_fairface": (40, 16), "synthetic_raf_db": (32, 16), "synthetic_utkface": (0, 16)}


def prepare_sets(root):
    for name, (train, test) in SETS.items():
        prepare.prepare("synthetic", source=name, out=root / name, size=32, count=train, test_count=test)


def config_on(data_root):
    """A nested dict, to be changed before `run_of` makes a run of it."""
    return {
        "seed": 3,
        "tasks": ("age", "gender", "emotion"),
        "model": {"variant": "tiny-test", "head": {"kind": "linear", "batch_norm": True, "dropout": 0.1}},
        "method": {"name": "lora", "lora": {"rank": 2, "alpha": 2.0}},
        "data": {
            "root": str(data_root),
            "train": ("synthetic_fairface/train", "synthetic_raf_db/train"),
            "test": ("synthetic_utkface/test", "synthetic_raf_db/test"),
            "val_fraction": 0.25,
        },
        "optimizer": {
            "rates": {"adapter_a": 1e-3, "adapter_b": 1e-3, "pooling": 1e-3, "heads": 1e-2, "log_var": 1e-2},
            "warmup_steps": 2,
        },
        "train": {
            "steps": 8,
            "batch_size": 16,
            "eval_batch_size": 16,
            "log_every": 3,
            "eval_every": 4,
            "checkpoint_every": 2,
            "evaluate": "best",
        },
    }


def changed(config, **values):
    """A copy with dotted keys changed, written with __ for the dot."""
    config = copy.deepcopy(config)
    for name, value in values.items():
        *parents, key = name.split("__")
        node = config
        for parent in parents:
            node = node.setdefault(parent, {})
        node[key] = value
    return config


def run_of(config):
    """The parts of a run and its data."""
    run = build.build(config)
    return run, open_all(run.config.data)
