"""Age, gender and emotion together on real faces: FairFace without emotion, FER without age and gender.

A small tower at low resolution, trained from scratch.
"""

import ml_collections


def get_config() -> ml_collections.ConfigDict:
    """Returns the run's configuration."""
    rate = 1e-3
    return ml_collections.ConfigDict({
        "seed": 0,
        "tasks": ("age", "gender", "emotion"),
        "model": {
            "variant": "tiny-faces",
            "head": {"kind": "linear", "batch_norm": True, "dropout": 0.2},
        },
        "method": {"name": "full"},
        "data": {
            "root": "data/prepared",
            "train": ("fairface/train", "fer/train"),
            "test": ("fairface/val", "fer/test"),
            "val_fraction": 0.05,
        },
        "augment": {},
        "optimizer": {
            "rates": {"blocks": rate, "pooling": rate, "heads": rate, "log_sigma": rate},
            "warmup_steps": 100,
            "weight_decay": 0.05,
        },
        "train": {
            "steps": 1000,
            "batch_size": 128,
            "eval_every": 200,
        },
    })  # fmt: skip
