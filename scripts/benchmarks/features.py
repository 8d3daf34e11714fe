"""Measures linear probing on cached features: an epoch, a sweep, and what the cache saves.

python scripts/benchmarks/features.py --out=DIR --parts=epoch,sweep
python scripts/benchmarks/features.py --out=DIR --parts=tower --variant=PE-Core-B16-224 --images=240

Writes benchmark_features.json, adding to what other parts wrote there. Values extrapolated from
fewer images or steps are marked.
"""

import json
import os
import pathlib
import platform
import tempfile
import time
from collections.abc import Sequence
from typing import Any

from absl import flags

from softbio_jax import command
from softbio_jax.errors import UserError

_OUT = flags.DEFINE_string("out", None, "Where benchmark_features.json is written.")
_PARTS = flags.DEFINE_list("parts", ["epoch", "sweep", "tower"], "Which: epoch, sweep, tower.")
_VARIANT = flags.DEFINE_string("variant", "PE-Core-B16-224", "Encoder of the part tower.")
_IMAGES = flags.DEFINE_integer("images", 240, "Images that the part tower is measured on.")
_ROUNDS = flags.DEFINE_integer("rounds", 3, "Turns of the part tower.")
_BATCH = flags.DEFINE_integer("batch", 16, "Images per step of the part tower.")
_ROWS = flags.DEFINE_integer("rows", 168_362, "Features of an epoch.")
_SWEEP_STEPS = flags.DEFINE_integer("sweep_steps", 490, "Maximum number of measured steps of a sweep.")
flags.mark_flags_as_required(["out"])


def main(argv: Sequence[str]) -> None:
    del argv
    import jax

    from probes import features as benchmark

    if unknown := set(_PARTS.value) - {"epoch", "sweep", "tower"}:
        raise UserError(
            "no such part",
            where="--parts",
            expected="epoch, sweep or tower",
            found=sorted(unknown)[0],
            fix="correct it",
        )
    path = pathlib.Path(_OUT.value) / "benchmark_features.json"
    results: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    about = {
        "date": time.strftime("%Y-%m-%d"),
        "machine": platform.machine(),
        "cores": os.cpu_count(),
        "jax": jax.__version__,
        "device": f"{jax.device_count()} x {jax.devices()[0].device_kind}",
    }

    def add(name: str, found: dict[str, Any]) -> None:
        results[name] = about | {"load_before": load, "load_after": os.getloadavg()} | found
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(results, indent=2) + "\n")

    load = os.getloadavg()
    if "epoch" in _PARTS.value or "epoch/deep" not in results:
        for head in ("linear", "deep"):
            found = benchmark.epoch(head, rows=_ROWS.value)
            add(f"epoch/{head}", found)
            print(
                f"epoch over {found['rows']:,} features, {head} heads: "
                f"{found['fastest']:.2f} s, {found['processor_seconds']:.2f} s of processor"
            )
    if "sweep" in _PARTS.value:
        for rows in (benchmark.PROBE_IMAGES, benchmark.THESIS_ROWS):
            for norm in (False, True):
                found = benchmark.sweep(rows=rows, epochs=10, batch_norm=norm, steps=_SWEEP_STEPS.value)
                add(f"sweep/{rows}/{'batch_norm' if norm else 'no_norm'}", found)
                how = f", from {found['steps_measured']} steps" if found["extrapolated"] else ""
                print(
                    f"sweep of {found['pairs']}, 10 epochs of {rows:,}, "
                    f"{'with' if norm else 'without'} batch norm: "
                    f"{found['seconds_whole']:.1f} s, "
                    f"{found['processor_seconds_whole']:.1f} s of processor{how}"
                )
    if "tower" in _PARTS.value:
        with tempfile.TemporaryDirectory() as folder:
            tower = benchmark.probe(
                _VARIANT.value,
                pathlib.Path(folder),
                images=_IMAGES.value,
                rounds=_ROUNDS.value,
                batch=_BATCH.value,
            )
        for head in ("linear", "deep"):
            found = benchmark.projected(tower, results[f"epoch/{head}"])
            add(f"probe/{_VARIANT.value}/{head}", {"tower": tower} | found)
            measured = tower["images_a_round"] * tower["rounds"]
            print(
                f"LP, {found['epochs']} epochs on {found['images']:,} images, {_VARIANT.value}, "
                f"{head} heads: {found['ratio']:.3f} of running the encoder every epoch, "
                f"{found['processor_ratio']:.3f} in processor time, "
                f"extrapolated from {measured} images"
            )
    print(f"wrote {path}")


if __name__ == "__main__":
    command.run(main)
