"""Stores the outputs of the reference implementation that the plain tests compare with.

  python scripts/dev/make_goldens.py --checkout=perception_models --out=tests/goldens

Weights and images are drawn by name (softbio_jax/interop/goldens.py), so only outputs are stored.
Needs the parity extra.
"""

import json
import pathlib
import sys
from collections.abc import Sequence

import numpy as np
import torch_reference  # beside this script
from absl import flags

from softbio_jax import command, files
from softbio_jax.interop import goldens, official
from softbio_jax.interop.goldens import named_state

_CHECKOUT = flags.DEFINE_string(
    "checkout", None, "Checkout of facebookresearch/perception_models.", required=True
)
_OUT = flags.DEFINE_string("out", "tests/goldens", "Folder of the .npz files.")
_ONLY = flags.DEFINE_string("only", "", "Make only the cases whose name contains this.")


def main(argv: Sequence[str]) -> None:
    del argv
    out = pathlib.Path(_OUT.value)
    out.mkdir(parents=True, exist_ok=True)
    chosen = [case for case in goldens.CASES if _ONLY.value in case.name]
    for i, case in enumerate(chosen):
        print(f"[{i + 1}/{len(chosen)}] {case.name}", flush=True)
        with files.atomic_file(out / f"{case.name}.npz") as temporary, temporary.open("wb") as file:
            np.savez_compressed(file, **goldens.sampled(_rungs(case)))
    versions = {name: sys.modules[name].__version__ for name in ("torch", "timm", "numpy")}
    about = {"reference": "facebookresearch/perception_models", "versions": versions}
    (out / "versions.json").write_text(json.dumps(about, indent=2) + "\n")


def _rungs(case: goldens.Case) -> dict[str, np.ndarray]:
    state = named_state(official.vision_shapes(case.config))
    rungs = torch_reference.official_rungs(_CHECKOUT.value, case.config, state, case.images())
    if case.text_config is not None:
        state = named_state(official.text_shapes(case.text_config))
        ids = goldens.text_ids(case.text_config.context)
        rungs |= torch_reference.official_text_rungs(
            _CHECKOUT.value, case.text_config, state, ids, rungs["embedding"]
        )
    return rungs


if __name__ == "__main__":
    command.run(main)
