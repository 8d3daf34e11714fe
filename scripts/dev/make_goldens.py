"""Stores the outputs of the reference implementation that the plain tests compare with.

  python scripts/dev/make_goldens.py --checkout=perception_models --out=tests/goldens

Weights and images are drawn by name (softbio_jax/interop/goldens.py), so only outputs are stored. A
file whose outputs differ by rounding alone is left as it is, so that only changes show in a diff. The
reference runs in float64 too: rounding.json keeps how far its float32 is from that, which bounds ours.
The checkout is that of the environment variable PERCEPTION_MODELS unless --checkout names one. Needs the
parity extra.
"""

import json
import os
import pathlib
import sys
from collections.abc import Sequence

import numpy as np
import torch_reference  # beside this script
from absl import flags

from softbio_jax import command
from softbio_jax.interop import goldens, ladder, official
from softbio_jax.interop.goldens import named_state

_CHECKOUT = flags.DEFINE_string(
    "checkout",
    os.environ.get("PERCEPTION_MODELS", ""),
    "Checkout of facebookresearch/perception_models; by default $PERCEPTION_MODELS.",
)
_OUT = flags.DEFINE_string("out", "tests/goldens", "Folder of the .npz files.")
_ONLY = flags.DEFINE_string("only", "", "Make only the cases whose name contains this.")


def main(argv: Sequence[str]) -> None:
    del argv
    out = pathlib.Path(_OUT.value)
    out.mkdir(parents=True, exist_ok=True)
    written = False
    chosen = [case for case in goldens.CASES if _ONLY.value in case.name]
    for i, case in enumerate(chosen):
        rungs = _rungs(case, "float32")
        noise = ladder.rounding(rungs, _rungs(case, "float64"))
        changed = goldens.store(out, case, rungs)
        if goldens.store_rounding(out, case, noise):
            changed = ", ".join(filter(None, (changed, "its rounding")))
        written |= bool(changed)
        print(f"[{i + 1}/{len(chosen)}] {case.name}: {changed or 'as stored, up to rounding'}", flush=True)
    if not written:
        return
    versions = {name: sys.modules[name].__version__ for name in ("torch", "timm", "numpy")}
    about = {
        "reference": "facebookresearch/perception_models, and timm for other families",
        "versions": versions,
    }
    (out / "versions.json").write_text(json.dumps(about, indent=2) + "\n")


def _rungs(case: goldens.Case, dtype: str) -> dict[str, np.ndarray]:
    state = named_state(official.vision_shapes(case.config))
    if case.config.family != "perception":  # timm's code is the reference, which needs no checkout
        return torch_reference.timm_rungs(case.config, state, case.images(), dtype=dtype)
    rungs = torch_reference.official_rungs(_CHECKOUT.value, case.config, state, case.images(), dtype=dtype)
    if case.text_config is not None:
        state = named_state(official.text_shapes(case.text_config))
        ids = goldens.text_ids(case.text_config.context)
        rungs |= torch_reference.official_text_rungs(
            _CHECKOUT.value, case.text_config, state, ids, rungs["embedding"], dtype=dtype
        )
    return rungs


if __name__ == "__main__":
    command.run(main)
