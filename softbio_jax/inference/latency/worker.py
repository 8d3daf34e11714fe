"""Times one model in a process of its own: `python -m softbio_jax.inference.latency.worker SPEC`.

Only the model's own runtime is imported, so that the peak of the memory is the model's, and other
models have left nothing in the caches of this one.
"""

from __future__ import annotations

import json
import os
import resource
import sys
import time
from collections.abc import Callable
from importlib import metadata
from typing import Any

import numpy as np

Call = Callable[[], Any]
_WARM_UP = 5  # calls before the first that counts: compilation, first allocations
_MOST_CALLS = 5000
_HIGH_WATER = "VmHWM:"  # of the resident memory, in kB


def main() -> None:
    """Prints the result of a model as JSON; the argument is its description, see `timing`."""
    spec = json.loads(sys.argv[1])
    pinned = _pin(spec["threads"])
    start = time.perf_counter()
    call, facts = _OPEN[spec["format"]](spec)
    loaded = time.perf_counter() - start
    for _ in range(_WARM_UP):
        call()
    times: list[float] = []
    begun = time.perf_counter()
    while len(times) < _MOST_CALLS and (
        len(times) < spec["calls"] or time.perf_counter() - begun < spec["seconds"]
    ):
        before = time.perf_counter()
        call()
        times.append(1e3 * (time.perf_counter() - before))
    median, late = np.percentile(times, [50, 95]).tolist()
    found = {
        "median_ms": median,
        "p95_ms": late,
        "calls": len(times),
        "load_s": loaded,
        "peak_mb": _peak() / 1e6,
        "pinned": pinned,
    }
    print(json.dumps(found | facts))


def _pin(threads: int) -> bool:
    """Keeps this process on so many cores, which JAX has no other way to limit; returns whether it could."""
    if not hasattr(os, "sched_setaffinity"):
        return False
    cores = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, cores[-threads:])  # the first serves most interrupts
    return True


def _litert(spec: dict[str, Any]) -> tuple[Call, dict[str, Any]]:
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_path=spec["path"], num_threads=spec["threads"])
    runner = interpreter.get_signature_runner()
    ((name, detail),) = runner.get_input_details().items()
    image = _image(detail["shape"].tolist())
    return lambda: runner(**{name: image}), _facts("ai-edge-litert", image)


def _onnx(spec: dict[str, Any]) -> tuple[Call, dict[str, Any]]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = spec["threads"]
    session = onnxruntime.InferenceSession(spec["path"], options, providers=["CPUExecutionProvider"])
    (given,) = session.get_inputs()
    image = _image([side if isinstance(side, int) else 1 for side in given.shape])
    return lambda: session.run(None, {given.name: image}), _facts("onnxruntime", image)


def _stablehlo(spec: dict[str, Any]) -> tuple[Call, dict[str, Any]]:
    import jax

    from softbio_jax.inference.export import stablehlo

    run = stablehlo.load(os.path.dirname(spec["path"]))
    image = _image([1, spec["size"], spec["size"], 3])
    return lambda: jax.block_until_ready(run(image)), _facts("jax", image)


def _jax(spec: dict[str, Any]) -> tuple[Call, dict[str, Any]]:
    import jax

    from softbio_jax.inference.export.stablehlo import cost
    from softbio_jax.inference.predictor import load

    model = load(spec["path"], max_batch=1)
    leaves = jax.tree.leaves(model.bundle.variables)
    image = _image([1, model.bundle.image_size, model.bundle.image_size, 3])
    facts = cost(model.bundle) | {"file_mb": sum(leaf.nbytes for leaf in leaves) / 1e6}
    return lambda: model.logits(image), facts | _facts("jax", image)


_OPEN: dict[str, Callable[[dict[str, Any]], tuple[Call, dict[str, Any]]]] = {
    "jax": _jax,
    "stablehlo": _stablehlo,
    "onnx": _onnx,
    "litert": _litert,
}


def _image(shape: list[int]) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, shape, np.uint8)


def _facts(package: str, image: np.ndarray) -> dict[str, Any]:
    return {"runtime": f"{package} {metadata.version(package)}", "batch": len(image), "size": image.shape[1]}


def _peak() -> int:
    """Returns the largest resident memory of this process so far, in bytes."""
    try:
        # Linux counts the parent's memory, which a child has until it executes, into ru_maxrss.
        with open("/proc/self/status") as status:
            (line,) = (line for line in status if line.startswith(_HIGH_WATER))
        return 1024 * int(line.split()[1])
    except (OSError, ValueError):
        most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return most if sys.platform == "darwin" else 1024 * most


if __name__ == "__main__":
    main()
