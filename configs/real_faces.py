"""Age, gender and emotion on real faces: a small encoder trained from scratch.

    python scripts/prepare_data.py --dataset=fairface --source=FAIRFACE --out=data/fairface
    python scripts/prepare_data.py --dataset=folder --task=emotion --source=FER --out=data/fer
    python scripts/train.py --config=configs/real_faces.py --workdir=runs/real_faces

FairFace rows have no emotion, FER rows have no age and no gender. 10,000 + 842 training images, 48
pixels. Expected: gender 74.7 %, age 35.2 %, emotion 62.4 % after 11 minutes on 2 CPU cores
(2026-11-21).
"""

import ml_collections


def get_config() -> ml_collections.ConfigDict:
    """Returns the run's configuration."""
    rate = 5e-4
    return ml_collections.ConfigDict(
        {
            "seed": 0,
            "tasks": ("age", "gender", "emotion"),
            "model": {
                "variant": "tiny-faces",
                "image_size": 48,
                "pretrained": "",
                "feature": "pooled",
                "head": {"kind": "linear", "batch_norm": True, "dropout": 0.2},
            },
            "method": {"name": "full"},
            "balancing": {"kind": "uncertainty"},
            "data": {
                "root": "data",
                "train": ("fairface/train", "fer/train"),
                "test": ("fairface/val", "fer/test"),
                "val_fraction": 0.05,
                "split_seed": 2025,
                "sampler": {"name": "mixture", "shares": {"fairface": 0.8, "fer": 0.2}},
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
            "compute": {"remat": "none"},
            "mesh": {"fsdp": 1},
            "optimizer": {
                "rates": {"blocks": rate, "pooling": rate, "heads": 2 * rate, "log_var": 5e-3},
                "schedule": "cosine",
                "warmup_steps": 100,
                "weight_decay": 0.05,
                "decay_all": False,
                "clip_norm": 1.0,
            },
            "train": {
                "steps": 2000,
                "batch_size": 96,
                "microbatches": 1,
                "eval_batch_size": 256,
                "log_every": 50,
                "eval_every": 500,
                "checkpoint_every": 0,
                "keep": 2,
                "patience": 0,
                "evaluate": "last",
            },
        }
    )
